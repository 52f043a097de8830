// SPDX-License-Identifier: MPL-2.0
//! Normalisations. Their `eps` differs between blocks of the same network, so there is no default.

use tch::Tensor;

use crate::engine::weights::Scope;

/// The groups of every group norm in Stable Video Diffusion.
const GROUPS: i64 = 32;

/// Normalisation over 32 groups of channels and everything behind them.
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl GroupNorm {
    /// A norm of `channels`, which must be a multiple of 32.
    pub fn new(scope: Scope, channels: i64, eps: f64) -> Self {
        Self { weight: scope.get("weight", &[channels]), bias: scope.get("bias", &[channels]), eps }
    }

    /// (batch, channels, …) -> the same shape.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.group_norm(GROUPS, Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}

/// Normalisation over the last dimension.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// A norm over `width` values.
    pub fn new(scope: Scope, width: i64, eps: f64) -> Self {
        Self { weight: scope.get("weight", &[width]), bias: scope.get("bias", &[width]), eps }
    }

    /// (…, width) -> the same shape.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}
