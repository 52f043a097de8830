// SPDX-License-Identifier: MPL-2.0
//! Lanczos resampling of 8-bit pictures, to the byte as Pillow does it.
//!
//! diffusers brings a keyframe to the clip's size with Pillow, and a clip from the same seed needs the same picture.
//! Upstream: Pillow's `src/libImaging/Resample.c`: fixed-point weights of 22 bits, first along the rows, then along the
//! columns, rounded and clamped to a byte after each.

use std::f64::consts::PI;

/// The filter's reach to either side, in pixels of the coarser picture.
const REACH: f64 = 3.0;
/// The bits behind the point of a weight.
const BITS: u32 = 22;

/// The weights of the source pixels that one pixel is made of.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
    if (-REACH..REACH).contains(&x) { sinc(x) * sinc(x / REACH) } else { 0.0 }
}

/// The taps of each pixel of a row that goes from `from` to `to` pixels.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let widening = scale.max(1.0);
    let reach = REACH * widening;
    let pixel = |i: usize| {
        let center = (i as f64 + 0.5) * scale;
        let first = (center - reach + 0.5).max(0.0) as usize;
        let last = ((center + reach + 0.5) as usize).min(from);
        let weights: Vec<_> = (first..last).map(|x| lanczos((x as f64 - center + 0.5) / widening)).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / sum * f64::from(1 << BITS)).round() as i32;
        Taps { first, weights: weights.iter().map(fixed).collect() }
    };
    (0..to).map(pixel).collect()
}

fn weigh(taps: &Taps, value: impl Fn(usize) -> u8) -> u8 {
    let half = 1 << (BITS - 1);
    let sum =
        taps.weights.iter().enumerate().fold(half, |sum, (i, weight)| sum + weight * i32::from(value(taps.first + i)));
    (sum >> BITS).clamp(0, 255) as u8
}

/// Resamples a picture of `from` (width, height) pixels of `channels` bytes to `to`.
pub fn resample(data: &[u8], channels: usize, from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let rows = if from.0 == to.0 { data.to_vec() } else { along_rows(data, channels, from.0, to.0) };
    if from.1 == to.1 { rows } else { along_columns(&rows, to.0 * channels, from.1, to.1) }
}

fn along_rows(data: &[u8], channels: usize, from: usize, to: usize) -> Vec<u8> {
    let taps = taps(from, to);
    let mut result = Vec::with_capacity(data.len() / from * to);
    for row in data.chunks_exact(from * channels) {
        for taps in &taps {
            result.extend((0..channels).map(|channel| weigh(taps, |x| row[x * channels + channel])));
        }
    }
    result
}

fn along_columns(data: &[u8], row: usize, from: usize, to: usize) -> Vec<u8> {
    let mut result = Vec::with_capacity(row * to);
    for taps in taps(from, to) {
        result.extend((0..row).map(|x| weigh(&taps, |y| data[y * row + x])));
    }
    result
}
