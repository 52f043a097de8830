// SPDX-License-Identifier: MPL-2.0
//! Which network a file's tensors are of, and the network itself.

use std::collections::BTreeMap;
use std::fmt;

use tch::Tensor;

use super::{others, rrdbnet, srvgg};
use crate::engine::Result;
use crate::engine::weights::Scope;
use crate::engine::worker::Cancel;

/// The names and shapes of a network's tensors.
pub type Shapes = BTreeMap<String, Vec<i64>>;

/// The networks that are known, with their sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// ESRGAN's network.
    RrdbNet(rrdbnet::Config),
    /// The compact network.
    SrvggNetCompact(srvgg::Config),
}

impl Architecture {
    /// Reads the architecture off a network's tensors.
    ///
    /// # Errors
    /// What was found instead.
    pub fn detect(shapes: &Shapes) -> Result<Self, String> {
        // First, because some of them have all that an RRDBNet has.
        if let Some(name) = others::named(shapes) {
            return Err(name);
        }
        if let Some(config) = rrdbnet::Config::detect(shapes)? {
            return Ok(Self::RrdbNet(config));
        }
        if let Some(config) = srvgg::Config::detect(shapes)? {
            return Ok(Self::SrvggNetCompact(config));
        }
        Err(others::unknown(shapes))
    }

    /// The network's output size over its input size.
    pub fn scale(&self) -> i64 {
        match self {
            Self::RrdbNet(config) => config.scale(),
            Self::SrvggNetCompact(config) => config.scale,
        }
    }

    /// How far from a pixel, in pixels of the input, what is there still matters for 8 bits.
    pub fn reach(&self) -> i64 {
        match self {
            // The receptive field, or as much of it as mattered in photographs (`benches/reach.rs`).
            Self::RrdbNet(config) => (15 * config.num_block + 5).min(48) * config.unshuffle,
            // The receptive field.
            Self::SrvggNetCompact(config) => config.num_conv + 2,
        }
    }

    /// Numbers that are in memory at once, at most, for each pixel of the input.
    pub fn values_per_pixel(&self) -> i64 {
        match self {
            Self::RrdbNet(config) => {
                let rrdbnet::Config { num_feat: feat, num_grow_ch: grow, doublings, unshuffle, .. } = *config;
                // At the last doubling, or in the last convolution of a dense block.
                let doubled = feat * 4i64.pow(doublings as u32) * 9 / 4;
                (doubled + feat).max(6 * feat + 8 * grow) / unshuffle.pow(2)
            }
            Self::SrvggNetCompact(config) => 2 * config.num_feat + 3 * config.scale.pow(2),
        }
    }

    /// The sides of the network's input must be multiples of this.
    pub fn multiple(&self) -> i64 {
        match self {
            Self::RrdbNet(config) => config.unshuffle,
            Self::SrvggNetCompact(_) => 1,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::RrdbNet(config) => {
                let (scale, plus) = (config.scale(), if config.plus { " (ESRGAN+)" } else { "" });
                write!(f, "RRDBNet{plus} x{scale}, {} blocks of {} features", config.num_block, config.num_feat)
            }
            Self::SrvggNetCompact(config) => {
                write!(
                    f,
                    "SRVGGNetCompact x{}, {} layers of {} features",
                    config.scale, config.num_conv, config.num_feat
                )
            }
        }
    }
}

/// A network of either architecture.
pub enum Network {
    /// ESRGAN's network.
    RrdbNet(rrdbnet::RrdbNet),
    /// The compact network.
    SrvggNetCompact(srvgg::SrvggNetCompact),
}

impl Network {
    /// A network of this architecture.
    pub fn new(scope: Scope, architecture: Architecture) -> Self {
        match architecture {
            Architecture::RrdbNet(config) => Self::RrdbNet(rrdbnet::RrdbNet::new(scope, config)),
            Architecture::SrvggNetCompact(config) => Self::SrvggNetCompact(srvgg::SrvggNetCompact::new(scope, config)),
        }
    }

    /// (n, 3, h, w) -> (n, 3, scale * h, scale * w), for values in [0, 1]; what comes out is not clamped.
    ///
    /// # Errors
    /// [`Error::Cancelled`] soon after the token is set.
    pub fn forward(&self, x: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        match self {
            Self::RrdbNet(network) => network.forward(x, cancel),
            Self::SrvggNetCompact(network) => network.forward(x, cancel),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(shapes: &[(&str, &[i64])]) -> Result<Architecture, String> {
        Architecture::detect(&shapes.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect())
    }

    /// What is found in an RRDBNet of two blocks with so many channels and doublings.
    fn rrdb(inputs: i64, doublings: i64, outputs: i64) -> Result<Architecture, String> {
        let mut shapes: Shapes = [
            ("conv_first.weight", vec![64, inputs, 3, 3]),
            ("body.0.rdb1.conv1.weight", vec![32, 64, 3, 3]),
            ("body.1.rdb1.conv1.weight", vec![32, 64, 3, 3]),
            ("conv_last.weight", vec![outputs, 64, 3, 3]),
        ]
        .map(|(name, shape)| (name.to_string(), shape))
        .into();
        shapes.extend((1..=doublings).map(|i| (format!("conv_up{i}.weight"), vec![64, 64, 3, 3])));
        Architecture::detect(&shapes)
    }

    #[test]
    fn architectures_are_read_off_the_tensors() {
        for (inputs, unshuffle, doublings, scale) in [
            (3, 1, 2, 4),
            (12, 2, 2, 2),
            (48, 4, 2, 1),
            (3, 1, 0, 1),
            (3, 1, 1, 2),
            (3, 1, 3, 8),
            (3, 1, 4, 16),
            (12, 2, 3, 4),
        ] {
            let config =
                rrdbnet::Config { unshuffle, doublings, num_feat: 64, num_block: 2, num_grow_ch: 32, plus: false };
            let found = rrdb(inputs, doublings, 3).unwrap();
            assert_eq!(found, Architecture::RrdbNet(config));
            assert_eq!((found.scale(), found.multiple()), (scale, unshuffle));
        }
        let plain = detect(&[("body.0.weight", &[16, 3, 3, 3]), ("body.4.weight", &[27, 16, 3, 3])]).unwrap();
        let config = srvgg::Config { scale: 3, num_feat: 16, num_conv: 1, activation: srvgg::Activation::LeakyRelu };
        assert_eq!(plain, Architecture::SrvggNetCompact(config));
    }

    #[test]
    fn the_numbers_of_an_unknown_kind_are_told() {
        for (inputs, doublings, outputs, part) in [
            (4, 2, 3, "4 input channels"),
            (1, 2, 1, "1 output channels"),
            (48, 1, 3, "folds pixels by 4 and doubles the sides 1 times"),
            (3, 99, 3, "doubles the sides 99 times"),
        ] {
            let message = rrdb(inputs, doublings, outputs).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
        let message = detect(&[("body.0.weight", &[16, 3, 3, 3]), ("body.4.weight", &[14, 16, 3, 3])]).unwrap_err();
        assert!(message.contains("body.4 with 14 output channels"), "{message}");
        let message = detect(&[("layers.0.norm.weight", &[180])]).unwrap_err();
        assert!(message.contains("RRDBNet") && message.contains("layers.0.norm.weight [180]"), "{message}");
    }
}
