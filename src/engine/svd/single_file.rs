// SPDX-License-Identifier: MPL-2.0
//! A whole model in one safetensors file, in the layout of Stability AI's own code: `svd.safetensors`,
//! `svd_xt.safetensors`, `svd_xt_1_1.safetensors`, and what ComfyUI makes of them.
//!
//! Such a file has no configuration: sizes are read off its tensors, and what tensors can't tell is SVD's.

use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::sgm::{self, Blocks, Place, Shapes};
use super::source::{Described, ModelType, Network, Preprocessor, Recommended};
use super::{clip, schedule, unet, vae};
use crate::engine::weights::Weights;
use crate::engine::worker::Cancel;
use crate::engine::{Error, Result};

/// How many names an error lists.
const LISTED: usize = 6;

/// A model's file.
#[derive(Debug, Clone)]
pub struct SingleFile {
    path: PathBuf,
    blocks: Blocks,
    unet: unet::Config,
    vae: vae::Config,
    clip: clip::Config,
    schedule: schedule::Config,
    model_type: Option<ModelType>,
}

impl SingleFile {
    /// Whether the name of a file says that it is one of these.
    pub fn is_one(path: &Path) -> bool {
        let is_safetensors = path.extension().is_some_and(|extension| extension == "safetensors");
        is_safetensors && path.is_file() && ModelType::of_name(&stem(path)).is_some()
    }

    /// Opens a file without reading its weights.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Model`] if it is not a whole model in this layout.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::model(path, reason);
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if ["bin", "ckpt", "pt", "pth"].contains(&extension) {
            return Err(wrong(format!(
                "a .{extension} file is a pickle, which can hold a program: get the model's .safetensors file"
            )));
        }
        if extension == "incomplete" {
            return Err(wrong("is a download that has not ended: start it again, and it goes on".into()));
        }
        let file = Weights::open(&[path.into()], Device::Cpu, Kind::Float, &Cancel::default())?;
        let shapes: Shapes = file.shapes().map(|(name, shape)| (name.into(), shape)).collect();
        if let Some(missing) = sgm::missing(&shapes) {
            return Err(wrong(incomplete(&shapes, &missing)));
        }
        let (blocks, unet, vae, clip) = sgm::read(&shapes).map_err(wrong)?;
        let unknown: Vec<_> = shapes.keys().filter(|name| blocks.place(name) == Place::Unknown).collect();
        if !unknown.is_empty() {
            return Err(wrong(format!(
                "{} of its tensors are not known in Stable Video Diffusion: {}",
                unknown.len(),
                list(unknown.into_iter())
            )));
        }
        let title = file.metadata("modelspec.title").unwrap_or_default().to_owned();
        let model_type = ModelType::of_name(&stem(path)).or_else(|| ModelType::of_name(&title));
        Ok(Self { path: path.into(), blocks, unet, vae, clip, schedule: noise_levels(file, &shapes), model_type })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says of itself.
    pub fn describe(&self) -> Result<Described> {
        Ok(Described {
            model_type: self.model_type,
            unet: self.unet.clone(),
            vae: self.vae.clone(),
            clip: self.clip.clone(),
            schedule: self.schedule.clone(),
            preprocessor: Preprocessor::default(),
            recommended: Recommended::default(),
            latent_rgb: None,
        })
    }

    /// The weights of one network by diffusers' names.
    ///
    /// # Errors
    /// Those of [`Weights::open`].
    pub fn weights(&self, network: Network, device: Device, kind: Kind, cancel: &Cancel) -> Result<Weights> {
        let file = Weights::open(std::slice::from_ref(&self.path), device, kind, cancel)?;
        let weights = file.rearranged(|name| match self.blocks.place(name) {
            Place::In(place, parts) if place == network => parts,
            _ => Vec::new(),
        });
        if network != Network::Vae || self.blocks.has_quant_conv() {
            return Ok(weights);
        }
        // The encoder's last convolution has it in itself, so it changes nothing.
        let moments = 2 * self.vae.latent_channels;
        let options = (Kind::Float, Device::Cpu);
        Ok(weights
            .with_tensor("quant_conv.weight", Tensor::eye(moments, options).view([moments, moments, 1, 1]))
            .with_tensor("quant_conv.bias", Tensor::zeros([moments], options)))
    }
}

/// The noise levels: SVD's, unless ComfyUI has written others into the file.
fn noise_levels(file: Weights, shapes: &Shapes) -> schedule::Config {
    let mut config = schedule::Config::default();
    for (name, level) in
        [("edm_vpred.sigma_max", &mut config.sigma_max), ("edm_vpred.sigma_min", &mut config.sigma_min)]
    {
        if shapes.get(name).is_some_and(|shape| shape.is_empty()) {
            // The decimal number that was meant: 0.002 is not quite 0.002 in float32.
            let stored = file.root().get(name, &[]).double_value(&[]) as f32;
            *level = stored.to_string().parse().unwrap_or(*level);
        }
    }
    config
}

/// Why a file with parts missing is not a model, and what would be one.
fn incomplete(shapes: &Shapes, missing: &[String]) -> String {
    let alone = [
        ("the UNet's weights alone", "down_blocks.0.resnets.0.spatial_res_block.conv1.weight"),
        ("the VAE's weights alone", "decoder.time_conv_out.weight"),
        ("the image encoder's weights alone", "vision_model.embeddings.class_embedding"),
    ];
    if let Some((what, _)) = alone.iter().find(|(_, name)| shapes.contains_key(*name)) {
        return format!("has {what}: name the model's folder, which has unet, vae and image_encoder in it");
    }
    if missing.len() == 4 {
        let names = list(shapes.keys());
        return format!("is not Stable Video Diffusion: of its {} tensors the first are {names}", shapes.len());
    }
    format!(
        "is not a whole model: it lacks {}; take the whole file, as svd_xt.safetensors is, or a folder as diffusers \
         saves it",
        missing.join(", ")
    )
}

fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
