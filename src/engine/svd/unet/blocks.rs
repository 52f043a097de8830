// SPDX-License-Identifier: MPL-2.0
//! The UNet's blocks, with and without attention.
//!
//! Upstream: `diffusers/models/unets/unet_3d_blocks.py`: `UNetMidBlockSpatioTemporal` and
//! `(CrossAttn)DownBlockSpatioTemporal`, `(CrossAttn)UpBlockSpatioTemporal`.

use tch::Tensor;

use super::Conditions;
use super::config::Level;
use super::transformer::SpatioTemporalTransformer;
use crate::engine::Result;
use crate::engine::nn::Conv2d;
use crate::engine::svd::layers::{ResStyle, SpatioTemporalResBlock, upsample};
use crate::engine::weights::Scope;

/// A residual block and, where the level attends, a transformer behind it.
struct Layer {
    resnet: SpatioTemporalResBlock,
    attention: Option<SpatioTemporalTransformer>,
}

impl Layer {
    /// Layer `i` of the block in `scope`.
    fn new(scope: &Scope, i: i64, inputs: i64, level: &Level, time: i64, eps: f64) -> Self {
        let style = ResStyle { time: Some(time), eps, temporal_eps: eps, switched: false };
        Self {
            resnet: SpatioTemporalResBlock::new(scope / "resnets" / i, inputs, level.channels, style),
            attention: level.attends.then(|| SpatioTemporalTransformer::new(scope / "attentions" / i, level)),
        }
    }

    fn forward(&self, mut x: Tensor, at: Conditions) -> Result<Tensor> {
        at.cancel.check()?;
        // In its place, so that what came in is gone while the transformer runs.
        x = self.resnet.forward(&x, Some(at.time), at.frames);
        match &self.attention {
            Some(attention) => attention.forward(&x, at),
            None => Ok(x),
        }
    }
}

/// A level on the way down. Everything that it computes is handed on to the way up.
pub(super) struct DownBlock {
    layers: Vec<Layer>,
    downsampler: Option<Conv2d>,
}

impl DownBlock {
    pub(super) fn new(scope: Scope, inputs: i64, level: &Level, time: i64, downsamples: bool) -> Self {
        // Upstream's two sorts of block differ in it, whatever they are told.
        let eps = if level.attends { 1e-6 } else { 1e-5 };
        let layer = |i| Layer::new(&scope, i, if i == 0 { inputs } else { level.channels }, level, time, eps);
        let down = &scope / "downsamplers" / 0 / "conv";
        Self {
            layers: (0..level.layers).map(layer).collect(),
            downsampler: downsamples.then(|| Conv2d::strided(down, level.channels, level.channels, 3, 2, 1)),
        }
    }

    pub(super) fn forward(&self, mut x: Tensor, skips: &mut Vec<Tensor>, at: Conditions) -> Result<Tensor> {
        for layer in &self.layers {
            x = layer.forward(x, at)?;
            skips.push(x.shallow_clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(&x);
            skips.push(x.shallow_clone());
        }
        Ok(x)
    }
}

/// The lowest resolution between the two ways: it always attends.
pub(super) struct MidBlock {
    before: Layer,
    after: Layer,
}

impl MidBlock {
    pub(super) fn new(scope: Scope, level: &Level, time: i64) -> Self {
        let layer = |i, attends| Layer::new(&scope, i, level.channels, &Level { attends, ..level.clone() }, time, 1e-5);
        Self { before: layer(0, true), after: layer(1, false) }
    }

    pub(super) fn forward(&self, x: Tensor, at: Conditions) -> Result<Tensor> {
        self.after.forward(self.before.forward(x, at)?, at)
    }
}

/// A level on the way up: each layer sees one of the skips.
pub(super) struct UpBlock {
    layers: Vec<Layer>,
    upsampler: Option<Conv2d>,
}

impl UpBlock {
    /// `inputs` channels come from below, `last_skip` from the skip of the last layer.
    pub(super) fn new(scope: Scope, inputs: i64, last_skip: i64, level: &Level, time: i64, upsamples: bool) -> Self {
        let layer = |i| {
            let hidden = if i == 0 { inputs } else { level.channels };
            let skip = if i == level.layers { last_skip } else { level.channels };
            Layer::new(&scope, i, hidden + skip, level, time, 1e-6)
        };
        let up = &scope / "upsamplers" / 0 / "conv";
        Self {
            layers: (0..=level.layers).map(layer).collect(),
            upsampler: upsamples.then(|| Conv2d::new(up, level.channels, level.channels, 3)),
        }
    }

    pub(super) fn forward(
        &self,
        mut x: Tensor,
        skips: &mut Vec<Tensor>,
        at: Conditions,
        is_odd: bool,
    ) -> Result<Tensor> {
        for layer in &self.layers {
            let skip = skips.pop().expect("there is a skip for every layer");
            // Both are gone before the layer begins.
            x = Tensor::cat(&[x, skip], 1);
            x = layer.forward(x, at)?;
        }
        if let Some(upsampler) = &self.upsampler {
            let next = skips.last().expect("the level above has skips").size();
            x = upsample(upsampler, &x, is_odd.then(|| [next[2], next[3]]));
        }
        Ok(x)
    }
}
