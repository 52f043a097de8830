// SPDX-License-Identifier: MPL-2.0
//! The making of scenes: a pipeline for each, some of them at once, in folders that survive whatever happens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use gst::prelude::*;
use serde_json::Value as Json;

use super::store::{Entry, Store, key, model, now};
use super::{Line, file_name};
use crate::config::Scene;
use crate::engine::svd::Model;
use crate::engine::worker::Worker;

/// What is told of a scene while it is made.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// It is begun.
    Begun,
    /// How far it is: what is being done, and how much of all is, 0 to 1.
    Progress(String, f64),
    /// Something is not as it should be, but goes on.
    Warning(String),
    /// How it ended.
    Ended(Outcome),
}

/// How a scene ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Its file is made; in so many seconds.
    Rendered(f64),
    /// Its file was there already.
    UpToDate,
    /// It can't be made, and why.
    Failed(String),
    /// The job was stopped while it was made.
    Stopped,
    /// The job was stopped before.
    NotBegun,
}

/// A job.
pub struct Job<'a> {
    /// The scenes and the folders of their files.
    pub scenes: Vec<(&'a Scene, PathBuf)>,
    /// How many are made at once, from 1.
    pub jobs: usize,
    /// Whether files that are there are made again.
    pub again: bool,
    /// Ends the job soon after it is set; what is not finished is lost but for latents.
    pub stop: Arc<AtomicBool>,
    /// Hears what there is to tell of a scene, by its number. On any thread.
    pub tell: &'a (dyn Fn(usize, Told) + Sync),
}

impl Job<'_> {
    /// Makes the scenes. One that fails does not stop the others.
    ///
    /// # Errors
    /// In words, if a folder can't be used; then nothing was made.
    pub fn run(&self) -> Result<Vec<Outcome>, String> {
        let mut stores = BTreeMap::new();
        for (_, folder) in &self.scenes {
            if !stores.contains_key(folder) {
                stores.insert(folder.clone(), Store::open(folder)?);
            }
        }
        let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(vec![Outcome::NotBegun; self.scenes.len()]));
        // The model of the last scene stays loaded for the next.
        let models = Mutex::new(Vec::new());
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some((scene, folder)) = self.scenes.get(number) else { return };
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                let outcome = self.render(number, scene, &stores[folder], &models).unwrap_or_else(Outcome::Failed);
                (self.tell)(number, Told::Ended(outcome.clone()));
                outcomes.lock().unwrap()[number] = outcome;
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.clamp(1, self.scenes.len().max(1)) {
                scope.spawn(work);
            }
        });
        Ok(outcomes.into_inner().unwrap())
    }

    fn render(
        &self,
        number: usize,
        scene: &Scene,
        store: &Store,
        models: &Mutex<Vec<Arc<Worker<Model>>>>,
    ) -> Result<Outcome, String> {
        let (key, inputs) = key(scene)?;
        let name = file_name(scene);
        if !self.again && store.has(&name, &key) {
            store.forget(&scene.id);
            return Ok(Outcome::UpToDate);
        }
        (self.tell)(number, Told::Begun);
        let begun = Instant::now();
        let line = Line::of(scene)?;
        let part = store.part(&name);
        let (source, device, kind) = model(scene)?;
        let model = Model::shared(&source, device, kind);
        let surplus: Vec<_> = {
            let mut models = models.lock().unwrap();
            // As many as there are scenes at once.
            models.push(model);
            let surplus = models.len().saturating_sub(self.jobs);
            models.drain(..surplus).collect()
        };
        // A model that nobody else has goes here, which may take a while.
        drop(surplus);
        let made = play(&line.to(&part), &store.latents(&scene.id), &self.stop, &|told| (self.tell)(number, told));
        let clips = match made {
            Ok(clips) => clips,
            Err(failure) => {
                let _ = std::fs::remove_file(&part);
                return failure.map_or(Ok(Outcome::Stopped), Err);
            }
        };
        let seconds = begun.elapsed().as_secs_f64();
        let settings = scene
            .settings
            .iter()
            .map(|((section, key), setting)| (format!("{}.{key}", section.name()), setting.value.clone()));
        let entry = Entry {
            file: name,
            bytes: 0,
            key,
            finished: now(),
            seconds,
            generator: format!("gst-plugin-torchvideo {}", env!("CARGO_PKG_VERSION")),
            pipeline: line.text.clone(),
            settings: settings.collect(),
            inputs,
            clips,
        };
        store.finish(&scene.id, &part, entry)?;
        Ok(Outcome::Rendered(seconds))
    }
}

/// Plays a pipeline to its end, and gives how each clip was made. In words what failed; `None` if it was stopped.
fn play(line: &str, latents: &Path, stop: &AtomicBool, tell: &dyn Fn(Told)) -> Result<Vec<Json>, Option<String>> {
    let pipeline = gst::parse::launch(line).map_err(|err| Some(format!("{err}: {line}")))?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| Some("the line is no pipeline".to_string()))?;
    let _guard = Playing(pipeline.clone());
    if let Some(source) = pipeline.by_name("source")
        // The file may name a folder of its own, which is left alone.
        && source.property::<Option<String>>("latents-folder").is_none()
    {
        source.set_property("latents-folder", latents.to_string_lossy().as_ref());
    }
    let frames = Frames::watch(&pipeline);
    let bus = pipeline.bus().ok_or_else(|| Some("the pipeline has no bus".to_string()))?;
    let refused = pipeline.set_state(gst::State::Playing).is_err();
    let (mut clips, mut told) = (Vec::new(), 0.0f64);
    let mut progress = |text: String, done: f64| {
        told = told.max(done.clamp(0.0, 1.0));
        tell(Told::Progress(text, told));
    };
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(None);
        }
        let Some(message) = bus.timed_pop(gst::ClockTime::from_mseconds(200)) else {
            if refused {
                return Err(Some("the pipeline does not start".into()));
            }
            if let Some((frame, of)) = frames.counted() {
                progress(format!("frame {frame} of {of}"), GENERATING + (1.0 - GENERATING) * frame as f64 / of as f64);
            }
            continue;
        };
        match message.view() {
            gst::MessageView::Eos(_) => return Ok(clips),
            gst::MessageView::Error(error) => {
                let from = message.src().map(|from| from.name().to_string()).unwrap_or_default();
                return Err(Some(format!("{from}: {}", error.error())));
            }
            gst::MessageView::Warning(warning) => tell(Told::Warning(warning.error().to_string())),
            gst::MessageView::Progress(message) => {
                let (_, code, text) = message.get();
                let text = text.to_string();
                let percent = text.split_once('(').and_then(|(_, rest)| rest.split_once(" %)")?.0.parse::<f64>().ok());
                let is_denoising = code == "generate" && text.contains("Denoising");
                // Where its file is says nothing to people.
                let is_denoised = text.contains("Denoised before");
                let (text, percent) = match text.split_once("Denoised before") {
                    Some((link, _)) => (format!("{link}Denoised before, decoding is left"), Some(100.0)),
                    None => (text, percent),
                };
                let is_now = (is_denoising || is_denoised) && frames.counted().is_none();
                let done = percent.filter(|_| is_now).unwrap_or(0.0);
                progress(text, GENERATING * done / 100.0);
            }
            gst::MessageView::Element(element) => {
                let structure = element.structure().filter(|structure| structure.name() == "svdsrc-clip");
                let text = structure.and_then(|structure| structure.get::<String>("provenance").ok());
                clips.extend(text.and_then(|text| serde_json::from_str(&text).ok()));
            }
            _ => {}
        }
    }
}

/// The share of generating in the time of all, roughly.
const GENERATING: f64 = 0.8;

/// A pipeline that is stopped in the end.
pub(super) struct Playing(pub gst::Pipeline);

impl Drop for Playing {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

/// Counts the frames that come to the encoder.
struct Frames {
    pad: Option<gst::Pad>,
    count: Arc<AtomicU64>,
}

impl Frames {
    fn watch(pipeline: &gst::Pipeline) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let pad = pipeline.by_name("convert").and_then(|element| element.static_pad("sink"));
        if let Some(pad) = &pad {
            let count = count.clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
                gst::PadProbeReturn::Ok
            });
        }
        Self { pad, count }
    }

    /// How many there were, and how many there will be. `None` before the first.
    fn counted(&self) -> Option<(u64, u64)> {
        let frame = self.count.load(Ordering::Relaxed);
        let pad = self.pad.as_ref().filter(|_| frame > 0)?;
        let rate = pad.current_caps()?.structure(0)?.get::<gst::Fraction>("framerate").ok()?;
        let duration = pad.peer_query_duration::<gst::ClockTime>()?;
        let second = gst::ClockTime::SECOND.nseconds() * rate.denom() as u64;
        let of = duration.nseconds().mul_div_round(rate.numer() as u64, second)?;
        Some((frame, of.max(frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Wanted};
    use std::sync::Weak;

    #[test]
    fn one_model_is_loaded_for_all_scenes() {
        crate::job::register();
        let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/keyframe.jpg");
        let scenes: Vec<_> =
            (1..4).map(|seed| format!("- {{id: {seed}, keyframe: {}, seed: {seed}}}\n", picture.display())).collect();
        let text = format!(
            "video: {{device: cpu, width: 64, height: 64, num_frames: 2, num_inference_steps: 1}}\n\
             output: {{container: mkv, encoder: jpegenc}}\nscenes:\n{}",
            scenes.concat()
        );
        let config = Config::parse(Path::new("/job/config.yaml"), &text, &Wanted::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let shared = || {
            let (source, device, kind) = model(&config.scenes()[0]).unwrap();
            Model::shared(&source, device, kind)
        };
        // The worker of the first scene, which nobody but the job and its scenes holds.
        let first: Mutex<Weak<Worker<Model>>> = Mutex::default();
        let seen = Mutex::new([0; 3]);
        let tell = |number: usize, told: Told| match told {
            Told::Begun if number > 0 => assert!(first.lock().unwrap().upgrade().is_some(), "it is gone"),
            Told::Progress(text, _) if text.contains("Denoising") => {
                let worker = shared();
                let mut first = first.lock().unwrap();
                if number == 0 {
                    *first = Arc::downgrade(&worker);
                }
                // Three: this one, the job's and the element's.
                let is_same = first.upgrade().is_some_and(|first| Arc::ptr_eq(&first, &worker));
                assert!(is_same && Arc::strong_count(&worker) >= 3, "scene {number} has another");
                seen.lock().unwrap()[number] += 1;
            }
            _ => {}
        };
        let scenes = config.scenes().iter().map(|scene| (scene, folder.path().into())).collect();
        let outcomes = Job { scenes, jobs: 1, again: false, stop: Arc::default(), tell: &tell }.run().unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Rendered(_))), "{outcomes:?}");
        assert!(seen.lock().unwrap().iter().all(|count| *count > 0));
        assert!(first.lock().unwrap().upgrade().is_none(), "it stays when the job has ended");
    }
}
