// SPDX-License-Identifier: MPL-2.0
//! One clip in the making: the model's thread puts frames in, the streaming thread takes them out.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use super::keyframe::Keyframe;
use super::session::Herald;
use crate::engine::image::Frame;
use crate::engine::svd::anchor::{self, Statistics};
use crate::engine::svd::{self, Event, Extras, LatentsFolder, Model, Params, Summary};
use crate::engine::worker::{Cancel, Reply, Worker};
use crate::engine::{Error, Result};

/// What is to be made.
#[derive(Debug, Clone)]
pub struct Order {
    /// How.
    pub params: Params,
    /// The frame rate, which the parameters know rounded.
    pub fps: gst::Fraction,
    /// From what: in a chain the last frame of the clip before, or the picture that the chain began with, and the clips
    /// before are made first.
    pub keyframe: Keyframe,
    /// Its frames that are shown.
    pub frames: Range<usize>,
    /// How many of these have been shown already.
    pub skip: usize,
    /// For a clip of a chain: its place there.
    pub link: Option<Link>,
}

impl Order {
    /// Whether both give the same clip.
    pub fn is(&self, other: &Self) -> bool {
        let history = |order: &Self| order.link.as_ref().map(|link| link.before.clone());
        self.params == other.params
            && self.fps == other.fps
            && self.keyframe.is(&other.keyframe)
            && history(self) == history(other)
    }
}

/// A clip's place in a chain.
#[derive(Debug, Clone)]
pub struct Link {
    /// The picture that the chain began with.
    pub origin: Keyframe,
    /// The clips before it.
    pub before: History,
    /// The colours to keep: the first keyframe's. The chain's first clip finds them out.
    anchor: Arc<OnceLock<Statistics>>,
}

impl Link {
    /// The place behind these clips of a chain that begins with `origin`.
    pub fn new(origin: Keyframe, before: History) -> Self {
        Self { origin, before, anchor: Arc::default() }
    }
}

/// How the clips of a chain were made, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History(Vec<(Params, u64)>);

impl History {
    /// Adds so many clips, the first with `params`, each further one with the next seed.
    pub fn add(&mut self, params: &Params, clips: u64) {
        match self.0.last_mut() {
            Some((first, count)) if nth(first, *count) == *params => *count += clips,
            _ => self.0.push((params.clone(), clips)),
        }
    }

    /// The same in stretches of clips that differ by their seeds alone: the first one's parameters, and how many.
    pub fn stretches(&self) -> &[(Params, u64)] {
        &self.0
    }

    /// The parameters of each clip.
    fn clips(&self) -> impl Iterator<Item = Params> {
        self.0.iter().flat_map(|(first, count)| (0..*count).map(|n| nth(first, n)))
    }

    /// How many clips there are.
    fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

/// The parameters `n` clips later.
fn nth(first: &Params, n: u64) -> Params {
    Params { seed: first.seed.wrapping_add_unsigned(n), ..first.clone() }
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
    last: Arc<OnceLock<Arc<Frame>>>,
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
    /// Sends the clip's job to `worker`. Latents are kept in `latents`, if it is there. `herald` is called on the worker's
    /// thread when the job begins, with what tells it whether the clip is awaited.
    pub fn begin(
        worker: &Arc<Worker<Model>>,
        order: Order,
        latents: Option<LatentsFolder>,
        is_awaited: bool,
        herald: impl FnOnce(&Cancel, Arc<AtomicBool>) -> Herald + Send + 'static,
    ) -> Self {
        let (cancel, shared, last) = (Cancel::default(), Arc::<Shared>::default(), Arc::default());
        let is_awaited = Arc::new(AtomicBool::new(is_awaited));
        let awaited = is_awaited.clone();
        let end = End(shared.clone());
        let job = Job { order: order.clone(), latents, cancel: cancel.clone(), last: Arc::clone(&last) };
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

    /// What has become of the clip. `None` while it is made.
    pub fn outcome(&self) -> Option<Outcome> {
        let has_ended = !matches!(*self.shared.stage.lock().unwrap(), Stage::Making);
        has_ended.then(|| self.wait())
    }

    /// Whether a wait has found it made.
    pub fn is_made(&self) -> bool {
        matches!(*self.shared.stage.lock().unwrap(), Stage::Made(..))
    }

    /// The next frame of a clip that is made. `None` after the last.
    pub fn next(&self) -> Option<Frame> {
        match &mut *self.shared.stage.lock().unwrap() {
            Stage::Made(frames, _) => frames.pop_front(),
            _ => None,
        }
    }

    /// What the next clip of its chain begins with, and that one's place.
    pub fn successor(&self) -> Option<(Keyframe, Link)> {
        let mut link = self.order.link.clone()?;
        link.before.add(&self.order.params, 1);
        Some((Keyframe::Last(self.last.clone()), link))
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
    latents: Option<LatentsFolder>,
    cancel: Cancel,
    last: Arc<OnceLock<Arc<Frame>>>,
}

impl Job {
    fn run(self, model: &mut Model, herald: impl FnOnce(&Cancel) -> Herald) -> Result<Made> {
        self.cancel.check()?;
        let mut herald = herald(&self.cancel);
        let Order { params, keyframe, frames, skip, link, .. } = &self.order;
        let mut picture = keyframe.resolve()?;
        if let Some(link) = link.as_ref().filter(|_| !matches!(keyframe, Keyframe::Last(_))) {
            let count = link.before.count();
            for (number, params) in (1..).zip(link.before.clips()) {
                herald.goes_through_chain(number, count + 1);
                let (mut made, _) = self.make(model, &picture, &params, &mut herald)?;
                picture = made.pop().map(Arc::new).ok_or(Error::Cancelled)?;
            }
            if count > 0 {
                herald.goes_through_chain(count + 1, count + 1);
            }
        }
        let (made, summary) = self.make(model, &picture, params, &mut herald)?;
        if let (Some(_), Some(frame)) = (link, made.last()) {
            let _ = self.last.set(Arc::new(frame.clone()));
        }
        herald.complete();
        Ok((made.into_iter().take(frames.end).skip(frames.start + skip).collect(), summary))
    }

    /// Makes one clip of a keyframe, whole.
    fn make(
        &self,
        model: &mut Model,
        keyframe: &Frame,
        params: &Params,
        herald: &mut Herald,
    ) -> Result<(Vec<Frame>, Summary)> {
        let mut made = Vec::new();
        let is_watched = herald.is_watched();
        let mut report = |event| {
            let Event::Decoded(frames) = event else { return herald.tell(event) };
            made.extend(frames);
            herald.decoded(made.len() as i64, params.num_frames);
        };
        let extras = Extras { latents: self.latents.as_ref(), is_watched: &is_watched };
        let summary = svd::generate_with(model, keyframe, params, extras, &self.cancel, &mut report)?;
        if let Some(Link { anchor: statistics, .. }) = &self.order.link {
            if statistics.get().is_none() {
                let (width, height) = (params.width as usize, params.height as usize);
                let shown = keyframe.with_aspect_of(width, height, params.keyframe_fit)?.resize(width, height);
                let _ = statistics.set(Statistics::of(&shown)?);
            }
            anchor::anchor(&mut made, statistics.get().expect("it was set"))?;
        }
        Ok((made, summary))
    }
}

/// The clip from which on counts what was set: the first that was ordered afterwards.
#[derive(Debug, Clone, Copy, Default)]
pub struct Since {
    /// How often it had been set by then.
    sets: u64,
    clip: u64,
}

impl Since {
    /// Nothing was set beyond these `sets`, which count from the first clip on.
    pub fn the_first(sets: u64) -> Self {
        Self { sets, clip: 0 }
    }

    /// Clip `number` is ordered after so many `sets`: gives the clip from which on the last of them counts.
    pub fn order(&mut self, sets: u64, number: u64) -> u64 {
        // Clips ahead may have been ordered before one whose turn has come.
        self.clip = if self.sets == sets { self.clip.min(number) } else { number };
        self.sets = sets;
        self.clip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_short_where_only_seeds_count_up() {
        let params = |seed, motion_bucket_id| Params { seed, motion_bucket_id, ..Params::default() };
        let all = [params(5, 1.0), params(6, 1.0), params(7, 2.0), params(3, 2.0), params(4, 2.0)];
        let mut history = History::default();
        all.iter().for_each(|params| history.add(params, 1));
        assert_eq!(history.stretches().iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 1, 2]);
        assert_eq!((history.count(), history.clips().collect::<Vec<_>>()), (5, all.to_vec()));
    }

    #[test]
    fn what_was_set_counts_from_the_first_clip_that_was_ordered_then() {
        let mut since = Since::the_first(3);
        assert_eq!([0, 1, 2].map(|clip| since.order(3, clip)), [0; 3]);
        // Set while clip 1 is shown: the ones ahead may be ordered anew in any order.
        assert_eq!([3, 2, 3, 4].map(|clip| since.order(4, clip)), [3, 2, 2, 2]);
        assert_eq!(since.order(6, 5), 5);
    }
}
