// SPDX-License-Identifier: MPL-2.0
//! A live run: frames by the clock, whatever is made. The streaming thread looks after the clip in the making once a
//! frame, and never waits for it.

use std::collections::VecDeque;
use std::sync::Arc;

use glib::subclass::prelude::*;
use gst::prelude::*;
use gst_video::{VideoFrameRef, VideoInfo};

use super::imp::{CAT, SvdSrc};
use super::live::{Show, Step};
use crate::engine::image::Frame;
use crate::engine::svd::{Params, Summary};
use crate::engine::{Error, Result, worker};
use crate::svd::clip::{Clip, Order, Outcome};
use crate::svd::frame_buffer;
use crate::svd::pace::turn;
use crate::{errors, video};

/// What is shown; the streaming thread's.
#[derive(Default)]
pub struct Showing {
    show: Option<Show<Picture>>,
    black: Option<Picture>,
    /// The number of the next frame.
    next: Option<u64>,
    /// Clips that have not been told of, because the hashes of the weights are not known yet.
    untold: VecDeque<(u64, Arc<Clip>, Summary)>,
}

/// A picture that may be shown again and again, in the format in which it was shown last.
enum Picture {
    New(Frame),
    Shown(gst::Buffer, VideoInfo),
}

impl Picture {
    /// A buffer of it, without times. The memory is shared.
    fn buffer(&mut self, info: &VideoInfo) -> Result<gst::Buffer> {
        let frame = match self {
            Self::Shown(buffer, of) if of == info => return Ok(buffer.copy()),
            Self::Shown(buffer, of) => {
                let frame = VideoFrameRef::from_buffer_ref_readable(buffer, of);
                video::read(&frame.expect("the buffer has the format's size"))
            }
            Self::New(frame) => std::mem::replace(frame, Frame::new(0, 0, 3, vec![])),
        };
        let buffer = frame_buffer(frame, info)?;
        let copy = buffer.copy();
        *self = Self::Shown(buffer, info.clone());
        Ok(copy)
    }
}

impl SvdSrc {
    /// The next frame, when its time has come.
    pub(super) fn create_live(&self) -> Result<gst::Buffer, gst::FlowError> {
        let mut showing = self.showing.lock().unwrap();
        let showing = &mut *showing;
        self.attend(showing)?;
        let (session, info) = {
            let state = self.state.lock().unwrap();
            let run = state.run.as_ref().ok_or(gst::FlowError::Flushing)?;
            (run.session.clone(), run.info.clone().ok_or(gst::FlowError::NotNegotiated)?)
        };
        let time = |number| crate::svd::time(number, info.fps()).ok_or(gst::FlowError::Eos);
        let now = self.obj().current_running_time();
        let rate = (info.fps().numer() as u64, info.fps().denom() as u64);
        // Without a clock nobody wants to wait.
        let number = now.map_or(showing.next.unwrap_or(0), |now| turn(showing.next, now.nseconds(), rate));
        let (pts, end) = (time(number)?, time(number + 1)?);
        if now.is_some_and(|now| now < pts) {
            self.wait_until(pts)?;
        }
        let is_discont = showing.next.is_some_and(|next| next != number);
        showing.next = Some(number + 1);

        let idle = self.wanted.lock().unwrap().idle();
        let show = showing.show.as_mut().ok_or(gst::FlowError::Flushing)?;
        let Step { picture, begins } = show.next(idle);
        let black = || {
            let (width, height) = (info.width() as usize, info.height() as usize);
            Picture::New(Frame::new(width, height, 3, vec![0; width * height * 3]))
        };
        let picture = picture.unwrap_or_else(|| showing.black.get_or_insert_with(black));
        let mut buffer = picture.buffer(&info).map_err(|err| self.fail(errors::message(&err)))?;
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(pts);
            buffer.set_duration(end - pts);
            buffer.set_offset(number);
            buffer.set_offset_end(number + 1);
            if is_discont {
                buffer.set_flags(gst::BufferFlags::DISCONT);
            }
        }
        if let Some(run) = &mut self.state.lock().unwrap().run {
            run.frames = number + 1;
        }
        if let Some(clip) = begins {
            gst::debug!(CAT, imp = self, "Clip {} is shown from {pts} on", clip + 1);
            session.shown(clip, pts);
        }
        Ok(buffer)
    }

    /// How much later than their times frames may leave: a frame's duration, so that a busy machine has some time to
    /// find this thread one.
    pub(super) fn latency(&self) -> Option<gst::ClockTime> {
        let state = self.state.lock().unwrap();
        let run = state.run.as_ref()?;
        let fps = run.info.as_ref().map_or(run.plan.framerate(), VideoInfo::fps);
        crate::svd::time(1, fps)
    }

    /// Waits for the clock.
    fn wait_until(&self, time: gst::ClockTime) -> Result<(), gst::FlowError> {
        let obj = self.obj();
        let (Some(clock), Some(base_time)) = (obj.clock(), obj.base_time()) else { return Ok(()) };
        let id = clock.new_single_shot_id(base_time + time);
        {
            let mut state = self.state.lock().unwrap();
            let live = state.run.as_mut().and_then(|run| run.live.as_mut()).ok_or(gst::FlowError::Flushing)?;
            live.wait = Some(id.clone());
            if state.is_flushing {
                return Err(gst::FlowError::Flushing);
            }
        }
        let (ended, _) = id.wait();
        if let Some(live) = self.state.lock().unwrap().run.as_mut().and_then(|run| run.live.as_mut()) {
            live.wait = None;
        }
        if ended == Err(gst::ClockError::Unscheduled) { Err(gst::FlowError::Flushing) } else { Ok(()) }
    }

    /// Looks after the clip in the making: takes it if it is made, tells of it, and begins the next if one is due.
    fn attend(&self, showing: &mut Showing) -> Result<(), gst::FlowError> {
        let (session, current) = {
            let state = self.state.lock().unwrap();
            let run = state.run.as_ref().ok_or(gst::FlowError::Flushing)?;
            if run.has_failed {
                return Err(gst::FlowError::Eos);
            }
            (run.session.clone(), run.current.clone())
        };
        if showing.show.is_some()
            && let Some(clip) = current
            && let Some(outcome) = clip.outcome()
        {
            self.take(showing, clip, outcome)?;
        }
        let is_waiting = showing.show.as_ref().is_some_and(Show::is_waiting);
        let making = self.making(is_waiting)?;
        if let (None, Some(clip)) = (&showing.show, making) {
            showing.show = Some(Show::of(self.still(&clip.order, session.preview_factor)?));
        }
        while let Some((number, clip, summary)) = showing.untold.front() {
            // The hashes are not waited for: then the next frame's turn is the next chance.
            if self.tell_of(&session, clip, *number, summary, &|| true).is_none() {
                break;
            }
            showing.untold.pop_front();
        }
        Ok(())
    }

    /// The clip in the making has come to an end.
    fn take(&self, showing: &mut Showing, clip: Arc<Clip>, outcome: Outcome) -> Result<(), gst::FlowError> {
        let show = showing.show.as_mut().ok_or(gst::FlowError::Flushing)?;
        let number = {
            let mut state = self.state.lock().unwrap();
            let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
            run.current = None;
            match (&outcome, &mut run.live) {
                (Outcome::Made(_), _) => {
                    run.last = clip.successor();
                    run.clips += 1;
                }
                (Outcome::Failed(_), Some(live)) => live.has_stopped = true,
                _ => {}
            }
            run.clips.saturating_sub(1)
        };
        match outcome {
            Outcome::Made(summary) => {
                show.arrive(number, std::iter::from_fn(|| clip.next()).map(Picture::New).collect());
                showing.untold.push_back((number, clip, summary));
            }
            Outcome::Failed(err) if show.has_clip() => {
                let text = errors::text(&err);
                gst::element_imp_warning!(self, gst::LibraryError::Failed, ("{text}; the clip before goes on"));
            }
            Outcome::Failed(err) => return Err(self.fail(errors::message(&err))),
            Outcome::Interrupted => {}
        }
        Ok(())
    }

    /// The clip in the making; begins one if it is due: one of those that were asked for, while none waits to be shown;
    /// or whatever else there is, one as the properties are now, if something was set.
    fn making(&self, is_waiting: bool) -> Result<Option<Arc<Clip>>, gst::FlowError> {
        let (session, number, changes, given_up) = {
            let mut state = self.state.lock().unwrap();
            if state.is_flushing {
                return Err(gst::FlowError::Flushing);
            }
            let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
            let layout = run.layout.ok_or(gst::FlowError::NotNegotiated)?;
            let live = run.live.as_ref().ok_or(gst::FlowError::Flushing)?;
            if !live.is_changed() {
                if let Some(clip) = run.current.as_ref().filter(|clip| !clip.is_interrupted()) {
                    return Ok(Some(clip.clone()));
                }
                if is_waiting || live.has_stopped || !layout.has(run.clips) {
                    return Ok(None);
                }
            }
            (run.session.clone(), run.clips, live.changes, run.current.take())
        };
        if let Some(clip) = given_up {
            clip.interrupt();
        }
        let order = self.order(number)?;
        let mut state = self.state.lock().unwrap();
        if state.is_flushing {
            return Err(gst::FlowError::Flushing);
        }
        let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
        let live = run.live.as_mut().ok_or(gst::FlowError::Flushing)?;
        (live.begun_at, live.has_stopped) = (changes, false);
        gst::debug!(CAT, imp = self, "clip {number}, {:?}: {:?}", order.frames, order.params);
        let clip = session.begin(order, number, true);
        run.current = Some(clip.clone());
        Ok(Some(clip))
    }

    /// A clip's keyframe as the clip begins with it, to be shown until there is one; and `factor` times smaller, until
    /// there is a preview.
    fn still(&self, order: &Order, factor: usize) -> Result<Picture, gst::FlowError> {
        let stop = {
            let state = self.state.lock().unwrap();
            let live = state.run.as_ref().and_then(|run| run.live.as_ref()).ok_or(gst::FlowError::Flushing)?;
            live.stop.clone()
        };
        let (keyframe, Params { width, height, keyframe_fit, .. }) = (order.keyframe.clone(), &order.params);
        let (width, height, keyframe_fit) = (*width as usize, *height as usize, *keyframe_fit);
        let fitted = worker::spawn("svd-keyframe", move || {
            let fitted = keyframe.resolve()?.with_aspect_of(width, height, keyframe_fit)?.resize(width, height);
            let small = fitted.resize(width / factor, height / factor);
            Ok((fitted, small))
        });
        match fitted.wait_or(&stop) {
            Ok((frame, small)) => {
                self.preview.offer_still(small, order.fps);
                Ok(Picture::New(frame))
            }
            Err(Error::Cancelled) => Err(gst::FlowError::Flushing),
            Err(err) => Err(self.fail(errors::message(&err))),
        }
    }
}
