// SPDX-License-Identifier: MPL-2.0
//! Classifier-free guidance that grows along the clip.
//!
//! Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv:2207.12598; linear over the frames as in
//! section 4.3 of the SVD paper.

use tch::{Device, Kind, Tensor};

/// The guidance of each frame, on a line from `min` at the first to `max` at the last: (1, frames, 1, 1, 1).
pub fn linear(min: f64, max: f64, frames: i64, device: Device) -> Tensor {
    Tensor::linspace(min, max, frames, (Kind::Float, device)).view([1, -1, 1, 1, 1])
}

/// Predictions without and with the keyframe (2, frames, …) -> the guided one (1, frames, …).
pub fn guide(predictions: &Tensor, scale: &Tensor) -> Tensor {
    let halves = predictions.chunk(2, 0);
    &halves[0] + scale * (&halves[1] - &halves[0])
}
