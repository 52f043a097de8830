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

#[test]
fn the_clip_shows_the_keyframe_and_moves() {
    let frames = frames("");
    assert_eq!(frames.len(), 14);
    let keyframe = Frame::open(&file("pipelines/keyframe.jpg")).unwrap();
    let shown = keyframe.with_aspect_of(512, 288, Fit::Crop).unwrap().resize(512, 288);
    let (first, last) = (psnr(&frames[0], &shown), psnr(&frames[13], &frames[0]));
    println!("first frame against the keyframe: {first:.2} dB; last against first: {last:.2} dB");
    assert!(first >= 20.0, "the first frame has {first:.2} dB against the keyframe");
    assert!(last < first - 1.0, "the last frame has {last:.2} dB against the first: it has not moved");
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
