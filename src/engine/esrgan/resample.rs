// SPDX-License-Identifier: MPL-2.0
//! Bicubic resampling with antialiasing, of any part of a picture by itself.
//!
//! The same filter as PyTorch's `interpolate(mode="bicubic", antialias=True, align_corners=False)` and Pillow's: Keys'
//! cubic of -0.5, widened where the picture shrinks, with weights that add up to 1 at the borders, too. What differs is
//! that a part of the result is computed from a part of the picture, to the same values.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

/// Rows that are computed at once: the weights of so many take few zeros with them.
const BLOCK: i64 = 64;

/// The way from a side of so many pixels to one of so many others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resampler {
    from: i64,
    to: i64,
}

impl Resampler {
    /// From `from` pixels to `to`.
    pub fn new(from: i64, to: i64) -> Self {
        Self { from, to }
    }

    /// Whether nothing changes.
    pub fn is_identity(&self) -> bool {
        self.from == self.to
    }

    /// Pixels of the side before in one of the side after.
    fn step(&self) -> f64 {
        self.from as f64 / self.to as f64
    }

    /// The pixels of the side before that those of the side after are made of.
    pub fn reach(&self, wanted: &Range<i64>) -> Range<i64> {
        if self.is_identity() {
            return wanted.clone();
        }
        let (step, support) = (self.step(), 2.0 * self.step().max(1.0));
        let center = |pixel: i64| (pixel as f64 + 0.5) * step;
        let first = (center(wanted.start) - support).floor() as i64;
        let last = (center(wanted.end - 1) + support).ceil() as i64;
        first.max(0)..last.min(self.from)
    }

    /// The weights of the pixels `given` in the pixels `wanted`: (wanted, given) in float32.
    fn weights(&self, wanted: &Range<i64>, given: &Range<i64>, device: Device) -> Tensor {
        let (step, widening) = (self.step(), self.step().max(1.0));
        let centers = |range: &Range<i64>| Tensor::arange_start(range.start, range.end, (Kind::Double, device)) + 0.5;
        let x = ((centers(given) - (centers(wanted) * step).unsqueeze(1)) / widening).abs();
        let near = (&x * 1.5 - 2.5) * &x * &x + 1.0;
        let far = ((&x * -0.5 + 2.5) * &x - 4.0) * &x + 2.0;
        let weights = near.where_self(&x.lt(1.0), &far.where_self(&x.lt(2.0), &x.zeros_like()));
        let sums = weights.sum_dim_intlist([1i64].as_slice(), true, Kind::Double);
        (weights / sums).to_kind(Kind::Float)
    }

    /// The pixels `wanted` along the rows (`dim` 2) or the columns (`dim` 3) of `x`, (n, c, h, w) in float32, whose first
    /// along that side is the pixel `first`. All of [`Self::reach`] must be there.
    pub fn resample(&self, x: &Tensor, dim: i64, first: i64, wanted: &Range<i64>) -> Tensor {
        if self.is_identity() {
            return x.narrow(dim, wanted.start - first, wanted.end - wanted.start);
        }
        let block = |start: i64| {
            let wanted = start..(start + BLOCK).min(wanted.end);
            let given = self.reach(&wanted);
            let weights = self.weights(&wanted, &given, x.device());
            let part = x.narrow(dim, given.start - first, given.end - given.start);
            if dim == 2 { weights.matmul(&part) } else { part.matmul(&weights.tr()) }
        };
        let blocks: Vec<_> = wanted.clone().step_by(BLOCK as usize).map(block).collect();
        Tensor::cat(&blocks, dim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_equal_the_whole_and_pytorchs_own() {
        for (from, to) in [(7, 7), (1, 5), (300, 141), (141, 300), (256, 120), (64, 1), (5, 3), (130, 131)] {
            let x = Tensor::rand([2, 3, from, 9], (Kind::Float, Device::Cpu));
            // In float64, because in float32 it loses digits of where a pixel lies.
            let exact = x.to_kind(Kind::Double);
            let wanted = exact.internal_upsample_bicubic2d_aa([to, 9], false, None::<f64>, None::<f64>);
            let resampler = Resampler::new(from, to);
            let whole = resampler.resample(&x, 2, 0, &(0..to));
            let columns = resampler.resample(&x.transpose(2, 3).contiguous(), 3, 0, &(0..to)).transpose(2, 3);
            for seen in [&whole, &columns] {
                let error = (seen - &wanted).abs().max().double_value(&[]);
                assert!(error < 1e-6, "{from} to {to}: {error}");
            }
            for part in [0..1, to / 3..to / 2 + 1, to - 1..to] {
                let reach = resampler.reach(&part);
                let given = x.narrow(2, reach.start, reach.end - reach.start);
                let seen = resampler.resample(&given, 2, reach.start, &part);
                let error = (seen - whole.narrow(2, part.start, part.end - part.start)).abs().max().double_value(&[]);
                assert!(error < 1e-6, "{part:?} of {from} to {to}: {error}");
            }
        }
    }
}
