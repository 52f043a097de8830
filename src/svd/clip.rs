// SPDX-License-Identifier: MPL-2.0
//! One clip in the making: the model's thread puts frames in, the streaming thread takes them out.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use super::keyframe::Keyframe;
use super::session::Herald;
use crate::engine::Result;
use crate::engine::image::Frame;
use crate::engine::svd::anchor::{self, Statistics};
use crate::engine::svd::{self, Event, Model, Params, Summary};
use crate::engine::worker::{Cancel, Reply, Worker};

/// What is to be made.
#[derive(Debug, Clone)]
pub struct Order {
    /// How.
    pub params: Params,
    /// The frame rate, which the parameters know rounded.
    pub fps: gst::Fraction,
    /// From what.
    pub keyframe: Keyframe,
    /// Frames at the beginning that are left out.
    pub skip: usize,
    /// For a clip of a chain: the colours to keep.
    pub anchor: Option<Anchor>,
}

/// The statistics of a chain's first keyframe; its first clip finds them out.
pub type Anchor = Arc<OnceLock<Statistics>>;

impl Order {
    /// Whether both give the same clip.
    pub fn is(&self, other: &Self) -> bool {
        self.params == other.params && self.fps == other.fps && self.keyframe.is(&other.keyframe)
    }
}

/// What the streaming thread gets when it waits for a clip.
pub enum Next {
    /// The next frame.
    Frame(Frame),
    /// There are no more frames: the clip is done, or it failed.
    Ended(Result<Summary>),
    /// The clip was interrupted. It gives nothing any more.
    Interrupted,
}

/// A clip in the making.
pub struct Clip {
    /// What it is.
    pub order: Order,
    /// Its last frame, once it is there; only in a chain.
    pub last: Arc<OnceLock<Arc<Frame>>>,
    cancel: Cancel,
    shared: Arc<Shared>,
    reply: Mutex<Option<Reply<Summary>>>,
}

#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

#[derive(Default)]
struct Inbox {
    frames: VecDeque<Frame>,
    is_closed: bool,
    is_interrupted: bool,
}

impl Clip {
    /// Sends the clip's job to `worker`. `herald` is called on the worker's thread when the job begins.
    pub fn begin(
        worker: &Arc<Worker<Model>>,
        order: Order,
        herald: impl FnOnce(&Cancel) -> Herald + Send + 'static,
    ) -> Self {
        let (cancel, shared, last) = (Cancel::default(), Arc::<Shared>::default(), Arc::default());
        let sender = Sender { shared: shared.clone(), skip: order.skip };
        let job = Job { order: order.clone(), cancel: cancel.clone(), last: Arc::clone(&last), sender };
        let reply = worker.submit(move |model| job.run(model, herald));
        Self { order, last, cancel, shared, reply: Mutex::new(Some(reply)) }
    }

    /// Waits for the next frame or the end.
    pub fn next(&self) -> Next {
        let inbox = self.shared.inbox.lock().unwrap();
        let is_waiting = |inbox: &mut Inbox| inbox.frames.is_empty() && !inbox.is_closed && !inbox.is_interrupted;
        let mut inbox = self.shared.changed.wait_while(inbox, is_waiting).unwrap();
        if inbox.is_interrupted {
            return Next::Interrupted;
        }
        if let Some(frame) = inbox.frames.pop_front() {
            return Next::Frame(frame);
        }
        drop(inbox);
        let reply = self.reply.lock().unwrap().take();
        reply.map_or(Next::Interrupted, |reply| Next::Ended(reply.wait()))
    }

    /// Ends the work and every wait for it. A clip that is all decoded stays as it is.
    pub fn interrupt(&self) {
        let mut inbox = self.shared.inbox.lock().unwrap();
        if !inbox.is_closed {
            self.cancel.cancel();
            inbox.is_interrupted = true;
            inbox.frames.clear();
            self.shared.changed.notify_all();
        }
    }

    /// Whether the clip was interrupted.
    pub fn is_interrupted(&self) -> bool {
        self.shared.inbox.lock().unwrap().is_interrupted
    }
}

impl Drop for Clip {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// The model's side.
struct Job {
    order: Order,
    cancel: Cancel,
    last: Arc<OnceLock<Arc<Frame>>>,
    sender: Sender,
}

impl Job {
    fn run(mut self, model: &mut Model, herald: impl FnOnce(&Cancel) -> Herald) -> Result<Summary> {
        self.cancel.check()?;
        let mut herald = herald(&self.cancel);
        let Order { params, keyframe, anchor, .. } = &self.order;
        let keyframe = keyframe.resolve()?;
        // The frames of a chain wait for the last: only then it is known how far the colours have gone.
        let mut waiting = Vec::new();
        let sender = &mut self.sender;
        let summary = svd::generate(model, &keyframe, params, &self.cancel, &mut |event| {
            let Event::Decoded(frames) = event else { return herald.tell(&event) };
            let count = frames.len();
            if anchor.is_some() {
                waiting.extend(frames);
            } else {
                sender.give(frames);
            }
            herald.decoded(count as i64, params.num_frames);
        })?;
        if let Some(statistics) = anchor {
            if statistics.get().is_none() {
                let (width, height) = (params.width as usize, params.height as usize);
                let shown = keyframe.with_aspect_of(width, height, params.keyframe_fit)?.resize(width, height);
                let _ = statistics.set(Statistics::of(&shown)?);
            }
            let wanted = statistics.get().expect("it was set");
            anchor::anchor(&mut waiting, wanted)?;
            if let Some(frame) = waiting.last() {
                let _ = self.last.set(Arc::new(frame.clone()));
            }
            self.sender.give(waiting);
        }
        herald.complete();
        Ok(summary)
    }
}

/// Closes the inbox when it is dropped: after the last frame, with a panic, or with a job that never ran because the
/// model failed to load.
struct Sender {
    shared: Arc<Shared>,
    skip: usize,
}

impl Sender {
    fn give(&mut self, frames: Vec<Frame>) {
        let skipped = self.skip.min(frames.len());
        self.skip -= skipped;
        self.shared.inbox.lock().unwrap().frames.extend(frames.into_iter().skip(skipped));
        self.shared.changed.notify_all();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.inbox.lock().unwrap().is_closed = true;
        self.shared.changed.notify_all();
    }
}
