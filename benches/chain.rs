// SPDX-License-Identifier: MPL-2.0
//! How far brightness, contrast and saturation drift over eight chained clips, with and without the anchor.
//!
//! `cargo bench --bench chain [-- WIDTHxHEIGHT]`; with svd-nano.

use std::path::Path;

use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::svd::anchor::{Statistics, anchor};
use gsttorchvideo::engine::svd::{Event, Model, Params, Source, generate};
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind};

const CLIPS: i64 = 8;

fn main() {
    let size = std::env::args().skip(1).find_map(|arg| {
        let (width, height) = arg.split_once('x')?;
        Some((width.parse().ok()?, height.parse().ok()?))
    });
    let (width, height) = size.unwrap_or((256, 144));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = Source::open(&root.join("models/svd-nano"), None).unwrap();
    let mut model =
        Model::from_source(&source, Device::Cpu, Kind::Float, &Cancel::default(), &Default::default()).unwrap();
    let params = Params { width, height, ..source.info.recommended.clone() };
    let keyframe = Frame::open(&root.join("pipelines/keyframe.jpg")).unwrap();
    let shown = keyframe.with_aspect_of(width as usize, height as usize, params.keyframe_fit).unwrap();
    let shown = shown.resize(width as usize, height as usize);
    let first = Statistics::of(&shown).unwrap();

    println!("{width}x{height}, in levels of 255 against the keyframe: mean Y, Cb, Cr; contrast, saturation");
    for is_anchored in [false, true] {
        println!("{}", if is_anchored { "with the anchor" } else { "without" });
        let mut keyframe = keyframe.clone();
        for clip in 0..CLIPS {
            let params = Params { seed: params.seed + clip, ..params.clone() };
            let mut frames = Vec::new();
            let mut take = |event| {
                if let Event::Decoded(decoded) = event {
                    frames.extend(decoded);
                }
            };
            generate(&mut model, &keyframe, &params, &Cancel::default(), &mut take).unwrap();
            if is_anchored {
                anchor(&mut frames, &first).unwrap();
            }
            keyframe = frames.pop().unwrap();
            let last = Statistics::of(&keyframe).unwrap();
            let means = last.mean.iter().zip(first.mean).map(|(last, first)| last - first);
            let deviations = last.deviation.iter().zip(first.deviation).map(|(last, first)| last - first);
            let drift: Vec<_> = means.chain(deviations).map(|drift| format!("{:+6.1}", 255.0 * drift)).collect();
            println!("  clip {}: {}", clip + 1, drift.join(" "));
        }
        let name = format!("chain-{}.png", if is_anchored { "anchored" } else { "free" });
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let (width, height) = (keyframe.width() as u32, keyframe.height() as u32);
        image::save_buffer(&path, keyframe.data(), width, height, image::ColorType::Rgb8).unwrap();
        println!("  the last frame: {}", path.display());
    }
}
