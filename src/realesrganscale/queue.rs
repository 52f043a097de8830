// SPDX-License-Identifier: MPL-2.0
//! Frames on their way through the model: gathered to batches, worked on, given out in order, each exactly once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gst_video::VideoInfo;

use crate::engine::Result;
use crate::engine::bytes::Bytes;
use crate::engine::esrgan::{Begun, Model, Task, begin};
use crate::engine::worker::{Cancel, Reply, Worker};

/// What was negotiated.
#[derive(Debug)]
pub struct Format {
    /// The input.
    pub input: VideoInfo,
    /// The output.
    pub output: VideoInfo,
    /// What is made of a frame.
    pub task: Task,
}

/// A frame on its way.
struct Pending {
    /// The buffer that comes out, with everything but the picture.
    shell: gst::Buffer,
    /// Whether the picture is that of the frame before.
    repeats: bool,
}

/// Frames that run through the network at once.
struct Batch {
    frames: Vec<Pending>,
    /// For those that don't repeat another.
    work: Option<Work>,
}

/// Pictures that are with the model.
struct Work {
    inputs: Vec<Arc<Vec<u8>>>,
    format: Arc<Format>,
    reply: Reply<(Begun, Instant)>,
}

/// What can be told of frames that came out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Frames that came out.
    pub frames: u64,
    /// Those among them that repeated the one before.
    pub repeated: u64,
    /// Tiles that ran through the network.
    pub tiles: u64,
    /// How often tiles had to become smaller.
    pub retries: u64,
    /// How long the model was at work.
    pub took: Duration,
}

/// What has happened to a batch besides its pictures.
#[derive(Debug, Clone, Copy, Default)]
pub struct Incident {
    /// Tiles had to become smaller.
    pub has_shrunk: bool,
    /// The precision whose range did not suffice.
    pub redone: Option<&'static str>,
}

/// Frames on their way. Only the streaming thread has it in hand, so that nothing overtakes anything.
pub struct Queue {
    worker: Arc<Worker<Model>>,
    batch_size: usize,
    /// Batches that the model may have in work while the next is gathered.
    depth: usize,
    skip_static: bool,
    gathered: Vec<Pending>,
    fresh: Vec<Arc<Vec<u8>>>,
    working: VecDeque<Batch>,
    ready: VecDeque<gst::Buffer>,
    /// The last picture that came in.
    last_input: Option<Arc<Vec<u8>>>,
    /// The last that came out: a buffer, because memory in two buffers is not written to.
    last_output: Option<gst::Buffer>,
    /// What came out so far.
    pub stats: Stats,
}

impl Queue {
    /// An empty queue before the model of `worker`.
    pub fn new(worker: Arc<Worker<Model>>, batch_size: usize, depth: usize, skip_static: bool) -> Self {
        Self {
            worker,
            batch_size,
            depth,
            skip_static,
            gathered: Vec::new(),
            fresh: Vec::new(),
            working: VecDeque::new(),
            ready: VecDeque::new(),
            last_input: None,
            last_output: None,
            stats: Stats::default(),
        }
    }

    /// Frames that come in before the first goes out.
    pub fn latency(&self) -> u64 {
        (self.batch_size * (self.depth + 1) - 1) as u64
    }

    /// Takes a frame by its bytes. `shell` is the buffer that comes out for it.
    pub fn take(&mut self, bytes: Vec<u8>, shell: gst::Buffer, format: &Arc<Format>, cancel: &Cancel) {
        let bytes = Arc::new(bytes);
        let repeats = self.last_input.as_ref() == Some(&bytes);
        self.gathered.push(Pending { shell, repeats });
        if !repeats {
            self.last_input = self.skip_static.then(|| bytes.clone());
            self.fresh.push(bytes);
        }
        if self.gathered.len() >= self.batch_size {
            self.send(format, cancel);
        }
    }

    /// Sends what is gathered to the model.
    pub fn send(&mut self, format: &Arc<Format>, cancel: &Cancel) {
        if self.gathered.is_empty() {
            return;
        }
        let frames = std::mem::take(&mut self.gathered);
        let fresh = std::mem::take(&mut self.fresh);
        let work = (!fresh.is_empty()).then(|| self.begin(fresh, format, cancel, false));
        self.working.push_back(Batch { frames, work });
    }

    /// Gives pictures to the model, which looks at each tile if they come for the second time.
    fn begin(&self, inputs: Vec<Arc<Vec<u8>>>, format: &Arc<Format>, cancel: &Cancel, is_second: bool) -> Work {
        let (pictures, job, cancel) = (inputs.clone(), format.clone(), cancel.clone());
        let reply = self.worker.submit(move |model| {
            if is_second {
                model.check_tiles();
            }
            let start = Instant::now();
            let pictures: Vec<_> = pictures.iter().map(|picture| picture.as_slice()).collect();
            Ok((begin(model, &pictures, &job.task, &cancel)?, start))
        });
        Work { inputs, format: format.clone(), reply }
    }

    /// Batches in work that must be waited for: all but those that the model may have in hand, or, to `drain` it, all.
    pub fn due(&self, drain: bool) -> usize {
        self.working.len().saturating_sub(if drain { 0 } else { self.depth })
    }

    /// Waits for the oldest batch; its frames are ready then.
    ///
    /// # Errors
    /// That of the model. Its frames are lost, and the stream with them.
    pub fn wait(&mut self, cancel: &Cancel) -> Result<Incident> {
        let Some(batch) = self.working.pop_front() else { return Ok(Incident::default()) };
        let mut incident = Incident::default();
        let mut pictures = Vec::new();
        if let Some(work) = batch.work {
            (pictures, incident) = self.finish(work, cancel)?;
        }
        let mut pictures = pictures.into_iter();
        for Pending { mut shell, repeats } in batch.frames {
            let picture = if repeats {
                self.stats.repeated += 1;
                let last = self.last_output.as_ref().and_then(|buffer| buffer.memory(0));
                last.expect("the frame before came out")
            } else {
                gst::Memory::from_mut_slice(pictures.next().expect("as many pictures come out as went in"))
            };
            self.stats.frames += 1;
            if self.skip_static && !repeats {
                let mut last = gst::Buffer::new();
                last.make_mut().append_memory(picture.clone());
                self.last_output = Some(last);
            }
            shell.make_mut().append_memory(picture);
            self.ready.push_back(shell);
        }
        Ok(incident)
    }

    /// Waits for pictures that are with the model.
    fn finish(&mut self, work: Work, cancel: &Cancel) -> Result<(Vec<Bytes>, Incident)> {
        let Work { inputs, format, reply } = work;
        let mut incident = Incident::default();
        let mut collect = |stats: &mut Stats, reply: Reply<(Begun, Instant)>| {
            let (begun, start) = reply.wait_or(cancel)?;
            incident.has_shrunk |= begun.retries > 0;
            incident.redone = begun.redone;
            stats.tiles += begun.tiles;
            stats.retries += begun.retries;
            let pictures = begun.finish();
            stats.took += start.elapsed();
            pictures
        };
        let mut pictures = collect(&mut self.stats, reply)?;
        if pictures.is_none() {
            let again = self.begin(inputs, &format, cancel, true);
            pictures = collect(&mut self.stats, again.reply)?;
        }
        Ok((pictures.unwrap_or_default(), incident))
    }

    /// The next frame that is done.
    pub fn next(&mut self) -> Option<gst::Buffer> {
        self.ready.pop_front()
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.gathered.clear();
        self.fresh.clear();
        self.working.clear();
        self.ready.clear();
        self.forget();
    }

    /// Forgets what the last frame was: what comes now is of another format.
    pub fn forget(&mut self) {
        self.last_input = None;
        self.last_output = None;
    }
}
