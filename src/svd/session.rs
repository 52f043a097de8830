// SPDX-License-Identifier: MPL-2.0
//! An element's use of a model: from the change to PAUSED to the one back to READY.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::prelude::*;
use serde_json::{Value as Json, json};
use tch::Device;

use super::clip::{Clip, Order};
use super::plan::Plan;
use super::preview::Preview;
use super::provenance::{self, Part};
use super::settings::Settings;
use super::tags;
use crate::engine::Error;
use crate::engine::device::{DeviceChoice, kind_name, why_cpu};
use crate::engine::svd::{Event, LatentsFolder, Model, Params, Source, Summary};
use crate::engine::worker::{Cancel, Reply, Worker};
use crate::progress::Progress;
use crate::{errors, models};

/// The model that is taken where none is named.
pub const DEFAULT_MODEL: &str = "svd-nano";
/// Properties that decide how many clips there are.
const RUN: [&str; 3] = ["num-clips", "chain", "duration"];
/// Those that decide what a run shows, too.
const SHOWN: [&str; 4] = [RUN[0], RUN[1], RUN[2], "location"];

/// A model in use.
pub struct Session {
    element: glib::WeakRef<gst::Element>,
    /// What was set when it began.
    pub settings: Settings,
    /// The clip of a run that is to be made again.
    pub part: Option<Part<Settings>>,
    /// What the model's makers recommend.
    recommended: Params,
    /// Where latents are kept.
    latents: Option<LatentsFolder>,
    worker: Arc<Worker<Model>>,
    /// Tells the load that the end of it was wanted.
    closing: Cancel,
    /// Where it is shown how clips look while they are denoised.
    preview: Arc<Preview>,
    /// The pixels of a clip to one that is shown there, along each side.
    pub preview_factor: usize,
    /// What is told of every clip.
    origin: Json,
    /// Asked for by the streaming thread alone, which may wait with it locked.
    hashes: Mutex<Hashes>,
}

enum Hashes {
    Awaited(Reply<BTreeMap<String, String>>),
    Known(Json),
}

/// Shows a line for developers and, in `gst-launch-1.0`, for everybody.
fn inform(element: &gst::Element, text: &str) {
    gst::element_info!(element, gst::LibraryError::Settings, ("{text}"), ["{text}"]);
}

impl Session {
    /// Everything that can be known at once; the model goes on loading in the background.
    ///
    /// # Errors
    /// The message to post.
    pub fn open(element: &gst::Element, settings: Settings, preview: &Arc<Preview>) -> Result<Self, gst::ErrorMessage> {
        let error = |err: Error| errors::message(&err);
        let properties = element.list_properties();
        let (mut settings, mut part) = (settings.configured(&properties)?, None);
        if let Some(text) = settings.text("provenance").map(str::to_owned) {
            let mut said = provenance::parse(&text).map_err(error)?;
            // svdsrc's, which say nothing to svdanimate.
            let is_here = |name: &str| properties.iter().any(|spec| spec.name() == name);
            said.properties.retain(|name, _| is_here(name) || !SHOWN.contains(&name.as_str()));
            settings = settings.with_provenance(said.properties, &properties).map_err(error)?;
            let is_run = RUN.into_iter().any(|name| settings.value(name).is_some() || !is_here(name));
            let of_part = said.part.filter(|_| !is_run);
            let of_clip = |layer| settings.clone().with_provenance(layer, &properties);
            part = of_part.map(|part| part.try_map(of_clip)).transpose().map_err(error)?;
        }
        let missing = |reason: String| gst::error_msg!(gst::ResourceError::NotFound, ("{reason}"));
        let (path, why) = model(&settings).map_err(missing)?;
        if let Some(why) = why {
            inform(element, &why);
        }
        let source = Source::open(&path, settings.model_type()).map_err(error)?;
        let recommended = source.info.recommended.clone();
        settings.plan(&recommended).map_err(error)?;
        let latents = settings.text("latents-folder").map(|folder| LatentsFolder::open(folder.as_ref()));
        let latents = latents.transpose().map_err(error)?;

        let choice: DeviceChoice = settings.device().parse().map_err(error)?;
        let device = choice.resolve().map_err(error)?;
        if let (DeviceChoice::Auto, Device::Cpu, Some(reason)) = (choice, device, why_cpu()) {
            inform(element, &format!("device=auto takes the CPU: {reason}"));
        }
        let kind = source.kind(settings.precision(), device).map_err(error)?;
        let place = if let Device::Cuda(index) = device { DeviceChoice::Cuda(index) } else { DeviceChoice::Cpu };

        let name = name_of(source.path());
        let closing = Cancel::default();
        // On a GPU, little is left to the processor.
        let is_live = settings.value("is-live").and_then(Json::as_bool).unwrap_or(false);
        let shared = if is_live && device == Device::Cpu { Model::shared_giving_way } else { Model::shared };
        let worker = shared(&source, device, kind);
        let load = Progress::start(element.downgrade(), "load-model", format!("Loading {name}"), &closing);
        let watch = Watch::over(element, &worker, &name);
        // The first job comes when the model is loaded. If it can't be, the clip's job says why.
        let token = closing.clone();
        drop(worker.submit(move |_| {
            drop(watch);
            if !token.is_cancelled() {
                load.complete();
            }
            Ok(())
        }));
        let origin = json!({
            "generator": format!("gst-plugin-torchvideo {} {}", env!("CARGO_PKG_VERSION"), factory(element)),
            "model": {
                "path": super::keyframe::absolute(source.path()).to_string_lossy(),
                "name": name,
                "type": source.info.model_type.map(|of| of.name()),
            },
            "device": place.to_string(),
        });
        let hashes = Mutex::new(Hashes::Awaited(source.hashes(kind, &closing)));
        let dtype = kind_name(kind);
        settings.remember_dtype(dtype);
        Ok(Self {
            element: element.downgrade(),
            settings,
            part,
            recommended,
            latents,
            worker,
            closing,
            preview: preview.clone(),
            preview_factor: source.info.vae.factor() as usize,
            origin,
            hashes,
        })
    }

    /// What `settings` make of the model.
    ///
    /// # Errors
    /// Those of [`Settings::plan`].
    pub fn plan(&self, settings: &Settings) -> Result<Plan, Error> {
        settings.plan(&self.recommended)
    }

    /// Begins clip `number`, from 0. Whether it is awaited, or one ahead, decides if progress is told.
    pub fn begin(&self, order: Order, number: u64, is_awaited: bool) -> Arc<Clip> {
        let (element, preview, fps) = (self.element.clone(), self.preview.clone(), order.fps);
        let what = format!("Generating clip {} with seed {}", number + 1, order.params.seed);
        let herald = move |cancel: &Cancel, is_awaited: Arc<AtomicBool>| {
            let mut herald = Herald {
                element,
                number,
                what,
                cancel: cancel.clone(),
                is_awaited,
                progress: None,
                link: String::new(),
                preview,
                fps,
                step: String::new(),
            };
            herald.progress();
            herald
        };
        Arc::new(Clip::begin(&self.worker, order, self.latents.clone(), is_awaited, herald))
    }

    /// How a clip was made.
    fn provenance(&self, order: &Order, number: u64, summary: &Summary, hashes: Json) -> Json {
        let mut provenance = self.origin.clone();
        provenance["model"]["weights"] = hashes;
        provenance["keyframe"] = order.link.as_ref().map_or(&order.keyframe, |link| &link.origin).describe();
        let mut properties = provenance::properties(&order.params);
        properties.insert("dtype".into(), json!(self.settings.text("dtype")));
        properties.insert("fps".into(), format!("{}/{}", order.fps.numer(), order.fps.denom()).into());
        provenance["properties"] = Json::Object(properties);
        provenance::add_part(&mut provenance, order);
        provenance::add_summary(&mut provenance, number, summary);
        provenance
    }

    /// What the file of a run says of it: the `provenance` of its first clip, and what makes the run of it.
    pub fn tags(&self, mut provenance: Json, has_location: bool) -> gst::TagList {
        if self.part.is_none() {
            let names = SHOWN.into_iter().filter(|name| has_location || *name != "location");
            let said = names.filter_map(|name| {
                let value = self.settings.value(name)?.clone();
                let path = value.as_str().filter(|text| name == "location" && !text.contains("://"));
                let path = path.and_then(|path| std::path::absolute(path).ok());
                Some((name.to_owned(), path.map_or(value, |path| path.to_string_lossy().into())))
            });
            provenance["run"] = Json::Object(said.collect());
        }
        tags(&provenance)
    }

    /// Posts the message about a clip that is made; gives its provenance. `None` if `stop` ended the wait for the
    /// weights' hashes, which at the disk's speed can take longer than the clip.
    pub fn tell(&self, order: &Order, number: u64, summary: &Summary, stop: &dyn Fn() -> bool) -> Option<Json> {
        let provenance = self.provenance(order, number, summary, self.hashes(stop)?);
        if let Some(element) = self.element.upgrade() {
            let [encode, denoise, decode] = summary.seconds;
            let message = gst::Structure::builder(format!("{}-clip", factory(&element)))
                .field("clip", number)
                .field("seed", order.params.seed)
                .field("provenance", provenance.to_string())
                .field("encode-seconds", encode)
                .field("denoise-seconds", denoise)
                .field("decode-seconds", decode)
                .field("peak-device-memory", summary.peak_device)
                .field("peak-host-memory", summary.peak_host)
                .field("strategy", summary.strategy.to_string())
                .build();
            post(&element, message);
        }
        Some(provenance)
    }

    /// Posts the message that a clip's first frame is about to leave.
    pub fn shown(&self, number: u64, time: gst::ClockTime) {
        if let Some(element) = self.element.upgrade() {
            let message = gst::Structure::builder(format!("{}-shown", factory(&element)))
                .field("clip", number)
                .field("running-time", time)
                .build();
            post(&element, message);
        }
    }

    /// The SHA-256 of every file of weights, once they are known; mostly they are long before a clip is made. `None` if
    /// the wait for them was ended by `stop`.
    fn hashes(&self, stop: &dyn Fn() -> bool) -> Option<Json> {
        const LOOK: Duration = Duration::from_millis(10);
        let mut hashes = self.hashes.lock().unwrap();
        let known = loop {
            match &*hashes {
                Hashes::Known(known) => return Some(known.clone()),
                Hashes::Awaited(reply) => {
                    let patience = if stop() { Duration::ZERO } else { LOOK };
                    match reply.wait_for(patience) {
                        // What can't be read any more is not known.
                        Some(answer) => break answer.map_or(Json::Null, |hashes| json!(hashes)),
                        None if patience.is_zero() => return None,
                        None => {}
                    }
                }
            }
        };
        *hashes = Hashes::Known(known.clone());
        drop(hashes);
        self.compare(&known);
        Some(known)
    }

    /// Warns if the weights are not those of the provenance that was set.
    fn compare(&self, known: &Json) {
        let said = self.settings.text("provenance").and_then(provenance::weights);
        let (Some(said), Some(element)) = (said, self.element.upgrade()) else { return };
        let values = |json: &Json| {
            let mut values: Vec<_> = json.as_object().into_iter().flatten().map(|(_, hash)| hash.to_string()).collect();
            values.sort();
            values
        };
        if !known.is_null() && values(&said) != values(known) {
            let text = "the weights are not those that the provenance names: the clip is another one";
            gst::element_warning!(element, gst::LibraryError::Settings, ("{text}"));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The model's thread ends by itself.
        self.closing.cancel();
    }
}

/// The model that the settings mean, and in words why it is that, if they don't name it.
///
/// # Errors
/// In words which places were looked at.
pub fn model(settings: &Settings) -> Result<(PathBuf, Option<String>), String> {
    if let Some(path) = settings.text("model-path") {
        return Ok((path.into(), None));
    }
    if let Some(model_type) = settings.model_type() {
        let path = models::find_svd(model_type)?;
        let why = format!("model-type={model_type}: taking {}", path.display());
        return Ok((path, Some(why)));
    }
    let path = models::locate(DEFAULT_MODEL)
        .map_err(|reason| format!("neither model-path nor model-type is set, and {reason}"))?;
    let why = format!("model-path is not set: taking {}", path.display());
    Ok((path, Some(why)))
}

/// The last part of a path.
fn name_of(path: &Path) -> String {
    let path = super::keyframe::absolute(path);
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn factory(element: &gst::Element) -> String {
    element.factory().map_or_else(|| "svd".into(), |factory| factory.name().to_string())
}

fn post(element: &gst::Element, message: gst::Structure) {
    // An element outside of a pipeline has no bus, and that is fine.
    let _ = element.post_message(gst::message::Element::builder(message).src(element).build());
}

/// Posts how far a load is, now and then, until it is dropped.
struct Watch(Option<gst::PeriodicClockId>);

impl Watch {
    fn over(element: &gst::Element, worker: &Arc<Worker<Model>>, name: &str) -> Self {
        let clock = gst::SystemClock::obtain();
        let every = gst::ClockTime::from_mseconds(500);
        let id = clock.new_periodic_id(clock.time() + every, every);
        let (element, loading, name) = (element.downgrade(), worker.loading().clone(), name.to_owned());
        let is_told = AtomicBool::new(false);
        let told = id.wait_async(move |_, _, _| {
            let text = if loading.is_loaded() {
                // The model's thread is busy with another element's clip. Once is enough.
                if is_told.swap(true, Ordering::Relaxed) {
                    return;
                }
                format!("{name} is loaded, and makes another clip first")
            } else {
                let (done, all) = loading.progress.bytes();
                match (100 * done).checked_div(all) {
                    Some(percent) if done < all => format!("Loading {name} ({percent} %)"),
                    _ => return,
                }
            };
            if let Some(element) = element.upgrade() {
                let message = gst::message::Progress::builder(gst::ProgressType::Continue, "load-model", &text);
                let _ = element.post_message(message.src(&element).build());
            }
        });
        Self(told.is_ok().then_some(id))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(id) = self.0.take() {
            id.unschedule();
        }
    }
}

/// Tells an application what happens while a clip is made. PROGRESS messages only of a clip that is waited for: programs
/// wait for them to end before they play.
pub struct Herald {
    element: glib::WeakRef<gst::Element>,
    number: u64,
    what: String,
    cancel: Cancel,
    is_awaited: Arc<AtomicBool>,
    progress: Option<Progress>,
    /// Which clip of the chain is made on the way to the one that is wanted, in words.
    link: String,
    preview: Arc<Preview>,
    fps: gst::Fraction,
    /// The last step, in words.
    step: String,
}

impl Herald {
    /// What tells whether anybody wants to see how the clip looks.
    pub fn is_watched(&self) -> impl Fn() -> bool + use<> {
        let (preview, cancel) = (self.preview.clone(), self.cancel.clone());
        move || preview.is_wanted() && !cancel.is_cancelled()
    }

    /// The progress to tell of, if there is any.
    fn progress(&mut self) -> Option<&Progress> {
        if self.progress.is_none() && self.is_awaited.load(Ordering::Relaxed) {
            let start = Progress::start(self.element.clone(), "generate", self.what.clone(), &self.cancel);
            self.progress = Some(start);
        }
        self.progress.as_ref()
    }

    fn update(&mut self, text: &str) {
        let text = format!("{}{text}", self.link);
        if let Some(progress) = self.progress() {
            progress.update(&text);
        }
    }

    /// From now on it is about clip `number` of `count`, on the way to the last of them.
    pub fn goes_through_chain(&mut self, number: u64, count: u64) {
        self.link = format!("Clip {number} of {count} of the chain: ");
    }

    /// Tells of an event.
    pub fn tell(&mut self, event: Event) {
        match event {
            Event::Planned(estimate, strategy) => {
                if let Some(element) = self.element.upgrade() {
                    let message = gst::Structure::builder(format!("{}-estimate", factory(&element)))
                        .field("bytes", estimate.bytes())
                        .field("seconds", estimate.seconds())
                        .field("strategy", strategy.to_string())
                        .build();
                    post(&element, message);
                }
            }
            Event::DenoisedBefore(file) => {
                self.step = format!("{}denoised before", self.link);
                self.update(&format!("Denoised before: {}", file.display()));
            }
            Event::Encoded => self.update("Encoded the keyframe"),
            Event::Step { step, steps, sigma, seconds_left } => {
                let percent = 100 * step / steps.max(1);
                let left = seconds_left.ceil();
                self.update(&format!("Denoising step {step} of {steps} ({percent} %), {left} s left"));
                self.step = format!("{}step {step} of {steps}, sigma {sigma:.2}, {left} s left", self.link);
                if let Some(element) = self.element.upgrade() {
                    let message = gst::Structure::builder(format!("{}-step", factory(&element)))
                        .field("clip", self.number)
                        .field("step", step)
                        .field("steps", steps)
                        .field("sigma", sigma)
                        .field("seconds-left", seconds_left)
                        .build();
                    post(&element, message);
                }
            }
            Event::Preview(frames) => {
                if frames.is_empty() {
                    self.preview.finish();
                } else if !self.cancel.is_cancelled() {
                    self.preview.offer(frames, self.fps, self.step.clone());
                }
            }
            Event::Decoding { percent } if percent % 10 == 0 => self.update(&format!("Decoding ({percent} %)")),
            // Frames are told of by `decoded`, when they have been kept.
            Event::Decoding { .. } | Event::Decoded(_) => {}
            Event::Warning(text) => {
                if let Some(element) = self.element.upgrade() {
                    gst::element_warning!(element, gst::LibraryError::Failed, ("{text}"));
                }
            }
        }
    }

    /// Tells that so many frames were decoded, of so many.
    pub fn decoded(&mut self, frames: i64, of: i64) {
        self.update(&format!("Decoded {frames} of {of} frames"));
    }

    /// The clip is made.
    pub fn complete(self) {
        if let Some(progress) = self.progress {
            progress.complete();
        }
    }
}
