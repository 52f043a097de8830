// SPDX-License-Identifier: MPL-2.0
//! The weights and inputs that `tests/reference/recipe.py` gave the reference implementations, bit for bit.

/// Values in [-1, 1) for `name`, in row-major order.
pub fn uniform(name: &str, shape: &[i64]) -> Vec<f64> {
    let mut state = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
    (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let z = z ^ (z >> 31);
            (z >> 40) as f64 / f64::from(1 << 23) - 1.0
        })
        .collect()
}

/// The weight called `name`.
pub fn weight(name: &str, shape: &[i64]) -> Vec<f32> {
    let scale = (3.0 / shape.iter().skip(1).product::<i64>() as f64).sqrt();
    let role = |v: f64| match shape.len() {
        0 | 1 if name.ends_with("mix_factor") => v,
        0 | 1 if name.ends_with(".weight") => 1.0 + 0.1 * v,
        0 | 1 => 0.1 * v,
        _ => v * scale,
    };
    uniform(name, shape).into_iter().map(|v| role(v) as f32).collect()
}

/// The input called `name`.
pub fn sample(name: &str, shape: &[i64]) -> Vec<f32> {
    uniform(name, shape).into_iter().map(|v| v as f32).collect()
}

#[test]
fn the_recipe_is_the_reference_s() {
    // Printed by recipe.py.
    assert_eq!(
        weight("a.weight", &[2, 3]),
        [0.341_063_62, -0.541_661_14, 0.806_667_7, 0.954_559_2, -0.913_972, -0.543_264_27]
    );
}
