// SPDX-License-Identifier: MPL-2.0
//! SRVGGNetCompact, the small network of Real-ESRGAN's models for video and anime: a row of convolutions at the
//! picture's own size. What it computes is added to the picture, enlarged by repeating pixels.
//!
//! Upstream: `realesrgan/archs/srvgg_arch.py`.

use tch::Tensor;

use super::Shapes;
use crate::engine::Result;
use crate::engine::nn::{Conv2d, leaky_relu};
use crate::engine::weights::Scope;
use crate::engine::worker::Cancel;

/// What stands between two convolutions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// A slope below 0 for each channel, learned. All published models have it.
    Prelu,
    /// The slope 0.1 below 0. It has no weights, so it can't be told from a ReLU; weights without slopes are taken
    /// to be of this one.
    LeakyRelu,
    /// 0 below 0. Never detected: see [`Activation::LeakyRelu`].
    Relu,
}

/// The size of an SRVGGNetCompact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The output's size over the input's.
    pub scale: i64,
    /// Channels between the convolutions.
    pub num_feat: i64,
    /// Convolutions between the first and the last.
    pub num_conv: i64,
    /// What stands between them.
    pub activation: Activation,
}

impl Config {
    /// The network that these tensors are of; `None` if it is another architecture.
    ///
    /// # Errors
    /// What is wrong, if it is an SRVGGNetCompact of a kind that is not known.
    pub fn detect(shapes: &Shapes) -> Result<Option<Self>, String> {
        let Some([num_feat, 3, 3, 3]) = shapes.get("body.0.weight").map(Vec::as_slice) else { return Ok(None) };
        let index = |name: &str| name.strip_prefix("body.")?.strip_suffix(".weight")?.parse::<i64>().ok();
        let last = shapes.keys().filter_map(|name| index(name)).max().unwrap_or(0);
        let Some([outputs, _, 3, 3]) = shapes.get(&format!("body.{last}.weight")).map(Vec::as_slice) else {
            return Ok(None);
        };
        let scale = (outputs / 3).isqrt();
        if last < 2 || last % 2 != 0 || scale == 0 || scale * scale * 3 != *outputs {
            return Err(format!(
                "an SRVGGNetCompact whose last layer is body.{last} with {outputs} output channels: an even number \
                 from 2 and three times a square number are known"
            ));
        }
        let activation = if shapes.contains_key("body.1.weight") { Activation::Prelu } else { Activation::LeakyRelu };
        Ok(Some(Self { scale, num_feat: *num_feat, num_conv: last / 2 - 1, activation }))
    }
}

/// A convolution and the activation behind it.
struct Layer {
    conv: Conv2d,
    slopes: Option<Tensor>,
}

/// The network.
pub struct SrvggNetCompact {
    config: Config,
    body: Vec<Layer>,
    last: Conv2d,
}

impl SrvggNetCompact {
    /// A network of this size.
    pub fn new(scope: Scope, config: Config) -> Self {
        let Config { scale, num_feat, num_conv, activation } = config;
        let body = &scope / "body";
        let layer = |i: i64| Layer {
            conv: Conv2d::new(&body / (2 * i), if i == 0 { 3 } else { num_feat }, num_feat, 3),
            slopes: (activation == Activation::Prelu).then(|| (&body / (2 * i + 1)).get("weight", &[num_feat])),
        };
        Self {
            config,
            body: (0..=num_conv).map(layer).collect(),
            last: Conv2d::new(&body / (2 * num_conv + 2), num_feat, 3 * scale * scale, 3),
        }
    }

    /// (n, 3, h, w) -> (n, 3, scale * h, scale * w). The token is looked at between convolutions.
    pub fn forward(&self, x: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let mut features = x.shallow_clone();
        for Layer { conv, slopes } in &self.body {
            cancel.check()?;
            features = conv.forward(&features);
            features = match (slopes, self.config.activation) {
                (Some(slopes), _) => features.prelu(slopes),
                (None, Activation::Relu) => features.relu_(),
                (None, _) => leaky_relu(features, 0.1),
            };
        }
        let (n, _, height, width) = x.size4()?;
        let scale = self.config.scale;
        // A pixel shuffle whose copy comes last: the picture is added before, where it need not be enlarged.
        let mut pixels = self.last.forward(&features).view([n, 3, scale, scale, height, width]);
        pixels += x.view([n, 3, 1, 1, height, width]);
        Ok(pixels.permute([0, 1, 4, 2, 5, 3]).reshape([n, 3, scale * height, scale * width]))
    }
}
