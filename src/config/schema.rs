// SPDX-License-Identifier: MPL-2.0
//! The keys that a file can have: those of the elements' properties, in snake case, and some of the job's own.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use gst::prelude::*;
use serde_json::Value as Json;

use super::yaml::Step;
use crate::settings::from_json;
use crate::{frameratetune, models, realesrganscale, svdsrc};

/// A section of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// How clips are made: `svdsrc`'s properties.
    Video,
    /// How the keyframe was made, by another program: kept for it.
    InstantId,
    /// How clips are upscaled: `realesrganscale`'s properties, and a size.
    Postprocess,
    /// How their rate is tuned: `frameratetune`'s properties.
    Framerate,
    /// How they are written.
    Output,
}

/// What the numbers or the text of a key are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// As the property has it.
    Plain,
    /// Seconds, where the property has nanoseconds.
    Seconds,
    /// Bytes, or a text with a unit: 12GB, 8 GiB.
    Bytes,
    /// A path, relative to the file.
    Path,
}

/// A key.
#[derive(Debug, Clone)]
pub struct Key {
    /// The key: "num_inference_steps".
    pub name: String,
    /// The property, or one that says the same of a key that belongs to no element.
    pub spec: glib::ParamSpec,
    unit: Unit,
}

/// Properties that are no keys: what they say is told in other ways, or there is nothing live about a file.
const NO_KEYS: [&str; 11] =
    ["name", "parent", "qos", "config", "scene-id", "preset", "location", "keyframe", "provenance", "is-live", "idle"];

/// The containers that a video can be written to, and what writes them.
pub const CONTAINERS: [(&str, &str); 4] =
    [("mp4", "mp4mux faststart=true"), ("mkv", "matroskamux"), ("webm", "webmmux"), ("mov", "qtmux")];

impl Section {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Video, Self::InstantId, Self::Postprocess, Self::Framerate, Self::Output];

    /// Its name: `image.instantid`.
    pub fn name(self) -> String {
        super::yaml::shown(&self.steps())
    }

    /// The steps to it from the top of a file, or from a scene.
    pub fn steps(self) -> Vec<Step> {
        match self {
            Self::Video => vec!["video".into()],
            Self::InstantId => vec!["image".into(), "instantid".into()],
            Self::Postprocess => vec!["postprocess".into()],
            Self::Framerate => vec!["framerate".into()],
            Self::Output => vec!["output".into()],
        }
    }

    /// Its keys.
    pub fn keys(self) -> &'static [Key] {
        static KEYS: LazyLock<[Vec<Key>; 5]> = LazyLock::new(|| Section::ALL.map(Section::list));
        &KEYS[self as usize]
    }

    fn list(self) -> Vec<Key> {
        let int = |name: &'static str, blurb, least, most| {
            let spec = glib::ParamSpecInt::builder(name).blurb(blurb).minimum(least).maximum(most);
            spec.default_value(least).build()
        };
        let double = |name: &'static str, blurb| glib::ParamSpecDouble::builder(name).blurb(blurb).minimum(0.0).build();
        let text = |name: &'static str, blurb| glib::ParamSpecString::builder(name).blurb(blurb).build();
        let (properties, own) = match self {
            Self::Video => (svdsrc::properties(), vec![]),
            Self::InstantId => (
                vec![],
                vec![
                    int("num-inference-steps", "Steps that the keyframe was made with", 1, 1000),
                    double("guidance-scale", "Guidance that the keyframe was made with"),
                    double("face-emb-scale", "Weight of the face that the keyframe was made with"),
                    double("face-kps-scale", "Weight of the face's points that the keyframe was made with"),
                ],
            ),
            Self::Postprocess => (
                realesrganscale::properties(),
                vec![
                    int("model-scale", "Scale that the model is taken to have: a check tells if it has another", 1, 16),
                    int("target-width", "Width of the file, in pixels; goes before outscale", 1, 16384),
                    int("target-height", "Height of the file, in pixels; goes before outscale", 1, 16384),
                ],
            ),
            Self::Framerate => (frameratetune::properties(), vec![]),
            Self::Output => (
                vec![],
                vec![
                    text("container", "mp4, mkv, webm or mov (unset = mp4)"),
                    text(
                        "encoder",
                        "Elements between raw video and the muxer, as gst-launch-1.0 has them (unset = the best that is installed)",
                    ),
                    text("folder", "Where files are written (unset = out beside the file)"),
                ],
            ),
        };
        let is_key = |spec: &glib::ParamSpec| {
            spec.flags().contains(glib::ParamFlags::WRITABLE) && !NO_KEYS.contains(&spec.name())
        };
        let specs = properties.into_iter().filter(is_key).chain(own);
        specs.map(|spec| Key { name: spec.name().replace('-', "_"), unit: Unit::of(spec.name()), spec }).collect()
    }
}

impl Unit {
    fn of(name: &str) -> Self {
        match name {
            "duration" | "max-gap" | "stats-interval" => Self::Seconds,
            "max-memory" => Self::Bytes,
            "model-path" | "latents-folder" | "folder" => Self::Path,
            _ => Self::Plain,
        }
    }
}

impl Key {
    /// What it is, in words.
    pub fn about(&self) -> String {
        let blurb = self.spec.blurb().unwrap_or_default();
        if self.unit == Unit::Seconds { blurb.replacen("Nanoseconds", "Seconds", 1) } else { blurb.into() }
    }

    /// What its value is, in words: "seconds", "karras, ays".
    pub fn kind(&self) -> String {
        let kind = match (self.unit, self.spec.value_type()) {
            (Unit::Seconds, _) => "seconds",
            (Unit::Bytes, _) => "bytes, or a text with a unit: 12GB, 8 GiB",
            (Unit::Path, _) => "a path, relative to the file",
            (Unit::Plain, glib::Type::STRING) => "a text",
            (Unit::Plain, glib::Type::BOOL) => "true or false",
            (Unit::Plain, glib::Type::F64) => "a number",
            (Unit::Plain, of) if of == gst::Fraction::static_type() => "a rate: 25, 12.5, 30000/1001",
            (Unit::Plain, of) if of == gst::Array::static_type() => "a list of numbers",
            (Unit::Plain, of) => match glib::EnumClass::with_type(of) {
                Some(class) => {
                    let nicks: Vec<_> = class.values().iter().map(|value| value.nick()).collect();
                    return nicks.join(", ");
                }
                None => "a whole number",
            },
        };
        kind.into()
    }

    /// What stands in a file for the property's value, wherever the file is: the opposite of [`read`](Self::read).
    pub fn print(&self, value: &Json) -> Json {
        match (self.unit, value) {
            (Unit::Seconds, Json::Number(nanoseconds)) => nanoseconds.as_u64().map(|it| it as f64 / 1e9).into(),
            (Unit::Path, Json::String(path)) => super::absolute(Path::new(path)).to_string_lossy().into(),
            _ => value.clone(),
        }
    }

    /// The property's value for what stands in a file in `folder`; in words what is wrong with it.
    ///
    /// # Errors
    /// What would be right.
    pub fn read(&self, value: &Json, folder: &Path) -> Result<Json, String> {
        let value = match self.unit {
            Unit::Seconds => match value.as_f64() {
                Some(seconds) if (0.0..1e9).contains(&seconds) => ((seconds * 1e9).round() as u64).into(),
                _ => return Err("use seconds, from 0".into()),
            },
            Unit::Bytes => bytes(value).ok_or("use bytes, or a number with a unit: 12GB, 8 GiB")?.into(),
            Unit::Path => match value.as_str() {
                Some(path) if !path.is_empty() => {
                    self.path(Path::new(path), folder).to_string_lossy().into_owned().into()
                }
                _ => return Err("use a path".into()),
            },
            // Rates as people write them.
            Unit::Plain if self.spec.value_type() == gst::Fraction::static_type() => {
                rate(value).unwrap_or(value.clone())
            }
            Unit::Plain => value.clone(),
        };
        from_json(&self.spec, &value)?;
        let (is_within, range) = if let Some(spec) = self.spec.downcast_ref::<glib::ParamSpecInt>() {
            let (least, most) = (spec.minimum(), spec.maximum());
            (
                value.as_i64().is_none_or(|value| (i64::from(least)..=i64::from(most)).contains(&value)),
                format!("{least} to {most}"),
            )
        } else if let Some(spec) = self.spec.downcast_ref::<glib::ParamSpecDouble>() {
            (value.as_f64().is_none_or(|value| value >= spec.minimum()), format!("a number from {}", spec.minimum()))
        } else {
            (true, String::new())
        };
        if !is_within {
            return Err(format!("use {range}"));
        }
        if self.name == "container" && !CONTAINERS.iter().any(|(name, _)| value == *name) {
            return Err(format!("use {}", CONTAINERS.map(|(name, _)| name).join(", ")));
        }
        Ok(value)
    }
}

impl Key {
    /// The path that is meant: one beside the file; or a model that lies where models do, "models/x" or "x".
    fn path(&self, path: &Path, folder: &Path) -> PathBuf {
        let beside = folder.join(path);
        if self.name != "model_path" || beside.exists() {
            return beside;
        }
        let name = path.strip_prefix("models").unwrap_or(path);
        let found = path.is_relative().then(|| models::locate(&name.to_string_lossy()).ok()).flatten();
        found.unwrap_or(beside)
    }
}

/// A number of bytes.
fn bytes(value: &Json) -> Option<u64> {
    let Some(text) = value.as_str() else { return value.as_u64() };
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = (text[..split].parse::<f64>().ok()?, text[split..].trim().to_lowercase());
    let factor = match unit.as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1048576.0,
        "gib" => 1073741824.0,
        _ => return None,
    };
    Some((number * factor) as u64)
}

/// "30000/1001" for a rate that was written as 29.97; whole numbers and fractions stay as they are.
fn rate(value: &Json) -> Option<Json> {
    let number = value.as_f64().filter(|_| !value.is_i64())?;
    let ntsc = (number * 1.001).round();
    let rate = if number.fract() != 0.0 && ntsc < 1e6 && (ntsc / 1.001 - number).abs() < 0.005 {
        gst::Fraction::new(ntsc as i32 * 1000, 1001)
    } else {
        gst::Fraction::approximate_f64(number)?
    };
    Some(format!("{}/{}", rate.numer(), rate.denom()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn models_are_looked_for_where_models_lie() {
        gst::init().unwrap();
        let keys = Section::Postprocess.keys();
        let key = keys.iter().find(|key| key.name == "model_path").unwrap();
        for path in
            ["models/realesrgan/realesr-animevideov3.safetensors", "realesrgan/realesr-animevideov3.safetensors"]
        {
            let found = key.read(&json!(path), Path::new("/here")).unwrap();
            assert!(Path::new(found.as_str().unwrap()).is_file(), "{found}");
        }
    }

    #[test]
    fn values_are_read_as_people_write_them() {
        gst::init().unwrap();
        let read = |section: Section, name: &str, value: Json| {
            let keys = section.keys();
            let key = keys.iter().find(|key| key.name == name).unwrap_or_else(|| panic!("{name}"));
            key.read(&value, Path::new("/here"))
        };
        let good = [
            (Section::Video, "fps", json!(12), json!(12)),
            (Section::Video, "fps", json!(29.97), json!("30000/1001")),
            (Section::Video, "fps", json!(23.976), json!("24000/1001")),
            (Section::Video, "fps", json!(12.5), json!("25/2")),
            (Section::Video, "fps", json!(3_000_000.5), json!("6000001/2")),
            (Section::Video, "fps", json!("30000/1001"), json!("30000/1001")),
            (Section::Video, "duration", json!(2.5), json!(2_500_000_000u64)),
            (Section::Video, "max_memory", json!("12GB"), json!(12_000_000_000u64)),
            (Section::Video, "max_memory", json!("8 GiB"), json!(8u64 << 30)),
            (Section::Video, "max_memory", json!(5), json!(5)),
            (Section::Video, "model_path", json!("m/x"), json!("/here/m/x")),
            (Section::Video, "latents_folder", json!("kept"), json!("/here/kept")),
            (Section::Video, "noise_aug_strength", json!(0), json!(0)),
            (Section::Postprocess, "model_path", json!("models/no.pth"), json!("/here/models/no.pth")),
            (Section::Framerate, "speed", json!(0.25), json!("1/4")),
            (Section::Output, "container", json!("mkv"), json!("mkv")),
        ];
        for (section, name, value, wanted) in good {
            assert_eq!(read(section, name, value.clone()), Ok(wanted), "{name}={value}");
        }
        let bad = [
            (Section::Video, "fps", json!("fast"), "25/2"),
            (Section::Video, "duration", json!(-1), "seconds"),
            (Section::Video, "max_memory", json!("12 apples"), "12GB"),
            (Section::Video, "width", json!(12.5), "whole number"),
            (Section::Video, "schedule", json!("fast"), "karras, ays"),
            (Section::InstantId, "num_inference_steps", json!(0), "1 to 1000"),
            (Section::InstantId, "face_emb_scale", json!(-0.1), "from 0"),
            (Section::Output, "container", json!("avi"), "mp4, mkv, webm, mov"),
        ];
        for (section, name, value, part) in bad {
            let message = read(section, name, value.clone()).unwrap_err();
            assert!(message.contains(part), "{name}={value}: {message}");
        }
    }
}
