// SPDX-License-Identifier: MPL-2.0
//! The element's virtual functions: settings in, one job for each clip, frames out.

use std::sync::{Arc, LazyLock, Mutex};

use glib::subclass::prelude::*;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_src::CreateSuccess;
use gst_base::subclass::prelude::*;
use gst_video::VideoInfo;

use super::layout::Extent;
use super::run::{Before, Pictures, Place, Run, State, Wanted};
use super::settings;
use super::showing::Showing;
use super::uri;
use crate::engine::Error;
use crate::engine::image::Frame;
use crate::engine::svd::{Params, Summary};
use crate::errors;
use crate::svd::clip::{Clip, History, Link, Order, Outcome, Since};
use crate::svd::keyframe::Keyframe;
use crate::svd::plan::{Plan, label, template};
use crate::svd::preview::{self, Preview};
use crate::svd::session::Session;
use crate::svd::settings::Settings;
use crate::svd::{Presets, frame_buffer, init_preset};

pub(super) static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("svdsrc", gst::DebugColorFlags::empty(), Some("Stable Video Diffusion source"))
});

/// The element. No lock is held while anything is waited for, posted, pushed or queried. Where two are held, they were
/// taken in this order: `wanted`, `state`, the clip's stage, and what `Cancel::cancel` takes. `showing` comes before all of
/// them; it is the streaming thread's alone, which may wait with it locked.
#[derive(Default)]
pub struct SvdSrc {
    pub(super) wanted: Mutex<Wanted>,
    pub(super) state: Mutex<State>,
    pub(super) showing: Mutex<Showing>,
    pub(super) preview: Arc<Preview>,
}

impl SvdSrc {
    /// Everything that can be known at once; the model goes on loading in the background.
    fn prepare(&self, wanted: Wanted) -> Result<Run, gst::ErrorMessage> {
        let error = |err: Error| errors::message(&err);
        let obj = self.obj();
        let element = obj.upcast_ref::<gst::Element>();
        let [seeded, pictured] = [wanted.settings.seedings, wanted.picturings].map(Since::the_first);
        let live = wanted.is_live().then(Default::default);
        let session = Session::open(element, wanted.settings, &self.preview)?;
        let settings = &session.settings;
        let plan = session.plan(settings).map_err(error)?;

        let pictures = match (settings.text("location"), &wanted.keyframe) {
            (_, Some(_)) => Pictures::default(),
            (Some(location), None) => Pictures::open(location).map_err(error)?,
            (None, None) => {
                let scene =
                    settings.text("config").map_or("", |_| ", or one of the configuration's scenes as scene-id");
                let missing = "location is not set: name a picture, PNG, JPEG or WebP, or set keyframe";
                return Err(gst::error_msg!(gst::ResourceError::NotFound, ("{missing}{scene}")));
            }
        };
        let part = session.part.clone().filter(|_| pictures.files.len() < 2);
        let extent = match part.as_ref().and_then(|part| part.frames.clone()) {
            Some(frames) => Extent::Part { first: frames.start, count: frames.end - frames.start },
            None => Extent::of(settings, pictures.files.len() as u64).map_err(error)?,
        };
        let before = |(settings, clips)| Ok(Before { plan: session.plan(&settings)?, settings, clips });
        let chain = part.and_then(|part| part.chain);
        let before = chain.map(|chain| chain.into_iter().map(before).collect()).transpose().map_err(error)?;
        extent.layout(plan.num_frames(), gst::Fraction::new(1, 1)).map_err(error)?;
        gst::info!(CAT, imp = self, "{extent:?} of {plan:?}");
        Ok(Run {
            session: Arc::new(session),
            plan,
            pictures,
            extent,
            layout: None,
            info: None,
            current: None,
            ahead: None,
            last: None,
            before,
            clips: 0,
            frames: 0,
            seeded,
            pictured,
            keyframe: None,
            warned: String::new(),
            is_told: false,
            has_failed: false,
            live,
        })
    }

    /// The clip in hand. Begins it if it is not begun, or was interrupted; and the one after it, so that it is made
    /// while this one is shown.
    fn clip(&self) -> Result<Arc<Clip>, gst::FlowError> {
        let current = self.begun(0)?.ok_or(gst::FlowError::Eos)?;
        self.begun(1)?;
        Ok(current)
    }

    /// The clip in hand (0) or the next (1), begun. `None` if there is none.
    fn begun(&self, ahead: u64) -> Result<Option<Arc<Clip>>, gst::FlowError> {
        let (session, layout, number, interrupted) = {
            let state = self.state.lock().unwrap();
            if state.is_flushing {
                return Err(gst::FlowError::Flushing);
            }
            let run = state.run.as_ref().ok_or(gst::FlowError::Flushing)?;
            if run.has_failed {
                return Err(gst::FlowError::Eos);
            }
            let clip = if ahead == 0 { &run.current } else { &run.ahead };
            if let Some(clip) = clip.as_ref().filter(|clip| !clip.is_interrupted()) {
                return Ok(Some(clip.clone()));
            }
            let number = run.clips + ahead;
            let layout = run.layout.ok_or(gst::FlowError::NotNegotiated)?;
            if !layout.has(number) {
                return Ok(None);
            }
            (run.session.clone(), layout, number, clip.as_ref().map(|clip| clip.order.clone()))
        };
        // A clip that was interrupted goes on as it was.
        let mut order = match interrupted {
            Some(order) if ahead == 0 => order,
            _ => self.order(number)?,
        };
        let mut state = self.state.lock().unwrap();
        if state.is_flushing {
            return Err(gst::FlowError::Flushing);
        }
        let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
        order.skip = if ahead == 0 { run.frames.saturating_sub(layout.start(number)) as usize } else { 0 };
        gst::debug!(CAT, imp = self, "clip {number}, {:?} from {}: {:?}", order.frames, order.skip, order.params);
        let clip = session.begin(order, number, ahead == 0);
        *if ahead == 0 { &mut run.current } else { &mut run.ahead } = Some(clip.clone());
        Ok(Some(clip))
    }

    /// Where clip `number` stands, and what is wanted of it.
    fn place(&self, number: u64) -> Result<Place, gst::FlowError> {
        // Together: what is set between the two would count from a clip on that does not have it.
        let wanted = self.wanted.lock().unwrap();
        let mut state = self.state.lock().unwrap();
        let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
        let (Some(info), Some(layout)) = (run.info.clone(), run.layout) else {
            return Err(gst::FlowError::NotNegotiated);
        };
        let after_seed = number - run.seeded.order(wanted.settings.seedings, number);
        let after_picture = number - run.pictured.order(wanted.picturings, number);
        let of_current = || run.current.as_ref().and_then(|clip| clip.successor());
        let before = if number > run.clips { of_current() } else { run.last.clone() };
        Ok(Place {
            wanted: wanted.clone(),
            session: run.session.clone(),
            info,
            layout,
            start: run.time(if run.live.is_some() { run.frames } else { layout.start(number) }).unwrap_or_default(),
            before: before.filter(|_| layout.is_chained && after_picture > 0),
            after_seed,
            after_picture,
        })
    }

    /// What a clip is to be, as the properties are now. What is not possible is left as it was, with a warning.
    pub(super) fn order(&self, number: u64) -> Result<Order, gst::FlowError> {
        let Place { wanted, session, info, layout, start, before, after_seed, after_picture } = self.place(number)?;
        let obj = self.obj();
        let element = obj.upcast_ref::<gst::Element>();
        let is_driven = element.control_binding("seed").is_some();
        let set_over = |read: &Settings| wanted.settings.clone().on(read).at(element, start);
        let settings = set_over(&session.settings);
        let mut wrong = String::new();
        let mut keep = |err: Error| wrong = errors::text(&err);
        let plan = session.plan(&settings).map_err(&mut keep).ok();
        let location = settings.text("location").unwrap_or_default();
        let is_new = self.state.lock().unwrap().run.as_ref().is_some_and(|run| run.pictures.location != location);
        let is_needed = is_new && wanted.keyframe.is_none() && before.is_none();
        let pictures = if is_needed { Pictures::open(location).map_err(&mut keep).ok() } else { None };

        let mut state = self.state.lock().unwrap();
        let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
        if let Some(plan) = plan {
            run.plan = plan;
        }
        if let Some(pictures) = pictures {
            run.pictures = pictures;
        }
        let params = |plan: &Plan, seed| Params { num_frames: layout.num_frames, ..plan.params(&info, seed) };
        let picture = wanted.keyframe.clone().map(Keyframe::Sample).or_else(|| run.pictures.of(after_picture));
        if picture.is_none() && wrong.is_empty() {
            wrong = "neither location nor keyframe is set".into();
        }
        let same = |kept: &Keyframe| picture.as_ref().is_none_or(|picture| picture.is(kept));
        if !run.keyframe.as_ref().is_some_and(same) {
            run.keyframe = picture;
        }
        let (keyframe, link) = match before {
            Some((keyframe, link)) => (keyframe, Some(link)),
            None => {
                let keyframe = run.keyframe.clone().ok_or(gst::FlowError::Flushing)?;
                let mut history = History::default();
                for Before { settings, plan, clips } in run.before.iter_mut().flatten() {
                    if let Ok(possible) = session.plan(&set_over(settings)) {
                        *plan = possible;
                    }
                    history.add(&params(plan, 0), *clips);
                }
                let is_chained = layout.is_chained || run.before.is_some();
                let link = is_chained.then(|| Link::new(keyframe.clone(), history));
                (keyframe, link)
            }
        };
        let params = params(&run.plan, if is_driven { 0 } else { after_seed });
        let is_told = wrong.is_empty() || std::mem::replace(&mut run.warned, wrong.clone()) == wrong;
        drop(state);
        if !is_told {
            gst::element_imp_warning!(self, gst::LibraryError::Settings, ("{wrong}; the next clip is made as before"));
        }
        Ok(Order { params, fps: info.fps(), keyframe, frames: layout.frames(number), skip: 0, link })
    }

    /// The clip in hand is made: tells of it, once.
    fn tell(&self, clip: &Clip, summary: &Summary) -> Result<(), gst::FlowError> {
        let (session, number) = {
            let state = self.state.lock().unwrap();
            let run = state.run.as_ref().ok_or(gst::FlowError::Flushing)?;
            if run.is_told {
                return Ok(());
            }
            (run.session.clone(), run.clips)
        };
        let stop = || self.state.lock().unwrap().is_flushing;
        self.tell_of(&session, clip, number, summary, &stop).ok_or(gst::FlowError::Flushing)?;
        if let Some(run) = &mut self.state.lock().unwrap().run {
            run.is_told = true;
        }
        Ok(())
    }

    /// Tells of a clip. `None` if `stop` ended the wait for what is told.
    pub(super) fn tell_of(
        &self,
        session: &Session,
        clip: &Clip,
        number: u64,
        summary: &Summary,
        stop: &dyn Fn() -> bool,
    ) -> Option<()> {
        let provenance = session.tell(&clip.order, number, summary, stop)?;
        if number == 0 {
            // The base class keeps the event until it has pushed the segment. (Not `send_event`: that takes the state
            // lock, which a state change holds while it waits for this thread.)
            let has_location = matches!(clip.order.keyframe, Keyframe::File(_));
            self.parent_send_event(gst::event::Tag::new(session.tags(provenance, has_location)));
        }
        Some(())
    }

    /// Whether no clip comes behind the one in hand.
    fn is_last(&self) -> bool {
        let state = self.state.lock().unwrap();
        let layout = state.run.as_ref().and_then(|run| Some((run.layout?, run.clips)));
        layout.is_some_and(|(layout, clips)| !layout.has(clips + 1))
    }

    /// The clip in hand was given out whole: on to the next.
    fn finish(&self, clip: &Clip) -> Result<(), gst::FlowError> {
        // What a controller gives may have changed since the next clip was begun.
        let next = {
            let state = self.state.lock().unwrap();
            let run = state.run.as_ref().ok_or(gst::FlowError::Flushing)?;
            run.ahead.as_ref().map(|_| run.clips + 1)
        };
        let order = next.map(|number| self.order(number)).transpose()?;
        let mut state = self.state.lock().unwrap();
        let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
        let as_wanted = |ahead: &Arc<Clip>| order.as_ref().is_some_and(|order| order.is(&ahead.order));
        run.current = run.ahead.take().filter(as_wanted);
        run.last = clip.successor();
        run.clips += 1;
        run.is_told = false;
        Ok(())
    }

    /// Ends the work in hand.
    fn interrupt(&self) {
        let clips = self.state.lock().unwrap().run.as_ref().map(|run| [run.current.clone(), run.ahead.clone()]);
        for clip in clips.into_iter().flatten().flatten() {
            clip.interrupt();
        }
    }

    /// Something was set while the element runs: the next clip is begun anew.
    fn revise(&self) {
        let ahead = self.state.lock().unwrap().run.as_mut().and_then(|run| {
            if let Some(live) = &mut run.live {
                // The streaming thread sees to it.
                live.changes += 1;
            }
            run.ahead.take()
        });
        if let Some(clip) = ahead {
            clip.interrupt();
        }
    }

    /// Posts an error and gives what `create` returns then: EOS, because on any other code the base class posts an
    /// error of its own, which says less. Downstream sees EOS either way.
    pub(super) fn fail(&self, message: gst::ErrorMessage) -> gst::FlowError {
        if let Some(run) = &mut self.state.lock().unwrap().run {
            run.has_failed = true;
        }
        self.post_error_message(message);
        gst::FlowError::Eos
    }

    /// Makes the next frame's buffer. `None` if the run has frames enough.
    fn buffer(&self, frame: Frame) -> Result<Option<gst::Buffer>, gst::FlowError> {
        let mut state = self.state.lock().unwrap();
        let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
        let (number, clip) = (run.frames, run.clips);
        if run.layout.is_some_and(|layout| number >= layout.start(clip + 1)) {
            return Ok(None);
        }
        run.frames += 1;
        let (pts, end) = (run.time(number), run.time(number + 1));
        let info = run.info.clone().ok_or(gst::FlowError::NotNegotiated)?;
        drop(state);
        let mut buffer = frame_buffer(frame, &info).map_err(|err| self.fail(errors::message(&err)))?;
        {
            let buffer = buffer.get_mut().expect("a new buffer has one owner");
            buffer.set_pts(pts);
            buffer.set_duration(end.zip(pts).map(|(end, pts)| end - pts));
            buffer.set_offset(number);
            buffer.set_offset_end(number + 1);
        }
        Ok(Some(buffer))
    }

    /// Counts so many source pads more. The base class begins its stream with an id that only an element of one source pad
    /// may have, and has no place to give another: so the pad of previews is in the element's lists, but is not counted.
    fn count_pads(&self, more: i16) {
        let obj = self.obj();
        let _lock = obj.object_lock();
        // SAFETY: the field is public, and the lock is the one that it is written under.
        unsafe {
            let count = &mut (*obj.upcast_ref::<gst::Element>().as_ptr()).numsrcpads;
            *count = count.wrapping_add_signed(more);
        }
    }

    /// Why downstream and this element have no caps in common. `None` if they do.
    fn disagreement(&self) -> Option<gst::ErrorMessage> {
        let ours = self.caps(None)?;
        let pad = self.obj().src_pad().clone();
        let is_stopping = pad.pad_flags().contains(gst::PadFlags::FLUSHING);
        if is_stopping || !pad.is_linked() || !pad.peer_query_caps(Some(&ours)).is_empty() {
            return None;
        }
        // What concerns this element, if there is such a thing: behind a converter the list is long.
        let theirs = Some(pad.peer_query_caps(Some(&template()))).filter(|caps| !caps.is_empty());
        let theirs = theirs.unwrap_or_else(|| pad.peer_query_caps(None));
        let bound = {
            let state = self.state.lock().unwrap();
            let run = state.run.as_ref()?;
            match &run.info {
                Some(info) => {
                    let (width, height, fps) = (info.width(), info.height(), info.fps());
                    format!("the clip has begun with {width}x{height} at {}/{}", fps.numer(), fps.denom())
                }
                None => run.plan.bound(),
            }
        };
        Some(gst::error_msg!(
            gst::CoreError::Negotiation,
            ("downstream wants {theirs}, which is not possible here: {bound}"),
            ["this element gives {ours}"]
        ))
    }
}

#[glib::object_subclass]
impl ObjectSubclass for SvdSrc {
    const NAME: &'static str = "GstSvdSrc";
    type Type = super::SvdSrc;
    type ParentType = gst_base::PushSrc;
    type Interfaces = (gst::Preset, gst::URIHandler);
}

impl ObjectImpl for SvdSrc {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(settings::properties);
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        let is_new = {
            let mut wanted = self.wanted.lock().unwrap();
            let is_other = match pspec.name() {
                "keyframe" => {
                    wanted.keyframe = value.get().expect("GObject checks the type");
                    true
                }
                name => wanted.settings.set(name, value),
            };
            if is_other && matches!(pspec.name(), "keyframe" | "location") {
                wanted.picturings += 1;
            }
            // That it is set says that it counts anew, whatever it was.
            (is_other || pspec.name() == "seed") && pspec.name() != "idle"
        };
        if is_new {
            self.revise();
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let wanted = self.wanted.lock().unwrap();
        match pspec.name() {
            "keyframe" => wanted.keyframe.to_value(),
            _ => wanted.settings.get(pspec),
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        obj.set_format(gst::Format::Time);
        obj.set_do_timestamp(false);
        obj.set_automatic_eos(false);
        // However the stream ends, the work ends too: not every way goes through `unlock`.
        let weak = self.downgrade();
        obj.src_pad().add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            if info.event().is_some_and(|event| event.type_() == gst::EventType::Eos)
                && let Some(imp) = weak.upgrade()
            {
                imp.interrupt();
                imp.preview.finish();
            }
            gst::PadProbeReturn::Ok
        });
    }
}

impl GstObjectImpl for SvdSrc {}

impl Presets for SvdSrc {
    fn is_set(&self, name: &str) -> bool {
        self.wanted.lock().unwrap().settings.is_set(name)
    }
}

// SAFETY: sets functions that take an object of this class.
unsafe impl IsImplementable<SvdSrc> for gst::Preset {
    fn interface_init(interface: &mut glib::Interface<Self>) {
        init_preset::<SvdSrc>(interface);
    }
}

impl URIHandlerImpl for SvdSrc {
    const URI_TYPE: gst::URIType = gst::URIType::Src;

    fn protocols() -> &'static [&'static str] {
        &[uri::SCHEME]
    }

    /// What is set by hand, but for a keyframe, as a URI: it makes the same.
    fn uri(&self) -> Option<String> {
        uri::write(self.wanted.lock().unwrap().settings.by_hand())
    }

    /// Sets properties as if by hand, in place of those that a URI before has set.
    fn set_uri(&self, uri: &str) -> Result<(), glib::Error> {
        if self.state.lock().unwrap().run.is_some() {
            let message = format!("{uri}: svdsrc is running: stop it first, with the state READY or NULL");
            return Err(glib::Error::new(gst::URIError::BadState, &message));
        }
        let set = uri::parse(uri, &settings::in_uris());
        let set = set.map_err(|message| glib::Error::new(gst::URIError::BadUri, &message))?;
        {
            let mut wanted = self.wanted.lock().unwrap();
            for name in std::mem::take(&mut wanted.by_uri) {
                wanted.settings.unset(&name);
            }
            wanted.by_uri = set.iter().map(|(name, _)| name.clone()).collect();
        }
        for (name, value) in &set {
            self.obj().set_property_from_value(name, value);
        }
        Ok(())
    }
}

impl ElementImpl for SvdSrc {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Stable Video Diffusion source",
                "Source/Video",
                "Makes video clips from a picture with Stable Video Diffusion",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let template = gst::PadTemplate::new("src", gst::PadDirection::Src, gst::PadPresence::Always, &template());
            vec![template.expect("the template is valid"), preview::template()]
        });
        &TEMPLATES
    }

    fn request_new_pad(
        &self,
        template: &gst::PadTemplate,
        _name: Option<&str>,
        _caps: Option<&gst::Caps>,
    ) -> Option<gst::Pad> {
        self.count_pads(-1);
        let pad = self.preview.request(self.obj().upcast_ref(), template);
        if pad.is_none() {
            self.count_pads(1);
        }
        pad
    }

    fn release_pad(&self, pad: &gst::Pad) {
        self.preview.release(self.obj().upcast_ref(), pad);
        self.count_pads(1);
    }

    /// The base class knows of one pad only.
    fn send_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStart(_) => self.preview.flush_start(),
            gst::EventView::FlushStop(stop) => self.preview.flush_stop(stop.resets_time()),
            _ => {}
        }
        self.parent_send_event(event)
    }

    /// Starts here and not in `start`: when that fails, the base class posts an error of its own too, which says less.
    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::ReadyToPaused {
            let wanted = self.wanted.lock().unwrap().clone();
            self.obj().set_live(wanted.is_live());
            let run = self.prepare(wanted).map_err(|message| {
                self.post_error_message(message);
                gst::StateChangeError
            })?;
            self.preview.begin(run.live.is_some(), run.plan.framerate());
            *self.state.lock().unwrap() = State { is_flushing: false, run: Some(run) };
        }
        if transition == gst::StateChange::PlayingToPaused {
            self.preview.set_playing(false);
        }
        let result = self.parent_change_state(transition);
        if transition == gst::StateChange::PausedToPlaying && result.is_ok() {
            self.preview.set_playing(true);
        }
        if transition == gst::StateChange::PausedToReady
            || (transition == gst::StateChange::ReadyToPaused && result.is_err())
        {
            // Whatever is in the making ends by itself.
            let run = self.state.lock().unwrap().run.take();
            drop(run);
            *self.showing.lock().unwrap() = Showing::default();
        }
        result
    }
}

impl BaseSrcImpl for SvdSrc {
    fn unlock(&self) -> Result<(), gst::ErrorMessage> {
        let is_live = {
            let mut state = self.state.lock().unwrap();
            state.is_flushing = true;
            let live = state.run.as_ref().and_then(|run| run.live.as_ref());
            live.inspect(|live| live.interrupt()).is_some()
        };
        // No frame of a live run waits for the clip in the making: it goes on through pauses and flushes.
        if !is_live {
            self.interrupt();
        }
        Ok(())
    }

    fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
        let mut state = self.state.lock().unwrap();
        state.is_flushing = false;
        if let Some(live) = state.run.as_mut().and_then(|run| run.live.as_mut()) {
            live.stop = Default::default();
        }
        Ok(())
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn caps(&self, filter: Option<&gst::Caps>) -> Option<gst::Caps> {
        let caps = match &self.state.lock().unwrap().run {
            None => template(),
            Some(Run { plan, info: None, .. }) => plan.caps(),
            // A clip keeps its size and its rate.
            Some(Run { info: Some(info), .. }) => {
                let mut caps = template();
                let caps_mut = caps.make_mut();
                caps_mut.set("width", info.width() as i32);
                caps_mut.set("height", info.height() as i32);
                caps_mut.set("framerate", info.fps());
                label(caps_mut);
                caps
            }
        };
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First),
            None => caps,
        })
    }

    /// As the base class does, but with an error message that says what does not fit.
    fn negotiate(&self) -> Result<(), gst::LoggableError> {
        let Some(message) = self.disagreement() else { return self.parent_negotiate() };
        // The base class would post a second message: `create` ends the stream instead.
        let _ = self.fail(message);
        Ok(())
    }

    fn fixate(&self, mut caps: gst::Caps) -> gst::Caps {
        if let Some(run) = &self.state.lock().unwrap().run {
            run.plan.choose(&mut caps);
        }
        self.parent_fixate(caps)
    }

    fn set_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let info = VideoInfo::from_caps(caps).map_err(|_| gst::loggable_error!(CAT, "not video: {caps}"))?;
        let rate = info.fps();
        let is_first = match &mut self.state.lock().unwrap().run {
            Some(run) => {
                if run.layout.is_none() {
                    let layout = run.extent.layout(run.plan.num_frames(), info.fps());
                    run.layout = Some(layout.map_err(|err| gst::loggable_error!(CAT, "{err}"))?);
                }
                run.info.replace(info).is_none()
            }
            None => return Err(gst::loggable_error!(CAT, "caps for an element that is not running")),
        };
        if is_first {
            self.preview.set_rate(rate);
            let obj = self.obj();
            let _ = if obj.is_live() {
                obj.post_message(gst::message::Latency::builder().src(&*obj).build())
            } else {
                obj.post_message(gst::message::DurationChanged::builder().src(&*obj).build())
            };
        }
        Ok(())
    }

    fn query(&self, query: &mut gst::QueryRef) -> bool {
        let answer = |format, frames: fn(&Run) -> Option<u64>| -> Option<gst::GenericFormattedValue> {
            let state = self.state.lock().unwrap();
            let run = state.run.as_ref()?;
            let frames = frames(run)?;
            match format {
                gst::Format::Time => run.time(frames).map(Into::into),
                gst::Format::Default => Some(gst::format::Default::from_u64(frames).into()),
                _ => None,
            }
        };
        match query.view_mut() {
            gst::QueryViewMut::Duration(query) => {
                let Some(value) = answer(query.format(), Run::total) else { return false };
                query.set(value);
                true
            }
            gst::QueryViewMut::Position(query) => {
                let Some(value) = answer(query.format(), |run| Some(run.frames)) else { return false };
                query.set(value);
                true
            }
            gst::QueryViewMut::Latency(query) if self.obj().is_live() => {
                let Some(latency) = self.latency() else { return false };
                query.set(true, latency, gst::ClockTime::NONE);
                true
            }
            _ => BaseSrcImplExt::parent_query(self, query),
        }
    }
}

impl PushSrcImpl for SvdSrc {
    fn create(&self, _buffer: Option<&mut gst::BufferRef>) -> Result<CreateSuccess, gst::FlowError> {
        if self.obj().is_live() {
            return self.create_live().map(CreateSuccess::NewBuffer);
        }
        loop {
            let clip = self.clip()?;
            match clip.wait() {
                Outcome::Made(summary) => {
                    if self.is_last() {
                        self.preview.finish();
                    }
                    self.tell(&clip, &summary)?;
                }
                Outcome::Failed(err) => return Err(self.fail(errors::message(&err))),
                Outcome::Interrupted => return Err(gst::FlowError::Flushing),
            }
            match clip.next().map(|frame| self.buffer(frame)).transpose()?.flatten() {
                Some(buffer) => return Ok(CreateSuccess::NewBuffer(buffer)),
                None => self.finish(&clip)?,
            }
        }
    }
}
