// SPDX-License-Identifier: MPL-2.0
//! The element's pads: pictures are queued as clips in the making on one, frames leave on the other from a thread of
//! its own, so that a clip is made while the one before it is shown.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, LazyLock, Mutex};

use glib::subclass::prelude::*;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_video::{VideoInfo, VideoInterlaceMode};

use crate::errors;
use crate::svd::clip::{Clip, Order, Outcome, Since};
use crate::svd::keyframe::Keyframe;
use crate::svd::plan::{Plan, template};
use crate::svd::preview::{self, Preview};
use crate::svd::session::Session;
use crate::svd::settings::{Settings, shared_properties};
use crate::svd::{Presets, frame_buffer, init_preset, time};

/// Clips that wait or are given out: one that is shown, and one ahead.
const CLIPS: usize = 2;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("svdanimate", gst::DebugColorFlags::empty(), Some("Stable Video Diffusion filter"))
});

/// The element. No lock is held while anything is waited for, posted, pushed or queried, except `state` by `changed`.
/// Where two are held, they were taken in this order: `settings`, `state`.
pub struct SvdAnimate {
    sinkpad: gst::Pad,
    srcpad: gst::Pad,
    settings: Mutex<Settings>,
    state: Mutex<State>,
    preview: Arc<Preview>,
    /// The queue is longer or shorter, or `is_flushing` was set.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    session: Option<Arc<Session>>,
    /// Where nothing may wait.
    is_flushing: bool,
    /// The stream has ended downstream or with an error: what upstream is told of it.
    ended: Option<gst::FlowError>,
    /// What is to be pushed, in order.
    queue: VecDeque<Item>,
    /// Events that a flush has met on their way, and that count behind it, too.
    kept: Vec<gst::Event>,
    /// The caps of the pictures.
    pictures: Option<gst::Caps>,
    segment: gst::FormattedSegment<gst::ClockTime>,
    /// What downstream has chosen.
    chosen: Option<VideoInfo>,
    /// The last plan that was possible.
    plan: Option<Plan>,
    /// The last warning about properties; one is enough.
    warned: String,
    /// Clips that were begun.
    clips: u64,
    /// The clip that has the seed that was set.
    seeded: Since,
    /// What the source pad's thread has done.
    output: Output,
}

/// Where the output stands.
#[derive(Default, Clone)]
struct Output {
    /// Where the clips begin that follow one another without a gap.
    origin: gst::ClockTime,
    /// Frames of these clips.
    since: u64,
    /// Frames of all clips.
    frames: u64,
    /// The format of the frames, once a CAPS event was pushed.
    info: Option<VideoInfo>,
    has_segment: bool,
    is_begun: bool,
    /// Events that came before the first picture, and must not leave before caps and segment.
    held: Vec<gst::Event>,
}

impl Output {
    /// The end of the last frame.
    fn end(&self) -> gst::ClockTime {
        let time = self.info.as_ref().and_then(|info| time(self.since, info.fps()));
        self.origin + time.unwrap_or_default()
    }
}

/// Ends the work on what was queued.
fn interrupt(items: &[Item]) {
    for item in items {
        if let Item::Clip(clip, ..) = item {
            clip.interrupt();
        }
    }
}

impl State {
    /// Keeps an event that is met by a flush, if it says something of the stream that comes after it.
    fn keep(&mut self, event: gst::Event) {
        if event.is_sticky() && event.type_() != gst::EventType::Eos {
            self.kept.push(event);
        }
    }

    /// Why nothing is taken any more, if that is so.
    fn stopped(&self) -> Option<gst::FlowError> {
        if self.is_flushing { Some(gst::FlowError::Flushing) } else { self.ended }
    }
}

#[derive(Clone)]
enum Item {
    /// A clip, its number, its picture's running time, and the format of its frames.
    Clip(Arc<Clip>, u64, gst::ClockTime, VideoInfo),
    Event(gst::Event),
}

impl SvdAnimate {
    /// Takes a picture: begins its clip, as soon as there is room for one.
    fn take(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let (session, caps, start) = {
            let state = self.state.lock().unwrap();
            let is_full = |state: &mut State| {
                let clips = state.queue.iter().filter(|item| matches!(item, Item::Clip(..))).count();
                clips >= CLIPS && !state.is_flushing && state.ended.is_none()
            };
            let state = self.changed.wait_while(state, is_full).unwrap();
            if let Some(err) = state.stopped() {
                return Err(err);
            }
            let session = state.session.clone().ok_or(gst::FlowError::Flushing)?;
            let caps = state.pictures.clone().ok_or(gst::FlowError::NotNegotiated)?;
            let start = buffer.pts().and_then(|pts| state.segment.to_running_time(pts)).unwrap_or_default();
            (session, caps, start)
        };
        self.check(&caps)?;
        let info = self.negotiate(&session)?;
        let keyframe = Keyframe::Sample(gst::Sample::builder().buffer(&buffer).caps(&caps).build());
        let number = self.state.lock().unwrap().clips;
        let order = self.order(&session, keyframe, &info, start, number)?;
        let mut state = self.state.lock().unwrap();
        if let Some(err) = state.stopped() {
            return Err(err);
        }
        let clip = self.begin(&session, order, number, state.queue.is_empty());
        state.clips += 1;
        state.queue.push_back(Item::Clip(clip, number, start, info));
        self.changed.notify_all();
        Ok(gst::FlowSuccess::Ok)
    }

    fn begin(&self, session: &Session, order: Order, number: u64, is_awaited: bool) -> Arc<Clip> {
        gst::debug!(CAT, imp = self, "clip {number}: {:?}", order.params);
        session.begin(order, number, is_awaited)
    }

    /// What the clip of a picture is to be, as the properties are now. What is not possible is left as it was, with a
    /// warning.
    fn order(
        &self,
        session: &Session,
        keyframe: Keyframe,
        info: &VideoInfo,
        start: gst::ClockTime,
        number: u64,
    ) -> Result<Order, gst::FlowError> {
        let obj = self.obj();
        let element = obj.upcast_ref::<gst::Element>();
        let is_driven = element.control_binding("seed").is_some();
        let (settings, after_seed) = {
            // Together: what is set between the two would count from a clip on that does not have it.
            let settings = self.settings.lock().unwrap();
            let seeded = self.state.lock().unwrap().seeded.order(settings.seedings, number);
            (settings.clone(), number - seeded)
        };
        let settings = settings.on(&session.settings).at(element, start);
        let mut wrong = String::new();
        let plan = session.plan(&settings).map_err(|err| wrong = errors::text(&err));
        let is_told = {
            let warned = &mut self.state.lock().unwrap().warned;
            wrong.is_empty() || std::mem::replace(warned, wrong.clone()) == wrong
        };
        if !is_told {
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{wrong}; the next clip is made as before"));
        }
        let mut state = self.state.lock().unwrap();
        if let Ok(plan) = plan {
            state.plan = Some(plan);
        }
        let plan = state.plan.as_ref().ok_or(gst::FlowError::Flushing)?;
        let params = plan.params(info, if is_driven { 0 } else { after_seed });
        Ok(Order { frames: 0..params.num_frames as usize, params, fps: info.fps(), keyframe, skip: 0, link: None })
    }

    /// Agrees with downstream on size and rate; once, and again when downstream asks for it.
    fn negotiate(&self, session: &Session) -> Result<VideoInfo, gst::FlowError> {
        let is_asked = self.srcpad.check_reconfigure();
        if let (false, Some(info)) = (is_asked, self.state.lock().unwrap().chosen.clone()) {
            return Ok(info);
        }
        let settings = self.settings.lock().unwrap().clone().on(&session.settings);
        let plan = session.plan(&settings).map_err(|err| self.fail(errors::message(&err)))?;
        let ours = plan.caps();
        let mut caps = self.srcpad.peer_query_caps(Some(&ours)).intersect(&ours);
        if caps.is_empty() {
            let theirs = self.srcpad.peer_query_caps(None);
            return Err(self.fail(gst::error_msg!(
                gst::CoreError::Negotiation,
                ("downstream wants {theirs}, which is not possible here: {}", plan.bound()),
                ["this element gives {ours}"]
            )));
        }
        plan.choose(&mut caps);
        let info = VideoInfo::from_caps(&caps).map_err(|_| gst::FlowError::NotNegotiated)?;
        gst::debug!(CAT, imp = self, "downstream takes {caps}");
        self.state.lock().unwrap().chosen = Some(info.clone());
        Ok(info)
    }

    /// Posts an error.
    fn fail(&self, message: gst::ErrorMessage) -> gst::FlowError {
        self.post_error_message(message);
        gst::FlowError::Error
    }

    /// Handles an event from upstream.
    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStart(_) => {
                self.stop_waiting();
                self.preview.flush_start();
                let is_pushed = self.srcpad.push_event(event);
                let _ = self.srcpad.pause_task();
                return is_pushed;
            }
            gst::EventView::FlushStop(stop) => {
                let sets_time = stop.resets_time();
                let kept = {
                    let mut state = self.state.lock().unwrap();
                    state.is_flushing = false;
                    state.ended = None;
                    state.segment = gst::FormattedSegment::new();
                    let output = std::mem::take(&mut state.output);
                    state.output.info = output.info;
                    output.held.into_iter().chain(std::mem::take(&mut state.kept)).collect::<Vec<_>>()
                };
                let is_pushed = self.srcpad.push_event(event);
                for event in kept {
                    // The pad pushes it before the next frame.
                    let _ = self.srcpad.store_sticky_event(&event);
                }
                self.preview.flush_stop(sets_time);
                return is_pushed && self.start().is_ok();
            }
            gst::EventView::Caps(caps) => {
                self.state.lock().unwrap().pictures = Some(caps.caps_owned());
                return true;
            }
            gst::EventView::Segment(segment) => {
                let Some(segment) = segment.segment().downcast_ref::<gst::ClockTime>() else {
                    let _ = self.fail(gst::error_msg!(gst::CoreError::Event, ("only streams of time are possible")));
                    return true;
                };
                // Clips have times of their own, so the segment that goes out is another one.
                self.state.lock().unwrap().segment = segment.clone();
                return true;
            }
            // A clip has no gaps.
            gst::EventView::Gap(_) => return true,
            _ if !event.is_serialized() => return self.srcpad.push_event(event),
            _ => {}
        }
        let mut state = self.state.lock().unwrap();
        if state.is_flushing {
            // Upstream would take a refusal for an error.
            state.keep(event);
            return true;
        }
        state.queue.push_back(Item::Event(event));
        self.changed.notify_all();
        drop(state);
        self.end_preview();
        true
    }

    /// Ends the preview, if the end of the pictures is queued, and all clips before it were found to be made: whoever mixes it with the
    /// clips must not wait for it.
    fn end_preview(&self) {
        let is_over = {
            let state = self.state.lock().unwrap();
            let is_made = |item: &Item| match item {
                Item::Clip(clip, ..) => clip.is_made(),
                Item::Event(_) => true,
            };
            let is_end = |item: &Item| matches!(item, Item::Event(event) if event.type_() == gst::EventType::Eos);
            state.queue.iter().any(is_end) && state.queue.iter().all(is_made)
        };
        if is_over {
            self.preview.finish();
        }
    }

    /// Checks the caps of the pictures. Not when they come: upstream would post an error of its own, which says less.
    fn check(&self, caps: &gst::Caps) -> Result<(), gst::FlowError> {
        let reason = match VideoInfo::from_caps(caps) {
            Ok(info) if info.interlace_mode() == VideoInterlaceMode::Progressive => return Ok(()),
            Ok(_) => "it is interlaced; put deinterlace before this element",
            Err(_) => "it is not raw video",
        };
        Err(self.fail(gst::error_msg!(gst::StreamError::Format, ("{caps} can't be taken: {reason}"))))
    }

    /// Ends every wait and all work.
    fn stop_waiting(&self) {
        let waiting: Vec<_> = {
            let mut state = self.state.lock().unwrap();
            state.is_flushing = true;
            self.changed.notify_all();
            let waiting: Vec<_> = state.queue.drain(..).collect();
            for item in &waiting {
                if let Item::Event(event) = item {
                    state.keep(event.clone());
                }
            }
            waiting
        };
        interrupt(&waiting);
    }

    /// Starts the thread that pushes.
    fn start(&self) -> Result<(), glib::BoolError> {
        let weak = self.downgrade();
        self.srcpad.start_task(move || {
            if let Some(imp) = weak.upgrade() {
                imp.work();
            }
        })
    }

    /// One turn of the thread that pushes: waits for what is next, and pushes all of it.
    fn work(&self) {
        let item = {
            let state = self.state.lock().unwrap();
            let is_empty = |state: &mut State| state.queue.is_empty() && !state.is_flushing;
            let state = self.changed.wait_while(state, is_empty).unwrap();
            // It stays in the queue until it is done: so that it counts, and is found by who ends the wait for it.
            state.queue.front().cloned()
        };
        let result = match &item {
            None => Err(gst::FlowError::Flushing),
            Some(Item::Event(event)) => {
                self.pass(event);
                Ok(())
            }
            Some(Item::Clip(clip, number, start, info)) => self.push(clip, *number, *start, info),
        };
        let mut state = self.state.lock().unwrap();
        if !state.is_flushing {
            state.queue.pop_front();
            self.changed.notify_all();
        }
        drop(state);
        if let Err(err) = result {
            self.end(err);
        }
    }

    /// Pushes an event, or holds it until there are caps.
    fn pass(&self, event: &gst::Event) {
        let is_eos = event.type_() == gst::EventType::Eos;
        if event.type_() != gst::EventType::StreamStart {
            let output = &mut self.state.lock().unwrap().output;
            if output.info.is_none() && !is_eos {
                return output.held.push(event.clone());
            }
        }
        if is_eos {
            self.begin_segment();
        }
        self.srcpad.push_event(event.clone());
        if is_eos {
            self.preview.finish();
        }
    }

    /// The thread that pushes can't go on.
    fn end(&self, err: gst::FlowError) {
        gst::debug!(CAT, imp = self, "the source pad's thread ends: {err}");
        let _ = self.srcpad.pause_task();
        if err == gst::FlowError::Flushing {
            return;
        }
        if err == gst::FlowError::NotLinked || err == gst::FlowError::NotNegotiated {
            gst::element_imp_error!(self, gst::StreamError::Failed, ("downstream does not take the clips: {err}"));
        }
        let waiting: Vec<_> = {
            let mut state = self.state.lock().unwrap();
            // Upstream would post an error of its own on any other, which says less.
            state.ended = Some(gst::FlowError::Eos);
            self.changed.notify_all();
            state.queue.drain(..).collect()
        };
        interrupt(&waiting);
        self.begin_segment();
        self.srcpad.push_event(gst::event::Eos::new());
        self.preview.finish();
    }

    /// Pushes a segment from 0 on, and the events that were held for it.
    fn begin_segment(&self) {
        let (is_new, held) = {
            let output = &mut self.state.lock().unwrap().output;
            (!std::mem::replace(&mut output.has_segment, true), std::mem::take(&mut output.held))
        };
        if is_new {
            let segment = gst::FormattedSegment::<gst::ClockTime>::new();
            self.srcpad.push_event(gst::event::Segment::new(&segment));
        }
        for event in held {
            self.srcpad.push_event(event);
        }
    }

    /// The clip whose turn has come; another one, if properties were set since it was begun.
    fn renewed(
        &self,
        session: &Session,
        clip: &Arc<Clip>,
        number: u64,
        start: gst::ClockTime,
        info: &VideoInfo,
    ) -> Result<Arc<Clip>, gst::FlowError> {
        let order = self.order(session, clip.order.keyframe.clone(), info, start, number)?;
        let mut state = self.state.lock().unwrap();
        if let Some(err) = state.stopped() {
            return Err(err);
        }
        if order.is(&clip.order) {
            return Ok(clip.clone());
        }
        clip.interrupt();
        let other = self.begin(session, order, number, true);
        if let Some(Item::Clip(queued, ..)) = state.queue.front_mut() {
            *queued = other.clone();
        }
        Ok(other)
    }

    /// Pushes the frames of a clip.
    fn push(
        &self,
        clip: &Arc<Clip>,
        number: u64,
        start: gst::ClockTime,
        info: &VideoInfo,
    ) -> Result<(), gst::FlowError> {
        let session = self.state.lock().unwrap().session.clone().ok_or(gst::FlowError::Flushing)?;
        let clip = &self.renewed(&session, clip, number, start, info)?;
        let mut output = self.state.lock().unwrap().output.clone();
        if output.info.as_ref() != Some(info) {
            let caps = info.to_caps().map_err(|_| gst::FlowError::NotNegotiated)?;
            if !self.srcpad.push_event(gst::event::Caps::new(&caps))
                && !self.srcpad.pad_flags().contains(gst::PadFlags::FLUSHING)
            {
                return Err(gst::FlowError::NotNegotiated);
            }
            // Another rate counts from where the one before has ended.
            (output.origin, output.since) = (output.end(), 0);
            output.info = Some(info.clone());
        }
        self.begin_segment();
        (output.has_segment, output.held) = (true, Vec::new());
        let summary = match clip.wait() {
            Outcome::Made(summary) => {
                self.end_preview();
                summary
            }
            Outcome::Failed(err) => return Err(self.fail(errors::message(&err))),
            Outcome::Interrupted => return Err(gst::FlowError::Flushing),
        };
        let stop = || self.state.lock().unwrap().is_flushing;
        let provenance = session.tell(&clip.order, number, &summary, &stop).ok_or(gst::FlowError::Flushing)?;
        if number == 0 {
            self.srcpad.push_event(gst::event::Tag::new(session.tags(provenance, false)));
        }
        if start > output.end() {
            (output.origin, output.since) = (start, 0);
        }
        while let Some(frame) = clip.next() {
            let pts = output.end();
            output.since += 1;
            let mut buffer = frame_buffer(frame, info).map_err(|err| self.fail(errors::message(&err)))?;
            {
                let buffer = buffer.get_mut().expect("a new buffer has one owner");
                buffer.set_pts(pts);
                buffer.set_duration(output.end() - pts);
                buffer.set_offset(output.frames);
                buffer.set_offset_end(output.frames + 1);
                if !output.is_begun {
                    buffer.set_flags(gst::BufferFlags::DISCONT);
                }
            }
            output.is_begun = true;
            output.frames += 1;
            {
                let mut state = self.state.lock().unwrap();
                if state.is_flushing {
                    return Err(gst::FlowError::Flushing);
                }
                state.output = output.clone();
            }
            self.srcpad.push(buffer)?;
        }
        Ok(())
    }
}

#[glib::object_subclass]
impl ObjectSubclass for SvdAnimate {
    const NAME: &'static str = "GstSvdAnimate";
    type Type = super::SvdAnimate;
    type ParentType = gst::Element;
    type Interfaces = (gst::Preset,);

    fn with_class(class: &Self::Class) -> Self {
        let template = |name| class.pad_template(name).expect("the class has its templates");
        let sinkpad = gst::Pad::builder_from_template(&template("sink"))
            .chain_function(|_, parent, buffer| {
                let taken =
                    Self::catch_panic_pad_function(parent, || Err(gst::FlowError::Error), |imp| imp.take(buffer));
                // Upstream would post an error of its own, which says less, and ends the stream in this way too.
                taken.map_err(|err| if err == gst::FlowError::Error { gst::FlowError::Eos } else { err })
            })
            .event_function(|_, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.sink_event(event))
            })
            .build();
        let srcpad = gst::Pad::builder_from_template(&template("src"))
            .activatemode_function(|pad, parent, _, is_active| {
                let failed = || Err(gst::loggable_error!(CAT, "panicked"));
                Self::catch_panic_pad_function(parent, failed, |imp| imp.activate(pad, is_active))
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.src_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |imp| imp.src_query(pad, query))
            })
            .build();
        Self {
            sinkpad,
            srcpad,
            settings: Mutex::default(),
            state: Mutex::default(),
            preview: Arc::default(),
            changed: Condvar::new(),
        }
    }
}

impl SvdAnimate {
    fn activate(&self, pad: &gst::Pad, is_active: bool) -> Result<(), gst::LoggableError> {
        if is_active {
            self.state.lock().unwrap().is_flushing = false;
            self.start().map_err(|err| gst::loggable_error!(CAT, "{err}"))
        } else {
            self.stop_waiting();
            pad.stop_task().map_err(|err| gst::loggable_error!(CAT, "{err}"))
        }
    }

    fn src_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        match event.view() {
            // A time of the clips is not a time of the pictures.
            gst::EventView::Seek(_) => false,
            gst::EventView::Qos(_) => true,
            _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Position(query) => {
                let output = self.state.lock().unwrap().output.clone();
                match query.format() {
                    gst::Format::Time => query.set(output.end()),
                    gst::Format::Default => query.set(gst::format::Default::from_u64(output.frames)),
                    _ => return false,
                }
                true
            }
            // How many pictures come is not known.
            gst::QueryViewMut::Duration(_) => false,
            gst::QueryViewMut::Seeking(query) => {
                let format = query.format();
                query.set(
                    false,
                    gst::GenericFormattedValue::none_for_format(format),
                    gst::GenericFormattedValue::none_for_format(format),
                );
                true
            }
            gst::QueryViewMut::Caps(query) => {
                let mut caps = match &self.state.lock().unwrap().plan {
                    Some(plan) => plan.caps(),
                    None => template(),
                };
                if let Some(filter) = query.filter_owned() {
                    caps = filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First);
                }
                query.set_result(&caps);
                true
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }
}

impl ObjectImpl for SvdAnimate {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(shared_properties);
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        self.settings.lock().unwrap().set(pspec.name(), value);
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        self.settings.lock().unwrap().get(pspec)
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        obj.add_pad(&self.sinkpad).expect("the element has no pad of that name yet");
        obj.add_pad(&self.srcpad).expect("the element has no pad of that name yet");
    }
}

impl GstObjectImpl for SvdAnimate {}

impl Presets for SvdAnimate {
    fn is_set(&self, name: &str) -> bool {
        self.settings.lock().unwrap().is_set(name)
    }
}

// SAFETY: sets functions that take an object of this class.
unsafe impl IsImplementable<SvdAnimate> for gst::Preset {
    fn interface_init(interface: &mut glib::Interface<Self>) {
        init_preset::<SvdAnimate>(interface);
    }
}

impl ElementImpl for SvdAnimate {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Stable Video Diffusion filter",
                "Filter/Effect/Video",
                "Makes a video clip from each picture with Stable Video Diffusion",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let raw = gst_video::VideoCapsBuilder::new().build();
            let always = |name, direction, caps: &gst::Caps| {
                gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps).expect("the template is valid")
            };
            vec![
                always("sink", gst::PadDirection::Sink, &raw),
                always("src", gst::PadDirection::Src, &template()),
                preview::template(),
            ]
        });
        &TEMPLATES
    }

    fn request_new_pad(
        &self,
        template: &gst::PadTemplate,
        _name: Option<&str>,
        _caps: Option<&gst::Caps>,
    ) -> Option<gst::Pad> {
        self.preview.request(self.obj().upcast_ref(), template)
    }

    fn release_pad(&self, pad: &gst::Pad) {
        self.preview.release(self.obj().upcast_ref(), pad);
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        match transition {
            gst::StateChange::ReadyToPaused => {
                let settings = self.settings.lock().unwrap().clone();
                let obj = self.obj();
                let opened = Session::open(obj.upcast_ref(), settings, &self.preview).and_then(|session| {
                    let plan = session.plan(&session.settings).map_err(|err| errors::message(&err))?;
                    Ok((session, plan))
                });
                let (session, plan) = opened.map_err(|message| {
                    self.post_error_message(message);
                    gst::StateChangeError
                })?;
                let seeded = Since::the_first(session.settings.seedings);
                self.preview.begin(false, plan.framerate());
                *self.state.lock().unwrap() =
                    State { session: Some(Arc::new(session)), plan: Some(plan), seeded, ..State::default() };
            }
            // Before the pads are deactivated: they wait for their threads.
            gst::StateChange::PausedToReady => self.stop_waiting(),
            _ => {}
        }
        let result = self.parent_change_state(transition);
        if transition == gst::StateChange::PausedToReady
            || (transition == gst::StateChange::ReadyToPaused && result.is_err())
        {
            let state = std::mem::take(&mut *self.state.lock().unwrap());
            drop(state);
        }
        result
    }
}
