// SPDX-License-Identifier: MPL-2.0
//! How frames are interpolated: the parameters, their defaults and bounds, and times between two frames.

use super::Judgement;
use crate::engine::{Error, Result};

/// The scales that are possible, besides 0.
const SCALES: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// Pixels up to which frames are looked at in full, and up to which at half their size: frames that are a little larger
/// than 2560x1440 and than 4096x2160.
const FULL: usize = 2560 * 1600;
const HALF: usize = 4096 * 2304;

/// The parameters of interpolation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// The size at which motion is looked for over the frames' size: 0.25, 0.5, 1, 2 or 4, and 0 chooses by the size.
    /// Practical-RIFE's `scale`, which is 1 unless one says otherwise; its authors recommend 0.5 for 4K.
    pub scale: f64,
    /// The [cut](Judgement::cut) from which on two frames belong to different scenes, 0 to 1: nothing is to be
    /// interpolated between them. 0 is everywhere, and 1 nowhere.
    pub scene_threshold: f64,
    /// The [difference](Judgement::difference) up to which two frames are the same, 0 to 1 (full white).
    pub static_threshold: f64,
}

impl Default for Params {
    fn default() -> Self {
        Self { scale: 0.0, scene_threshold: 0.4, static_threshold: 0.01 }
    }
}

impl Params {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`Error::Param`] for the first value that is out of its range.
    pub fn validate(&self) -> Result<()> {
        if self.scale != 0.0 && !SCALES.contains(&self.scale) {
            return Err(Error::param("scale", self.scale, "use 0.25, 0.5, 1, 2 or 4, or 0 for one that fits the size"));
        }
        for (name, value) in [("scene_threshold", self.scene_threshold), ("static_threshold", self.static_threshold)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::param(name, value, "use 0 to 1"));
            }
        }
        Ok(())
    }

    /// Whether two frames of which this is told are of different scenes.
    pub fn is_cut(&self, told: &Judgement) -> bool {
        told.cut >= self.scene_threshold && self.scene_threshold < 1.0
    }

    /// Whether two frames of which this is told are the same.
    pub fn is_static(&self, told: &Judgement) -> bool {
        told.difference <= self.static_threshold
    }

    /// The scale for frames of `width` x `height`: what is set, or what fits.
    pub fn scale_for(&self, width: usize, height: usize) -> f64 {
        match (self.scale, width.saturating_mul(height)) {
            (0.0, ..=FULL) => 1.0,
            (0.0, ..=HALF) => 0.5,
            (0.0, _) => 0.25,
            (scale, _) => scale,
        }
    }
}

/// A time between two frames, from the first, 0, to the second, 1: an exact fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    numerator: u64,
    denominator: u64,
}

impl Time {
    /// The time `numerator` / `denominator`.
    ///
    /// # Errors
    /// [`Error::Param`] unless it is more than 0 and less than 1: there, the frames themselves are what is wanted.
    pub fn new(numerator: u64, denominator: u64) -> Result<Self> {
        if numerator == 0 || numerator >= denominator {
            let value = format!("{numerator}/{denominator}");
            return Err(Error::param("time", value, "use a fraction between 0 and 1"));
        }
        Ok(Self { numerator, denominator })
    }

    /// The time as a number.
    pub fn value(&self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_falls_as_frames_grow() {
        let auto = Params::default();
        auto.validate().unwrap();
        for (width, height, scale) in [(16, 16, 1.0), (1920, 1080, 1.0), (2560, 1440, 1.0), (3840, 2160, 0.5)] {
            assert_eq!(auto.scale_for(width, height), scale);
        }
        assert_eq!(auto.scale_for(7680, 4320), 0.25);
        assert_eq!(Params { scale: 2.0, ..auto }.scale_for(7680, 4320), 2.0);
    }

    #[test]
    fn errors_name_the_value_and_what_would_be_right() {
        let message = |params: Params| params.validate().unwrap_err().to_string();
        let params = Params::default();
        let wrong = message(Params { scale: 0.75, ..params });
        assert!(wrong.contains("scale=0.75") && wrong.contains("0.5, 1, 2"), "{wrong}");
        let wrong = message(Params { scene_threshold: f64::NAN, ..params });
        assert!(wrong.contains("scene_threshold=NaN"), "{wrong}");
        let wrong = message(Params { static_threshold: 1.5, ..params });
        assert!(wrong.contains("static_threshold=1.5"), "{wrong}");
        for (numerator, denominator) in [(0, 1), (1, 1), (3, 2), (0, 0)] {
            let message = Time::new(numerator, denominator).unwrap_err().to_string();
            assert!(message.contains(&format!("time={numerator}/{denominator}")), "{message}");
        }
        assert_eq!(Time::new(1, 4).unwrap().value(), 0.25);
    }
}
