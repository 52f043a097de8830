// SPDX-License-Identifier: MPL-2.0
//! The properties of `realesrganscale`.

use std::path::PathBuf;

use gst::prelude::*;

use crate::engine::device::Precision;
use crate::engine::esrgan::Params;
use crate::settings::{DEFAULT_DEVICE, Dtype, device_spec, dtype_spec};

/// The properties' values.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The model's file; `None` is the one that comes with the plugin.
    pub model_path: Option<PathBuf>,
    /// How pictures are upscaled.
    pub params: Params,
    device: Option<String>,
    dtype: Dtype,
}

/// The properties. Numbers have the whole range of their type: one that is not possible ends in an error message that
/// says what is, when the element starts, and not in a warning of GObject's.
pub fn properties() -> Vec<glib::ParamSpec> {
    let pixels = |name, nick, blurb, default: i64| {
        glib::ParamSpecInt::builder(name).nick(nick).blurb(blurb).default_value(default as i32).mutable_ready().build()
    };
    let default = Params::default();
    vec![
        glib::ParamSpecString::builder("model-path")
            .nick("Model path")
            .blurb(
                "File of the model, .safetensors or .pth, of an RRDBNet or SRVGGNetCompact (unset = the small \
                 realesr-animevideov3 that comes with the plugin)",
            )
            .mutable_ready()
            .build(),
        glib::ParamSpecDouble::builder("outscale")
            .nick("Output scale")
            .blurb("Size of the output over the size of the input, 1/64 to 64 (0 = the model's own scale)")
            .default_value(default.outscale)
            .mutable_ready()
            .build(),
        pixels(
            "tile",
            "Tile size",
            "Side of the tiles that run through the network one by one, in pixels: smaller ones need less memory \
             (0 = the whole picture at once)",
            default.tile,
        ),
        pixels(
            "tile-pad",
            "Tile padding",
            "Pixels around each tile that the network sees too, so that no seams show, 0 and above",
            default.tile_pad,
        ),
        pixels(
            "pre-pad",
            "Picture padding",
            "Mirrored pixels that are added to the picture on the right and at the bottom and cut off again, 0 and above",
            default.pre_pad,
        ),
        device_spec(),
        dtype_spec(),
    ]
}

const TYPE: &str = "GObject checks the type";

impl Settings {
    /// Sets the property `name`.
    pub fn set(&mut self, name: &str, value: &glib::Value) {
        let text = || value.get::<Option<String>>().expect(TYPE).filter(|text| !text.is_empty());
        let int = || i64::from(value.get::<i32>().expect(TYPE));
        match name {
            "model-path" => self.model_path = text().map(PathBuf::from),
            "outscale" => self.params.outscale = value.get().expect(TYPE),
            "tile" => self.params.tile = int(),
            "tile-pad" => self.params.tile_pad = int(),
            "pre-pad" => self.params.pre_pad = int(),
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
            "outscale" => self.params.outscale.to_value(),
            "tile" => int(self.params.tile),
            "tile-pad" => int(self.params.tile_pad),
            "pre-pad" => int(self.params.pre_pad),
            "device" => self.device().to_value(),
            "dtype" => self.dtype.to_value(),
            _ => unreachable!("GObject asks for no property but those of properties()"),
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
        for spec in properties() {
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
