// SPDX-License-Identifier: MPL-2.0
//! A loaded model: its network, and what is known of how it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::ifnet::{IfNet, Motion};
use super::open;
use super::warp::Positions;
use super::{Config, Time};
use crate::engine::cache::{Cache, Key};
use crate::engine::device::kind_name;
use crate::engine::stream::Lanes;
use crate::engine::worker::{Cancel, Worker};
use crate::engine::{Error, Result, memory};

/// A loaded model.
pub struct Model {
    path: PathBuf,
    config: Config,
    network: IfNet,
    pub(super) device: Device,
    kind: Kind,
    /// The same network in float32, once it was needed.
    exact: Option<IfNet>,
    /// Those of the size that was asked for last.
    positions: Option<Positions>,
    pub(super) lanes: Lanes,
    /// Whether each frame is looked at when it is computed. To ask a GPU, one must wait for it.
    is_checked: bool,
}

impl Model {
    /// Loads the model in a file (`.safetensors`, or Practical-RIFE's `flownet.pkl`). `cancel` ends the loading between
    /// two tensors.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Model`] if the file can't be read, is broken, or holds another network.
    pub fn load(path: &Path, device: Device, kind: Kind, cancel: &Cancel) -> Result<Self> {
        memory::install();
        let (network, config) = load(path, device, kind, cancel)?;
        Ok(Self {
            path: path.into(),
            config,
            network,
            device,
            kind,
            exact: None,
            positions: None,
            lanes: Lanes::new(device),
            is_checked: device == Device::Cpu,
        })
    }

    /// The worker that owns the model in the file `path` on `device` in `kind`; loads it in the background, if nobody
    /// has.
    pub fn shared(path: &Path, device: Device, kind: Kind) -> Arc<Worker<Self>> {
        static CACHE: Cache<Model> = Cache::new();
        let path = path.to_path_buf();
        CACHE.get(Key::new(&path, device, kind), || {
            Worker::spawn("rife", move |loading| Self::load(&path, device, kind, &loading.cancel))
        })
    }

    /// The network that it is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Looks at each frame from now on, and does in float32 again what is not finite.
    pub fn check_frames(&mut self) {
        self.is_checked = true;
    }

    /// Looks at frames when they are taken, as on a GPU.
    #[cfg(test)]
    pub(super) fn trust_frames(&mut self) {
        self.is_checked = false;
    }

    /// The precision that it computes in: fp32, fp16 or bf16.
    pub(super) fn dtype(&self) -> &'static str {
        kind_name(self.kind)
    }

    /// The features of a picture (1, 3, h, w), float32.
    pub(super) fn features(&self, picture: &Tensor) -> Tensor {
        self.network.encode(picture)
    }

    /// Runs the network on two frames, (2, 3 + features, h, w) in float32.
    ///
    /// # Errors
    /// [`Error::Cancelled`] soon after the token is set; [`Error::Model`] if numbers are not finite even in float32.
    pub(super) fn run(&mut self, frames: &Tensor, time: Time, scale: f64, cancel: &Cancel) -> Result<Seen> {
        let (_, _, height, width) = frames.size4()?;
        let positions = match self.positions.take() {
            Some(positions) if positions.size() == (height, width) => positions,
            _ => Positions::new(height, width, self.device),
        };
        let positions = self.positions.insert(positions);
        let run = |network: &IfNet, kind| network.forward(frames, time.value(), scale, positions, kind, cancel);
        let motion = run(&self.network, self.kind)?;
        // One number, which is not finite if one of them is not, or if they are very large.
        let is_finite = (motion.flow.sum(Kind::Float) + motion.mask.sum(Kind::Float)).isfinite();
        if !self.is_checked {
            return Ok(Seen { motion, is_finite: Some(is_finite), is_redone: false });
        }
        if is_finite.int64_value(&[]) == 1 {
            return Ok(Seen { motion, is_finite: None, is_redone: false });
        }
        if self.kind != Kind::Float {
            if self.exact.is_none() {
                self.exact = Some(load(&self.path, self.device, Kind::Float, cancel)?.0);
            }
            if let Some(exact) = &self.exact {
                let motion = run(exact, Kind::Float)?;
                if (motion.flow.isfinite().all().int64_value(&[]) & motion.mask.isfinite().all().int64_value(&[])) == 1
                {
                    return Ok(Seen { motion, is_finite: None, is_redone: true });
                }
            }
        }
        Err(Error::model(
            &self.path,
            "the network gives numbers that are not finite, even in fp32: its weights are broken",
        ))
    }

    /// The positions of the pixels that it ran on last.
    pub(super) fn positions(&self) -> &Positions {
        self.positions.as_ref().expect("the network has run")
    }
}

/// What the network makes of two frames.
pub(super) struct Seen {
    pub motion: Motion,
    /// Whether all numbers are finite, on the device, if nobody has looked yet.
    pub is_finite: Option<Tensor>,
    /// Whether the model's own precision did not suffice.
    pub is_redone: bool,
}

fn load(path: &Path, device: Device, kind: Kind, cancel: &Cancel) -> Result<(IfNet, Config)> {
    let (weights, config) = open(path, device, kind, cancel)?;
    let network = IfNet::new(weights.root(), &config);
    weights.finish()?;
    Ok((network, config))
}
