// SPDX-License-Identifier: MPL-2.0
//! The recipe for weights and inputs agrees with its Python twin, bit for bit. The numbers are that one's.

mod common;

use common::recipe::{sample, uniform, weight};
use tch::Tensor;

fn bits(tensor: &Tensor, places: &[usize]) -> Vec<u32> {
    let values = Vec::<f32>::try_from(tensor.view(-1)).unwrap();
    places.iter().map(|&place| values[place].to_bits()).collect()
}

#[test]
fn values_are_those_of_the_python_recipe() {
    let values: Vec<_> = uniform("a.weight", &[4]).iter().map(|v| v * f64::from(1 << 23)).collect();
    assert_eq!(values, [2861049.0, -4543783.0, 6766819.0, 8007423.0]);
    assert_eq!(bits(&weight("conv.weight", &[2, 3, 3, 3]), &[0, 1, 53]), [3193202219, 1037733883, 1040430995]);
    let all = [0, 1, 2, 3, 4];
    let norm = [1064557800, 1063765805, 1065471534, 1064740285, 1063691835];
    assert_eq!(bits(&weight("norm.weight", &[5]), &all), norm);
    let bias = [1032727445, 1023844477, 1035076616, 3181919118, 1020936864];
    assert_eq!(bits(&weight("norm.bias", &[5]), &all), bias);
    assert_eq!(bits(&weight("x.mix_factor", &[1]), &[0]), [3187251536]);
    assert_eq!(bits(&sample("even", &[2, 3, 12, 8]), &[0, 100, 575]), [1031704448, 3195188952, 3206267594]);
}
