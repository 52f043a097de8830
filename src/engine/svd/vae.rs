// SPDX-License-Identifier: MPL-2.0
//! The autoencoder: pictures to latents one by one, latents to pictures with an eye on the neighbouring frames.
//!
//! Upstream: `diffusers/models/autoencoders/autoencoder_kl_temporal_decoder.py` and the blocks that it names.

use serde::Deserialize;
use tch::{Kind, Tensor};

use super::layers::{ResStyle, ResnetBlock2D, SpatioTemporalResBlock, upsample};
use super::params::DecodeMode;
pub use super::store::Keep;
use super::store::Store;
use crate::engine::Result;
use crate::engine::nn::{Conv2d, GroupNorm, Linear, Moments, Strip, TemporalConv, attend};
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

    /// The decoder's residual blocks, in the order in which they run.
    pub(super) fn shapes(&self) -> Vec<Shape> {
        let channels: Vec<_> = self.block_out_channels.iter().rev().copied().collect();
        let first = channels[0];
        let shape = |before, inputs, outputs, side| Shape { before, inputs, outputs, side };
        let mut shapes = vec![shape(Some(self.latent_channels), first, first, 1)];
        if self.layers_per_block > 1 {
            shapes.push(shape(Some(first), first, first, 1));
        }
        for (level, &outputs) in channels.iter().enumerate() {
            let inputs = channels[level.saturating_sub(1)];
            shapes.push(shape((level > 0).then_some(inputs), inputs, outputs, 1 << level));
            shapes.extend((0..self.layers_per_block).map(|_| shape(None, outputs, outputs, 1 << level)));
        }
        shapes
    }
}

/// A residual block of the decoder.
pub(super) struct Shape {
    /// The channels that go into the layer before it, if there is one.
    pub before: Option<i64>,
    /// The channels that go into it.
    pub inputs: i64,
    /// The channels that come out.
    pub outputs: i64,
    /// Its pixels to a latent along each side.
    pub side: i64,
}

/// Multiplications in a block, for each frame.
struct Cost {
    spatial: f64,
    temporal: f64,
}

impl Shape {
    fn cost(&self, latents: i64, how: &Decoding) -> Cost {
        let (inputs, outputs) = (self.inputs as f64, self.outputs as f64);
        let pixels = (latents * self.side * self.side) as f64;
        let before = self.before.map_or(0.0, |before| before as f64 * inputs);
        let passes = if how.two_pass { 3.0 } else { 2.0 };
        Cost {
            spatial: pixels * 9.0 * (before + inputs * outputs + outputs * outputs),
            temporal: pixels * 3.0 * passes * outputs * outputs,
        }
    }
}

impl Cost {
    fn sum(&self) -> f64 {
        self.spatial + self.temporal
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
    shapes: Vec<Shape>,
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
            shapes: config.shapes(),
        }
    }

    /// What latents are multiplied by for the UNet.
    pub fn scaling_factor(&self) -> f64 {
        self.scaling_factor
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

    /// Scaled latents of a clip (frames, latent_channels, h, w) -> pictures (frames, 3, h * factor, w * factor), about
    /// [-1, 1], in the model's precision. `progress` hears of the share that is done, up to 1, after each piece of
    /// work: some frames in a layer, or a strip of the picture in all frames.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::engine::Error::Cancelled) within a piece of the token being set.
    pub fn decode(
        &self,
        latents: &Tensor,
        how: &Decoding,
        cancel: &Cancel,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Tensor> {
        let (frames, _, h, w) = latents.size4()?;
        let latents = (latents / self.scaling_factor).to_kind(self.decoder_kind);
        let (mut done, all) = (0.0, self.shapes.iter().map(|shape| shape.cost(h * w, how).sum()).sum::<f64>());
        let mut after = |cost: f64| {
            done += cost / (all * frames as f64);
            progress(done.min(1.0));
            cancel.check()
        };
        cancel.check()?;
        let decoded = match how.mode {
            DecodeMode::Exact => self.decoder.forward(&self.shapes, &latents, how, &mut after)?,
            DecodeMode::Reference => {
                let how = &Decoding { keep: Keep::Device, ..*how };
                let clips = latents.split(how.chunk, 0);
                let clips = clips.iter().map(|clip| self.decoder.forward(&self.shapes, clip, how, &mut after));
                Tensor::cat(&clips.collect::<Result<Vec<_>>>()?, 0)
            }
        };
        progress(1.0);
        Ok(decoded)
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

/// How a clip is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decoding {
    /// Frames that are worked on at once, from 1.
    pub chunk: i64,
    /// Whether chunks know of one another.
    pub mode: DecodeMode,
    /// Where the clip is between layers ([`DecodeMode::Exact`] only).
    pub keep: Keep,
    /// Whether to compute the temporal layers' first halves twice rather than to keep them: a third less memory for
    /// a clip in chunks ([`DecodeMode::Exact`] only).
    pub two_pass: bool,
}

/// What comes before a residual block of the decoder.
enum Before {
    Nothing,
    Convolution(Conv2d),
    Attention(Attention),
    Upsampler(Conv2d),
}

/// A residual block of the decoder and what comes before it.
struct Stage {
    before: Before,
    block: SpatioTemporalResBlock,
}

/// The decoder. It works on the whole clip block by block: through the spatial layers a few frames at a time, through
/// the temporal ones a strip of the picture at a time. So chunks of frames change nothing about the pictures, while the
/// reference's chunks don't see their neighbours.
struct Decoder {
    stages: Vec<Stage>,
    norm: GroupNorm,
    conv_out: Conv2d,
    time_conv_out: TemporalConv,
}

impl Decoder {
    fn new(scope: Scope, config: &Config) -> Self {
        let channels: Vec<_> = config.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let middle = &scope / "mid_block";
        let attention = Attention::new(&middle / "attentions" / 0, first);
        let conv_in = Conv2d::new(&scope / "conv_in", config.latent_channels, first, 3);
        let blocks: Vec<_> = (0..config.layers_per_block)
            .map(|i| SpatioTemporalResBlock::new(&middle / "resnets" / i, first, first, DECODER))
            .collect();
        // Upstream pairs the second block with the one attention, and so runs neither the attention of a middle with
        // one block nor the third block of a deeper one.
        let before = [Before::Convolution(conv_in), Before::Attention(attention)];
        let mut stages: Vec<_> =
            before.into_iter().zip(blocks).map(|(before, block)| Stage { before, block }).collect();
        for (level, &outputs) in channels.iter().enumerate() {
            let mut before = match level {
                0 => Before::Nothing,
                _ => {
                    let (scope, inputs) = (&scope / "up_blocks" / (level - 1), channels[level - 1]);
                    Before::Upsampler(Conv2d::new(scope / "upsamplers" / 0 / "conv", inputs, inputs, 3))
                }
            };
            for i in 0..=config.layers_per_block {
                let inputs = if i == 0 { channels[level.saturating_sub(1)] } else { outputs };
                let scope = &scope / "up_blocks" / level / "resnets" / i;
                let block = SpatioTemporalResBlock::new(scope, inputs, outputs, DECODER);
                stages.push(Stage { before: std::mem::replace(&mut before, Before::Nothing), block });
            }
        }
        Self {
            stages,
            norm: GroupNorm::new(&scope / "conv_norm_out", last, EPS),
            conv_out: Conv2d::new(&scope / "conv_out", last, 3, 3),
            time_conv_out: TemporalConv::new(&scope / "time_conv_out", 3, 3),
        }
    }

    /// One clip (frames, latent_channels, h, w) -> (frames, 3, h * factor, w * factor). `after` is called after each
    /// piece of work with its cost, in multiplications; an error of it ends the work.
    fn forward(
        &self,
        shapes: &[Shape],
        latents: &Tensor,
        how: &Decoding,
        after: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Tensor> {
        let (frames, _, mut h, mut w) = latents.size4()?;
        let latents_size = h * w;
        let mut clip = Store::new(frames, how.chunk, how.keep, latents.device());
        let spans = clip.spans();
        for (i, span) in spans.iter().enumerate() {
            clip.put(i, latents.narrow(0, span.start, span.end - span.start).flatten(2, 3));
        }
        for (Stage { before, block }, shape) in self.stages.iter().zip(shapes) {
            let size = [h, w];
            if let Before::Upsampler(_) = before {
                (h, w) = (2 * h, 2 * w);
            }
            let cost = shape.cost(latents_size, how);
            let mut moments = Moments::default();
            for (i, span) in spans.iter().enumerate() {
                let x = clip.piece(i).unflatten(2, size);
                let x = match before {
                    Before::Nothing => x,
                    Before::Convolution(conv) => conv.forward(&x),
                    Before::Attention(attention) => attention.forward(&x),
                    Before::Upsampler(conv) => upsample(conv, &x, None),
                };
                let x = block.spatial(&x).contiguous().flatten(2, 3);
                moments.gather(&x);
                clip.put(i, x);
                after(cost.spatial * (span.end - span.start) as f64)?;
            }
            block.temporal(&mut clip, &moments, None, how.two_pass, |share| {
                after(cost.temporal * frames as f64 * share)
            })?;
        }
        let pictures = Strip::new(frames, 3, h * w, (latents.kind(), latents.device()));
        for (i, span) in spans.iter().enumerate() {
            let x = self.norm.forward(&clip.piece(i).unflatten(2, [h, w])).silu_();
            let piece = self.conv_out.forward(&x).flatten(2, 3);
            pictures.frames().narrow(0, span.start, span.end - span.start).copy_(&piece);
            after(0.0)?;
        }
        drop(clip);
        let smoothed = Strip::like(&pictures.frames());
        self.time_conv_out.forward(&pictures, None, &smoothed);
        Ok(smoothed.frames().unflatten(2, [h, w]))
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
