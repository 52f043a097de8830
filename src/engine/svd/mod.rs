// SPDX-License-Identifier: MPL-2.0
//! Stable Video Diffusion (Blattmann et al., 2023, arXiv:2311.15127): a keyframe becomes a clip.

mod params;
mod pipeline;

pub use params::{MAX_FRAMES, MAX_SIDE, Params};
pub use pipeline::{Event, Model, ModelInfo, generate, inspect};
