// SPDX-License-Identifier: MPL-2.0
//! A model's folder, as diffusers saves it: `unet`, `vae`, `image_encoder`, `scheduler` and `feature_extractor`, each
//! with its configuration and, the networks, with weights beside it.
//!
//! A folder may also have a `recommended.yaml`: parameters of [`Params`] by name, as its makers recommend them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tch::{Device, Kind};

use super::{Params, clip, schedule, unet, vae};
use crate::engine::weights::Weights;
use crate::engine::worker::Cancel;
use crate::engine::{Error, Result};

/// A model's networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The keyframe's embedding.
    ImageEncoder,
    /// The denoiser.
    Unet,
    /// The autoencoder.
    Vae,
}

impl Network {
    /// The name that diffusers gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ImageEncoder => "image_encoder",
            Self::Unet => "unet",
            Self::Vae => "vae",
        }
    }
}

/// Where a model comes from: what is known of it without its weights, and the way to them.
#[derive(Debug, Clone)]
pub struct Source {
    folder: PathBuf,
    /// What it says of itself.
    pub info: ModelInfo,
}

impl Source {
    /// Opens the model at `path`, without touching its weights.
    ///
    /// # Errors
    /// Those of [`inspect`].
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { folder: path.into(), info: inspect(path)? })
    }

    /// The weights of one network by diffusers' names, as tensors of `kind` on `device` once they are asked for.
    ///
    /// # Errors
    /// [`Error::Model`] if there is no file of them; those of [`Weights::open`].
    pub fn weights(&self, network: Network, device: Device, kind: Kind, cancel: &Cancel) -> Result<Weights> {
        Weights::open(&weight_files(&self.folder, network.name(), kind)?, device, kind, cancel)
    }
}

/// What a model's folder says, read without its weights.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The parameters that the model's makers recommend; what they don't say is as diffusers has it.
    pub recommended: Params,
    /// `unet/config.json`.
    pub unet: unet::Config,
    /// `vae/config.json`.
    pub vae: vae::Config,
    /// `image_encoder/config.json`.
    pub clip: clip::Config,
    /// `scheduler/scheduler_config.json`.
    pub schedule: schedule::Config,
    /// `feature_extractor/preprocessor_config.json`.
    pub preprocessor: Preprocessor,
}

/// The mean and deviation that are taken out of the picture for CLIP.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Preprocessor {
    /// Of red, green and blue, in [0, 1].
    pub image_mean: [f32; 3],
    /// Of red, green and blue.
    pub image_std: [f32; 3],
}

impl Default for Preprocessor {
    /// OpenAI's values for CLIP.
    fn default() -> Self {
        Self {
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Recommended {
    num_frames: Option<i64>,
    width: Option<i64>,
    height: Option<i64>,
    fps: Option<f64>,
    motion_bucket_id: Option<f64>,
    noise_aug_strength: Option<f64>,
    num_inference_steps: Option<i64>,
    min_guidance_scale: Option<f64>,
    max_guidance_scale: Option<f64>,
    decode_chunk_size: Option<i64>,
}

/// Reads and checks the configuration in a model's folder: fast, and without touching the weights.
///
/// # Errors
/// [`Error::Model`] if `folder` is no such folder, or if a file in it says what is not possible.
pub fn inspect(folder: &Path) -> Result<ModelInfo> {
    if !folder.is_dir() {
        let what = if folder.exists() { "is not a folder" } else { "does not exist" };
        return Err(Error::model(folder, format!("{what}; a model is a folder as diffusers saves it")));
    }
    let unet: unet::Config = needed(folder, "unet", "config.json")?;
    let vae: vae::Config = needed(folder, "vae", "config.json")?;
    let clip: clip::Config = needed(folder, "image_encoder", "config.json")?;
    let schedule: schedule::Config = optional(&folder.join("scheduler/scheduler_config.json"))?.unwrap_or_default();
    let preprocessor = optional(&folder.join("feature_extractor/preprocessor_config.json"))?.unwrap_or_default();
    for (part, checked) in [
        ("unet/config.json", unet.check()),
        ("vae/config.json", vae.check()),
        ("image_encoder/config.json", clip.check()),
        ("scheduler/scheduler_config.json", schedule.check()),
    ] {
        checked.map_err(|reason| Error::model(folder.join(part), reason))?;
    }
    if unet.out_channels != vae.latent_channels {
        let reason = format!(
            "the UNet's out_channels={} and the VAE's latent_channels={} must be the same",
            unet.out_channels, vae.latent_channels
        );
        return Err(Error::model(folder, reason));
    }
    let recommended = recommended(folder, unet.num_frames)?;
    Ok(ModelInfo { recommended, unet, vae, clip, schedule, preprocessor })
}

fn recommended(folder: &Path, num_frames: i64) -> Result<Params> {
    let path = folder.join("recommended.yaml");
    let said: Recommended = match read(&path)? {
        Some(text) => serde_yaml::from_str(&text).map_err(|err| Error::model(&path, err.to_string()))?,
        None => Recommended::default(),
    };
    let other = Params::default();
    let params = Params {
        num_frames: said.num_frames.unwrap_or(num_frames),
        width: said.width.unwrap_or(other.width),
        height: said.height.unwrap_or(other.height),
        fps: said.fps.unwrap_or(other.fps),
        motion_bucket_id: said.motion_bucket_id.unwrap_or(other.motion_bucket_id),
        noise_aug_strength: said.noise_aug_strength.unwrap_or(other.noise_aug_strength),
        num_inference_steps: said.num_inference_steps.unwrap_or(other.num_inference_steps),
        min_guidance_scale: said.min_guidance_scale.unwrap_or(other.min_guidance_scale),
        max_guidance_scale: said.max_guidance_scale.unwrap_or(other.max_guidance_scale),
        decode_chunk_size: said.decode_chunk_size.unwrap_or(other.decode_chunk_size),
        ..other
    };
    params.validate().map_err(|err| Error::model(path, err.to_string()))?;
    Ok(params)
}

/// The weight files of a network in a model's folder: all shards of the one variant that suits `kind` best.
fn weight_files(folder: &Path, network: &str, kind: Kind) -> Result<Vec<PathBuf>> {
    let folder = folder.join(network);
    let stem = if network == "image_encoder" { "model" } else { "diffusion_pytorch_model" };
    // A half-precision run takes the half-precision files if there are any.
    let variants = if kind == Kind::Half { ["fp16.", ""] } else { ["", "fp16."] };
    for variant in variants {
        let whole = folder.join(format!("{stem}.{variant}safetensors"));
        if whole.is_file() {
            return Ok(vec![whole]);
        }
        let index = folder.join(format!("{stem}.safetensors.index.{variant}json"));
        if let Some(Index { weight_map }) = optional(&index)? {
            let shards: std::collections::BTreeSet<_> = weight_map.into_values().collect();
            return Ok(shards.into_iter().map(|shard| folder.join(shard)).collect());
        }
    }
    Err(Error::model(
        &folder,
        format!("has no {stem}.safetensors, nor {stem}.fp16.safetensors, nor an index of shards"),
    ))
}

#[derive(Deserialize)]
struct Index {
    weight_map: std::collections::BTreeMap<String, PathBuf>,
}

fn needed<T: DeserializeOwned>(folder: &Path, part: &str, file: &str) -> Result<T> {
    optional(&folder.join(part).join(file))?.ok_or_else(|| {
        let reason =
            format!("has no {part}/{file}; a model's folder has unet, vae and image_encoder, as diffusers saves it");
        Error::model(folder, reason)
    })
}

fn optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(text) = read(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|err| Error::model(path, err.to_string()))
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(err) if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(err) => Err(Error::io(path, err)),
    }
}
