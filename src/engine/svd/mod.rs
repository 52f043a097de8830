// SPDX-License-Identifier: MPL-2.0
//! Stable Video Diffusion (Blattmann et al., 2023, arXiv:2311.15127): a keyframe becomes a clip.
//!
//! The reference implementation is `StableVideoDiffusionPipeline` of diffusers; `tests/svd_parity.rs` holds every
//! network and the whole pipeline against it.

pub mod clip;
pub mod denoiser;
mod folder;
pub mod guider;
mod layers;
mod noise;
mod params;
mod pipeline;
pub mod sampler;
pub mod schedule;
mod store;
pub mod unet;
pub mod vae;

pub use folder::{ModelInfo, Network, Source, inspect};
pub use noise::Noise;
pub use params::{DecodeMode, GuidanceShape, MAX_FRAMES, MAX_SIDE, Params, Schedule};
pub use pipeline::{Event, Model, generate};
