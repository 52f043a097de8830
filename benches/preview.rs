// SPDX-License-Identifier: MPL-2.0
//! What previews take of denoising: `cargo bench --bench preview`, with svd-nano at its own size, on the CPU.
//!
//! A step and its preview are timed within the same run, so that other programs burden both. The map that previews need of
//! a model that brings none is timed, too.

use std::path::Path;
use std::time::Instant;

use gsttorchvideo::engine::device::DeviceChoice;
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::svd::vae::Vae;
use gsttorchvideo::engine::svd::{Event, Extras, Factors, Model, Network, Params, Source, generate_with};
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind};

fn main() {
    // As elements do it.
    DeviceChoice::Cpu.resolve().expect("there is a CPU");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (folder, cancel) = (root.join("models/svd-nano"), Cancel::default());
    let keyframe = Frame::open(&root.join("pipelines/keyframe.jpg")).expect("no picture");
    let source = Source::open(&folder, None).expect("no model");
    let mut model = Model::load(&folder, Device::Cpu, Kind::Float, &cancel).expect("no model");
    let params = Params { decode_chunk_size: 1, ..source.info.recommended.clone() };

    let (mut last, mut steps, mut previews) = (Instant::now(), vec![], vec![]);
    let extras = Extras { is_watched: &|| true, ..Extras::default() };
    let made = tch::no_grad(|| {
        generate_with(&mut model, &keyframe, &params, extras, &cancel, &mut |event| {
            match event {
                Event::Step { .. } => steps.push(last.elapsed().as_secs_f64()),
                Event::Preview(_) => previews.push(last.elapsed().as_secs_f64()),
                // Decoding is of no interest here.
                Event::Decoding { .. } => cancel.cancel(),
                _ => {}
            }
            last = Instant::now();
        })
    });
    assert!(made.is_err(), "it was cancelled");
    let [step, preview] = [&steps, &previews].map(|seconds| seconds.iter().sum::<f64>() / seconds.len() as f64);
    println!(
        "{} steps of {:.1} ms, with previews of {:.2} ms each: {:.3} %; the most of a step {:.3} %",
        steps.len(),
        1e3 * step,
        1e3 * preview,
        100.0 * preview / step,
        100.0 * previews.iter().zip(&steps).map(|(preview, step)| preview / step).fold(0.0, f64::max)
    );

    let cancel = Cancel::default();
    let weights = source.weights(Network::Vae, Device::Cpu, Kind::Float, &cancel).expect("no weights");
    let vae = Vae::new(weights.root(), &source.info.vae);
    weights.finish().expect("no weights");
    let start = Instant::now();
    tch::no_grad(|| Factors::fit(&vae, &source.info.vae, Device::Cpu, &cancel)).expect("no map");
    println!("a map fitted in {:.1} ms, once for a model", 1e3 * start.elapsed().as_secs_f64());
}
