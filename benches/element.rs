// SPDX-License-Identifier: MPL-2.0
//! What `svdsrc` costs beside the engine, and how fast it answers and stops while a step runs.
//!
//! `cargo bench --bench element`; with svd-nano, so on the CPU it takes a few minutes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::svd::{self, Model, Params, Source};
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind};

const ROUNDS: usize = 6;

fn main() {
    gst::init().unwrap();
    gsttorchvideo::plugin_register_static().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (keyframe, model) = (root.join("pipelines/keyframe.jpg"), root.join("models/svd-nano"));
    let source = Source::open(&model, None).unwrap();
    let params = Params { num_inference_steps: 4, width: 256, height: 144, ..source.info.recommended.clone() };
    let line = format!(
        "svdsrc name=src location=\"{}\" model-path=\"{}\" device=cpu num-inference-steps=4 width=256 height=144 \
         num-clips={} ! fakesink name=sink",
        keyframe.display(),
        model.display(),
        2 * ROUNDS + 1
    );

    overhead(&line, &source, &keyframe, &params);
    responses(&line);
    cancel(&line);
}

/// Clips from the engine alone and from the element in turns: the element makes a clip ahead, so that its time is the
/// time between the ends of two clips.
fn overhead(line: &str, source: &Source, keyframe: &Path, params: &Params) {
    // The very thread and the very model that the element uses.
    let worker = Model::shared(source, Device::Cpu, Kind::Float);
    let keyframe = Arc::new(Frame::open(keyframe).unwrap());
    let alone = || {
        let (keyframe, params) = (keyframe.clone(), params.clone());
        let start = Instant::now();
        let job = move |model: &mut Model| {
            svd::generate(model, &keyframe, &params, &Cancel::default(), &mut |_| {}).map(drop)
        };
        worker.submit(job).wait().unwrap();
        start.elapsed()
    };
    alone();
    let (mut engine, mut element) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        engine = engine.min(alone());
        let pipeline = play(&line.replace(&format!("num-clips={}", 2 * ROUNDS + 1), "num-clips=2"));
        let first = clip(&pipeline);
        let second = clip(&pipeline);
        element = element.min(second - first);
        pipeline.set_state(gst::State::Null).unwrap();
    }
    let share = element.as_secs_f64() / engine.as_secs_f64() - 1.0;
    println!("a clip: engine {engine:.2?}, element {element:.2?}, overhead {:.2} %", 100.0 * share);
}

/// The longest time that an application waits for an answer during a step.
fn responses(line: &str) {
    let pipeline = play(line);
    step(&pipeline);
    let src = pipeline.by_name("src").unwrap();
    let pad = src.static_pad("src").unwrap();
    let mut worst = [Duration::ZERO; 4];
    for _ in 0..200 {
        let asks: [&dyn Fn(); 4] = [
            &|| drop(pad.query_caps(None)),
            &|| assert!(src.query_duration::<gst::ClockTime>().is_some()),
            &|| drop(pipeline.debug_to_dot_data(gst::DebugGraphDetails::all())),
            &|| src.set_property("motion-bucket-id", src.property::<f64>("motion-bucket-id") + 1.0),
        ];
        for (worst, ask) in worst.iter_mut().zip(asks) {
            let start = Instant::now();
            ask();
            *worst = (*worst).max(start.elapsed());
        }
    }
    let start = Instant::now();
    pipeline.set_state(gst::State::Null).unwrap();
    let [caps, duration, dot, property] = worst;
    println!(
        "answers during a step, the slowest of 200: caps {caps:.2?}, duration {duration:.2?}, dot {dot:.2?}, property \
         {property:.2?}; stop {:.2?}",
        start.elapsed()
    );
}

/// From stopping until the model's thread has left its step, beside the time of a step.
fn cancel(line: &str) {
    let (mut latest, mut longest) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..5 {
        let pipeline = play(line);
        let first = step(&pipeline);
        longest = longest.max(step(&pipeline) - first);
        let start = Instant::now();
        let bus = pipeline.bus().unwrap();
        pipeline.set_state(gst::State::Ready).unwrap();
        loop {
            let message = bus.timed_pop(gst::ClockTime::NONE).unwrap();
            if let gst::MessageView::Progress(progress) = message.view()
                && progress.get().0 == gst::ProgressType::Canceled
            {
                break;
            }
        }
        latest = latest.max(start.elapsed());
        pipeline.set_state(gst::State::Null).unwrap();
    }
    println!("cancelled within {latest:.2?}, {:.2} of a step", latest.as_secs_f64() / longest.as_secs_f64());
}

fn play(line: &str) -> gst::Pipeline {
    let pipeline = gst::parse::launch(line).unwrap().downcast::<gst::Pipeline>().unwrap();
    // A state change to READY would flush the bus.
    pipeline.set_auto_flush_bus(false);
    pipeline.set_state(gst::State::Playing).unwrap();
    pipeline
}

/// When the next clip is made.
fn clip(pipeline: &gst::Pipeline) -> Instant {
    until(pipeline, |message| {
        let gst::MessageView::Progress(progress) = message.view() else { return false };
        let (kind, code, _) = progress.get();
        code == "generate" && kind == gst::ProgressType::Complete
    })
}

/// When the next step has ended.
fn step(pipeline: &gst::Pipeline) -> Instant {
    until(pipeline, |message| {
        let gst::MessageView::Progress(progress) = message.view() else { return false };
        progress.get().2.starts_with("Denoising step")
    })
}

fn until(pipeline: &gst::Pipeline, is_it: impl Fn(&gst::Message) -> bool) -> Instant {
    let bus = pipeline.bus().unwrap();
    loop {
        let message = bus.timed_pop(gst::ClockTime::NONE).unwrap();
        if let gst::MessageView::Error(err) = message.view() {
            panic!("{}", err.error());
        }
        if is_it(&message) {
            return Instant::now();
        }
    }
}
