// SPDX-License-Identifier: MPL-2.0
//! The noise levels that sampling goes down.
//!
//! Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364,
//! equation 5. Upstream: `diffusers/schedulers/scheduling_euler_discrete.py` with SVD's configuration (Karras sigmas,
//! v-prediction, continuous timesteps).

use serde::Deserialize;

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

    /// `steps` falling noise levels, then 0.
    pub fn sigmas(&self, steps: i64) -> Vec<f32> {
        const RHO: f64 = 7.0;
        let (start, end) = (self.sigma_max.powf(1.0 / RHO), self.sigma_min.powf(1.0 / RHO));
        let at = |i: i64| if steps == 1 { 0.0 } else { i as f64 / (steps - 1) as f64 };
        let sigmas = (0..steps).map(|i| (start + at(i) * (end - start)).powf(RHO) as f32);
        sigmas.chain([0.0]).collect()
    }
}

/// What the network is told of a noise level: a quarter of its logarithm.
pub fn timestep(sigma: f32) -> f32 {
    (0.25 * f64::from(sigma).ln()) as f32
}

/// The factor of the noise that sampling starts from.
pub fn initial_scale(sigma: f32) -> f64 {
    f64::from((sigma * sigma + 1.0).sqrt())
}
