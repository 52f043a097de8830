// SPDX-License-Identifier: MPL-2.0
//! Latents as small pictures, without the decoder: each latent becomes a pixel by a linear map of its channels.
//!
//! The map is the model's own (`latent_rgb.json` in its folder), or the known one of the autoencoder that SD 1.x, SD 2.x
//! and SVD have, or is fitted to the model's autoencoder.

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::params::DecodeMode;
use super::source::ModelInfo;
use super::vae::{Config, Decoding, Keep, Vae};
use crate::engine::image::Frame;
use crate::engine::worker::Cancel;
use crate::engine::{Error, Result};

/// The known map of SD's autoencoder with 4 channels at an eighth of the picture's sides, for latents that are multiplied
/// by its scaling factor of 0.18215. SVD's has the same encoder. The numbers are those that ComfyUI uses for both
/// (`SD15` in `comfy/latent_formats.py`).
const SD: [[f32; 3]; 4] =
    [[0.3512, 0.2297, 0.3227], [0.3250, 0.4974, 0.2350], [-0.2829, 0.1762, 0.2721], [-0.2120, -0.2616, -0.7177]];

/// A linear map from a latent to a colour: `latent @ weight + bias`, in [-1, 1], for latents as the UNet sees them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Factors {
    /// Red, green and blue of each channel.
    pub weight: Vec<[f32; 3]>,
    /// Red, green and blue of a latent of zeros.
    pub bias: [f32; 3],
    /// Pixels to a latent along each side.
    pub factor: i64,
}

impl Factors {
    /// Those that are known of a model without a look at its weights.
    pub fn known(info: &ModelInfo) -> Option<Self> {
        let is_sds = info.vae.latent_channels == SD.len() as i64 && info.vae.factor() == 8;
        let sd = || is_sds.then(|| Self { weight: SD.into(), bias: [0.0; 3], factor: 8 });
        info.latent_rgb.clone().or_else(sd)
    }

    /// Says what is wrong with them for an autoencoder.
    pub fn check(&self, vae: &Config) -> Result<(), String> {
        let (channels, factor) = (vae.latent_channels, vae.factor());
        if self.factor != factor {
            return Err(format!("factor={} must be the autoencoder's: {factor}", self.factor));
        }
        if self.weight.len() as i64 != channels {
            return Err(format!("weight has {} rows; the model's latents have {channels} channels", self.weight.len()));
        }
        if !self.weight.iter().flatten().chain(&self.bias).all(|number| number.is_finite()) {
            return Err("weight and bias must be finite".into());
        }
        Ok(())
    }

    /// Fits them to an autoencoder, by least squares over what it makes of a picture of soft shapes in all colours. `config`
    /// is its own.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if its pictures are not finite; [`Error::Cancelled`] soon after the token is set.
    pub fn fit(vae: &Vae, config: &Config, device: Device, cancel: &Cancel) -> Result<Self> {
        let (channels, factor) = (config.latent_channels, config.factor());
        let picture = shapes(FIT * factor).to_device(device);
        let latents = vae.encode(&picture, cancel)?.to_kind(Kind::Float) * vae.scaling_factor();
        let how = Decoding { chunk: 1, mode: DecodeMode::Exact, keep: Keep::Device, two_pass: false };
        let decoded = vae.decode(&latents, &how, cancel, &mut |_| {})?.to_kind(Kind::Float);
        let small = decoded.avg_pool2d([factor, factor], [factor, factor], [0, 0], false, true, None::<i64>);
        let rows = |x: &Tensor| x.squeeze_dim(0).flatten(1, 2).tr().to_device(Device::Cpu).to_kind(Kind::Double);
        let (latents, colours) = (rows(&latents), rows(&small));
        let ones = Tensor::ones([latents.size()[0], 1], (Kind::Double, Device::Cpu));
        let known = Tensor::cat(&[latents, ones], 1);
        let product = known.tr().matmul(&known);
        // Channels that say nothing get nothing.
        let ridge = Tensor::eye(channels + 1, (Kind::Double, Device::Cpu)) * product.diag(0).max() * 1e-6;
        let solved = Tensor::linalg_solve(&(product + ridge), &known.tr().matmul(&colours), true);
        let solved = Vec::<f64>::try_from(solved.contiguous().view(-1))?;
        let mut weight: Vec<_> = solved.chunks(3).map(|row| [row[0] as f32, row[1] as f32, row[2] as f32]).collect();
        let bias = weight.pop().unwrap_or_default();
        let fitted = Self { weight, bias, factor };
        fitted.check(config).map_err(|_| Error::NonFinite { stage: "fitting the preview", dtype: "fp32" })?;
        Ok(fitted)
    }

    /// Latents (frames, channels, h, w) -> a picture of w x h pixels for each frame. Numbers that are none are black.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn pictures(&self, latents: &Tensor) -> Result<Vec<Frame>> {
        let (frames, channels, height, width) = latents.size4()?;
        let device = latents.device();
        // From [-1, 1] to bytes in the same product; with the channels before the pixels nothing large is copied.
        let bytes = |number: f32| number * 127.5;
        let weight: Vec<_> = self.weight.as_flattened().iter().copied().map(bytes).collect();
        let bias: Vec<_> = self.bias.iter().map(|&number| bytes(number) + 127.5).collect();
        let weight = Tensor::from_slice(&weight).view([channels, 3]).tr().to_device(device);
        let bias = Tensor::from_slice(&bias).view([1, 3, 1]).to_device(device);
        let mut colours = weight.matmul(&latents.to_kind(Kind::Float).flatten(2, 3)) + bias;
        let colours = colours.nan_to_num_(0.0, 255.0, 0.0).clamp_(0.0, 255.0).round_().to_kind(Kind::Uint8);
        let colours = colours.transpose(1, 2).contiguous().to_device(Device::Cpu);
        let all = Vec::<u8>::try_from(colours.view(-1))?;
        let (width, height) = (width as usize, height as usize);
        let pictures: Vec<_> =
            all.chunks_exact(width * height * 3).map(|data| Frame::new(width, height, 3, data.into())).collect();
        debug_assert_eq!(pictures.len() as i64, frames);
        Ok(pictures)
    }
}

/// Latents along each side of the picture that is fitted to.
const FIT: i64 = 24;

/// A picture (1, 3, side, side) in [-1, 1]: waves of all directions and lengths, the shorter the weaker, and in colour
/// more so than in light, as in photographs.
fn shapes(side: i64) -> Tensor {
    let options = (Kind::Float, Device::Cpu);
    let at = Tensor::arange(side, options) / side as f64 * std::f64::consts::TAU;
    let (x, y) = (at.view([1, side]), at.view([side, 1]));
    // Angles that fall nowhere twice.
    let mut angle = 0.0;
    let mut turn = || {
        angle += 2.399_963;
        angle % std::f64::consts::TAU
    };
    // The shortest are two pixels long.
    let octaves = (side as f64 / 2.0).log2() as i32;
    let mut wave = |strength: f64, falloff: f64| {
        let mut sum = Tensor::zeros([side, side], options);
        for octave in 0..octaves {
            for _ in 0..4 {
                let (direction, phase) = (turn(), turn() * 7.0);
                let cycles = f64::from(1 << octave) * (1.0 + turn() / std::f64::consts::TAU);
                let slope = &x * (cycles * direction.cos()) + &y * (cycles * direction.sin()) + phase;
                sum += slope.sin() * (strength * falloff.powi(octave));
            }
        }
        sum
    };
    let light = wave(0.3, 0.5);
    let colours: Vec<_> = (0..3).map(|_| &light + wave(0.3, 0.2)).collect();
    Tensor::stack(&colours, 0).unsqueeze(0).clamp(-1.0, 1.0)
}
