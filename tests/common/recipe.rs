// SPDX-License-Identifier: MPL-2.0
//! Reproducible pseudo-random tensors from a name and a shape: the same values, bit for bit, as
//! `tests/reference/recipe.py`, where the recipe is told.

use tch::Tensor;

/// Values in [-1, 1) for `name`, in row-major order.
pub fn uniform(name: &str, shape: &[i64]) -> Vec<f64> {
    let seed = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325u64, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    let count = shape.iter().product::<i64>() as u64;
    (1..=count)
        .map(|i| {
            let mut z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (z >> 40) as f64 / f64::from(1 << 23) - 1.0
        })
        .collect()
}

fn tensor(values: impl Iterator<Item = f64>, shape: &[i64]) -> Tensor {
    Tensor::from_slice(&values.map(|value| value as f32).collect::<Vec<_>>()).view(shape)
}

/// The float32 weight called `name`.
pub fn weight(name: &str, shape: &[i64]) -> Tensor {
    let values = uniform(name, shape).into_iter();
    if shape.len() >= 2 {
        let fan_in = shape[1..].iter().product::<i64>() as f64;
        tensor(values.map(|v| v * (3.0 / fan_in).sqrt()), shape)
    } else if name.ends_with(".weight") {
        tensor(values.map(|v| 1.0 + 0.1 * v), shape)
    } else if name.ends_with("mix_factor") {
        tensor(values, shape)
    } else {
        tensor(values.map(|v| 0.1 * v), shape)
    }
}

/// The float32 input called `name`, in [-1, 1).
pub fn sample(name: &str, shape: &[i64]) -> Tensor {
    tensor(uniform(name, shape).into_iter(), shape)
}
