// SPDX-License-Identifier: MPL-2.0
//! Puts up to twelve frames of a video file side by side in a PNG, in reading order:
//! `cargo run --release --example contact_sheet -- clip.mp4 sheet.png`.

use gst::prelude::*;
use gst_video::prelude::*;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex};

const WIDTH: u32 = 320;
const COLUMNS: usize = 4;
const FRAMES: usize = 12;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(video), Some(sheet), None) = (args.next(), args.next(), args.next()) else {
        return Err("usage: contact_sheet VIDEO PNG".into());
    };
    let frames = decode(Path::new(&video))?;
    tile(&spread(frames, FRAMES)).save_with_format(sheet, image::ImageFormat::Png)?;
    Ok(())
}

/// Every frame of a video, shrunk.
fn decode(video: &Path) -> Result<Vec<image::RgbImage>, Box<dyn Error>> {
    gst::init()?;
    let pipeline = gst::parse::launch(&format!(
        "filesrc name=file ! decodebin ! videoconvert ! videoscale \
         ! video/x-raw,format=RGB,width={WIDTH},pixel-aspect-ratio=1/1 ! appsink name=frames sync=false"
    ))?
    .downcast::<gst::Pipeline>()
    .map_err(|_| "not a pipeline")?;
    pipeline.by_name("file").ok_or("no file")?.set_property("location", video);
    let sink = pipeline.by_name("frames").and_downcast::<gst_app::AppSink>().ok_or("no frames")?;

    let frames = Arc::new(Mutex::new(Vec::new()));
    let collected = frames.clone();
    sink.set_callbacks(
        gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                let frame = picture(&sample).ok_or(gst::FlowError::Error)?;
                collected.lock().unwrap().push(frame);
                Ok(gst::FlowSuccess::Ok)
            })
            .build(),
    );

    let bus = pipeline.bus().ok_or("no bus")?;
    pipeline.set_state(gst::State::Playing).ok(); // a failure is on the bus, too
    let end = bus.timed_pop_filtered(None, &[gst::MessageType::Eos, gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null)?;
    if let Some(gst::MessageView::Error(err)) = end.as_ref().map(|message| message.view()) {
        return Err(format!("{}: {}", video.display(), err.error()).into());
    }
    let frames = std::mem::take(&mut *frames.lock().unwrap());
    if frames.is_empty() { Err(format!("{}: no frames", video.display()).into()) } else { Ok(frames) }
}

fn picture(sample: &gst::Sample) -> Option<image::RgbImage> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(sample.buffer()?, &info).ok()?;
    let rows = frame.plane_data(0).ok()?.chunks(frame.plane_stride()[0] as usize).take(frame.height() as usize);
    let pixels = rows.flat_map(|row| &row[..frame.width() as usize * 3]).copied().collect();
    image::RgbImage::from_raw(frame.width(), frame.height(), pixels)
}

/// `count` of the frames, evenly spread from the first to the last.
fn spread<T>(frames: Vec<T>, count: usize) -> Vec<T> {
    let last = frames.len() - 1;
    let picks: Vec<usize> = (0..count).map(|i| (i * last + (count - 1) / 2) / (count - 1)).collect();
    frames.into_iter().enumerate().filter(|(i, _)| picks.contains(i)).map(|(_, frame)| frame).collect()
}

fn tile(frames: &[image::RgbImage]) -> image::RgbImage {
    let (width, height) = frames[0].dimensions();
    let columns = COLUMNS.min(frames.len());
    let rows = frames.len().div_ceil(columns);
    let mut sheet = image::RgbImage::new(width * columns as u32, height * rows as u32);
    for (i, frame) in frames.iter().enumerate() {
        let (x, y) = ((i % columns) as i64 * i64::from(width), (i / columns) as i64 * i64::from(height));
        image::imageops::replace(&mut sheet, frame, x, y);
    }
    sheet
}
