// SPDX-License-Identifier: MPL-2.0
//! The properties of `frameratetune`.

use std::path::PathBuf;

use gst::prelude::*;

use crate::config::Section;
use crate::config::element::{self, Source};
use crate::engine::device::Precision;
use crate::engine::rife::Params;
use crate::engine::{Error, Result};
use crate::models;
use crate::settings::{DEFAULT_DEVICE, Dtype, Layer, device_spec, dtype_spec, from_json};
use crate::timing::{Counts, Fraction};

/// The property `mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(i32)]
#[enum_type(name = "GstFrameRateTuneMode")]
pub enum Mode {
    /// Interpolate where the rate rises.
    #[default]
    #[enum_value(name = "Auto: interpolate where the rate rises, else duplicate and drop", nick = "auto")]
    Auto,
    /// The same frames at the new rate.
    #[enum_value(name = "Retime: the same frames at the new rate, so that the duration changes", nick = "retime")]
    Retime,
    /// The nearest frame.
    #[enum_value(name = "Duplicate: the nearest frame, repeated or dropped", nick = "duplicate")]
    Duplicate,
    /// Two frames mixed.
    #[enum_value(name = "Blend: the frames before and behind, mixed", nick = "blend")]
    Blend,
    /// RIFE.
    #[enum_value(name = "Interpolate: a frame between, with RIFE", nick = "interpolate")]
    Interpolate,
}

/// The properties' values.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What is shown between two frames.
    pub mode: Mode,
    /// The output's rate; 0/1 is what downstream's caps ask for.
    pub fps: gst::Fraction,
    /// How many times faster the output is.
    pub speed: gst::Fraction,
    /// The model's file; `None` is the one that comes with the plugin.
    pub model_path: Option<PathBuf>,
    /// How frames are interpolated.
    pub params: Params,
    /// Repeated frames that are looked past.
    pub max_repeats: i32,
    /// The longest time between two frames that have something between them, in nanoseconds.
    pub max_gap: u64,
    device: Option<String>,
    dtype: Dtype,
    /// What the configuration is, and what goes before it.
    source: Source,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            fps: gst::Fraction::new(0, 1),
            speed: gst::Fraction::new(1, 1),
            model_path: None,
            params: Params::default(),
            max_repeats: 3,
            max_gap: gst::ClockTime::SECOND.nseconds(),
            device: None,
            dtype: Dtype::default(),
            source: Source::default(),
        }
    }
}

/// The properties. Numbers have the whole range of their type: one that is not possible ends in an error message that
/// says what is, when the element starts, and not in a warning of GObject's.
pub fn properties() -> Vec<glib::ParamSpec> {
    let default = Settings::default();
    let (least, most) = (gst::Fraction::new(-i32::MAX, 1), gst::Fraction::new(i32::MAX, 1));
    let fraction = |name, nick, blurb, default| {
        gst::ParamSpecFraction::builder(name)
            .nick(nick)
            .blurb(blurb)
            .minimum(least)
            .maximum(most)
            .default_value(default)
            .mutable_ready()
            .build()
    };
    let double = |name, nick, blurb, default| {
        glib::ParamSpecDouble::builder(name).nick(nick).blurb(blurb).default_value(default).mutable_ready().build()
    };
    let count = |name, nick, blurb| glib::ParamSpecUInt64::builder(name).nick(nick).blurb(blurb).read_only().build();
    vec![
        glib::ParamSpecEnum::builder::<Mode>("mode")
            .nick("Mode")
            .blurb("What is shown between two frames of the input")
            .mutable_ready()
            .build(),
        fraction(
            "fps",
            "Frame rate",
            "Frames per second of the output (0/1 = what downstream's caps ask for, else the input's rate)",
            default.fps,
        ),
        fraction(
            "speed",
            "Speed",
            "How many times faster the output is than the input: 1/4 is slow motion, and takes four times as long. Not with \
             mode=retime",
            default.speed,
        ),
        glib::ParamSpecString::builder("model-path")
            .nick("Model path")
            .blurb(
                "File of the RIFE model, .safetensors or Practical-RIFE's flownet.pkl (unset = the one that comes with \
                 the plugin)",
            )
            .mutable_ready()
            .build(),
        double(
            "scale",
            "Scale",
            "Size at which RIFE looks for motion over the frames' size: 0.25, 0.5, 1, 2 or 4 (0 = as fits the size)",
            default.params.scale,
        ),
        double(
            "scene-threshold",
            "Scene threshold",
            "How much of a frame, 0 to 1, is not found again in the next when the scene changes: between these, nothing is \
             mixed or interpolated (1 = no scene ever changes)",
            default.params.scene_threshold,
        ),
        double(
            "static-threshold",
            "Static threshold",
            "The difference, 0 to 1, up to which a frame repeats the one before",
            default.params.static_threshold,
        ),
        glib::ParamSpecInt::builder("max-repeats")
            .nick("Maximum of repeats")
            .blurb(
                "Repeated frames, 0 and above, that are looked past to what moves next: 1 for animation on twos. More of \
                 them are a picture that stands still",
            )
            .default_value(default.max_repeats)
            .mutable_ready()
            .build(),
        glib::ParamSpecUInt64::builder("max-gap")
            .nick("Maximum gap")
            .blurb("Nanoseconds between two frames up to which something is shown between them")
            .default_value(default.max_gap)
            .mutable_ready()
            .build(),
        device_spec(),
        dtype_spec(),
        count("in", "In", "Frames that came in"),
        count("out", "Out", "Frames that went out"),
        count("duplicate", "Duplicate", "Frames that went out and were the same as the one before"),
        count("drop", "Drop", "Frames that came in and did not go out as they are"),
        count("interpolated", "Interpolated", "Frames that went out and were mixed or interpolated"),
    ]
    .into_iter()
    .chain(element::properties())
    .collect()
}

/// Checks the values of a configuration.
///
/// # Errors
/// As [`Settings::validate`].
pub fn check(layer: &Layer) -> Result<()> {
    Settings::of(layer).validate()
}

/// The model that is taken where none is named.
pub const DEFAULT_MODEL: &str = "rife/rife-v4.25.safetensors";
/// Where the authors' networks are.
const ORIGIN: &str = "the authors' networks are listed at https://github.com/hzwer/Practical-RIFE";
const TYPE: &str = "GObject checks the type";

impl Settings {
    /// The settings that a configuration says. What is of no property says nothing.
    pub fn of(layer: &Layer) -> Self {
        let (mut settings, specs) = (Self::default(), properties());
        for (name, value) in layer {
            let spec = specs.iter().find(|spec| spec.name() == name);
            if let Some(value) = spec.and_then(|spec| from_json(spec, value).ok()) {
                settings.put(name, &value);
            }
        }
        settings
    }

    /// The model's file.
    ///
    /// # Errors
    /// Those of [`models::file`].
    pub fn model_file(&self) -> Result<PathBuf> {
        models::file(self.model_path.as_deref(), DEFAULT_MODEL, ".safetensors or .pkl", ORIGIN)
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// [`Error::Param`] for the first value that is out of its range.
    pub fn validate(&self) -> Result<()> {
        self.params.validate()?;
        if self.fps.numer() < 0 {
            return Err(Error::param("fps", self.fps, "use a fraction above 0, or 0/1 for what downstream asks for"));
        }
        if self.speed.numer() <= 0 {
            return Err(Error::param("speed", self.speed, "use a fraction above 0, as 1/4 for slow motion"));
        }
        if self.mode == Mode::Retime && self.speed != gst::Fraction::new(1, 1) {
            let fix = "with mode=retime the rate alone says how fast it is: leave speed at 1, or use another mode";
            return Err(Error::param("speed", self.speed, fix));
        }
        if self.max_repeats < 0 {
            return Err(Error::param("max_repeats", self.max_repeats, "use 0 or more"));
        }
        Ok(())
    }

    /// The output's rate, if it was set.
    pub fn rate(&self) -> Option<gst::Fraction> {
        (self.fps.numer() > 0).then_some(self.fps)
    }

    /// Sets the property `name` by hand.
    pub fn set(&mut self, name: &str, value: &glib::Value) {
        if !self.source.set(name, value) {
            self.put(name, value);
        }
    }

    /// The same with the values of a configuration for what was not set by hand.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn configured(mut self) -> Result<Self, gst::ErrorMessage> {
        for (name, value) in self.source.values(Section::Framerate, &properties())? {
            self.put(&name, &value);
        }
        Ok(self)
    }

    fn put(&mut self, name: &str, value: &glib::Value) {
        let text = || value.get::<Option<String>>().expect(TYPE).filter(|text| !text.is_empty());
        match name {
            "mode" => self.mode = value.get().expect(TYPE),
            "fps" => self.fps = value.get().expect(TYPE),
            "speed" => self.speed = value.get().expect(TYPE),
            "model-path" => self.model_path = text().map(PathBuf::from),
            "scale" => self.params.scale = value.get().expect(TYPE),
            "scene-threshold" => self.params.scene_threshold = value.get().expect(TYPE),
            "static-threshold" => self.params.static_threshold = value.get().expect(TYPE),
            "max-repeats" => self.max_repeats = value.get().expect(TYPE),
            "max-gap" => self.max_gap = value.get().expect(TYPE),
            "device" => self.device = text(),
            "dtype" => self.dtype = value.get().expect(TYPE),
            _ => unreachable!("GObject sets no property but those of properties()"),
        }
    }

    /// The property `name`; `counts` are those of the frames.
    pub fn get(&self, name: &str, counts: &Counts) -> glib::Value {
        match name {
            "mode" => self.mode.to_value(),
            "fps" => self.fps.to_value(),
            "speed" => self.speed.to_value(),
            "model-path" => self.model_path.as_ref().map(|path| path.to_string_lossy().into_owned()).to_value(),
            "scale" => self.params.scale.to_value(),
            "scene-threshold" => self.params.scene_threshold.to_value(),
            "static-threshold" => self.params.static_threshold.to_value(),
            "max-repeats" => self.max_repeats.to_value(),
            "max-gap" => self.max_gap.to_value(),
            "device" => self.device().to_value(),
            "dtype" => self.dtype.to_value(),
            "in" => counts.input.to_value(),
            "out" => counts.output.to_value(),
            "duplicate" => counts.duplicated.to_value(),
            "drop" => counts.dropped.to_value(),
            "interpolated" => counts.interpolated.to_value(),
            name => self.source.get(name).unwrap_or_else(|| unreachable!("{name} is none of properties()")),
        }
    }

    /// The device that is asked for.
    pub fn device(&self) -> &str {
        self.device.as_deref().unwrap_or(DEFAULT_DEVICE)
    }

    /// The precision that is asked for.
    pub fn precision(&self) -> Precision {
        self.dtype.into()
    }
}

/// A fraction above 0 of caps or properties.
pub fn fraction(value: gst::Fraction) -> Option<Fraction> {
    Fraction::new(u64::try_from(value.numer()).ok()?, u64::try_from(value.denom()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_is_read_back() {
        gst::init().unwrap();
        let mut settings = Settings::default();
        for spec in properties() {
            let default = settings.get(spec.name(), &Counts::default());
            assert_eq!(format!("{default:?}"), format!("{:?}", spec.default_value()), "{}", spec.name());
            if spec.flags().contains(glib::ParamFlags::WRITABLE) {
                settings.set(spec.name(), &default);
                let seen = settings.get(spec.name(), &Counts::default());
                assert_eq!(format!("{seen:?}"), format!("{default:?}"), "{}", spec.name());
            }
        }
        settings.set("speed", &gst::Fraction::new(1, 4).to_value());
        settings.set("mode", &Mode::Blend.to_value());
        assert_eq!((settings.speed, settings.mode), (gst::Fraction::new(1, 4), Mode::Blend));
    }
}
