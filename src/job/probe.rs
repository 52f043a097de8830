// SPDX-License-Identifier: MPL-2.0
//! What is looked at for a check: how quick networks are on this machine, with small pictures, and how long a sound is.

use std::fmt::Display;
use std::path::Path;
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use crate::engine::esrgan::{Model as Upscaler, ModelFile};
use crate::engine::pixels::Layout;
use crate::engine::rife;
use crate::engine::worker::Cancel;

/// How often a speed is measured.
const RUNS: usize = 5;

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
        Some(best(run)? / (SIDE * SIDE) as f64)
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
        let run = || {
            let begun = Instant::now();
            let frame = rife::encode(&model, &grey, &layout, 1.0).ok()?;
            rife::begin(&mut model, &frame, &frame, rife::Time::new(1, 2).ok()?, &cancel).ok()?.finish().ok()?;
            Some(begun.elapsed().as_secs_f64())
        };
        Some(best(run)? / (SIDE * SIDE) as f64)
    })
}

/// The shortest of some runs, behind one that warms up: other programs may have had the processor meanwhile.
fn best(mut run: impl FnMut() -> Option<f64>) -> Option<f64> {
    run()?;
    let runs: Option<Vec<_>> = (0..RUNS).map(|_| run()).collect();
    runs?.into_iter().reduce(f64::min)
}

/// The seconds of the sound in a file; `None` if the file does not tell.
///
/// # Errors
/// In words, if it can't be read, or has no sound.
pub fn sound(path: &Path) -> Result<Option<f64>, String> {
    let wrong = |reason: &dyn Display| format!("{}: {reason}", path.display());
    let path = std::path::absolute(path).map_err(|err| wrong(&err))?;
    std::fs::File::open(&path).map_err(|err| wrong(&err))?;
    let address = glib::filename_to_uri(&path, None).map_err(|err| wrong(&err))?;
    let found = gst_pbutils::Discoverer::new(gst::ClockTime::from_seconds(10))
        .and_then(|discoverer| discoverer.discover_uri(&address))
        .map_err(|err| wrong(&format!("it can't be read: {err}")))?;
    if found.audio_streams().is_empty() {
        return Err(wrong(&"it has no sound"));
    }
    Ok(found.duration().map(|duration| duration.nseconds() as f64 / 1e9))
}
