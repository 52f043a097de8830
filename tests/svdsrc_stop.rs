// SPDX-License-Identifier: MPL-2.0
//! An application may stop `svdsrc` whatever it is at, and may run several at once.

use gst::MessageView;
use gst::prelude::*;
use gsttorchvideo::engine::image::Frame;

mod common;

use common::svd::{Pipeline, SINK, check_times, errors, info, picture};

const CLIP: &str = "num-frames=5 decode-chunk-size=2 width=32 height=32";

fn sink(pipeline: &Pipeline) -> gst_app::AppSink {
    pipeline.0.by_name("sink").unwrap().downcast().unwrap()
}

fn frames(samples: &[gst::Sample]) -> Vec<Frame> {
    samples.iter().map(picture).collect()
}

/// What has been posted and was no error.
fn check_no_errors(pipeline: &Pipeline) {
    let messages: Vec<_> = std::iter::from_fn(|| pipeline.0.bus().unwrap().pop()).collect();
    assert_eq!(errors(&messages), [""; 0]);
}

#[test]
fn whatever_is_in_the_making_the_element_stops_at_once() {
    let wanted = frames(&Pipeline::new(CLIP, SINK).collect());
    for phase in [
        "Loading model: done",
        "Generating clip 1 ",
        "Encoded the keyframe",
        "Denoising step 1 ",
        "Denoising step 2 ",
        "Decoding (",
        "Decoded 2 of 5 frames",
        "Decoded 5 of 5 frames",
        "Generating clip 1 with seed 42: done",
    ] {
        for state in [gst::State::Ready, gst::State::Null] {
            let pipeline = Pipeline::new(CLIP, SINK);
            // The model's thread stands there until it is released: whoever waits for it waits for ever.
            let release = pipeline.play_and_hold_at(phase);
            assert_eq!(pipeline.0.set_state(state), Ok(gst::StateChangeSuccess::Success), "{phase}");
            release.send(()).unwrap();
            check_no_errors(&pipeline);
            assert!(frames(&pipeline.collect()) == wanted, "after {phase}");
        }
    }
}

#[test]
fn a_frame_that_nobody_takes_does_not_keep_the_element() {
    for state in [gst::State::Ready, gst::State::Null] {
        let pipeline = Pipeline::new(CLIP, &format!("{SINK} max-buffers=1"));
        pipeline.play();
        sink(&pipeline).pull_sample().unwrap();
        // One waits in the sink, and the next is being pushed.
        assert_eq!(pipeline.0.set_state(state), Ok(gst::StateChangeSuccess::Success));
        check_no_errors(&pipeline);
        let samples = pipeline.collect();
        // The appsink of GStreamer 1.22 also gives out what it had before it was stopped.
        check_times(&samples[samples.len() - 5..], info(&samples[0]).fps());
    }
}

#[test]
fn a_stop_before_anything_was_begun() {
    for _ in 0..20 {
        let pipeline = Pipeline::new(CLIP, SINK);
        pipeline.play();
        pipeline.0.set_state(gst::State::Null).unwrap();
    }
    assert_eq!(Pipeline::new(CLIP, SINK).collect().len(), 5);
}

#[test]
fn two_pipelines_at_once_do_not_disturb_one_another() {
    let properties = ["seed=7", "seed=8 motion-bucket-id=20"].map(|own| format!("{CLIP} num-clips=3 {own}"));
    let alone = properties.each_ref().map(|properties| frames(&Pipeline::new(properties, SINK).collect()));
    let both = properties.each_ref().map(|properties| Pipeline::new(properties, SINK));
    let together = std::thread::scope(|scope| {
        let runs = both.each_ref().map(|pipeline| scope.spawn(|| frames(&pipeline.collect())));
        runs.map(|run| run.join().unwrap())
    });
    assert!(together == alone);
    assert!(alone[0] != alone[1]);
}

#[test]
fn one_that_is_stopped_leaves_the_other_alone() {
    let (first, second) = (Pipeline::new(CLIP, SINK), Pipeline::new(&format!("{CLIP} seed=8"), SINK));
    let wanted = frames(&Pipeline::new(&format!("{CLIP} seed=8"), SINK).collect());
    let release = first.play_and_hold();
    // Its job waits behind that of the first.
    second.play();
    first.0.set_state(gst::State::Null).unwrap();
    release.send(()).unwrap();
    assert!(frames(&second.collect()) == wanted);
    let messages: Vec<_> = std::iter::from_fn(|| first.0.bus().unwrap().pop()).collect();
    assert!(messages.iter().all(|message| !matches!(message.view(), MessageView::Error(_))));
}
