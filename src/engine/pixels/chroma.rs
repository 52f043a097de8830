// SPDX-License-Identifier: MPL-2.0
//! Chroma to full resolution and back: GStreamer's filters, `video-chroma.c`, with its edges.

use tch::Tensor;

/// Rounds to integers, halves up.
fn round(mut numbers: Tensor) -> Tensor {
    numbers.g_add_scalar_(0.5).floor_()
}

/// Twice the numbers along the dimension `dim`: out of n, 2n. Beyond its ends, the first and last number go on.
/// `cosited`: a number lies on the first of its two pixels, else between them. `rounds`: the new numbers are integers.
pub(super) fn double(x: &Tensor, dim: i64, cosited: bool, rounds: bool) -> Tensor {
    let n = x.size()[dim as usize];
    let round = |numbers| if rounds { round(numbers) } else { numbers };
    // Each number's neighbour after it and before it.
    let after = Tensor::cat(&[x.narrow(dim, n.min(1), n - 1), x.narrow(dim, n - 1, 1)], dim);
    let (first, second) = if cosited {
        (x.shallow_clone(), round((x + after).g_mul_scalar_(0.5)))
    } else {
        let before = Tensor::cat(&[x.narrow(dim, 0, 1), x.narrow(dim, 0, n - 1)], dim);
        let near = x * 0.75;
        (round(&near + before * 0.25), round(near + after * 0.25))
    };
    Tensor::stack(&[first, second], dim + 1).flatten(dim, dim + 1)
}

/// Twice the numbers along the dimension `dim`, each one two times.
pub(super) fn repeat(x: &Tensor, dim: i64) -> Tensor {
    Tensor::stack(&[x, x], dim + 1).flatten(dim, dim + 1)
}

/// Half the numbers along the dimension `dim`: the rounded means of pairs. A last one that has no partner stays.
pub(super) fn halve(x: &Tensor, dim: i64) -> Tensor {
    let n = x.size()[dim as usize];
    let half = x.slice(dim, 0, n, 2).copy();
    let mut pairs = half.narrow(dim, 0, n / 2);
    pairs += x.slice(dim, 1, n, 2);
    let _ = pairs.g_mul_scalar_(0.5);
    round(half)
}

/// Half the numbers along the dimension `dim`, where chroma lies on the first of two pixels: 1/4, 1/2, 1/4 about each,
/// rounded.
/// At the ends there is nothing beyond; as in GStreamer, neither is there after the last but one.
pub(super) fn halve_cosited(x: &Tensor, dim: i64) -> Tensor {
    let n = x.size()[dim as usize];
    if n == 1 {
        return x.copy();
    }
    let own = x.slice(dim, 0, n, 2);
    let count = own.size()[dim as usize];
    let between = x.slice(dim, 1, n, 2).narrow(dim, 0, (count - 1).max(1));
    let (before, after) = if count == 1 {
        (own.shallow_clone(), between)
    } else {
        let before = Tensor::cat(&[&own.narrow(dim, 0, 1), &between], dim);
        (before, Tensor::cat(&[&between, &own.narrow(dim, count - 1, 1)], dim))
    };
    let mut half = own * 0.5;
    half += (before + after).g_mul_scalar_(0.25);
    round(half)
}

/// Half the numbers along the dimension `dim`: the first of two.
pub(super) fn drop(x: &Tensor, dim: i64) -> Tensor {
    x.slice(dim, 0, x.size()[dim as usize], 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(numbers: &[f32]) -> Tensor {
        Tensor::from_slice(numbers).view([1, -1])
    }

    #[test]
    fn numbers_between_pixels_are_doubled_by_quarters() {
        assert_eq!(double(&row(&[0.0, 8.0]), 1, false, true), row(&[0.0, 2.0, 6.0, 8.0]));
        assert_eq!(double(&row(&[0.0, 1.0]), 1, false, false), row(&[0.0, 0.25, 0.75, 1.0]));
        assert_eq!(double(&row(&[5.0]), 1, false, true), row(&[5.0, 5.0]));
    }

    #[test]
    fn numbers_on_pixels_stay_when_doubled() {
        assert_eq!(double(&row(&[0.0, 1.0, 9.0]), 1, true, true), row(&[0.0, 1.0, 1.0, 5.0, 9.0, 9.0]));
    }

    #[test]
    fn pairs_are_halved_to_their_means() {
        assert_eq!(halve(&row(&[1.0, 2.0, 4.0, 4.0, 7.0]), 1), row(&[2.0, 4.0, 7.0]));
        assert_eq!(halve(&row(&[1.0]), 1), row(&[1.0]));
    }

    #[test]
    fn halving_to_the_first_pixel_looks_to_both_sides_but_at_the_ends() {
        assert_eq!(halve_cosited(&row(&[0.0, 4.0, 8.0, 16.0, 0.0, 4.0]), 1), row(&[1.0, 9.0, 4.0]));
        assert_eq!(halve_cosited(&row(&[0.0, 4.0, 8.0]), 1), row(&[1.0, 7.0]));
        assert_eq!(halve_cosited(&row(&[0.0, 4.0]), 1), row(&[1.0]));
        assert_eq!(halve_cosited(&row(&[3.0]), 1), row(&[3.0]));
    }
}
