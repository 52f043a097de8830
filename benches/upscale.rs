// SPDX-License-Identifier: MPL-2.0
//! What `realesrganscale` costs beside its network, and how fast others run the same weights.
//!
//! `cargo bench --bench upscale [-- --python PYTHON] [--rounds N] [--threads N] [MODEL ...] [WIDTHxHEIGHT ...]`
//!
//! In each round everything runs one frame, one after the other, so that what else the machine does hits all alike;
//! times are medians, ratios are medians over the rounds. With a PYTHON that has `benches/upscale-requirements.txt`
//! installed, PyTorch, ncnn and OpenVINO take part (`upscale.py`). All compute with as many threads.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use gst::prelude::*;
use gsttorchvideo::engine::esrgan::Model;
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::memory;
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind};

const MODELS: [&str; 3] = ["realesr-animevideov3", "RealESRGAN_x4plus_anime_6B", "RealESRGAN_x4plus"];
const SIZES: [&str; 2] = ["320x180", "640x360"];
const FORMATS: [&str; 2] = ["RGB", "I420"];
/// How many frames the photograph is panned over.
const FRAMES: usize = 16;

fn main() {
    memory::install();
    gst::init().unwrap();
    gsttorchvideo::plugin_register_static().unwrap();
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let (mut python, mut rounds, mut words) = (None, 7, Vec::new());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--python" => python = args.next(),
            "--threads" => tch::set_num_threads(args.next().expect("a number").parse().expect("a number")),
            "--rounds" => rounds = args.next().expect("a number").parse().expect("a number"),
            _ => words.push(arg),
        }
    }
    let chosen = |all: &[&'static str]| {
        let named: Vec<_> = all.iter().copied().filter(|name| words.iter().any(|word| word == name)).collect();
        if named.is_empty() { all.to_vec() } else { named }
    };
    for model in chosen(&MODELS) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("models/realesrgan/{model}.safetensors"));
        if !path.exists() {
            println!("{model} is not there: make models");
            continue;
        }
        for size in chosen(&SIZES) {
            compare(model, &path, size, python.as_deref(), rounds);
        }
    }
}

/// One model at one size in everything that runs it.
fn compare(model: &str, path: &Path, size: &str, python: Option<&str>, rounds: usize) {
    let (width, height) = size.split_once('x').unwrap();
    let frames = pan(width.parse().unwrap(), height.parse().unwrap());
    let mut runners: Vec<(String, Runner)> = vec![("network".into(), network(path, &frames[0]))];
    for format in FORMATS {
        runners.push((format!("pipeline {format}"), pipeline(path, format, &frames)));
    }
    if let Some(python) = python {
        let others = Rc::new(RefCell::new(Others::start(python, path, &frames[0])));
        for (name, off) in others.borrow().engines.clone() {
            let others = others.clone();
            runners.push((format!("{name}, off by {off}"), Box::new(move || others.borrow_mut().run(&name))));
        }
    }
    // The first run allocates.
    for (_, run) in &mut runners[..1 + FORMATS.len()] {
        run();
    }
    let mut times = vec![Vec::new(); runners.len()];
    for _ in 0..rounds {
        for (times, (_, run)) in times.iter_mut().zip(&mut runners) {
            times.push(run());
        }
    }
    println!(
        "{model}, {size}, {} threads, {rounds} rounds: ms a frame, over the network, over pipeline RGB",
        threads()
    );
    for ((name, _), own) in runners.iter().zip(&times) {
        let over = |other: &[f64]| median(own.iter().zip(other).map(|(own, other)| own / other).collect());
        println!("  {name:42} {:9.1} {:7.3} {:7.3}", median(own.clone()), over(&times[0]), over(&times[1]));
    }
}

/// Runs a frame; gives the milliseconds.
type Runner = Box<dyn FnMut() -> f64>;

/// The network alone, in the very thread and with the very weights that the pipelines use.
fn network(path: &Path, frame: &Frame) -> Runner {
    let worker = Model::shared(path, Device::Cpu, Kind::Float);
    let frame = Arc::new(frame.clone());
    Box::new(move || {
        let frame = frame.clone();
        let job = move |model: &mut Model| {
            let x = frame.to_tensor(Device::Cpu);
            let start = Instant::now();
            drop(model.forward(&x, &Cancel::default())?);
            Ok(start.elapsed())
        };
        worker.submit(job).wait().unwrap().as_secs_f64() * 1000.0
    })
}

/// From a frame that goes into a pipeline to the one that comes out.
fn pipeline(path: &Path, format: &str, frames: &[Frame]) -> Runner {
    let line = format!(
        "appsrc name=src format=time ! realesrganscale model-path=\"{}\" device=cpu ! video/x-raw,format={format} ! \
         appsink name=sink sync=false",
        path.display()
    );
    let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
    let src = pipeline.by_name("src").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    let samples: Vec<_> = frames.iter().map(|frame| sample(frame, format)).collect();
    src.set_caps(samples[0].caps_owned().as_ref());
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut count = 0;
    Box::new(move || {
        let mut buffer = samples[count % samples.len()].buffer_owned().unwrap();
        buffer.make_mut().set_pts(gst::ClockTime::from_mseconds(40 * count as u64));
        count += 1;
        let start = Instant::now();
        src.push_buffer(buffer).unwrap();
        sink.pull_sample().unwrap_or_else(|_| panic!("{:?}", pipeline.bus().unwrap().pop()));
        start.elapsed().as_secs_f64() * 1000.0
    })
}

/// A frame as GStreamer has it.
fn sample(frame: &Frame, format: &str) -> gst::Sample {
    let caps = |format: &str| {
        gst_video::VideoCapsBuilder::new()
            .field("format", format)
            .width(frame.width() as i32)
            .height(frame.height() as i32)
            .framerate(gst::Fraction::new(25, 1))
            .build()
    };
    let info = gst_video::VideoInfo::from_caps(&caps("RGB")).unwrap();
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    let (row, stride) = (frame.width() * 3, info.stride()[0] as usize);
    for (line, to) in frame.data().chunks(row).zip(buffer.make_mut().map_writable().unwrap().chunks_mut(stride)) {
        to[..row].copy_from_slice(line);
    }
    let sample = gst::Sample::builder().buffer(&buffer).caps(&caps("RGB")).build();
    gst_video::convert_sample(&sample, &caps(format), gst::ClockTime::NONE).unwrap()
}

/// A photograph, panned: windows of so many pixels.
fn pan(width: usize, height: usize) -> Vec<Frame> {
    let photograph = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/keyframe.jpg");
    let whole = Frame::open(&photograph).unwrap().resize(width + 3 * FRAMES, height);
    let window = |i: usize| {
        let rows = whole.data().chunks(whole.width() * 3);
        Frame::new(width, height, 3, rows.flat_map(|row| &row[i * 9..][..width * 3]).copied().collect())
    };
    (0..FRAMES).map(window).collect()
}

/// Python, with what else runs the model.
struct Others {
    /// Names, and how far the results are from PyTorch's.
    engines: Vec<(String, String)>,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    _input: tempfile::NamedTempFile,
}

impl Others {
    fn start(python: &str, path: &Path, frame: &Frame) -> Self {
        let mut input = tempfile::NamedTempFile::new().unwrap();
        for channel in 0..3 {
            for pixel in frame.data().chunks(3) {
                input.write_all(&(f32::from(pixel[channel]) / 255.0).to_ne_bytes()).unwrap();
            }
        }
        let mut child = Command::new(python)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/upscale.py"))
            .args([path, input.path()])
            .args([frame.width(), frame.height(), threads()].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut others = Self { engines: Vec::new(), child, to, from, _input: input };
        loop {
            let line = others.line();
            match line.strip_prefix("engine ").and_then(|engine| engine.split_once(' ')) {
                Some((off, name)) => others.engines.push((name.into(), off.into())),
                None => return others,
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.from.read_line(&mut line).unwrap() > 0, "Python has ended");
        line.trim().into()
    }

    fn run(&mut self, name: &str) -> f64 {
        writeln!(self.to, "{name}").unwrap();
        self.line().parse().unwrap()
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn threads() -> usize {
    tch::get_num_threads() as usize
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
