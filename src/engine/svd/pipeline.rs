// SPDX-License-Identifier: MPL-2.0
//! From a keyframe to a clip: encode, denoise, decode.
//!
//! Upstream: `StableVideoDiffusionPipeline.__call__` in diffusers.
//!
//! Each stage, and each denoising step, can be done again from what it began with: in less memory if there was not
//! enough, in float32 if half precision did not suffice.

use std::path::PathBuf;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::denoiser::Denoiser;
use super::kept::{LatentsFile, LatentsFolder};
use super::model::{Model, Timed, Timing};
use super::noise::Noise;
use super::preview::Factors;
use super::source::Preprocessor;
use super::strategy::{Estimate, Need, Planner, Stage, Strategy, plan};
use super::{Params, guider, sampler, schedule};
use crate::engine::device::{DeviceChoice, kind_name};
use crate::engine::image::Frame;
use crate::engine::worker::{Cancel, guarded};
use crate::engine::{Error, Result, memory};

/// What happens while a clip is made.
#[derive(Debug, Clone)]
pub enum Event {
    /// How the clip will be computed, and what that takes. The first event.
    Planned(Estimate, Strategy),
    /// The latents were taken from this file: the clip is only decoded. Then there is neither `Encoded` nor a `Step`.
    DenoisedBefore(PathBuf),
    /// The keyframe has been encoded.
    Encoded,
    /// A denoising step has ended: `step` of `steps`.
    Step {
        /// 1 after the first step.
        step: i64,
        /// All steps.
        steps: i64,
        /// The noise level that it began at.
        sigma: f64,
        /// Until the clip is done, as far as the steps so far can tell.
        seconds_left: f64,
    },
    /// How the clip looks as the step before foresees it, or as it was denoised before: a small picture for each frame,
    /// one pixel to a latent. Only while [`Extras::is_watched`]; nothing, after a warning, if it can't be told for the rest
    /// of the clip.
    Preview(Vec<Frame>),
    /// This much of the decoding is done; told when it is a whole number more, from 1 to 100.
    Decoding {
        /// Of 100.
        percent: i64,
    },
    /// Frames have been decoded: the next of the clip, in order.
    Decoded(Vec<Frame>),
    /// Something had to be done again in another way, or could not be kept. The clip is the same.
    Warning(String),
}

/// What it took to make a clip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Seconds for encoding, denoising and decoding; 0 for what was done before.
    pub seconds: [f64; 3],
    /// Bytes of all tensors on the device, at most.
    pub peak_device: u64,
    /// Bytes of all tensors in the host's memory, at most.
    pub peak_host: u64,
    /// How it was computed in the end.
    pub strategy: Strategy,
}

/// What is done besides while a clip is made; nothing by default. The clip is the same.
#[derive(Clone, Copy)]
pub struct Extras<'a> {
    /// Latents are kept there; those that are there already are only decoded. Latents that can't be read or written are
    /// a warning.
    pub latents: Option<&'a LatentsFolder>,
    /// Whether anybody wants to see how the clip looks: asked after each step, on the model's thread.
    pub is_watched: &'a dyn Fn() -> bool,
}

impl Default for Extras<'_> {
    fn default() -> Self {
        Self { latents: None, is_watched: &|| false }
    }
}

/// Makes one clip, on the thread of the model's worker. `report` gets every event there, the frames too.
///
/// # Errors
/// [`Error::Param`] for parameters out of range; [`Error::Budget`] before anything is computed, if the clip can't be
/// made in the memory that it may take; [`Error::OutOfMemory`] if it turns out so; [`Error::Cancelled`] within a layer
/// of the token being set; [`Error::NonFinite`] rather than a frame of numbers gone bad.
pub fn generate(
    model: &mut Model,
    keyframe: &Frame,
    params: &Params,
    cancel: &Cancel,
    report: &mut dyn FnMut(Event),
) -> Result<Summary> {
    generate_with(model, keyframe, params, Extras::default(), cancel, report)
}

/// The same, with what is done besides.
///
/// # Errors
/// Those of [`generate`].
pub fn generate_with(
    model: &mut Model,
    keyframe: &Frame,
    params: &Params,
    extras: Extras,
    cancel: &Cancel,
    report: &mut dyn FnMut(Event),
) -> Result<Summary> {
    params.validate()?;
    cancel.check()?;
    let shown = keyframe.with_aspect_of(params.width as usize, params.height as usize, params.keyframe_fit)?;
    let info = model.source.info.clone();
    let size = [shown.width() as i64, shown.height() as i64];
    let planner = Planner::new(&info, params, model.device, model.kind, size);
    let (budget, limit) = budget(model, params);
    let strategy = plan(&planner, budget, limit)?;
    let kept = extras.latents.map(|folder| folder.file(model, keyframe, params));
    let making = Making { model, planner, params, strategy, budget, extras, is_unseen: false, cancel, report };
    // However it ends, what was loaded for it alone goes.
    let summary = guarded(|| making.run(&shown, kept));
    model.settle();
    summary
}

/// The bytes that the clip and the model may take, and in words what sets this limit.
fn budget(model: &Model, params: &Params) -> (u64, impl FnOnce() -> String) {
    let Params { max_memory, .. } = *params;
    let device = model.device;
    let free = memory::available(device);
    // Without the last tenth: libraries want some of it, and what is free lies in pieces.
    let budget = match (max_memory, free) {
        // It can't be told; what does not fit will show.
        (0, 0) => u64::MAX,
        (0, free) => (free + model.bytes()) / 10 * 9,
        (most, _) => most,
    };
    let limit = move || match (max_memory, device) {
        (0, Device::Cuda(index)) => format!("what {} has free ({budget} bytes)", DeviceChoice::Cuda(index)),
        (0, _) => format!("what the machine has free ({budget} bytes)"),
        _ => format!("max-memory={max_memory}"),
    };
    (budget, limit)
}

/// A clip in the making.
struct Making<'a> {
    model: &'a mut Model,
    planner: Planner<'a>,
    params: &'a Params,
    strategy: Strategy,
    budget: u64,
    extras: Extras<'a>,
    /// A preview has failed: the rest of the clip has none.
    is_unseen: bool,
    cancel: &'a Cancel,
    report: &'a mut dyn FnMut(Event),
}

/// What the denoiser is told, in float32. Two halves of everything where the clip is guided: without the keyframe,
/// then with it.
struct Conditions {
    /// (1 or 2, 1, channels, h, w).
    image_latents: Tensor,
    /// (1 or 2, 1, width).
    context: Tensor,
    /// (1 or 2, 3).
    added_time_ids: Tensor,
    /// (1, frames, 1, 1, 1).
    guidance: Option<Tensor>,
}

impl Making<'_> {
    fn run(mut self, shown: &Frame, kept: Option<LatentsFile>) -> Result<Summary> {
        let (device, cancel) = (self.model.device, self.cancel);
        let info = &self.model.source.info;
        let steps = self.params.steps();
        let Params { width, height, num_frames: frames, .. } = *self.params;
        let factor = info.vae.factor();
        let latent_shape = [1, frames, info.unet.out_channels, height / factor, width / factor];

        let mut estimate = self.planner.estimate(&self.strategy, steps);
        if let Some(timing) = self.model.timings.get(&self.timed()) {
            // What has been measured is better.
            estimate.encode.seconds = timing.encode;
            estimate.denoise.seconds = timing.step * steps as f64;
            estimate.decode.seconds = timing.decode;
        }
        let before = kept.as_ref().map_or(Ok(None), |kept| kept.read(&latent_shape));
        if let Ok(Some(_)) = before {
            (estimate.encode, estimate.denoise) = (Need::default(), Need::default());
        }
        (self.report)(Event::Planned(estimate, self.strategy));
        if self.strategy.taking_turns {
            self.model.leave_only(Stage::Encode);
        }
        memory::reset_peak(device);
        memory::reset_peak(Device::Cpu);

        let before = before.unwrap_or_else(|err| {
            (self.report)(Event::Warning(format!("{err}: the clip is denoised again")));
            None
        });
        let is_denoised = before.is_some();
        let (latents, [encode, denoise]) = match (before, &kept) {
            (Some(latents), Some(kept)) => {
                (self.report)(Event::DenoisedBefore(kept.path.clone()));
                let latents = latents.to_device(device);
                self.show(&latents);
                (latents, [0.0; 2])
            }
            (_, kept) => {
                let denoised = self.denoised(shown, &latent_shape, &estimate)?;
                if let Some(Err(err)) = kept.as_ref().map(|kept| kept.write(&denoised.0)) {
                    (self.report)(Event::Warning(format!("{err}: the clip's latents are not kept")));
                }
                denoised
            }
        };

        let start = Instant::now();
        let latents = latents.squeeze_dim(0);
        let pictures = self.attempt(Stage::Decode, |making| making.decode(&latents))?;
        for frames in pictures.split(self.strategy.decoding.chunk, 0) {
            cancel.check()?;
            (self.report)(Event::Decoded(pictures_of(&frames)?));
        }
        drop(pictures);
        let decode = start.elapsed().as_secs_f64();

        if !is_denoised {
            let timing = Timing { encode, step: denoise / steps as f64, decode };
            self.model.timings.insert(self.timed(), timing);
        }
        Ok(Summary {
            seconds: [encode, denoise, decode],
            peak_device: memory::usage(device).peak,
            peak_host: memory::usage(Device::Cpu).peak,
            strategy: self.strategy,
        })
    }

    /// Latents of `shape`, (1, frames, channels, h, w) in float32, after the last step, and the seconds that encoding
    /// and denoising took. `estimate` says how long decoding may take.
    fn denoised(&mut self, shown: &Frame, shape: &[i64], estimate: &Estimate) -> Result<(Tensor, [f64; 2])> {
        let (device, cancel) = (self.model.device, self.cancel);
        let sigmas = self.model.source.info.schedule.sigmas(self.params);
        let steps = self.params.steps();
        let Params { seed, width, height, .. } = *self.params;

        let start = Instant::now();
        let Noise { picture, latents } = Noise::draw(seed, height, width, shape, self.model.kind);
        let conditions = self.attempt(Stage::Encode, |making| making.encode(shown, &picture))?;
        drop(picture);
        (self.report)(Event::Encoded);
        let encode = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let latents = latents.to_device(device).to_kind(Kind::Float) * schedule::initial_scale(sigmas[0]);
        let mut step = 0;
        let denoise = |latents: &Tensor, sigma| {
            let clean = self.attempt(Stage::Denoise, |making| making.denoise(&conditions, latents, sigma))?;
            step += 1;
            let each = start.elapsed().as_secs_f64() / step as f64;
            // Decoding is off as the steps are; but what they take to get going says nothing.
            let off = (each * steps as f64 / estimate.denoise.seconds).clamp(0.5, 2.0);
            let seconds_left = each * (steps - step) as f64 + estimate.decode.seconds * off;
            (self.report)(Event::Step { step, steps, sigma: f64::from(sigma), seconds_left });
            self.show(&clean);
            Ok(clean)
        };
        let latents = sampler::euler(latents, &sigmas, denoise, |_, _| cancel.check())?;
        Ok((latents, [encode, start.elapsed().as_secs_f64()]))
    }

    fn timed(&self) -> Timed {
        let Params { width, height, num_frames, .. } = *self.params;
        Timed { size: [width, height, num_frames], is_guided: self.params.is_guided(), strategy: self.strategy }
    }

    /// Does a stage's work, and again in another way where that helps.
    fn attempt<R>(&mut self, stage: Stage, work: impl Fn(&mut Self) -> Result<R>) -> Result<R> {
        loop {
            if self.strategy.taking_turns {
                self.model.leave_only(stage);
            }
            match guarded(|| work(self)) {
                Err(Error::OutOfMemory(reason)) => self.use_less_memory(stage, reason)?,
                Err(Error::NonFinite { stage: what, dtype }) if self.planner.kinds.of(stage) != Kind::Float => {
                    let text = format!("{what} gave numbers that are not finite in {dtype}: it is done again in fp32");
                    (self.report)(Event::Warning(text));
                    self.use_float32(stage);
                }
                result => return result,
            }
        }
    }

    /// One rung down the ladder, after memory did not suffice.
    fn use_less_memory(&mut self, stage: Stage, reason: String) -> Result<()> {
        memory::release_cached(self.model.device);
        // There is less than this stage takes, whatever was thought.
        let failed = self.planner.bytes(stage, &self.strategy);
        self.budget = self.budget.min(failed - 1);
        let Some(strategy) = self.planner.plan(stage, self.budget) else {
            // How much less can't be known: what is named should be on the safe side.
            let refusal = self.planner.refusal(self.budget / 5 * 4, "the memory".into());
            return Err(Error::OutOfMemory(format!("{reason}; {refusal}")));
        };
        self.strategy = strategy;
        (self.report)(Event::Warning(format!("out of memory: going on with {strategy}")));
        Ok(())
    }

    /// Goes on with float32 in a stage, after half precision did not suffice.
    fn use_float32(&mut self, stage: Stage) {
        self.planner.kinds.set(stage, Kind::Float);
        self.strategy = self.planner.plan(stage, self.budget).unwrap_or_else(|| self.planner.least().0);
    }

    fn encode(&mut self, shown: &Frame, noise: &Tensor) -> Result<Conditions> {
        let Self { params, cancel, strategy, .. } = *self;
        let Model { source, device, clip, vae, .. } = &mut *self.model;
        let (device, kind) = (*device, self.planner.kinds.of(Stage::Encode));
        let Preprocessor { image_mean, image_std } = &source.info.preprocessor;

        if strategy.taking_turns {
            vae.unload();
        }
        let tower = clip.get(source, device, kind, cancel)?;
        // On the CPU, as upstream: a photograph in float32 is large, and its square is small.
        let prepared = tower.prepare(&shown.to_tensor(Device::Cpu), image_mean, image_std).to_device(device);
        let context = tower.forward(&prepared.to_kind(kind)).unsqueeze(1).to_kind(Kind::Float);
        finite(&context, "embedding the keyframe", kind)?;
        cancel.check()?;

        if strategy.taking_turns {
            clip.unload();
        }
        let vae = vae.get(source, device, kind, cancel)?;
        let picture = shown.resize(params.width as usize, params.height as usize).to_tensor(device) * 2.0 - 1.0;
        let picture = picture + noise.to_device(device) * params.noise_aug_strength;
        let image_latents = vae.encode(&picture, cancel)?.to_kind(Kind::Float);
        finite(&image_latents, "encoding the keyframe", kind)?;
        cancel.check()?;

        let ids = [params.fps - 1.0, params.motion_bucket_id, params.noise_aug_strength].map(|id| id as f32);
        let ids = Tensor::from_slice(&ids).to_device(device).unsqueeze(0);
        let is_guided = params.is_guided();
        // Without the keyframe: zeros for what is seen of it, the same ids.
        let halves = |x: Tensor| if is_guided { Tensor::cat(&[x.zeros_like(), x], 0) } else { x };
        let Params { guidance_shape: shape, min_guidance_scale: min, max_guidance_scale: max, .. } = *params;
        Ok(Conditions {
            image_latents: halves(image_latents.unsqueeze(1)),
            context: halves(context),
            added_time_ids: if is_guided { Tensor::cat(&[&ids, &ids], 0) } else { ids },
            guidance: is_guided.then(|| guider::scales(shape, min, max, params.num_frames, device)),
        })
    }

    fn denoise(&mut self, conditions: &Conditions, latents: &Tensor, sigma: f32) -> Result<Tensor> {
        let Self { cancel, strategy, .. } = *self;
        let kind = self.planner.kinds.of(Stage::Denoise);
        let Model { source, device, unet, .. } = &mut *self.model;
        let unet = unet.get(source, *device, kind, cancel)?;
        let Conditions { image_latents, context, added_time_ids, guidance } = conditions;
        let denoiser = Denoiser {
            unet,
            image_latents: image_latents.to_kind(kind).expand([-1, self.params.num_frames, -1, -1, -1], false),
            context: context.to_kind(kind),
            added_time_ids: added_time_ids.to_kind(kind),
            guidance: guidance.as_ref().map(Tensor::shallow_clone),
            is_sequential: strategy.sequential_guidance,
            feed_forward_pieces: strategy.feed_forward_pieces,
            cancel,
        };
        let clean = denoiser.denoise(latents, sigma)?;
        finite(&clean, "denoising", kind)?;
        Ok(clean)
    }

    /// Tells how clean latents (1, frames, channels, h, w) look, if anybody watches. What does not work is a warning: the
    /// clip does not depend on it, and stays as it is.
    fn show(&mut self, clean: &Tensor) {
        if self.is_unseen || !(self.extras.is_watched)() {
            return;
        }
        match guarded(|| self.pictures(&clean.squeeze_dim(0))) {
            Ok(pictures) => (self.report)(Event::Preview(pictures)),
            // The next look at the token ends the work.
            Err(Error::Cancelled) => {}
            Err(err) => {
                self.is_unseen = true;
                memory::release_cached(self.model.device);
                (self.report)(Event::Warning(format!("{err}: the clip has no preview")));
                (self.report)(Event::Preview(Vec::new()));
            }
        }
    }

    /// Latents (frames, channels, h, w) as small pictures. How is found out if it is not known.
    fn pictures(&mut self, latents: &Tensor) -> Result<Vec<Frame>> {
        let Self { cancel, strategy, .. } = *self;
        if self.model.latent_rgb.is_none() {
            if strategy.taking_turns {
                self.model.leave_only(Stage::Decode);
            }
            let kind = self.planner.kinds.of(Stage::Decode);
            let Model { source, device, vae, latent_rgb, .. } = &mut *self.model;
            let vae = vae.get(source, *device, kind, cancel)?;
            *latent_rgb = Some(Factors::fit(vae, &source.info.vae, *device, cancel)?);
        }
        self.model.latent_rgb.as_ref().expect("it was found out").pictures(latents)
    }

    /// Latents (frames, channels, h, w) -> pictures (frames, 3, height, width), about [-1, 1].
    fn decode(&mut self, latents: &Tensor) -> Result<Tensor> {
        let kind = self.planner.kinds.of(Stage::Decode);
        let Model { source, device, vae, .. } = &mut *self.model;
        let vae = vae.get(source, *device, kind, self.cancel)?;
        let mut told = 0;
        let pictures = vae.decode(latents, &self.strategy.decoding, self.cancel, &mut |share| {
            let percent = (100.0 * share) as i64;
            if percent > told {
                told = percent;
                (self.report)(Event::Decoding { percent });
            }
        })?;
        // One by one: the sum is taken in float64, and so is what it is taken of.
        pictures.split(1, 0).iter().try_for_each(|picture| finite(picture, "decoding", kind))?;
        Ok(pictures)
    }
}

/// Pictures of values about [-1, 1] as bytes; one by one, because in float32, and with what lies between, they are
/// large.
fn pictures_of(decoded: &Tensor) -> Result<Vec<Frame>> {
    let picture = |decoded: &Tensor| Frame::from_tensor(&(decoded.to_kind(Kind::Float) / 2.0 + 0.5));
    let pictures: Vec<_> = decoded.split(1, 0).iter().map(picture).collect::<Result<_>>()?;
    Ok(pictures.concat())
}

/// [`Error::NonFinite`] if any number of `x` is NaN or infinite.
fn finite(x: &Tensor, stage: &'static str, kind: Kind) -> Result<()> {
    // A sum is not finite if any of its terms isn't; in float64 it does not overflow by itself.
    if x.sum(Kind::Double).double_value(&[]).is_finite() {
        return Ok(());
    }
    Err(Error::NonFinite { stage, dtype: kind_name(kind) })
}
