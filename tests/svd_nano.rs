// SPDX-License-Identifier: MPL-2.0
//! The shipped model in real pipelines: the clip shows the keyframe, a photograph that it was not trained on, and moves.

mod common;

use common::file;
use gst::prelude::*;
use gst_video::{VideoFrameRef, VideoInfo};
use gsttorchvideo::engine::image::{Fit, Frame};
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

/// By how many pixels sideways `a` fits `b` best: its pixel x shows what is at x + shift there.
fn shift(a: &Frame, b: &Frame) -> i32 {
    let (width, most) = (a.width() as i32, 16);
    let difference = |shift: i32| {
        let row = |y: usize| (most..width - most).map(move |x| y * width as usize + x as usize);
        let pixels = (0..a.height()).flat_map(row);
        let values = pixels.flat_map(|at| (0..3).map(move |c| (3 * at + c, (3 * at + c) as i32 + 3 * shift)));
        values.map(|(from, to)| f64::from(a.data()[from].abs_diff(b.data()[to as usize])).powi(2)).sum::<f64>()
    };
    (-most..=most).min_by(|&i, &j| difference(i).total_cmp(&difference(j))).unwrap()
}

#[test]
fn the_clip_shows_the_keyframe_and_moves() {
    let frames = frames("");
    assert_eq!(frames.len(), 14);
    let keyframe = Frame::open(&file("pipelines/keyframe.jpg")).unwrap();
    let shown = keyframe.with_aspect_of(512, 288, Fit::Crop).unwrap().resize(512, 288);
    let (first, shifts) = (psnr(&frames[0], &shown), [0, 6, 13].map(|i| shift(&frames[i], &shown)));
    println!("first frame against the keyframe: {first:.2} dB; frames 0, 6 and 13 show it shifted by {shifts:?} px");
    assert!(first >= 20.0, "the first frame has {first:.2} dB against the keyframe");
    assert!(
        shifts[0].abs() <= 1 && shifts[0] < shifts[1] && shifts[1] < shifts[2],
        "the camera pans to the right: {shifts:?}"
    );
}

#[test]
fn the_motion_bucket_sets_how_far_it_moves() {
    let moved = |bucket: f64| {
        let frames = frames(&format!("width=256 height=144 motion-bucket-id={bucket}"));
        squared_difference(&frames[0], &frames[13])
    };
    let (still, far) = (moved(1.0), moved(200.0));
    println!("mean squared difference of first and last frame: {still:.1} at 1, {far:.1} at 200");
    assert!(far > 1.5 * still, "bucket 200 differs by {far:.1}, bucket 1 by {still:.1}");
}

#[test]
fn the_demonstration_s_pipeline_doubles_it() {
    let frames =
        frames("num-frames=2 num-inference-steps=1 width=64 height=40 ! realesrganscale outscale=2 device=cpu");
    assert!(frames.len() == 2 && frames.iter().all(|frame| (frame.width(), frame.height()) == (128, 80)));
}
