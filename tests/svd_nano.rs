// SPDX-License-Identifier: MPL-2.0
//! The shipped model in real pipelines: the clip shows the keyframe, a photograph that it was not trained on, and moves.

mod common;

use common::file;
use gst::prelude::*;
use gst_video::{VideoFrameRef, VideoInfo};
use gsttorchvideo::engine::image::{Fit, Frame};
use gsttorchvideo::engine::metrics;
use gsttorchvideo::video;

/// The frames that come out of `pipeline`, which begins with `svdsrc` and its properties.
fn frames(pipeline: &str) -> Vec<Frame> {
    common::register();
    let keyframe = file("pipelines/keyframe.jpg");
    let line =
        format!("svdsrc location=\"{}\" device=cpu {pipeline} ! appsink name=sink sync=false", keyframe.display());
    let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let frames = std::iter::from_fn(|| sink.pull_sample().ok())
        .map(|sample| {
            let info = VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
            video::read(&VideoFrameRef::from_buffer_ref_readable(sample.buffer().unwrap(), &info).unwrap())
        })
        .collect();
    let error = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(error.is_none(), "{error:?}");
    frames
}

/// The mean squared difference of two pictures.
fn squared_difference(a: &Frame, b: &Frame) -> f64 {
    assert_eq!((a.width(), a.height()), (b.width(), b.height()));
    let squares = a.data().iter().zip(b.data()).map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2));
    squares.sum::<f64>() / a.data().len() as f64
}

fn psnr(a: &Frame, b: &Frame) -> f64 {
    10.0 * (255.0f64.powi(2) / squared_difference(a, b)).log10()
}

/// By how many pixels, x and y, 4x3 cells of `a` fit `b` best: what `a` shows at x is at x + shift there.
fn shifts(a: &Frame, b: &Frame) -> Vec<[i32; 2]> {
    const MOST: i32 = 16;
    let (width, height) = ((a.width() as i32 - 2 * MOST) / 4, (a.height() as i32 - 2 * MOST) / 3);
    let stride = a.width() as i32;
    let shift = |cell: i32| {
        let (left, top) = (MOST + cell % 4 * width, MOST + cell / 4 * height);
        let difference = |[dx, dy]: [i32; 2]| -> u64 {
            let values = (top..top + height).flat_map(|y| (left..left + width).map(move |x| 3 * (y * stride + x)));
            let off = 3 * (dy * stride + dx);
            values.map(|at| u64::from(a.data()[at as usize].abs_diff(b.data()[(at + off) as usize])).pow(2)).sum()
        };
        let all = (-MOST..=MOST).flat_map(|dx| (-MOST..=MOST).map(move |dy| [dx, dy]));
        all.min_by_key(|&shift| difference(shift)).unwrap()
    };
    (0..12).map(shift).collect()
}

/// The camera (pan x and y, zoom, roll) from the first frame to `b`, in pixels: what `models/svd-nano/train/motion.py` makes
/// of it fits the shifts from `b` to `a` best. Its length is how far the motion bucket and the rate say.
fn camera(a: &Frame, b: &Frame) -> [f64; 4] {
    const ZOOM: f64 = 0.8;
    const PARALLAX: f64 = 0.25;
    const MARGIN: f64 = 16.0;
    let (width, height) = (b.width() as f64, b.height() as f64);
    let scale = ((width.powi(2) + height.powi(2)) / 12.0).sqrt();
    let (mut shown, mut power) = ([0.0; 4], [0.0; 4]);
    for (cell, shift) in shifts(b, a).into_iter().enumerate() {
        let x = ((cell % 4) as f64 - 1.5) * (width - 2.0 * MARGIN) / 4.0 / scale;
        let y = ((cell / 4) as f64 - 1.0) * (height - 2.0 * MARGIN) / 3.0 / scale;
        let near = 1.0 + PARALLAX * (1.0 - x * x - y * y);
        let moves = [[near, 0.0], [0.0, near], [ZOOM * x, ZOOM * y], [-ZOOM * y, ZOOM * x]];
        // On cells that are the same on all sides of the middle, these are at right angles to each other.
        for ((shown, power), [dx, dy]) in shown.iter_mut().zip(&mut power).zip(moves) {
            *shown += dx * f64::from(shift[0]) + dy * f64::from(shift[1]);
            *power += dx * dx + dy * dy;
        }
    }
    std::array::from_fn(|number| shown[number] / power[number])
}

fn length(camera: &[f64; 4]) -> f64 {
    camera.iter().map(|number| number.powi(2)).sum::<f64>().sqrt()
}

#[test]
fn the_clip_shows_the_keyframe_and_moves() {
    let frames = frames("");
    assert_eq!(frames.len(), 14);
    let keyframe = Frame::open(&file("pipelines/keyframe.jpg")).unwrap();
    let shown = keyframe.with_aspect_of(512, 288, Fit::Crop).unwrap().resize(512, 288);
    let (first, cameras) = (psnr(&frames[0], &shown), [0, 6, 13].map(|i| camera(&shown, &frames[i])));
    println!("first frame against the keyframe: {first:.2} dB; cameras of frames 0, 6 and 13: {cameras:.2?} px");
    assert!(first >= 22.0, "the first frame has {first:.2} dB against the keyframe");
    // Bucket 127 goes 127 / 255 of 10 px.
    assert_eq!(cameras[0], [0.0; 4]);
    let lengths = cameras.map(|camera| length(&camera));
    assert!((lengths[1] - 2.3).abs() < 0.5 && (lengths[2] - 5.0).abs() < 0.5, "{cameras:.2?}: {lengths:.2?}");
    let kept = metrics::measure(&frames, None).unwrap()["sharpness_kept"];
    println!("the last frame has {:.0} % of the first one's sharpness", 100.0 * kept);
    assert!(kept >= 0.5, "{kept}");
}

#[test]
fn the_motion_bucket_and_the_rate_set_how_far_it_moves() {
    for (properties, far) in [
        ("motion-bucket-id=1", 0.0),
        ("motion-bucket-id=64", 2.5),
        ("motion-bucket-id=200", 7.8),
        ("motion-bucket-id=200 fps=14", 3.9),
    ] {
        let frames = frames(&format!("width=256 height=144 {properties}"));
        let camera = camera(&frames[0], &frames[13]);
        println!("{properties}: {camera:.2?}, {:.2} px", length(&camera));
        assert!((length(&camera) - far).abs() <= 1.0, "{properties}: {camera:.2?}, not {far} px");
    }
}

#[test]
fn the_seed_sets_where_it_moves() {
    let of = |seed: i64| {
        let frames = frames(&format!("width=128 height=96 motion-bucket-id=255 seed={seed}"));
        camera(&frames[0], &frames[13])
    };
    let cameras = [1, 2, 3, 4].map(of);
    println!("{cameras:.2?}");
    for (i, a) in cameras.iter().enumerate() {
        assert!((length(a) - 10.0).abs() <= 1.5, "{cameras:.2?}");
        // A zoom goes in: what a frame shows is nearer to the middle in the keyframe.
        assert!(a[2] < 1.0, "{cameras:.2?}");
        let apart = |b: &[f64; 4]| length(&std::array::from_fn(|number| a[number] - b[number]));
        assert!(cameras[..i].iter().all(|b| apart(b) > 2.0), "{cameras:.2?}");
    }
}

#[test]
fn the_demonstration_s_pipeline_doubles_it() {
    let frames =
        frames("num-frames=2 num-inference-steps=1 width=64 height=40 ! realesrganscale outscale=2 device=cpu");
    assert!(frames.len() == 2 && frames.iter().all(|frame| (frame.width(), frame.height()) == (128, 80)));
}
