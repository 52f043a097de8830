// SPDX-License-Identifier: MPL-2.0
//! The residual blocks that UNet and VAE share: spatial, temporal, and the two blended.
//!
//! Upstream: `diffusers/models/resnet.py`, `ResnetBlock2D`, `TemporalResnetBlock`, `SpatioTemporalResBlock` and
//! `AlphaBlender`. Activations are (clips * frames, channels, height, width), a clip's frames behind one another.

use std::convert::Infallible;

use tch::Tensor;

use super::store::Store;
use crate::engine::nn::{Conv2d, GroupNorm, Linear, Moments, Statistics, Strip, TemporalConv};
use crate::engine::weights::Scope;

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

    /// The temporal branch's share.
    fn temporal(&self) -> Tensor {
        self.alpha.rsub_scalar(1.0).squeeze()
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
        let mut hidden = self.conv1.forward(&self.norm1.forward(x).silu_());
        if let (Some(project), Some(time)) = (&self.time_emb_proj, time) {
            hidden += project.forward(&time.silu()).unsqueeze(-1).unsqueeze(-1);
        }
        // Each one's memory is free for the next.
        hidden = self.norm2.forward(&hidden).silu_();
        hidden = self.conv2.forward(&hidden);
        hidden += match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => x.shallow_clone(),
        };
        hidden
    }
}

/// A residual block over the frames at each pixel; its norms take their statistics over a whole clip. Without the
/// residual, which is the caller's.
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

    /// What the time embedding (frames, time) adds to the hidden frames: (frames, channels).
    fn shift(&self, time: Option<&Tensor>) -> Option<Tensor> {
        Some(self.time_emb_proj.as_ref()?.forward(&time?.silu()))
    }

    /// The first half: frames (frames, channels, pixels) of a clip with `statistics` to `hidden`. `scratch` is
    /// overwritten.
    fn first(&self, x: &Tensor, shift: Option<&Tensor>, statistics: &Statistics, scratch: &Strip, hidden: &Strip) {
        self.norm1.apply(x, statistics, &scratch.frames());
        let _ = scratch.frames().silu_();
        self.conv1.forward(scratch, shift, hidden);
    }

    /// The second half, to `output`; `hidden` is overwritten.
    fn second(&self, hidden: &Strip, statistics: &Statistics, output: &Strip) {
        self.norm2.apply(&hidden.frames(), statistics, &hidden.frames());
        let _ = hidden.frames().silu_();
        self.conv2.forward(hidden, None, output);
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
        let x = self.spatial.forward(x, time).contiguous();
        let pixels = x.view([x.size()[0], x.size()[1], -1]);
        for start in (0..x.size()[0]).step_by(frames as usize) {
            let of_clip = |x: &Tensor| x.narrow(0, start, frames);
            let mut moments = Moments::default();
            moments.gather(&of_clip(&pixels));
            let mut clip = Store::whole(of_clip(&pixels));
            let Ok(()) =
                self.temporal::<Infallible>(&mut clip, &moments, time.map(of_clip).as_ref(), false, |_| Ok(()));
        }
        x
    }

    /// The spatial block by itself.
    pub fn spatial(&self, x: &Tensor) -> Tensor {
        self.spatial.forward(x, None)
    }

    /// The temporal block and the blending, to what the spatial one gave for a clip. Both are in place and strip by
    /// strip; the `moments` are those of the whole clip.
    ///
    /// The second norm needs the moments of all strips. If strips don't keep what they are normalised from
    /// (`two_pass`), it is computed twice. `after` is called after each piece of work with its share of all;
    /// an error of it ends the work.
    pub fn temporal<E>(
        &self,
        clip: &mut Store,
        moments: &Moments,
        time: Option<&Tensor>,
        two_pass: bool,
        mut after: impl FnMut(f64) -> Result<(), E>,
    ) -> Result<(), E> {
        let block = &self.temporal;
        let shift = block.shift(time);
        let (strips, first) = (clip.strips().len(), block.norm1.statistics(moments));
        let keeps = !two_pass || strips == 1;
        let share = 1.0 / (strips * if keeps { 2 } else { 3 }) as f64;
        let (mut kept, mut scratch, mut moments) = (Vec::new(), None, Moments::default());
        for strip in 0..strips {
            let x = clip.strip(strip);
            let scratch = Strip::fit(&mut scratch, &x);
            let hidden = Strip::like(&x);
            block.first(&x, shift.as_ref(), &first, scratch, &hidden);
            moments.gather(&hidden.frames());
            if keeps {
                kept.push(hidden);
            }
            after(share)?;
        }
        let (second, share_of_time) = (block.norm2.statistics(&moments), self.mixer.temporal());
        let mut kept = kept.into_iter();
        for strip in 0..strips {
            let mut x = clip.strip(strip);
            let scratch = Strip::fit(&mut scratch, &x);
            let hidden = kept.next().unwrap_or_else(|| {
                let hidden = Strip::like(&x);
                block.first(&x, shift.as_ref(), &first, scratch, &hidden);
                hidden
            });
            block.second(&hidden, &second, scratch);
            // The temporal branch is the spatial one and this residual: their blend is that much of the residual.
            let _ = x.addcmul_(&scratch.frames(), &share_of_time);
            clip.put_strip(strip, x);
            after(if keeps { share } else { 2.0 * share })?;
        }
        Ok(())
    }
}

/// Doubles a picture, or brings it to `size` (h, w), by repeating its pixels, and smooths it by a convolution.
pub fn upsample(conv: &Conv2d, x: &Tensor, size: Option<[i64; 2]>) -> Tensor {
    let (_, _, h, w) = x.size4().expect("pictures have four dimensions");
    conv.forward(&x.upsample_nearest2d(size.unwrap_or([2 * h, 2 * w]), None, None))
}
