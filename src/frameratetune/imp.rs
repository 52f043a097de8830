// SPDX-License-Identifier: MPL-2.0
//! The element's virtual functions: frames and their times in, frames at the output's times out.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};

use glib::subclass::prelude::*;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::BaseTransformMode;
use gst_base::subclass::base_transform::GenerateOutputSuccess;
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;
use tch::{Device, Kind};

use super::caps;
use super::settings::{self, Mode, Settings, fraction};
use super::tuner::{Clock, Ended, Format, Means, Tuner};
use crate::engine::device::DeviceChoice;
use crate::engine::rife::{Model, inspect};
use crate::engine::worker::{Cancel, Worker};
use crate::engine::{Error, Result};
use crate::timing::{self, Counts, Fraction, Planner};
use crate::{errors, filter, models, progress, video};

/// The model that is taken where none is named.
const DEFAULT_MODEL: &str = "rife/rife-v4.25.safetensors";

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("frameratetune", gst::DebugColorFlags::empty(), Some("Frame rate tuner")));

/// The element. No lock is held while anything is waited for, posted, pushed or queried. Where two are held, they were
/// taken in this order: `state`, and what [`Cancel::cancel`] takes.
#[derive(Default)]
pub struct FrameRateTune {
    settings: Mutex<Settings>,
    state: Mutex<State>,
    /// The streaming thread takes it out while it works on frames.
    tuner: Mutex<Option<Tuner>>,
}

#[derive(Default)]
struct State {
    /// Between `start` and `stop`.
    run: Option<Run>,
    /// Ends the frame in work and, until a new one takes its place, every frame after it.
    cancel: Cancel,
    /// Of tuners that are done.
    counts: Counts,
    /// The same, and those of the tuner in hand.
    shown: Counts,
}

/// One run, from READY to PAUSED and back.
struct Run {
    setup: Arc<Setup>,
    worker: Option<Arc<Worker<Model>>>,
    plan: Option<Plan>,
    /// The input's segment.
    segment: gst::FormattedSegment<gst::ClockTime>,
    /// Where the output goes on, if it did not begin with the segment.
    ended: Option<Ended>,
    /// Where a segment that is played backwards begins, if it does not say: with its first frame.
    backwards_from: Option<gst::ClockTime>,
    has_failed: bool,
    has_warned: bool,
    has_fallen_back: bool,
}

/// What does not change in a run.
struct Setup {
    settings: Settings,
    device: Device,
    kind: Kind,
    /// The model's file, if there is one.
    model: Option<PathBuf>,
    /// Tells the load that the end of it was wanted.
    closing: Cancel,
}

/// What was negotiated.
#[derive(Clone)]
struct Plan {
    format: Arc<Format>,
    settings: timing::Settings,
    /// The output's time over the input's; `None` if the input has no rate to tell.
    stretch: Option<(u64, u64)>,
    /// Nanoseconds that a frame is known later.
    latency: Option<u64>,
}

impl Run {
    /// The output's time for one of the input, and back.
    fn stretched(&self, time: gst::ClockTime, back: bool) -> Option<gst::ClockTime> {
        let (numer, denom) = self.plan.as_ref()?.stretch?;
        if back { time.mul_div_round(denom, numer) } else { time.mul_div_round(numer, denom) }
    }

    /// The output's value for one of the input, if it is a time.
    fn stretched_value(&self, value: gst::GenericFormattedValue) -> Option<gst::GenericFormattedValue> {
        let gst::GenericFormattedValue::Time(time) = value else { return None };
        Some(self.stretched(time?, false)?.into())
    }

    /// The planner's time for what lasts from `time` to `end`: it counts from the end of a segment that is played backwards.
    fn planned(&mut self, time: gst::ClockTime, end: gst::ClockTime) -> gst::ClockTime {
        if self.segment.rate() > 0.0 {
            return time;
        }
        let from = self.segment.stop().unwrap_or_else(|| *self.backwards_from.get_or_insert(end));
        from.saturating_sub(end)
    }

    /// Forgets all of the output before.
    fn begin_anew(&mut self) {
        (self.ended, self.backwards_from) = (None, None);
    }

    fn is_stretched(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.stretch.is_none_or(|(numer, denom)| numer != denom))
    }
}

impl FrameRateTune {
    /// Everything that can be known at once.
    fn prepare(&self, settings: Settings) -> Result<Run, gst::ErrorMessage> {
        let error = |err: Error| errors::message(&err);
        settings.validate().map_err(error)?;
        let choice: DeviceChoice = settings.device().parse().map_err(error)?;
        let device = choice.resolve().map_err(error)?;
        let kind = settings.precision().kind(device);
        let may_interpolate = matches!(settings.mode, Mode::Auto | Mode::Interpolate);
        let named = settings.model_path.as_deref();
        let model = match models::file(named, DEFAULT_MODEL, ".safetensors or .pkl") {
            _ if !may_interpolate => None,
            Ok(path) => Some(path),
            // Nobody has asked for it.
            Err(_) if settings.mode == Mode::Auto && named.is_none() => None,
            Err(message) => return Err(message),
        };
        if let Some(path) = &model {
            inspect(path).map_err(error)?;
        }
        Ok(Run {
            setup: Arc::new(Setup { settings, device, kind, model, closing: Cancel::default() }),
            worker: None,
            plan: None,
            segment: gst::FormattedSegment::new(),
            ended: None,
            backwards_from: None,
            has_failed: false,
            has_warned: false,
            has_fallen_back: false,
        })
    }

    /// What makes frames between two of this rate at that one; and whether a model was missing.
    fn means(
        &self,
        setup: &Setup,
        worker: &mut Option<Arc<Worker<Model>>>,
        rises: bool,
    ) -> (timing::Mode, Means, bool) {
        match (setup.settings.mode, &setup.model) {
            (Mode::Retime, _) => (timing::Mode::Retime, Means::None, false),
            (Mode::Blend, _) => (timing::Mode::Interpolate, Means::Blend, false),
            (Mode::Duplicate, _) => (timing::Mode::Duplicate, Means::None, false),
            (Mode::Auto, _) if !rises => (timing::Mode::Duplicate, Means::None, false),
            (Mode::Auto | Mode::Interpolate, None) => (timing::Mode::Duplicate, Means::None, true),
            (Mode::Auto | Mode::Interpolate, Some(path)) => {
                let worker = worker.get_or_insert_with(|| {
                    let obj = self.obj();
                    let load = || Model::shared(path, setup.device, setup.kind);
                    progress::loading(obj.upcast_ref(), path, &setup.closing, load)
                });
                (timing::Mode::Interpolate, Means::Rife(worker.clone()), false)
            }
        }
    }

    /// Ends the frame in work, and those that come before [`Self::resume`].
    fn interrupt(&self) {
        self.state.lock().unwrap().cancel.cancel();
    }

    /// The output's time for one of the input, if it is another.
    fn stretched(&self, time: gst::ClockTime) -> Option<gst::ClockTime> {
        self.state.lock().unwrap().run.as_ref().filter(|run| run.is_stretched())?.stretched(time, false)
    }

    /// Lets frames be worked on again. Those that were on their way are gone.
    fn resume(&self) {
        {
            let mut state = self.state.lock().unwrap();
            state.cancel = Cancel::default();
            if let Some(run) = &mut state.run {
                run.begin_anew();
            }
        }
        self.keep(None);
    }

    /// Puts another tuner in the place of the one in hand, whose frames count on.
    fn keep(&self, tuner: Option<Tuner>) {
        let before = std::mem::replace(&mut *self.tuner.lock().unwrap(), tuner);
        if let Some(before) = before {
            let mut state = self.state.lock().unwrap();
            state.counts = sum(state.counts, before.counts());
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

    /// What came of frames: says what is to be said of it.
    fn tell<R>(&self, tuner: &mut Tuner, result: Result<R>) -> Result<R, gst::FlowError> {
        let result = match result {
            Ok(result) => result,
            Err(Error::Cancelled) => return Err(gst::FlowError::Flushing),
            Err(Error::OutOfMemory(reason)) => {
                let err = Error::OutOfMemory(format!("{reason}; a smaller scale needs less, and so does dtype=fp16"));
                return Err(self.fail(errors::message(&err)));
            }
            Err(err) => return Err(self.fail(errors::message(&err))),
        };
        let redone = tuner.redone();
        let is_first = {
            let mut state = self.state.lock().unwrap();
            state.shown = sum(state.counts, tuner.counts());
            let run = state.run.as_mut();
            redone.is_some() && run.is_some_and(|run| !std::mem::replace(&mut run.has_warned, true))
        };
        if let (Some(dtype), true) = (redone, is_first) {
            gst::element_imp_warning!(
                self,
                gst::LibraryError::Failed,
                ("{dtype} can't hold the numbers of this model for some frames: they are done again in fp32; \
                     dtype=fp32 saves doing them twice")
            );
        }
        Ok(result)
    }

    /// A tuner for a frame at `time`, by the planner, which is its first.
    fn tuner(&self, time: gst::ClockTime) -> Result<Tuner, gst::FlowError> {
        let fail = |err: timing::TooFine| self.fail(gst::error_msg!(gst::LibraryError::Settings, ("{err}")));
        let (plan, ended, begin, stretched, mirror) = {
            let mut state = self.state.lock().unwrap();
            let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
            if run.has_failed {
                return Err(gst::FlowError::Error);
            }
            let plan = run.plan.clone().ok_or(gst::FlowError::NotNegotiated)?;
            let backwards = (run.segment.rate() < 0.0).then(|| run.segment.stop().or(run.backwards_from)).flatten();
            let start =
                if backwards.is_some() { gst::ClockTime::ZERO } else { run.segment.start().unwrap_or_default() };
            // Long before the first frame there is nothing to show.
            let begin = if time < start + gst::ClockTime::SECOND { start } else { time };
            let stretched = |time| if run.is_stretched() { run.stretched(time, false).unwrap_or(time) } else { time };
            let (stretched, mirror) = (stretched(begin), backwards.map(|from| stretched(from).nseconds()));
            (plan, run.ended.take(), begin, stretched, mirror)
        };
        let (planner, clock) = match ended {
            Some(Ended { planner, clock, is_cut }) => {
                let (planner, more) = planner.follow(plan.settings, time.nseconds(), is_cut).map_err(fail)?;
                (planner, Clock { offset: clock.offset + more, ..clock })
            }
            None => {
                let settings = timing::Settings { origin: Some(begin.nseconds()), ..plan.settings };
                let offset = i128::from(stretched.nseconds()) - i128::from(begin.nseconds());
                (Planner::new(settings).map_err(fail)?, Clock { offset, mirror })
            }
        };
        Ok(Tuner::new(plan.format, planner, clock))
    }

    /// Takes a frame.
    fn take(&self, buffer: gst::Buffer) -> Result<(), gst::FlowError> {
        let Some(time) = buffer.pts() else {
            let missing =
                "a frame without a timestamp: what was recorded without needs an element that counts, as videorate";
            return Err(self.fail(gst::error_msg!(gst::StreamError::Format, ("{missing}"))));
        };
        let (cancel, time, is_backwards) = {
            let mut state = self.state.lock().unwrap();
            let cancel = state.cancel.clone();
            let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
            let lasts = buffer.duration().or(run.plan.as_ref().and_then(Plan::frame)).unwrap_or_default();
            (cancel, run.planned(time, time + lasts), run.segment.rate() < 0.0)
        };
        let tuner = self.tuner.lock().unwrap().take();
        let mut tuner = match tuner {
            Some(tuner) => tuner,
            None => self.tuner(time)?,
        };
        // Backwards, decoders begin anew with every group of pictures.
        if buffer.flags().contains(gst::BufferFlags::DISCONT) && !is_backwards {
            tuner.disconnect();
        }
        let result = tuner.push(buffer, time.nseconds(), &cancel);
        let told = self.tell(&mut tuner, result);
        *self.tuner.lock().unwrap() = Some(tuner);
        told
    }

    /// Lets everything out that is on its way, the last frame for its full time. `is_cut` ends the output there; else it
    /// may go on with frames at the times that come next.
    fn drain(&self, is_cut: bool) -> Result<(), gst::FlowError> {
        let Some(mut tuner) = self.tuner.lock().unwrap().take() else { return Ok(()) };
        tuner.finish(is_cut);
        let result = self.push_all(&mut tuner);
        let mut state = self.state.lock().unwrap();
        state.counts = sum(state.counts, tuner.counts());
        state.shown = state.counts;
        if let Some(run) = &mut state.run {
            run.ended = Some(tuner.into_ended());
        }
        result
    }

    /// The same, where nothing goes on.
    fn end(&self) {
        let _ = self.drain(true);
        if let Some(run) = &mut self.state.lock().unwrap().run {
            run.begin_anew();
        }
    }

    /// Pushes what is known.
    fn push_all(&self, tuner: &mut Tuner) -> Result<(), gst::FlowError> {
        let cancel = self.state.lock().unwrap().cancel.clone();
        loop {
            let next = tuner.next(&cancel);
            let Some(buffer) = self.tell(tuner, next)? else { return Ok(()) };
            self.obj().src_pad().push(buffer)?;
        }
    }

    /// Holds the last frame over a gap. False if there is none.
    fn hold(&self, time: gst::ClockTime, duration: Option<gst::ClockTime>) -> bool {
        let Some(mut tuner) = self.tuner.lock().unwrap().take() else { return false };
        let end = time + duration.unwrap_or_default();
        let end = self.state.lock().unwrap().run.as_mut().map(|run| {
            let (is_backwards, begin) = (run.segment.rate() < 0.0, run.planned(time, end));
            if is_backwards { begin + (end - time) } else { end }
        });
        if let Some(end) = end {
            tuner.hold(end.nseconds());
            // What is wrong is told when a frame comes.
            let _ = self.push_all(&mut tuner);
        }
        *self.tuner.lock().unwrap() = Some(tuner);
        true
    }

    /// The output's segment for one of the input.
    fn segment(&self, event: &gst::event::Segment) -> Option<gst::Event> {
        let segment = event.segment().downcast_ref::<gst::ClockTime>()?.clone();
        // The same once more is no jump.
        let is_same = self.state.lock().unwrap().run.as_ref().is_some_and(|run| run.segment == segment);
        if !is_same {
            self.end();
        }
        let mut state = self.state.lock().unwrap();
        let run = state.run.as_mut()?;
        run.segment = segment.clone();
        if !run.is_stretched() {
            return None;
        }
        let mut output = segment;
        let stretched = |time: Option<gst::ClockTime>| time.and_then(|time| run.stretched(time, false));
        let (start, stop, time) = (stretched(output.start()), stretched(output.stop()), stretched(output.time()));
        let (base, offset) = (stretched(output.base()), stretched(output.offset()));
        output.set_base(base.or(output.base()));
        output.set_offset(offset.or(output.offset()));
        output.set_start(start.or(output.start()));
        output.set_stop(stop);
        output.set_time(time.or(output.time()));
        output.set_position(output.start());
        output.set_duration(gst::ClockTime::NONE);
        let seqnum = event.seqnum();
        Some(gst::event::Segment::builder(&output).seqnum(seqnum).build())
    }
}

impl Plan {
    /// How long a frame of the input lasts, by its rate.
    fn frame(&self) -> Option<gst::ClockTime> {
        let rate = self.settings.input_rate?;
        gst::ClockTime::SECOND.mul_div_floor(rate.denom(), rate.numer())
    }
}

fn sum(a: Counts, b: Counts) -> Counts {
    Counts {
        input: a.input + b.input,
        output: a.output + b.output,
        duplicated: a.duplicated + b.duplicated,
        interpolated: a.interpolated + b.interpolated,
        dropped: a.dropped + b.dropped,
    }
}

#[glib::object_subclass]
impl ObjectSubclass for FrameRateTune {
    const NAME: &'static str = "GstFrameRateTune";
    type Type = super::FrameRateTune;
    type ParentType = gst_base::BaseTransform;
}

impl ObjectImpl for FrameRateTune {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(settings::properties);
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        self.settings.lock().unwrap().set(pspec.name(), value);
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let counts = self.state.lock().unwrap().shown;
        self.settings.lock().unwrap().get(pspec.name(), &counts)
    }

    fn constructed(&self) {
        self.parent_constructed();
        // A slow filter before a sink that keeps time would drop most frames, and say nothing.
        self.obj().set_qos(false);
    }
}

impl GstObjectImpl for FrameRateTune {}

impl ElementImpl for FrameRateTune {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Frame rate tuner",
                "Filter/Effect/Video",
                "Changes the frame rate and the speed of video, with RIFE between frames",
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

impl BaseTransformImpl for FrameRateTune {
    const MODE: BaseTransformMode = BaseTransformMode::NeverInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = self.settings.lock().unwrap().clone().configured()?;
        let run = self.prepare(settings)?;
        *self.state.lock().unwrap() = State { run: Some(run), ..State::default() };
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        let run = self.state.lock().unwrap().run.take();
        *self.tuner.lock().unwrap() = None;
        if let Some(run) = run {
            // The model's thread ends by itself.
            run.setup.closing.cancel();
        }
        Ok(())
    }

    fn transform_caps(
        &self,
        direction: gst::PadDirection,
        caps: &gst::Caps,
        filter: Option<&gst::Caps>,
    ) -> Option<gst::Caps> {
        let running = self.state.lock().unwrap().run.as_ref().map(|run| run.setup.settings.rate());
        let fps = running.unwrap_or_else(|| self.settings.lock().unwrap().rate());
        let others = caps::transform(direction, caps, fps);
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&others, gst::CapsIntersectMode::First),
            None => others,
        })
    }

    fn accept_caps(&self, direction: gst::PadDirection, caps: &gst::Caps) -> bool {
        // Nothing that asks is offered fields; who does not ask is told in `set_caps` what would help.
        let is_interlaced = VideoInfo::from_caps(caps).is_ok_and(|info| info.is_interlaced());
        let is_taken = direction == gst::PadDirection::Sink && is_interlaced;
        is_taken || self.parent_accept_caps(direction, caps)
    }

    fn fixate_caps(&self, direction: gst::PadDirection, caps: &gst::Caps, mut others: gst::Caps) -> gst::Caps {
        let rate = caps.structure(0).and_then(|caps| caps.get::<gst::Fraction>("framerate").ok());
        let rate = rate.filter(|rate| rate.numer() > 0).unwrap_or(gst::Fraction::new(25, 1));
        others.truncate();
        if let Some(structure) = others.make_mut().structure_mut(0) {
            structure.fixate_field_nearest_fraction("framerate", rate);
        }
        self.parent_fixate_caps(direction, caps, others)
    }

    fn set_caps(&self, incaps: &gst::Caps, outcaps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let info =
            |caps: &gst::Caps| VideoInfo::from_caps(caps).map_err(|_| gst::loggable_error!(CAT, "not video: {caps}"));
        let (input, output) = (info(incaps)?, info(outcaps)?);
        let layout = video::layout(&input).ok_or_else(|| gst::loggable_error!(CAT, "unknown pixels: {incaps}"))?;
        if input.is_interlaced() {
            // Caps need not name a mode, so an element before may not have asked.
            let _ = self.fail(gst::error_msg!(
                gst::StreamError::Format,
                (
                    "interlace-mode={} is not possible: fields have no time between; put a deinterlace element before",
                    input.interlace_mode().to_str()
                )
            ));
            return Err(gst::loggable_error!(CAT, "interlaced video"));
        }
        let rate_out = fraction(output.fps()).ok_or_else(|| gst::loggable_error!(CAT, "no rate: {outcaps}"))?;
        let input_rate = fraction(input.fps());
        let known = self.state.lock().unwrap().run.as_ref().map(|run| {
            let Run { setup, worker, plan, .. } = run;
            (setup.clone(), worker.clone(), plan.clone())
        });
        let (setup, mut worker, before) =
            known.ok_or_else(|| gst::loggable_error!(CAT, "caps for an element that is not running"))?;
        let speed = fraction(setup.settings.speed).unwrap_or(Fraction::ONE);
        let (mode, means, is_missing) = self.means(&setup, &mut worker, rises(input_rate, speed, rate_out));
        let stretch = match (mode, input_rate) {
            (timing::Mode::Retime, Some(input)) => ratio(input, rate_out),
            (timing::Mode::Retime, None) => None,
            _ => Some((speed.denom(), speed.numer())),
        };
        // A frame is known with the next one, or with the next that differs.
        let longest = setup.settings.max_gap.nseconds();
        let latency = match (mode, input_rate) {
            (timing::Mode::Retime, _) => None,
            (_, None) => Some(longest),
            (_, Some(rate)) => {
                let frame = gst::ClockTime::SECOND.nseconds() * rate.denom() / rate.numer();
                let repeats = if mode == timing::Mode::Interpolate { setup.settings.max_repeats as u64 } else { 0 };
                let known = frame.saturating_mul(repeats + 1).min(longest.max(frame));
                // And how long the output's frame lasts, with the one behind it.
                Some(known.max(gst::ClockTime::SECOND.nseconds() * rate_out.denom() / rate_out.numer()))
            }
        };
        let repeats = setup.settings.max_repeats as u32;
        let settings =
            timing::Settings { speed, input_rate, longest, repeats, ..timing::Settings::new(mode, rate_out) };
        gst::info!(CAT, imp = self, "{settings:?}");
        if let Some(before) = before {
            if before.format.info == input && before.settings == settings {
                return Ok(());
            }
            // Frames of before come out before the caps of those to come.
            let is_cut = !before.settings.is_same_output(&settings);
            if let Err(err) = self.drain(is_cut) {
                gst::debug!(CAT, imp = self, "{err:?} before new caps");
            }
        }
        let format = Arc::new(Format { info: input, layout, means, params: setup.settings.params });
        let is_missing = {
            let mut state = self.state.lock().unwrap();
            let run = state.run.as_mut();
            let run = run.ok_or_else(|| gst::loggable_error!(CAT, "caps for an element that has stopped"))?;
            run.worker = worker;
            run.plan = Some(Plan { format, settings, stretch, latency });
            is_missing && !std::mem::replace(&mut run.has_fallen_back, true)
        };
        let obj = self.obj();
        if is_missing {
            let text = "there is no RIFE model, so frames are duplicated where the rate rises; model-path can name one";
            let error = glib::Error::new(gst::LibraryError::Settings, text);
            let _ = obj.post_message(gst::message::Info::builder_from_error(error).src(&*obj).build());
        }
        let _ = obj.post_message(gst::message::Latency::builder().src(&*obj).build());
        Ok(())
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        if let (gst::PadDirection::Sink, gst::QueryView::Drain(_)) = (direction, query.view()) {
            let _ = self.drain(false);
        }
        let answered = BaseTransformImplExt::parent_query(self, direction, query);
        if !answered || direction != gst::PadDirection::Src {
            return answered;
        }
        let state = self.state.lock().unwrap();
        let Some(run) = &state.run else { return answered };
        match query.view_mut() {
            gst::QueryViewMut::Latency(query) => {
                let latency = run.plan.as_ref().and_then(|plan| plan.latency).map(gst::ClockTime::from_nseconds);
                if let Some(more) = latency {
                    let (is_live, min, max) = query.result();
                    query.set(is_live, min.saturating_add(more), max.map(|max| max.saturating_add(more)));
                }
            }
            gst::QueryViewMut::Position(query) if run.is_stretched() => {
                if let Some(time) = run.stretched_value(query.result()) {
                    query.set(time);
                }
            }
            gst::QueryViewMut::Duration(query) if run.is_stretched() => {
                if let Some(time) = run.stretched_value(query.result()) {
                    query.set(time);
                }
            }
            gst::QueryViewMut::Segment(query) if run.is_stretched() => {
                let (rate, start, stop) = query.result();
                let [start, stop] = [start, stop].map(|value| run.stretched_value(value).unwrap_or(value));
                query.set(rate, start, stop);
            }
            gst::QueryViewMut::Seeking(query) if run.is_stretched() => {
                let (is_seekable, start, stop) = query.result();
                let [start, stop] = [start, stop].map(|value| run.stretched_value(value).unwrap_or(value));
                query.set(is_seekable, start, stop);
            }
            _ => {}
        }
        answered
    }

    fn src_event(&self, event: gst::Event) -> bool {
        let seek = match event.view() {
            gst::EventView::Seek(seek) => seek,
            // Whatever decoders leave out is filled up here: nothing is gained by it.
            gst::EventView::Qos(_) if !self.obj().property::<bool>("qos") => return true,
            _ => return self.parent_src_event(event),
        };
        let (rate, flags, start_type, start, stop_type, stop) = seek.get();
        let changed = {
            let state = self.state.lock().unwrap();
            let back = |value: gst::GenericFormattedValue| match (value, &state.run) {
                (gst::GenericFormattedValue::Time(Some(time)), Some(run)) if run.is_stretched() => {
                    run.stretched(time, true).map(gst::GenericFormattedValue::from)
                }
                _ => None,
            };
            (back(start), back(stop))
        };
        if let (None, None) = changed {
            return self.parent_src_event(event);
        }
        let (start, stop) = (changed.0.unwrap_or(start), changed.1.unwrap_or(stop));
        let (gst::GenericFormattedValue::Time(start), gst::GenericFormattedValue::Time(stop)) = (start, stop) else {
            return self.parent_src_event(event);
        };
        let seek = gst::event::Seek::builder(rate, flags, start_type, start, stop_type, stop).seqnum(event.seqnum());
        self.parent_src_event(seek.build())
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
        let mut event = event;
        match event.view() {
            gst::EventView::FlushStart(_) => self.interrupt(),
            gst::EventView::FlushStop(_) => self.resume(),
            gst::EventView::Segment(segment) => {
                if segment.segment().format() != gst::Format::Time {
                    let seen = segment.segment().format();
                    let _ = self.fail(gst::error_msg!(
                        gst::StreamError::Format,
                        ("a segment in {seen:?} has no times: use one in time")
                    ));
                    return false;
                }
                if let Some(changed) = self.segment(segment) {
                    event = changed;
                }
            }
            gst::EventView::Eos(_) | gst::EventView::StreamStart(_) => self.end(),
            gst::EventView::SegmentDone(done) => {
                self.end();
                if let gst::GenericFormattedValue::Time(Some(time)) = done.get()
                    && let Some(time) = self.stretched(time)
                {
                    event = gst::event::SegmentDone::builder(time).seqnum(done.seqnum()).build();
                }
            }
            gst::EventView::Gap(gap) => {
                let (time, duration) = gap.get();
                if self.hold(time, duration) {
                    return true;
                }
                if let Some(time) = self.stretched(time) {
                    let duration = duration.and_then(|duration| self.stretched(duration));
                    event = gst::event::Gap::builder(time).duration(duration).seqnum(gap.seqnum()).build();
                }
            }
            _ => {}
        }
        self.parent_sink_event(event)
    }

    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        if let Some(buffer) = self.take_queued_buffer() {
            self.take(buffer)?;
        }
        let Some(mut tuner) = self.tuner.lock().unwrap().take() else { return Ok(GenerateOutputSuccess::NoOutput) };
        let cancel = self.state.lock().unwrap().cancel.clone();
        let next = tuner.next(&cancel);
        let next = self.tell(&mut tuner, next);
        *self.tuner.lock().unwrap() = Some(tuner);
        let next = next?;
        Ok(next.map_or(GenerateOutputSuccess::NoOutput, GenerateOutputSuccess::Buffer))
    }
}

/// Whether more frames go out than come in.
fn rises(input: Option<Fraction>, speed: Fraction, output: Fraction) -> bool {
    let Some(input) = input else { return true };
    let comes = u128::from(input.numer()) * u128::from(speed.numer()) * u128::from(output.denom());
    // At most 2^31 each.
    let goes = u128::from(output.numer()) * u128::from(input.denom()) * u128::from(speed.denom());
    goes > comes
}

/// `a` / `b`.
fn ratio(a: Fraction, b: Fraction) -> Option<(u64, u64)> {
    Some((a.numer().checked_mul(b.denom())?, a.denom().checked_mul(b.numer())?))
}
