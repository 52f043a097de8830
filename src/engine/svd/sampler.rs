// SPDX-License-Identifier: MPL-2.0
//! Euler's method down a schedule of noise levels.
//!
//! Algorithm 2 of arXiv:2206.00364 without its second-order correction; upstream: `EulerDiscreteScheduler.step`.

use tch::Tensor;

use crate::engine::Result;

/// Goes from `latents` at `sigmas[0]` down to the last of the `sigmas`. `denoise` gives the clean latents for noisy ones
/// of a noise level; `step` is told the number of steps done and the latents after each. Either may end the loop.
pub fn euler(
    mut latents: Tensor,
    sigmas: &[f32],
    mut denoise: impl FnMut(&Tensor, f32) -> Result<Tensor>,
    mut step: impl FnMut(usize, &Tensor) -> Result<()>,
) -> Result<Tensor> {
    for (i, pair) in sigmas.windows(2).enumerate() {
        let (now, next) = (pair[0], pair[1]);
        let slope = (&latents - denoise(&latents, now)?) / f64::from(now);
        latents += slope * f64::from(next - now);
        step(i + 1, &latents)?;
    }
    Ok(latents)
}
