// SPDX-License-Identifier: MPL-2.0
//! The element's virtual functions: settings in, one job for each clip, frames out.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use glib::subclass::prelude::*;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_src::CreateSuccess;
use gst_base::subclass::prelude::*;
use gst_video::{VideoFrameRef, VideoInfo};
use tch::Device;

use super::clip::{Clip, Next};
use super::settings::{self, Plan, Settings};
use crate::engine::device::{DeviceChoice, kind_name};
use crate::engine::image::Frame;
use crate::engine::svd::{Model, Params, Source};
use crate::engine::worker::{Cancel, Worker};
use crate::engine::{self, Error};
use crate::progress::Progress;
use crate::{errors, models, video};

/// The model that is taken where none is named.
const DEFAULT_MODEL: &str = "svd-nano";

/// What downstream can choose, in words.
const POSSIBLE: &str = "width and height can be multiples of 8 from 8 to 16384, the frame rate 1/1 and above, the pixels \
                        square, the format an RGB one of 8 bits";

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("svdsrc", gst::DebugColorFlags::empty(), Some("Stable Video Diffusion source"))
});

/// The element. No lock is held while anything is waited for, posted, pushed or queried. Where two are held, they were
/// taken in this order: `state`, the clip's inbox, and what [`Cancel::cancel`] takes.
#[derive(Default)]
pub struct SvdSrc {
    settings: Mutex<Settings>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Between `unlock` and `unlock_stop` nothing may wait.
    is_flushing: bool,
    /// From the change to PAUSED to the one back to READY.
    run: Option<Run>,
}

/// One run of the element.
struct Run {
    plan: Plan,
    location: PathBuf,
    /// What made the clip, for the tags: the model's name, the device and the precision.
    origin: [String; 3],
    worker: Arc<Worker<Model>>,
    /// Tells the load that the end of it was wanted.
    closing: Cancel,
    keyframe: Option<Arc<Frame>>,
    info: Option<VideoInfo>,
    clip: Option<Arc<Clip>>,
    /// Clips that were given out whole.
    clips: u64,
    /// Frames that were given out, of all clips.
    frames: u64,
    is_tagged: bool,
    /// An error was posted. One is enough.
    has_failed: bool,
}

impl Run {
    /// Where the frame of this number begins. `None` before the frame rate is known.
    fn time(&self, frame: u64) -> Option<gst::ClockTime> {
        let fps = self.info.as_ref()?.fps();
        let time = u128::from(frame) * u128::from(gst::ClockTime::SECOND.nseconds()) * fps.denom() as u128;
        u64::try_from(time / fps.numer() as u128).ok().map(gst::ClockTime::from_nseconds)
    }

    /// Frames of all clips. `None` if there is no end.
    fn total(&self) -> Option<u64> {
        self.plan.num_clips.map(|clips| clips * self.plan.num_frames())
    }
}

impl SvdSrc {
    /// Everything that can be known at once; the model goes on loading in the background.
    fn prepare(&self, settings: &Settings) -> Result<Run, gst::ErrorMessage> {
        let error = |err: Error| errors::message(&err);
        let location = settings.location.clone().ok_or_else(|| {
            gst::error_msg!(gst::ResourceError::NotFound, ("location is not set: name a picture, PNG, JPEG or WebP"))
        })?;
        let data = location.metadata().map_err(|err| error(Error::io(&location, err)))?;
        if data.is_dir() {
            return Err(error(Error::Picture { path: location, reason: "it is a folder".into() }));
        }
        let folder = match &settings.model_path {
            Some(folder) => folder.clone(),
            None => {
                let folder = models::locate(DEFAULT_MODEL).map_err(|reason| {
                    gst::error_msg!(gst::ResourceError::NotFound, ("model-path is not set, and {reason}"))
                })?;
                // Twice, because gst-launch-1.0 shows what is for developers only.
                let taken = format!("model-path is not set: taking {}", folder.display());
                gst::element_imp_info!(self, gst::LibraryError::Settings, ("{taken}"), ["{taken}"]);
                folder
            }
        };
        folder.metadata().map_err(|err| error(Error::io(&folder, err)))?;
        let source = Source::open(&folder, None).map_err(error)?;
        let plan = settings.plan(&source.info.recommended).map_err(error)?;
        let choice: DeviceChoice = settings.device().parse().map_err(error)?;
        let device = choice.resolve().map_err(error)?;
        let kind = settings.precision().kind(device);
        let place = if let Device::Cuda(index) = device { DeviceChoice::Cuda(index) } else { DeviceChoice::Cpu };
        gst::info!(CAT, imp = self, "{} on {place} in {}: {plan:?}", folder.display(), kind_name(kind));

        let name = name_of(&folder);
        let closing = Cancel::default();
        let load = Progress::start(self.element(), "load-model", format!("Loading {name}"), &closing);
        let worker = Model::shared(&source, device, kind);
        // The first job comes when the model is loaded. If it can't be, the clip's job says why.
        let token = closing.clone();
        drop(worker.submit(move |_| {
            if !token.is_cancelled() {
                load.complete();
            }
            Ok(())
        }));
        Ok(Run {
            plan,
            location,
            origin: [name, place.to_string(), kind_name(kind).into()],
            worker,
            closing,
            keyframe: None,
            info: None,
            clip: None,
            clips: 0,
            frames: 0,
            is_tagged: false,
            has_failed: false,
        })
    }

    /// The element, for messages from another thread.
    fn element(&self) -> glib::WeakRef<gst::Element> {
        self.obj().upcast_ref::<gst::Element>().downgrade()
    }

    /// The clip in hand. Begins one if there is none, or if the one there was interrupted.
    fn clip(&self) -> Result<Arc<Clip>, gst::FlowError> {
        self.ensure_keyframe()?;
        let mut state = self.state.lock().unwrap();
        if state.is_flushing {
            return Err(gst::FlowError::Flushing);
        }
        let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
        if let Some(clip) = run.clip.as_ref().filter(|clip| !clip.is_interrupted()) {
            return Ok(clip.clone());
        }
        if run.plan.num_clips.is_some_and(|clips| run.clips >= clips) {
            return Err(gst::FlowError::Eos);
        }
        let (Some(keyframe), Some(info)) = (run.keyframe.clone(), &run.info) else {
            return Err(gst::FlowError::NotNegotiated);
        };
        let params = run.plan.params(info, run.clips);
        let skip = (run.frames - run.clips * run.plan.num_frames()) as usize;
        let what = format!("Generating clip {} with seed {}", run.clips + 1, params.seed);
        gst::debug!(CAT, imp = self, "{what}, from frame {skip}: {params:?}");
        let element = self.element();
        let clip = Arc::new(Clip::begin(&run.worker, keyframe, params, skip, move |cancel| {
            Progress::start(element, "generate", what, cancel)
        }));
        run.clip = Some(clip.clone());
        Ok(clip)
    }

    /// Ends the work in hand.
    fn interrupt(&self) {
        let clip = self.state.lock().unwrap().run.as_ref().and_then(|run| run.clip.clone());
        if let Some(clip) = clip {
            clip.interrupt();
        }
    }

    /// Reads the picture, the first time.
    fn ensure_keyframe(&self) -> Result<(), gst::FlowError> {
        let location = match &self.state.lock().unwrap().run {
            Some(run) if run.has_failed => return Err(gst::FlowError::Eos),
            Some(run) if run.keyframe.is_none() => run.location.clone(),
            _ => return Ok(()),
        };
        let keyframe = Frame::open(&location).map_err(|err| self.fail(errors::message(&err)))?;
        if let Some(run) = &mut self.state.lock().unwrap().run {
            run.keyframe = Some(Arc::new(keyframe));
        }
        Ok(())
    }

    /// Posts an error and gives what `create` returns then: EOS, because on any other code the base class posts an
    /// error of its own, which says less. Downstream sees EOS either way.
    fn fail(&self, message: gst::ErrorMessage) -> gst::FlowError {
        if let Some(run) = &mut self.state.lock().unwrap().run {
            run.has_failed = true;
        }
        self.post_error_message(message);
        gst::FlowError::Eos
    }

    /// Puts the run's tags before the next buffer.
    fn ensure_tags(&self) {
        let tags = {
            let mut state = self.state.lock().unwrap();
            let Some(run) = state.run.as_mut().filter(|run| !run.is_tagged) else { return };
            let Some(info) = &run.info else { return };
            run.is_tagged = true;
            tags(&run.plan.params(info, 0), &run.origin, run.plan.num_clips)
        };
        // The base class keeps the event until it has pushed the segment. (Not `send_event`: that takes the state lock,
        // which a state change holds while it waits for this thread.)
        self.parent_send_event(gst::event::Tag::new(tags));
    }

    /// Makes the next frame's buffer.
    fn buffer(&self, frame: &Frame) -> Result<gst::Buffer, gst::FlowError> {
        let mut state = self.state.lock().unwrap();
        let run = state.run.as_mut().ok_or(gst::FlowError::Flushing)?;
        let number = run.frames;
        run.frames += 1;
        let (pts, end) = (run.time(number), run.time(number + 1));
        let info = run.info.clone().ok_or(gst::FlowError::NotNegotiated)?;
        drop(state);

        let size = info.size();
        let full = |_| self.fail(errors::message(&Error::OutOfMemory(format!("a buffer of {size} bytes"))));
        let mut buffer = gst::Buffer::with_size(size).map_err(full)?;
        {
            let buffer = buffer.get_mut().expect("a new buffer has one owner");
            buffer.set_pts(pts);
            buffer.set_duration(end.zip(pts).map(|(end, pts)| end - pts));
            buffer.set_offset(number);
            buffer.set_offset_end(number + 1);
            let target = VideoFrameRef::from_buffer_ref_writable(buffer, &info);
            video::write(frame, &mut target.expect("the buffer has the format's size"));
        }
        Ok(buffer)
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
        let theirs = Some(pad.peer_query_caps(Some(&settings::template()))).filter(|caps| !caps.is_empty());
        let theirs = theirs.unwrap_or_else(|| pad.peer_query_caps(None));
        let bound = {
            let state = self.state.lock().unwrap();
            let run = state.run.as_ref()?;
            match (&run.info, run.plan.set_by_hand()) {
                (Some(info), _) => {
                    let (width, height, fps) = (info.width(), info.height(), info.fps());
                    format!("the clip has begun with {width}x{height} at {}/{}", fps.numer(), fps.denom())
                }
                (None, Some(properties)) => format!("{properties} was set, and goes before downstream's caps"),
                (None, None) => POSSIBLE.into(),
            }
        };
        Some(gst::error_msg!(
            gst::CoreError::Negotiation,
            ("downstream wants {theirs}, which is not possible here: {bound}"),
            ["this element gives {ours}"]
        ))
    }
}

/// The last part of a path.
fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.into());
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// What a file should say of the clips in it. The scope is global, or muxers would put it where few look.
fn tags(params: &Params, [model, device, dtype]: &[String; 3], num_clips: Option<u64>) -> gst::TagList {
    let comment = serde_json::json!({
        "element": "svdsrc",
        "model": model,
        "device": device,
        "dtype": dtype,
        "num_clips": num_clips.unwrap_or(0),
        "seed": params.seed,
        "num_frames": params.num_frames,
        "width": params.width,
        "height": params.height,
        "keyframe_fit": format!("{:?}", params.keyframe_fit).to_lowercase(),
        "fps": params.fps,
        "num_inference_steps": params.num_inference_steps,
        "motion_bucket_id": params.motion_bucket_id,
        "noise_aug_strength": params.noise_aug_strength,
        "min_guidance_scale": params.min_guidance_scale,
        "max_guidance_scale": params.max_guidance_scale,
        "decode_chunk_size": params.decode_chunk_size,
    });
    let mut tags = gst::TagList::new();
    let list = tags.get_mut().expect("a new list has one owner");
    let encoder = concat!("gst-plugin-torchvideo svdsrc ", env!("CARGO_PKG_VERSION"));
    list.set_scope(gst::TagScope::Global);
    list.add::<gst::tags::Encoder>(&encoder, gst::TagMergeMode::Replace);
    list.add::<gst::tags::Comment>(&comment.to_string().as_str(), gst::TagMergeMode::Replace);
    tags
}

#[glib::object_subclass]
impl ObjectSubclass for SvdSrc {
    const NAME: &'static str = "GstSvdSrc";
    type Type = super::SvdSrc;
    type ParentType = gst_base::PushSrc;
}

impl ObjectImpl for SvdSrc {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(settings::properties);
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        self.settings.lock().unwrap().set(pspec.name(), value);
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        self.settings.lock().unwrap().get(pspec.name())
    }

    fn constructed(&self) {
        self.parent_constructed();
        let obj = self.obj();
        obj.set_live(false);
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
            }
            gst::PadProbeReturn::Ok
        });
    }
}

impl GstObjectImpl for SvdSrc {}

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
            let template =
                gst::PadTemplate::new("src", gst::PadDirection::Src, gst::PadPresence::Always, &settings::template());
            vec![template.expect("the template is valid")]
        });
        &TEMPLATES
    }

    /// Starts here and not in `start`: when that fails, the base class posts an error of its own too, which says less.
    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::ReadyToPaused {
            let settings = self.settings.lock().unwrap().clone();
            let run = self.prepare(&settings).map_err(|message| {
                self.post_error_message(message);
                gst::StateChangeError
            })?;
            *self.state.lock().unwrap() = State { is_flushing: false, run: Some(run) };
        }
        let result = self.parent_change_state(transition);
        if transition == gst::StateChange::PausedToReady
            || (transition == gst::StateChange::ReadyToPaused && result.is_err())
        {
            let run = self.state.lock().unwrap().run.take();
            if let Some(run) = run {
                // The model's thread ends by itself.
                run.closing.cancel();
            }
        }
        result
    }
}

impl BaseSrcImpl for SvdSrc {
    fn unlock(&self) -> Result<(), gst::ErrorMessage> {
        self.state.lock().unwrap().is_flushing = true;
        self.interrupt();
        Ok(())
    }

    fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
        self.state.lock().unwrap().is_flushing = false;
        Ok(())
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn caps(&self, filter: Option<&gst::Caps>) -> Option<gst::Caps> {
        let caps = match &self.state.lock().unwrap().run {
            None => settings::template(),
            Some(Run { plan, info: None, .. }) => plan.caps(),
            // A clip keeps its size and its rate.
            Some(Run { info: Some(info), .. }) => {
                let mut caps = settings::template();
                let caps_mut = caps.make_mut();
                caps_mut.set("width", info.width() as i32);
                caps_mut.set("height", info.height() as i32);
                caps_mut.set("framerate", info.fps());
                settings::label(caps_mut);
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
        // A converter's first choice may have an alpha channel, of which nothing would come but work.
        let plain = caps.intersect(&gst_video::VideoCapsBuilder::new().format(gst_video::VideoFormat::Rgb).build());
        if !plain.is_empty() {
            caps = plain;
        }
        caps.truncate();
        if let Some(run) = &self.state.lock().unwrap().run {
            run.plan.fixate(caps.make_mut());
        }
        self.parent_fixate(caps)
    }

    fn set_caps(&self, caps: &gst::Caps) -> Result<(), gst::LoggableError> {
        let info = VideoInfo::from_caps(caps).map_err(|_| gst::loggable_error!(CAT, "not video: {caps}"))?;
        let is_first = match &mut self.state.lock().unwrap().run {
            Some(run) => run.info.replace(info).is_none(),
            None => return Err(gst::loggable_error!(CAT, "caps for an element that is not running")),
        };
        if is_first {
            let obj = self.obj();
            let _ = obj.post_message(gst::message::DurationChanged::builder().src(&*obj).build());
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
            _ => BaseSrcImplExt::parent_query(self, query),
        }
    }
}

impl PushSrcImpl for SvdSrc {
    fn create(&self, _buffer: Option<&mut gst::BufferRef>) -> Result<CreateSuccess, gst::FlowError> {
        loop {
            let clip = self.clip()?;
            self.ensure_tags();
            match clip.next() {
                Next::Frame(frame) => return self.buffer(&frame).map(CreateSuccess::NewBuffer),
                Next::Interrupted | Next::Ended(Err(engine::Error::Cancelled)) => {
                    return Err(gst::FlowError::Flushing);
                }
                Next::Ended(Err(Error::OutOfMemory(reason))) => {
                    let reason =
                        format!("{reason}; a lower decode-chunk-size, or a smaller width and height, needs less");
                    return Err(self.fail(errors::message(&Error::OutOfMemory(reason))));
                }
                Next::Ended(Err(err)) => return Err(self.fail(errors::message(&err))),
                Next::Ended(Ok(())) => {
                    if let Some(run) = &mut self.state.lock().unwrap().run {
                        run.clip = None;
                        run.clips += 1;
                    }
                }
            }
        }
    }
}
