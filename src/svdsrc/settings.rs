// SPDX-License-Identifier: MPL-2.0
//! The properties of `svdsrc`, and how they, downstream's caps and the model's own values become one set of parameters.

use std::path::PathBuf;

use gst::prelude::*;
use gst_video::VideoInfo;

use super::KeyframeFit;
use crate::engine::device::Precision;
use crate::engine::svd::{MAX_SIDE, Params};
use crate::engine::{Error, Result};
use crate::settings::{DEFAULT_DEVICE, Dtype, device_spec, dtype_spec};
use crate::video::FORMATS;

/// The values that were set by hand; what was not is left to downstream and to the model.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub location: Option<PathBuf>,
    pub model_path: Option<PathBuf>,
    num_frames: Option<i32>,
    fps: Option<gst::Fraction>,
    width: Option<i32>,
    height: Option<i32>,
    keyframe_fit: Option<KeyframeFit>,
    num_inference_steps: Option<i32>,
    motion_bucket_id: Option<f64>,
    noise_aug_strength: Option<f64>,
    min_guidance_scale: Option<f64>,
    max_guidance_scale: Option<f64>,
    decode_chunk_size: Option<i32>,
    seed: Option<i64>,
    device: Option<String>,
    dtype: Option<Dtype>,
    num_clips: Option<i32>,
}

/// The properties. Numbers have the whole range of their type: one that is not possible ends in an error message that
/// says what is, when the element starts, and not in a warning of GObject's.
pub fn properties() -> Vec<glib::ParamSpec> {
    let string =
        |name, nick, blurb| glib::ParamSpecString::builder(name).nick(nick).blurb(blurb).mutable_ready().build();
    let int = |name, nick, blurb, default| {
        glib::ParamSpecInt::builder(name).nick(nick).blurb(blurb).default_value(default).mutable_ready().build()
    };
    let double = |name, nick, blurb, default| {
        glib::ParamSpecDouble::builder(name).nick(nick).blurb(blurb).default_value(default).mutable_ready().build()
    };
    let default = Params::default();
    vec![
        string("location", "Location", "File of the keyframe: PNG, JPEG or WebP, turned upright as its EXIF data says"),
        string(
            "model-path",
            "Model path",
            "Folder of the model, as diffusers saves it: unet/, vae/, image_encoder/, scheduler/ (unset = the small \
             svd-nano that comes with the plugin)",
        ),
        int("num-frames", "Number of frames", "Frames in a clip, 1 to 1024 (0 = as many as the model was trained for)", 0),
        gst::ParamSpecFraction::builder("fps")
            .nick("Frames per second")
            .blurb(
                "Frame rate of the clip, 1/1 and above, which the model is also told, rounded: a higher one makes smaller \
                 movements between frames (where not set, downstream's frame rate or the model's own goes before the \
                 default)",
            )
            .minimum(gst::Fraction::new(0, 1))
            .maximum(gst::Fraction::new(i32::MAX, 1))
            .default_value(gst::Fraction::new(default.fps as i32, 1))
            .mutable_ready()
            .build(),
        int("width", "Width", "Width in pixels, a multiple of 8 from 8 to 16384 (0 = downstream's, else the model's)", 0),
        int("height", "Height", "Height in pixels, a multiple of 8 from 8 to 16384 (0 = downstream's, else the model's)", 0),
        glib::ParamSpecEnum::builder::<KeyframeFit>("keyframe-fit")
            .nick("Keyframe fit")
            .blurb("How the keyframe is brought to the shape of the clip")
            .mutable_ready()
            .build(),
        int(
            "num-inference-steps",
            "Number of inference steps",
            "Denoising steps, 1 to 1000: more take longer and give more detail (where not set, what the model recommends \
             goes before the default)",
            default.num_inference_steps as i32,
        ),
        double(
            "motion-bucket-id",
            "Motion bucket",
            "How much the clip moves, 0 and above, in training 1 to 255 (where not set, what the model recommends goes \
             before the default)",
            default.motion_bucket_id,
        ),
        double(
            "noise-aug-strength",
            "Noise augmentation strength",
            "Noise on the keyframe, 0 and above: more moves further away from the picture (where not set, what the model \
             recommends goes before the default)",
            default.noise_aug_strength,
        ),
        double(
            "min-guidance-scale",
            "Minimum guidance scale",
            "Guidance at the first frame, 0 and above; the frames between lie on a line. It is off, and the clip made in \
             half the time, if neither end is above 1 (where not set, what the model recommends goes before the default)",
            default.min_guidance_scale,
        ),
        double(
            "max-guidance-scale",
            "Maximum guidance scale",
            "Guidance at the last frame, 0 and above: a higher one keeps closer to the keyframe (where not set, what the \
             model recommends goes before the default)",
            default.max_guidance_scale,
        ),
        int(
            "decode-chunk-size",
            "Decode chunk size",
            "Frames that are decoded together, up to 1024 (0 = all): fewer need less memory and flicker more",
            0,
        ),
        glib::ParamSpecInt64::builder("seed")
            .nick("Seed")
            .blurb("Seed of the noise in the first clip; each further clip takes the next number. The same seed gives the same clip")
            .default_value(default.seed)
            .mutable_ready()
            .build(),
        device_spec(),
        dtype_spec(),
        int("num-clips", "Number of clips", "Clips that are made one after the other (0 = endless)", 1),
    ]
}

impl Settings {
    /// Sets the property `name`.
    pub fn set(&mut self, name: &str, value: &glib::Value) {
        let text = || value.get::<Option<String>>().expect(TYPE).filter(|text| !text.is_empty());
        let int = || Some(value.get::<i32>().expect(TYPE));
        let double = || Some(value.get::<f64>().expect(TYPE));
        // Here 0 is how to say that it is not set.
        let some_int = || int().filter(|&value| value != 0);
        match name {
            "location" => self.location = text().map(PathBuf::from),
            "model-path" => self.model_path = text().map(PathBuf::from),
            "num-frames" => self.num_frames = some_int(),
            "fps" => self.fps = Some(value.get().expect(TYPE)),
            "width" => self.width = some_int(),
            "height" => self.height = some_int(),
            "keyframe-fit" => self.keyframe_fit = Some(value.get().expect(TYPE)),
            "num-inference-steps" => self.num_inference_steps = int(),
            "motion-bucket-id" => self.motion_bucket_id = double(),
            "noise-aug-strength" => self.noise_aug_strength = double(),
            "min-guidance-scale" => self.min_guidance_scale = double(),
            "max-guidance-scale" => self.max_guidance_scale = double(),
            "decode-chunk-size" => self.decode_chunk_size = int(),
            "seed" => self.seed = Some(value.get().expect(TYPE)),
            "device" => self.device = text(),
            "dtype" => self.dtype = Some(value.get().expect(TYPE)),
            "num-clips" => self.num_clips = int(),
            _ => unreachable!("GObject asks for no property but those of properties()"),
        }
    }

    /// The property `name`: what was set, else the default.
    pub fn get(&self, name: &str) -> glib::Value {
        let default = Params::default();
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned()).to_value();
        match name {
            "location" => path(&self.location),
            "model-path" => path(&self.model_path),
            "num-frames" => self.num_frames.unwrap_or(0).to_value(),
            "fps" => self.fps.unwrap_or(gst::Fraction::new(default.fps as i32, 1)).to_value(),
            "width" => self.width.unwrap_or(0).to_value(),
            "height" => self.height.unwrap_or(0).to_value(),
            "keyframe-fit" => self.keyframe_fit.unwrap_or_default().to_value(),
            "num-inference-steps" => self.num_inference_steps.unwrap_or(default.num_inference_steps as i32).to_value(),
            "motion-bucket-id" => self.motion_bucket_id.unwrap_or(default.motion_bucket_id).to_value(),
            "noise-aug-strength" => self.noise_aug_strength.unwrap_or(default.noise_aug_strength).to_value(),
            "min-guidance-scale" => self.min_guidance_scale.unwrap_or(default.min_guidance_scale).to_value(),
            "max-guidance-scale" => self.max_guidance_scale.unwrap_or(default.max_guidance_scale).to_value(),
            "decode-chunk-size" => self.decode_chunk_size.unwrap_or(default.decode_chunk_size as i32).to_value(),
            "seed" => self.seed.unwrap_or(default.seed).to_value(),
            "device" => self.device().to_value(),
            "dtype" => self.dtype.unwrap_or_default().to_value(),
            "num-clips" => self.num_clips.unwrap_or(1).to_value(),
            _ => unreachable!("GObject asks for no property but those of properties()"),
        }
    }

    /// The device that is asked for.
    pub fn device(&self) -> &str {
        self.device.as_deref().unwrap_or(DEFAULT_DEVICE)
    }

    /// The precision that is asked for.
    pub fn precision(&self) -> Precision {
        self.dtype.unwrap_or_default().into()
    }

    /// Lays the properties over what the model recommends, and checks the outcome.
    pub fn plan(&self, recommended: &Params) -> Result<Plan> {
        fn over<T>(set: Option<impl Into<T>>, recommended: T) -> T {
            set.map_or(recommended, Into::into)
        }
        let framerate = self.fps.or_else(|| gst::Fraction::approximate_f64(recommended.fps));
        let framerate = framerate.unwrap_or(gst::Fraction::new(7, 1));
        let params = Params {
            num_frames: over(self.num_frames, recommended.num_frames),
            width: over(self.width, recommended.width),
            height: over(self.height, recommended.height),
            keyframe_fit: over(self.keyframe_fit, recommended.keyframe_fit),
            fps: f64::from(framerate.numer()) / f64::from(framerate.denom()),
            motion_bucket_id: over(self.motion_bucket_id, recommended.motion_bucket_id),
            noise_aug_strength: over(self.noise_aug_strength, recommended.noise_aug_strength),
            num_inference_steps: over(self.num_inference_steps, recommended.num_inference_steps),
            min_guidance_scale: over(self.min_guidance_scale, recommended.min_guidance_scale),
            max_guidance_scale: over(self.max_guidance_scale, recommended.max_guidance_scale),
            decode_chunk_size: over(self.decode_chunk_size, recommended.decode_chunk_size),
            seed: over(self.seed, recommended.seed),
            ..recommended.clone()
        };
        params.validate()?;
        let num_clips = self.num_clips.unwrap_or(1);
        let num_clips = u64::try_from(num_clips)
            .map_err(|_| Error::param("num_clips", num_clips, "use 1 or more, or 0 for an endless chain"))?;
        Ok(Plan {
            params,
            shape: (recommended.width, recommended.height),
            framerate,
            width: self.width,
            height: self.height,
            fps: self.fps,
            num_clips: Some(num_clips).filter(|&clips| clips > 0),
        })
    }
}

const TYPE: &str = "GObject checks the type";

/// What is made: the parameters, before downstream has chosen what it may.
#[derive(Debug, Clone)]
pub struct Plan {
    params: Params,
    /// The width and height that the model recommends.
    shape: (i64, i64),
    framerate: gst::Fraction,
    // Set by hand, and so not downstream's to choose.
    width: Option<i32>,
    height: Option<i32>,
    fps: Option<gst::Fraction>,
    /// `None` is endless.
    pub num_clips: Option<u64>,
}

impl Plan {
    /// Frames in a clip.
    pub fn num_frames(&self) -> u64 {
        self.params.num_frames as u64
    }

    /// The caps that downstream may choose from.
    pub fn caps(&self) -> gst::Caps {
        let mut caps = template();
        let caps_mut = caps.make_mut();
        let side = gst::IntRange::with_step(8, MAX_SIDE as i32, 8);
        for (name, value) in [("width", self.width), ("height", self.height)] {
            match value {
                Some(value) => caps_mut.set(name, value),
                None => caps_mut.set(name, side),
            }
        }
        if let Some(fps) = self.fps {
            caps_mut.set("framerate", fps);
        }
        label(caps_mut);
        caps
    }

    /// What was set by hand of the things that downstream could choose, in words; nothing if nothing was.
    pub fn set_by_hand(&self) -> Option<String> {
        let names = [
            self.width.map(|width| format!("width={width}")),
            self.height.map(|height| format!("height={height}")),
            self.fps.map(|fps| format!("fps={}/{}", fps.numer(), fps.denom())),
        ];
        let names: Vec<_> = names.into_iter().flatten().collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Chooses what downstream left open: what the model recommends, or what is next to it. Where only one side is
    /// given, the other follows in the model's proportions.
    pub fn fixate(&self, caps: &mut gst::CapsRef) {
        if let Some(caps) = caps.structure_mut(0) {
            let given = |name| caps.get::<i32>(name).ok().map(i64::from);
            let beside = |side: i64, (own, other): (i64, i64)| ((side * other * 2 + own * 8) / (own * 16) * 8).max(8);
            let (wide, high) = self.shape;
            let (width, height) = match (given("width"), given("height")) {
                (Some(width), None) => (width, beside(width, (wide, high))),
                (None, Some(height)) => (beside(height, (high, wide)), height),
                _ => (self.params.width, self.params.height),
            };
            caps.fixate_field_nearest_int("width", width as i32);
            caps.fixate_field_nearest_int("height", height as i32);
            caps.fixate_field_nearest_fraction("framerate", self.framerate);
        }
    }

    /// The parameters of the clip of this number, counted from 0, in the size and at the rate of `info`. The model is
    /// told whole frames per second: it knows no others.
    pub fn params(&self, info: &VideoInfo, clip: u64) -> Params {
        let fps = f64::from(info.fps().numer()) / f64::from(info.fps().denom());
        Params {
            width: i64::from(info.width()),
            height: i64::from(info.height()),
            fps: fps.round().max(1.0),
            seed: self.params.seed.wrapping_add_unsigned(clip),
            ..self.params.clone()
        }
    }
}

/// All that the element can give. A size that is no multiple of 8 is refused later, where it can be said why.
pub fn template() -> gst::Caps {
    gst_video::VideoCapsBuilder::new()
        .format_list(FORMATS)
        .width_range(8..=MAX_SIDE as i32)
        .height_range(8..=MAX_SIDE as i32)
        .framerate_range(gst::Fraction::new(1, 1)..=gst::Fraction::new(i32::MAX, 1))
        .build()
}

/// Says that these are progressive sRGB pictures of square pixels.
pub fn label(caps: &mut gst::CapsRef) {
    caps.set("pixel-aspect-ratio", gst::Fraction::new(1, 1));
    caps.set("interlace-mode", "progressive");
    caps.set("colorimetry", "sRGB");
}

#[cfg(test)]
mod tests {
    use super::*;
    use gst_video::VideoFormat;

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
        let mut settings = Settings::default();
        for spec in properties() {
            let default = settings.get(spec.name());
            assert_eq!(default.type_(), spec.value_type(), "{}", spec.name());
            assert_eq!(format!("{default:?}"), format!("{:?}", spec.default_value()), "{}", spec.name());
            settings.set(spec.name(), &default);
            assert_eq!(format!("{:?}", settings.get(spec.name())), format!("{default:?}"), "{}", spec.name());
        }
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
            ("num-clips", (-1).to_value(), ["num_clips=-1", "1 or more"]),
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
        assert_eq!(plan.set_by_hand().unwrap(), "width=64");
    }
}
