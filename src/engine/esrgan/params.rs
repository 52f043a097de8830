// SPDX-License-Identifier: MPL-2.0
//! How a picture is upscaled: the parameters of Real-ESRGAN, their defaults and bounds, and the arithmetic of sizes.

use crate::engine::{Error, Result};

/// The largest `outscale`.
pub const MAX_OUTSCALE: f64 = 64.0;
/// The smallest `outscale` that is not 0.
const MIN_OUTSCALE: f64 = 1.0 / 64.0;
/// The largest tile and padding, in pixels.
const MAX_PIXELS: i64 = 1 << 20;

/// The parameters of upscaling. Names and meanings are those of Real-ESRGAN's `RealESRGANer`; of the defaults, those
/// of `outscale`, `tile` and `tile_pad` are its own choice instead of a fixed number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Params {
    /// The picture's final size over its size before; 0 is the network's own scale.
    pub outscale: f64,
    /// A picture that becomes larger by no more than this is resampled only, and no network looks at it; 0 is never.
    pub min_scale: f64,
    /// The side of the tiles in which the picture runs through the network, in pixels; 0 is as large as the memory allows.
    pub tile: i64,
    /// The pixels around a tile that the network sees too, against seams; -1 is as many as it needs.
    pub tile_pad: i64,
    /// The pixels that are added on the right and at the bottom first, against artifacts at these borders.
    pub pre_pad: i64,
    /// Bytes of the device's memory that may be taken, besides the network; 0 is what is free.
    pub max_memory: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self { outscale: 0.0, min_scale: 0.0, tile: 0, tile_pad: -1, pre_pad: 0, max_memory: 0 }
    }
}

impl Params {
    /// Checks every bound.
    ///
    /// # Errors
    /// [`Error::Param`] for the first value that is out of its range.
    pub fn validate(&self) -> Result<()> {
        if self.outscale != 0.0 && !(MIN_OUTSCALE..=MAX_OUTSCALE).contains(&self.outscale) {
            let expected = format!("use {MIN_OUTSCALE} to {MAX_OUTSCALE}, or 0 for the model's own scale");
            return Err(Error::param("outscale", self.outscale, expected));
        }
        if !(0.0..=MAX_OUTSCALE).contains(&self.min_scale) {
            let expected = format!("use 0 (the network always looks) to {MAX_OUTSCALE}");
            return Err(Error::param("min_scale", self.min_scale, expected));
        }
        let pixels = |name, value, least: i64, meaning: &str| {
            if (least..=MAX_PIXELS).contains(&value) {
                Ok(())
            } else {
                Err(Error::param(name, value, format!("use {least}{meaning} to {MAX_PIXELS}")))
            }
        };
        pixels("tile", self.tile, 0, " (as the memory allows)")?;
        pixels("tile_pad", self.tile_pad, -1, " (as the model needs)")?;
        pixels("pre_pad", self.pre_pad, 0, "")
    }

    /// The final size over the picture's, with a network of this scale.
    pub fn factor(&self, scale: i64) -> f64 {
        if self.outscale == 0.0 { scale as f64 } else { self.outscale }
    }
}

/// A side's length times `factor`, without its fraction, as upstream has it; at least one pixel.
pub fn scaled(side: i64, factor: f64) -> i64 {
    ((side as f64 * factor) as i64).max(1)
}

/// The first and the last length from 1 to `longest` that [`scaled`] brings into `low..=high`, if there is one.
pub fn unscaled(low: i64, high: i64, factor: f64, longest: i64) -> Option<(i64, i64)> {
    // The first length that comes out above `bound`. Scaled lengths never fall as lengths grow.
    let first_above = |bound: i64| {
        let (mut below, mut above) = (0, longest + 1);
        while above - below > 1 {
            let middle = below + (above - below) / 2;
            if scaled(middle, factor) > bound { above = middle } else { below = middle }
        }
        above
    };
    let (first, last) = (first_above(low - 1), first_above(high) - 1);
    (first <= last).then_some((first, last))
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
            (wrong(|p| p.outscale = -1.0), ["outscale=-1", "or 0 for the model's own"]),
            (wrong(|p| p.outscale = f64::NAN), ["outscale=NaN", "to 64"]),
            (wrong(|p| p.outscale = f64::INFINITY), ["outscale=inf", "to 64"]),
            (wrong(|p| p.tile = -5), ["tile=-5", "0 (as the memory allows) to"]),
            (wrong(|p| p.tile_pad = -2), ["tile_pad=-2", "use -1 (as the model needs) to"]),
            (wrong(|p| p.min_scale = -1.0), ["min_scale=-1", "use 0 (the network"]),
            (wrong(|p| p.pre_pad = i64::MAX), ["pre_pad=9223372036854775807", "to 1048576"]),
        ] {
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }

    #[test]
    fn every_length_is_found_back() {
        for factor in [4.0, 2.0, 1.0, 0.5, 0.3, 1.5, 3.7, 1.0 / 64.0] {
            for low in 1..40 {
                for high in low..40 {
                    let wanted: Vec<_> =
                        (1..=100).filter(|&side| (low..=high).contains(&scaled(side, factor))).collect();
                    let range = unscaled(low, high, factor, 100);
                    let all: Vec<_> = range.map_or(Vec::new(), |(first, last)| (first..=last).collect());
                    assert_eq!(all, wanted, "{low} to {high} by {factor}");
                }
            }
        }
        assert_eq!(unscaled(130, 130, 4.0, i32::MAX.into()), None);
        assert_eq!(unscaled(1, i32::MAX.into(), 1.0, i32::MAX.into()), Some((1, i32::MAX.into())));
    }
}
