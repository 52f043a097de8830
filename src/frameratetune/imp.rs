// SPDX-License-Identifier: MPL-2.0
//! The element's virtual functions: frames and their times in, frames at the output's times out.

use std::sync::{Arc, LazyLock, Mutex};

use glib::subclass::prelude::*;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::BaseTransformMode;
use gst_base::subclass::base_transform::GenerateOutputSuccess;
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;

use super::caps;
use super::run::{Negotiated, Run, Setup};
use super::settings::{self, Mode, Settings, fraction};
use super::tuner::{Clock, Ended, Format, Means, Tail, Tuner};
use crate::engine::device::DeviceChoice;
use crate::engine::rife::{Model, inspect};
use crate::engine::worker::{Cancel, Worker};
use crate::engine::{Error, Result};
use crate::timing::{self, Counts, Fraction, Planner};
use crate::{errors, filter, progress, video};

static CAT: LazyLock<gst::DebugCategory> =
    LazyLock::new(|| gst::DebugCategory::new("frameratetune", gst::DebugColorFlags::empty(), Some("Frame rate tuner")));

/// The latency for input without a rate is no longer than this, in nanoseconds.
const LATEST: u64 = 10_000_000_000;
/// Buffers of the input that are kept at once: two, one that waits to be pushed, and the next.
const KEPT: u32 = 4;

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

impl FrameRateTune {
    /// Everything that can be known at once.
    fn prepare(&self, settings: Settings) -> Result<Run, gst::ErrorMessage> {
        let error = |err: Error| errors::message(&err);
        settings.validate().map_err(error)?;
        let choice: DeviceChoice = settings.device().parse().map_err(error)?;
        let device = choice.resolve().map_err(error)?;
        let kind = settings.precision().kind(device);
        let may_interpolate = matches!(settings.mode, Mode::Auto | Mode::Interpolate);
        let model = match settings.model_file() {
            _ if !may_interpolate => None,
            Ok(path) => Some(path),
            // Nobody has asked for it.
            Err(_) if settings.mode == Mode::Auto && settings.model_path.is_none() => None,
            Err(err) => return Err(error(err)),
        };
        if let Some(path) = &model {
            inspect(path).map_err(error)?;
        }
        Ok(Run::new(Setup { settings, device, kind, model, closing: Cancel::default() }))
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

    fn is_stretched(&self) -> bool {
        self.state.lock().unwrap().run.as_ref().is_some_and(Run::is_stretched)
    }

    /// Ends the frame in work, and those that come before [`Self::resume`].
    fn interrupt(&self) {
        self.state.lock().unwrap().cancel.cancel();
    }

    /// The output's time for one of the input, if it is another.
    fn stretched(&self, time: gst::ClockTime) -> Option<gst::ClockTime> {
        self.state.lock().unwrap().run.as_ref().filter(|run| run.is_stretched())?.stretched(time)
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
            state.counts += before.counts();
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
            state.shown = state.counts;
            state.shown += tuner.counts();
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
        let (negotiated, ended, begin, stretched, mirror, stop, reached) = {
            let mut state = self.state.lock().unwrap();
            let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
            if run.has_failed {
                return Err(gst::FlowError::Error);
            }
            let negotiated = run.negotiated.clone().ok_or(gst::FlowError::NotNegotiated)?;
            let ended = run.ended.take();
            let (start, stop) = (run.segment.start().unwrap_or_default(), run.segment.stop());
            let from = stop.or(run.backwards_from).filter(|_| run.is_backwards());
            let (start, stop) =
                from.map_or((start, stop), |from| (gst::ClockTime::ZERO, Some(from.saturating_sub(start))));
            // From the segment's start; but long before the first frame there is nothing to show.
            let begin = if time < start.saturating_add(gst::ClockTime::SECOND) { start } else { time };
            let stretched = |time| if run.is_stretched() { run.stretched(time).unwrap_or(time) } else { time };
            let (stretched, mirror) = (stretched(begin), from.map(|from| stretched(from).nseconds()));
            (negotiated, ended, begin, stretched, mirror, stop, run.reached)
        };
        let settings = timing::Settings { stop: stop.map(gst::ClockTime::nseconds), ..negotiated.settings };
        let (mut planner, clock) = match ended {
            Some(Ended { planner, clock, tail }) => {
                let (planner, more) = planner.follow(settings, time.nseconds(), tail == Tail::Cut).map_err(fail)?;
                (planner, Clock { offset: clock.offset + more, ..clock })
            }
            None => {
                let settings = timing::Settings { origin: Some(begin.nseconds()), ..settings };
                let offset = i128::from(stretched.nseconds()) - i128::from(begin.nseconds());
                (Planner::new(settings).map_err(fail)?, Clock { offset, mirror })
            }
        };
        planner.skip(reached.nseconds());
        Ok(Tuner::new(negotiated.format, planner, clock))
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
            let is_backwards = run.is_backwards();
            if is_backwards && run.segment.stop().is_some_and(|stop| time >= stop) {
                // It is before what is wanted.
                state.counts += Counts { input: 1, dropped: 1, ..Counts::default() };
                return Ok(());
            }
            let lasts = buffer.duration().filter(|lasts| !lasts.is_zero());
            let lasts = lasts.or(run.negotiated.as_ref().and_then(Negotiated::frame)).unwrap_or_default();
            (cancel, run.mirrored(time, time.saturating_add(lasts)), is_backwards)
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

    /// Lets everything out that is on its way, the last frame for its full time.
    fn drain(&self, tail: Tail) -> Result<(), gst::FlowError> {
        let Some(mut tuner) = self.tuner.lock().unwrap().take() else { return Ok(()) };
        tuner.finish(tail);
        let result = self.push_all(&mut tuner);
        let mut state = self.state.lock().unwrap();
        state.counts += tuner.counts();
        state.shown = state.counts;
        if let Some(run) = &mut state.run {
            run.ended = Some(tuner.into_ended());
        }
        result
    }

    /// The same at the end of a stream. If its segment goes on after all, so do the output's times.
    fn end(&self) {
        let _ = self.drain(Tail::Cut);
        if let Some(ended) = self.state.lock().unwrap().run.as_mut().and_then(|run| run.ended.as_mut()) {
            ended.tail = Tail::Whole;
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
        let end = time.saturating_add(duration.unwrap_or_default());
        let tuner = self.tuner.lock().unwrap().take();
        {
            let mut state = self.state.lock().unwrap();
            let Some(run) = &mut state.run else { return false };
            let begin = run.mirrored(time, end);
            run.reached = run.reached.max(begin.saturating_add(end.saturating_sub(time)));
        }
        let Some(mut tuner) = tuner else { return false };
        let reached = self.state.lock().unwrap().run.as_ref().map_or(end, |run| run.reached);
        tuner.hold(reached.nseconds());
        // What is wrong is told when a frame comes.
        let _ = self.push_all(&mut tuner);
        *self.tuner.lock().unwrap() = Some(tuner);
        true
    }

    /// The output's segment for one of the input.
    fn segment(&self, event: &gst::event::Segment) -> Option<gst::Event> {
        let segment = event.segment().downcast_ref::<gst::ClockTime>()?.clone();
        let goes_on = self.state.lock().unwrap().run.as_ref().is_some_and(|run| run.goes_on(&segment));
        if !goes_on {
            self.end();
        }
        let mut state = self.state.lock().unwrap();
        let run = state.run.as_mut()?;
        if !goes_on {
            run.begin_anew();
        }
        let output = run.enter(segment)?;
        Some(gst::event::Segment::builder(&output).seqnum(event.seqnum()).build())
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
            let Run { setup, worker, negotiated, .. } = run;
            (setup.clone(), worker.clone(), negotiated.clone())
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
        // A frame is known with the next one, or with the next that differs; and how long the output's frame lasts, with
        // the one behind it.
        let longest = setup.settings.max_gap;
        let lasts = gst::ClockTime::SECOND.nseconds() * rate_out.denom() / rate_out.numer();
        let latency = match (mode, input_rate) {
            (timing::Mode::Retime, _) => None,
            (_, None) => Some(longest.min(LATEST).max(lasts)),
            (_, Some(rate)) => {
                let frame = (gst::ClockTime::SECOND.nseconds() * rate.denom() / rate.numer()).max(1);
                let repeats = if mode == timing::Mode::Interpolate { setup.settings.max_repeats as u64 } else { 0 };
                let frames = (repeats + 1).min(longest.div_ceil(frame)).max(1);
                Some(frame.saturating_mul(frames).max(lasts))
            }
        };
        let repeats = setup.settings.max_repeats as u32;
        let settings =
            timing::Settings { speed, input_rate, longest, repeats, ..timing::Settings::new(mode, rate_out) };
        gst::info!(CAT, imp = self, "{settings:?}");
        if let Some(before) = before {
            if before.caps == *incaps && before.settings == settings {
                return Ok(());
            }
            // Frames of before come out before the caps of those to come.
            let tail = if before.settings.is_same_output(&settings) { Tail::Whole } else { Tail::Cut };
            if let Err(err) = self.drain(tail) {
                gst::debug!(CAT, imp = self, "{err:?} before new caps");
            }
        }
        let format = Arc::new(Format { info: input, layout, means, params: setup.settings.params });
        let is_missing = {
            let mut state = self.state.lock().unwrap();
            let run = state.run.as_mut();
            let run = run.ok_or_else(|| gst::loggable_error!(CAT, "caps for an element that has stopped"))?;
            run.worker = worker;
            run.negotiated = Some(Negotiated { caps: incaps.clone(), format, settings, stretch, latency });
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
            let _ = self.drain(Tail::Whole);
        }
        let answered = BaseTransformImplExt::parent_query(self, direction, query);
        if !answered || direction != gst::PadDirection::Src {
            return answered;
        }
        let state = self.state.lock().unwrap();
        let Some(run) = &state.run else { return answered };
        match query.view_mut() {
            gst::QueryViewMut::Latency(query) => {
                let latency = run
                    .negotiated
                    .as_ref()
                    .and_then(|negotiated| negotiated.latency)
                    .map(gst::ClockTime::from_nseconds);
                if let Some(more) = latency {
                    let (is_live, min, max) = query.result();
                    query.set(is_live, min.saturating_add(more), max.map(|max| max.saturating_add(more)));
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
            // Whatever decoders leave out is filled up here: nothing is gained by it. And the base class compares the
            // input's times with the output's.
            gst::EventView::Qos(_) if !self.obj().property::<bool>("qos") || self.is_stretched() => return true,
            _ => return self.parent_src_event(event),
        };
        let (rate, flags, start_type, start, stop_type, stop) = seek.get();
        let changed = {
            let state = self.state.lock().unwrap();
            let Some(run) = state.run.as_ref().filter(|run| run.is_stretched()) else {
                drop(state);
                return self.parent_src_event(event);
            };
            let shrunk = |kind, value| run.shrunk_value(value, kind == gst::SeekType::End).unwrap_or(value);
            (shrunk(start_type, start), shrunk(stop_type, stop))
        };
        let (gst::GenericFormattedValue::Time(start), gst::GenericFormattedValue::Time(stop)) = changed else {
            return self.parent_src_event(event);
        };
        let seek = gst::event::Seek::builder(rate, flags, start_type, start, stop_type, stop)
            .trickmode_interval(seek.trickmode_interval())
            .seqnum(event.seqnum());
        self.parent_src_event(seek.build())
    }

    fn propose_allocation(
        &self,
        decide_query: Option<&gst::query::Allocation>,
        query: &mut gst::query::Allocation,
    ) -> Result<(), gst::LoggableError> {
        // Frames pass as they are, so only downstream can say how their rows may lie; but some of them are kept.
        self.parent_propose_allocation(decide_query, query)?;
        let size =
            self.state.lock().unwrap().run.as_ref().and_then(|run| run.negotiated.as_ref().map(Negotiated::size));
        if let Some(size) = size {
            query.add_allocation_pool(None::<&gst::BufferPool>, size as u32, KEPT, 0);
        }
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
