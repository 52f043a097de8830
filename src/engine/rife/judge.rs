// SPDX-License-Identifier: MPL-2.0
//! Whether two frames are of one scene, and whether they are the same.
//!
//! Frames are of one scene if most of their parts are found again nearby. Parts are compared by their correlation,
//! which neither a fade nor a flash changes, and plain ones, which have no pattern, by their brightness. A mean
//! difference of pixels, which other tools take, can't tell a fast pan or a flash from a cut.

use tch::{Kind, Tensor};

use crate::engine::Result;

/// The longer side that frames are made small to, for the scene.
const SMALL: f64 = 64.0;
/// The side of a part, of the small frame, and how far parts are from one another.
const PART: [i64; 2] = [8, 8];
const STEP: [i64; 2] = [4, 4];
/// How far a part is looked for, in each direction: a sixteenth of the frame.
const REACH: i64 = 4;
/// The variance below which a pattern is noise: 4 levels of 255, squared.
const NOISE: f64 = 2.5e-4;
/// The difference of brightness from which on plain parts are others.
const LEVEL: f64 = 0.15;
/// The side of the squares in which the difference is averaged.
const SQUARE: i64 = 8;

/// What of a frame is looked at. Clones are the same memory.
pub struct Look {
    /// (1, 3, h, w).
    picture: Tensor,
    /// Its luma, made small: (1, 1, rows, columns).
    small: Tensor,
}

/// What is told of two frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judgement {
    /// How much of the first frame is not found again in the second, 0 to 1.
    pub cut: f64,
    /// The difference in the square of 8 x 8 pixels where it is largest, 0 to 1 (black and white).
    pub difference: f64,
}

impl Clone for Look {
    fn clone(&self) -> Self {
        Self { picture: self.picture.shallow_clone(), small: self.small.shallow_clone() }
    }
}

impl Look {
    /// Looks at a picture (1, 3 or 4, h, w), float32 in [0, 1].
    pub fn new(picture: &Tensor) -> Self {
        let picture = picture.narrow(1, 0, 3);
        let size = picture.size();
        let longer = size[2].max(size[3]) as f64;
        let side = |length: i64| ((length as f64 * SMALL / longer).round() as i64).max(2 * PART[0]);
        let shares = Tensor::from_slice(&[0.299f32, 0.587, 0.114]).view([1, 3, 1, 1]).to_device(picture.device());
        // The mean first: luma is then of few pixels.
        let small = picture.adaptive_avg_pool2d([side(size[2]), side(size[3])]) * shares;
        Self { small: small.sum_dim_intlist([1i64].as_slice(), true, Kind::Float), picture }
    }

    /// Compares it with a look at the frame behind it, which is of the same size.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::engine::Error::Torch) if the sizes differ.
    pub fn compare(&self, next: &Self) -> Result<Judgement> {
        let told = Tensor::stack(&[self.cut(next), self.difference(next)], 0);
        let told = Vec::<f32>::try_from(told)?;
        Ok(Judgement { cut: told[0].into(), difference: told[1].into() })
    }

    fn cut(&self, next: &Self) -> Tensor {
        let size = self.small.size();
        let (rows, columns) = (size[2], size[3]);
        // The next frame, shifted by everything within reach: (shifts, 1, rows, columns).
        let shifted = next.small.replication_pad2d([REACH; 4]).unfold(2, rows, 1).unfold(3, columns, 1);
        let shifted = shifted.reshape([-1, 1, rows, columns]);
        let mean = |x: &Tensor| x.avg_pool2d(PART, STEP, [0, 0], false, true, None::<i64>);
        let (first, second) = (mean(&self.small), mean(&shifted));
        let variance = |x: &Tensor, m: &Tensor| (mean(&(x * x)) - m * m).clamp_min(0.0) + NOISE;
        let both = mean(&(&self.small * &shifted)) - &first * &second;
        let is_level = ((&first - &second).abs() * (-1.0 / LEVEL) + 1.0).clamp_min(0.0);
        let alike = (both + is_level * NOISE) / (variance(&self.small, &first) * variance(&shifted, &second)).sqrt();
        let found = alike.amax([0i64].as_slice(), false).clamp(0.0, 1.0);
        found.mean(Kind::Float).neg() + 1.0
    }

    fn difference(&self, next: &Self) -> Tensor {
        let change = (&self.picture - &next.picture).abs().mean_dim([1i64].as_slice(), true, Kind::Float);
        let size = change.size();
        let square = [SQUARE.min(size[2]), SQUARE.min(size[3])];
        change.avg_pool2d(square, square, [0, 0], true, false, None::<i64>).max()
    }
}
