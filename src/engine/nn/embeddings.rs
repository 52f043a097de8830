// SPDX-License-Identifier: MPL-2.0
//! Embeddings of numbers: the sinusoids of the transformer and the two linear layers behind them.
//!
//! Upstream: `diffusers/models/embeddings.py`, `get_timestep_embedding` and `TimestepEmbedding`.

use tch::{Kind, Tensor};

use super::Linear;
use crate::engine::weights::Scope;

/// Cosines, then sines, of `values` (n) at `width` / 2 frequencies from 1 down to almost 1/10000: (n, width) in float32.
/// An odd width ends in a zero.
pub fn sinusoidal(values: &Tensor, width: i64) -> Tensor {
    let half = width / 2;
    let exponent = Tensor::arange(half, (Kind::Float, values.device())) * (-(10_000f64.ln()) / half as f64);
    let angles = values.to_kind(Kind::Float).unsqueeze(1) * exponent.exp().unsqueeze(0);
    Tensor::cat(&[angles.cos(), angles.sin()], 1).constant_pad_nd([0, width % 2])
}

/// Two linear layers with a SiLU between them.
pub struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    /// From `inputs` over `hidden` to `outputs` values.
    pub fn new(scope: Scope, inputs: i64, hidden: i64, outputs: i64) -> Self {
        Self {
            linear_1: Linear::new(&scope / "linear_1", inputs, hidden),
            linear_2: Linear::new(&scope / "linear_2", hidden, outputs),
        }
    }

    /// (n, inputs) -> (n, outputs).
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.linear_2.forward(&self.linear_1.forward(x).silu())
    }
}
