// SPDX-License-Identifier: MPL-2.0
//! The element's virtual functions: settings in, one job for each frame.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use glib::subclass::prelude::*;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::BaseTransformMode;
use gst_base::subclass::prelude::*;
use gst_video::subclass::prelude::*;
use gst_video::{VideoFrameRef, VideoInfo};

use super::caps;
use super::settings::{self, Settings};
use crate::engine::device::{DeviceChoice, kind_name};
use crate::engine::esrgan::{Architecture, Model, Params, inspect, upscale};
use crate::engine::worker::{Cancel, Worker};
use crate::engine::{Error, Result};
use crate::progress::Progress;
use crate::{errors, models, video};

/// The model that is taken where none is named.
const DEFAULT_MODEL: &str = "realesrgan/realesr-animevideov3.safetensors";

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("realesrganscale", gst::DebugColorFlags::empty(), Some("Real-ESRGAN upscaler"))
});

/// The element. No lock is held while anything is waited for, posted, pushed or queried. Where two are held, they were
/// taken in this order: `state`, and what [`Cancel::cancel`] takes.
#[derive(Default)]
pub struct RealEsrganScale {
    settings: Mutex<Settings>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Between `start` and `stop`.
    run: Option<Run>,
    /// Ends the frame in work and, until a new one takes its place, every frame after it.
    cancel: Cancel,
}

/// One run, from READY to PAUSED and back.
struct Run {
    params: Params,
    architecture: Architecture,
    worker: Arc<Worker<Model>>,
    /// Tells the load that the end of it was wanted.
    closing: Cancel,
    /// An error was posted. One is enough.
    has_failed: bool,
    /// The warning that the precision does not suffice was posted.
    has_warned: bool,
}

impl RealEsrganScale {
    /// Everything that can be known at once; the model goes on loading in the background.
    fn prepare(&self, settings: &Settings) -> Result<Run, gst::ErrorMessage> {
        let error = |err: Error| errors::message(&err);
        settings.params.validate().map_err(error)?;
        let path = self.model_path(settings)?;
        let architecture = inspect(&path).map_err(error)?;
        let choice: DeviceChoice = settings.device().parse().map_err(error)?;
        let device = choice.resolve().map_err(error)?;
        let kind = settings.precision().kind(device);
        let shown = path.display();
        gst::info!(CAT, imp = self, "{shown}: {architecture}, on {device:?} in {}", kind_name(kind));

        let element = self.obj().upcast_ref::<gst::Element>().downgrade();
        let closing = Cancel::default();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let load = Progress::start(element, "load-model", format!("Loading {name}"), &closing);
        let worker = Model::shared(&path, device, kind);
        // The first job comes when the model is loaded. If it can't be, the first frame's job says why.
        let token = closing.clone();
        drop(worker.submit(move |_| {
            if !token.is_cancelled() {
                load.complete();
            }
            Ok(())
        }));
        Ok(Run { params: settings.params, architecture, worker, closing, has_failed: false, has_warned: false })
    }

    /// The model's file, which is there.
    fn model_path(&self, settings: &Settings) -> Result<PathBuf, gst::ErrorMessage> {
        let error = |path: &Path, err| errors::message(&Error::io(path, err));
        let path = match &settings.model_path {
            Some(path) => path.clone(),
            None => models::locate(DEFAULT_MODEL).map_err(|reason| {
                gst::error_msg!(gst::ResourceError::NotFound, ("model-path is not set, and {reason}"))
            })?,
        };
        if path.metadata().map_err(|err| error(&path, err))?.is_dir() {
            let reason = "it is a folder: name a .safetensors or .pth file";
            return Err(errors::message(&Error::model(&path, reason)));
        }
        Ok(path)
    }

    /// Ends the frame in work, and those that come before [`Self::resume`].
    fn interrupt(&self) {
        self.state.lock().unwrap().cancel.cancel();
    }

    /// Lets frames be worked on again.
    fn resume(&self) {
        self.state.lock().unwrap().cancel = Cancel::default();
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

    /// Posts a warning, if it is the run's first, that a picture had to be done again.
    fn warn(&self, dtype: &str) {
        let is_first = match &mut self.state.lock().unwrap().run {
            Some(run) => !std::mem::replace(&mut run.has_warned, true),
            None => false,
        };
        if is_first {
            gst::element_imp_warning!(
                self,
                gst::LibraryError::Failed,
                ("{dtype} can't hold the numbers of this model for some frames: they are done again in fp32; \
                     dtype=fp32 saves doing them twice")
            );
        }
    }
}

#[glib::object_subclass]
impl ObjectSubclass for RealEsrganScale {
    const NAME: &'static str = "GstRealEsrganScale";
    type Type = super::RealEsrganScale;
    type ParentType = gst_video::VideoFilter;
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
        self.settings.lock().unwrap().get(pspec.name())
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
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            [("sink", gst::PadDirection::Sink), ("src", gst::PadDirection::Src)]
                .map(|(name, direction)| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps::template())
                        .expect("the template is valid")
                })
                .into()
        });
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
        let settings = self.settings.lock().unwrap().clone();
        let run = self.prepare(&settings)?;
        *self.state.lock().unwrap() = State { run: Some(run), cancel: Cancel::default() };
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        let run = self.state.lock().unwrap().run.take();
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
        let factor = {
            let state = self.state.lock().unwrap();
            state.run.as_ref().map(|run| run.params.factor(run.architecture.scale()))
        };
        let others = caps::transform(direction, caps, factor);
        gst::trace!(CAT, imp = self, "{direction:?} {caps} -> {others}");
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&others, gst::CapsIntersectMode::First),
            None => others,
        })
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStart(_) => self.interrupt(),
            gst::EventView::FlushStop(_) => self.resume(),
            _ => {}
        }
        self.parent_sink_event(event)
    }
}

impl VideoFilterImpl for RealEsrganScale {
    fn set_info(
        &self,
        _incaps: &gst::Caps,
        info: &VideoInfo,
        _outcaps: &gst::Caps,
        _out_info: &VideoInfo,
    ) -> Result<(), gst::LoggableError> {
        if info.is_interlaced() {
            // Caps need not name a mode, so the template can't ask for one.
            let _ = self.fail(gst::error_msg!(
                gst::StreamError::Format,
                (
                    "interlace-mode={} is not possible: whole frames are upscaled; put a deinterlace element before",
                    info.interlace_mode().to_str()
                )
            ));
            return Err(gst::loggable_error!(CAT, "interlaced video"));
        }
        Ok(())
    }

    fn transform_frame(
        &self,
        input: &VideoFrameRef<&gst::BufferRef>,
        output: &mut VideoFrameRef<&mut gst::BufferRef>,
    ) -> Result<gst::FlowSuccess, gst::FlowError> {
        let (worker, params, cancel) = {
            let state = self.state.lock().unwrap();
            let run = state.run.as_ref().ok_or(gst::FlowError::Flushing)?;
            if run.has_failed {
                return Err(gst::FlowError::Error);
            }
            (run.worker.clone(), run.params, state.cancel.clone())
        };
        let picture = video::read(input);
        let token = cancel.clone();
        let job = worker.submit(move |model| upscale(model, &picture, &params, &token));
        match job.wait_or(&cancel) {
            Ok(upscaled) => {
                video::write(&upscaled.picture, output);
                if let Some(dtype) = upscaled.redone {
                    self.warn(dtype);
                }
                Ok(gst::FlowSuccess::Ok)
            }
            Err(Error::Cancelled) => Err(gst::FlowError::Flushing),
            Err(Error::OutOfMemory(reason)) => {
                let tile = if params.tile == 0 { 256 } else { (params.tile / 2).max(1) };
                let reason = format!("{reason}; tile={} is too much for this device: try tile={tile}", params.tile);
                Err(self.fail(errors::message(&Error::OutOfMemory(reason))))
            }
            Err(err) => Err(self.fail(errors::message(&err))),
        }
    }
}
