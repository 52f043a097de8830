// SPDX-License-Identifier: MPL-2.0
//! Stable Video Diffusion (Blattmann et al., 2023, arXiv:2311.15127): a keyframe becomes a clip.
//!
//! The reference implementation is `StableVideoDiffusionPipeline` of diffusers; `tests/svd_parity.rs` holds every
//! network and the whole pipeline against it.

pub mod anchor;
pub mod clip;
pub mod cost;
pub mod denoiser;
mod folder;
pub mod guider;
pub mod hub;
mod kept;
mod layers;
mod model;
mod noise;
mod params;
mod pipeline;
mod preview;
pub mod sampler;
pub mod schedule;
mod sgm;
mod single_file;
mod sketch;
mod source;
mod speed;
mod store;
mod strategy;
pub mod unet;
pub mod vae;

pub use kept::LatentsFolder;
pub use model::Model;
pub use noise::Noise;
pub use params::{DecodeMode, GuidanceShape, MAX_FRAMES, MAX_SIDE, Params, Schedule};
pub use pipeline::{Event, Extras, Summary, generate, generate_with};
pub use preview::Factors;
pub use sketch::Cost;
pub use source::{ModelInfo, ModelType, Network, Preprocessor, Source, inspect};
pub use strategy::{Estimate, Need, Planner, Stage, Strategy};
