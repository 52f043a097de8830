// SPDX-License-Identifier: MPL-2.0
//! Frames at the output's times: which are needed, which are in hand, and what is made of them.

use std::collections::VecDeque;
use std::sync::Arc;

use gst_video::{VideoFrameRef, VideoInfo};

use crate::engine::bytes::Bytes;
use crate::engine::pixels::Layout;
use crate::engine::rife::{Begun, Encoded, Judgement, Look, Model, Params, Time, begin, blend, encode, look};
use crate::engine::worker::{Cancel, Reply, Worker};
use crate::engine::{Error, Result};
use crate::timing::{Counts, Output, Planner, Source};
use crate::video;

/// Frames that are kept: the last two that differ.
const KEPT: usize = 2;

/// What makes frames between two.
#[derive(Clone)]
pub enum Means {
    /// Nothing: frames pass.
    None,
    /// They are mixed, on the streaming thread.
    Blend,
    /// They are interpolated.
    Rife(Arc<Worker<Model>>),
}

/// What was negotiated.
pub struct Format {
    /// The frames.
    pub info: VideoInfo,
    /// The same for the engine.
    pub layout: Layout,
    /// What makes frames between two.
    pub means: Means,
    /// How.
    pub params: Params,
}

/// A frame as the engine sees it.
#[derive(Clone)]
enum Seen {
    Blend(Arc<Vec<u8>>, Look),
    Rife(Encoded),
}

impl Seen {
    fn compare(&self, next: &Self) -> Result<Option<Judgement>> {
        match (self, next) {
            (Self::Blend(_, first), Self::Blend(_, second)) => first.compare(second).map(Some),
            (Self::Rife(first), Self::Rife(second)) => first.compare(second).map(Some),
            _ => Ok(None),
        }
    }
}

/// A frame in the making.
enum Work {
    /// It is one of the input.
    Passed,
    /// It is made.
    Mixed(Bytes),
    Rife(Reply<Begun>, Box<dyn FnOnce() -> Reply<Begun> + Send>),
}

impl Format {
    /// A frame as the engine sees it, and what is told of it and the one before.
    fn see(
        &self,
        bytes: &Arc<Vec<u8>>,
        before: Option<Seen>,
        cancel: &Cancel,
    ) -> Result<(Option<Seen>, Option<Judgement>)> {
        let (bytes, layout) = (bytes.clone(), self.layout.clone());
        let judged = move |seen: Seen| {
            let judgement = before.map(|before| before.compare(&seen)).transpose()?.flatten();
            Ok((Some(seen), judgement))
        };
        match &self.means {
            Means::None => Ok((None, None)),
            Means::Blend => judged(Seen::Blend(bytes.clone(), look(&bytes, &layout)?)),
            Means::Rife(worker) => {
                let scale = self.params.scale_for(layout.width() as usize, layout.height() as usize);
                let job = move |model: &mut Model| judged(Seen::Rife(encode(model, &bytes, &layout, scale)?));
                worker.submit(job).wait_or(cancel)
            }
        }
    }

    /// Begins the frame at `time` between two. `None` if there is nothing that makes it.
    fn begin(&self, first: &Seen, second: &Seen, time: Time, cancel: &Cancel) -> Result<Option<Work>> {
        Ok(match (&self.means, first.clone(), second.clone()) {
            (Means::Blend, Seen::Blend(first, _), Seen::Blend(second, _)) => {
                cancel.check()?;
                Some(Work::Mixed(blend(&first, &second, &self.layout, time)?))
            }
            (Means::Rife(worker), Seen::Rife(first), Seen::Rife(second)) => {
                let (worker, cancel) = (worker.clone(), cancel.clone());
                let submit = move |is_second: bool| {
                    let (first, second, cancel) = (first.clone(), second.clone(), cancel.clone());
                    worker.submit(move |model| {
                        if is_second {
                            model.check_frames();
                        }
                        begin(model, &first, &second, time, &cancel)
                    })
                };
                Some(Work::Rife(submit(false), Box::new(move || submit(true))))
            }
            _ => None,
        })
    }
}

/// A frame that is in hand.
struct Held {
    /// As the planner counts it.
    number: u64,
    buffer: gst::Buffer,
    bytes: Option<Arc<Vec<u8>>>,
    seen: Option<Seen>,
}

/// A frame that was begun.
struct Job {
    output: Output,
    /// The frame of the input that it is, or that is before it.
    from: gst::Buffer,
    work: Work,
}

/// Where the planner's times are, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// What is added to them.
    pub offset: i128,
    /// They count down from here: the video is played backwards.
    pub mirror: Option<u64>,
}

/// What the last output frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Cut off where the input ends.
    Cut,
    /// Whole: others follow it.
    Whole,
}

/// What is left of frames that are all out.
pub struct Ended {
    /// What was planned.
    pub planner: Planner,
    /// Its times.
    pub clock: Clock,
    /// What the last frame was.
    pub tail: Tail,
}

/// Frames from one negotiation, or jump in time, to the next.
pub struct Tuner {
    format: Arc<Format>,
    planner: Planner,
    clock: Clock,
    held: VecDeque<Held>,
    /// What has been begun.
    begun: VecDeque<Job>,
    /// What the last frame is, once no other comes.
    tail: Option<Tail>,
    /// The precision that did not suffice for a frame.
    redone: Option<&'static str>,
}

/// Nanoseconds that a frame may go on behind the end of the input.
const SLACK: u64 = 1_000;

/// Frames that are begun before the first is waited for: a GPU has another one at hand when it is done with one.
const AHEAD: usize = 2;

impl Tuner {
    /// A tuner that has nothing yet.
    pub fn new(format: Arc<Format>, planner: Planner, clock: Clock) -> Self {
        Self { format, planner, clock, held: VecDeque::new(), begun: VecDeque::new(), tail: None, redone: None }
    }

    /// What has been given so far.
    pub fn counts(&self) -> Counts {
        self.planner.counts()
    }

    /// Says that the next frame does not follow the last one.
    pub fn disconnect(&mut self) {
        self.planner.disconnect();
    }

    /// Says that nothing comes until `end`, in nanoseconds: the last frame is held until then, by the frames that come from
    /// [`Self::next`].
    pub fn hold(&mut self, end: u64) {
        self.planner.hold(end);
    }

    /// Takes a frame. Those that are known with it come from [`Self::next`], and must be taken before the next is pushed.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn push(&mut self, buffer: gst::Buffer, time: u64, cancel: &Cancel) -> Result<()> {
        if !self.planner.accepts(time) {
            // It counts, and is left out.
            self.planner.tell(time, None);
            return Ok(());
        }
        let duration = buffer.duration().map(gst::ClockTime::nseconds).filter(|&duration| duration > 0);
        let number = self.planner.counts().input;
        let (mut bytes, mut seen) = (None, None);
        if !matches!(self.format.means, Means::None) {
            let frame = VideoFrameRef::from_buffer_ref_readable(&buffer, &self.format.info).ok();
            let packed = frame.and_then(|frame| video::pack(&frame, &self.format.info)).map(Arc::new);
            let packed = packed.ok_or_else(|| {
                Error::param(
                    "buffer",
                    format!("{} bytes", buffer.size()),
                    "it must be a frame of its caps, from the top",
                )
            })?;
            let last = self.held.back();
            let params = self.format.params;
            let is_same = last.is_some_and(|last| last.bytes.as_ref() == Some(&packed));
            let mut judgement = None;
            if !is_same {
                (seen, judgement) = self.format.see(&packed, last.and_then(|last| last.seen.clone()), cancel)?;
            }
            if is_same || judgement.is_some_and(|told| params.is_static(&told)) {
                self.planner.tell_repeated(time, duration);
                return Ok(());
            }
            if judgement.is_some_and(|told| params.is_cut(&told)) {
                self.planner.disconnect();
            }
            bytes = Some(packed);
        }
        self.held.push_back(Held { number, buffer, bytes, seen });
        while self.held.len() > KEPT {
            self.held.pop_front();
        }
        self.planner.tell(time, duration);
        Ok(())
    }

    /// Plans what there is at the end: the last frame is held for its full time.
    pub fn finish(&mut self, tail: Tail) {
        self.planner.tell_end();
        self.tail = Some(tail);
    }

    /// What is left when all frames have come.
    pub fn into_ended(self) -> Ended {
        Ended { planner: self.planner, clock: self.clock, tail: self.tail.unwrap_or(Tail::Whole) }
    }

    /// The precision that did not suffice for a frame since this was asked last.
    pub fn redone(&mut self) -> Option<&'static str> {
        self.redone.take()
    }

    /// The frame of this number, or the last before it.
    fn held(&self, number: u64) -> Option<&Held> {
        self.held.iter().rev().find(|held| held.number <= number).or(self.held.front())
    }

    /// Begins a frame. `None` if there is none to make it of.
    fn begin(&self, output: Output, cancel: &Cancel) -> Result<Option<Job>> {
        let (Source::At(first) | Source::Between { first, .. }) = output.source;
        let Some(held) = self.held(first) else { return Ok(None) };
        let mut made = None;
        if let Source::Between { second, time, .. } = output.source {
            let time = Time::new(time.numer(), time.denom())?;
            let second = self.held(second).and_then(|held| held.seen.as_ref());
            if let (Some(first), Some(second)) = (&held.seen, second) {
                made = self.format.begin(first, second, time, cancel)?;
            }
        }
        Ok(Some(Job { output, from: held.buffer.clone(), work: made.unwrap_or(Work::Passed) }))
    }

    /// How long the frame at the front lasts. `None` if that can't be told yet.
    fn lasts(&self) -> Option<u64> {
        let Output { time, duration, .. } = self.begun.front()?.output;
        let end = self.planner.end_time().filter(|end| self.begun.len() == 1 && time + duration > end + SLACK);
        match (end, self.tail) {
            (Some(_), None) => None,
            (Some(end), Some(Tail::Cut)) => Some(end.saturating_sub(time)),
            _ => Some(duration),
        }
    }

    /// The next frame that is known. `None` until another is pushed.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn next(&mut self, cancel: &Cancel) -> Result<Option<gst::Buffer>> {
        cancel.check()?;
        while self.begun.len() < AHEAD
            && let Some(output) = self.planner.next()
        {
            self.begun.extend(self.begin(output, cancel)?);
        }
        let Some(duration) = self.lasts() else { return Ok(None) };
        let Some(Job { output, from, work }) = self.begun.pop_front() else { return Ok(None) };
        let mut buffer = match work {
            Work::Passed => from.copy(),
            Work::Mixed(bytes) => made_of(&from, bytes)?,
            Work::Rife(reply, again) => {
                let mut finish = |reply: Reply<Begun>| {
                    let begun = reply.wait_or(cancel)?;
                    self.redone = self.redone.or(begun.redone);
                    begun.finish()
                };
                let made = match finish(reply)? {
                    None => finish(again())?,
                    made => made,
                };
                made_of(&from, made.ok_or(Error::Cancelled)?)?
            }
        };
        let target = buffer.make_mut();
        if output.is_repeated || matches!(output.source, Source::Between { .. }) {
            drop_what_is_told_once(target);
        }
        let time = i128::from(output.time) + self.clock.offset;
        let time = self.clock.mirror.map_or(time, |end| i128::from(end) - time - i128::from(duration));
        target.unset_flags(gst::BufferFlags::DISCONT | gst::BufferFlags::RESYNC);
        target.set_pts(gst::ClockTime::from_nseconds(time.clamp(0, i128::from(u64::MAX - 1)) as u64));
        target.set_dts(gst::ClockTime::NONE);
        target.set_duration(gst::ClockTime::from_nseconds(duration));
        target.set_offset(output.number);
        target.set_offset_end(output.number + 1);
        Ok(Some(buffer))
    }
}

/// A buffer with these bytes, and what is known of the frame before them: regions of interest, and the like.
fn made_of(before: &gst::Buffer, bytes: Bytes) -> Result<gst::Buffer> {
    let mut buffer = gst::Buffer::from_mut_slice(bytes);
    let copied = before.copy_into(buffer.make_mut(), gst::BufferCopyFlags::META, ..);
    copied.map_err(|err| Error::param("buffer", "its metas", format!("they can't be copied: {err}")))?;
    Ok(buffer)
}

/// Takes off what belongs to one frame: captions, which would be shown again, a time code, a time of capture.
fn drop_what_is_told_once(buffer: &mut gst::BufferRef) {
    const ONCE: [&str; 3] = ["GstVideoCaptionMetaAPI", "GstVideoTimeCodeMetaAPI", "GstReferenceTimestampMetaAPI"];
    buffer.foreach_meta_mut(|meta| {
        let is_once = ONCE.contains(&meta.api().name());
        let action = if is_once {
            gst::buffer::BufferMetaForeachAction::Remove
        } else {
            gst::buffer::BufferMetaForeachAction::Keep
        };
        std::ops::ControlFlow::Continue(action)
    });
}
