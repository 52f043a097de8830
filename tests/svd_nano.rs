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

/// By how many pixels, x and y, `a` fits `b` best: its pixel at x shows what is at x + shift there.
fn shift(a: &Frame, b: &Frame) -> [i32; 2] {
    const MOST: i32 = 11;
    let (width, height) = (a.width() as i32, a.height() as i32);
    let difference = |[dx, dy]: [i32; 2]| -> u64 {
        let row = |y: i32| (MOST..width - MOST).map(move |x| 3 * (y * width + x));
        let values = (MOST..height - MOST).flat_map(row);
        let off = 3 * (dy * width + dx);
        values.map(|at| u64::from(a.data()[at as usize].abs_diff(b.data()[(at + off) as usize])).pow(2)).sum()
    };
    let all = (-MOST..=MOST).flat_map(|dx| (-MOST..=MOST).map(move |dy| [dx, dy]));
    all.min_by_key(|&shift| difference(shift)).unwrap()
}

fn length([x, y]: [i32; 2]) -> f64 {
    f64::from(x).hypot(f64::from(y))
}

#[test]
fn the_clip_shows_the_keyframe_and_moves() {
    let frames = frames("");
    assert_eq!(frames.len(), 14);
    let keyframe = Frame::open(&file("pipelines/keyframe.jpg")).unwrap();
    let shown = keyframe.with_aspect_of(512, 288, Fit::Crop).unwrap().resize(512, 288);
    let (first, shifts) = (psnr(&frames[0], &shown), [0, 6, 13].map(|i| shift(&frames[i], &shown)));
    println!("first frame against the keyframe: {first:.2} dB; frames 0, 6 and 13 show it shifted by {shifts:?} px");
    assert!(first >= 22.0, "the first frame has {first:.2} dB against the keyframe");
    // Bucket 127 pans by 127 / 255 of 10 px.
    assert_eq!(shifts[0], [0, 0]);
    assert!((length(shifts[1]) - 2.3).abs() < 1.0 && (length(shifts[2]) - 5.0).abs() < 1.0, "{shifts:?}");
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
        let shift = shift(&frames[13], &frames[0]);
        assert!((length(shift) - far).abs() <= 1.0, "{properties}: {shift:?}, not {far} px");
    }
}

#[test]
fn the_seed_sets_where_it_moves() {
    let of = |seed: i64| {
        let frames = frames(&format!("width=128 height=96 motion-bucket-id=255 seed={seed}"));
        shift(&frames[13], &frames[0])
    };
    let shifts = [1, 2, 3, 4].map(of);
    for (i, a) in shifts.iter().enumerate() {
        assert!((length(*a) - 10.0).abs() <= 1.5, "{shifts:?}");
        assert!(shifts[..i].iter().all(|b| length([a[0] - b[0], a[1] - b[1]]) > 2.0), "{shifts:?}");
    }
}

#[test]
fn the_demonstration_s_pipeline_doubles_it() {
    let frames =
        frames("num-frames=2 num-inference-steps=1 width=64 height=40 ! realesrganscale outscale=2 device=cpu");
    assert!(frames.len() == 2 && frames.iter().all(|frame| (frame.width(), frame.height()) == (128, 80)));
}
