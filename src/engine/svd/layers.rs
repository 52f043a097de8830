// SPDX-License-Identifier: MPL-2.0
//! The residual blocks that UNet and VAE share: spatial, temporal, and the two blended.
//!
//! Upstream: `diffusers/models/resnet.py`, `ResnetBlock2D`, `TemporalResnetBlock`, `SpatioTemporalResBlock` and
//! `AlphaBlender`. Activations are (clips * frames, channels, height, width), a clip's frames behind one another.

use tch::Tensor;

use crate::engine::nn::{Conv2d, GroupNorm, Linear, TemporalConv};
use crate::engine::weights::Scope;

/// (clips * frames, c, h, w) -> (clips, c, frames, h, w).
pub fn to_clips(x: &Tensor, frames: i64) -> Tensor {
    x.unflatten(0, [-1, frames]).transpose(1, 2).contiguous()
}

/// (clips, c, frames, h, w) -> (clips * frames, c, h, w).
pub fn to_frames(x: &Tensor) -> Tensor {
    x.transpose(1, 2).flatten(0, 1)
}

/// Weighs a spatial branch against a temporal one by a learned factor.
pub struct AlphaBlender {
    /// The spatial branch's share.
    alpha: Tensor,
}

impl AlphaBlender {
    /// The UNet's blender: sigmoid(mix_factor) is the spatial share. In the VAE it is the temporal one (`switched`).
    pub fn new(scope: Scope, switched: bool) -> Self {
        let share = scope.get("mix_factor", &[1]).sigmoid();
        Self { alpha: if switched { 1.0 - share } else { share } }
    }

    /// Two tensors of one shape -> that shape.
    pub fn forward(&self, spatial: &Tensor, temporal: &Tensor) -> Tensor {
        temporal.lerp_tensor(spatial, &self.alpha)
    }
}

/// A residual block over each frame by itself.
pub struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock2D {
    /// A block from `inputs` to `outputs` channels; `time` is the width of the time embedding, if there is one.
    pub fn new(scope: Scope, inputs: i64, outputs: i64, time: Option<i64>, eps: f64) -> Self {
        Self {
            norm1: GroupNorm::new(&scope / "norm1", inputs, eps),
            conv1: Conv2d::new(&scope / "conv1", inputs, outputs, 3),
            time_emb_proj: time.map(|time| Linear::new(&scope / "time_emb_proj", time, outputs)),
            norm2: GroupNorm::new(&scope / "norm2", outputs, eps),
            conv2: Conv2d::new(&scope / "conv2", outputs, outputs, 3),
            conv_shortcut: (inputs != outputs).then(|| Conv2d::new(&scope / "conv_shortcut", inputs, outputs, 1)),
        }
    }

    /// (n, inputs, h, w) and the time embedding (n, time) -> (n, outputs, h, w).
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Tensor {
        let mut hidden = self.conv1.forward(&self.norm1.forward(x).silu());
        if let (Some(project), Some(time)) = (&self.time_emb_proj, time) {
            hidden += project.forward(&time.silu()).unsqueeze(-1).unsqueeze(-1);
        }
        let hidden = self.conv2.forward(&self.norm2.forward(&hidden).silu());
        match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x) + hidden,
            None => hidden + x,
        }
    }
}

/// A residual block over the frames at each pixel; its norms take their statistics over a whole clip.
struct TemporalResnetBlock {
    norm1: GroupNorm,
    conv1: TemporalConv,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: TemporalConv,
}

impl TemporalResnetBlock {
    fn new(scope: Scope, channels: i64, time: Option<i64>, eps: f64) -> Self {
        Self {
            norm1: GroupNorm::new(&scope / "norm1", channels, eps),
            conv1: TemporalConv::new(&scope / "conv1", channels, channels),
            time_emb_proj: time.map(|time| Linear::new(&scope / "time_emb_proj", time, channels)),
            norm2: GroupNorm::new(&scope / "norm2", channels, eps),
            conv2: TemporalConv::new(&scope / "conv2", channels, channels),
        }
    }

    /// (clips, c, frames, h, w) and the time embedding (clips * frames, time) -> the same shape.
    fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Tensor {
        let mut hidden = self.conv1.forward(&self.norm1.forward(x).silu());
        if let (Some(project), Some(time)) = (&self.time_emb_proj, time) {
            let shift = project.forward(&time.silu()).unflatten(0, [x.size()[0], -1]);
            hidden += shift.transpose(1, 2).unsqueeze(-1).unsqueeze(-1);
        }
        self.conv2.forward(&self.norm2.forward(&hidden).silu()) + x
    }
}

/// How the residual blocks of a network differ from the other network's.
#[derive(Clone, Copy)]
pub struct ResStyle {
    /// The width of the time embedding, if there is one.
    pub time: Option<i64>,
    /// The spatial norms' eps.
    pub eps: f64,
    /// The temporal norms' eps.
    pub temporal_eps: f64,
    /// Whether the blender is switched.
    pub switched: bool,
}

/// A spatial block, then a temporal one, blended.
pub struct SpatioTemporalResBlock {
    spatial: ResnetBlock2D,
    temporal: TemporalResnetBlock,
    mixer: AlphaBlender,
}

impl SpatioTemporalResBlock {
    /// A block from `inputs` to `outputs` channels.
    pub fn new(scope: Scope, inputs: i64, outputs: i64, style: ResStyle) -> Self {
        Self {
            spatial: ResnetBlock2D::new(&scope / "spatial_res_block", inputs, outputs, style.time, style.eps),
            temporal: TemporalResnetBlock::new(&scope / "temporal_res_block", outputs, style.time, style.temporal_eps),
            mixer: AlphaBlender::new(&scope / "time_mixer", style.switched),
        }
    }

    /// (clips * frames, inputs, h, w) and the time embedding (clips * frames, time) -> (clips * frames, outputs, h, w).
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>, frames: i64) -> Tensor {
        let spatial = to_clips(&self.spatial.forward(x, time), frames);
        let temporal = self.temporal.forward(&spatial, time);
        to_frames(&self.mixer.forward(&spatial, &temporal))
    }
}

/// Doubles a picture, or brings it to `size` (h, w), by repeating its pixels, and smooths it by a convolution.
pub fn upsample(conv: &Conv2d, x: &Tensor, size: Option<[i64; 2]>) -> Tensor {
    let (_, _, h, w) = x.size4().expect("pictures have four dimensions");
    conv.forward(&x.upsample_nearest2d(size.unwrap_or([2 * h, 2 * w]), None, None))
}
