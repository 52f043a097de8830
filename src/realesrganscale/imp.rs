// SPDX-License-Identifier: MPL-2.0
//! The element's virtual functions: settings in, one job for each frame.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Instant;

use glib::subclass::prelude::*;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::BaseTransformMode;
use gst_base::subclass::base_transform::GenerateOutputSuccess;
use gst_base::subclass::prelude::*;
use gst_video::{VideoFrameRef, VideoInfo};

use super::caps::{self, Factor};
use super::meta;
use super::queue::{Format, Incident, Queue, Stats};
use super::settings::{self, Settings};
use crate::engine::device::{DeviceChoice, kind_name};
use crate::engine::esrgan::{Architecture, Model, Task, inspect, scaled};
use crate::engine::worker::Cancel;
use crate::engine::{Error, Result};
use crate::{errors, filter, progress, video};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("realesrganscale", gst::DebugColorFlags::empty(), Some("Real-ESRGAN upscaler"))
});

/// The element. No lock is held while anything is waited for, posted, pushed or queried. Where two are held, they were
/// taken in this order: `state`, and what [`Cancel::cancel`] takes.
#[derive(Default)]
pub struct RealEsrganScale {
    settings: Mutex<Settings>,
    state: Mutex<State>,
    /// The streaming thread takes it out while it works on frames.
    queue: Mutex<Option<Queue>>,
}

#[derive(Default)]
struct State {
    /// Between `start` and `stop`.
    run: Option<Run>,
    /// Ends the frames in work and, until a new one takes its place, every frame after them.
    cancel: Cancel,
    /// Of the last run.
    stats: Stats,
}

/// One run, from READY to PAUSED and back.
struct Run {
    settings: Settings,
    architecture: Architecture,
    /// Frames that come in before the first goes out.
    latency: u64,
    format: Option<Arc<Format>>,
    /// Tells the load that the end of it was wanted.
    closing: Cancel,
    /// When statistics were last told.
    told: Instant,
    /// An error was posted. One is enough.
    has_failed: bool,
    /// The warning that the precision does not suffice was posted.
    has_warned_of_precision: bool,
    /// The warning that the memory does not suffice was posted.
    has_warned_of_memory: bool,
}

impl Run {
    fn factor(&self) -> Factor {
        let params = self.settings.params;
        Factor { factor: params.factor(self.architecture.scale()), is_set: params.outscale != 0.0 }
    }
}

impl RealEsrganScale {
    /// Everything that can be known at once; the model goes on loading in the background.
    fn prepare(&self, settings: Settings) -> Result<(Run, Queue), gst::ErrorMessage> {
        let error = |err: Error| errors::message(&err);
        settings.validate().map_err(error)?;
        let file = settings.model_file().map_err(error)?;
        let path = file.path.clone();
        let architecture = inspect(&file).map_err(error)?;
        let choice: DeviceChoice = settings.device().parse().map_err(error)?;
        let device = choice.resolve().map_err(error)?;
        let kind = settings.precision().kind(device);
        let shown = path.display();
        gst::info!(CAT, imp = self, "{shown}: {architecture}, on {device:?} in {}", kind_name(kind));

        let closing = Cancel::default();
        let obj = self.obj();
        let worker = progress::loading(obj.upcast_ref(), &path, &closing, || Model::shared(file, device, kind));
        // A GPU has the next batch at hand when it is done with one.
        let depth = usize::from(device.is_cuda());
        let queue = Queue::new(worker, settings.batch_size as usize, depth, settings.skip_static);
        let run = Run {
            settings,
            architecture,
            latency: queue.latency(),
            format: None,
            closing,
            told: Instant::now(),
            has_failed: false,
            has_warned_of_precision: false,
            has_warned_of_memory: false,
        };
        Ok((run, queue))
    }

    /// Ends the frames in work, and those that come before [`Self::resume`].
    fn interrupt(&self) {
        self.state.lock().unwrap().cancel.cancel();
    }

    /// Lets frames be worked on again. Those that were on their way are gone.
    fn resume(&self) {
        self.state.lock().unwrap().cancel = Cancel::default();
        if let Some(queue) = self.queue.lock().unwrap().as_mut() {
            queue.clear();
        }
    }

    /// Posts an error, if it is the run's first.
    fn fail(&self, message: gst::ErrorMessage) -> gst::FlowError {
        let is_first = match &mut self.state.lock().unwrap().run {
            Some(run) => !std::mem::replace(&mut run.has_failed, true),
            None => false,
        };
        if is_first {
            self.post_error_message(message);
        }
        gst::FlowError::Error
    }

    /// Does something with the queue. Only on the streaming thread.
    fn with_queue<R>(&self, work: impl FnOnce(&mut Queue) -> Result<R, gst::FlowError>) -> Result<R, gst::FlowError> {
        let mut queue = self.queue.lock().unwrap().take().ok_or(gst::FlowError::Flushing)?;
        let result = work(&mut queue);
        *self.queue.lock().unwrap() = Some(queue);
        result
    }

    /// What frames are worked on with, if they may be.
    fn format(&self) -> Result<(Arc<Format>, Cancel), gst::FlowError> {
        let state = self.state.lock().unwrap();
        let run = state.run.as_ref().ok_or(gst::FlowError::Flushing)?;
        if run.has_failed {
            return Err(gst::FlowError::Error);
        }
        Ok((run.format.clone().ok_or(gst::FlowError::NotNegotiated)?, state.cancel.clone()))
    }

    /// Takes a frame, and waits for those that must come out before the next is taken.
    fn take(&self, buffer: &gst::Buffer) -> Result<(), gst::FlowError> {
        let (format, cancel) = self.format()?;
        let frame = VideoFrameRef::from_buffer_ref_readable(buffer, &format.input).ok();
        let bytes = frame.and_then(|frame| video::pack(&frame, &format.input)).ok_or_else(|| {
            let seen = format!("a buffer of {} bytes is no frame of these caps, or its rows go upwards", buffer.size());
            self.fail(gst::error_msg!(gst::StreamError::Format, ("{seen}")))
        })?;
        let shell = meta::shell(buffer, &format);
        self.with_queue(|queue| {
            queue.take(bytes, shell, &format, &cancel);
            self.wait(queue, false, &cancel)
        })
    }

    /// Waits for frames that are due, or for all.
    fn wait(&self, queue: &mut Queue, drain: bool, cancel: &Cancel) -> Result<(), gst::FlowError> {
        while queue.due(drain) > 0 {
            match queue.wait(cancel) {
                Ok(incident) => self.tell(incident, queue.stats),
                Err(Error::Cancelled) => return Err(gst::FlowError::Flushing),
                Err(err) => return Err(self.fail(errors::message(&err))),
            }
        }
        Ok(())
    }

    /// Lets everything out that is on its way: what comes next is of another kind, or nothing comes.
    fn drain(&self) -> Result<(), gst::FlowError> {
        let (format, cancel) = match self.format() {
            // Nothing can be on its way.
            Err(gst::FlowError::NotNegotiated) => return Ok(()),
            format => format?,
        };
        let ready = self.with_queue(|queue| {
            queue.send(&format, &cancel);
            self.wait(queue, true, &cancel)?;
            queue.forget();
            Ok(std::iter::from_fn(|| queue.next()).collect::<Vec<_>>())
        })?;
        let obj = self.obj();
        ready.into_iter().try_for_each(|buffer| obj.src_pad().push(buffer).map(drop))
    }

    /// A batch is done: warns of what happened, once, and posts statistics now and then.
    fn tell(&self, incident: Incident, stats: Stats) {
        let (mut precision, mut memory, mut is_due) = (None, false, false);
        {
            let mut state = self.state.lock().unwrap();
            state.stats = stats;
            if let Some(run) = &mut state.run {
                if incident.redone.is_some() && !std::mem::replace(&mut run.has_warned_of_precision, true) {
                    precision = incident.redone;
                }
                memory = incident.has_shrunk && !std::mem::replace(&mut run.has_warned_of_memory, true);
                let interval = run.settings.stats_interval;
                is_due = !interval.is_zero() && run.told.elapsed().as_nanos() >= interval.nseconds().into();
                if is_due {
                    run.told = Instant::now();
                }
            }
        }
        if let Some(dtype) = precision {
            gst::element_imp_warning!(
                self,
                gst::LibraryError::Failed,
                ("{dtype} can't hold the numbers of this model for some frames: they are done again in fp32; \
                     dtype=fp32 saves doing them twice")
            );
        }
        if memory {
            gst::element_imp_warning!(
                self,
                gst::ResourceError::NoSpaceLeft,
                ("the device's memory did not suffice: going on with smaller tiles; tile or max-memory can set them")
            );
        }
        if is_due {
            self.post_stats(stats);
        }
    }

    /// Says why there is no output for an input of these caps, if nothing was said yet.
    fn explain(&self, caps: &gst::Caps) {
        let factor = self.state.lock().unwrap().run.as_ref().map(Run::factor);
        let pad = self.obj().src_pad().clone();
        if pad.pad_flags().contains(gst::PadFlags::FLUSHING) {
            return;
        }
        let possible = caps::transform(gst::PadDirection::Sink, caps, factor).to_string();
        let wanted = pad.peer_query_caps(None);
        let set = match (factor, VideoInfo::from_caps(caps)) {
            (Some(Factor { factor, is_set: true }), Ok(info)) => {
                let [width, height] = [info.width(), info.height()].map(|side| scaled(side.into(), factor));
                format!("outscale={factor} was set, and makes {width}x{height}: unset it, or ask for that size; ")
            }
            _ => String::new(),
        };
        let _ = self.fail(gst::error_msg!(
            gst::StreamError::Format,
            ("{set}what is behind takes no frame that can be made of {caps}: it takes {wanted}"),
            ["possible: {possible}"]
        ));
    }

    fn post_stats(&self, stats: Stats) {
        let obj = self.obj();
        let message = gst::message::Element::builder(structure(stats)).src(&*obj).build();
        // An element outside of a pipeline has no bus, and that is fine.
        let _ = obj.post_message(message);
    }
}

fn structure(stats: Stats) -> gst::Structure {
    let Stats { frames, repeated, tiles, retries, took } = stats;
    let computed = frames - repeated;
    let each = if computed == 0 { 0.0 } else { took.as_secs_f64() * 1000.0 / computed as f64 };
    gst::Structure::builder("realesrganscale-stats")
        .field("frames", frames)
        .field("static-frames", repeated)
        .field("tiles", tiles)
        .field("retries", retries)
        .field("ms-per-frame", each)
        .build()
}

#[glib::object_subclass]
impl ObjectSubclass for RealEsrganScale {
    const NAME: &'static str = "GstRealEsrganScale";
    type Type = super::RealEsrganScale;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for RealEsrganScale {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(settings::properties);
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        self.settings.lock().unwrap().set(pspec.name(), value);
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        match pspec.name() {
            "stats" => structure(self.state.lock().unwrap().stats).to_value(),
            name => self.settings.lock().unwrap().get(name),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        // A slow filter before a sink that keeps time would drop most frames, and say nothing.
        self.obj().set_qos(false);
    }
}

impl GstObjectImpl for RealEsrganScale {}

impl ElementImpl for RealEsrganScale {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Real-ESRGAN upscaler",
                "Filter/Converter/Video/Scaler/Effect",
                "Upscales video with Real-ESRGAN",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| filter::pad_templates(&caps::template()));
        &TEMPLATES
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::PausedToReady {
            // The base class waits for the streaming thread.
            self.interrupt();
        }
        self.parent_change_state(transition)
    }
}

impl BaseTransformImpl for RealEsrganScale {
    const MODE: BaseTransformMode = BaseTransformMode::NeverInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = self.settings.lock().unwrap().clone().configured()?;
        let (run, queue) = self.prepare(settings)?;
        *self.queue.lock().unwrap() = Some(queue);
        *self.state.lock().unwrap() = State { run: Some(run), cancel: Cancel::default(), stats: Stats::default() };
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        let run = self.state.lock().unwrap().run.take();
        *self.queue.lock().unwrap() = None;
        if let Some(run) = run {
            // The model's thread ends by itself.
            run.closing.cancel();
        }
        Ok(())
    }

    fn transform_caps(
        &self,
        direction: gst::PadDirection,
        caps: &gst::Caps,
        filter: Option<&gst::Caps>,
    ) -> Option<gst::Caps> {
        let factor = self.state.lock().unwrap().run.as_ref().map(Run::factor);
        let others = caps::transform(direction, caps, factor);
        gst::trace!(CAT, imp = self, "{direction:?} {caps} -> {others}");
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&others, gst::CapsIntersectMode::First),
            None => others,
        })
    }

    fn fixate_caps(&self, direction: gst::PadDirection, caps: &gst::Caps, others: gst::Caps) -> gst::Caps {
        let factor = self.state.lock().unwrap().run.as_ref().map(Run::factor);
        match (direction, VideoInfo::from_caps(caps), factor) {
            (gst::PadDirection::Sink, Ok(info), Some(factor)) => {
                let chosen = caps::fixate(&info, factor.factor, others);
                gst::debug!(CAT, imp = self, "{caps} becomes {chosen}");
                chosen
            }
            _ => self.parent_fixate_caps(direction, caps, others),
        }
    }

    fn set_caps(&self, incaps: &gst::Caps, outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let info = |caps: &gst::Caps| -> Result<_, gst::LoggableError> {
            let info = VideoInfo::from_caps(caps).map_err(|_| gst::loggable_error!(CAT, "not video: {caps}"))?;
            let layout = video::layout(&info);
            Ok((info, layout.ok_or_else(|| gst::loggable_error!(CAT, "pixels that are not known: {caps}"))?))
        };
        let ((input, from), (output, to)) = (info(incaps)?, info(outcaps)?);
        if input.is_interlaced() {
            // Caps need not name a mode, so an element before may not have asked.
            let _ = self.fail(gst::error_msg!(
                gst::StreamError::Format,
                (
                    "interlace-mode={} is not possible: whole frames are upscaled; put a deinterlace element before",
                    input.interlace_mode().to_str()
                )
            ));
            return Err(gst::loggable_error!(CAT, "interlaced video"));
        }
        // Frames of before come out before the caps of those to come.
        if let Err(err) = self.drain() {
            gst::debug!(CAT, imp = self, "{err:?} before new caps");
        }
        let has_latency = {
            let mut state = self.state.lock().unwrap();
            let Some(run) = &mut state.run else {
                return Err(gst::loggable_error!(CAT, "caps for an element that is not running"));
            };
            let (origin, size) = caps::place(&input, &output, run.settings.add_borders);
            let task = Task { from, to, origin, size, params: run.settings.params };
            run.format = Some(Arc::new(Format { input, output, task }));
            run.latency > 0
        };
        if has_latency {
            let obj = self.obj();
            let _ = obj.post_message(gst::message::Latency::builder().src(&*obj).build());
        }
        Ok(())
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        if let (gst::PadDirection::Sink, gst::QueryView::Drain(_)) = (direction, query.view()) {
            let _ = self.drain();
        }
        let answered = BaseTransformImplExt::parent_query(self, direction, query);
        if let (true, gst::PadDirection::Src, gst::QueryViewMut::Latency(query)) =
            (answered, direction, query.view_mut())
        {
            let state = self.state.lock().unwrap();
            let more = state.run.as_ref().and_then(|run| {
                // Without a rate (0/1) there is no time that so many frames take.
                let fps = run.format.as_ref()?.input.fps();
                let (numer, denom) = (u64::try_from(fps.numer()).ok()?, u64::try_from(fps.denom()).ok()?);
                if numer == 0 { None } else { gst::ClockTime::SECOND.mul_div_ceil(run.latency * denom, numer) }
            });
            if let Some(more) = more {
                let (is_live, min, max) = query.result();
                query.set(is_live, min.saturating_add(more), max.map(|max| max.saturating_add(more)));
            }
        }
        answered
    }

    fn propose_allocation(
        &self,
        decide_query: Option<&gst::query::Allocation>,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        self.parent_propose_allocation(decide_query, query)?;
        filter::take_any_layout(query);
        Ok(())
    }

    fn decide_allocation(&self, query: &mut gst::query::Allocation) -> Result<(), gst::LoggableError> {
        filter::use_own_memory(query);
        Ok(())
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStart(_) => self.interrupt(),
            gst::EventView::FlushStop(_) => self.resume(),
            // Nothing overtakes a frame.
            _ if event.is_serialized() => {
                if let Err(err) = self.drain() {
                    gst::debug!(CAT, imp = self, "{err:?} before {:?}", event.type_());
                }
            }
            _ => {}
        }
        if event.type_() == gst::EventType::Eos {
            let stats = {
                let state = self.state.lock().unwrap();
                let is_wanted = |run: &Run| !run.settings.stats_interval.is_zero() && state.stats.frames > 0;
                state.run.as_ref().filter(|run| is_wanted(run)).map(|_| state.stats)
            };
            if let Some(stats) = stats {
                self.post_stats(stats);
            }
        }
        let caps = match event.view() {
            gst::EventView::Caps(event) => Some(event.caps_owned()),
            _ => None,
        };
        let is_taken = self.parent_sink_event(event);
        if let Some(caps) = caps.filter(|_| !is_taken) {
            self.explain(&caps);
        }
        is_taken
    }

    fn submit_input_buffer(&self, is_discont: bool, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        // Not `is_discont`: it holds until the base class itself pushes a frame, and batches come late.
        if buffer.flags().contains(gst::BufferFlags::DISCONT) {
            self.drain()?;
        }
        self.parent_submit_input_buffer(is_discont, buffer)
    }

    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        if let Some(buffer) = self.take_queued_buffer() {
            self.take(&buffer)?;
        }
        let next = self.with_queue(|queue| Ok(queue.next()))?;
        Ok(next.map_or(GenerateOutputSuccess::NoOutput, GenerateOutputSuccess::Buffer))
    }
}
