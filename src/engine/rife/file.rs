// SPDX-License-Identifier: MPL-2.0
//! The file that a network is in, and how it is opened.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Kind};

use super::{Config, others};
use crate::engine::pth::Checkpoint;
use crate::engine::weights::{Part, Weights};
use crate::engine::worker::Cancel;
use crate::engine::{Error, Result};

/// The names and shapes of a network's tensors.
pub type Shapes = BTreeMap<String, Vec<i64>>;

/// Reads from a file (`.safetensors`, or Practical-RIFE's `flownet.pkl`) which network it holds. The weights themselves
/// are not read.
///
/// # Errors
/// [`Error::Io`] and [`Error::Model`] if the file can't be read, is broken, or holds another network.
pub fn inspect(path: &Path) -> Result<Config> {
    if is_checkpoint(path)? {
        let checkpoint = Checkpoint::open(path)?;
        let named = |(name, shape): (&str, &[i64])| Some((current(name)?.to_owned(), shape.to_vec()));
        return detect(path, &checkpoint.shapes().filter_map(named).collect());
    }
    Ok(open(path, Device::Cpu, Kind::Float, &Cancel::default())?.1)
}

/// Opens the weights in a file, and tells which network they are of. `cancel` ends the loading between two tensors.
///
/// # Errors
/// As [`inspect`].
pub fn open(path: &Path, device: Device, kind: Kind, cancel: &Cancel) -> Result<(Weights, Config)> {
    let weights = if is_checkpoint(path)? {
        Weights::from_tensors(path, Checkpoint::open(path)?.tensors()?, device, kind)
    } else {
        Weights::open(&[path.into()], device, kind, cancel)?
    };
    let weights = weights.rearranged(|name| current(name).map(|name| (name.into(), Part::Whole)).into_iter().collect());
    let config = detect(path, &weights.shapes().map(|(name, shape)| (name.into(), shape)).collect())?;
    Ok((weights, config))
}

/// The name of a tensor without what training puts before it; `None` for what only training needs.
fn current(name: &str) -> Option<&str> {
    let name = name.strip_prefix("module.").unwrap_or(name);
    let part = name.split('.').next().unwrap_or(name);
    (!["teacher", "caltime"].contains(&part)).then_some(name)
}

fn detect(path: &Path, shapes: &Shapes) -> Result<Config> {
    Config::detect(shapes).ok_or_else(|| Error::model(path, others::named(shapes)))
}

/// Whether a file is to be read as a PyTorch checkpoint: because of its content, or, to refuse it, because of its name.
fn is_checkpoint(path: &Path) -> Result<bool> {
    let named = path.extension().is_some_and(|extension| ["pkl", "pth", "pt"].iter().any(|known| extension == *known));
    Ok(Checkpoint::recognises(path)? || named)
}
