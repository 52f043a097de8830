// SPDX-License-Identifier: MPL-2.0
//! Variants of a scene, which differ in some values, and their comparison: `compare.json` and the page `compare.html`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use gst::prelude::*;
use image::codecs::jpeg::JpegEncoder;
use serde::Serialize;
use serde_json::Value as Json;
use tch::{Device, Kind};

use super::render::Playing;
use super::store::Entry;
use super::{Outcome, file_name, folder_of, page, store};
use crate::config::{Config, Scene, Section, Wanted};
use crate::engine::image::Frame;
use crate::engine::metrics::{self, Better, Measure};
use crate::engine::rife;
use crate::engine::worker::Cancel;
use crate::frameratetune::settings::Mode;
use crate::settings::fraction;
use crate::{frameratetune, models};

/// The most variants of a sweep.
pub const MOST: usize = 64;
/// The most frames of a clip that are measured; the first are.
const MEASURED: usize = 240;
/// The most pictures of all variants that are put on the page.
const SHOWN: usize = 1200;
/// The longer side of a picture on the page, in pixels.
const SHOWN_SIDE: usize = 384;
/// The quality of pictures on the page, of 100.
const QUALITY: u8 = 82;
/// The files that a comparison is written to.
pub const COMPARISON: [&str; 2] = ["compare.json", "compare.html"];

/// What is known of the making of a variant: measures beside those of the engine.
const OF_MAKING: [Measure; 3] = [
    Measure {
        name: "seconds",
        title: "Time",
        unit: "s",
        better: Better::Lower,
        about: "From the beginning of the variant to its finished file. The first also waits for the model to load, and \
                variants that are made at once for one another.",
    },
    Measure {
        name: "generate_seconds",
        title: "Time to generate",
        unit: "s",
        better: Better::Lower,
        about: "Encoding, denoising and decoding of its clips alone.",
    },
    Measure {
        name: "peak_memory",
        title: "Peak memory",
        unit: "MB",
        better: Better::Lower,
        about: "The most memory of the device (on the CPU: of the tensors) that was in use while a clip was generated.",
    },
];

/// All that variants are compared by.
pub fn measures() -> Vec<Measure> {
    OF_MAKING.into_iter().chain(metrics::MEASURES).collect()
}

/// A key, and the values that it takes: `video.fps=12,16`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// `video.fps`.
    pub key: String,
    /// Each as YAML: `12`.
    pub values: Vec<String>,
}

impl std::str::FromStr for Over {
    type Err = String;

    /// Reads `KEY=VALUE,VALUE,…`. Commas within brackets and quotes are part of a value.
    fn from_str(text: &str) -> Result<Self, String> {
        let usage = "use KEY=VALUE,VALUE,…, as video.motion_bucket_id=2,30";
        let (key, listed) = text.split_once('=').ok_or(usage)?;
        let (mut values, mut depth, mut quote) = (vec![String::new()], 0, None);
        for c in listed.chars() {
            match (c, quote) {
                (',', None) if depth == 0 => {
                    values.push(String::new());
                    continue;
                }
                ('[' | '{', None) => depth += 1,
                (']' | '}', None) => depth -= 1,
                ('"' | '\'', None) => quote = Some(c),
                (c, Some(open)) if c == open => quote = None,
                _ => {}
            }
            values.last_mut().expect("there is one").push(c);
        }
        let values: Vec<_> = values.iter().map(|value| value.trim().to_string()).collect();
        if values.iter().any(String::is_empty) {
            return Err(format!("a value is missing: {usage}"));
        }
        if values.len() < 2 {
            return Err(format!("one value is nothing to compare: {usage}; --set is for one"));
        }
        let over = Self { key: key.trim().into(), values };
        let mut numbers = over.numbers().unwrap_or_default();
        numbers.sort_by(f64::total_cmp);
        let is_twice = numbers.windows(2).any(|pair| pair[0] == pair[1]);
        if is_twice || over.values.iter().collect::<BTreeSet<_>>().len() < over.values.len() {
            return Err("a value is there twice".into());
        }
        Ok(over)
    }
}

impl Over {
    /// The numbers of the lowest and the highest value; of the first and the last, if they are no numbers.
    pub fn ends(&self) -> [usize; 2] {
        let order = self.order();
        [order[0], order[order.len() - 1]]
    }

    /// The numbers of the values from the lowest to the highest; as they are, if they are no numbers.
    pub fn order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.values.len()).collect();
        if let Some(numbers) = self.numbers() {
            order.sort_by(|one, other| numbers[*one].total_cmp(&numbers[*other]));
        }
        order
    }

    /// The values, if all are numbers or fractions.
    pub fn numbers(&self) -> Option<Vec<f64>> {
        let number = |text: &String| {
            let number = match text.split_once('/') {
                Some((above, below)) => above.trim().parse::<f64>().ok()? / below.trim().parse::<f64>().ok()?,
                None => text.parse::<f64>().ok()?,
            };
            number.is_finite().then_some(number)
        };
        self.values.iter().map(number).collect()
    }
}

/// A scene with one of the values for each key.
#[derive(Debug)]
pub struct Variant {
    /// What tells it from the others, and its folder's name: `fps=12,motion_bucket_id=2`.
    pub name: String,
    /// The numbers of its values, in the order of the keys.
    pub values: Vec<usize>,
    /// The scene.
    pub scene: Scene,
    /// Where its file is.
    pub folder: PathBuf,
}

/// Variants of a scene.
#[derive(Debug)]
pub struct Sweep {
    /// The scene's name.
    pub id: String,
    /// The configuration.
    pub config: PathBuf,
    /// Where the comparison is written; the variants are in folders in it.
    pub folder: PathBuf,
    /// What differs.
    pub overs: Vec<Over>,
    /// Each value with each; the last key changes first.
    pub variants: Vec<Variant>,
}

impl Sweep {
    /// Plans the variants of the scene `id`, which may be left out if the file has no other. Without `out`, they are in the
    /// folder `sweep-ID` where the scene's file would be.
    ///
    /// # Errors
    /// In words: more than [`MOST`] variants, a key that is there twice, what is wrong with the file or a value.
    pub fn new(
        config: &Path,
        wanted: &Wanted,
        id: Option<&str>,
        overs: Vec<Over>,
        out: Option<&Path>,
    ) -> Result<Self, String> {
        let count = overs.iter().try_fold(1usize, |count, over| count.checked_mul(over.values.len()));
        let count = count.unwrap_or(usize::MAX);
        if count > MOST {
            let counts: Vec<_> = overs.iter().map(|over| over.values.len().to_string()).collect();
            return Err(format!(
                "{} are {count} variants, and {MOST} are possible: use fewer values",
                counts.join(" x ")
            ));
        }
        for (number, over) in overs.iter().enumerate() {
            if overs[..number].iter().any(|other| other.key == over.key) {
                return Err(format!("{} is there twice: list all its values at once", over.key));
            }
        }
        let open = |values: &[usize]| {
            let chosen = overs.iter().zip(values).map(|(over, value)| (over.key.clone(), over.values[*value].clone()));
            let wanted =
                Wanted { preset: wanted.preset, values: wanted.values.iter().cloned().chain(chosen).collect() };
            let config = Config::open(config, &wanted).map_err(|err| err.to_string())?;
            scene(&config, id)
        };
        let base = open(&[])?;
        let folder = out.map_or_else(|| folder_of(&base, config).join(format!("sweep-{}", base.id)), Path::to_path_buf);
        let mut variants: Vec<Variant> = Vec::new();
        for number in 0..count {
            let values = chosen(&overs, number);
            let mut name = named(&overs, &values);
            // Names that became too long, or the same.
            if name.len() > 200 || variants.iter().any(|other| other.name == name) {
                name = format!("variant-{}", number + 1);
            }
            variants.push(Variant { scene: open(&values)?, folder: folder.join(&name), name, values });
        }
        Ok(Self { id: base.id, config: config.into(), folder, overs, variants })
    }

    /// Looks at the variants that were made, and writes the comparison. `tell` hears which variant is looked at. Gives
    /// the page's path; `None` if it was stopped.
    ///
    /// # Errors
    /// In words, if nothing was made, or a file can't be read or written.
    pub fn compare(
        &self,
        outcomes: &[Outcome],
        stop: &AtomicBool,
        tell: &dyn Fn(String),
    ) -> Result<Option<PathBuf>, String> {
        let mut model = models::locate(frameratetune::settings::DEFAULT_MODEL)
            .ok()
            .and_then(|path| rife::Model::load(&path, Device::Cpu, Kind::Float, &Cancel::default()).ok());
        if model.is_none() {
            tell("RIFE is not there: motion and its smoothness are not measured".into());
        }
        let mut looked = Vec::new();
        for (variant, outcome) in self.variants.iter().zip(outcomes) {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let failure = match outcome {
                Outcome::Failed(reason) => Some(reason.clone()),
                Outcome::Stopped | Outcome::NotBegun => Some("it was stopped".into()),
                Outcome::Rendered(_) | Outcome::UpToDate => None,
            };
            tell(format!("{}: measured", variant.name));
            let seen = match failure {
                None => self.look(variant, model.as_mut()),
                Some(reason) => Err(reason),
            };
            looked.push(seen.unwrap_or_else(|reason| Looked { failed: Some(reason), ..self.blank(variant) }));
        }
        let failures: Vec<_> = looked.iter().filter_map(|looked| looked.failed.as_ref()).collect();
        if failures.len() == looked.len() {
            return Err(format!("there is nothing to compare: {}", failures[0]));
        }
        let influence = self.overs.iter().enumerate().map(|(number, _)| self.influence(number, &looked)).collect();
        let comparison = Comparison {
            generator: format!("gst-plugin-torchvideo {}", env!("CARGO_PKG_VERSION")),
            scene: self.id.clone(),
            config: self.config.to_string_lossy().into(),
            measures: measures(),
            variants: looked,
            influence,
        };
        std::fs::create_dir_all(&self.folder).map_err(|err| format!("{}: {err}", self.folder.display()))?;
        let json = serde_json::to_string_pretty(&comparison).map_err(|err| err.to_string())?;
        let page = page::html(&comparison, &self.overs);
        for (name, text) in COMPARISON.iter().zip([json + "\n", page]) {
            let (path, part) = (self.folder.join(name), self.folder.join(format!(".{name}.part")));
            let written = std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, &path));
            written.map_err(|err| format!("{}: {err}", path.display()))?;
        }
        Ok(Some(self.folder.join(COMPARISON[1])))
    }

    /// A variant of which nothing is known.
    fn blank(&self, variant: &Variant) -> Looked {
        let value = |(over, number): (&Over, &usize)| {
            let text = &over.values[*number];
            (over.key.clone(), serde_json::from_str(text).unwrap_or_else(|_| Json::from(text.as_str())))
        };
        Looked {
            name: variant.name.clone(),
            values: self.overs.iter().zip(&variant.values).map(value).collect(),
            file: format!("{}/{}", variant.name, file_name(&variant.scene)),
            failed: None,
            interpolated: false,
            metrics: BTreeMap::new(),
            frames: 0,
            fps: 0.0,
            numbers: variant.values.clone(),
            pictures: vec![],
        }
    }

    fn look(&self, variant: &Variant, model: Option<&mut rife::Model>) -> Result<Looked, String> {
        let name = file_name(&variant.scene);
        let path = variant.folder.join(&name);
        let entry = store::entry(&variant.folder, &name)
            .ok_or_else(|| format!("{}: its folder does not tell of it", path.display()))?;
        let clip = decode(&path)?;
        let mut metrics = of_making(&entry);
        let measured = metrics::measure(&clip.frames, model).map_err(|err| format!("{}: {err}", path.display()))?;
        metrics.extend(measured.into_iter().map(|(name, value)| (name.to_string(), value)));
        let interpolated = is_interpolated(&variant.scene, &entry, clip.fps);
        if interpolated {
            metrics.remove(metrics::SMOOTHNESS);
        }
        let most = (SHOWN / self.variants.len()).max(2);
        let pictures = clip.frames.iter().step_by(clip.frames.len().div_ceil(most).max(1)).map(jpeg);
        Ok(Looked {
            interpolated,
            metrics,
            frames: clip.frames.len(),
            fps: clip.fps,
            pictures: pictures.collect::<Result<_, _>>()?,
            ..self.blank(variant)
        })
    }

    /// What changes between the lowest and the highest value of a key: the mean over pairs of variants that differ in it
    /// alone.
    fn influence(&self, number: usize, looked: &[Looked]) -> Influence {
        let over = &self.overs[number];
        let [low, high] = over.ends();
        let mut changes = BTreeMap::new();
        for measure in measures() {
            let value = |looked: &Looked| looked.metrics.get(measure.name).copied();
            let pairs: Vec<_> = looked
                .iter()
                .filter(|one| one.numbers[number] == low)
                .filter_map(|one| {
                    let mut wanted = one.numbers.clone();
                    wanted[number] = high;
                    let other = looked.iter().find(|other| other.numbers == wanted)?;
                    Some([value(one)?, value(other)?])
                })
                .collect();
            if pairs.is_empty() {
                continue;
            }
            let mean = |end: usize| pairs.iter().map(|pair| pair[end]).sum::<f64>() / pairs.len() as f64;
            let [low, high] = [mean(0), mean(1)];
            let percent = (low != 0.0).then(|| (high - low) / low.abs() * 100.0);
            changes.insert(measure.name.to_string(), Change { low, high, change: high - low, percent });
        }
        Influence { key: over.key.clone(), low: over.values[low].clone(), high: over.values[high].clone(), changes }
    }
}

/// The one scene that is meant.
fn scene(config: &Config, id: Option<&str>) -> Result<Scene, String> {
    match (id, config.scenes()) {
        (Some(id), _) => config.scene(id).cloned().map_err(|err| err.to_string()),
        (None, [scene]) => Ok(scene.clone()),
        (None, []) => Err("the file has no scenes: list them under scenes".into()),
        (None, scenes) => {
            let ids: Vec<_> = scenes.iter().take(20).map(|scene| scene.id.as_str()).collect();
            Err(format!("name a scene with --scene-id: there are {}", ids.join(", ")))
        }
    }
}

/// The values of the variant of this number, of all.
fn chosen(overs: &[Over], number: usize) -> Vec<usize> {
    let mut rest = number;
    let mut values: Vec<_> = overs
        .iter()
        .rev()
        .map(|over| {
            let value = rest % over.values.len();
            rest /= over.values.len();
            value
        })
        .collect();
    values.reverse();
    values
}

/// What tells a variant from the others, as a file's name.
fn named(overs: &[Over], values: &[usize]) -> String {
    let parts =
        overs.iter().zip(values).map(|(over, value)| format!("{}={}", short(overs, &over.key), over.values[*value]));
    let is_plain = |c: char| c.is_alphanumeric() || "=,._-".contains(c);
    parts.collect::<Vec<_>>().join(",").chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}

/// A key without its section, if no other ends like it.
pub fn short<'a>(overs: &[Over], key: &'a str) -> &'a str {
    let last = |key: &'a str| key.rsplit('.').next().unwrap_or(key);
    let alike = overs.iter().filter(|over| over.key.rsplit('.').next() == Some(last(key))).count();
    if alike > 1 { key } else { last(key) }
}

/// All that a sweep has found out.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// What made it.
    pub generator: String,
    /// The scene.
    pub scene: String,
    /// The configuration.
    pub config: String,
    /// What the metrics are.
    pub measures: Vec<Measure>,
    /// The variants.
    pub variants: Vec<Looked>,
    /// What each key changes.
    pub influence: Vec<Influence>,
}

/// A variant that was looked at.
#[derive(Debug, Serialize)]
pub struct Looked {
    /// Its name.
    pub name: String,
    /// Its values by their keys.
    pub values: BTreeMap<String, Json>,
    /// Its file, from the folder of the comparison on.
    pub file: String,
    /// Why it was not made, or can't be looked at.
    pub failed: Option<String>,
    /// Whether it has frames that RIFE made, and so no smoothness, which RIFE tells.
    pub interpolated: bool,
    /// What was measured, by the measures' names; without what can't be told.
    pub metrics: BTreeMap<String, f64>,
    /// Frames that were measured.
    pub frames: usize,
    /// Frames per second.
    pub fps: f64,
    /// The numbers of its values.
    #[serde(skip)]
    pub numbers: Vec<usize>,
    /// JPEG files of frames, in equal steps.
    #[serde(skip)]
    pub pictures: Vec<Vec<u8>>,
}

/// What a key changes.
#[derive(Debug, Serialize)]
pub struct Influence {
    /// The key.
    pub key: String,
    /// Its lowest value.
    pub low: String,
    /// Its highest value.
    pub high: String,
    /// The change of each metric from one to the other.
    pub changes: BTreeMap<String, Change>,
}

/// The change of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// Its mean where the key is lowest.
    pub low: f64,
    /// Its mean where it is highest.
    pub high: f64,
    /// The difference.
    pub change: f64,
    /// The difference in per cent of `low`.
    pub percent: Option<f64>,
}

/// What the manifest tells of a file.
fn of_making(entry: &Entry) -> BTreeMap<String, f64> {
    let seconds = |clip: &Json| -> Option<f64> {
        ["encode", "denoise", "decode"].iter().map(|part| clip["seconds"][part].as_f64()).sum()
    };
    let generating: Option<f64> = entry.clips.iter().map(seconds).sum();
    let peak = entry.clips.iter().filter_map(|clip| clip["peak_memory"]["device"].as_f64()).reduce(f64::max);
    let told = [
        ("seconds", Some(entry.seconds)),
        ("generate_seconds", generating.filter(|_| !entry.clips.is_empty())),
        ("peak_memory", peak.map(|bytes| bytes / 1e6)),
    ];
    told.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))).collect()
}

/// Whether a file with so many frames a second has frames that RIFE made between those that were generated.
fn is_interpolated(scene: &Scene, entry: &Entry, fps: f64) -> bool {
    let layer = scene.layer(Section::Framerate);
    let settings = frameratetune::settings::Settings::of(&layer);
    let generated = entry.clips.first().and_then(|clip| fraction(&clip["properties"]["fps"]));
    let number = |rate: gst::Fraction| f64::from(rate.numer()) / f64::from(rate.denom());
    let rises = generated.is_none_or(|generated| fps / number(settings.speed) > number(generated) * 1.001);
    !layer.is_empty() && matches!(settings.mode, Mode::Interpolate | Mode::Auto) && rises
}

/// The beginning of a clip, made small.
struct Clip {
    frames: Vec<Frame>,
    fps: f64,
}

/// Decodes the beginning of a file.
fn decode(path: &Path) -> Result<Clip, String> {
    let wrong = |reason: String| format!("{}: {reason}", path.display());
    let line = "filesrc name=file ! decodebin ! videoconvert ! video/x-raw,format=RGB ! appsink name=sink sync=false max-buffers=4";
    let pipeline = gst::parse::launch(line).map_err(|err| wrong(err.to_string()))?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| wrong("the line is no pipeline".into()))?;
    let file = pipeline.by_name("file").ok_or_else(|| wrong("the pipeline has no file".into()))?;
    file.set_property("location", path.to_string_lossy().as_ref());
    let sink = pipeline.by_name("sink").and_then(|sink| sink.downcast::<gst_app::AppSink>().ok());
    let sink = sink.ok_or_else(|| wrong("the pipeline has no end".into()))?;
    let _guard = Playing(pipeline.clone());
    let started = pipeline.set_state(gst::State::Playing);
    let (mut frames, mut fps) = (Vec::new(), 0.0);
    while started.is_ok() && frames.len() < MEASURED {
        let sample = match sink.try_pull_sample(gst::ClockTime::from_mseconds(200)) {
            Some(sample) => sample,
            None if sink.is_eos() => break,
            None => match error(&pipeline) {
                Some(reason) => return Err(wrong(reason)),
                None => continue,
            },
        };
        let caps = sample.caps().ok_or_else(|| wrong("a frame has no caps".into()))?;
        let info = gst_video::VideoInfo::from_caps(caps).map_err(|err| wrong(err.to_string()))?;
        let buffer = sample.buffer().ok_or_else(|| wrong("a sample has no frame".into()))?;
        let mapped = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info);
        let mapped = mapped.map_err(|err| wrong(err.to_string()))?;
        let (width, height, stride) = (info.width() as usize, info.height() as usize, info.stride()[0] as usize);
        let rows = mapped.plane_data(0).map_err(|err| wrong(err.to_string()))?.chunks(stride).take(height);
        let data = rows.flat_map(|row| &row[..3 * width]).copied().collect();
        frames.push(metrics::small(&Frame::new(width, height, 3, data)));
        fps = f64::from(info.fps().numer()) / f64::from(info.fps().denom());
    }
    if let Some(reason) = error(&pipeline) {
        return Err(wrong(reason));
    }
    if frames.is_empty() {
        return Err(wrong("it has no frames".into()));
    }
    Ok(Clip { frames, fps })
}

/// What a pipeline has failed of.
fn error(pipeline: &gst::Pipeline) -> Option<String> {
    let message = pipeline.bus()?.pop_filtered(&[gst::MessageType::Error])?;
    match message.view() {
        gst::MessageView::Error(error) => Some(error.error().to_string()),
        _ => None,
    }
}

/// A frame as a JPEG file for the page.
fn jpeg(frame: &Frame) -> Result<Vec<u8>, String> {
    let [width, height] = metrics::small_size(frame, SHOWN_SIDE);
    let frame = frame.resize(width, height);
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
    let written = image::ImageEncoder::write_image(
        encoder,
        frame.data(),
        width as u32,
        height as u32,
        image::ExtendedColorType::Rgb8,
    );
    written.map_err(|err| err.to_string())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(text: &str) -> Result<Over, String> {
        text.parse()
    }

    #[test]
    fn values_are_read_from_a_list() {
        let steps = over("video.num_inference_steps=60,50, 65").unwrap();
        assert_eq!(
            (steps.key.as_str(), &steps.values[..]),
            ("video.num_inference_steps", &["60", "50", "65"].map(String::from)[..])
        );
        assert_eq!((steps.ends(), steps.order()), ([1, 2], vec![1, 0, 2]));
        let nested = over("video.sigmas=[5,0.5],[3, 1]").unwrap();
        assert_eq!(nested.values, ["[5,0.5]", "[3, 1]"]);
        assert_eq!((nested.numbers(), nested.ends()), (None, [0, 1]));
        assert_eq!(over("output.encoder='a,b',c").unwrap().values, ["'a,b'", "c"]);
        assert_eq!(over("video.fps=25,24000/1001").unwrap().ends(), [1, 0]);
        for (text, part) in [
            ("video.fps", "use KEY=VALUE,VALUE"),
            ("video.fps=12", "one value is nothing to compare"),
            ("video.fps=12,", "a value is missing"),
            ("video.fps=12,16,12", "a value is there twice"),
            ("video.fps=12,25/1,12.0", "a value is there twice"),
        ] {
            assert!(over(text).unwrap_err().contains(part), "{text}");
        }
    }

    /// The sweep of a scene without a picture; nothing is made.
    fn sweep(overs: &[&str], id: Option<&str>) -> Result<Sweep, String> {
        gst::init().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, "scenes: [{id: a}, {id: b}]").unwrap();
        let overs = overs.iter().map(|text| over(text).unwrap()).collect();
        Sweep::new(&path, &Wanted::default(), id, overs, None)
    }

    #[test]
    fn each_value_meets_each() {
        let sweep = sweep(&["video.fps=12,25/2", "framerate.fps=24,25", "video.seed=1,2,3"], Some("b")).unwrap();
        let names: Vec<_> = sweep.variants.iter().map(|variant| variant.name.as_str()).collect();
        assert_eq!(
            (names.len(), names[0], names[11]),
            (12, "video.fps=12,framerate.fps=24,seed=1", "video.fps=25_2,framerate.fps=25,seed=3")
        );
        assert!(sweep.folder.ends_with("out/sweep-b"));
        let seed = |number: usize| sweep.variants[number].scene.get(Section::Video, "seed").cloned();
        assert_eq!([seed(0), seed(5)], [Some(1.into()), Some(3.into())]);
    }

    #[test]
    fn what_is_wrong_with_a_sweep_is_told_before_anything_is_made() {
        let values = (0..9).map(|value| value.to_string()).collect::<Vec<_>>().join(",");
        let many = [format!("video.seed={values}"), format!("video.motion_bucket_id={values}")];
        for (overs, id, part) in [
            (&[many[0].as_str(), &many[1]][..], Some("a"), "9 x 9 are 81 variants, and 64 are possible"),
            (&["video.seed=1,2", "video.seed=3,4"], Some("a"), "video.seed is there twice"),
            (&["video.fsp=1,2"], Some("a"), "did you mean fps?"),
            (&["video.fps=1,slow"], Some("a"), "25/2"),
            (&["video.seed=1,2"], None, "name a scene with --scene-id: there are a, b"),
            (&["video.seed=1,2"], Some("c"), "there is no scene \"c\""),
        ] {
            let message = sweep(overs, id).unwrap_err();
            assert!(message.contains(part), "{overs:?}: {message}");
        }
    }

    #[test]
    fn influence_is_of_pairs_that_differ_in_one_value() {
        let sweep = sweep(&["video.motion_bucket_id=30,2", "video.seed=1,2"], Some("a")).unwrap();
        let jitter = [[5.0, 7.0], [1.0, 2.0]];
        let mut looked: Vec<_> = sweep.variants.iter().map(|variant| sweep.blank(variant)).collect();
        for looked in &mut looked {
            let value = jitter[looked.numbers[0]][looked.numbers[1]];
            looked.metrics.insert("jitter".into(), value);
        }
        let influence = sweep.influence(0, &looked);
        assert_eq!((influence.low.as_str(), influence.high.as_str()), ("2", "30"));
        assert_eq!(influence.changes["jitter"], Change { low: 1.5, high: 6.0, change: 4.5, percent: Some(300.0) });
        assert!(!influence.changes.contains_key("drift"));
        // One that was not made takes its partner out.
        looked[3].metrics.clear();
        assert_eq!(sweep.influence(0, &looked).changes["jitter"].change, 4.0);
        assert_eq!(sweep.influence(1, &looked).changes["jitter"].change, 2.0);
    }
}
