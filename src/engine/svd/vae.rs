// SPDX-License-Identifier: MPL-2.0
//! The autoencoder: pictures to latents one by one, latents to pictures with an eye on the neighbouring frames.
//!
//! Upstream: `diffusers/models/autoencoders/autoencoder_kl_temporal_decoder.py` and the blocks that it names.

use serde::Deserialize;
use tch::{Kind, Tensor};

use super::layers::{ResStyle, ResnetBlock2D, SpatioTemporalResBlock, to_clips, to_frames, upsample};
use crate::engine::Result;
use crate::engine::nn::{Conv2d, GroupNorm, Linear, TemporalConv, attend};
use crate::engine::weights::Scope;
use crate::engine::worker::Cancel;

/// The spatial norms' eps, in both halves.
const EPS: f64 = 1e-6;
/// What sets the decoder's residual blocks apart.
const DECODER: ResStyle = ResStyle { time: None, eps: EPS, temporal_eps: 1e-5, switched: true };

/// `vae/config.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The channels of each level, from the picture's resolution down.
    pub block_out_channels: Vec<i64>,
    /// Residual blocks in a level of the encoder; the decoder has one more.
    pub layers_per_block: i64,
    /// Channels of a latent.
    pub latent_channels: i64,
    /// What latents are multiplied by for the UNet.
    pub scaling_factor: f64,
    /// Whether the encoder overflows in float16.
    pub force_upcast: bool,
}

impl Default for Config {
    /// What diffusers takes for a value that the file does not have.
    fn default() -> Self {
        Self {
            block_out_channels: vec![64],
            layers_per_block: 1,
            latent_channels: 4,
            scaling_factor: 0.18215,
            force_upcast: true,
        }
    }
}

impl Config {
    /// Says what is not possible about these values.
    pub fn check(&self) -> Result<(), String> {
        if self.block_out_channels.is_empty() || self.block_out_channels.iter().any(|&c| c < 1 || c % 32 != 0) {
            return Err(format!("block_out_channels={:?} must be multiples of 32", self.block_out_channels));
        }
        if self.factor() > 8 {
            // Sizes are multiples of 8.
            return Err(format!("block_out_channels={:?} has more than the 4 levels of SVD", self.block_out_channels));
        }
        if self.layers_per_block < 1 || self.latent_channels < 1 {
            return Err("layers_per_block and latent_channels must be positive".into());
        }
        if !(self.scaling_factor.is_finite() && self.scaling_factor > 0.0) {
            return Err(format!("scaling_factor={} must be positive", self.scaling_factor));
        }
        Ok(())
    }

    /// Pixels to a latent along each side.
    pub fn factor(&self) -> i64 {
        1 << (self.block_out_channels.len() - 1).min(62)
    }
}

/// The autoencoder.
pub struct Vae {
    encoder: Encoder,
    quant_conv: Conv2d,
    decoder: Decoder,
    encoder_kind: Kind,
    decoder_kind: Kind,
    scaling_factor: f64,
}

impl Vae {
    /// The autoencoder of a checked configuration. An encoder that would overflow in half precision is float32.
    pub fn new(scope: Scope, config: &Config) -> Self {
        let decoder_kind = scope.kind();
        let encoder_kind = if config.force_upcast { Kind::Float } else { decoder_kind };
        let upcast = scope.clone().with_kind(encoder_kind);
        let moments = 2 * config.latent_channels;
        Self {
            encoder: Encoder::new(&upcast / "encoder", config),
            quant_conv: Conv2d::new(upcast / "quant_conv", moments, moments, 1),
            decoder: Decoder::new(scope / "decoder", config),
            encoder_kind,
            decoder_kind,
            scaling_factor: config.scaling_factor,
        }
    }

    /// Pictures (n, 3, h, w) in [-1, 1] -> the mode of their latents (n, latent_channels, h / factor, w / factor), not
    /// multiplied by the scaling factor.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::engine::Error::Cancelled) within a layer of the token being set.
    pub fn encode(&self, pictures: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let encoded = self.encoder.forward(&pictures.to_kind(self.encoder_kind), cancel)?;
        Ok(self.quant_conv.forward(&encoded).chunk(2, 1).swap_remove(0))
    }

    /// Scaled latents of neighbouring frames (frames, latent_channels, h, w) -> pictures (frames, 3, h * factor,
    /// w * factor), about [-1, 1]. Frames that are decoded in one call see one another.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::engine::Error::Cancelled) within a layer of the token being set.
    pub fn decode(&self, latents: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        self.decoder.forward(&(latents / self.scaling_factor).to_kind(self.decoder_kind), cancel)
    }
}

struct Encoder {
    conv_in: Conv2d,
    levels: Vec<(Vec<ResnetBlock2D>, Option<Conv2d>)>,
    middle: (ResnetBlock2D, Attention, ResnetBlock2D),
    norm: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(scope: Scope, config: &Config) -> Self {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let levels = channels.iter().enumerate().map(|(level, &outputs)| {
            let scope = &scope / "down_blocks" / level;
            let inputs = channels[level.saturating_sub(1)];
            let block = |i| {
                let inputs = if i == 0 { inputs } else { outputs };
                ResnetBlock2D::new(&scope / "resnets" / i, inputs, outputs, None, EPS)
            };
            let blocks = (0..config.layers_per_block).map(block).collect();
            let down = &scope / "downsamplers" / 0 / "conv";
            (blocks, (level + 1 < channels.len()).then(|| Conv2d::strided(down, outputs, outputs, 3, 2, 0)))
        });
        let levels = levels.collect();
        let middle = &scope / "mid_block";
        let block = |i| ResnetBlock2D::new(&middle / "resnets" / i, last, last, None, EPS);
        Self {
            conv_in: Conv2d::new(&scope / "conv_in", 3, first, 3),
            levels,
            middle: (block(0), Attention::new(&middle / "attentions" / 0, last), block(1)),
            norm: GroupNorm::new(&scope / "conv_norm_out", last, EPS),
            conv_out: Conv2d::new(&scope / "conv_out", last, 2 * config.latent_channels, 3),
        }
    }

    fn forward(&self, x: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let mut x = self.conv_in.forward(x);
        for (blocks, down) in &self.levels {
            for block in blocks {
                cancel.check()?;
                x = block.forward(&x, None);
            }
            if let Some(down) = down {
                // Zeros on the right and below only.
                x = down.forward(&x.constant_pad_nd([0, 1, 0, 1]));
            }
        }
        let (before, attention, after) = &self.middle;
        let x = after.forward(&attention.forward(&before.forward(&x, None)), None);
        Ok(self.conv_out.forward(&self.norm.forward(&x).silu()))
    }
}

struct Decoder {
    conv_in: Conv2d,
    middle: Vec<SpatioTemporalResBlock>,
    attention: Attention,
    levels: Vec<(Vec<SpatioTemporalResBlock>, Option<Conv2d>)>,
    norm: GroupNorm,
    conv_out: Conv2d,
    time_conv_out: TemporalConv,
}

impl Decoder {
    fn new(scope: Scope, config: &Config) -> Self {
        let channels: Vec<_> = config.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let middle = &scope / "mid_block";
        let levels = channels.iter().enumerate().map(|(level, &outputs)| {
            let scope = &scope / "up_blocks" / level;
            let inputs = channels[level.saturating_sub(1)];
            let block = |i| {
                let inputs = if i == 0 { inputs } else { outputs };
                SpatioTemporalResBlock::new(&scope / "resnets" / i, inputs, outputs, DECODER)
            };
            let blocks = (0..=config.layers_per_block).map(block).collect();
            let up = &scope / "upsamplers" / 0 / "conv";
            (blocks, (level + 1 < channels.len()).then(|| Conv2d::new(up, outputs, outputs, 3)))
        });
        let levels = levels.collect();
        Self {
            conv_in: Conv2d::new(&scope / "conv_in", config.latent_channels, first, 3),
            middle: (0..config.layers_per_block)
                .map(|i| SpatioTemporalResBlock::new(&middle / "resnets" / i, first, first, DECODER))
                .collect(),
            attention: Attention::new(&middle / "attentions" / 0, first),
            levels,
            norm: GroupNorm::new(&scope / "conv_norm_out", last, EPS),
            conv_out: Conv2d::new(&scope / "conv_out", last, 3, 3),
            time_conv_out: TemporalConv::new(&scope / "time_conv_out", 3, 3),
        }
    }

    fn forward(&self, x: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let frames = x.size()[0];
        let mut x = self.middle[0].forward(&self.conv_in.forward(x), None, frames);
        // Upstream pairs the second block with the one attention, and so runs neither the attention of a middle with
        // one block nor the third block of a deeper one.
        if let Some(block) = self.middle.get(1) {
            x = block.forward(&self.attention.forward(&x), None, frames);
        }
        for (blocks, up) in &self.levels {
            for block in blocks {
                cancel.check()?;
                x = block.forward(&x, None, frames);
            }
            if let Some(up) = up {
                x = upsample(up, &x, None);
            }
        }
        let x = self.conv_out.forward(&self.norm.forward(&x).silu());
        Ok(to_frames(&self.time_conv_out.forward(&to_clips(&x, frames))))
    }
}

/// Attention among the pixels of a picture, with one head. Upstream: `Attention` with a group norm and a residual.
struct Attention {
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

impl Attention {
    fn new(scope: Scope, channels: i64) -> Self {
        let linear = |name| Linear::new(&scope / name, channels, channels);
        Self {
            norm: GroupNorm::new(&scope / "group_norm", channels, EPS),
            query: linear("to_q"),
            key: linear("to_k"),
            value: linear("to_v"),
            output: linear("to_out.0"),
        }
    }

    /// (n, c, h, w) -> the same shape.
    fn forward(&self, x: &Tensor) -> Tensor {
        let (_, _, h, w) = x.size4().expect("pictures have four dimensions");
        let pixels = self.norm.forward(x).flatten(2, 3).transpose(1, 2);
        let [query, key, value] = [&self.query, &self.key, &self.value].map(|layer| layer.forward(&pixels));
        let attended = self.output.forward(&attend(&query, &key, &value, 1));
        attended.transpose(1, 2).unflatten(2, [h, w]) + x
    }
}
