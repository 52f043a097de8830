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

/// By how many pixels, x and y, the middles of 4x3 cells of `a` fit `b` best: what is at x there shows at x + shift.
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

/// How long `shifts` are in the mean.
fn length(shifts: &[[i32; 2]]) -> f64 {
    shifts.iter().map(|[x, y]| f64::from(*x).hypot(f64::from(*y))).sum::<f64>() / shifts.len() as f64
}

#[test]
fn the_clip_shows_the_keyframe_and_moves() {
    let frames = frames("");
    assert_eq!(frames.len(), 14);
    let keyframe = Frame::open(&file("pipelines/keyframe.jpg")).unwrap();
    let shown = keyframe.with_aspect_of(512, 288, Fit::Crop).unwrap().resize(512, 288);
    let (first, lengths) = (psnr(&frames[0], &shown), [0, 6, 13].map(|i| length(&shifts(&frames[i], &shown))));
    println!("first frame against the keyframe: {first:.2} dB; frames 0, 6 and 13 show it shifted by {lengths:.2?} px");
    assert!(first >= 22.0, "the first frame has {first:.2} dB against the keyframe");
    // Bucket 127 moves a pixel by 127 / 255 of 10 px in a pan, and by less in the mean where there is a zoom.
    assert_eq!(lengths[0], 0.0);
    assert!((3.0..=6.0).contains(&lengths[2]) && (lengths[1] - 6.0 / 13.0 * lengths[2]).abs() < 0.5, "{lengths:?}");
    let kept = metrics::measure(&frames, None).unwrap()["sharpness_kept"];
    println!("the last frame has {:.0} % of the first one's sharpness", 100.0 * kept);
    assert!(kept >= 0.5, "{kept}");
}

#[test]
fn the_motion_bucket_and_the_rate_set_how_far_it_moves() {
    let far = |properties: &str| {
        let frames = frames(&format!("width=256 height=144 {properties}"));
        length(&shifts(&frames[0], &frames[13]))
    };
    let most = far("motion-bucket-id=200");
    assert!((4.0..=9.0).contains(&most), "{most}");
    for (properties, share) in
        [("motion-bucket-id=1", 0.0), ("motion-bucket-id=64", 64.0 / 200.0), ("motion-bucket-id=200 fps=14", 0.5)]
    {
        let length = far(properties);
        assert!((length - share * most).abs() <= 0.7, "{properties}: {length} px, with bucket 200 {most}");
    }
}

#[test]
fn the_seed_sets_where_it_moves() {
    let of = |seed: i64| {
        let frames = frames(&format!("width=128 height=96 motion-bucket-id=200 seed={seed}"));
        shifts(&frames[0], &frames[13])
    };
    let seen = [1, 2, 3, 4].map(of);
    for (i, a) in seen.iter().enumerate() {
        for b in &seen[..i] {
            let apart: Vec<_> = a.iter().zip(b).map(|(a, b)| [a[0] - b[0], a[1] - b[1]]).collect();
            assert!(length(&apart) > 2.0, "{seen:?}");
        }
    }
}

#[test]
fn the_demonstration_s_pipeline_doubles_it() {
    let frames =
        frames("num-frames=2 num-inference-steps=1 width=64 height=40 ! realesrganscale outscale=2 device=cpu");
    assert!(frames.len() == 2 && frames.iter().all(|frame| (frame.width(), frame.height()) == (128, 80)));
}
