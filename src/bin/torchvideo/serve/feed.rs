// SPDX-License-Identifier: MPL-2.0
//! The way of encoded frames from one generator to whoever shows them: each taker has a queue of its own, that is never
//! waited for. A taker that does not keep up misses frames, from one keyframe to a later one.

use std::sync::{Arc, Mutex};

use gst::prelude::*;

/// The most frames that wait in a taker's queue.
const QUEUE: u64 = 64;
/// How far a frame may lie ahead of a taker's clock: as far as frames between two of the source's come at once.
const AHEAD: i128 = 1_000_000_000;
/// How far it may lie behind.
const BEHIND: i128 = 250_000_000;
/// The least time between two frames.
const STEP: i128 = 1_000_000;

/// An encoded frame.
#[derive(Clone)]
pub struct Unit {
    sample: gst::Sample,
    /// When its turn is, in the generator's running time.
    time: gst::ClockTime,
    /// Others need nothing that came before it.
    pub is_key: bool,
}

impl Unit {
    /// The frame in a sample; `None` if it has no time.
    pub fn of(sample: gst::Sample) -> Option<Self> {
        let buffer = sample.buffer()?;
        let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
        // An encoder may count from anywhere; only what it says of the segment makes it a time.
        let time = segment.to_running_time(buffer.pts()?)?;
        // h264parse also takes other intra frames for keyframes, as x264 makes them where a clip begins anew: they come without
        // parameter sets.
        let is_key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT) && is_idr(&buffer.map_readable().ok()?);
        Some(Self { time, is_key, sample })
    }

    /// When its turn is.
    pub fn time(&self) -> gst::ClockTime {
        self.time
    }

    /// The same at another time.
    fn at(&self, time: gst::ClockTime) -> Option<gst::Sample> {
        let mut buffer = self.sample.buffer_owned()?;
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(time);
            buffer.set_dts(gst::ClockTime::NONE);
        }
        let caps = self.sample.caps_owned()?;
        Some(gst::Sample::builder().buffer(&buffer).caps(&caps).build())
    }
}

/// One who takes frames.
struct Taker {
    source: glib::WeakRef<gst_app::AppSrc>,
    /// It runs.
    is_ready: bool,
    /// It has missed frames, or has had none yet: the next must be a keyframe.
    needs_key: bool,
    times: Times,
}

/// A taker's times, in nanoseconds.
#[derive(Debug, Default)]
struct Times {
    /// What is added to the generator's: the first frame comes at once.
    offset: Option<i128>,
    /// The last frame's.
    last: Option<i128>,
}

impl Times {
    /// The time of a frame of the generator's `time`, by the taker's clock. The generator may have been late with what came
    /// before, or be late now: times that are too far from the clock are set anew, and go on from there.
    fn of(&mut self, time: u64, now: u64) -> u64 {
        let (time, now) = (i128::from(time), i128::from(now));
        let at = time + self.offset.unwrap_or(now - time);
        let at = if at < now - BEHIND { now } else { at.min(now + AHEAD) };
        let at = self.last.map_or(at, |last| at.max(last + STEP));
        (self.offset, self.last) = (Some(at - time), Some(at));
        u64::try_from(at).unwrap_or_default()
    }
}

#[derive(Default)]
struct Inner {
    takers: Vec<Taker>,
    key: Option<Unit>,
    units: u64,
    missed: u64,
}

/// All who take frames of a generator. Its lock is held for a moment only: sources' queues never wait.
#[derive(Default, Clone)]
pub struct Feeds(Arc<Mutex<Inner>>);

impl Feeds {
    /// Gives frames to a source too, from the last keyframe on, as soon as it runs, until it is gone.
    pub fn add(&self, source: &gst_app::AppSrc) {
        source.set_max_buffers(2 * QUEUE);
        source.set_max_bytes(0);
        let taker = Taker { source: source.downgrade(), is_ready: false, needs_key: true, times: Times::default() };
        self.0.lock().unwrap().takers.push(taker);
        let feeds = Arc::downgrade(&self.0);
        let on_need = move |source: &gst_app::AppSrc, _: u32| {
            if let Some(inner) = feeds.upgrade() {
                inner.lock().unwrap().begin(source);
            }
        };
        source.set_callbacks(gst_app::AppSrcCallbacks::builder().need_data(on_need).build());
    }

    /// A frame for everybody.
    pub fn push(&self, unit: Unit) {
        let mut inner = self.0.lock().unwrap();
        let mut missed = 0;
        inner.takers.retain_mut(|taker| {
            let Some(source) = taker.source.upgrade() else { return false };
            if taker.is_ready && !taker.give(&source, &unit) {
                missed += 1;
            }
            true
        });
        inner.missed += missed;
        inner.units += 1;
        if unit.is_key {
            inner.key = Some(unit);
        }
    }

    /// Tells everybody that this is the end.
    pub fn end(&self) {
        let takers = std::mem::take(&mut self.0.lock().unwrap().takers);
        for source in takers.iter().filter_map(|taker| taker.source.upgrade()) {
            let _ = source.end_of_stream();
        }
    }

    /// Whether nobody takes anything.
    pub fn is_idle(&self) -> bool {
        self.0.lock().unwrap().takers.iter().all(|taker| taker.source.upgrade().is_none())
    }

    /// No frame from before is of use any more.
    pub fn clear(&self) {
        self.0.lock().unwrap().key = None;
    }

    /// Whether there is a frame to begin with.
    pub fn has_key(&self) -> bool {
        self.0.lock().unwrap().key.is_some()
    }

    /// How many frames came, and how often one was missed by somebody.
    pub fn counts(&self) -> (u64, u64) {
        let inner = self.0.lock().unwrap();
        (inner.units, inner.missed)
    }
}

impl Inner {
    /// A source runs, perhaps since now: the last keyframe is a picture at once, what came between is not of use.
    fn begin(&mut self, source: &gst_app::AppSrc) {
        let Self { takers, key, .. } = self;
        let is_it = |taker: &&mut Taker| taker.source.upgrade().is_some_and(|other| other == *source);
        let Some(taker) = takers.iter_mut().find(is_it).filter(|taker| !taker.is_ready) else { return };
        taker.is_ready = true;
        if let (Some(unit), Some(now)) = (key, source.current_running_time())
            && let Some(sample) = unit.at(now)
        {
            taker.times.last = Some(now.nseconds().into());
            let _ = source.push_sample(&sample);
        }
    }
}

impl Taker {
    /// Gives it a frame. Gives whether it has missed none that it could have had.
    fn give(&mut self, source: &gst_app::AppSrc, unit: &Unit) -> bool {
        if source.current_state() != gst::State::Playing {
            // Paused: it goes on with what is new then, and its clock stands still meanwhile.
            (self.needs_key, self.times.offset) = (true, None);
            return true;
        }
        if source.current_level_buffers() >= QUEUE {
            self.needs_key = true;
            return false;
        }
        if self.needs_key && !unit.is_key {
            return true;
        }
        let Some(now) = source.current_running_time() else { return true };
        let time = self.times.of(unit.time.nseconds(), now.nseconds());
        self.needs_key = false;
        if let Some(sample) = unit.at(gst::ClockTime::from_nseconds(time)) {
            // One that is being stopped takes nothing.
            let _ = source.push_sample(&sample);
        }
        true
    }
}

/// Whether H.264's decoders can begin at a frame, as a byte stream.
fn is_idr(frame: &[u8]) -> bool {
    let mut kinds = frame.windows(4).filter(|bytes| bytes.starts_with(&[0, 0, 1])).map(|bytes| bytes[3] & 0x1f);
    // The first slice decides; what comes before it is small.
    kinds.find(|kind| (1..=5).contains(kind)) == Some(5)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn who_is_in_time_has_the_generators_times() {
        let mut times = Times::default();
        // Two come at once, as where one is between two others; and some late, by less than counts.
        for number in 0..100 {
            let now = 7_000 + number / 2 * 80 + if number == 50 { 200 } else { 0 };
            assert_eq!(times.of((900 + number * 40) * MS, now * MS), (7_000 + number * 40) * MS, "{number}");
        }
    }

    #[test]
    fn who_lies_ahead_or_behind_is_set_anew() {
        let mut times = Times::default();
        // The first was 12 s late, and the generator catches up with all of that at once.
        let mut last = times.of(0, 20_000 * MS);
        for number in 1..300 {
            let next = times.of(number * 40 * MS, 20_000 * MS + number * MS);
            assert!(next > last && next <= 21_300 * MS, "{number}: {next} after {last}");
            last = next;
        }
        // From then on it is in time: frames come as far apart as they are, and no later than before.
        let mut now = 20_300;
        let all: Vec<_> = (300..400).map(|number| (now += 40, times.of(number * 40 * MS, now * MS)).1).collect();
        let apart: Vec<_> = all.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(apart[10..].iter().all(|apart| *apart == 40 * MS), "{apart:?}");
        // Late by two seconds, it comes at once, and those after it follow as they are.
        now += 3_500;
        let next = times.of(400 * 40 * MS, now * MS);
        assert_eq!(next, now * MS);
        assert_eq!(times.of(401 * 40 * MS, (now + 10) * MS), next + 40 * MS);
    }

    #[test]
    fn only_where_decoders_can_begin_is_a_keyframe() {
        gst::init().unwrap();
        let segment = gst::FormattedSegment::<gst::ClockTime>::new();
        let is_key = |bytes: &[u8], flags| {
            let mut buffer = gst::Buffer::from_slice(bytes.to_vec());
            let frame = buffer.get_mut().unwrap();
            frame.set_pts(gst::ClockTime::ZERO);
            frame.set_flags(flags);
            Unit::of(gst::Sample::builder().buffer(&buffer).segment(&segment).build()).unwrap().is_key
        };
        let (idr, intra) =
            ([0, 0, 0, 1, 9, 240, 0, 0, 0, 1, 103, 1, 0, 0, 1, 101, 2], [0, 0, 0, 1, 9, 240, 0, 0, 1, 65, 2]);
        assert!(is_key(&idr, gst::BufferFlags::empty()));
        assert!(!is_key(&intra, gst::BufferFlags::empty()));
        assert!(!is_key(&idr, gst::BufferFlags::DELTA_UNIT));
    }
}
