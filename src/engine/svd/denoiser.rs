// SPDX-License-Identifier: MPL-2.0
//! The UNet as a denoiser: noisy latents of a known noise level in, clean latents out.
//!
//! The scalings are those of the EDM paper (arXiv:2206.00364, table 1) for v-prediction; upstream:
//! `EulerDiscreteScheduler` and the loop of `StableVideoDiffusionPipeline`.

use tch::Tensor;

use super::guider;
use super::schedule::timestep;
use super::unet::UNet;
use crate::engine::Result;
use crate::engine::worker::Cancel;

/// What the UNet is told about one clip.
pub struct Denoiser<'a> {
    /// The network.
    pub unet: &'a UNet,
    /// The keyframe's latent, the same for every frame: (1 or 2, frames, channels, h, w).
    pub image_latents: Tensor,
    /// The keyframe's embedding: (1 or 2, 1, width).
    pub context: Tensor,
    /// fps - 1, motion bucket and noise augmentation: (1 or 2, 3).
    pub added_time_ids: Tensor,
    /// Each frame's guidance (1, frames, 1, 1, 1), if the clip is guided. Then everything above has two halves: first
    /// without the keyframe (zeros), then with it.
    pub guidance: Option<Tensor>,
    /// Whether the two halves run one after the other: the same clip in half the memory, and a bit more time.
    pub is_sequential: bool,
    /// In how many pieces the UNet's feed-forward blocks take the tokens.
    pub feed_forward_pieces: i64,
    /// Ends the work between two layers.
    pub cancel: &'a Cancel,
}

impl Denoiser<'_> {
    /// Noisy latents (1, frames, channels, h, w) of noise level `sigma` -> clean ones. In and out in float32.
    ///
    /// # Errors
    /// Those of [`UNet::forward`].
    pub fn denoise(&self, latents: &Tensor, sigma: f32) -> Result<Tensor> {
        let variance = sigma * sigma + 1.0;
        let scaled = (latents / f64::from(variance.sqrt())).to_kind(self.image_latents.kind());
        let timestep = Tensor::from_slice(&[timestep(sigma)]).to_device(scaled.device());
        let clips = self.image_latents.size()[0];
        let at_once = if self.is_sequential { 1 } else { clips };
        let predict = |first: i64| {
            let [image_latents, context, ids] =
                [&self.image_latents, &self.context, &self.added_time_ids].map(|x| x.narrow(0, first, at_once));
            let input = Tensor::cat(&[scaled.repeat([at_once, 1, 1, 1, 1]), image_latents], 2);
            self.unet.forward(&input, &timestep, &context, &ids, self.feed_forward_pieces, self.cancel)
        };
        let v = (0..clips).step_by(at_once as usize).map(predict).collect::<Result<Vec<_>>>()?;
        let v = Tensor::cat(&v, 0).to_kind(latents.kind());
        let v = match &self.guidance {
            Some(scale) => guider::guide(&v, scale),
            None => v,
        };
        Ok(predicted(&v, latents, sigma))
    }
}

/// The clean latents that a prediction `v` for noisy `latents` of noise level `sigma` stands for.
pub fn predicted(v: &Tensor, latents: &Tensor, sigma: f32) -> Tensor {
    let variance = sigma * sigma + 1.0;
    v * f64::from(-sigma / variance.sqrt()) + latents / f64::from(variance)
}
