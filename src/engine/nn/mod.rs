// SPDX-License-Identifier: MPL-2.0
//! Layers that the networks share. A layer takes its weights from a scope by the checkpoint's names (`weight`, `bias`).

mod attention;
mod conv;
mod embeddings;
mod linear;
mod norms;

pub use attention::attend;
pub use conv::{Conv2d, Strip, TemporalConv};
pub use embeddings::{TimestepEmbedding, sinusoidal};
pub use linear::{Activation, GegluFeedForward, Linear};
pub use norms::{GroupNorm, LayerNorm, Moments, Statistics};
