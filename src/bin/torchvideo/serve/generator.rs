// SPDX-License-Identifier: MPL-2.0
//! A pipeline that makes and shows clips without an end, whoever looks. It is begun when somebody looks for the first time,
//! and then goes on.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use gst::prelude::*;
use serde::Serialize;
use serde_json::Value as Json;

use super::feed::{Feeds, Unit};
use super::pace::{Pace, Turn};

/// How long is waited for the first frame, which is the keyframe's; a model need not be loaded for it.
const PATIENCE: Duration = Duration::from_secs(15);
/// A keyframe that was asked for and did not come in this time is asked for again.
const KEY_PATIENCE: Duration = Duration::from_secs(1);
/// How long after somebody looked frames go on to be upscaled and encoded.
const INTEREST: Duration = Duration::from_secs(10);
/// The sinks' names.
const SHOWN: &str = "shown";
const PREVIEW: &str = "preview";
/// How long one that has failed is not begun again.
const REST: Duration = Duration::from_secs(30);

/// What a generator is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody has looked yet.
    #[default]
    Waiting,
    /// The model is loaded.
    Loading,
    /// A clip is in the making.
    Making,
    /// The clip is shown, and none is in the making.
    Showing,
    /// It can't go on.
    Failed,
}

/// What is told of a generator.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    pub state: State,
    /// What it does, in words.
    pub text: String,
    /// The step in the making, and of how many.
    pub step: Option<[u64; 2]>,
    /// Seconds until its clip is there, as estimated at the last step.
    pub seconds_left: Option<f64>,
    /// Clips that were made.
    pub clips_made: u64,
    /// The clip that is shown, from 0.
    pub clip: Option<u64>,
    /// How the last clip that was made was made: see `svdsrc`'s provenance.
    pub made: Option<Json>,
    /// The last warning.
    pub warning: Option<String>,
    /// Why it can't go on.
    pub error: Option<String>,
    /// That the machine does not keep up, if it does not.
    #[serde(skip)]
    pub behind: Option<String>,
    /// When the clip in the making will be there.
    #[serde(skip)]
    due: Option<Instant>,
    #[serde(skip)]
    failed: Option<Instant>,
}

/// What a generator tells others of. On a streaming thread, which may wait for no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// A clip is shown.
    Shown,
    /// The clip in the making could not be made.
    NotMade,
    /// The machine does not keep up, or does so again.
    Behind(bool),
}

type Listener = Box<dyn Fn(Told) + Send + Sync>;

/// Encoded frames of a generator, and when keyframes among them came and were asked for.
#[derive(Default)]
pub struct Output {
    pub feeds: Feeds,
    keys: Mutex<Keys>,
    sink: Mutex<Option<gst_app::AppSink>>,
}

#[derive(Default)]
struct Keys {
    last: Option<gst::ClockTime>,
    asked: Option<Instant>,
}

/// A generator.
pub struct Generator {
    line: String,
    key_interval: gst::ClockTime,
    /// What is shown to people.
    pub shown: Output,
    /// How the clip in the making looks so far.
    pub preview: Output,
    listener: Mutex<Option<Listener>>,
    /// Held while it is begun or ended.
    beginning: Mutex<()>,
    pipeline: Mutex<Option<gst::Pipeline>>,
    status: Mutex<Status>,
    /// The first frame has come, or none will.
    changed: Condvar,
    /// The last picture before it was encoded.
    picture: Mutex<Option<gst::Sample>>,
    gate: Mutex<Gate>,
}

/// Whether frames go on from the source. Clips are made whoever looks, but nothing is done to frames that nobody sees.
#[derive(Default)]
struct Gate {
    /// When somebody looked last.
    looked: Option<Instant>,
    is_open: bool,
    pace: Pace,
}

/// Whether these elements, as `gst-launch-1.0` has them, can make H.264 of raw video.
///
/// # Errors
/// In words why not.
pub fn check_encoder(encoder: &str) -> Result<(), String> {
    let line = format!("identity ! video/x-raw,format=I420 ! {encoder} ! h264parse ! fakesink");
    let parsed = gst::parse::launch_full(&line, None, gst::ParseFlags::FATAL_ERRORS);
    parsed.map(drop).map_err(|err| format!("--encoder {encoder}: {err}: name elements that make H.264 of raw video"))
}

impl Generator {
    /// One of the pictures of `pictures`, which `encoder` makes H.264 of, with a keyframe at least every so often. Previews
    /// have this width and height.
    ///
    /// # Errors
    /// The line is none.
    pub fn new(
        pictures: &str,
        [width, height]: [i64; 2],
        encoder: &str,
        key_interval: gst::ClockTime,
    ) -> Result<Arc<Self>, String> {
        let encoded = |name: &str| {
            format!(
                "{encoder} ! h264parse config-interval=-1 ! video/x-h264,stream-format=byte-stream,alignment=au ! \
                 appsink name={name} sync=false max-buffers=8"
            )
        };
        let line = format!(
            "{pictures} ! videoconvert name=convert ! video/x-raw,format=I420 ! queue max-size-buffers=2 ! {} \
             source.preview ! queue max-size-buffers=2 ! videoconvert ! videoscale ! \
             video/x-raw,format=I420,width={width},height={height} ! {}",
            encoded(SHOWN),
            encoded(PREVIEW)
        );
        let parsed = gst::parse::launch_full(&line, None, gst::ParseFlags::FATAL_ERRORS);
        parsed.map_err(|err| format!("{err}: {line}"))?;
        Ok(Arc::new(Self {
            line,
            key_interval,
            shown: Output::default(),
            preview: Output::default(),
            listener: Mutex::default(),
            beginning: Mutex::default(),
            pipeline: Mutex::default(),
            status: Mutex::default(),
            changed: Condvar::new(),
            picture: Mutex::default(),
            gate: Mutex::default(),
        }))
    }

    /// Who hears what there is to tell.
    pub fn listen(&self, listener: impl Fn(Told) + Send + Sync + 'static) {
        *self.listener.lock().unwrap() = Some(Box::new(listener));
    }

    pub fn status(&self) -> Status {
        let mut status = self.status.lock().unwrap().clone();
        status.seconds_left = status.due.map(|due| due.saturating_duration_since(Instant::now()).as_secs_f64());
        let warnings: Vec<_> = [status.warning.take(), status.behind.clone()].into_iter().flatten().collect();
        status.warning = Some(warnings.join("; ")).filter(|text| !text.is_empty());
        status
    }

    /// Frames that were left out because the machine did not keep up.
    pub fn skipped(&self) -> u64 {
        self.gate.lock().unwrap().pace.skipped()
    }

    /// The last picture, or soon one that is newer: somebody looks.
    pub fn picture(&self) -> Option<gst::Sample> {
        self.gate.lock().unwrap().looked = Some(Instant::now());
        self.picture.lock().unwrap().clone()
    }

    /// The source, if it runs.
    pub fn source(&self) -> Option<gst::Element> {
        self.pipeline.lock().unwrap().as_ref()?.by_name("source")
    }

    /// Begins, if it does not run; `prepare` sets the source first. One that has failed is begun anew, but not at once:
    /// whoever asks again and again does not keep the machine busy. Waits for the first frame.
    ///
    /// # Errors
    /// In words why it can't be begun.
    pub fn begin(self: &Arc<Self>, prepare: impl FnOnce(&gst::Element)) -> Result<(), String> {
        self.gate.lock().unwrap().looked = Some(Instant::now());
        let beginning = self.beginning.lock().unwrap();
        let failed = self.status.lock().unwrap().failed;
        if let Some(failed) = failed {
            if failed.elapsed() < REST {
                return Err(self.status().error.unwrap_or_default());
            }
            self.stop();
        }
        if self.source().is_none() {
            *self.status.lock().unwrap() = Status { state: State::Loading, text: "Begun".into(), ..Status::default() };
            let pipeline = self.build()?;
            if let Some(source) = pipeline.by_name("source") {
                prepare(&source);
            }
            *self.pipeline.lock().unwrap() = Some(pipeline.clone());
            if pipeline.set_state(gst::State::Playing).is_err() {
                self.fail("the pipeline does not start".into());
            }
        }
        drop(beginning);
        let status = self.status.lock().unwrap();
        let is_awaited = |status: &mut Status| status.state != State::Failed && !self.shown.feeds.has_key();
        let (status, timeout) = self.changed.wait_timeout_while(status, PATIENCE, is_awaited).unwrap();
        match &status.error {
            Some(error) => Err(error.clone()),
            None if timeout.timed_out() => Err("no frame has come yet".into()),
            None => Ok(()),
        }
    }

    /// Whether it can't go on. Something was set: then it may be begun anew at once.
    pub fn forgive(&self) -> bool {
        let _beginning = self.beginning.lock().unwrap();
        let has_failed = self.status.lock().unwrap().failed.take().is_some();
        if has_failed {
            self.stop();
        }
        has_failed
    }

    /// Ends it, if it runs.
    pub fn end(&self) {
        let _beginning = self.beginning.lock().unwrap();
        self.stop();
    }

    fn stop(&self) {
        // Not while its lock is held: a streaming thread may want it.
        let pipeline = self.pipeline.lock().unwrap().take();
        if let Some(pipeline) = pipeline {
            let _ = pipeline.set_state(gst::State::Null);
        }
        self.shown.reset();
        self.preview.reset();
        *self.picture.lock().unwrap() = None;
        self.gate.lock().unwrap().pace = Pace::default();
    }

    fn build(self: &Arc<Self>) -> Result<gst::Pipeline, String> {
        let pipeline = gst::parse::launch(&self.line).map_err(|err| err.to_string())?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| "the line is no pipeline".to_string())?;
        let weak = Arc::downgrade(self);
        for (name, output) in [(SHOWN, Self::shown as fn(&Self) -> &Output), (PREVIEW, Self::preview)] {
            let sink = pipeline.by_name(name).and_then(|sink| sink.downcast::<gst_app::AppSink>().ok());
            let sink = sink.ok_or("the line has no sink")?;
            let of_sink = weak.clone();
            let take = move |sink: &gst_app::AppSink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                if let Some(generator) = of_sink.upgrade() {
                    generator.take(output(&generator), sample);
                }
                Ok(gst::FlowSuccess::Ok)
            };
            sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(take).build());
            *output(self).sink.lock().unwrap() = Some(sink);
        }
        let of_gate = weak.clone();
        if let Some(pad) = pipeline.by_name("source").and_then(|source| source.static_pad("src")) {
            pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
                let (Some(generator), Some(buffer)) = (of_gate.upgrade(), info.buffer_mut()) else {
                    return gst::PadProbeReturn::Ok;
                };
                if generator.passes(pad, buffer) { gst::PadProbeReturn::Ok } else { gst::PadProbeReturn::Drop }
            });
        }
        let of_pad = weak.clone();
        if let Some(pad) = pipeline.by_name("convert").and_then(|convert| convert.static_pad("sink")) {
            pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
                if let (Some(generator), Some(buffer), Some(caps)) =
                    (of_pad.upgrade(), info.buffer(), pad.current_caps())
                {
                    let sample = gst::Sample::builder().buffer(buffer).caps(&caps).build();
                    let before = generator.picture.lock().unwrap().replace(sample);
                    drop(before);
                }
                gst::PadProbeReturn::Ok
            });
        }
        let bus = pipeline.bus().ok_or("the pipeline has no bus")?;
        bus.set_sync_handler(move |_, message| {
            if let Some(generator) = weak.upgrade() {
                generator.hear(message);
            }
            gst::BusSyncReply::Drop
        });
        Ok(pipeline)
    }

    /// Whether a frame of the source goes on; says of it what those behind have to know.
    fn passes(&self, pad: &gst::Pad, buffer: &mut gst::Buffer) -> bool {
        if !self.is_open() {
            return false;
        }
        let now = pad.parent_element().and_then(|source| source.current_running_time());
        let (Some(now), Some(time), Some(duration)) = (now, buffer.pts(), buffer.duration()) else { return true };
        let (turn, was_behind, is_behind) = {
            let pace = &mut self.gate.lock().unwrap().pace;
            let was_behind = pace.is_behind();
            (pace.turn(time.into(), duration.into(), now.into()), was_behind, pace.is_behind())
        };
        if was_behind != is_behind {
            self.tell_behind(is_behind);
        }
        match turn {
            Turn::Skipped => return false,
            Turn::Goes => {}
            // Nothing is made of it and the frame before.
            Turn::GoesOn => buffer.make_mut().set_flags(gst::BufferFlags::DISCONT),
            Turn::Begins => {
                let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
                segment.set_start(time);
                segment.set_time(time);
                segment.set_base(time);
                segment.set_position(time);
                pad.push_event(gst::event::Segment::new(&segment));
            }
        }
        true
    }

    /// Says that the machine does not keep up, or does so again.
    fn tell_behind(&self, is_behind: bool) {
        let has = |element: &str| self.line.contains(&format!(" {element} "));
        let helps = [
            Some("a smaller width and height"),
            has("realesrganscale").then_some("no postprocess"),
            has("frameratetune").then_some("no framerate"),
            Some("a lower fps or another --encoder"),
        ];
        let helps = helps.into_iter().flatten().collect::<Vec<_>>().join(", ");
        self.status.lock().unwrap().behind =
            is_behind.then(|| format!("the machine does not keep up: frames are left out; {helps} would help"));
        if let Some(listener) = &*self.listener.lock().unwrap() {
            listener(Told::Behind(is_behind));
        }
    }

    /// Whether frames go on.
    fn is_open(&self) -> bool {
        let is_watched = !self.shown.feeds.is_idle();
        let mut gate = self.gate.lock().unwrap();
        if is_watched {
            gate.looked = Some(Instant::now());
        }
        let is_open = gate.looked.is_some_and(|looked| looked.elapsed() < INTEREST);
        let was_open = std::mem::replace(&mut gate.is_open, is_open);
        let was_behind = gate.pace.is_behind();
        if !is_open {
            gate.pace.rest();
        }
        drop(gate);
        if was_behind && !is_open {
            self.tell_behind(false);
        }
        if was_open && !is_open {
            // Who comes later is not to see a picture of long ago.
            self.shown.feeds.clear();
        } else if is_open && !was_open {
            self.shown.ask_for_key();
        }
        is_open
    }

    fn shown(&self) -> &Output {
        &self.shown
    }

    fn preview(&self) -> &Output {
        &self.preview
    }

    /// An encoded frame has come.
    fn take(&self, output: &Output, sample: gst::Sample) {
        let Some(unit) = Unit::of(sample) else { return };
        let is_due = {
            let mut keys = output.keys.lock().unwrap();
            if unit.is_key {
                *keys = Keys { last: Some(unit.time()), asked: None };
            }
            keys.last.is_some_and(|last| unit.time().saturating_sub(last) >= self.key_interval)
        };
        let is_first = unit.is_key && !output.feeds.has_key();
        output.feeds.push(unit);
        if is_first {
            // With the lock, so that nobody who is about to wait misses it.
            let _status = self.status.lock().unwrap();
            self.changed.notify_all();
        }
        if is_due {
            output.ask_for_key();
        }
    }

    fn fail(&self, reason: String) {
        {
            let mut status = self.status.lock().unwrap();
            if status.state == State::Failed {
                // The first reason is the one.
                return;
            }
            (status.state, status.error, status.failed) = (State::Failed, Some(reason), Some(Instant::now()));
            self.changed.notify_all();
        }
        self.shown.feeds.end();
        self.preview.feeds.end();
    }

    /// Hears what the elements tell.
    fn hear(&self, message: &gst::Message) {
        let mut told = None;
        match message.view() {
            gst::MessageView::Error(error) => self.fail(error.error().to_string()),
            gst::MessageView::Warning(warning) => {
                self.status.lock().unwrap().warning = Some(warning.error().to_string());
            }
            gst::MessageView::Progress(progress) => {
                let (kind, code, text) = progress.get();
                let mut status = self.status.lock().unwrap();
                if status.state != State::Failed {
                    status.progress(kind, code, text);
                }
                if kind == gst::ProgressType::Error && code == "generate" {
                    told = Some(Told::NotMade);
                }
            }
            gst::MessageView::Element(element) => {
                let Some(structure) = element.structure() else { return };
                let mut status = self.status.lock().unwrap();
                match structure.name().as_str() {
                    "svdsrc-step" => {
                        status.step = structure_step(structure);
                        let left =
                            structure.get("seconds-left").ok().and_then(|left| Duration::try_from_secs_f64(left).ok());
                        status.due = left.and_then(|left| Instant::now().checked_add(left));
                    }
                    "svdsrc-clip" => {
                        status.clips_made += 1;
                        let provenance = structure.get::<String>("provenance").ok();
                        status.made = provenance.and_then(|text| serde_json::from_str(&text).ok());
                    }
                    "svdsrc-shown" => {
                        status.clip = structure.get("clip").ok();
                        told = Some(Told::Shown);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        if let Some(told) = told
            && let Some(listener) = &*self.listener.lock().unwrap()
        {
            listener(told);
        }
    }
}

impl Status {
    fn progress(&mut self, kind: gst::ProgressType, code: &str, text: &str) {
        use gst::ProgressType::{Canceled, Continue, Start};
        text.clone_into(&mut self.text);
        match (code, kind) {
            ("load-model", Start | Continue) => self.state = State::Loading,
            ("generate", Start | Continue) => {
                self.state = State::Making;
                if kind == Start {
                    (self.step, self.due) = (None, None);
                }
            }
            // Something was set: the next clip is made as soon as the model has given this one up and no other has its turn.
            ("generate", Canceled) => {
                (self.step, self.due) = (None, None);
                self.text = "Waiting for the model".into();
            }
            // Where it could not be made, the one before goes on.
            ("generate", _) => (self.state, self.step, self.due) = (State::Showing, None, None),
            _ => {}
        }
    }
}

/// The step that a message tells of, and of how many.
fn structure_step(told: &gst::StructureRef) -> Option<[u64; 2]> {
    let number = |name| told.get::<i64>(name).ok().and_then(|number| u64::try_from(number).ok());
    Some([number("step")?, number("steps")?])
}

impl Output {
    /// Asks for a keyframe, for somebody who has just come.
    pub fn ask_for_key(&self) {
        {
            let mut keys = self.keys.lock().unwrap();
            if keys.asked.is_some_and(|asked| asked.elapsed() < KEY_PATIENCE) {
                return;
            }
            keys.asked = Some(Instant::now());
        }
        let sink = self.sink.lock().unwrap().clone();
        if let Some(sink) = sink {
            sink.send_event(gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build());
        }
    }

    /// Nothing from before counts.
    fn reset(&self) {
        self.feeds.clear();
        *self.keys.lock().unwrap() = Keys::default();
        *self.sink.lock().unwrap() = None;
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.end();
    }
}
