// SPDX-License-Identifier: MPL-2.0
//! A scene as a live source: the pipeline that shows it without an end, and the parameters that its next clip may have.

use gst::prelude::*;

use super::line::pictures;
use super::store::model;
use crate::config::{Scene, Section};
use crate::engine::image::Frame;
use crate::engine::svd::Params;
use crate::settings::{Layer, from_json};
use crate::svd::settings::{Settings, to_object};
use crate::svdsrc;

/// Settings of a scene that say how long a file of it is. A clip that is shown again and again has no such length.
const OF_FILES: [&str; 3] = ["num-clips", "chain", "duration"];
/// Properties that may change while a clip is shown, but are no parameters: pictures are set in another way.
const PICTURES: [&str; 2] = ["location", "keyframe"];

/// A scene that is shown live.
#[derive(Debug, Clone)]
pub struct Live {
    line: String,
    settings: Layer,
    recommended: Params,
    /// What was set since.
    set: Layer,
}

impl Live {
    /// The live form of a scene.
    ///
    /// # Errors
    /// In words what the scene or the machine lacks.
    pub fn of(scene: &Scene) -> Result<Self, String> {
        let mut settings = scene.layer(Section::Video);
        settings.retain(|name, _| !OF_FILES.contains(&name.as_str()));
        let mut video = settings.clone();
        video.insert("is-live".into(), true.into());
        let line = pictures(scene, video)?;
        if let Some(keyframe) = &scene.keyframe {
            Frame::open(keyframe).map_err(|err| err.to_string())?;
        }
        let (source, ..) = model(scene)?;
        let live = Self { line, settings, recommended: source.info.recommended, set: Layer::new() };
        live.plan(&Layer::new())?;
        Ok(live)
    }

    /// The pipeline up to the pictures, in the words of `gst-launch-1.0`. Its source is called `source`.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// A width and height for previews: half of the clip's, though they have less to show, so that players show something.
    pub fn preview_size(&self) -> [i64; 2] {
        // Sides are multiples of 8: halves are even.
        let params = self.plan(&self.set).unwrap_or_else(|_| self.recommended.clone());
        [params.width, params.height].map(|side| (side / 2).max(16))
    }

    /// All parameters that the next clip will have and that can be set, by their keys in a configuration.
    pub fn parameters(&self) -> Layer {
        let params = self.plan(&self.set).unwrap_or_else(|_| self.recommended.clone());
        let mut values = to_object(&params);
        values.insert("idle".into(), self.set.get("idle").cloned().unwrap_or_else(|| "loop".into()));
        let is_mutable = |name: &str| specs().iter().any(|spec| spec.name().replace('-', "_") == name);
        values.into_iter().filter(|(name, _)| is_mutable(name)).collect()
    }

    /// Sets parameters by their keys, all of them or none; gives the source's properties to be set.
    ///
    /// # Errors
    /// In words which one is not possible, and what would be.
    pub fn set(&mut self, values: &Layer) -> Result<Vec<(String, glib::Value)>, String> {
        let mut set = self.set.clone();
        let mut properties = Vec::new();
        for (key, json) in values {
            let name = key.replace('_', "-");
            let name = if name == "guidance-scale" { "max-guidance-scale".into() } else { name };
            let all = specs();
            let Some(spec) = all.iter().find(|spec| spec.name() == name) else {
                let is_fixed = svdsrc::properties().iter().any(|spec| spec.name() == name);
                let keys: Vec<_> = all.iter().map(|spec| spec.name().replace('-', "_")).collect();
                return Err(if is_fixed && !PICTURES.contains(&name.as_str()) {
                    format!("{key} can't change while the scene is served: set it in the configuration")
                } else {
                    format!("there is no parameter {key:?}: use {}", keys.join(", "))
                });
            };
            let value =
                from_json(spec, json).map_err(|expected| format!("{key}={json} is not possible: {expected}"))?;
            properties.push((name.clone(), value));
            set.insert(name, json.clone());
        }
        self.plan(&set)?;
        self.set = set;
        Ok(properties)
    }

    /// The next clip's parameters with these set; in words what is not possible.
    fn plan(&self, set: &Layer) -> Result<Params, String> {
        let mut layer = self.settings.clone();
        layer.extend(set.clone());
        let settings = Settings::default().with_config(layer, &svdsrc::properties());
        let plan = settings.and_then(|settings| settings.plan(&self.recommended));
        plan.map(|plan| plan.wanted().clone()).map_err(|err| err.to_string())
    }
}

/// The parameters that may change while a clip is shown.
fn specs() -> Vec<glib::ParamSpec> {
    let is_parameter = |spec: &glib::ParamSpec| {
        let is_mutable = spec.flags().contains(gst::PARAM_FLAG_MUTABLE_PLAYING);
        // One value under one name.
        is_mutable && !PICTURES.contains(&spec.name()) && spec.name() != "guidance-scale"
    };
    svdsrc::properties().into_iter().filter(is_parameter).collect()
}

/// A keyframe from the bytes of a PNG, JPEG or WebP file.
///
/// # Errors
/// In words why it is none.
pub fn keyframe(bytes: Vec<u8>, name: &str) -> Result<gst::Sample, String> {
    Frame::from_bytes(&bytes, name).map_err(|err| err.to_string())?;
    let kind = match &bytes[..] {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [b'R', b'I', b'F', b'F', ..] => "image/webp",
        _ => "image/jpeg",
    };
    let caps = gst::Caps::builder(kind).build();
    Ok(gst::Sample::builder().buffer(&gst::Buffer::from_mut_slice(bytes)).caps(&caps).build())
}

/// Checks a picture's file.
///
/// # Errors
/// In words why it can't be a keyframe.
pub fn check_keyframe(path: &std::path::Path) -> Result<(), String> {
    Frame::open(path).map(drop).map_err(|err| err.to_string())
}

/// The first of H.264's encoders that works on this machine, set for streams: no frame waits for another.
/// x264 has one thread: with more, each frame is sent in slices, which FFmpeg takes apart wrongly.
///
/// # Errors
/// None is installed.
pub fn h264_encoder() -> Result<&'static str, String> {
    const ENCODERS: [&str; 4] = [
        "nvh264enc zerolatency=true bframes=0",
        "vah264enc b-frames=0",
        "x264enc tune=zerolatency threads=1 speed-preset=veryfast pass=qual quantizer=20",
        "openh264enc complexity=low bitrate=6000000 rate-control=bitrate",
    ];
    let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    let works = |line: &&&str| {
        // One for a device that is not there can be installed, too.
        let Ok(element) = gst::ElementFactory::make(&name(line)).build() else { return false };
        let works = element.set_state(gst::State::Ready).is_ok();
        let _ = element.set_state(gst::State::Null);
        works
    };
    ENCODERS.iter().find(works).copied().ok_or_else(|| {
        format!("none of {} is installed: install one, or name another by --encoder", ENCODERS.map(name).join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Wanted};
    use serde_json::{Value as Json, json};
    use std::path::Path;

    fn live(text: &str) -> Result<Live, String> {
        crate::job::register();
        let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/keyframe.jpg");
        let text = text.replace("PICTURE", &picture.to_string_lossy());
        let config = Config::parse(Path::new("/job/config.yaml"), &text, &Wanted::default()).unwrap();
        Live::of(&config.scenes()[0])
    }

    fn layer(value: Json) -> Layer {
        value.as_object().unwrap().clone().into_iter().collect()
    }

    #[test]
    fn parameters_are_set_all_or_none() {
        let text = "video: {motion_bucket_id: 30, guidance_scale: 2, duration: 5, chain: true, device: cpu}\n\
                    scenes: [{id: a, keyframe: PICTURE, seed: 7}]";
        let mut live = live(text).unwrap();
        assert!(live.line().contains("is-live=true") && !live.line().contains("duration"), "{}", live.line());
        let of = |live: &Live, key: &str| live.parameters().get(key).cloned();
        assert_eq!(of(&live, "motion_bucket_id"), Some(json!(30.0)));
        assert_eq!((of(&live, "seed"), of(&live, "max_guidance_scale")), (Some(json!(7)), Some(json!(2.0))));
        assert_eq!((of(&live, "idle"), of(&live, "num_frames")), (Some(json!("loop")), None));
        let set = live.set(&layer(json!({"motion_bucket_id": 5, "guidance_scale": 4, "idle": "hold"}))).unwrap();
        assert_eq!(set.len(), 3);
        assert_eq!(
            (of(&live, "motion_bucket_id"), of(&live, "max_guidance_scale")),
            (Some(json!(5.0)), Some(json!(4.0)))
        );
        for (values, part) in [
            (json!({"seed": 8, "motion_bucket_id": -1}), "motion_bucket_id=-1 is not possible"),
            (json!({"seed": 8, "motion_bucket_id": "x"}), "motion_bucket_id=\"x\" is not possible: use a number"),
            (json!({"seed": 8, "schedule": "fast"}), "karras, ays"),
            (json!({"seed": 8, "moton": 1}), "there is no parameter \"moton\": use "),
            (json!({"seed": 8, "width": 64}), "width can't change while the scene is served"),
            (json!({"seed": 8, "num_inference_steps": 0}), "num_inference_steps=0 is not possible"),
            (json!({"seed": 1.5}), "use a whole number"),
        ] {
            let message = live.set(&layer(values.clone())).unwrap_err();
            assert!(message.contains(part), "{values}: {message}");
        }
        assert_eq!(of(&live, "seed"), Some(json!(7)));
    }

    #[test]
    fn what_can_t_be_shown_is_told() {
        for (text, part) in [
            ("scenes: [{id: a}]", "no keyframe"),
            ("scenes: [{id: a, keyframe: nowhere.png}]", "nowhere.png: No such file"),
            ("video: {model_path: nowhere}\nscenes: [{id: a, keyframe: PICTURE}]", "nowhere"),
            (
                "video: {dtype: bf16}\nscenes: [{id: a, keyframe: PICTURE}]",
                "dtype=bf16 is not possible: use fp32, fp16",
            ),
        ] {
            let message = live(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn a_keyframe_is_a_picture() {
        crate::job::register();
        let picture = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/keyframe.jpg")).unwrap();
        let sample = keyframe(picture, "upload").unwrap();
        assert_eq!(sample.caps().unwrap().structure(0).unwrap().name(), "image/jpeg");
        assert!(keyframe(b"no picture".to_vec(), "upload").unwrap_err().contains("upload: not a picture"));
    }
}
