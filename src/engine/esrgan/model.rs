// SPDX-License-Identifier: MPL-2.0
//! A loaded model: its network, and what is known of how it runs.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::transfer::Transfer;
use super::{Architecture, ModelFile, Network, open};
use crate::engine::cache::Cache;
use crate::engine::device::kind_name;
use crate::engine::nn::channels_last;
use crate::engine::worker::{Cancel, Worker};
use crate::engine::{Error, Result, memory};

/// A loaded model.
pub struct Model {
    file: ModelFile,
    architecture: Architecture,
    network: Network,
    pub(super) device: Device,
    kind: Kind,
    /// The same network in float32, once it was needed.
    exact: Option<Network>,
    /// The most pixels of tiles at once that the device's memory can hold, once they were too many, and for how many runs
    /// more that is believed.
    most: Option<(i64, u32)>,
    pub(super) transfer: Transfer,
    /// Whether each tile is looked at when it is computed. To ask a GPU, one must wait for it.
    is_checked: bool,
}

impl Model {
    /// Loads the model in a file (`.safetensors` or `.pth`), or between two. `cancel` ends the loading between two
    /// tensors.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Model`] if the file can't be read, is broken, or holds another network.
    pub fn load(file: impl Into<ModelFile>, device: Device, kind: Kind, cancel: &Cancel) -> Result<Self> {
        memory::install();
        let file = file.into();
        let (network, architecture) = load(&file, device, kind, cancel)?;
        let (transfer, is_checked) = (Transfer::new(device), device == Device::Cpu);
        Ok(Self { file, architecture, network, device, kind, exact: None, most: None, transfer, is_checked })
    }

    /// The worker that owns the model in `file` on `device` in `kind`; loads it in the background, if nobody has.
    pub fn shared(file: impl Into<ModelFile>, device: Device, kind: Kind) -> Arc<Worker<Self>> {
        static CACHE: Cache<Model> = Cache::new();
        let file = file.into();
        CACHE.get(file.key(device, kind), || {
            Worker::spawn("realesrgan", move |loading| Self::load(file, device, kind, &loading.cancel))
        })
    }

    /// The network that it is.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The most pixels of tiles at once that the device's memory can hold, once they were too many.
    pub(super) fn most(&self) -> Option<i64> {
        self.most.map(|(most, _)| most)
    }

    /// So many pixels at most from now on, until there may be more memory again.
    pub(super) fn limit(&mut self, most: i64) {
        const RUNS: u32 = 256;
        self.most = Some((most, RUNS));
    }

    /// Looks at each tile from now on, and does in float32 again what is not finite.
    pub fn check_tiles(&mut self) {
        self.is_checked = true;
    }

    /// Looks at all tiles of a picture at once, at its end, as on a GPU.
    #[cfg(test)]
    pub(super) fn trust_tiles(&mut self) {
        self.is_checked = false;
    }

    /// The precision that it computes in: fp32, fp16 or bf16.
    pub(super) fn dtype(&self) -> &'static str {
        kind_name(self.kind)
    }

    /// Bytes that a tile takes for each of its pixels.
    pub(super) fn bytes_per_pixel(&self) -> i64 {
        self.architecture.values_per_pixel() * self.kind.elt_size_in_bytes() as i64
    }

    /// What the network gives of pictures (n, 3, h, w) in float32, as it comes, in the model's own precision.
    ///
    /// # Errors
    /// [`Error::Cancelled`] soon after the token is set.
    pub fn forward(&self, x: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        self.network.forward(&channels_last(x).to_kind(self.kind), cancel)
    }

    /// Runs the network on pictures (n, 3, h, w) in float32.
    ///
    /// # Errors
    /// [`Error::Cancelled`] soon after the token is set; [`Error::Model`] if numbers are not finite even in float32.
    pub(super) fn run(&mut self, x: &Tensor, cancel: &Cancel) -> Result<Enlarged> {
        self.most = self.most.and_then(|(most, runs)| Some((most, runs.checked_sub(1)?)));
        let result = self.forward(x, cancel)?.to_kind(Kind::Float);
        if !self.is_checked {
            let is_finite = Some(result.isfinite().all());
            return Ok(Enlarged { picture: result, is_finite, is_redone: false });
        }
        if is_finite(&result) {
            return Ok(Enlarged { picture: result, is_finite: None, is_redone: false });
        }
        if self.kind != Kind::Float {
            if self.exact.is_none() {
                self.exact = Some(load(&self.file, self.device, Kind::Float, cancel)?.0);
            }
            if let Some(exact) = &self.exact {
                let result = exact.forward(&channels_last(x), cancel)?;
                if is_finite(&result) {
                    return Ok(Enlarged { picture: result, is_finite: None, is_redone: true });
                }
            }
        }
        Err(Error::model(
            &self.file.path,
            "the network gives numbers that are not finite, even in fp32: its weights are broken",
        ))
    }
}

/// What the network makes of a tile.
pub(super) struct Enlarged {
    /// (n, 3, scale * h, scale * w) in float32, about [0, 1].
    pub picture: Tensor,
    /// Whether all numbers are finite, on the device, if nobody has looked yet.
    pub is_finite: Option<Tensor>,
    /// Whether the model's own precision did not suffice.
    pub is_redone: bool,
}

fn load(file: &ModelFile, device: Device, kind: Kind, cancel: &Cancel) -> Result<(Network, Architecture)> {
    let (weights, architecture) = open(file, device, kind, cancel)?;
    let network = Network::new(weights.root(), architecture);
    weights.finish()?;
    Ok((network, architecture))
}

/// Whether all numbers are. Their sum is finite if they are, unless they are very large.
fn is_finite(x: &Tensor) -> bool {
    x.sum(Kind::Float).double_value(&[]).is_finite() || x.isfinite().all().int64_value(&[]) == 1
}
