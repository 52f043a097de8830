// SPDX-License-Identifier: MPL-2.0
//! How far Real-ESRGAN's networks look: what two tiles side by side, with so many pixels around them, change in a
//! photograph.
//!
//! `cargo bench --bench reach [-- FILE.safetensors ...]`

use std::path::PathBuf;

use gsttorchvideo::engine::esrgan::{Model, Params, upscale};
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind};

fn main() {
    let file = |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    let mut models: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).map(PathBuf::from).collect();
    if models.is_empty() {
        let shipped = ["realesr-animevideov3", "RealESRGAN_x4plus_anime_6B", "RealESRGAN_x4plus"];
        models.extend(shipped.map(|name| file(&format!("models/realesrgan/{name}.safetensors"))));
    }
    let (width, height) = (320, 96);
    let photograph = Frame::open(&file("pipelines/keyframe.jpg")).unwrap().resize(width * 2, width);
    // A part at its full sharpness.
    let rows = photograph.data().chunks(width * 2 * 3).skip(height / 2).take(height);
    let part = Frame::new(width, height, 3, rows.flat_map(|row| &row[width / 2 * 3..][..width * 3]).copied().collect());
    for path in models.iter().filter(|path| path.exists()) {
        let mut model = Model::load(path, Device::Cpu, Kind::Float, &Cancel::default()).unwrap();
        println!("{}: {}", path.file_name().unwrap().to_string_lossy(), model.architecture());
        let mut run =
            |params| tch::no_grad(|| upscale(&mut model, &part, &params, &Cancel::default())).unwrap().picture;
        let whole = run(Params { tile: 1 << 20, ..Params::default() });
        for tile_pad in [8, 10, 12, 16, 24, 32, 48, 64, 80, 96] {
            let tiled = run(Params { tile: 160, tile_pad, ..Params::default() });
            let levels: Vec<_> = whole.data().iter().zip(tiled.data()).map(|(a, b)| a.abs_diff(*b)).collect();
            let beyond = levels.iter().filter(|level| **level > 1).count() as f64 / levels.len() as f64;
            let most = levels.iter().max().unwrap();
            println!("  {tile_pad:2} pixels: {:.4} % of values off by more than 1, at most {most}", 100.0 * beyond);
        }
    }
}
