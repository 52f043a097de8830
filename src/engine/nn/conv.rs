// SPDX-License-Identifier: MPL-2.0
//! Convolutions over space and over time.

use tch::{Device, Kind, Tensor};

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

    /// The same convolution, each output of which is `factors` (outputs) times as large.
    pub fn scaled(self, factors: &Tensor) -> Self {
        Self { weight: self.weight * factors.view([-1, 1, 1, 1]), bias: self.bias * factors, ..self }
    }

    /// The same convolution over inputs in another order: its input `i` was `order[i]`.
    pub fn reordered(self, order: &[i64]) -> Self {
        let order = Tensor::from_slice(order).to_device(self.weight.device());
        Self { weight: self.weight.index_select(1, &order), ..self }
    }

    /// The same convolution in another precision.
    pub fn to_kind(self, kind: Kind) -> Self {
        Self { weight: self.weight.to_kind(kind), bias: self.bias.to_kind(kind), ..self }
    }

    /// (n, inputs, h, w) -> (n, outputs, h', w').
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.conv2d(&self.weight, Some(&self.bias), [self.stride; 2], [self.padding; 2], [1; 2], 1)
    }
}

/// A transposed 2D convolution of 4 x 4 with a bias that doubles both sides: stride 2, padding 1.
pub struct ConvTranspose2d {
    weight: Tensor,
    bias: Tensor,
}

impl ConvTranspose2d {
    /// A convolution from `inputs` to `outputs` channels.
    pub fn new(scope: Scope, inputs: i64, outputs: i64) -> Self {
        Self { weight: scope.get("weight", &[inputs, outputs, 4, 4]), bias: scope.get("bias", &[outputs]) }
    }

    /// The same convolution with its first `outputs` only.
    pub fn first(self, outputs: i64) -> Self {
        Self { weight: self.weight.narrow(1, 0, outputs).contiguous(), bias: self.bias.narrow(0, 0, outputs) }
    }

    /// (n, inputs, h, w) -> (n, outputs, 2 * h, 2 * w).
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.conv_transpose2d(&self.weight, Some(&self.bias), [2; 2], [1; 2], [0; 2], 1, [1; 2])
    }
}

/// A convolution over three neighbouring frames, at each pixel by itself: a Conv3d of kernel (3, 1, 1) whose input has
/// a frame of zeros at either end.
pub struct TemporalConv {
    /// (1, outputs, 3 * inputs): the three frames' weights behind one another.
    weight: Tensor,
    /// (outputs, 1).
    bias: Tensor,
}

impl TemporalConv {
    /// A convolution from `inputs` to `outputs` channels.
    pub fn new(scope: Scope, inputs: i64, outputs: i64) -> Self {
        let weight = scope.get("weight", &[outputs, inputs, 3, 1, 1]);
        Self {
            weight: weight.view([outputs, inputs, 3]).transpose(1, 2).reshape([1, outputs, 3 * inputs]),
            bias: scope.get("bias", &[outputs]).unsqueeze(-1),
        }
    }

    /// Frames of `inputs` channels to frames of `outputs` channels, in `into`; `more`, (frames, outputs), is added.
    pub fn forward(&self, x: &Strip, more: Option<&Tensor>, into: &Strip) {
        let (frames, _, pixels) = x.size();
        let bias = more.map_or_else(|| self.bias.shallow_clone(), |more| more.unsqueeze(-1) + &self.bias);
        // Expanded: the same memory for every frame and pixel.
        let (weight, bias) = (self.weight.expand([frames, -1, -1], false), bias.expand([frames, -1, pixels], false));
        let _ = bias.baddbmm_out(&into.frames(), &weight, &x.windows());
    }
}

/// All frames of a part of the picture, between two frames of zeros.
pub struct Strip(Tensor);

impl Strip {
    /// Room for frames of the shape and the kind of `x` (frames, channels, pixels).
    pub fn like(x: &Tensor) -> Self {
        let (frames, channels, pixels) = x.size3().expect("a strip has three dimensions");
        Self::new(frames, channels, pixels, (x.kind(), x.device()))
    }

    /// Room for frames of this shape.
    pub fn new(frames: i64, channels: i64, pixels: i64, options: (Kind, Device)) -> Self {
        let strip = Self(Tensor::empty([frames + 2, channels, pixels], options));
        let _ = strip.0.narrow(0, 0, 1).zero_();
        let _ = strip.0.narrow(0, frames + 1, 1).zero_();
        strip
    }

    /// The strip in `room` if it has the shape of `x`, else a new one there.
    pub fn fit<'a>(room: &'a mut Option<Self>, x: &Tensor) -> &'a Self {
        if room.as_ref().is_some_and(|strip| strip.frames().size() != x.size()) {
            *room = None;
        }
        room.get_or_insert_with(|| Self::like(x))
    }

    /// (frames, channels, pixels): writing to it changes the strip.
    pub fn frames(&self) -> Tensor {
        self.0.narrow(0, 1, self.size().0)
    }

    /// Frames, channels, pixels.
    fn size(&self) -> (i64, i64, i64) {
        let (padded, channels, pixels) = self.0.size3().expect("a strip has three dimensions");
        (padded - 2, channels, pixels)
    }

    /// (frames, 3 * channels, pixels): each frame between its neighbours. Windows overlap in memory, so that a
    /// convolution is a product of matrices without anything being copied.
    fn windows(&self) -> Tensor {
        let (frames, channels, pixels) = self.size();
        self.0.as_strided([frames, 3 * channels, pixels], [channels * pixels, pixels, 1], None)
    }
}
