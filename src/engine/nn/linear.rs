// SPDX-License-Identifier: MPL-2.0
//! Linear layers, activations and feed-forward blocks.

use std::str::FromStr;

use tch::Tensor;

use crate::engine::weights::Scope;

/// A matrix over the last dimension.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer with a bias.
    pub fn new(scope: Scope, inputs: i64, outputs: i64) -> Self {
        let bias = Some(scope.get("bias", &[outputs]));
        Self { bias, ..Self::without_bias(scope, inputs, outputs) }
    }

    /// A layer without a bias.
    pub fn without_bias(scope: Scope, inputs: i64, outputs: i64) -> Self {
        Self { weight: scope.get("weight", &[outputs, inputs]), bias: None }
    }

    /// (…, inputs) -> (…, outputs).
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// An activation by the name that transformers' configurations give it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// The exact GELU, with the error function.
    Gelu,
    /// x * sigmoid(1.702 x).
    QuickGelu,
}

impl Activation {
    /// Element by element.
    pub fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu => x.gelu("none"),
            Self::QuickGelu => x * (x * 1.702).sigmoid(),
        }
    }
}

impl FromStr for Activation {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "gelu" => Ok(Self::Gelu),
            "quick_gelu" => Ok(Self::QuickGelu),
            _ => Err(format!("the activation {name} is not known: gelu and quick_gelu are")),
        }
    }
}

/// Diffusers' feed-forward block: a gated GELU (Shazeer, "GLU Variants Improve Transformer", 2020) of four times the
/// width. Upstream: `diffusers/models/attention.py`, `FeedForward` with `GEGLU`.
pub struct GegluFeedForward {
    project: Linear,
    output: Linear,
}

impl GegluFeedForward {
    /// A block of `width`.
    pub fn new(scope: Scope, width: i64) -> Self {
        let net = scope / "net";
        Self {
            project: Linear::new(&net / 0 / "proj", width, 8 * width),
            output: Linear::new(&net / 2, 4 * width, width),
        }
    }

    /// (tokens, width) -> the same shape.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let halves = self.project.forward(x).chunk(2, -1);
        // In the memory that the projection took: nothing in a network is larger.
        let gated = halves[1].shallow_clone().gelu_("none").g_mul_(&halves[0]);
        self.output.forward(&gated)
    }
}
