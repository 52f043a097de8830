// SPDX-License-Identifier: MPL-2.0
//! The seconds that a clip is estimated to take before the first one is made, beside those that it takes:
//! `cargo bench --bench estimate`. Other programs that run meanwhile show.

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::Path;

use common::file;
use common::tiny_svd::write_tiny_svd;
use gsttorchvideo::engine::device::DeviceChoice;
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::svd::{Event, Model, Params, generate};
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind};

fn main() {
    // As elements do it.
    DeviceChoice::Cpu.resolve().expect("there is a CPU");
    let folder = tempfile::tempdir().expect("no temporary folder");
    write_tiny_svd(folder.path());
    let nano = file("models/svd-nano");
    println!("                          encode            denoise           decode            left at the first step");
    for (path, width, height, num_frames, steps, guidance) in [
        (folder.path(), 64, 40, 3, 3, 1.0),
        (folder.path(), 256, 144, 14, 3, 3.0),
        (nano.as_path(), 256, 144, 14, 4, 1.0),
        (nano.as_path(), 128, 72, 14, 4, 3.0),
        (nano.as_path(), 512, 288, 14, 4, 1.0),
    ] {
        let params = Params {
            width,
            height,
            num_frames,
            num_inference_steps: steps,
            max_guidance_scale: guidance,
            ..Params::default()
        };
        row(path, &params);
    }
}

/// Loads the model anew and makes its first clip.
fn row(path: &Path, params: &Params) {
    let cancel = Cancel::default();
    let mut model = Model::load(path, Device::Cpu, Kind::Float, &cancel).expect("no model");
    let keyframe = Frame::open(&file("pipelines/keyframe.jpg")).expect("no picture");
    let (mut planned, mut left) = (None, None);
    let made = generate(&mut model, &keyframe, params, &cancel, &mut |event| match event {
        Event::Planned(estimate, _) => planned = Some(estimate),
        Event::Step { step: 1, seconds_left, .. } => left = Some(seconds_left),
        _ => {}
    });
    let [encode, denoise, decode] = made.expect("no clip").seconds;
    let (planned, left) = (planned.expect("no plan"), left.expect("no step"));
    let Params { width, height, num_frames, .. } = *params;
    let name = if path.ends_with("svd-nano") { "svd-nano" } else { "tiny" };
    print!("{:22}", format!("{name} {width}x{height}x{num_frames}"));
    let steps = params.num_inference_steps as f64;
    let really_left = denoise * (steps - 1.0) / steps + decode;
    for (estimated, taken) in [
        (planned.encode.seconds, encode),
        (planned.denoise.seconds, denoise),
        (planned.decode.seconds, decode),
        (left, really_left),
    ] {
        print!("  {estimated:5.2}/{taken:5.2} {:4.2}", estimated / taken);
    }
    println!();
}
