// SPDX-License-Identifier: MPL-2.0
//! RRDBNet, the network of ESRGAN (Wang et al., 2018, arXiv:1809.00219) and of Real-ESRGAN's large models.
//!
//! It doubles the picture's sides a number of times: twice in all of Real-ESRGAN's models, so that those for x2 and x1
//! first fold pixels into channels (pixel unshuffle), by 2 and by 4. ESRGAN's own code and its community also have
//! models for x1, x2, x8 and x16 with fewer or more doublings, and ESRGAN+ (Rakotonirina and Rasoanaivo, 2020,
//! arXiv:2001.08073) adds two shortcuts to its dense blocks.
//!
//! Upstream: `basicsr/archs/rrdbnet_arch.py`; for other numbers of doublings and ESRGAN+, spandrel's
//! `architectures/ESRGAN`.

use tch::Tensor;

use super::{Shapes, upsample};
use crate::engine::Result;
use crate::engine::nn::{Conv2d, leaky_relu};
use crate::engine::weights::Scope;
use crate::engine::worker::Cancel;

/// The slope of every leaky ReLU below 0.
const SLOPE: f64 = 0.2;
/// The weight of what a block adds to its input.
const RESIDUAL: f64 = 0.2;

/// The most doublings.
const MAX_DOUBLINGS: i64 = 6;

/// The size of an RRDBNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The pixels along a side that are folded into channels: the input's sides must be multiples of it.
    pub unshuffle: i64,
    /// How many times the sides are doubled behind the blocks.
    pub doublings: i64,
    /// Channels between the blocks.
    pub num_feat: i64,
    /// Residual-in-residual dense blocks.
    pub num_block: i64,
    /// Channels that each convolution in a dense block adds.
    pub num_grow_ch: i64,
    /// Whether the dense blocks have the shortcuts of ESRGAN+.
    pub plus: bool,
}

impl Config {
    /// The network that these tensors are of; `None` if it is another architecture.
    ///
    /// # Errors
    /// What is wrong, if it is an RRDBNet of a kind that is not known.
    pub fn detect(shapes: &Shapes) -> Result<Option<Self>, String> {
        let shape = |name: &str| shapes.get(name).map(Vec::as_slice);
        let (Some([num_feat, inputs, ..]), Some([num_grow_ch, ..])) =
            (shape("conv_first.weight"), shape("body.0.rdb1.conv1.weight"))
        else {
            return Ok(None);
        };
        let Some([outputs, ..]) = shape("conv_last.weight") else {
            return Err("an RRDBNet without its last layer (conv_last)".into());
        };
        if *outputs != 3 {
            return Err(format!("an RRDBNet with {outputs} output channels: 3, red, green and blue, are known"));
        }
        let unshuffle = match inputs {
            3 => 1,
            12 => 2,
            48 => 4,
            _ => {
                let known = "3, 12 (pixels folded by 2) and 48 (by 4) are known";
                return Err(format!("an RRDBNet with {inputs} input channels: {known}"));
            }
        };
        let count = |name: &dyn Fn(i64) -> String, first: i64| {
            (first..).take_while(|&i| shapes.contains_key(&name(i))).count() as i64
        };
        let num_block = count(&|i| format!("body.{i}.rdb1.conv1.weight"), 0);
        let doublings = count(&|i| format!("conv_up{i}.weight"), 1);
        if doublings > MAX_DOUBLINGS || 1 << doublings < unshuffle {
            return Err(format!(
                "an RRDBNet that folds pixels by {unshuffle} and doubles the sides {doublings} times: no more than \
                 {MAX_DOUBLINGS} times, and no output smaller than the input are known"
            ));
        }
        let plus = shapes.contains_key("body.0.rdb1.conv1x1.weight");
        Ok(Some(Self { unshuffle, doublings, num_feat: *num_feat, num_block, num_grow_ch: *num_grow_ch, plus }))
    }

    /// The output's size over the input's.
    pub fn scale(&self) -> i64 {
        (1 << self.doublings) / self.unshuffle
    }
}

/// Five convolutions, each of which sees the outputs of all before it.
struct DenseBlock {
    convs: [Conv2d; 5],
    /// ESRGAN+'s way around the first convolution, which has no bias.
    shortcut: Option<Tensor>,
}

impl DenseBlock {
    fn new(scope: Scope, config: &Config) -> Self {
        let (feat, grow) = (config.num_feat, config.num_grow_ch);
        let conv = |k: i64| {
            Conv2d::new(&scope / format!("conv{k}"), feat + (k - 1) * grow, if k < 5 { grow } else { feat }, 3)
        };
        let shortcut = config.plus.then(|| (&scope / "conv1x1").get("weight", &[grow, feat, 1, 1]));
        Self { convs: [1, 2, 3, 4, 5].map(conv), shortcut }
    }

    fn forward(&self, x: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let [grown @ .., last] = &self.convs;
        let mut seen = x.shallow_clone();
        let mut around =
            self.shortcut.as_ref().map(|weight| x.conv2d::<Tensor>(weight, None, [1; 2], [0; 2], [1; 2], 1));
        for (i, conv) in grown.iter().enumerate() {
            cancel.check()?;
            let mut more = leaky_relu(conv.forward(&seen), SLOPE);
            // The second and the fourth.
            if let Some(around) = around.as_mut().filter(|_| i % 2 == 1) {
                more += &*around;
                *around = more.shallow_clone();
            }
            seen = Tensor::cat(&[&seen, &more], 1);
        }
        cancel.check()?;
        Ok(last.forward(&seen).g_mul_scalar_(RESIDUAL).g_add_(x))
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
        Ok(features.g_mul_scalar_(RESIDUAL).g_add_(x))
    }
}

/// The network.
pub struct RrdbNet {
    config: Config,
    conv_first: Conv2d,
    body: Vec<Rrdb>,
    conv_body: Conv2d,
    /// One for each doubling.
    conv_up: Vec<Conv2d>,
    conv_hr: Conv2d,
    conv_last: Conv2d,
}

impl RrdbNet {
    /// A network of this size.
    pub fn new(scope: Scope, config: Config) -> Self {
        let feat = config.num_feat;
        let conv = |name: &str| Conv2d::new(&scope / name, feat, feat, 3);
        Self {
            config,
            conv_first: Conv2d::new(&scope / "conv_first", 3 * config.unshuffle.pow(2), feat, 3),
            body: (0..config.num_block).map(|i| Rrdb::new(&scope / "body" / i, &config)).collect(),
            conv_body: conv("conv_body"),
            conv_up: (1..=config.doublings).map(|i| conv(&format!("conv_up{i}"))).collect(),
            conv_hr: conv("conv_hr"),
            conv_last: Conv2d::new(&scope / "conv_last", feat, 3, 3),
        }
    }

    /// (n, 3, h, w) -> (n, 3, scale * h, scale * w); h and w are multiples of `unshuffle`. The token is
    /// looked at between convolutions.
    pub fn forward(&self, x: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let first = self.conv_first.forward(&x.pixel_unshuffle(self.config.unshuffle));
        let mut features = first.shallow_clone();
        for block in &self.body {
            features = block.forward(&features, cancel)?;
        }
        features = self.conv_body.forward(&features).g_add_(&first);
        drop(first);
        // Here the most is in memory: what is done with goes before the next is made.
        for conv in &self.conv_up {
            cancel.check()?;
            features = leaky_relu(conv.forward(&upsample(&features, 2)), SLOPE);
        }
        cancel.check()?;
        features = leaky_relu(self.conv_hr.forward(&features), SLOPE);
        // Colour by colour, as what follows is fastest.
        Ok(self.conv_last.forward(&features).contiguous())
    }
}
