// SPDX-License-Identifier: MPL-2.0
//! What a clip is made from: the parameters of Stable Video Diffusion, their defaults and bounds.

use serde::{Deserialize, Serialize};

use crate::engine::image::Fit;
use crate::engine::{Error, Result};

/// The parameters of one clip. Names, meanings and defaults are diffusers' (`StableVideoDiffusionPipeline.__call__`),
/// except that a seed is always set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Params {
    /// Frames in the clip, 1 to [`MAX_FRAMES`].
    pub num_frames: i64,
    /// The clip's width in pixels: a multiple of 8.
    pub width: i64,
    /// The clip's height in pixels: a multiple of 8.
    pub height: i64,
    /// How the keyframe is brought to that shape.
    pub keyframe_fit: Fit,
    /// Frames per second that the model is told, 1 and above. It was trained on whole numbers from 5 to 30.
    pub fps: f64,
    /// How much the clip moves, 1 to 255 in training.
    pub motion_bucket_id: f64,
    /// The standard deviation of the noise on the keyframe, in its range of [-1, 1]; 0 and above.
    pub noise_aug_strength: f64,
    /// Denoising steps, 1 to 1000.
    pub num_inference_steps: i64,
    /// How the noise levels that the steps go down are spaced.
    pub schedule: Schedule,
    /// The noise levels themselves, falling; they go before `schedule` and `num_inference_steps`. A 0 at the end may be
    /// left out. None is as those say.
    pub sigmas: Vec<f64>,
    /// The lowest guidance along the clip.
    pub min_guidance_scale: f64,
    /// The highest guidance along the clip.
    pub max_guidance_scale: f64,
    /// How guidance goes from one to the other.
    pub guidance_shape: GuidanceShape,
    /// Frames that are on the device at once while the clip is decoded; 0 is as many as the memory holds (in
    /// [`DecodeMode::Reference`]: all).
    pub decode_chunk_size: i64,
    /// Whether chunks know of one another.
    pub decode_mode: DecodeMode,
    /// Bytes of the device's memory that may be taken; 0 is what is free.
    pub max_memory: u64,
    /// The seed of the noise.
    pub seed: i64,
}

/// The spacing of the noise levels that sampling goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Karras et al., as SVD's own scheduler has it.
    #[default]
    Karras,
    /// The ten levels that "Align Your Steps" (Sabour et al., 2024, arXiv:2404.14507) found for SVD; other numbers of
    /// steps lie between them on a logarithmic line.
    Ays,
}

/// How guidance goes along the clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuidanceShape {
    /// From the minimum at the first frame to the maximum at the last.
    #[default]
    Linear,
    /// From the minimum at both ends to the maximum in the middle: for clips that come back to their keyframe.
    Triangle,
    /// The maximum at every frame.
    Constant,
}

/// How a clip that is decoded in chunks is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodeMode {
    /// As if it were decoded at once, whatever the chunks.
    #[default]
    Exact,
    /// As diffusers does it: chunk by chunk, each as if there were no other. They flicker where they meet.
    Reference,
}

/// The longest clip. SVD knows 14 and SVD-XT 25 frames; beyond that a longer clip mostly costs memory.
pub const MAX_FRAMES: i64 = 1024;
/// The longest side of a clip, in pixels.
pub const MAX_SIDE: i64 = 16_384;

impl Default for Params {
    fn default() -> Self {
        Self {
            num_frames: 14,
            width: 1024,
            height: 576,
            keyframe_fit: Fit::Crop,
            fps: 7.0,
            motion_bucket_id: 127.0,
            noise_aug_strength: 0.02,
            num_inference_steps: 25,
            schedule: Schedule::Karras,
            sigmas: Vec::new(),
            min_guidance_scale: 1.0,
            max_guidance_scale: 3.0,
            guidance_shape: GuidanceShape::Linear,
            decode_chunk_size: 0,
            decode_mode: DecodeMode::Exact,
            max_memory: 0,
            seed: 42,
        }
    }
}

impl Params {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`Error::Param`] for the first value that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let within = |name, value: i64, low: i64, high: i64| {
            if (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(Error::param(name, value, format!("use {low} to {high}")))
            }
        };
        let side = |name, value: i64| {
            within(name, value, 8, MAX_SIDE)?;
            if value % 8 == 0 {
                return Ok(());
            }
            let below = value / 8 * 8;
            Err(Error::param(name, value, format!("use a multiple of 8, as {below} or {}", below + 8)))
        };
        let from = |name, value: f64, low: f64| {
            if value.is_finite() && value >= low {
                Ok(())
            } else {
                Err(Error::param(name, value, format!("use a number from {low}")))
            }
        };
        side("width", self.width)?;
        side("height", self.height)?;
        within("num_frames", self.num_frames, 1, MAX_FRAMES)?;
        within("num_inference_steps", self.num_inference_steps, 1, 1000)?;
        if !self.sigmas.is_empty() {
            check_sigmas(&self.sigmas)?;
        }
        within("decode_chunk_size", self.decode_chunk_size, 0, MAX_FRAMES)?;
        from("fps", self.fps, 1.0)?;
        from("motion_bucket_id", self.motion_bucket_id, 0.0)?;
        from("noise_aug_strength", self.noise_aug_strength, 0.0)?;
        from("min_guidance_scale", self.min_guidance_scale, 0.0)?;
        from("max_guidance_scale", self.max_guidance_scale, 0.0)
    }

    /// Denoising steps that are made.
    pub fn steps(&self) -> i64 {
        let levels = self.sigmas.strip_suffix(&[0.0]).unwrap_or(&self.sigmas);
        if levels.is_empty() { self.num_inference_steps } else { levels.len() as i64 }
    }

    /// Whether the network runs twice a step, with and without the keyframe. Upstream asks the maximum alone, and so
    /// drops a ramp that starts above 1 and falls.
    pub fn is_guided(&self) -> bool {
        match self.guidance_shape {
            GuidanceShape::Constant => self.max_guidance_scale > 1.0,
            GuidanceShape::Linear | GuidanceShape::Triangle => {
                self.min_guidance_scale.max(self.max_guidance_scale) > 1.0
            }
        }
    }
}

/// Checks noise levels that were given by hand.
fn check_sigmas(sigmas: &[f64]) -> Result<()> {
    let wrong = |value: String, expected| Err(Error::param("sigmas", value, expected));
    let levels = sigmas.strip_suffix(&[0.0]).unwrap_or(sigmas);
    if levels.is_empty() || levels.len() > 1000 {
        return wrong(format!("{sigmas:?}"), "use 1 to 1000 noise levels, falling from 700 or so");
    }
    if let Some(level) = levels.iter().find(|level| !(level.is_finite() && **level > 0.0)) {
        return wrong(level.to_string(), "use numbers above 0; only the last may be 0");
    }
    if let Some(pair) = levels.windows(2).find(|pair| pair[0] <= pair[1]) {
        return wrong(format!("…, {}, {}, …", pair[0], pair[1]), "each noise level must be lower than the one before");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        Params::default().validate().unwrap();
    }

    #[test]
    fn errors_name_the_value_and_what_would_be_right() {
        let wrong = |change: fn(&mut Params)| {
            let mut params = Params::default();
            change(&mut params);
            params.validate().unwrap_err().to_string()
        };
        for (message, parts) in [
            (wrong(|p| p.width = 1001), ["width=1001", "1000 or 1008"]),
            (wrong(|p| p.height = 0), ["height=0", "8 to 16384"]),
            (wrong(|p| p.num_inference_steps = 0), ["num_inference_steps=0", "1 to 1000"]),
            (wrong(|p| p.num_frames = -1), ["num_frames=-1", "1 to 1024"]),
            (wrong(|p| p.fps = 0.5), ["fps=0.5", "from 1"]),
            (wrong(|p| p.noise_aug_strength = f64::NAN), ["noise_aug_strength=NaN", "from 0"]),
        ] {
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }

    #[test]
    fn either_end_of_the_ramp_switches_guidance_on() {
        let guided =
            |min, max| Params { min_guidance_scale: min, max_guidance_scale: max, ..Params::default() }.is_guided();
        assert!(guided(1.0, 3.0) && guided(3.0, 1.0) && !guided(1.0, 1.0) && !guided(0.0, 0.5));
        let constant = GuidanceShape::Constant;
        assert!(
            !Params { max_guidance_scale: 1.0, min_guidance_scale: 2.0, guidance_shape: constant, ..Params::default() }
                .is_guided()
        );
    }

    #[test]
    fn noise_levels_must_fall() {
        let check = |levels: &[f64]| Params { sigmas: levels.to_vec(), ..Params::default() }.validate();
        check(&[]).unwrap();
        check(&[700.0, 1.0]).unwrap();
        check(&[700.0, 1.0, 0.0]).unwrap();
        for (levels, part) in [
            (&[0.0][..], "1 to 1000"),
            (&[5.0, 0.0, 0.0], "only the last may be 0"),
            (&[5.0, f64::NAN], "sigmas=NaN"),
            (&[5.0, 5.0], "5, 5"),
            (&[1.0, 2.0, 0.0], "1, 2"),
        ] {
            let message = check(levels).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
