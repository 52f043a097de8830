// SPDX-License-Identifier: MPL-2.0
//! The noise levels that sampling goes down.
//!
//! Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364,
//! equation 5. Upstream: `diffusers/schedulers/scheduling_euler_discrete.py` with SVD's configuration (Karras sigmas,
//! v-prediction, continuous timesteps).

use serde::Deserialize;

use super::{Params, Schedule};

/// `scheduler/scheduler_config.json`, as far as it decides anything for SVD.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The noise level that sampling starts at.
    pub sigma_max: f64,
    /// The last noise level before none.
    pub sigma_min: f64,
    /// What the network predicts.
    pub prediction_type: String,
    /// What the network is told of the noise level.
    pub timestep_type: String,
    /// The noise levels' spacing.
    pub use_karras_sigmas: bool,
}

impl Default for Config {
    /// SVD's values.
    fn default() -> Self {
        Self {
            sigma_max: 700.0,
            sigma_min: 0.002,
            prediction_type: "v_prediction".into(),
            timestep_type: "continuous".into(),
            use_karras_sigmas: true,
        }
    }
}

impl Config {
    /// Says what is not possible about these values.
    pub fn check(&self) -> Result<(), String> {
        let is = [self.prediction_type.as_str(), self.timestep_type.as_str()];
        if is != ["v_prediction", "continuous"] || !self.use_karras_sigmas {
            return Err(format!(
                "prediction_type={}, timestep_type={} and use_karras_sigmas={} must be SVD's: v_prediction, continuous \
                 and true",
                self.prediction_type, self.timestep_type, self.use_karras_sigmas
            ));
        }
        if !(self.sigma_min > 0.0 && self.sigma_min < self.sigma_max && self.sigma_max.is_finite()) {
            return Err(format!("sigma_min={} must lie between 0 and sigma_max={}", self.sigma_min, self.sigma_max));
        }
        Ok(())
    }

    /// The falling noise levels of a clip, then 0.
    pub fn sigmas(&self, params: &Params) -> Vec<f32> {
        let steps = params.steps();
        let sigmas = match params.schedule {
            _ if !params.sigmas.is_empty() => params.sigmas[..steps as usize].to_vec(),
            Schedule::Karras => self.karras(steps),
            Schedule::Ays => ays(steps),
        };
        sigmas.into_iter().map(|sigma| sigma as f32).chain([0.0]).collect()
    }

    fn karras(&self, steps: i64) -> Vec<f64> {
        const RHO: f64 = 7.0;
        let (start, end) = (self.sigma_max.powf(1.0 / RHO), self.sigma_min.powf(1.0 / RHO));
        (0..steps).map(|i| (start + along(i, steps) * (end - start)).powf(RHO)).collect()
    }
}

/// Where step `i` of `steps` lies, from 0 to 1.
fn along(i: i64, steps: i64) -> f64 {
    if steps == 1 { 0.0 } else { i as f64 / (steps - 1) as f64 }
}

/// The steps of "Align Your Steps", on a logarithmic line between its ten.
fn ays(steps: i64) -> Vec<f64> {
    // Upstream: `AysSchedules["StableDiffusionVideoSigmas"]` of diffusers.
    const LEVELS: [f64; 10] = [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034];
    let level = |at: f64| {
        let below = (at as usize).min(LEVELS.len() - 2);
        let part = at - below as f64;
        match part {
            0.0 => LEVELS[below],
            1.0 => LEVELS[below + 1],
            _ => (LEVELS[below].ln() * (1.0 - part) + LEVELS[below + 1].ln() * part).exp(),
        }
    };
    (0..steps).map(|i| level(along(i, steps) * (LEVELS.len() - 1) as f64)).collect()
}

/// What the network is told of a noise level: a quarter of its logarithm.
pub fn timestep(sigma: f32) -> f32 {
    (0.25 * f64::from(sigma).ln()) as f32
}

/// The factor of the noise that sampling starts from.
pub fn initial_scale(sigma: f32) -> f64 {
    f64::from((sigma * sigma + 1.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_steps_are_the_papers() {
        let sigmas = |steps| {
            let params = Params { schedule: Schedule::Ays, num_inference_steps: steps, ..Params::default() };
            Config::default().sigmas(&params)
        };
        let ten = sigmas(10);
        assert_eq!(ten, [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.0]);
        // Nineteen have the ten, and nine in their middles.
        let more = sigmas(19);
        assert_eq!(more.iter().copied().step_by(2).take(10).collect::<Vec<_>>(), ten[..10]);
        assert!((more[1] - (700.0f32 * 54.5).sqrt()).abs() < 1e-3);
        assert!(more.windows(2).all(|pair| pair[0] > pair[1]));
        assert_eq!(sigmas(1), [700.0, 0.0]);
    }

    #[test]
    fn levels_by_hand_end_in_none() {
        let by_hand = |levels: &[f64]| {
            let params = Params { sigmas: levels.to_vec(), ..Params::default() };
            assert_eq!(params.steps(), 2);
            Config::default().sigmas(&params)
        };
        assert_eq!(by_hand(&[80.0, 2.0]), [80.0, 2.0, 0.0]);
        assert_eq!(by_hand(&[80.0, 2.0, 0.0]), [80.0, 2.0, 0.0]);
    }
}
