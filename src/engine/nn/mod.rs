// SPDX-License-Identifier: MPL-2.0
//! Layers that the networks share. A layer takes its weights from a scope by the checkpoint's names (`weight`, `bias`).

use tch::Tensor;

mod attention;
mod conv;
mod embeddings;
mod linear;
mod norms;

pub use attention::attend;
pub use conv::{Conv2d, ConvTranspose2d, Strip, TemporalConv};
pub use embeddings::{TimestepEmbedding, sinusoidal};
pub use linear::{Activation, GegluFeedForward, Linear};
pub use norms::{GroupNorm, LayerNorm, Moments, Statistics};

/// The leaky ReLU of this slope, in place. `tch` binds it without its slope, but its gradient with one, and that times
/// `x` is it.
pub fn leaky_relu(x: Tensor, slope: f64) -> Tensor {
    x.leaky_relu_backward_grad_input(&x, &x, slope, false)
}

/// The same tensor (n, c, h, w) with a pixel's channels beside one another, the order that convolutions are fastest in.
/// What is computed from it keeps the order.
pub fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}
