// SPDX-License-Identifier: MPL-2.0
//! The way of encoded frames from one generator to whoever shows them: each taker has a queue of its own, that is never
//! waited for. A taker that does not keep up misses frames, from one keyframe to a later one.

use std::sync::{Arc, Mutex};

use gst::prelude::*;

/// The most frames that wait in a taker's queue.
const QUEUE: u64 = 32;

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
    /// What is added to the generator's times, in nanoseconds: the first frame comes at once.
    offset: Option<i128>,
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
        let taker = Taker { source: source.downgrade(), is_ready: false, needs_key: true, offset: None };
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
            let _ = source.push_sample(&sample);
        }
    }
}

impl Taker {
    /// Gives it a frame. Gives whether it has missed none that it could have had.
    fn give(&mut self, source: &gst_app::AppSrc, unit: &Unit) -> bool {
        if source.current_state() != gst::State::Playing {
            // Paused: it goes on with what is new then, and its clock stands still meanwhile.
            (self.needs_key, self.offset) = (true, None);
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
        let time = i128::from(unit.time.nseconds());
        let offset = *self.offset.get_or_insert(i128::from(now.nseconds()) - time);
        let Ok(time) = u64::try_from(time + offset) else { return true };
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
