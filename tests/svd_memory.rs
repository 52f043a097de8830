// SPDX-License-Identifier: MPL-2.0
mod common;
use common::tiny_svd::write_tiny_svd;
use common::{file, noise};
use gsttorchvideo::engine::memory;
use gsttorchvideo::engine::svd::{Estimate, Event, Model, Params, Strategy, generate, inspect};
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind};

fn run(model: &mut Model, params: &Params) -> (Estimate, Strategy, Vec<u64>) {
    let mut got = None;
    let mut peaks = vec![];
    let keyframe = noise(params.width, params.height, 3);
    let s = tch::no_grad(|| {
        generate(model, &keyframe, params, &Cancel::default(), &mut |event| {
            println!(
                "{}",
                match &event {
                    Event::Decoded(_) => "decoded".into(),
                    e => format!("{e:?}"),
                }
            );
            if let Event::Planned(e, s) = event {
                got = Some((e, s));
            } else {
                if let Event::Decoding { .. } = &event {
                    return;
                }
                peaks.push(memory::usage(Device::Cpu).peak);
                memory::reset_peak(Device::Cpu);
            }
        })
    })
    .unwrap();
    println!("{s:?}");
    let (e, s) = got.unwrap();
    (e, s, peaks)
}

#[test]
fn explore() {
    memory::install();
    let folder = tempfile::tempdir().unwrap();
    write_tiny_svd(folder.path());
    for (path, kind) in [
        (folder.path().to_path_buf(), Kind::Float),
        (file("models/svd-nano"), Kind::Float),
        (file("models/svd-nano"), Kind::Half),
    ] {
        let base = memory::usage(Device::Cpu).current;
        let mut model = Model::load(&path, Device::Cpu, kind, &Cancel::default()).unwrap();
        println!("{path:?} {kind:?}: weights {}", memory::usage(Device::Cpu).current - base);
        for (w, h, f, max) in [(256, 144, 14, 3.0), (256, 144, 14, 1.0), (512, 288, 5, 3.0)] {
            let params = Params {
                width: w,
                height: h,
                num_frames: f,
                max_guidance_scale: max,
                num_inference_steps: 1,
                ..inspect(&path).unwrap().recommended
            };
            let (e, s, peaks) = run(&mut model, &params);
            for (need, peak) in [e.encode, e.denoise, e.decode].iter().zip(&peaks) {
                println!(
                    "   {w}x{h}x{f} {max}: estimate {:>12} measured {:>12} ratio {:.3}  {:.2}s",
                    need.bytes,
                    peak - base,
                    need.bytes as f64 / (peak - base) as f64,
                    need.seconds
                );
            }
            let _ = s;
        }
    }
}
