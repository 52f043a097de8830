// SPDX-License-Identifier: MPL-2.0
//! RRDBNet, the network of ESRGAN (Wang et al., 2018, arXiv:1809.00219) and of Real-ESRGAN's large models.
//!
//! It always upscales by 4. The models for x2 and x1 fold pixels into channels first (pixel unshuffle), by 2 and by 4.
//!
//! Upstream: `basicsr/archs/rrdbnet_arch.py`.

use tch::Tensor;

use super::{Shapes, leaky_relu, upsample};
use crate::engine::Result;
use crate::engine::nn::Conv2d;
use crate::engine::weights::Scope;
use crate::engine::worker::Cancel;

/// The slope of every leaky ReLU below 0.
const SLOPE: f64 = 0.2;
/// The weight of what a block adds to its input.
const RESIDUAL: f64 = 0.2;

/// The size of an RRDBNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The output's size over the input's: 4, 2 or 1.
    pub scale: i64,
    /// Channels between the blocks.
    pub num_feat: i64,
    /// Residual-in-residual dense blocks.
    pub num_block: i64,
    /// Channels that each convolution in a dense block adds.
    pub num_grow_ch: i64,
}

impl Config {
    /// The network that these tensors are of; `None` if it is another architecture.
    ///
    /// # Errors
    /// What is wrong, if it is an RRDBNet of a kind that is not known.
    pub fn detect(shapes: &Shapes) -> Result<Option<Self>, String> {
        let (Some([num_feat, inputs, ..]), Some([num_grow_ch, ..])) = (
            shapes.get("conv_first.weight").map(Vec::as_slice),
            shapes.get("body.0.rdb1.conv1.weight").map(Vec::as_slice),
        ) else {
            return Ok(None);
        };
        let scale = match inputs {
            3 => 4,
            12 => 2,
            48 => 1,
            _ => return Err(format!("an RRDBNet with {inputs} input channels: 3 (x4), 12 (x2) and 48 (x1) are known")),
        };
        let has_block = |i: &i64| shapes.contains_key(&format!("body.{i}.rdb1.conv1.weight"));
        let num_block = (0..).take_while(has_block).count() as i64;
        Ok(Some(Self { scale, num_feat: *num_feat, num_block, num_grow_ch: *num_grow_ch }))
    }

    /// The pixels along a side that are folded into channels: the input's sides must be multiples of it.
    pub fn unshuffle(&self) -> i64 {
        4 / self.scale
    }
}

/// Five convolutions, each of which sees the outputs of all before it.
struct DenseBlock {
    convs: [Conv2d; 5],
}

impl DenseBlock {
    fn new(scope: Scope, config: &Config) -> Self {
        let (feat, grow) = (config.num_feat, config.num_grow_ch);
        let conv = |k: i64| {
            Conv2d::new(&scope / format!("conv{k}"), feat + (k - 1) * grow, if k < 5 { grow } else { feat }, 3)
        };
        Self { convs: [1, 2, 3, 4, 5].map(conv) }
    }

    fn forward(&self, x: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let [grown @ .., last] = &self.convs;
        let mut seen = x.shallow_clone();
        for conv in grown {
            cancel.check()?;
            seen = Tensor::cat(&[&seen, &leaky_relu(&conv.forward(&seen), SLOPE)], 1);
        }
        cancel.check()?;
        Ok(last.forward(&seen) * RESIDUAL + x)
    }
}

/// A residual-in-residual dense block.
struct Rrdb {
    rdbs: [DenseBlock; 3],
}

impl Rrdb {
    fn new(scope: Scope, config: &Config) -> Self {
        Self { rdbs: [1, 2, 3].map(|i| DenseBlock::new(&scope / format!("rdb{i}"), config)) }
    }

    fn forward(&self, x: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let mut features = x.shallow_clone();
        for rdb in &self.rdbs {
            features = rdb.forward(&features, cancel)?;
        }
        Ok(features * RESIDUAL + x)
    }
}

/// The network.
pub struct RrdbNet {
    config: Config,
    conv_first: Conv2d,
    body: Vec<Rrdb>,
    conv_body: Conv2d,
    conv_up1: Conv2d,
    conv_up2: Conv2d,
    conv_hr: Conv2d,
    conv_last: Conv2d,
}

impl RrdbNet {
    /// A network of this size.
    pub fn new(scope: Scope, config: Config) -> Self {
        let feat = config.num_feat;
        let conv = |name| Conv2d::new(&scope / name, feat, feat, 3);
        Self {
            config,
            conv_first: Conv2d::new(&scope / "conv_first", 3 * config.unshuffle().pow(2), feat, 3),
            body: (0..config.num_block).map(|i| Rrdb::new(&scope / "body" / i, &config)).collect(),
            conv_body: conv("conv_body"),
            conv_up1: conv("conv_up1"),
            conv_up2: conv("conv_up2"),
            conv_hr: conv("conv_hr"),
            conv_last: Conv2d::new(&scope / "conv_last", feat, 3, 3),
        }
    }

    /// (n, 3, h, w) -> (n, 3, scale * h, scale * w); h and w are multiples of [`Config::unshuffle`]. The token is
    /// looked at between convolutions.
    pub fn forward(&self, x: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let first = self.conv_first.forward(&x.pixel_unshuffle(self.config.unshuffle()));
        let mut features = first.shallow_clone();
        for block in &self.body {
            features = block.forward(&features, cancel)?;
        }
        features = first + self.conv_body.forward(&features);
        for conv in [&self.conv_up1, &self.conv_up2] {
            cancel.check()?;
            features = leaky_relu(&conv.forward(&upsample(&features, 2)), SLOPE);
        }
        cancel.check()?;
        Ok(self.conv_last.forward(&leaky_relu(&self.conv_hr.forward(&features), SLOPE)))
    }
}
