// SPDX-License-Identifier: MPL-2.0
//! One clip in the making: the model's thread puts frames in, the streaming thread takes them out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use super::keyframe::Keyframe;
use super::session::Herald;
use crate::engine::image::Frame;
use crate::engine::svd::anchor::{self, Statistics};
use crate::engine::svd::{self, Event, Model, Params, Summary};
use crate::engine::worker::{Cancel, Reply, Worker};
use crate::engine::{Error, Result};

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

/// What becomes of a clip.
pub enum Outcome {
    /// It is all there.
    Made(Summary),
    /// It can't be made.
    Failed(Error),
    /// It was interrupted, and gives nothing any more.
    Interrupted,
}

/// A clip in the making.
pub struct Clip {
    /// What it is.
    pub order: Order,
    /// Its last frame, once it is there; only in a chain.
    pub last: Arc<OnceLock<Arc<Frame>>>,
    cancel: Cancel,
    /// Whether it is the one in hand, and not one ahead.
    is_awaited: Arc<AtomicBool>,
    shared: Arc<Shared>,
    reply: Mutex<Option<Reply<Made>>>,
}

type Made = (VecDeque<Frame>, Summary);

#[derive(Default)]
struct Shared {
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Default)]
enum Stage {
    #[default]
    Making,
    /// The job has ended, and answers at once.
    Ended,
    Made(VecDeque<Frame>, Summary),
    Interrupted,
}

impl Clip {
    /// Sends the clip's job to `worker`. `herald` is called on the worker's thread when the job begins, with what tells
    /// it whether the clip is awaited.
    pub fn begin(
        worker: &Arc<Worker<Model>>,
        order: Order,
        is_awaited: bool,
        herald: impl FnOnce(&Cancel, Arc<AtomicBool>) -> Herald + Send + 'static,
    ) -> Self {
        let (cancel, shared, last) = (Cancel::default(), Arc::<Shared>::default(), Arc::default());
        let is_awaited = Arc::new(AtomicBool::new(is_awaited));
        let awaited = is_awaited.clone();
        let end = End(shared.clone());
        let job = Job { order: order.clone(), cancel: cancel.clone(), last: Arc::clone(&last) };
        let reply = worker.submit(move |model| {
            let _end = end;
            job.run(model, |cancel| herald(cancel, awaited))
        });
        Self { order, last, cancel, is_awaited, shared, reply: Mutex::new(Some(reply)) }
    }

    /// Waits until the clip is made, or it is known that it won't be. Its progress is told from now on.
    pub fn wait(&self) -> Outcome {
        self.is_awaited.store(true, Ordering::Relaxed);
        let stage = self.shared.stage.lock().unwrap();
        let mut stage = self.shared.changed.wait_while(stage, |stage| matches!(stage, Stage::Making)).unwrap();
        if let Stage::Ended = *stage {
            let reply = self.reply.lock().unwrap().take();
            match reply.map_or(Err(Error::Cancelled), Reply::wait) {
                Ok((frames, summary)) => *stage = Stage::Made(frames, summary),
                Err(Error::Cancelled) => *stage = Stage::Interrupted,
                Err(err) => return Outcome::Failed(err),
            }
        }
        match &*stage {
            Stage::Made(_, summary) => Outcome::Made(*summary),
            _ => Outcome::Interrupted,
        }
    }

    /// The next frame of a clip that is made. `None` after the last.
    pub fn next(&self) -> Option<Frame> {
        match &mut *self.shared.stage.lock().unwrap() {
            Stage::Made(frames, _) => frames.pop_front(),
            _ => None,
        }
    }

    /// Ends the work and the wait for it. A clip that is made stays as it is.
    pub fn interrupt(&self) {
        let mut stage = self.shared.stage.lock().unwrap();
        if let Stage::Making = *stage {
            self.cancel.cancel();
            *stage = Stage::Interrupted;
            self.shared.changed.notify_all();
        }
    }

    /// Whether the clip was interrupted.
    pub fn is_interrupted(&self) -> bool {
        matches!(*self.shared.stage.lock().unwrap(), Stage::Interrupted)
    }
}

impl Drop for Clip {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Says, when it is dropped, that the job has ended: with the last frame, with a panic, or without having run because
/// the model failed to load.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let mut stage = self.0.stage.lock().unwrap();
        if let Stage::Making = *stage {
            *stage = Stage::Ended;
        }
        self.0.changed.notify_all();
    }
}

/// The model's side.
struct Job {
    order: Order,
    cancel: Cancel,
    last: Arc<OnceLock<Arc<Frame>>>,
}

impl Job {
    fn run(self, model: &mut Model, herald: impl FnOnce(&Cancel) -> Herald) -> Result<Made> {
        self.cancel.check()?;
        let mut herald = herald(&self.cancel);
        let Order { params, keyframe, skip, anchor, .. } = &self.order;
        let keyframe = keyframe.resolve()?;
        let mut made = Vec::new();
        let summary = svd::generate(model, &keyframe, params, &self.cancel, &mut |event| {
            let Event::Decoded(frames) = event else { return herald.tell(&event) };
            made.extend(frames);
            herald.decoded(made.len() as i64, params.num_frames);
        })?;
        if let Some(statistics) = anchor {
            if statistics.get().is_none() {
                let (width, height) = (params.width as usize, params.height as usize);
                let shown = keyframe.with_aspect_of(width, height, params.keyframe_fit)?.resize(width, height);
                let _ = statistics.set(Statistics::of(&shown)?);
            }
            anchor::anchor(&mut made, statistics.get().expect("it was set"))?;
            if let Some(frame) = made.last() {
                let _ = self.last.set(Arc::new(frame.clone()));
            }
        }
        herald.complete();
        Ok((made.into_iter().skip(*skip).collect(), summary))
    }
}
