// SPDX-License-Identifier: MPL-2.0
//! Where a model comes from: a folder as diffusers saves it, or a single file; what is known of it without its
//! weights, and the way to them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tch::{Device, Kind};

use super::folder::Folder;
use super::preview::Factors;
use super::single_file::SingleFile;
use super::{Params, clip, hub, schedule, unet, vae};
use crate::engine::cache::{Key, Stamp, stamp};
use crate::engine::device::{Precision, kind_name};
use crate::engine::weights::Weights;
use crate::engine::worker::{self, Cancel, Reply};
use crate::engine::{Error, Result};

/// The models that Stability AI has published. Their networks are of one shape, so tensors can't tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelType {
    /// 14 frames.
    Svd,
    /// 25 frames.
    SvdXt,
    /// 25 frames; trained further at one frame rate and one motion bucket.
    SvdXt11,
}

impl ModelType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::Svd, Self::SvdXt, Self::SvdXt11];

    /// The name that users give it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Svd => "svd",
            Self::SvdXt => "svd-xt",
            Self::SvdXt11 => "svd-xt-1.1",
        }
    }

    /// The repository on the Hugging Face hub that has it.
    pub fn repository(self) -> &'static str {
        match self {
            Self::Svd => "stabilityai/stable-video-diffusion-img2vid",
            Self::SvdXt => "stabilityai/stable-video-diffusion-img2vid-xt",
            Self::SvdXt11 => "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
        }
    }

    /// The single file in that repository.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Svd => "svd.safetensors",
            Self::SvdXt => "svd_xt.safetensors",
            Self::SvdXt11 => "svd_xt_1_1.safetensors",
        }
    }

    /// The frames of the clips that it was trained on.
    pub fn num_frames(self) -> i64 {
        match self {
            Self::Svd => 14,
            Self::SvdXt | Self::SvdXt11 => 25,
        }
    }

    /// The type that a file's, folder's or repository's name speaks of.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        let name: String =
            name.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
        let is_svd = ["svd", "stable_video_diffusion", "img2vid"].iter().any(|known| name.contains(known));
        let words: Vec<_> = name.split('_').collect();
        let xt = words.iter().position(|word| matches!(*word, "xt" | "svdxt"));
        match xt.map(|xt| &words[xt + 1..]) {
            _ if !is_svd => None,
            Some(["1", "1", ..] | ["11", ..]) => Some(Self::SvdXt11),
            Some(_) => Some(Self::SvdXt),
            None => Some(Self::Svd),
        }
    }

    /// Sets what its makers say of it.
    fn recommend(self, params: &mut Params) {
        params.num_frames = self.num_frames();
        if self == Self::SvdXt11 {
            // "Fixed conditioning at 6FPS and Motion Bucket Id 127", as its model card has it.
            params.fps = 6.0;
            params.motion_bucket_id = 127.0;
        }
    }
}

impl fmt::Display for ModelType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ModelType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|known| known.name() == name);
        known.ok_or_else(|| Error::param("model_type", name, "use svd, svd-xt or svd-xt-1.1"))
    }
}

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
    /// Every network.
    pub const ALL: [Self; 3] = [Self::ImageEncoder, Self::Unet, Self::Vae];

    /// The name that diffusers gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ImageEncoder => "image_encoder",
            Self::Unet => "unet",
            Self::Vae => "vae",
        }
    }
}

/// What a model says of itself, read without its weights.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Which of the published models it is, or is built like: as the caller says, else as names and configurations
    /// say, if they do. A folder's `num_frames` of 14 or 25 decides between SVD and SVD-XT, and only a name tells
    /// SVD-XT 1.1; of a single file only its name or title can tell.
    pub model_type: Option<ModelType>,
    /// The parameters that the model's makers recommend; what they don't say is as diffusers has it.
    pub recommended: Params,
    /// The precisions that it can be computed in, the makers' choice first.
    pub dtypes: Vec<Precision>,
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
    /// `latent_rgb.json`: how latents look, for previews.
    pub latent_rgb: Option<Factors>,
}

impl ModelInfo {
    /// The networks of the models that Stability AI has published, without what tells these apart.
    pub fn published() -> Self {
        Self {
            model_type: None,
            recommended: Params::default(),
            dtypes: Precision::ALL.into(),
            unet: unet::Config::default(),
            vae: vae::Config {
                block_out_channels: vec![128, 256, 512, 512],
                layers_per_block: 2,
                ..vae::Config::default()
            },
            clip: clip::Config {
                hidden_size: 1280,
                intermediate_size: 5120,
                projection_dim: 1024,
                num_hidden_layers: 32,
                num_attention_heads: 16,
                patch_size: 14,
                hidden_act: "gelu".into(),
                ..clip::Config::default()
            },
            schedule: schedule::Config::default(),
            preprocessor: Default::default(),
            latent_rgb: None,
        }
    }
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

/// The file in a model's folder that says how its latents look.
pub(super) const LATENT_RGB: &str = "latent_rgb.json";

/// The file in a model's folder that says what its makers recommend.
pub(super) const RECOMMENDED: &str = "recommended.yaml";

/// What a layout reads of a model before anything is checked or recommended.
pub(super) struct Described {
    /// What names and configurations say.
    pub model_type: Option<ModelType>,
    pub unet: unet::Config,
    pub vae: vae::Config,
    pub clip: clip::Config,
    pub schedule: schedule::Config,
    pub preprocessor: Preprocessor,
    pub recommended: Recommended,
    pub latent_rgb: Option<Factors>,
}

/// `recommended.yaml`: parameters of [`Params`] by name, as a model's makers recommend them; and the precisions that
/// the model can be computed in, all if nothing is said.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Recommended {
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
    dtypes: Option<Vec<Precision>>,
}

impl Recommended {
    fn over(&self, other: Params) -> Params {
        Params {
            num_frames: self.num_frames.unwrap_or(other.num_frames),
            width: self.width.unwrap_or(other.width),
            height: self.height.unwrap_or(other.height),
            fps: self.fps.unwrap_or(other.fps),
            motion_bucket_id: self.motion_bucket_id.unwrap_or(other.motion_bucket_id),
            noise_aug_strength: self.noise_aug_strength.unwrap_or(other.noise_aug_strength),
            num_inference_steps: self.num_inference_steps.unwrap_or(other.num_inference_steps),
            min_guidance_scale: self.min_guidance_scale.unwrap_or(other.min_guidance_scale),
            max_guidance_scale: self.max_guidance_scale.unwrap_or(other.max_guidance_scale),
            decode_chunk_size: self.decode_chunk_size.unwrap_or(other.decode_chunk_size),
            ..other
        }
    }
}

/// A model's place: what it says of itself, and the way to its weights.
#[derive(Debug, Clone)]
pub struct Source {
    layout: Layout,
    /// What it says of itself.
    pub info: ModelInfo,
}

#[derive(Debug, Clone)]
enum Layout {
    Folder(Folder),
    SingleFile(Box<SingleFile>),
}

impl Source {
    /// Opens the model at `path` without reading its weights: a folder as diffusers saves it, a single file in the
    /// layout of Stability AI's own code, or a folder that has exactly one of these in it, such as a repository in the
    /// Hugging Face cache. `model_type` overrides what the model says of itself.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::Model`] if there is no model, or not all of one, or if it says what is not possible.
    pub fn open(path: &Path, model_type: Option<ModelType>) -> Result<Self> {
        let layout = Layout::find(path)?;
        let described = match &layout {
            Layout::Folder(folder) => folder.describe()?,
            Layout::SingleFile(file) => file.describe()?,
        };
        let info = check(layout.path(), described, model_type)?;
        Ok(Self { layout, info })
    }

    /// The folder or file that was found, where the path that was opened led.
    pub fn path(&self) -> &Path {
        self.layout.path()
    }

    /// libtorch's kind for `precision` on `device`. [`Precision::Auto`] is the model's first one where the device's own is
    /// none of the model's.
    ///
    /// # Errors
    /// [`Error::Param`] for a precision that the model can't be computed in.
    pub fn kind(&self, precision: Precision, device: Device) -> Result<Kind> {
        let kind = precision.kind(device);
        let possible: Vec<_> = self.info.dtypes.iter().map(|dtype| dtype.kind(device)).collect();
        match possible.first() {
            _ if possible.contains(&kind) => Ok(kind),
            Some(first) if precision == Precision::Auto => Ok(*first),
            _ => {
                let names = possible.into_iter().map(kind_name).collect::<Vec<_>>().join(", ");
                let file = self.path().join(RECOMMENDED);
                let expected = format!("use {names} or auto: {} allows no other", file.display());
                Err(Error::param("dtype", kind_name(kind), expected))
            }
        }
    }

    /// The weights of one network by diffusers' names, as tensors of `kind` on `device` once they are asked for.
    ///
    /// # Errors
    /// [`Error::Model`] if there is no file of them; those of [`Weights::open`].
    pub fn weights(&self, network: Network, device: Device, kind: Kind, cancel: &Cancel) -> Result<Weights> {
        match &self.layout {
            Layout::Folder(folder) => Weights::open(&folder.weight_files(network, kind)?, device, kind, cancel),
            Layout::SingleFile(file) => file.weights(network, device, kind, cancel),
        }
    }

    /// The files of weights that a load in `kind` reads.
    ///
    /// # Errors
    /// [`Error::Model`] if one of them is missing.
    pub fn weight_files(&self, kind: Kind) -> Result<Vec<PathBuf>> {
        match &self.layout {
            Layout::Folder(folder) => {
                let files = Network::ALL.into_iter().map(|network| folder.weight_files(network, kind));
                Ok(files.collect::<Result<Vec<_>>>()?.concat())
            }
            Layout::SingleFile(file) => Ok(vec![file.path().into()]),
        }
    }

    /// The files that say what it is, and those of its weights.
    fn files(&self, kind: Kind) -> Vec<PathBuf> {
        let mut files = match &self.layout {
            Layout::Folder(folder) => folder.config_files(),
            Layout::SingleFile(_) => Vec::new(),
        };
        // Where files are missing, the load says so.
        files.extend(self.weight_files(kind).unwrap_or_default());
        files
    }

    /// The stamps of its files as they are now, where links lead.
    pub(super) fn stamps(&self, kind: Kind) -> Vec<Stamp> {
        let files = self.files(kind).into_iter();
        files.map(|file| stamp(&file.canonicalize().unwrap_or(file))).collect()
    }

    /// What tells this model, loaded to `device` in `kind`, from others, and from itself with a file replaced.
    pub fn key(&self, device: Device, kind: Kind) -> Key {
        let files = self.files(kind);
        Key::of_files(self.path(), self.info.model_type.map_or("", ModelType::name), &files, device, kind)
    }

    /// The SHA-256 of each file of weights that a load in `kind` reads, in hexadecimal, by the file's path within the
    /// model: what the Hugging Face hub shows for it. Computed in the background, at the speed of the disk, unless the
    /// Hugging Face cache says it or it was computed before.
    pub fn hashes(&self, kind: Kind, cancel: &Cancel) -> Reply<BTreeMap<String, String>> {
        let (source, cancel) = (self.clone(), cancel.clone());
        worker::spawn("svd-hashes", move || {
            let root = match &source.layout {
                Layout::Folder(folder) => Some(folder.path()),
                Layout::SingleFile(file) => file.path().parent(),
            };
            let named = |file: PathBuf| {
                let name = root.and_then(|root| file.strip_prefix(root).ok()).unwrap_or(&file).display().to_string();
                Ok((name, sha256(&file, &cancel)?))
            };
            source.weight_files(kind)?.into_iter().map(named).collect()
        })
    }
}

impl Layout {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder.path(),
            Self::SingleFile(file) => file.path(),
        }
    }

    fn find(path: &Path) -> Result<Self> {
        if path.is_file() {
            return Ok(Self::SingleFile(Box::new(SingleFile::open(path)?)));
        }
        if !path.is_dir() {
            let what = if path.is_symlink() {
                "is a link to a file that is not there: a download that has not ended, or that was cleaned up"
            } else if path.exists() {
                "is neither a folder nor a file"
            } else {
                "does not exist"
            };
            let reason = format!(
                "{what}; a model is a folder as diffusers saves it, or a file. To get one: Stability AI's are at \
                 https://huggingface.co/stabilityai"
            );
            return Err(Error::model(path, reason));
        }
        if Folder::is_one(path) {
            return Ok(Self::Folder(Folder::new(path)));
        }
        // One level too low: the folder of a network.
        let parent = path.parent().filter(|parent| Folder::is_one(parent) && path.join("config.json").is_file());
        if let Some(parent) = parent {
            return Ok(Self::Folder(Folder::new(parent)));
        }
        if hub::is_repository(path) {
            return Self::find_in_repository(path);
        }
        // One level too high.
        let entries = path.read_dir().map_err(|err| Error::io(path, err))?;
        let mut inside: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        inside.sort();
        inside.retain(|inside| Folder::is_one(inside) || hub::is_repository(inside) || SingleFile::is_one(inside));
        match inside.as_slice() {
            [] => Ok(Self::Folder(Folder::new(path))),
            [one] => Self::find(one),
            several => {
                let names: Vec<_> = several.iter().filter_map(|path| path.file_name()?.to_str()).collect();
                Err(Error::model(path, format!("has more than one model in it: name one of {}", names.join(", "))))
            }
        }
    }

    /// The newest whole snapshot of a repository in the Hugging Face cache.
    fn find_in_repository(path: &Path) -> Result<Self> {
        let mut first = None;
        for snapshot in hub::snapshots(path) {
            let found =
                Source::open(&snapshot, None).and_then(|source| source.weight_files(Kind::Half).map(|_| source));
            match found {
                Ok(source) => return Ok(source.layout),
                Err(err) => first = first.or(Some(err)),
            }
        }
        Err(match (first, hub::unfinished(path)) {
            (Some(err), None) => err,
            (_, Some(part)) => Error::model(part, "is a download that has not ended: start it again, and it goes on"),
            (None, None) => Error::model(path, "is a folder of the Hugging Face cache without a snapshot in it"),
        })
    }
}

/// Reads and checks what a model says of itself: fast, and without reading its weights.
///
/// # Errors
/// Those of [`Source::open`].
pub fn inspect(path: &Path) -> Result<ModelInfo> {
    Ok(Source::open(path, None)?.info)
}

/// Checks a model's description, and says what is recommended.
fn check(path: &Path, described: Described, wanted: Option<ModelType>) -> Result<ModelInfo> {
    let Described { model_type, unet, vae, clip, schedule, preprocessor, recommended: said, latent_rgb } = described;
    for (part, checked) in [
        ("unet/config.json", unet.check()),
        ("vae/config.json", vae.check()),
        ("image_encoder/config.json", clip.check()),
        ("scheduler/scheduler_config.json", schedule.check()),
    ] {
        let part = if path.is_dir() { path.join(part) } else { path.into() };
        checked.map_err(|reason| Error::model(part, reason))?;
    }
    if let Some(Err(reason)) = latent_rgb.as_ref().map(|factors| factors.check(&vae)) {
        return Err(Error::model(path.join(LATENT_RGB), reason));
    }
    if unet.out_channels != vae.latent_channels {
        let reason = format!(
            "the UNet's out_channels={} and the VAE's latent_channels={} must be the same",
            unet.out_channels, vae.latent_channels
        );
        return Err(Error::model(path, reason));
    }
    let mut recommended = Params { num_frames: unet.num_frames, ..Params::default() };
    if let Some(model_type) = model_type {
        model_type.recommend(&mut recommended);
    }
    let mut recommended = said.over(recommended);
    // What the caller says goes before what the model's folder says.
    if let Some(wanted) = wanted {
        wanted.recommend(&mut recommended);
    }
    let dtypes = said.dtypes.unwrap_or_else(|| Precision::ALL.into());
    let checked = if dtypes.is_empty() {
        Err(Error::param("dtypes", "[]", "name one or more of fp32, fp16 and bf16, or leave dtypes out"))
    } else {
        recommended.validate()
    };
    checked.map_err(|err| Error::model(path.join(RECOMMENDED), err.to_string()))?;
    Ok(ModelInfo {
        model_type: wanted.or(model_type),
        recommended,
        dtypes,
        unet,
        vae,
        clip,
        schedule,
        preprocessor,
        latent_rgb,
    })
}

/// The SHA-256 of a file, in hexadecimal. Each file is read once in a process, as long as it stays the same.
fn sha256(path: &Path, cancel: &Cancel) -> Result<String> {
    static KNOWN: Mutex<Option<HashMap<Stamp, String>>> = Mutex::new(None);
    if let Some(hash) = hub::hash_by_name(path) {
        return Ok(hash);
    }
    let stamp = stamp(path);
    if let Some(hash) = KNOWN.lock().unwrap().get_or_insert_default().get(&stamp) {
        return Ok(hash.clone());
    }
    let mut file = File::open(path).map_err(|err| Error::io(path, err))?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        cancel.check()?;
        match file.read(&mut buffer).map_err(|err| Error::io(path, err))? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    let hash = format!("{:x}", hasher.finalize());
    KNOWN.lock().unwrap().get_or_insert_default().insert(stamp, hash.clone());
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_a_precision_that_the_model_can_be_computed_in() {
        use Precision::{Auto, Bf16, Fp16, Fp32};
        let folder = tempfile::tempdir().unwrap();
        let mut source = Source { layout: Layout::Folder(Folder::new(folder.path())), info: ModelInfo::published() };
        let (cpu, gpu) = (Device::Cpu, Device::Cuda(0));
        for precision in [Auto, Fp32, Fp16, Bf16] {
            for device in [cpu, gpu] {
                assert_eq!(source.kind(precision, device).unwrap(), precision.kind(device));
            }
        }
        for (dtypes, on_cpu, on_gpu) in [
            (&[Fp32, Fp16][..], Kind::Float, Kind::Half),
            (&[Fp16, Fp32], Kind::Float, Kind::Half),
            (&[Fp32], Kind::Float, Kind::Float),
            (&[Fp16], Kind::Half, Kind::Half),
            (&[Bf16, Fp16], Kind::BFloat16, Kind::Half),
            (&[Bf16, Fp32], Kind::Float, Kind::BFloat16),
        ] {
            source.info.dtypes = dtypes.into();
            assert_eq!([cpu, gpu].map(|device| source.kind(Auto, device).unwrap()), [on_cpu, on_gpu], "{dtypes:?}");
            for precision in Precision::ALL {
                let (kind, is_there) = (precision.kind(cpu), dtypes.contains(&precision));
                match source.kind(precision, cpu) {
                    Ok(seen) => assert!(is_there && seen == kind, "{dtypes:?} {precision:?}"),
                    Err(err) => {
                        let wanted = format!(
                            "dtype={} is not possible: use {}",
                            kind_name(kind),
                            kind_name(dtypes[0].kind(cpu))
                        );
                        assert!(!is_there && err.to_string().starts_with(&wanted), "{dtypes:?}: {err}");
                    }
                }
            }
        }
    }

    #[test]
    fn names_tell_the_type() {
        for (name, model_type) in [
            ("svd", Some(ModelType::Svd)),
            ("SVD.fp16", Some(ModelType::Svd)),
            ("stable-video-diffusion-img2vid", Some(ModelType::Svd)),
            ("models--stabilityai--stable-video-diffusion-img2vid-xt", Some(ModelType::SvdXt)),
            ("svd_xt", Some(ModelType::SvdXt)),
            ("svdxt-fp16", Some(ModelType::SvdXt)),
            ("svd_xt_image_decoder", Some(ModelType::SvdXt)),
            ("svd_xt_1_1", Some(ModelType::SvdXt11)),
            ("stable-video-diffusion-img2vid-xt-1-1", Some(ModelType::SvdXt11)),
            ("SVD-XT 1.1", Some(ModelType::SvdXt11)),
            ("svd_with_context", Some(ModelType::Svd)),
            ("sdxl_base", None),
            ("my model", None),
        ] {
            assert_eq!(ModelType::of_name(name), model_type, "{name}");
        }
        for model_type in ModelType::ALL {
            assert_eq!(model_type.name().parse::<ModelType>().unwrap(), model_type);
            assert_eq!(ModelType::of_name(model_type.name()), Some(model_type));
            assert_eq!(ModelType::of_name(model_type.repository()), Some(model_type));
            assert_eq!(ModelType::of_name(model_type.file_name()), Some(model_type));
        }
        let message = "xt".parse::<ModelType>().unwrap_err().to_string();
        assert!(message.contains("model_type=xt") && message.contains("svd-xt-1.1"), "{message}");
    }
}
