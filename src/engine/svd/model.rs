// SPDX-License-Identifier: MPL-2.0
//! A model's networks, each on the device or not.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind};

use super::clip::ClipVision;
use super::preview::Factors;
use super::source::{ModelInfo, Network, Source};
use super::strategy::{Stage, Strategy};
use super::unet::UNet;
use super::vae::Vae;
use crate::engine::cache::{Cache, Stamp};
use crate::engine::weights::{LoadProgress, Scope, Weights};
use crate::engine::worker::{Cancel, Worker};
use crate::engine::{Error, Result, memory, threads};

/// A place for a network, which may be empty.
pub(super) struct Slot<T> {
    which: Network,
    build: fn(Scope, &ModelInfo) -> T,
    loaded: Option<Loaded<T>>,
}

struct Loaded<T> {
    network: T,
    kind: Kind,
    bytes: u64,
}

impl<T> Slot<T> {
    fn empty(which: Network, build: fn(Scope, &ModelInfo) -> T) -> Self {
        Self { which, build, loaded: None }
    }

    /// The network in `kind`, loaded if it isn't there. One in another kind goes first: there may not be room for both.
    ///
    /// # Errors
    /// Those of [`Source::weights`] and [`Weights::finish`](crate::engine::weights::Weights::finish).
    pub fn get(&mut self, source: &Source, device: Device, kind: Kind, cancel: &Cancel) -> Result<&T> {
        self.keep(kind);
        if self.loaded.is_none() {
            self.fill(source.weights(self.which, device, kind, cancel)?, &source.info)?;
        }
        Ok(&self.loaded.as_ref().expect("it was loaded").network)
    }

    fn fill(&mut self, weights: Weights, info: &ModelInfo) -> Result<()> {
        let network = (self.build)(weights.root(), info);
        let kind = weights.kind();
        let numbers: i64 = weights.wanted().values().map(|shape| shape.iter().product::<i64>()).sum();
        weights.finish()?;
        self.loaded = Some(Loaded { network, kind, bytes: numbers as u64 * kind.elt_size_in_bytes() as u64 });
        Ok(())
    }

    /// Empties the place, unless the network in it is in `kind`.
    fn keep(&mut self, kind: Kind) {
        if self.loaded.as_ref().is_some_and(|loaded| loaded.kind != kind) {
            self.loaded = None;
        }
    }

    /// Bytes of the network in it.
    fn bytes(&self) -> u64 {
        self.loaded.as_ref().map_or(0, |loaded| loaded.bytes)
    }

    /// Empties the place.
    pub fn unload(&mut self) {
        self.loaded = None;
    }
}

/// A model: where it comes from, and what is loaded of it.
pub struct Model {
    pub(super) source: Source,
    /// What its files were when it was loaded.
    pub(super) files: Vec<Stamp>,
    pub(super) device: Device,
    pub(super) kind: Kind,
    pub(super) clip: Slot<ClipVision>,
    pub(super) unet: Slot<UNet>,
    pub(super) vae: Slot<Vae>,
    /// Seconds of clips that were made before.
    pub(super) timings: HashMap<Timed, Timing>,
    /// How latents look, once it is known.
    pub(super) latent_rgb: Option<Factors>,
}

/// What the time of a clip depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Timed {
    /// Width, height and frames.
    pub size: [i64; 3],
    /// Whether the UNet runs twice a step.
    pub is_guided: bool,
    /// The way in which it was computed.
    pub strategy: Strategy,
}

/// Seconds that were measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub encode: f64,
    pub step: f64,
    pub decode: f64,
}

impl Model {
    /// Loads the model at `path` to `device` in `kind`.
    ///
    /// # Errors
    /// Those of [`Source::open`] and [`Self::from_source`].
    pub fn load(path: &Path, device: Device, kind: Kind, cancel: &Cancel) -> Result<Self> {
        Self::from_source(&Source::open(path, None)?, device, kind, cancel, &LoadProgress::default())
    }

    /// Loads a model to `device` in `kind`, and counts what has been loaded: all its networks where there is room for
    /// them, else none of them, and each when it is needed.
    ///
    /// # Errors
    /// Those of [`Source::weights`] and [`Weights::finish`]; [`Error::Cancelled`] soon after the token is set.
    pub fn from_source(
        source: &Source,
        device: Device,
        kind: Kind,
        cancel: &Cancel,
        progress: &LoadProgress,
    ) -> Result<Self> {
        memory::install();
        let mut model = Self {
            source: source.clone(),
            files: source.stamps(kind),
            device,
            kind,
            clip: Slot::empty(Network::ImageEncoder, |scope, info| ClipVision::new(scope, &info.clip)),
            unet: Slot::empty(Network::Unet, |scope, info| UNet::new(scope, &info.unet)),
            vae: Slot::empty(Network::Vae, |scope, info| Vae::new(scope, &info.vae)),
            timings: HashMap::new(),
            latent_rgb: Factors::known(&source.info),
        };
        match model.fill(cancel, progress) {
            Err(Error::OutOfMemory(_)) => model.unload(),
            filled => filled?,
        }
        Ok(model)
    }

    fn fill(&mut self, cancel: &Cancel, progress: &LoadProgress) -> Result<()> {
        let Self { source, device, kind, .. } = self;
        // All at once, so that all bytes are known before the first is read.
        let open =
            |network| source.weights(network, *device, *kind, cancel).map(|weights| weights.counted_by(progress));
        let [clip, unet, vae] = [Network::ImageEncoder, Network::Unet, Network::Vae].map(open);
        self.clip.fill(clip?, &source.info)?;
        self.unet.fill(unet?, &source.info)?;
        self.vae.fill(vae?, &source.info)
    }

    /// Takes all networks off the device.
    fn unload(&mut self) {
        self.clip.unload();
        self.unet.unload();
        self.vae.unload();
        memory::release_cached(self.device);
    }

    /// Bytes of all networks that are loaded.
    pub(super) fn bytes(&self) -> u64 {
        self.clip.bytes() + self.unet.bytes() + self.vae.bytes()
    }

    /// Makes room for a stage where networks take turns: what it does not need goes.
    pub(super) fn leave_only(&mut self, stage: Stage) {
        if stage != Stage::Denoise {
            self.unet.unload();
        }
        if stage != Stage::Encode {
            self.clip.unload();
        }
        if stage == Stage::Denoise {
            self.vae.unload();
        }
    }

    /// Empties the places of networks that are in another precision than the model's.
    pub(super) fn settle(&mut self) {
        self.clip.keep(self.kind);
        self.unet.keep(self.kind);
        self.vae.keep(self.kind);
    }

    /// The worker that owns the model of `source` on `device` in `kind`; loads it in the background, if nobody has.
    pub fn shared(source: &Source, device: Device, kind: Kind) -> Arc<Worker<Self>> {
        Self::worker(source, device, kind, false)
    }

    /// The same; it computes where other threads leave the processor to it, from now on and for all that share it.
    pub fn shared_giving_way(source: &Source, device: Device, kind: Kind) -> Arc<Worker<Self>> {
        Self::worker(source, device, kind, true)
    }

    fn worker(source: &Source, device: Device, kind: Kind, gives_way: bool) -> Arc<Worker<Self>> {
        static MODELS: Cache<Model> = Cache::new();
        let worker = MODELS.get(source.key(device, kind), || {
            let source = source.clone();
            Worker::spawn("torchvideo-svd", move |loading| {
                if gives_way {
                    threads::give_way();
                }
                Self::from_source(&source, device, kind, &loading.cancel, &loading.progress)
            })
        });
        if gives_way {
            // Perhaps it was there.
            drop(worker.submit(|_| {
                threads::give_way();
                Ok(())
            }));
        }
        worker
    }
}

impl Drop for Model {
    /// What libtorch keeps for tensors to come goes, too: there may be none for a long time.
    fn drop(&mut self) {
        self.unload();
    }
}
