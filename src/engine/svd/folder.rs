// SPDX-License-Identifier: MPL-2.0
//! The layout of diffusers: a folder with `unet`, `vae`, `image_encoder`, `scheduler` and `feature_extractor`, each with
//! its configuration and, the networks, with weights beside it.
//!
//! A folder may also have a `recommended.yaml`: parameters of [`Params`](super::Params) by name, as its makers recommend
//! them, and `dtypes`, a list of the precisions that it can be computed in, their choice first; and a
//! `latent_rgb.json`: how its latents look (see [`Factors`](super::Factors)).

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tch::Kind;

use super::source::{Described, LATENT_RGB, ModelType, Network, RECOMMENDED};
use super::{hub, unet};
use crate::engine::{Error, Result};

/// What says what a model is, besides its weights.
const CONFIGS: [&str; 7] = [
    "unet/config.json",
    "vae/config.json",
    "image_encoder/config.json",
    "scheduler/scheduler_config.json",
    "feature_extractor/preprocessor_config.json",
    "model_index.json",
    RECOMMENDED,
];

/// A model's folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// Takes a folder for a model's.
    pub fn new(path: &Path) -> Self {
        Self(path.into())
    }

    /// Whether a folder looks like a model's.
    pub fn is_one(path: &Path) -> bool {
        path.join("unet/config.json").is_file()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The files that [`Self::describe`] reads.
    pub fn config_files(&self) -> Vec<PathBuf> {
        CONFIGS.iter().map(|file| self.0.join(file)).filter(|file| file.is_file()).collect()
    }

    /// Reads its configuration.
    pub fn describe(&self) -> Result<Described> {
        let unet: unet::Config = self.needed("unet/config.json")?;
        let recommended = self.0.join(RECOMMENDED);
        Ok(Described {
            model_type: self.model_type(unet.num_frames)?,
            unet,
            vae: self.needed("vae/config.json")?,
            clip: self.needed("image_encoder/config.json")?,
            schedule: self.optional("scheduler/scheduler_config.json")?.unwrap_or_default(),
            preprocessor: self.optional("feature_extractor/preprocessor_config.json")?.unwrap_or_default(),
            recommended: match read(&recommended)? {
                Some(text) => serde_yaml::from_str(&text).map_err(|err| Error::model(&recommended, err.to_string()))?,
                None => Default::default(),
            },
            latent_rgb: self.optional(LATENT_RGB)?,
        })
    }

    /// The type by the frames that the UNet was trained on; SVD-XT 1.1 by a name that says so, because it is the same
    /// otherwise.
    fn model_type(&self, num_frames: i64) -> Result<Option<ModelType>> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(rename = "_name_or_path", default)]
            name: String,
        }
        let of_frames = [ModelType::Svd, ModelType::SvdXt].into_iter().find(|known| known.num_frames() == num_frames);
        if of_frames != Some(ModelType::SvdXt) {
            return Ok(of_frames);
        }
        // In the Hugging Face cache the folder's own name is that of a commit.
        let repository = self.0.ancestors().nth(2).filter(|folder| hub::is_repository(folder));
        let folder = self.0.canonicalize().unwrap_or_else(|_| self.0.clone());
        let mut names = vec![file_name(&folder), repository.map(file_name).unwrap_or_default()];
        for file in ["model_index.json", "unet/config.json"] {
            names.extend(self.optional::<Named>(file)?.map(|named| named.name));
        }
        let is_11 = names.iter().any(|name| ModelType::of_name(name) == Some(ModelType::SvdXt11));
        Ok(if is_11 { Some(ModelType::SvdXt11) } else { of_frames })
    }

    /// The files of a network's weights: all shards of the one variant that suits `kind` best.
    ///
    /// # Errors
    /// [`Error::Model`] if there is none, or if a shard is missing.
    pub fn weight_files(&self, network: Network, kind: Kind) -> Result<Vec<PathBuf>> {
        let folder = self.0.join(network.name());
        let stem = if network == Network::ImageEncoder { "model" } else { "diffusion_pytorch_model" };
        let entries = match folder.read_dir() {
            Ok(entries) => entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect(),
            Err(err) if err.kind() == ErrorKind::NotFound => Vec::new(),
            Err(err) => return Err(Error::io(folder, err)),
        };
        let mut found: Vec<_> = entries
            .iter()
            .filter_map(|name| Some((Variant::of(name, stem)?, name)))
            .filter(|(_, name)| folder.join(name).is_file())
            .collect();
        found.sort_by_key(|(variant, name)| (variant.rank(kind), *name));
        match found.first() {
            None => Err(Error::model(&folder, nothing_for(&folder, stem, &entries))),
            Some((Variant { is_index: false, .. }, name)) => Ok(vec![folder.join(name)]),
            Some((_, index)) => shards(&folder, &folder.join(index)),
        }
    }

    fn needed<T: DeserializeOwned>(&self, file: &str) -> Result<T> {
        self.optional(file)?.ok_or_else(|| {
            let reason = format!(
                "has no {file}; a model is a folder with unet, vae and image_encoder, as diffusers saves it, or a \
                 single file such as svd_xt.safetensors"
            );
            Error::model(&self.0, reason)
        })
    }

    fn optional<T: DeserializeOwned>(&self, file: &str) -> Result<Option<T>> {
        json(&self.0.join(file))
    }
}

/// What a file's name says of the weights in it.
#[derive(Debug, PartialEq, Eq)]
struct Variant {
    /// "fp16", "bf16", "non_ema", …; nothing for the plain ones.
    name: String,
    /// Whether it is a list of shards.
    is_index: bool,
}

impl Variant {
    /// Reads a name: `stem.safetensors`, `stem.VARIANT.safetensors`, and `stem.safetensors.index.json` with the variant
    /// before, between or behind these words. `None` for files that are something else, shards among them.
    fn of(file: &str, stem: &str) -> Option<Self> {
        let mut words: Vec<_> = file.strip_prefix(stem)?.strip_prefix('.')?.split('.').collect();
        let is_index = match words.pop()? {
            "safetensors" => false,
            "json" => true,
            _ => return None,
        };
        for word in if is_index { &["safetensors", "index"][..] } else { &[] } {
            words.remove(words.iter().position(|known| known == word)?);
        }
        let name = words.join(".");
        let is_shard = name.rsplit('-').nth(1) == Some("of");
        (!is_shard).then_some(Self { name, is_index })
    }

    /// Lower is better for tensors of `kind`.
    fn rank(&self, kind: Kind) -> (usize, bool) {
        let best: &[&str] = match kind {
            Kind::Half => &["fp16", "", "bf16"],
            Kind::BFloat16 => &["bf16", "", "fp16"],
            _ => &["", "fp32", "bf16", "fp16"],
        };
        let last = if self.name == "non_ema" { best.len() + 1 } else { best.len() };
        (best.iter().position(|name| *name == self.name).unwrap_or(last), self.is_index)
    }
}

/// The shards that an index names.
fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, PathBuf>,
    }
    let Index { weight_map } = json(index)?.ok_or_else(|| Error::model(index, "has gone"))?;
    let shards: BTreeSet<_> = weight_map.into_values().collect();
    if shards.is_empty() {
        return Err(Error::model(index, "names no file of weights"));
    }
    for shard in &shards {
        if !shard.components().all(|part| matches!(part, Component::Normal(_))) {
            let reason = format!("names {} among its files, which is not in this folder", shard.display());
            return Err(Error::model(index, reason));
        }
        if !folder.join(shard).is_file() {
            let reason = format!("needs {}, which is not there: get it, too", shard.display());
            return Err(Error::model(index, reason));
        }
    }
    Ok(shards.into_iter().map(|shard| folder.join(shard)).collect())
}

/// Why a folder has no weights.
fn nothing_for(folder: &Path, stem: &str, entries: &[String]) -> String {
    let ends = |ends: &[&str]| entries.iter().find(|name| ends.iter().any(|end| name.ends_with(end)));
    let is_dangling = |name: &&String| folder.join(name).is_symlink() && !folder.join(name).exists();
    if let Some(name) = entries.iter().find(is_dangling) {
        return format!("{name} leads to a file that is not there: a download that has not ended, or was cleaned up");
    }
    if let Some(name) = ends(&[".incomplete", ".part", ".tmp"]) {
        return format!("{name} is a download that has not ended");
    }
    if let Some(name) = ends(&[".bin", ".ckpt", ".pt", ".pth"]) {
        return format!(
            "has {name}, a pickle, which can hold a program, and no {stem}.safetensors: get the model's .safetensors \
             files, or let diffusers write them: StableVideoDiffusionPipeline.from_pretrained(folder)\
             .save_pretrained(new_folder)"
        );
    }
    format!("has no weights: no {stem}.safetensors, {stem}.fp16.safetensors or {stem}.safetensors.index.json")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_weight_files() {
        let of = |name| Variant::of(name, "model").map(|variant| (variant.name, variant.is_index));
        for (file, name, is_index) in [
            ("model.safetensors", "", false),
            ("model.fp16.safetensors", "fp16", false),
            ("model.non_ema.safetensors", "non_ema", false),
            ("model.safetensors.index.json", "", true),
            ("model.safetensors.index.fp16.json", "fp16", true),
            ("model.fp16.safetensors.index.json", "fp16", true),
            ("model.safetensors.fp16.index.json", "fp16", true),
        ] {
            assert_eq!(of(file), Some((name.to_string(), is_index)), "{file}");
        }
        for other in [
            "config.json",
            "model.bin",
            "model.bin.index.json",
            "model-00001-of-00002.safetensors",
            "model.fp16-00001-of-00002.safetensors",
            "model_ema.safetensors",
            "model.safetensors.incomplete",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
