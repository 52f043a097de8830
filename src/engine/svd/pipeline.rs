// SPDX-License-Identifier: MPL-2.0
//! From a keyframe to a clip: encode, denoise, decode.
//!
//! Upstream: `StableVideoDiffusionPipeline.__call__` in diffusers.

use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::clip::ClipVision;
use super::denoiser::Denoiser;
use super::folder::{ModelInfo, Network, Preprocessor, Source};
use super::noise::Noise;
use super::unet::UNet;
use super::vae::{Decoding, Keep, Vae};
use super::{DecodeMode, Params, guider, sampler, schedule};
use crate::engine::cache::{Cache, Key};
use crate::engine::device::kind_name;
use crate::engine::image::Frame;
use crate::engine::weights::{Scope, Weights};
use crate::engine::worker::{Cancel, Worker};
use crate::engine::{Error, Result};

/// Pixels of the frames that are decoded at once where nothing is said: more are no faster, and on the CPU slower.
const PIXELS: i64 = 1 << 19;

/// What happens while a clip is made.
#[derive(Debug, Clone)]
pub enum Event {
    /// The keyframe has been encoded.
    Encoded,
    /// A denoising step has ended: `step` of `steps`.
    Step {
        /// 1 after the first step.
        step: i64,
        /// All steps.
        steps: i64,
    },
    /// This much of the decoding is done; told when it is a whole number more, from 1 to 100.
    Decoding {
        /// Of 100.
        percent: i64,
    },
    /// Frames have been decoded: the next of the clip, in order.
    Decoded(Vec<Frame>),
}

/// A loaded model.
pub struct Model {
    info: ModelInfo,
    clip: ClipVision,
    unet: UNet,
    vae: Vae,
    device: Device,
    kind: Kind,
}

impl Model {
    /// Loads the model in `folder` to `device` in `kind`.
    ///
    /// # Errors
    /// Those of [`inspect`] and of [`Weights::finish`]; [`Error::Cancelled`] soon after the token is set.
    pub fn load(folder: &Path, device: Device, kind: Kind, cancel: &Cancel) -> Result<Self> {
        let source = Source::open(folder)?;
        fn network<T>(weights: Result<Weights>, build: impl FnOnce(Scope) -> T) -> Result<T> {
            let weights = weights?;
            let network = build(weights.root());
            weights.finish().map(|()| network)
        }
        let weights = |network| source.weights(network, device, kind, cancel);
        let info = &source.info;
        Ok(Self {
            clip: network(weights(Network::ImageEncoder), |scope| ClipVision::new(scope, &info.clip))?,
            unet: network(weights(Network::Unet), |scope| UNet::new(scope, &info.unet))?,
            vae: network(weights(Network::Vae), |scope| Vae::new(scope, &info.vae))?,
            info: source.info,
            device,
            kind,
        })
    }

    /// The worker that owns the model in `folder` on `device` in `kind`; loads it in the background, if nobody has.
    pub fn shared(folder: &Path, device: Device, kind: Kind) -> Arc<Worker<Self>> {
        static MODELS: Cache<Model> = Cache::new();
        MODELS.get(Key::new(folder, device, kind), || {
            let folder = folder.to_path_buf();
            Worker::spawn("torchvideo-svd", move |cancel| Self::load(&folder, device, kind, cancel))
        })
    }
}

/// Makes one clip, on the thread of the model's worker. `report` gets every event there, the frames too.
///
/// # Errors
/// [`Error::Param`] for parameters out of range; [`Error::Cancelled`] within a layer of the token being set;
/// [`Error::NonFinite`] rather than a frame of numbers gone bad.
pub fn generate(
    model: &Model,
    keyframe: &Frame,
    params: &Params,
    cancel: &Cancel,
    report: &mut dyn FnMut(Event),
) -> Result<()> {
    params.validate()?;
    let Model { info, device, kind, .. } = model;
    let (device, kind) = (*device, *kind);
    let Params { width, height, num_frames: frames, .. } = *params;
    let factor = info.vae.factor();

    let latent_shape = [1, frames, info.unet.out_channels, height / factor, width / factor];
    let noise = Noise::draw(params.seed, height, width, &latent_shape, kind);

    let shown = keyframe.with_aspect_of(width as usize, height as usize, params.keyframe_fit)?;
    // On the CPU, as upstream: a photograph in float32 is large, and its square is small.
    let Preprocessor { image_mean, image_std } = &info.preprocessor;
    let prepared = model.clip.prepare(&shown.to_tensor(Device::Cpu), image_mean, image_std).to_device(device);
    let context = model.clip.forward(&prepared.to_kind(kind)).unsqueeze(1);
    cancel.check()?;

    let picture = shown.resize(width as usize, height as usize).to_tensor(device) * 2.0 - 1.0;
    let picture = picture + noise.picture.to_device(device) * params.noise_aug_strength;
    let image_latents = model.vae.encode(&picture, cancel)?.to_kind(kind);
    finite(&image_latents, "encoding the keyframe", kind)?;
    cancel.check()?;
    report(Event::Encoded);

    let ids = [params.fps - 1.0, params.motion_bucket_id, params.noise_aug_strength].map(|id| id as f32);
    let ids = Tensor::from_slice(&ids).to_device(device).to_kind(kind).unsqueeze(0);
    let is_guided = params.is_guided();
    // Without the keyframe: zeros for what is seen of it, the same ids.
    let halves = |x: Tensor| if is_guided { Tensor::cat(&[x.zeros_like(), x], 0) } else { x };
    let denoiser = Denoiser {
        unet: &model.unet,
        image_latents: halves(image_latents.unsqueeze(1)).expand([-1, frames, -1, -1, -1], false),
        context: halves(context),
        added_time_ids: if is_guided { Tensor::cat(&[&ids, &ids], 0) } else { ids },
        guidance: is_guided.then(|| {
            guider::scales(params.guidance_shape, params.min_guidance_scale, params.max_guidance_scale, frames, device)
        }),
        cancel,
    };
    let sigmas = info.schedule.sigmas(&params.schedule, params.num_inference_steps);
    let steps = sigmas.len() as i64 - 1;
    let start = noise.latents.to_device(device).to_kind(Kind::Float) * schedule::initial_scale(sigmas[0]);
    let latents = sampler::euler(
        start,
        &sigmas,
        |latents, sigma| denoiser.denoise(latents, sigma),
        |step, latents| {
            cancel.check()?;
            finite(latents, "denoising", kind)?;
            report(Event::Step { step: step as i64, steps });
            Ok(())
        },
    )?;

    let latents = latents.squeeze_dim(0);
    let how = decoding(params);
    let mut told = 0;
    let decoded = model.vae.decode(&latents, &how, cancel, &mut |share| {
        let percent = (100.0 * share) as i64;
        if percent > told {
            told = percent;
            report(Event::Decoding { percent });
        }
    })?;
    finite(&decoded, "decoding", kind)?;
    for frames in decoded.split(how.chunk, 0) {
        cancel.check()?;
        report(Event::Decoded(Frame::from_tensor(&(frames.to_kind(Kind::Float) / 2.0 + 0.5))?));
    }
    Ok(())
}

/// How a clip is decoded.
fn decoding(params: &Params) -> Decoding {
    let chunk = match (params.decode_chunk_size, params.decode_mode) {
        (0, DecodeMode::Reference) => params.num_frames,
        (0, DecodeMode::Exact) => (PIXELS / (params.width * params.height)).max(1),
        (chunk, _) => chunk,
    };
    let chunk = chunk.min(params.num_frames);
    Decoding { chunk, mode: params.decode_mode, keep: Keep::Device, two_pass: false }
}

/// [`Error::NonFinite`] if any number of `x` is NaN or infinite.
fn finite(x: &Tensor, stage: &'static str, kind: Kind) -> Result<()> {
    // A sum is not finite if any of its terms isn't; in float64 it does not overflow by itself.
    if x.sum(Kind::Double).double_value(&[]).is_finite() {
        return Ok(());
    }
    Err(Error::NonFinite { stage, dtype: kind_name(kind) })
}
