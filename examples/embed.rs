// SPDX-License-Identifier: MPL-2.0
//! A clip in a Rust program: frames by an appsink, progress, cancellation and errors from the bus.
//! `cargo run --release --example embed -- PICTURE FOLDER [--cancel-after-step=N] [PROPERTY=VALUE…]`
//!
//! Writes the frames as PNG files to FOLDER. Properties are those of `svdsrc`: `num-inference-steps=4 width=256`.
//! Exits with 0 for a clip, 2 if it was cancelled (Ctrl+C does it, too), 1 with the reason for anything else.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use gst::MessageView;
use gst::prelude::*;
use gst_video::prelude::*;

fn main() -> ExitCode {
    match run() {
        Ok(Some(frames)) => {
            println!("{frames} frames");
            ExitCode::SUCCESS
        }
        Ok(None) => {
            println!("cancelled");
            ExitCode::from(2)
        }
        Err(err) => {
            eprintln!("{err}");
            ExitCode::FAILURE
        }
    }
}

/// How many frames were written. `None` if the clip was cancelled.
fn run() -> Result<Option<usize>, Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(picture), Some(folder)) = (args.next(), args.next()) else {
        return Err("usage: embed PICTURE FOLDER [--cancel-after-step=N] [PROPERTY=VALUE…]".into());
    };

    // The elements are in this program: no plugin has to be found.
    gst::init()?;
    gsttorchvideo::plugin_register_static()?;
    let src = gst::ElementFactory::make("svdsrc").property("location", picture).build()?;
    let mut last_step = i64::MAX;
    for arg in args {
        match arg.split_once('=') {
            Some(("--cancel-after-step", step)) => last_step = step.parse()?,
            Some((name, value)) => set(&src, name, value)?,
            None => return Err(format!("{arg}: write PROPERTY=VALUE").into()),
        }
    }

    // Frames as RGB, one by one, on the streaming thread.
    let caps = gst_video::VideoCapsBuilder::new().format(gst_video::VideoFormat::Rgb).build();
    let sink = gst_app::AppSink::builder().caps(&caps).sync(false).build();
    let frames = Arc::new(Mutex::new(Vec::new()));
    let taken = frames.clone();
    let take = move |sink: &gst_app::AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        taken.lock().unwrap().push(rgb(&sample).ok_or(gst::FlowError::Error)?);
        Ok(gst::FlowSuccess::Ok)
    };
    sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(take).build());

    let pipeline = gst::Pipeline::new();
    pipeline.add_many([&src, sink.upcast_ref()])?;
    src.link(&sink)?;

    let is_cancelled = Arc::new(AtomicBool::new(false));
    let flag = is_cancelled.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    let end = watch(&pipeline, &is_cancelled, last_step);
    // Comes back at once, whatever is in the making: the model's thread ends by itself.
    pipeline.set_state(gst::State::Null)?;
    if !end? {
        return Ok(None);
    }

    std::fs::create_dir_all(&folder)?;
    let frames = std::mem::take(&mut *frames.lock().unwrap());
    for (number, frame) in frames.iter().enumerate() {
        frame.save(Path::new(&folder).join(format!("frame-{number:03}.png")))?;
    }
    Ok(Some(frames.len()))
}

/// Sets a property from text, as `gst-launch-1.0` does. Whether the value is possible is told on the bus, later.
fn set(src: &gst::Element, name: &str, value: &str) -> Result<(), Box<dyn Error>> {
    let spec = src.find_property(name).ok_or_else(|| format!("svdsrc has no property {name}"))?;
    let value =
        gst::glib::Value::deserialize_with_pspec(value, &spec).map_err(|_| format!("{name}={value}: no such value"))?;
    src.set_property_from_value(name, &value);
    Ok(())
}

/// Plays to the end, and tells of what happens. False if the clip was cancelled.
fn watch(pipeline: &gst::Pipeline, is_cancelled: &AtomicBool, last_step: i64) -> Result<bool, Box<dyn Error>> {
    let bus = pipeline.bus().ok_or("a pipeline has a bus")?;
    // Where this fails, the bus says why.
    let _ = pipeline.set_state(gst::State::Playing);
    while !is_cancelled.load(Ordering::Relaxed) {
        let Some(message) = bus.timed_pop(gst::ClockTime::from_mseconds(100)) else { continue };
        match message.view() {
            MessageView::Eos(_) => return Ok(true),
            MessageView::Error(err) => return Err(err.error().to_string().into()),
            MessageView::Warning(warning) => eprintln!("{}", warning.error()),
            MessageView::Progress(progress) => {
                let (_, code, text) = progress.get();
                println!("{code}: {text}");
                if step(text).is_some_and(|step| step >= last_step) {
                    return Ok(false);
                }
            }
            MessageView::Element(element) => match element.structure() {
                Some(told) if told.name() == "svdsrc-estimate" => {
                    println!(
                        "it will take {:.0} s and {} bytes",
                        told.get::<f64>("seconds")?,
                        told.get::<u64>("bytes")?
                    );
                }
                Some(told) if told.name() == "svdsrc-clip" => println!("made with seed {}", told.get::<i64>("seed")?),
                _ => {}
            },
            _ => {}
        }
    }
    Ok(false)
}

/// The number in "Denoising step 3 of 8 (37 %), 5 s left".
fn step(text: &str) -> Option<i64> {
    text.strip_prefix("Denoising step ")?.split(' ').next()?.parse().ok()
}

/// A frame without the padding of its rows.
fn rgb(sample: &gst::Sample) -> Option<image::RgbImage> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(sample.buffer()?, &info).ok()?;
    let (stride, row) = (frame.plane_stride()[0] as usize, info.width() as usize * 3);
    let data = frame.plane_data(0).ok()?.chunks(stride).flat_map(|line| &line[..row]).copied().collect();
    image::RgbImage::from_raw(info.width(), info.height(), data)
}
