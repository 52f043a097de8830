// SPDX-License-Identifier: MPL-2.0
//! The properties of `svdsrc` and `svdanimate`, and how they and the model's own values become one plan.
//!
//! Values are kept by name, as JSON: what was set by hand, what a provenance says, what a model recommends and what is
//! told of a clip are then all the same sort of thing, and lie over one another in layers.

use gst::prelude::*;
use serde_json::Value as Json;

use super::plan::{Plan, rate_of};
use super::{DecodeMode, GuidanceShape, KeyframeFit, ModelType, Schedule};
use crate::config;
use crate::engine::device::Precision;
use crate::engine::svd::{self, Params};
use crate::engine::{Error, Result};
use crate::settings::{DEFAULT_DEVICE, Layer, device_spec, dtype_spec, fraction, from_json, to_json};

/// Properties whose value 0 says that they are not set.
const ZERO_IS_UNSET: [&str; 3] = ["num-frames", "width", "height"];

/// Properties that a controller may drive. They are looked up for the time at which a clip begins.
const CONTROLLED: [&str; 6] = [
    "motion-bucket-id",
    "noise-aug-strength",
    "seed",
    "num-inference-steps",
    "min-guidance-scale",
    "max-guidance-scale",
];

/// The properties that both elements have. Numbers have the whole range of their type: one that is not possible ends in
/// an error message that says what is, and not in a warning of GObject's.
///
/// Those that can change while the element runs take effect at the next clip.
pub fn shared_properties() -> Vec<glib::ParamSpec> {
    let default = Params::default();
    vec![
        string("model-path", "Model path")
            .blurb(
                "The model: a folder as diffusers saves it, or one file, svd.safetensors, svd_xt.safetensors or the like \
                 (unset = where model-type is found, else the small svd-nano that comes with the plugin)",
            )
            .mutable_ready()
            .build(),
        choice::<ModelType>("model-type", "Model type")
            .blurb(
                "Which model it is, where it is wrong about itself. Without model-path, the model of this type is looked \
                 for in $TORCHVIDEO_MODELS, the data folder and the Hugging Face cache",
            )
            .mutable_ready()
            .build(),
        int("num-frames", "Number of frames", 0)
            .blurb(
                "Frames in a clip, 1 to 1024 (0 = as many as the model was trained for: 14 for SVD, 25 for SVD-XT). \
                 Memory and time grow with them",
            )
            .mutable_ready()
            .build(),
        gst::ParamSpecFraction::builder("fps")
            .nick("Frames per second")
            .blurb(
                "Frame rate of the clip, 1/1 and above, which the model is also told, rounded: a higher one makes smaller \
                 movements between frames and a shorter clip (where not set: downstream's frame rate, the model's own, or \
                 the default)",
            )
            .minimum(gst::Fraction::new(0, 1))
            .maximum(gst::Fraction::new(i32::MAX, 1))
            .default_value(gst::Fraction::new(default.fps as i32, 1))
            .mutable_ready()
            .build(),
        int("width", "Width", 0)
            .blurb("Width in pixels, a multiple of 8 from 8 to 16384 (0 = downstream's, else the model's)")
            .mutable_ready()
            .build(),
        int("height", "Height", 0)
            .blurb("Height in pixels, a multiple of 8 from 8 to 16384 (0 = downstream's, else the model's)")
            .mutable_ready()
            .build(),
        choice::<KeyframeFit>("keyframe-fit", "Keyframe fit")
            .blurb("How the keyframe is brought to the shape of the clip")
            .mutable_playing()
            .build(),
        int("num-inference-steps", "Number of inference steps", default.num_inference_steps as i32)
            .blurb(
                "Denoising steps, 1 to 1000: the time grows with them; more make a steadier clip with less drift and \
                 flicker, up to 50 or 70 (where not set: 10 with schedule=ays, else what the model recommends, or the \
                 default)",
            )
            .mutable_playing()
            .controllable()
            .build(),
        choice::<Schedule>("schedule", "Schedule")
            .blurb("Spacing of the noise levels that the steps go down")
            .mutable_playing()
            .build(),
        gst::ParamSpecArray::builder("sigmas")
            .nick("Noise levels")
            .blurb(
                "The noise levels of the steps, falling, as in sigmas=\"<700.0,54.5,15.9,8.0,4.2,1.8,1.0,0.4,0.2,0.03>\"; \
                 they go before schedule and num-inference-steps (empty = as those say)",
            )
            .element_spec(&glib::ParamSpecDouble::builder("sigma").nick("Noise level").blurb("Above 0").build())
            .mutable_playing()
            .build(),
        double("motion-bucket-id", "Motion bucket", default.motion_bucket_id)
            .blurb(
                "How much the clip moves, 0 and above, in training 1 to 255: low values hold people and cameras still, \
                 high ones move more and distort more (where not set: what the model recommends, or the default)",
            )
            .mutable_playing()
            .controllable()
            .build(),
        double("noise-aug-strength", "Noise augmentation strength", default.noise_aug_strength)
            .blurb(
                "Noise on the keyframe as a standard deviation in its range of -1 to 1, 0 and above: less keeps closer to \
                 the picture, more lets the clip move away from it (where not set: what the model recommends, or the \
                 default)",
            )
            .mutable_playing()
            .controllable()
            .build(),
        double("min-guidance-scale", "Minimum guidance scale", default.min_guidance_scale)
            .blurb(
                "Lowest guidance along the clip, 0 and above; guidance-shape says where. Guidance is off, and the clip \
                 made in half the time, if it is nowhere above 1 (where not set: what the model recommends, or the \
                 default)",
            )
            .mutable_playing()
            .controllable()
            .build(),
        double("max-guidance-scale", "Maximum guidance scale", default.max_guidance_scale)
            .blurb(
                "Highest guidance along the clip, 0 and above: more keeps closer to the keyframe, too much burns colours \
                 and freezes motion (where not set: what the model recommends, or the default)",
            )
            .mutable_playing()
            .controllable()
            .build(),
        double("guidance-scale", "Guidance scale", default.max_guidance_scale)
            .blurb("Another name of max-guidance-scale")
            .mutable_playing()
            .build(),
        choice::<GuidanceShape>("guidance-shape", "Guidance shape")
            .blurb("How guidance goes from its minimum to its maximum along the clip")
            .mutable_playing()
            .build(),
        int("decode-chunk-size", "Decode chunk size", 0)
            .blurb(
                "Frames that are on the device at once while the clip is decoded, up to 1024 (0 = as many as max-memory \
                 allows). With decode-mode=exact it does not change the clip; with decode-mode=reference more take more \
                 memory and flicker less, and 0 is all",
            )
            .mutable_playing()
            .build(),
        choice::<DecodeMode>("decode-mode", "Decode mode")
            .blurb("Whether the chunks that a clip is decoded in know of one another")
            .mutable_playing()
            .build(),
        glib::ParamSpecUInt64::builder("max-memory")
            .nick("Maximum memory")
            .blurb(
                "Bytes of the device's memory that the model and a clip may take (0 = what is free). Less is slower, and \
                 the clip is the same",
            )
            .mutable_playing()
            .build(),
        glib::ParamSpecInt64::builder("seed")
            .nick("Seed")
            .blurb(
                "Seed of the noise: the same seed gives the same clip. The first clip after it was set has this one, each \
                 further clip the next number",
            )
            .default_value(default.seed)
            .mutable_playing()
            .controllable()
            .build(),
        device_spec(),
        dtype_spec(),
        string("latents-folder", "Latents folder")
            .blurb(
                "A folder that keeps the latents of each clip, all that its steps have made: after a crash or a kill the \
                 same clip is only decoded, and comes out the same. It is made if it is not there, and never cleared \
                 (unset = nothing is kept)",
            )
            .mutable_ready()
            .build(),
        string("provenance", "Provenance")
            .blurb(
                "JSON that tells how a clip was made: its values are taken for the properties that are not set. From an \
                 element message the same clip comes out, and it alone; from a file's comment the whole run does",
            )
            .mutable_ready()
            .build(),
    ]
    .into_iter()
    .chain(config::element::properties())
    .collect()
}

/// A text, not set.
pub fn string<'a>(name: &'a str, nick: &'a str) -> glib::ParamSpecStringBuilder<'a> {
    glib::ParamSpecString::builder(name).nick(nick)
}

/// A number.
pub fn int<'a>(name: &'a str, nick: &'a str, default: i32) -> glib::ParamSpecIntBuilder<'a> {
    glib::ParamSpecInt::builder(name).nick(nick).default_value(default)
}

fn double<'a>(name: &'a str, nick: &'a str, default: f64) -> glib::ParamSpecDoubleBuilder<'a> {
    glib::ParamSpecDouble::builder(name).nick(nick).default_value(default)
}

fn choice<'a, T>(name: &'a str, nick: &'a str) -> glib::ParamSpecEnumBuilder<'a, T>
where
    T: StaticType + glib::translate::FromGlib<i32> + glib::translate::IntoGlib<GlibType = i32> + Default,
{
    glib::ParamSpecEnum::builder(name).nick(nick)
}

/// The name that a property's value is kept by.
fn own_name(name: &str) -> &str {
    if name == "guidance-scale" { "max-guidance-scale" } else { name }
}

/// What was set; the rest is left to downstream and to the model.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// By hand.
    by_hand: Layer,
    /// By the property `provenance`, once it has been read.
    by_provenance: Layer,
    /// By the properties `config` and `preset`, once they have been read.
    by_config: Layer,
    /// How often the seed was set by hand: that it is says that it counts anew, whatever it was.
    pub seedings: u64,
}

impl Settings {
    /// Sets a property by hand. Gives whether it was another before.
    pub fn set(&mut self, name: &str, value: &glib::Value) -> bool {
        let name = own_name(name);
        if name == "seed" {
            self.seedings += 1;
        }
        let value = to_json(value);
        let is_unset = value.is_null() || value == "" || (value == 0 && ZERO_IS_UNSET.contains(&name));
        if is_unset {
            return self.by_hand.remove(name).is_some();
        }
        self.by_hand.insert(name.into(), value.clone()) != Some(value)
    }

    /// Leaves a property to what lies below what is set by hand.
    pub fn unset(&mut self, name: &str) {
        self.by_hand.remove(own_name(name));
    }

    /// What was set by hand.
    pub fn by_hand(&self) -> &Layer {
        &self.by_hand
    }

    /// What was set by hand here, over the files that were read there.
    pub fn on(self, read: &Self) -> Self {
        Self { by_provenance: read.by_provenance.clone(), by_config: read.by_config.clone(), ..self }
    }

    /// A property's value: what was set, else the default.
    pub fn get(&self, spec: &glib::ParamSpec) -> glib::Value {
        let set = self.by_hand.get(own_name(spec.name())).and_then(|value| from_json(spec, value).ok());
        set.unwrap_or_else(|| spec.default_value().clone())
    }

    /// Whether a property was set by hand.
    pub fn is_set(&self, name: &str) -> bool {
        self.by_hand.contains_key(name)
    }

    /// What was set, by hand, else by provenance, else by a configuration.
    pub fn value(&self, name: &str) -> Option<&Json> {
        [&self.by_hand, &self.by_provenance, &self.by_config].into_iter().find_map(|layer| layer.get(name))
    }

    /// A text that was set.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(Json::as_str)
    }

    /// A number that was set.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.value(name).and_then(Json::as_i64)
    }

    /// A frame rate that was set.
    fn fraction(&self, name: &str) -> Option<gst::Fraction> {
        self.value(name).and_then(fraction)
    }

    /// The device that is asked for.
    pub fn device(&self) -> &str {
        self.text("device").unwrap_or(DEFAULT_DEVICE)
    }

    /// The precision that is asked for.
    pub fn precision(&self) -> Precision {
        match self.text("dtype") {
            Some("fp32") => Precision::Fp32,
            Some("fp16") => Precision::Fp16,
            Some("bf16") => Precision::Bf16,
            _ => Precision::Auto,
        }
    }

    /// The type of model that is asked for.
    pub fn model_type(&self) -> Option<svd::ModelType> {
        // "auto" is none.
        self.text("model-type")?.parse().ok()
    }

    /// Says which precision `auto` came to, where nothing else is set.
    pub fn remember_dtype(&mut self, dtype: &str) {
        self.by_hand.insert("dtype".into(), dtype.into());
    }

    /// The same, with a layer below what was set by hand. Its values must be of the types of the properties `specs`.
    ///
    /// # Errors
    /// [`Error::Param`] for a name that is no property, or a value of another type.
    pub fn with_provenance(mut self, layer: Layer, specs: &[glib::ParamSpec]) -> Result<Self> {
        for (name, value) in layer {
            let wrong = |expected: String| Error::Param {
                name: format!("provenance: {name}").into(),
                value: value.to_string(),
                expected,
            };
            let spec = specs.iter().find(|spec| spec.name() == name);
            let spec = spec.ok_or_else(|| wrong("there is no such property".into()))?;
            let value = from_json(spec, &value).map_err(wrong)?;
            self.by_provenance.insert(name, to_json(&value));
        }
        Ok(self)
    }

    /// The same, with the lowest layer: what a configuration says. Its values must be of the types of the properties
    /// `specs`.
    ///
    /// # Errors
    /// [`Error::Param`] for a value of another type.
    pub fn with_config(mut self, layer: Layer, specs: &[glib::ParamSpec]) -> Result<Self> {
        for (name, value) in layer {
            // Other elements' properties say nothing here.
            let Some(spec) = specs.iter().find(|spec| spec.name() == name) else { continue };
            let wrong = |expected| Error::Param { name: name.clone().into(), value: value.to_string(), expected };
            let value = from_json(spec, &value).map_err(wrong)?;
            self.by_config.insert(own_name(&name).into(), to_json(&value));
        }
        Ok(self)
    }

    /// The configuration that the properties name, for what is not set.
    ///
    /// # Errors
    /// The message to post.
    pub fn configured(self, specs: &[glib::ParamSpec]) -> Result<Self, gst::ErrorMessage> {
        let preset = self.text("preset").and_then(config::Preset::named).unwrap_or_default();
        let path = self.text("config").map(std::path::Path::new);
        let layer = config::element::layer(path, self.text("scene-id"), preset, config::Section::Video)?;
        self.with_config(layer, specs).map_err(|err| crate::errors::message(&err))
    }

    /// The same, with the values that `element`'s controllers give at `time`.
    pub fn at(mut self, element: &gst::Element, time: gst::ClockTime) -> Self {
        for name in CONTROLLED {
            if let Some(value) = element.value(name, time) {
                self.set(name, &value);
            }
        }
        self
    }

    /// Lays what was set over what the model recommends, and checks the outcome.
    ///
    /// # Errors
    /// Those of [`Params::validate`].
    pub fn plan(&self, recommended: &Params) -> Result<Plan> {
        let mut values = to_object(recommended);
        if self.text("schedule") == Some("ays") {
            values.insert("num_inference_steps".into(), 10.into());
        }
        for (name, value) in self.by_config.iter().chain(&self.by_provenance).chain(&self.by_hand) {
            if let Some(place) = values.get_mut(&name.replace('-', "_")) {
                *place = match (fraction(value), value.as_str()) {
                    (Some(rate), _) => rate_of(rate).into(),
                    // JSON has no such numbers, and no parameter may be one.
                    (None, Some(text)) if place.is_number() => {
                        let name = name.replace('-', "_").into();
                        let expected = "use a number from 0".into();
                        return Err(Error::Param { name, value: text.into(), expected });
                    }
                    _ => value.clone(),
                };
            }
        }
        let params: Params = serde_json::from_value(Json::Object(values))
            .map_err(|err| Error::param("properties", "", format!("{err}")))?;
        params.validate()?;
        let framerate = self.fraction("fps").or_else(|| gst::Fraction::approximate_f64(recommended.fps));
        let side = |name| self.integer(name).and_then(|side| i32::try_from(side).ok());
        Ok(Plan {
            params,
            shape: (recommended.width, recommended.height),
            framerate: framerate.unwrap_or(gst::Fraction::new(7, 1)),
            width: side("width"),
            height: side("height"),
            fps: self.fraction("fps"),
        })
    }
}

/// The parameters by name.
pub fn to_object(params: &Params) -> serde_json::Map<String, Json> {
    match serde_json::to_value(params) {
        Ok(Json::Object(values)) => values,
        _ => unreachable!("parameters are a struct of plain values"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst_video::{VideoFormat, VideoInfo};

    fn settings(values: &[(&str, glib::Value)]) -> Settings {
        let mut settings = Settings::default();
        for (name, value) in values {
            settings.set(name, value);
        }
        settings
    }

    fn recommended() -> Params {
        Params { num_frames: 25, width: 320, height: 192, fps: 6.0, num_inference_steps: 8, ..Params::default() }
    }

    fn params(settings: &Settings, clip: u64) -> Params {
        let plan = settings.plan(&recommended()).unwrap();
        let mut caps = plan.caps();
        plan.fixate(caps.make_mut());
        caps.fixate();
        plan.params(&VideoInfo::from_caps(&caps).unwrap(), clip)
    }

    #[test]
    fn what_is_not_set_is_the_models() {
        gst::init().unwrap();
        assert_eq!(params(&Settings::default(), 0), recommended());
        let zeros = settings(&["num-frames", "width", "height"].map(|name| (name, 0.to_value())));
        assert_eq!(params(&zeros, 0), recommended());
    }

    #[test]
    fn what_is_set_goes_before_the_models() {
        gst::init().unwrap();
        let settings = settings(&[
            ("num-frames", 3.to_value()),
            ("fps", gst::Fraction::new(30_000, 1001).to_value()),
            ("width", 64.to_value()),
            ("height", 48.to_value()),
            ("keyframe-fit", KeyframeFit::Pad.to_value()),
            // The defaults, but by hand.
            ("num-inference-steps", 25.to_value()),
            ("motion-bucket-id", 90.0.to_value()),
            ("noise-aug-strength", 0.1.to_value()),
            ("min-guidance-scale", 1.5.to_value()),
            ("max-guidance-scale", 2.5.to_value()),
            ("decode-chunk-size", 2.to_value()),
            ("seed", 7i64.to_value()),
        ]);
        let wanted = Params {
            num_frames: 3,
            width: 64,
            height: 48,
            keyframe_fit: crate::engine::image::Fit::Pad,
            fps: 30.0,
            motion_bucket_id: 90.0,
            noise_aug_strength: 0.1,
            num_inference_steps: 25,
            min_guidance_scale: 1.5,
            max_guidance_scale: 2.5,
            decode_chunk_size: 2,
            seed: 7,
            ..Params::default()
        };
        assert_eq!(params(&settings, 0), wanted);
        assert_eq!(params(&settings, 3), Params { seed: 10, ..wanted });
    }

    #[test]
    fn every_property_is_read_back() {
        gst::init().unwrap();
        for spec in shared_properties() {
            let mut settings = Settings::default();
            let shown = |value: &glib::Value| format!("{value:?}");
            let default = settings.get(&spec);
            assert_eq!((default.type_(), shown(&default)), (spec.value_type(), shown(spec.default_value())));
            settings.set(spec.name(), &default);
            assert_eq!(shown(&settings.get(&spec)), shown(&default), "{}", spec.name());
            // Another value of each type, over JSON and back.
            let other = match spec.value_type() {
                glib::Type::STRING => "text".to_value(),
                glib::Type::I32 => 3.to_value(),
                glib::Type::I64 => (-3i64).to_value(),
                glib::Type::U64 => u64::MAX.to_value(),
                glib::Type::F64 => 0.1.to_value(),
                of if of == gst::Fraction::static_type() => gst::Fraction::new(30_000, 1001).to_value(),
                of if of == gst::Array::static_type() => gst::Array::new([700.0, 0.1]).to_value(),
                of => {
                    let class = glib::EnumClass::with_type(of).unwrap();
                    class.to_value(class.values().last().unwrap().value()).unwrap()
                }
            };
            assert!(settings.set(spec.name(), &other), "{}", spec.name());
            assert!(!settings.set(spec.name(), &other), "{}", spec.name());
            assert_eq!(shown(&settings.get(&spec)), shown(&other), "{}", spec.name());
        }
    }

    #[test]
    fn a_provenance_lies_below_what_is_set_by_hand() {
        gst::init().unwrap();
        let layer =
            |values: &[(&str, Json)]| values.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        let said = layer(&[
            ("seed", 9.into()),
            ("motion-bucket-id", 5.into()),
            ("fps", "12/1".into()),
            ("schedule", "ays".into()),
            ("sigmas", vec![5.0, 1.0].into()),
        ]);
        let settings = settings(&[("seed", 7i64.to_value())]).with_provenance(said, &shared_properties()).unwrap();
        let params = params(&settings, 0);
        assert_eq!((params.seed, params.motion_bucket_id, params.fps), (7, 5.0, 12.0));
        assert_eq!((params.steps(), params.schedule), (2, svd::Schedule::Ays));
        for (name, value, part) in [
            ("sed", 9.into(), "there is no such property"),
            ("seed", "x".into(), "a whole number"),
            ("schedule", "fast".into(), "karras, ays"),
            ("sigmas", 5.into(), "a list of numbers"),
        ] {
            let refused = Settings::default().with_provenance(layer(&[(name, value)]), &shared_properties());
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(&format!("provenance: {name}=")) && message.contains(part), "{message}");
        }
    }

    #[test]
    fn aligned_steps_are_ten_unless_set() {
        gst::init().unwrap();
        let ays = ("schedule", Schedule::Ays.to_value());
        assert_eq!(params(&settings(std::slice::from_ref(&ays)), 0).steps(), 10);
        assert_eq!(params(&settings(&[ays, ("num-inference-steps", 12.to_value())]), 0).steps(), 12);
        let guided = settings(&[("max-guidance-scale", 2.0.to_value()), ("guidance-scale", 6.0.to_value())]);
        assert_eq!(params(&guided, 0).max_guidance_scale, 6.0);
    }

    #[test]
    fn wrong_values_are_named() {
        gst::init().unwrap();
        for (name, value, parts) in [
            ("width", 1001.to_value(), ["width=1001", "1000 or 1008"]),
            ("height", (-8).to_value(), ["height=-8", "8 to 16384"]),
            ("num-frames", 1025.to_value(), ["num_frames=1025", "1 to 1024"]),
            ("num-inference-steps", 0.to_value(), ["num_inference_steps=0", "1 to 1000"]),
            ("fps", gst::Fraction::new(0, 1).to_value(), ["fps=0", "from 1"]),
            ("noise-aug-strength", f64::NAN.to_value(), ["noise_aug_strength=NaN", "from 0"]),
        ] {
            let message = settings(&[(name, value)]).plan(&recommended()).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }

    #[test]
    fn downstream_chooses_what_is_not_set_by_hand() {
        gst::init().unwrap();
        let plan = settings(&[("width", 64.to_value())]).plan(&recommended()).unwrap();
        let offer = |text: &str| plan.caps().intersect(&text.parse::<gst::Caps>().unwrap());
        let mut caps = offer("video/x-raw,format={BGR,GBR},height=[100,190],framerate=[10/1,60/1]");
        plan.fixate(caps.make_mut());
        caps.fixate();
        let info = VideoInfo::from_caps(&caps).unwrap();
        assert_eq!((info.format(), info.width(), info.height()), (VideoFormat::Bgr, 64, 104));
        assert_eq!(info.fps(), gst::Fraction::new(10, 1));
        let size = |height: i32| {
            let mut caps = settings(&[("height", height.to_value())]).plan(&recommended()).unwrap().caps();
            settings(&[]).plan(&recommended()).unwrap().fixate(caps.make_mut());
            let caps = caps.structure(0).unwrap();
            (caps.get::<i32>("width").unwrap(), caps.get::<i32>("height").unwrap())
        };
        assert_eq!([size(192), size(96), size(8), size(720)], [(320, 192), (160, 96), (16, 8), (1200, 720)]);
        assert!(offer("video/x-raw,width=128").is_empty());
        assert!(offer("video/x-raw,height=100").is_empty());
        assert!(plan.bound().contains("width=64 was set"));
    }
}
