// SPDX-License-Identifier: MPL-2.0
//! A job in a YAML file: sections of settings, scenes that differ from them, and recommended plans (`preset`).
//!
//! ```yaml
//! preset: balanced              # none, balanced, quality or speed: lies below all that the file says
//! video: {fps: 12, num_inference_steps: 55, motion_bucket_id: 2}
//! postprocess: {model_path: models/RealESRGAN_x2plus.pth, outscale: 2}
//! framerate: {mode: interpolate, fps: 24}
//! output: {container: mp4, folder: out}
//! scenes:                       # or the name of a file with the list
//!   - {id: 001, keyframe: shots/001.png, seed: 7, video: {motion_bucket_id: 30}}
//! ```
//!
//! Keys are the elements' properties in snake case (`schema`). What a scene says goes before what the file says. Paths are
//! relative to the file that they stand in; nothing in them is expanded. A value that is not possible is an error with
//! file, line and column, at once, whichever scene is wanted.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value as Json;
use serde_yaml::{Mapping, Value};

pub mod element;
mod layers;
mod presets;
mod schema;
mod yaml;

pub use presets::Preset;
pub use schema::{CONTAINERS, Key, Section};

use crate::settings::Layer;
pub(crate) use layers::nearest;
use layers::{Layers, known, mapping, outside};
use yaml::{Document, Step};

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The file.
    pub file: PathBuf,
    /// Line and column, from 1.
    pub position: Option<(usize, usize)>,
    /// The key's path: `scenes[0].video.fps`. Empty for the whole file.
    pub place: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// A result with this module's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        if !self.place.is_empty() {
            write!(f, " {}:", self.place)?;
        }
        write!(f, " {}", self.message)
    }
}

impl std::error::Error for Error {}

/// Where a value comes from; what comes later goes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A recommended plan.
    Preset(Preset),
    /// The file.
    File,
    /// The scene.
    Scene,
    /// A recommended plan that was asked for from outside, or a value that was.
    Outside,
}

/// A value of a setting.
#[derive(Debug, Clone)]
pub struct Setting {
    /// As the property has it.
    pub value: Json,
    /// Where it comes from.
    pub origin: Origin,
    document: Arc<Document>,
    place: Vec<Step>,
}

impl Setting {
    /// Where it is written: file, line and column.
    pub fn position(&self) -> (&Path, Option<(usize, usize)>) {
        (self.document.path(), self.document.position(&self.place))
    }

    /// The value of this key as a file has it: seconds, and not nanoseconds.
    pub fn printed(&self, section: Section, name: &str) -> Json {
        let key = section.keys().iter().find(|key| key.name == name);
        key.map_or(self.value.clone(), |key| key.print(&self.value))
    }

    /// An error at this value.
    pub fn wrong(&self, message: impl Into<String>) -> Error {
        self.document.wrong(&self.place, message)
    }
}

/// Settings by section and key.
pub type Settings = BTreeMap<(Section, String), Setting>;

/// A scene, with all that it is made with.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Its name.
    pub id: String,
    /// Its picture.
    pub keyframe: Option<PathBuf>,
    /// Its sound.
    pub audio: Option<PathBuf>,
    /// Remarks.
    pub notes: Option<String>,
    /// The recommended plan that holds for it, whether or not anything is left of it.
    pub preset: Preset,
    /// What was set, the file's and the scene's.
    pub settings: Settings,
}

impl Scene {
    /// What was set in a section, by the properties' names.
    pub fn layer(&self, section: Section) -> Layer {
        layer(&self.settings, section)
    }

    /// The scene as a part of a file's list that says everything itself, with absolute paths.
    fn to_value(&self) -> serde_json::Map<String, Json> {
        let mut map = print(&self.settings);
        map.insert("id".into(), self.id.clone().into());
        for (key, path) in [("keyframe", &self.keyframe), ("audio", &self.audio)] {
            map.extend(path.as_ref().map(|path| (key.into(), absolute(path).to_string_lossy().into())));
        }
        map.extend(self.notes.clone().map(|notes| ("notes".into(), notes.into())));
        map
    }

    /// A value that was set.
    pub fn get(&self, section: Section, key: &str) -> Option<&Json> {
        self.settings.get(&(section, key.into())).map(|setting| &setting.value)
    }
}

/// Settings by section, as a file has them.
fn print(settings: &Settings) -> serde_json::Map<String, Json> {
    let mut map = serde_json::Map::new();
    for ((section, name), setting) in settings {
        let Some(key) = section.keys().iter().find(|key| key.name == *name) else { continue };
        let mut place = &mut map;
        for step in section.steps() {
            let Step::Key(step) = step else { continue };
            let below = place.entry(step).or_insert_with(|| Json::Object(Default::default()));
            place = below.as_object_mut().expect("it was made as one");
        }
        place.insert(name.clone(), key.print(&setting.value));
    }
    map
}

fn layer(settings: &Settings, section: Section) -> Layer {
    let of_it = settings.iter().filter(|((of, _), _)| *of == section);
    of_it.map(|((_, key), setting)| (key.replace('_', "-"), setting.value.clone())).collect()
}

/// A file that was read and checked.
#[derive(Debug)]
pub struct Config {
    document: Arc<Document>,
    /// What holds for every scene.
    settings: Settings,
    scenes: Vec<Scene>,
    /// The plan that it names.
    preset: Preset,
}

/// What is asked for from outside of the file, and goes before it.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// A recommended plan; [`Preset::None`] takes away the file's.
    pub preset: Option<Preset>,
    /// Values by their path, as YAML: `video.fps`, `12`.
    pub values: Vec<(String, String)>,
}

const TOP: [&str; 7] = ["preset", "video", "image", "postprocess", "framerate", "output", "scenes"];
const OF_SCENE: [&str; 12] = [
    "id",
    "keyframe",
    "audio",
    "notes",
    "duration",
    "seed",
    "preset",
    "video",
    "image",
    "postprocess",
    "framerate",
    "output",
];

impl Config {
    /// Reads a file, and checks all of it.
    ///
    /// # Errors
    /// [`Error`] for the first thing that is wrong.
    pub fn open(path: &Path, wanted: &Wanted) -> Result<Self> {
        Self::new(Arc::new(Document::open(path)?), wanted)
    }

    /// Reads the text of a file that stands at `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn parse(path: &Path, text: &str, wanted: &Wanted) -> Result<Self> {
        Self::new(Arc::new(Document::parse(path, text.into())?), wanted)
    }

    fn new(document: Arc<Document>, wanted: &Wanted) -> Result<Self> {
        let empty = Mapping::new();
        // A list is one of scenes.
        let (top, list) = match document.root() {
            Value::Null => (&empty, None),
            list @ Value::Sequence(_) => (&empty, Some((list, vec![]))),
            root => {
                let top = mapping(&document, root, &[])?;
                (top, top.get("scenes").map(|list| (list, vec!["scenes".into()])))
            }
        };
        known(&document, top, &[], &TOP)?;
        let of_file = Layers { document: &document, map: top, place: vec![], origin: Origin::File };
        let preset = of_file.preset()?.unwrap_or_default();
        let mut settings = if wanted.preset == Some(Preset::None) { Settings::new() } else { preset.settings()? };
        of_file.add(&mut settings)?;
        let mut config = Self { document: document.clone(), settings, scenes: vec![], preset };
        let outside = outside(wanted)?;
        if let Some((list, place)) = list {
            config.add_scenes(list, place, wanted.preset, &outside)?;
        }
        config.settings.extend(outside);
        let scenes = config.scenes.iter().map(|scene| &scene.settings);
        std::iter::once(&config.settings).chain(scenes).try_for_each(element::check)?;
        Ok(config)
    }

    /// A file that says the same without plans, other files and values from outside: what holds for each of `scenes` is
    /// written there.
    pub fn print<'a>(scenes: impl IntoIterator<Item = &'a Scene>) -> String {
        let scenes: Vec<_> = scenes.into_iter().map(|scene| Json::Object(scene.to_value())).collect();
        serde_yaml::to_string(&serde_json::json!({ "scenes": scenes })).expect("it is made of plain values")
    }

    /// The scenes, in their order.
    pub fn scenes(&self) -> &[Scene] {
        &self.scenes
    }

    /// What holds for every scene.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The names of the scenes in words, if they are not too many.
    fn listed(&self) -> String {
        let ids: Vec<_> = self.scenes.iter().map(|scene| scene.id.as_str()).collect();
        match &ids[..] {
            [first, .., last] if ids.len() > 20 => format!("{} scenes, {first} to {last}", ids.len()),
            ids => ids.join(", "),
        }
    }

    /// An error for scenes that differ in a section, if none is chosen.
    fn several(&self, section: Section) -> Error {
        let message = format!("they differ in {}: name one as scene-id, of {}", section.name(), self.listed());
        self.document.wrong(&["scenes".into()], message)
    }

    /// The scene of this name.
    ///
    /// # Errors
    /// [`Error`] with the names that there are.
    pub fn scene(&self, id: &str) -> Result<&Scene> {
        self.scenes.iter().find(|scene| scene.id == id).ok_or_else(|| {
            let ids: Vec<_> = self.scenes.iter().map(|scene| scene.id.as_str()).collect();
            let has =
                if ids.is_empty() { "the file has no scenes".into() } else { format!("it has {}", self.listed()) };
            // A number is the same with zeros before it and without.
            let plain = |id: &str| id.parse::<u64>().ok();
            let same = ids.iter().copied().find(|other| plain(id).is_some() && plain(other) == plain(id));
            let near = same.or_else(|| nearest(id, ids.iter().copied()));
            let near = near.map(|near| format!("; did you mean {near}?"));
            self.document
                .wrong(&["scenes".into()], format!("there is no scene {id:?}: {has}{}", near.unwrap_or_default()))
        })
    }

    fn add_scenes(
        &mut self,
        listed: &Value,
        mut place: Vec<Step>,
        preset: Option<Preset>,
        outside: &Settings,
    ) -> Result<()> {
        let mut document = self.document.clone();
        let mut listed = listed.clone();
        if let Some(path) = listed.as_str() {
            let path = document.folder().join(path);
            let other = Document::open(&path).map_err(|err| document.wrong(&place, err.to_string()))?;
            (document, listed, place) = (Arc::new(other), Value::Null, vec![]);
            // The list itself, or a file of this sort with nothing but the list.
            listed.clone_from(match document.root() {
                Value::Mapping(map) => {
                    known(&document, map, &[], &["scenes"])?;
                    place.push("scenes".into());
                    map.get("scenes").unwrap_or(&Value::Null)
                }
                root => root,
            });
        }
        let Value::Sequence(items) = listed else {
            return Err(document.wrong(&place, "use a list of scenes, or the name of a file with one"));
        };
        for (number, item) in items.iter().enumerate() {
            let place = [place.clone(), vec![number.into()]].concat();
            let scene = self.read_scene(&document, item, place.clone(), preset, outside)?;
            if let Some(other) = self.scenes.iter().position(|other| other.id == scene.id) {
                let message =
                    format!("{:?} is the name of scene {}, too: every scene needs its own", scene.id, other + 1);
                return Err(document.wrong(&[place, vec!["id".into()]].concat(), message));
            }
            self.scenes.push(scene);
        }
        Ok(())
    }

    fn read_scene(
        &self,
        document: &Arc<Document>,
        item: &Value,
        place: Vec<Step>,
        preset: Option<Preset>,
        outside: &Settings,
    ) -> Result<Scene> {
        let map = mapping(document, item, &place)?;
        known(document, map, &place, &OF_SCENE)?;
        let below = |key: &str| [place.clone(), vec![key.into()]].concat();
        let text = |key: &str| -> Result<Option<String>> {
            match map.get(key) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
                Some(Value::Number(number)) if key == "id" => Ok(Some(number.to_string())),
                Some(_) => Err(document.wrong(&below(key), "use a text")),
            }
        };
        let id = text("id")?.ok_or_else(|| document.wrong(&place, "a scene needs an id"))?;
        if id.contains(['/', '\\', '\0']) || id.starts_with('.') {
            let message = format!("{id:?} can't be the name of a file: use letters, digits, - and _");
            return Err(document.wrong(&below("id"), message));
        }
        let path = |key| {
            let beside = |path: String| match glib::filename_from_uri(&path) {
                Ok((path, _)) => path,
                Err(_) => document.folder().join(path),
            };
            text(key).map(|path| path.map(beside))
        };
        let layers = Layers { document, map, place: place.clone(), origin: Origin::Scene };
        // The scene's own plan takes the place of the file's, below all that is said.
        let of_file = self.settings.iter().map(|(key, setting)| (key.clone(), setting.clone()));
        let (plan, said): (Settings, Settings) =
            of_file.partition(|(_, setting)| matches!(setting.origin, Origin::Preset(_)));
        let own = layers.preset()?;
        let mut settings = match own {
            None => plan,
            Some(own) if preset != Some(Preset::None) => own.settings()?,
            Some(_) => Settings::new(),
        };
        settings.extend(said);
        layers.add(&mut settings)?;
        let video = map.get("video").and_then(Value::as_mapping);
        for key in ["duration", "seed"] {
            let Some(value) = map.get(key) else { continue };
            let in_video = [below("video"), vec![key.into()]].concat();
            layers.once((Some(value), below(key)), (video.and_then(|video| video.get(key)), in_video))?;
            layers.add_value(&mut settings, Section::Video, Section::Video.keys(), key, value, below(key))?;
        }
        settings.extend(outside.clone());
        let (keyframe, audio, notes) = (path("keyframe")?, path("audio")?, text("notes")?);
        let preset = preset.or(own).unwrap_or(self.preset);
        Ok(Scene { id, keyframe, audio, notes, preset, settings })
    }
}

/// The same path from the root on, without the steps back in it that lead out of folders that are there.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        gst::init().unwrap();
        Config::parse(Path::new("/job/config.yaml"), text, &Wanted::default())
    }

    fn number(scene: &Scene, key: &str) -> f64 {
        scene.get(Section::Video, key).and_then(Json::as_f64).unwrap_or_else(|| panic!("{key} of {}", scene.id))
    }

    #[test]
    fn scenes_go_before_the_file_and_the_file_before_the_plan() {
        let config = parse(
            "preset: balanced\n\
             video: {num_inference_steps: 20, seed: 1, guidance_scale: 6.0}\n\
             output: {folder: out}\n\
             scenes:\n\
             - {id: 001, keyframe: a.png, seed: 7, duration: 2.5}\n\
             - {id: 2, audio: 'file:///s/a%20b.wav', preset: speed, video: {fps: 30000/1001, guidance_scale: 2}}\n\
             - {id: plain, preset: none, notes: as it is}\n",
        )
        .unwrap();
        let [first, second, plain] = config.scenes() else { panic!("three scenes") };
        assert_eq!((first.id.as_str(), second.id.as_str()), ("001", "2"));
        assert_eq!(first.keyframe.as_deref(), Some(Path::new("/job/a.png")));
        assert_eq!(second.audio.as_deref(), Some(Path::new("/s/a b.wav")));
        assert_eq!(first.get(Section::Output, "folder"), Some(&"/job/out".into()));
        assert_eq!((number(first, "num_inference_steps"), number(first, "fps")), (20.0, 16.0));
        assert_eq!((number(first, "seed"), number(first, "duration")), (7.0, 2.5e9));
        assert_eq!((number(second, "width"), number(second, "seed")), (1024.0, 1.0));
        assert_eq!(second.layer(Section::Video)["fps"], "30000/1001");
        assert_eq!((number(first, "max_guidance_scale"), number(second, "max_guidance_scale")), (6.0, 2.0));
        assert_eq!([first, second, plain].map(|scene| scene.preset), [Preset::Balanced, Preset::Speed, Preset::None]);
        assert!(plain.get(Section::Video, "width").is_none() && number(plain, "num_inference_steps") == 20.0);
        let of = |scene: &Scene, key: &str| {
            let setting = &scene.settings[&(Section::Video, key.to_string())];
            (setting.origin, setting.position().1)
        };
        assert_eq!(of(first, "fps").0, Origin::Preset(Preset::Balanced));
        assert_eq!(of(first, "num_inference_steps"), (Origin::File, Some((2, 30))));
        assert_eq!(of(first, "seed"), (Origin::Scene, Some((5, 36))));
    }

    #[test]
    fn what_is_asked_for_from_outside_goes_before_all() {
        gst::init().unwrap();
        let wanted = Wanted {
            preset: Some(Preset::Quality),
            values: vec![("video.fps".into(), "25".into()), ("image.instantid.guidance_scale".into(), "7.5".into())],
        };
        let text = "video: {fps: 12, width: 64}\nscenes: [{id: a, video: {fps: 9, seed: 3}}]";
        let config = Config::parse(Path::new("c.yaml"), text, &wanted).unwrap();
        let scene = config.scene("a").unwrap();
        assert_eq!((number(scene, "fps"), number(scene, "width"), number(scene, "seed")), (25.0, 1280.0, 3.0));
        assert_eq!(scene.get(Section::InstantId, "guidance_scale"), Some(&7.5.into()));
        for (path, value, part) in [
            ("nothing", "1", "name a section and a key"),
            ("fps", "1", "did you mean video.fps?"),
            ("vidoe.fps", "1", "did you mean video.fps?"),
            ("image.instanid.face_emb_scale", "1", "did you mean image.instantid.face_emb_scale?"),
            ("outscale", "1", "did you mean postprocess.outscale?"),
            ("video.fsp", "1", "did you mean fps?"),
            ("video.fps", "[", "--set video.fps=["),
            ("video.fps", "slow", "25/2"),
        ] {
            let wanted = Wanted { values: vec![(path.into(), value.into())], ..Wanted::default() };
            let message = Config::parse(Path::new("c.yaml"), text, &wanted).unwrap_err().to_string();
            assert!(message.contains(part), "{path}={value}: {message}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, wanted) in [
            ("video:\n  fsp: 12", "/job/config.yaml:2:8: video.fsp: there is no such key; did you mean fps?"),
            ("vido: {}", "1:7: vido: there is no such key; did you mean video?"),
            ("video: 12", "1:8: video: use keys and values"),
            ("- a", "use keys and values"),
            ("video:\n  width: 1001", "2:10: video.width: 1001 is not possible: "),
            ("video:\n  fps: fast", "2:8: video.fps: \"fast\" is not possible: use a frame rate"),
            ("video: {noise_aug_strength: -1}", "1:29: video.noise_aug_strength: -1 is not possible"),
            ("video: {motion_bucket_id: .nan}", "video.motion_bucket_id: "),
            ("postprocess: {tile: -5}", "1:21: postprocess.tile: -5 is not possible"),
            ("framerate: {mode: retime, speed: 1/2}", "1:34: framerate.speed: 1/2 is not possible"),
            ("image: {sdxl: {}}", "image.sdxl: there is no such key"),
            ("image: {instantid: {num_inference_steps: 0}}", "image.instantid.num_inference_steps: 0 is not possible"),
            ("preset: best", "preset: use none, balanced, quality, speed"),
            ("scenes: [{keyframe: a.png}]", "scenes[0]: a scene needs an id"),
            ("scenes: [{id: a}, {id: a}]", "1:24: scenes[1].id: \"a\" is the name of scene 1, too"),
            ("scenes: [{id: a/b}]", "scenes[0].id: \"a/b\" can't be the name of a file"),
            ("scenes: [{id: a, video: {width: 12}}]", "scenes[0].video.width: 12 is not possible"),
            ("scenes: [{id: a, duration: x}]", "scenes[0].duration: \"x\" is not possible: use seconds"),
            ("- {id: a}\n- {id: a}", "2:8: [1].id: \"a\" is the name of scene 1, too"),
            ("- {id: a, fsp: 3}", "1:16: [0].fsp: there is no such key"),
            (
                "video: {max_guidance_scale: 3,\n  guidance_scale: 6}",
                "2:19: video.guidance_scale: video.max_guidance_scale in line 1, column 29, says the same: keep one",
            ),
            (
                "scenes: [{id: a, seed: 1, video: {seed: 2}}]",
                "1:24: scenes[0].seed: scenes[0].video.seed in line 1, column 41, says the same: keep one of the two",
            ),
            ("scenes: 5", "use a list of scenes"),
            ("scenes: nowhere.yaml", "/job/nowhere.yaml: it can't be read"),
            ("video: {fps: {a: 1}}", "video.fps: use a plain value"),
            ("1: 2", "a key must be a text"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(wanted), "{text}\n{message}\n{wanted}");
        }
        let config = parse("scenes: [{id: shot_01}, {id: shot_02}]").unwrap();
        let message = config.scene("shot_03").unwrap_err().to_string();
        assert!(message.ends_with("it has shot_01, shot_02"), "both are as near: {message}");
        let message = config.scene("shot01").unwrap_err().to_string();
        assert!(message.contains("it has shot_01, shot_02; did you mean shot_01?"), "{message}");
        let message = parse("scenes: [{id: 010}, {id: 001}]").unwrap().scene("1").unwrap_err().to_string();
        assert!(message.contains("it has 010, 001; did you mean 001?"), "{message}");
    }

    #[test]
    fn a_list_alone_is_one_of_scenes() {
        let config = parse("- {id: a, keyframe: k.png, video: {fps: 9}}\n- {id: b}\n").unwrap();
        assert_eq!((config.scenes().len(), config.settings().len()), (2, 0));
        assert_eq!(config.scenes()[0].keyframe.as_deref(), Some(Path::new("/job/k.png")));
        assert_eq!(number(&config.scenes()[0], "fps"), 9.0);
        // What says nothing says nothing else.
        assert!(parse("video: {guidance_scale: 3, max_guidance_scale: }").is_ok());
    }

    #[test]
    fn scenes_may_have_a_file_of_their_own() {
        gst::init().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        for (name, text) in [
            ("shots/scenes.json", r#"[{"id": "001", "keyframe": "a.png", "video": {"fps": 9}}]"#),
            ("shots/scenes.yaml", "scenes: [{id: 001, keyframe: a.png, video: {fps: 9}}]"),
        ] {
            write(name, text);
            let config = write("config.yaml", &format!("video: {{fps: 12}}\nscenes: {name}\n"));
            let config = Config::open(&config, &Wanted::default()).unwrap();
            let scene = config.scene("001").unwrap();
            assert_eq!(scene.keyframe.as_deref(), Some(&*folder.path().join("shots/a.png")));
            assert_eq!(number(scene, "fps"), 9.0);
        }
        write("shots/scenes.yaml", "scenes: [{id: 001, video: {fps: x}}]");
        let config = write("config.yaml", "scenes: shots/scenes.yaml");
        let message = Config::open(&config, &Wanted::default()).unwrap_err().to_string();
        assert!(message.contains("scenes.yaml:1:33: scenes[0].video.fps"), "{message}");
    }

    #[test]
    fn anchors_and_merge_keys_are_followed() {
        let config = parse(
            "scenes:\n- &a {id: a, video: &calm {motion_bucket_id: 2}}\n- {id: b, video: {<<: *calm, seed: 5}}\n",
        )
        .unwrap();
        assert_eq!(number(config.scene("b").unwrap(), "motion_bucket_id"), 2.0);
        assert!(parse("").unwrap().scenes().is_empty());
    }

    #[test]
    fn the_plans_are_those_of_their_file() {
        gst::init().unwrap();
        for (preset, steps, width) in
            [(Preset::Balanced, 65, 1280), (Preset::Quality, 70, 1280), (Preset::Speed, 60, 1024)]
        {
            let settings = preset.settings().unwrap();
            let value = |key: &str| settings[&(Section::Video, key.to_string())].value.clone();
            assert_eq!((value("num_inference_steps"), value("width")), (steps.into(), width.into()));
            assert_eq!(Preset::named(preset.name()), Some(preset));
        }
        assert!(Preset::None.settings().unwrap().is_empty());
    }
}
