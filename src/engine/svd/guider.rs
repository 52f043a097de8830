// SPDX-License-Identifier: MPL-2.0
//! Classifier-free guidance that changes along the clip.
//!
//! Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv:2207.12598; linear over the frames as in
//! section 4.3 of the SVD paper. Upstream: `sgm/modules/diffusionmodules/guiders.py`, `LinearPredictionGuider` and
//! `TrianglePredictionGuider`.

use tch::{Device, Kind, Tensor};

use super::GuidanceShape;

/// The guidance of each frame between `min` and `max`: (1, frames, 1, 1, 1).
pub fn scales(shape: GuidanceShape, min: f64, max: f64, frames: i64, device: Device) -> Tensor {
    let along = Tensor::linspace(0.0, 1.0, frames, (Kind::Float, device));
    let scales = match shape {
        GuidanceShape::Linear => Tensor::linspace(min, max, frames, (Kind::Float, device)),
        GuidanceShape::Triangle => (1.0 - (along * 2.0 - 1.0).abs()) * (max - min) + min,
        GuidanceShape::Constant => Tensor::full([frames], max, (Kind::Float, device)),
    };
    scales.view([1, -1, 1, 1, 1])
}

/// Predictions without and with the keyframe (2, frames, …) -> the guided one (1, frames, …).
pub fn guide(predictions: &Tensor, scale: &Tensor) -> Tensor {
    let halves = predictions.chunk(2, 0);
    &halves[0] + scale * (&halves[1] - &halves[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_their_ends_and_their_middle() {
        for (shape, wanted) in [
            (GuidanceShape::Linear, [1.0, 1.5, 2.0, 2.5, 3.0]),
            (GuidanceShape::Triangle, [1.0, 2.0, 3.0, 2.0, 1.0]),
            (GuidanceShape::Constant, [3.0; 5]),
        ] {
            let seen = scales(shape, 1.0, 3.0, 5, Device::Cpu);
            assert_eq!(seen.size(), [1, 5, 1, 1, 1]);
            assert_eq!(Vec::<f64>::try_from(seen.view(-1).to_kind(Kind::Double)).unwrap(), wanted, "{shape:?}");
        }
    }
}
