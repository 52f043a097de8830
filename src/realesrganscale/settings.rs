// SPDX-License-Identifier: MPL-2.0
//! The properties of `realesrganscale`.

use std::path::PathBuf;

use gst::prelude::*;

use crate::config::Section;
use crate::config::element::{self, Source};
use crate::engine::device::Precision;
use crate::engine::esrgan::{ModelFile, Params};
use crate::engine::{Error, Result};
use crate::models;
use crate::settings::{DEFAULT_DEVICE, Dtype, Layer, device_spec, dtype_spec, from_json};

/// The most frames in a batch.
const MAX_BATCH: i64 = 64;

/// The properties' values.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The model's file; `None` is the one that comes with the plugin.
    pub model_path: Option<PathBuf>,
    /// The model's share of the weights; its partner has the rest.
    pub denoise_strength: f64,
    /// How pictures are upscaled.
    pub params: Params,
    /// Frames that run through the network at once.
    pub batch_size: i64,
    /// Whether a frame that is the same as the one before it is not computed again.
    pub skip_static: bool,
    /// Whether a picture keeps its shape, by black borders if need be.
    pub add_borders: bool,
    /// Time between two messages with statistics.
    pub stats_interval: gst::ClockTime,
    device: Option<String>,
    dtype: Dtype,
    /// What the configuration is, and what goes before it.
    source: Source,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model_path: None,
            denoise_strength: 1.0,
            params: Params::default(),
            batch_size: 1,
            skip_static: true,
            add_borders: true,
            stats_interval: gst::ClockTime::from_seconds(5),
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
    let params = default.params;
    let int = |name, nick, blurb, default: i64| {
        glib::ParamSpecInt::builder(name).nick(nick).blurb(blurb).default_value(default as i32).mutable_ready().build()
    };
    let double = |name, nick, blurb, default| {
        glib::ParamSpecDouble::builder(name).nick(nick).blurb(blurb).default_value(default).mutable_ready().build()
    };
    let boolean = |name, nick, blurb, default| {
        glib::ParamSpecBoolean::builder(name).nick(nick).blurb(blurb).default_value(default).mutable_ready().build()
    };
    let unsigned = |name, nick, blurb, default| {
        glib::ParamSpecUInt64::builder(name).nick(nick).blurb(blurb).default_value(default).mutable_ready().build()
    };
    vec![
        glib::ParamSpecString::builder("model-path")
            .nick("Model path")
            .blurb(
                "File of the model, .safetensors or .pth, of an RRDBNet or SRVGGNetCompact (unset = the small \
                 realesr-animevideov3 that comes with the plugin)",
            )
            .mutable_ready()
            .build(),
        double(
            "denoise-strength",
            "Denoise strength",
            "Share of the model's own weights, 0 (noise stays) to 1 (it goes); the rest is of its partner, the file \
             beside it with wdn in its name, as realesr-general-x4v3 has one",
            default.denoise_strength,
        ),
        double(
            "outscale",
            "Output scale",
            "Size of the output over the size of the input, 1/64 to 64 (0 = what downstream's caps ask for, else the \
             model's own scale)",
            params.outscale,
        ),
        double(
            "min-scale",
            "Minimum scale",
            "Pictures that become larger by this factor or less are resampled only, without the model (0 = never)",
            params.min_scale,
        ),
        boolean(
            "add-borders",
            "Add borders",
            "Whether black borders keep the picture's shape where caps ask for a size and pixels of another; else it is \
             stretched",
            default.add_borders,
        ),
        int(
            "tile",
            "Tile size",
            "Side of the tiles that run through the network one by one, in pixels: smaller ones need less memory \
             (0 = as large as max-memory allows)",
            params.tile,
        ),
        int(
            "tile-pad",
            "Tile padding",
            "Pixels around each tile that the network sees too, so that no seams show (-1 = as many as the model needs \
             for that)",
            params.tile_pad,
        ),
        int(
            "pre-pad",
            "Picture padding",
            "Mirrored pixels that are added to the picture on the right and at the bottom and cut off again, 0 and above",
            params.pre_pad,
        ),
        unsigned(
            "max-memory",
            "Maximum memory",
            "Bytes of the device's memory that frames and tiles may take, besides the model (0 = what is free)",
            params.max_memory,
        ),
        int(
            "batch-size",
            "Batch size",
            "Frames that run through the network at once, 1 to 64: more keep a GPU busier with small frames, and come \
             later by as many frames",
            default.batch_size,
        ),
        boolean(
            "skip-static",
            "Skip static frames",
            "Whether a frame that is the same as the one before it, to the byte, comes out as that one did, without \
             being computed again",
            default.skip_static,
        ),
        unsigned(
            "stats-interval",
            "Interval of statistics",
            "Nanoseconds between element messages with the property stats, while frames come (0 = none)",
            default.stats_interval.nseconds(),
        ),
        glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
            .nick("Statistics")
            .blurb(
                "Since the element was started: frames, static-frames among them, tiles that ran through the network, \
                 retries with smaller tiles, and ms-per-frame from its beginning at the model until it is there (on a \
                 GPU, until it is fetched)",
            )
            .read_only()
            .build(),
        device_spec(),
        dtype_spec(),
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
const DEFAULT_MODEL: &str = "realesrgan/realesr-animevideov3.safetensors";
/// Where the author's networks are.
const ORIGIN: &str = "the author's networks are files of https://github.com/xinntao/Real-ESRGAN/releases";
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
    /// Those of [`models::file`] and [`ModelFile::blended`].
    pub fn model_file(&self) -> Result<ModelFile> {
        let path = models::file(self.model_path.as_deref(), DEFAULT_MODEL, ".safetensors or .pth", ORIGIN)?;
        ModelFile::blended(&path, self.denoise_strength)
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// [`Error::Param`] for the first value that is out of its range.
    pub fn validate(&self) -> Result<()> {
        self.params.validate()?;
        if !(1..=MAX_BATCH).contains(&self.batch_size) {
            return Err(Error::param("batch_size", self.batch_size, format!("use 1 to {MAX_BATCH}")));
        }
        Ok(())
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
        for (name, value) in self.source.values(Section::Postprocess, &properties())? {
            self.put(&name, &value);
        }
        Ok(self)
    }

    fn put(&mut self, name: &str, value: &glib::Value) {
        let text = || value.get::<Option<String>>().expect(TYPE).filter(|text| !text.is_empty());
        let int = || i64::from(value.get::<i32>().expect(TYPE));
        match name {
            "model-path" => self.model_path = text().map(PathBuf::from),
            "denoise-strength" => self.denoise_strength = value.get().expect(TYPE),
            "outscale" => self.params.outscale = value.get().expect(TYPE),
            "min-scale" => self.params.min_scale = value.get().expect(TYPE),
            "add-borders" => self.add_borders = value.get().expect(TYPE),
            "tile" => self.params.tile = int(),
            "tile-pad" => self.params.tile_pad = int(),
            "pre-pad" => self.params.pre_pad = int(),
            "max-memory" => self.params.max_memory = value.get().expect(TYPE),
            "batch-size" => self.batch_size = int(),
            "skip-static" => self.skip_static = value.get().expect(TYPE),
            "stats-interval" => self.stats_interval = gst::ClockTime::from_nseconds(value.get().expect(TYPE)),
            "device" => self.device = text(),
            "dtype" => self.dtype = value.get().expect(TYPE),
            _ => unreachable!("GObject asks for no property but those of properties()"),
        }
    }

    /// The property `name`.
    pub fn get(&self, name: &str) -> glib::Value {
        let int = |value: i64| (value as i32).to_value();
        match name {
            "model-path" => self.model_path.as_ref().map(|path| path.to_string_lossy().into_owned()).to_value(),
            "denoise-strength" => self.denoise_strength.to_value(),
            "outscale" => self.params.outscale.to_value(),
            "min-scale" => self.params.min_scale.to_value(),
            "add-borders" => self.add_borders.to_value(),
            "tile" => int(self.params.tile),
            "tile-pad" => int(self.params.tile_pad),
            "pre-pad" => int(self.params.pre_pad),
            "max-memory" => self.params.max_memory.to_value(),
            "batch-size" => int(self.batch_size),
            "skip-static" => self.skip_static.to_value(),
            "stats-interval" => self.stats_interval.nseconds().to_value(),
            "device" => self.device().to_value(),
            "dtype" => self.dtype.to_value(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_property_is_read_back() {
        gst::init().unwrap();
        let mut settings = Settings::default();
        for spec in properties().iter().filter(|spec| spec.name() != "stats") {
            let default = settings.get(spec.name());
            assert_eq!(format!("{default:?}"), format!("{:?}", spec.default_value()), "{}", spec.name());
            settings.set(spec.name(), &default);
            assert_eq!(format!("{:?}", settings.get(spec.name())), format!("{default:?}"), "{}", spec.name());
        }
        settings.set("tile", &7.to_value());
        settings.set("dtype", &Dtype::Bf16.to_value());
        assert_eq!((settings.params.tile, settings.precision()), (7, Precision::Bf16));
    }
}
