// SPDX-License-Identifier: MPL-2.0
//! One clip in the making: the model's thread puts frames in, the streaming thread takes them out.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

use crate::engine::Result;
use crate::engine::image::Frame;
use crate::engine::svd::{self, Event, Model, Params};
use crate::engine::worker::{Cancel, Reply, Worker};
use crate::progress::Progress;

/// What the streaming thread gets when it waits for a clip.
pub enum Next {
    /// The next frame.
    Frame(Frame),
    /// There are no more frames: the clip is done, or it failed.
    Ended(Result<()>),
    /// The clip was interrupted. It gives nothing any more.
    Interrupted,
}

/// A clip in the making.
pub struct Clip {
    cancel: Cancel,
    shared: Arc<Shared>,
    reply: Mutex<Option<Reply<()>>>,
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
    /// Sends the clip's job to `worker`. Frames that were given before, `skip` of them, are left out. `progress` is
    /// called on the worker's thread when the job begins.
    pub fn begin(
        worker: &Arc<Worker<Model>>,
        keyframe: Arc<Frame>,
        params: Params,
        skip: usize,
        progress: impl FnOnce(&Cancel) -> Progress + Send + 'static,
    ) -> Self {
        let (cancel, shared) = (Cancel::default(), Arc::<Shared>::default());
        let token = cancel.clone();
        let sender = Sender { shared: shared.clone(), skip, decoded: 0, num_frames: params.num_frames };
        let reply = worker.submit(move |model| {
            let mut sender = sender;
            token.check()?;
            let progress = progress(&token);
            svd::generate(model, &keyframe, &params, &token, &mut |event| sender.take(event, &progress))?;
            progress.complete();
            Ok(())
        });
        Self { cancel, shared, reply: Mutex::new(Some(reply)) }
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

/// The model's side. Closes the inbox when it is dropped: after the last frame, with a panic, or with a job that never
/// ran because the model failed to load.
struct Sender {
    shared: Arc<Shared>,
    skip: usize,
    decoded: i64,
    num_frames: i64,
}

impl Sender {
    fn take(&mut self, event: Event, progress: &Progress) {
        match event {
            Event::Encoded => progress.update("Encoded the keyframe"),
            Event::Planned(..) => {}
            Event::Warning(text) => progress.update(&text),
            Event::Step { step, steps, .. } => {
                progress.update(&format!("Denoising step {step} of {steps} ({} %)", 100 * step / steps.max(1)));
            }
            Event::Decoding { percent } => progress.update(&format!("Decoding {percent} %")),
            Event::Decoded(frames) => {
                self.decoded += frames.len() as i64;
                let skipped = self.skip.min(frames.len());
                self.skip -= skipped;
                self.shared.inbox.lock().unwrap().frames.extend(frames.into_iter().skip(skipped));
                self.shared.changed.notify_all();
                progress.update(&format!("Decoded {} of {} frames", self.decoded, self.num_frames));
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.inbox.lock().unwrap().is_closed = true;
        self.shared.changed.notify_all();
    }
}
