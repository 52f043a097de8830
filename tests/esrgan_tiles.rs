// SPDX-License-Identifier: MPL-2.0
//! Tiles: no seams, no size that does not work, as much memory as was said, and less where there is less.

mod common;

use std::sync::{Mutex, MutexGuard};

use common::{difference, file, noise, recipe_file};
use gst::prelude::*;
use gsttorchvideo::engine::esrgan::{Model, Params, Task, run, upscale};
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::memory;
use gsttorchvideo::engine::pixels::Layout;
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind, Tensor};

/// The CPU's account of memory is the process's: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    memory::install();
    ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn shipped(name: &str) -> Model {
    let path = file(&format!("models/realesrgan/{name}.safetensors"));
    Model::load(&path, Device::Cpu, Kind::Float, &Cancel::default()).unwrap()
}

fn recipe(name: &str, change: impl Fn(&str, &Tensor) -> Tensor) -> (tempfile::TempDir, Model) {
    let (folder, path) = recipe_file(name, change);
    (folder, Model::load(&path, Device::Cpu, Kind::Float, &Cancel::default()).unwrap())
}

fn unchanged(_: &str, tensor: &Tensor) -> Tensor {
    tensor.shallow_clone()
}

fn upscaled(model: &mut Model, picture: &Frame, params: Params) -> Frame {
    tch::no_grad(|| upscale(model, picture, &params, &Cancel::default())).unwrap().picture
}

/// A sharp part of a photograph.
fn photograph(width: usize, height: usize) -> Frame {
    let whole = Frame::open(&file("pipelines/keyframe.jpg")).unwrap().resize(width * 2, height * 2);
    let rows = whole.data().chunks(width * 2 * 3).skip(height / 2).take(height);
    Frame::new(width, height, 3, rows.flat_map(|row| &row[width / 2 * 3..][..width * 3]).copied().collect())
}

/// The share of values that are off by more than a level.
fn off(seen: &Frame, wanted: &Frame) -> f64 {
    assert_eq!((seen.width(), seen.height()), (wanted.width(), wanted.height()));
    let off = seen.data().iter().zip(wanted.data()).filter(|(a, b)| a.abs_diff(**b) > 1).count();
    off as f64 / wanted.data().len() as f64
}

#[test]
fn tiles_of_the_shipped_models_show_no_seams() {
    let _alone = alone();
    // Tiles end in the middle of both, with much of the picture out of their sight.
    for (name, width, height, tile) in
        [("realesr-animevideov3", 150, 90, 30), ("RealESRGAN_x4plus_anime_6B", 208, 48, 104)]
    {
        let picture = photograph(width, height);
        for outscale in [0.0, 1.875] {
            let params = Params { outscale, ..Params::default() };
            let mut model = shipped(name);
            let whole = upscaled(&mut model, &picture, params);
            let tiled = upscaled(&mut model, &picture, Params { tile, ..params });
            let share = off(&tiled, &whole);
            println!("{name} x{outscale}: {:.5} %", share * 100.0);
            assert!(share <= 1e-4, "{name} x{outscale}: {share}");
        }
        // And they would, without what the model needs around them.
        let mut model = shipped(name);
        let whole = upscaled(&mut model, &picture, Params::default());
        let seamy = upscaled(&mut model, &picture, Params { tile, tile_pad: 2, ..Params::default() });
        assert!(off(&seamy, &whole) > 1e-4, "{name}");
    }
}

#[test]
fn every_size_works_in_tiles_and_without() {
    let _alone = alone();
    for name in ["srvgg_x2_prelu", "rrdb_x2", "rrdb_x1"] {
        let (_folder, mut model) = recipe(name, unchanged);
        for (width, height) in [(1, 1), (1, 9), (13, 1), (10, 7), (17, 16)] {
            let picture = noise(width, height, 3);
            for outscale in [0.0, 1.0 / 64.0, 0.4, 1.0, 1.875, 3.3] {
                let params = Params { outscale, ..Params::default() };
                let whole = upscaled(&mut model, &picture, params);
                for (tile, tile_pad) in [(1, -1), (4, -1), (5, 64)] {
                    let tiled = upscaled(&mut model, &picture, Params { tile, tile_pad, ..params });
                    let most = difference(&tiled, &whole);
                    assert!(most <= 1, "{name}: {width}x{height} x{outscale} in tiles of {tile}: {most} levels");
                }
            }
        }
    }
}

#[test]
fn small_steps_are_not_the_networks() {
    let _alone = alone();
    let (_folder, mut model) = recipe("srvgg_x2_prelu", unchanged);
    let picture = noise(16, 12, 3);
    let params = Params { outscale: 1.0, min_scale: 1.0, ..Params::default() };
    assert_eq!(upscaled(&mut model, &picture, params), picture);
    assert_ne!(upscaled(&mut model, &picture, Params { min_scale: 0.0, ..params }), picture);
    // A larger step is the network's again.
    let larger = Params { outscale: 1.5, ..params };
    assert_eq!(
        upscaled(&mut model, &picture, larger),
        upscaled(&mut model, &picture, Params { min_scale: 0.0, ..larger })
    );
    let tiled = upscaled(&mut model, &picture, Params { outscale: 0.5, tile: 5, ..params });
    assert!(difference(&tiled, &upscaled(&mut model, &picture, Params { outscale: 0.5, ..params })) <= 1);
}

#[test]
fn a_gradient_has_no_steps_that_were_not_there() {
    let _alone = alone();
    // A network that adds nothing to the picture: what is seen is what is done around it.
    let (_folder, mut model) = recipe("srvgg_x2_prelu", |_, tensor| tensor.zeros_like());
    let (width, height) = (512, 288);
    let data =
        (0..width * height).flat_map(|i| [(i % width / 2) as u8, (i / width * 255 / height) as u8, 128]).collect();
    let picture = Frame::new(width, height, 3, data);
    for outscale in [2.0, 1.875, 0.7] {
        let seen = upscaled(&mut model, &picture, Params { outscale, tile: 37, ..Params::default() });
        let row = seen.width() * 3;
        for (i, pixel) in seen.data().chunks(3).enumerate() {
            assert!(pixel[2] == 128, "{outscale}");
            let (x, y) = (i % seen.width(), i / seen.width());
            let most = (2.0 / outscale).ceil() as u8;
            if x > 0 {
                let step = pixel[0].checked_sub(seen.data()[i * 3 - 3]);
                assert!(step.is_some_and(|step| step <= most), "{outscale} at {x}, {y}");
            }
            if y > 0 {
                let step = pixel[1].checked_sub(seen.data()[i * 3 + 1 - row]);
                assert!(step.is_some_and(|step| step <= most), "{outscale} at {x}, {y}");
            }
        }
    }
}

/// The peak of memory, in bytes, that a picture of noise takes beyond what was there before, and what was allowed.
fn peak(model: &mut Model, width: i64, height: i64, max_memory: u64) -> u64 {
    let layout = |width: i64, height: i64| Layout::rgb(width as usize, height as usize, false).unwrap();
    let scale = model.architecture().scale();
    let task = Task {
        from: layout(width, height),
        to: layout(width * scale, height * scale),
        origin: [0, 0],
        size: [height * scale, width * scale],
        params: Params { max_memory, ..Params::default() },
    };
    let bytes = Tensor::from_slice(noise(width, height, 3).data());
    memory::reset_peak(Device::Cpu);
    let before = memory::usage(Device::Cpu).current;
    tch::no_grad(|| run(model, &[bytes], &task, &Cancel::default())).unwrap();
    memory::usage(Device::Cpu).peak - before
}

#[test]
fn a_tile_takes_the_memory_that_was_said() {
    let _alone = alone();
    for (name, width, height) in [("realesr-animevideov3", 160, 120), ("RealESRGAN_x4plus_anime_6B", 240, 48)] {
        let mut model = shipped(name);
        let whole = peak(&mut model, width, height, 0);
        println!("{name}: {} bytes for each pixel", whole as i64 / (width * height));
        // So much that one tile suffices, and so little that it does not.
        for most in [whole * 5 / 4, whole * 21 / 20, whole * 17 / 20] {
            let taken = peak(&mut model, width, height, most);
            println!("{name}: {taken} of {most} bytes, {:.2}", taken as f64 / most as f64);
            assert!((most / 2..=most).contains(&taken), "{name}: {taken} of {most} bytes");
        }
    }
}

#[test]
fn a_batch_is_divided_where_tiles_can_not_be() {
    let _alone = alone();
    let mut model = shipped("realesr-animevideov3");
    let picture = noise(48, 48, 3);
    // A tile that sees everything anyway.
    let params = Params { tile_pad: 64, ..Params::default() };
    let wanted = upscaled(&mut model, &picture, params);
    let layout = |side| Layout::rgb(side, side, false).unwrap();
    let task = Task { from: layout(48), to: layout(192), origin: [0, 0], size: [192, 192], params };
    let pictures: Vec<_> = (0..5).map(|_| Tensor::from_slice(picture.data())).collect();
    let mut run = || tch::no_grad(|| run(&mut model, &pictures, &task, &Cancel::default())).unwrap();
    memory::reset_peak(Device::Cpu);
    let current = memory::usage(Device::Cpu).current;
    assert_eq!(run().retries, 0);
    let needed = memory::usage(Device::Cpu).peak - current;
    let _limit = Limit::set(current + needed * 3 / 4);
    let outcome = run();
    assert!(outcome.retries > 0 && outcome.tiles == 5 && outcome.pictures.len() == 5, "{outcome:?}");
    for seen in outcome.pictures {
        let seen = Frame::new(192, 192, 3, Vec::<u8>::try_from(seen).unwrap());
        assert!(difference(&seen, &wanted) <= 1);
    }
}

#[test]
fn pictures_that_become_smaller_keep_to_their_memory_too() {
    let _alone = alone();
    let (_folder, mut model) = recipe("srvgg_x2_prelu", unchanged);
    let layout = |side| Layout::rgb(side, side, false).unwrap();
    let bytes = Tensor::from_slice(noise(512, 512, 3).data());
    for to in [8, 32, 100] {
        let params = Params { max_memory: 4 << 20, ..Params::default() };
        let size = [to as i64; 2];
        let task = Task { from: layout(512), to: layout(to), origin: [0, 0], size, params };
        memory::reset_peak(Device::Cpu);
        let before = memory::usage(Device::Cpu).current;
        match tch::no_grad(|| run(&mut model, &[bytes.shallow_clone()], &task, &Cancel::default())) {
            Ok(_) => {
                let taken = memory::usage(Device::Cpu).peak - before;
                println!("to {to}: {taken} bytes");
                assert!(taken <= params.max_memory, "to {to}: {taken} bytes");
            }
            // Each of a few pixels is made of many.
            Err(err) => assert!(to == 8 && err.to_string().contains("max-memory"), "{err}"),
        }
    }
}

/// Bytes of the process that are in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn two_thousand_frames_take_no_more_memory_than_a_few() {
    let _alone = alone();
    common::register();
    let (_folder, path) = recipe_file("srvgg_x2_prelu", unchanged);
    let line = format!("realesrganscale device=cpu batch-size=2 model-path=\"{}\"", path.display());
    let element = gst::parse::launch(&line).unwrap();
    let mut harness = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, 64, 48).build().unwrap();
    harness.set_src_caps(info.to_caps().unwrap());
    let picture = noise(64, 48, 3);
    let mut before = (0, 0);
    for number in 0..2000usize {
        let data: Vec<_> = picture.data().iter().map(|value| value.wrapping_add(number as u8)).collect();
        harness.push(gst::Buffer::from_slice(data)).unwrap();
        while harness.try_pull().is_some() {}
        if number == 499 {
            before = (resident(), memory::usage(Device::Cpu).current);
        }
    }
    let stats = element.property::<gst::Structure>("stats");
    assert_eq!((stats.get("frames"), stats.get("static-frames")), (Ok(2000u64), Ok(0u64)));
    let grown = resident().saturating_sub(before.0);
    println!("{grown} bytes more");
    // Had each frame left its output, these would be 55 MB.
    assert!(grown < 8 << 20, "{grown} bytes more");
    assert_eq!(memory::usage(Device::Cpu).current, before.1);
}

#[test]
fn memory_does_not_grow_with_the_picture() {
    let _alone = alone();
    let (_folder, mut model) = recipe("srvgg_x2_prelu", unchanged);
    let most = 4 << 20;
    let [small, large] = [(256, 128), (512, 256)].map(|(width, height)| peak(&mut model, width, height, most));
    // The picture that comes out grew by 12 bytes for each pixel that goes in, three times as many more.
    let grown = 3 * 256 * 128 * 15;
    println!("{small} and {large} bytes");
    assert!(large <= small + grown + grown / 10, "{small} and {large} bytes");
}

/// Takes the limit away again, however a test ends.
struct Limit;

impl Limit {
    fn set(bytes: u64) -> Self {
        memory::limit(Some(bytes));
        Self
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        memory::limit(None);
    }
}

#[test]
fn no_frame_is_lost_where_memory_runs_out() {
    let _alone = alone();
    common::register();
    let element = gst::parse::launch("realesrganscale device=cpu tile=200").unwrap();
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    let mut harness = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
    harness.set_src_caps(
        gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, 160, 120).build().unwrap().to_caps().unwrap(),
    );
    let mut push = |shade: u8| {
        let data = noise(160, 120, 3).data().iter().map(|value| value / 8 * shade).collect::<Vec<_>>();
        let output = harness.push_and_pull(gst::Buffer::from_slice(data)).unwrap();
        output.map_readable().unwrap().to_vec()
    };
    let wanted = [push(1), push(3), push(5)];
    let current = memory::usage(Device::Cpu).current;
    memory::reset_peak(Device::Cpu);
    push(7);
    let needed = memory::usage(Device::Cpu).peak - current;
    let _limit = Limit::set(memory::usage(Device::Cpu).current + needed * 3 / 4);
    for (shade, wanted) in [1, 3, 5].into_iter().zip(&wanted) {
        assert!(push(shade).iter().zip(wanted).all(|(a, b)| a.abs_diff(*b) <= 1), "{shade}");
    }
    let stats = element.property::<gst::Structure>("stats");
    assert_eq!((stats.get::<u64>("frames"), stats.get::<u64>("retries")), (Ok(7), Ok(1)));
    let warnings: Vec<_> = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Warning])).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    drop(_limit);
    let _limit = Limit::set(memory::usage(Device::Cpu).current + 1000);
    assert!(harness.push(gst::Buffer::from_slice(vec![1u8; 160 * 120 * 3])).is_err());
    let errors: Vec<_> = std::iter::from_fn(|| bus.pop_filtered(&[gst::MessageType::Error])).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
}

#[test]
fn too_little_memory_is_told_or_made_do_with() {
    let _alone = alone();
    let picture = noise(160, 120, 3);
    let mut model = shipped("realesr-animevideov3");
    let wanted = upscaled(&mut model, &picture, Params::default());

    let little = Params { max_memory: 1000, ..Params::default() };
    let message = upscale(&mut model, &picture, &little, &Cancel::default()).unwrap_err().to_string();
    for part in ["max-memory=1000 is too little for 1 frames of 160x120", "it needs", "tile-pad"] {
        assert!(message.contains(part), "{message}");
    }

    // The memory is out in the middle of it: the tiles become smaller, and the picture is the same.
    let current = memory::usage(Device::Cpu).current;
    memory::reset_peak(Device::Cpu);
    upscaled(&mut model, &picture, Params::default());
    let needed = memory::usage(Device::Cpu).peak - current;
    let _limit = Limit::set(current + needed * 3 / 4);
    let layout = |width, height| Layout::rgb(width, height, false).unwrap();
    let task = Task {
        from: layout(160, 120),
        to: layout(640, 480),
        origin: [0, 0],
        size: [480, 640],
        params: Params { tile: 200, ..Params::default() },
    };
    let bytes = Tensor::from_slice(picture.data());
    let outcome = tch::no_grad(|| run(&mut model, &[bytes.shallow_clone()], &task, &Cancel::default())).unwrap();
    assert!(outcome.retries > 0 && outcome.tiles > 1, "{outcome:?}");
    let seen = Frame::new(640, 480, 3, Vec::<u8>::try_from(&outcome.pictures[0]).unwrap());
    assert!(difference(&seen, &wanted) <= 1);
    // It has learnt from it.
    let outcome = tch::no_grad(|| run(&mut model, &[bytes.shallow_clone()], &task, &Cancel::default())).unwrap();
    assert_eq!(outcome.retries, 0);

    memory::limit(Some(memory::usage(Device::Cpu).current + 1000));
    let message = run(&mut model, &[bytes], &task, &Cancel::default()).unwrap_err().to_string();
    assert!(message.contains("out of memory") && message.contains("the smallest tile"), "{message}");
}
