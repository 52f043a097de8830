// SPDX-License-Identifier: MPL-2.0
//! What is measured of this machine for a check: how quick its networks are with small pictures.

use std::path::Path;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use crate::engine::esrgan::{Model as Upscaler, ModelFile};
use crate::engine::pixels::Layout;
use crate::engine::rife;
use crate::engine::worker::Cancel;

/// The seconds that an upscaling network takes for a pixel, measured with a small picture.
pub fn seconds_per_pixel(file: ModelFile, device: Device) -> Option<f64> {
    const SIDE: i64 = 64;
    let kind = if device.is_cuda() { Kind::Half } else { Kind::Float };
    let cancel = Cancel::default();
    tch::no_grad(|| {
        let model = Upscaler::load(file, device, kind, &cancel).ok()?;
        let picture = Tensor::full([1, 3, SIDE, SIDE], 0.5, (Kind::Float, device));
        let run = || {
            let begun = Instant::now();
            let made = model.forward(&picture, &cancel).ok()?.mean(Kind::Float);
            made.double_value(&[]).is_finite().then(|| begun.elapsed().as_secs_f64())
        };
        run()?;
        Some(run()? / (SIDE * SIDE) as f64)
    })
}

/// The seconds that a frame between two takes for a pixel, measured with small pictures.
pub fn seconds_between(path: &Path, device: Device) -> Option<f64> {
    const SIDE: usize = 256;
    let kind = if device.is_cuda() { Kind::Half } else { Kind::Float };
    let cancel = Cancel::default();
    let layout = Layout::rgb(SIDE, SIDE, false)?;
    let grey = vec![128; layout.size()];
    tch::no_grad(|| {
        let mut model = rife::Model::load(path, device, kind, &cancel).ok()?;
        let mut run = || {
            let begun = Instant::now();
            let frame = rife::encode(&model, &grey, &layout, 1.0).ok()?;
            rife::begin(&mut model, &frame, &frame, rife::Time::new(1, 2).ok()?, &cancel).ok()?.finish().ok()?;
            Some(begun.elapsed().as_secs_f64())
        };
        run()?;
        Some(run()? / (SIDE * SIDE) as f64)
    })
}
