// SPDX-License-Identifier: MPL-2.0
//! Which network a file of weights holds, and the way from the one to the other.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::{rrdbnet, srvgg};
use crate::engine::pth::Checkpoint;
use crate::engine::weights::{Scope, Weights};
use crate::engine::worker::Cancel;
use crate::engine::{Error, Result};

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
        if let Some(config) = rrdbnet::Config::detect(shapes)? {
            return Ok(Self::RrdbNet(config));
        }
        if let Some(config) = srvgg::Config::detect(shapes)? {
            return Ok(Self::SrvggNetCompact(config));
        }
        let found = shapes.iter().take(4).map(|(name, shape)| format!("{name} {shape:?}"));
        let found = found.collect::<Vec<_>>().join(", ");
        Err(format!(
            "neither an RRDBNet (conv_first, body.0.rdb1.conv1, …) nor an SRVGGNetCompact (body.0, body.2, …); \
             its first of {} tensors are {found}",
            shapes.len()
        ))
    }

    /// The network's output size over its input size.
    pub fn scale(&self) -> i64 {
        match self {
            Self::RrdbNet(config) => config.scale,
            Self::SrvggNetCompact(config) => config.scale,
        }
    }

    /// How far from a pixel, in pixels of the input, what is there still matters for 8 bits.
    pub fn reach(&self) -> i64 {
        match self {
            // The receptive field, or as much of it as mattered in photographs (`benches/reach.rs`).
            Self::RrdbNet(config) => (15 * config.num_block + 5).min(48) * config.unshuffle(),
            // The receptive field.
            Self::SrvggNetCompact(config) => config.num_conv + 2,
        }
    }

    /// Numbers that are in memory at once, at most, for each pixel of the input.
    pub fn values_per_pixel(&self) -> i64 {
        match self {
            Self::RrdbNet(config) => config.num_feat * 16 * 3 / config.unshuffle().pow(2),
            Self::SrvggNetCompact(config) => config.num_feat * 3 + 9 * config.scale * config.scale,
        }
    }

    /// The sides of the network's input must be multiples of this.
    pub fn multiple(&self) -> i64 {
        match self {
            Self::RrdbNet(config) => config.unshuffle(),
            Self::SrvggNetCompact(_) => 1,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::RrdbNet(config) => {
                write!(f, "RRDBNet x{}, {} blocks of {} features", config.scale, config.num_block, config.num_feat)
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

/// Reads from a file (`.safetensors` or `.pth`) which network it holds. The weights themselves are not read.
///
/// # Errors
/// [`Error::Io`] and [`Error::Model`] if the file can't be read, is broken, or holds another network.
pub fn inspect(path: &Path) -> Result<Architecture> {
    let shapes: Shapes = if is_checkpoint(path)? {
        let checkpoint = Checkpoint::open(path)?;
        checkpoint.shapes().map(|(name, shape)| (current_name(name), shape.to_vec())).collect()
    } else {
        let weights = Weights::open(&[path.into()], Device::Cpu, Kind::Float, &Cancel::default())?;
        weights.shapes().map(|(name, shape)| (current_name(name), shape)).collect()
    };
    Architecture::detect(&shapes).map_err(|reason| Error::model(path, reason))
}

/// Opens the weights in a file (`.safetensors` or `.pth`) under the names that the networks here use, and tells which
/// network they are of. `cancel` ends the loading between two tensors.
///
/// # Errors
/// As [`inspect`].
pub fn open(path: &Path, device: Device, kind: Kind, cancel: &Cancel) -> Result<(Weights, Architecture)> {
    let weights = if is_checkpoint(path)? {
        Weights::from_tensors(path, Checkpoint::open(path)?.tensors()?, device, kind)
    } else {
        Weights::open(&[path.into()], device, kind, cancel)?
    };
    let weights = weights.renamed(current_name);
    let shapes: Shapes = weights.shapes().map(|(name, shape)| (name.into(), shape)).collect();
    let architecture = Architecture::detect(&shapes).map_err(|reason| Error::model(path, reason))?;
    Ok((weights, architecture))
}

/// Whether a file is to be read as a PyTorch checkpoint: because of its content, or, to refuse it, because of its name.
fn is_checkpoint(path: &Path) -> Result<bool> {
    let named = path.extension().is_some_and(|extension| extension == "pth" || extension == "pt");
    Ok(Checkpoint::recognises(path)? || named)
}

/// The name that basicsr's RRDBNet has for a tensor of ESRGAN's own code, first (`model.1.sub.0.RDB1.conv1.0.weight`)
/// or second (`RRDB_trunk.0.RDB1.conv1.weight`). Other names stay as they are.
fn current_name(name: &str) -> String {
    let parts: Vec<_> = name.split('.').collect();
    match parts[..] {
        ["model", layer, role] => {
            let layer = match layer {
                "0" => "conv_first",
                "3" => "conv_up1",
                "6" => "conv_up2",
                "8" => "conv_hr",
                "10" => "conv_last",
                _ => return name.into(),
            };
            format!("{layer}.{role}")
        }
        ["model", "1", "sub", _, role @ ("weight" | "bias")] => format!("conv_body.{role}"),
        ["model", "1", "sub", block, rdb, conv, "0", role] | ["RRDB_trunk", block, rdb, conv, role] => {
            format!("body.{block}.{}.{conv}.{role}", rdb.to_lowercase())
        }
        ["trunk_conv", role] => format!("conv_body.{role}"),
        ["upconv1", role] => format!("conv_up1.{role}"),
        ["upconv2", role] => format!("conv_up2.{role}"),
        ["HRconv", role] => format!("conv_hr.{role}"),
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(shapes: &[(&str, &[i64])]) -> Result<Architecture, String> {
        Architecture::detect(&shapes.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect())
    }

    #[test]
    fn architectures_are_read_off_the_tensors() {
        let rrdb = |inputs| {
            detect(&[
                ("conv_first.weight", &[64, inputs, 3, 3]),
                ("body.0.rdb1.conv1.weight", &[32, 64, 3, 3]),
                ("body.1.rdb1.conv1.weight", &[32, 64, 3, 3]),
            ])
        };
        for (inputs, scale) in [(3, 4), (12, 2), (48, 1)] {
            let config = rrdbnet::Config { scale, num_feat: 64, num_block: 2, num_grow_ch: 32 };
            assert_eq!(rrdb(inputs).unwrap(), Architecture::RrdbNet(config));
            assert_eq!(rrdb(inputs).unwrap().multiple() * scale, 4);
        }
        assert!(rrdb(4).unwrap_err().contains("4 input channels"));
        let plain = detect(&[("body.0.weight", &[16, 3, 3, 3]), ("body.4.weight", &[27, 16, 3, 3])]).unwrap();
        let config = srvgg::Config { scale: 3, num_feat: 16, num_conv: 1, activation: srvgg::Activation::LeakyRelu };
        assert_eq!(plain, Architecture::SrvggNetCompact(config));
    }

    #[test]
    fn another_network_is_named_by_its_tensors() {
        let message = detect(&[("layers.0.norm.weight", &[180])]).unwrap_err();
        assert!(message.contains("RRDBNet") && message.contains("layers.0.norm.weight [180]"), "{message}");
        let message = detect(&[("body.0.weight", &[16, 3, 3, 3]), ("body.4.weight", &[14, 16, 3, 3])]).unwrap_err();
        assert!(message.contains("body.4 with 14 output channels"), "{message}");
    }

    #[test]
    fn old_names_become_current_ones() {
        for (old, new) in [
            ("model.0.weight", "conv_first.weight"),
            ("model.1.sub.22.RDB3.conv5.0.bias", "body.22.rdb3.conv5.bias"),
            ("model.1.sub.23.bias", "conv_body.bias"),
            ("model.10.weight", "conv_last.weight"),
            ("RRDB_trunk.2.RDB1.conv1.weight", "body.2.rdb1.conv1.weight"),
            ("HRconv.bias", "conv_hr.bias"),
            ("body.0.weight", "body.0.weight"),
            ("model.7.weight", "model.7.weight"),
        ] {
            assert_eq!(current_name(old), new);
        }
    }
}
