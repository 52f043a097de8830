// SPDX-License-Identifier: MPL-2.0
//! Convolutions over space and over time.

use tch::Tensor;

use crate::engine::weights::Scope;

/// A square 2D convolution with a bias, over (batch, channels, height, width).
pub struct Conv2d {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: i64,
}

impl Conv2d {
    /// A convolution of `kernel` x `kernel` that keeps the size: stride 1, zero padding of half the kernel.
    pub fn new(scope: Scope, inputs: i64, outputs: i64, kernel: i64) -> Self {
        Self::strided(scope, inputs, outputs, kernel, 1, kernel / 2)
    }

    /// A convolution with its stride and zero padding.
    pub fn strided(scope: Scope, inputs: i64, outputs: i64, kernel: i64, stride: i64, padding: i64) -> Self {
        Self {
            weight: scope.get("weight", &[outputs, inputs, kernel, kernel]),
            bias: scope.get("bias", &[outputs]),
            stride,
            padding,
        }
    }

    /// (n, inputs, h, w) -> (n, outputs, h', w').
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.conv2d(&self.weight, Some(&self.bias), [self.stride; 2], [self.padding; 2], [1; 2], 1)
    }
}

/// A convolution over three neighbouring frames, at each pixel by itself: a Conv3d of kernel (3, 1, 1) whose input is
/// padded with a zero frame at either end.
pub struct TemporalConv {
    weight: Tensor,
    bias: Tensor,
}

impl TemporalConv {
    /// A convolution from `inputs` to `outputs` channels.
    pub fn new(scope: Scope, inputs: i64, outputs: i64) -> Self {
        // One dimension less: at each pixel by itself, a picture of frames x pixels does as well as a volume.
        let weight = scope.get("weight", &[outputs, inputs, 3, 1, 1]).squeeze_dim(-1);
        Self { weight, bias: scope.get("bias", &[outputs]) }
    }

    /// (batch, inputs, frames, h, w) -> (batch, outputs, frames, h, w).
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let flat = x.flatten(3, 4).conv2d(&self.weight, Some(&self.bias), [1; 2], [1, 0], [1; 2], 1);
        let (_, _, _, h, w) = x.size5().expect("a clip has five dimensions");
        flat.unflatten(3, [h, w])
    }
}
