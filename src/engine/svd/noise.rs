// SPDX-License-Identifier: MPL-2.0
//! The random numbers of a clip: those that diffusers draws from a CPU generator of the same seed.

use std::sync::Mutex;

use tch::{Device, Kind, Tensor};

/// Standard normal noise, on the CPU.
pub struct Noise {
    /// For the keyframe's pixels: (1, 3, height, width) in float32.
    pub picture: Tensor,
    /// For the latents, in the shape and kind that were asked for.
    pub latents: Tensor,
}

impl Noise {
    /// Draws the noise of one clip: first the picture's, always in float32 and even if it will be weighed by 0, then
    /// the latents' in `kind`. The order and the kind decide what comes out.
    pub fn draw(seed: i64, height: i64, width: i64, latents: &[i64], kind: Kind) -> Self {
        // tch knows only libtorch's global generator, so seeding and drawing are one critical section: no other clip
        // of this process can draw in between.
        static GENERATOR: Mutex<()> = Mutex::new(());
        let _alone = GENERATOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        tch::manual_seed(seed);
        Self {
            picture: Tensor::randn([1, 3, height, width], (Kind::Float, Device::Cpu)),
            latents: Tensor::randn(latents, (kind, Device::Cpu)),
        }
    }
}
