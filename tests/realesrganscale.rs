// SPDX-License-Identifier: MPL-2.0
//! `realesrganscale` in GStreamer: caps, formats, strides, timestamps, errors, flushing and stopping.

mod common;

use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Once, mpsc};
use std::thread;

use common::{Fixture, beyond_float16, difference, file, noise, recipe_file};
use gst::prelude::*;
use gst_check::Harness;
use gst_video::{VideoFormat, VideoFrameRef, VideoInfo};
use gsttorchvideo::engine::esrgan::{Model, Params, upscale};
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::worker::Cancel;
use gsttorchvideo::video;
use tch::{Device, Kind};

const SHIPPED: &str = "models/realesrgan/realesr-animevideov3.safetensors";

fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        gsttorchvideo::plugin_register_static().unwrap();
    });
}

/// The element with these properties, on the CPU.
fn element(properties: &str) -> gst::Element {
    init();
    gst::parse::launch(&format!("realesrganscale device=cpu {properties}")).unwrap()
}

/// An element that plays alone, and its messages.
struct Bench {
    harness: Harness,
    element: gst::Element,
    bus: gst::Bus,
}

impl Bench {
    fn new(properties: &str) -> Self {
        let element = element(properties);
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let harness = Harness::with_element(&element, Some("sink"), Some("src"));
        Self { harness, element, bus }
    }

    /// What the element makes of a picture in this format, without the padding of the buffers.
    fn run(&mut self, picture: &Frame, format: VideoFormat) -> Frame {
        let info = info(format, picture);
        self.harness.set_src_caps(info.to_caps().unwrap());
        let buffer = self.harness.push_and_pull(buffer(picture, &info)).unwrap();
        read(&buffer, &self.info())
    }

    /// The format of what comes out.
    fn info(&self) -> VideoInfo {
        VideoInfo::from_caps(&self.element.static_pad("src").unwrap().current_caps().unwrap()).unwrap()
    }

    /// The texts of all messages of this sort.
    fn texts(&self, kind: gst::MessageType) -> Vec<String> {
        texts(&self.bus, kind)
    }
}

fn texts(bus: &gst::Bus, kind: gst::MessageType) -> Vec<String> {
    std::iter::from_fn(|| bus.pop_filtered(&[kind]))
        .map(|message| match message.view() {
            gst::MessageView::Error(error) => error.error().to_string(),
            gst::MessageView::Warning(warning) => warning.error().to_string(),
            gst::MessageView::Progress(progress) => {
                let (kind, code, text) = progress.get();
                format!("{kind:?} {code} {text}")
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

fn info(format: VideoFormat, picture: &Frame) -> VideoInfo {
    let (width, height) = (picture.width() as u32, picture.height() as u32);
    VideoInfo::builder(format, width, height).fps(gst::Fraction::new(25, 1)).build().unwrap()
}

fn buffer(picture: &Frame, info: &VideoInfo) -> gst::Buffer {
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    let target = buffer.get_mut().unwrap();
    video::write(picture, &mut VideoFrameRef::from_buffer_ref_writable(target, info).unwrap());
    buffer
}

fn read(buffer: &gst::Buffer, info: &VideoInfo) -> Frame {
    video::read(&VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap())
}

fn photograph() -> Frame {
    Fixture::open("esrgan/real_realesr-animevideov3").picture("astronaut.input")
}

/// The engine's own answer.
fn upscaled(path: &Path, picture: &Frame, params: Params) -> Frame {
    let mut model = Model::load(path, Device::Cpu, Kind::Float, &Cancel::default()).unwrap();
    tch::no_grad(|| upscale(&mut model, picture, &params, &Cancel::default())).unwrap().picture
}

/// A small network, for what has nothing to do with pictures: x2.
fn small() -> (tempfile::TempDir, String) {
    let (folder, path) = recipe_file("srvgg_x2_prelu", |_, tensor| tensor.shallow_clone());
    let property = format!("model-path={}", path.display());
    (folder, property)
}

#[test]
fn every_format_has_the_same_pixels() {
    let photograph = photograph();
    assert_eq!((photograph.width(), photograph.height()), (33, 27));
    // Alpha from transparent on the left to opaque on the right.
    let pixels = photograph.data().chunks(3).enumerate();
    let data = pixels.flat_map(|(i, rgb)| [rgb[0], rgb[1], rgb[2], (i % 33 * 7) as u8]).collect();
    let picture = Frame::new(33, 27, 4, data);
    let wanted = upscaled(&file(SHIPPED), &picture, Params::default());
    let reference = Fixture::open("esrgan/real_realesr-animevideov3").picture("astronaut.output");
    for format in video::FORMATS {
        let mut bench = Bench::new("");
        let seen = bench.run(&picture, format);
        assert_eq!((seen.width(), seen.height()), (132, 108));
        let channels = seen.channels();
        for (seen, wanted) in seen.data().chunks(channels).zip(wanted.data().chunks(4)) {
            assert_eq!(seen, &wanted[..channels], "{format:?}");
        }
        if channels == 3 {
            assert!(difference(&seen, &reference) <= 1);
        }
        assert_eq!(bench.info().format(), format);
    }
}

#[test]
fn padded_rows_are_stepped_over() {
    let picture = photograph();
    let caps = info(VideoFormat::Rgb, &picture);
    assert_eq!(caps.stride()[0], 100);
    let wide = VideoInfo::builder(VideoFormat::Rgb, 33, 27).stride(&[160]).offset(&[32]).size(32 + 160 * 27);
    let wide = wide.build().unwrap();
    let mut buffer = buffer(&picture, &wide);
    gst_video::VideoMeta::add_full(
        buffer.get_mut().unwrap(),
        gst_video::VideoFrameFlags::empty(),
        VideoFormat::Rgb,
        33,
        27,
        &[32],
        &[160],
    )
    .unwrap();
    let mut bench = Bench::new("");
    bench.harness.set_src_caps(caps.to_caps().unwrap());
    let output = bench.harness.push_and_pull(buffer).unwrap();
    let wanted = Fixture::open("esrgan/real_realesr-animevideov3").picture("astronaut.output");
    assert!(difference(&read(&output, &bench.info()), &wanted) <= 1);
}

#[test]
fn a_grey_ramp_stays_a_grey_ramp() {
    let data = (0..24 * 64).flat_map(|i| [(i % 64 * 3 + 30) as u8; 3]).collect();
    let output = Bench::new("").run(&Frame::new(64, 24, 3, data), VideoFormat::Bgr);
    let mut worst = (0, 0);
    for (i, pixel) in output.data().chunks(3).enumerate() {
        let spread = pixel.iter().max().unwrap() - pixel.iter().min().unwrap();
        // The middle of an output pixel, in input pixels.
        let wanted = 30.0 + 3.0 * (((i % 256) as f64 + 0.5) / 4.0 - 0.5);
        let error = pixel.iter().map(|&value| (f64::from(value) - wanted).abs() as u8).max().unwrap();
        worst = (worst.0.max(spread), worst.1.max(error));
    }
    // This network is no exact scaler: it draws edges even into ramps.
    assert!(worst.0 <= 8 && worst.1 <= 16, "{worst:?}");
}

#[test]
fn properties_reach_the_engine() {
    let (_folder, small) = small();
    let path = small.strip_prefix("model-path=").unwrap();
    let picture = noise(33, 27, 3);
    let default = Params::default();
    for (properties, params) in [
        ("outscale=3", Params { outscale: 3.0, ..default }),
        ("outscale=0.5", Params { outscale: 0.5, ..default }),
        ("tile=8 tile-pad=1", Params { tile: 8, tile_pad: 1, ..default }),
        ("pre-pad=5", Params { pre_pad: 5, ..default }),
    ] {
        let seen = Bench::new(&format!("{small} {properties}")).run(&picture, VideoFormat::Rgb);
        assert_eq!(seen, upscaled(Path::new(path), &picture, params), "{properties}");
    }
    let mut bench = Bench::new(&format!("{small} dtype=bf16"));
    let seen = bench.run(&picture, VideoFormat::Rgb);
    let exact = upscaled(Path::new(path), &picture, default);
    assert!(seen != exact && difference(&seen, &exact) <= 16);
    assert!(bench.texts(gst::MessageType::Error).is_empty());
}

/// The sizes in caps, as caps.
fn sizes(caps: &gst::Caps) -> gst::Caps {
    let mut sizes = gst::Caps::new_empty();
    for structure in caps.iter() {
        let mut size = gst::Structure::new_empty(structure.name());
        for side in ["width", "height"] {
            size.set_value(side, structure.value(side).unwrap().clone());
        }
        sizes.make_mut().append_structure(size);
    }
    sizes
}

fn caps(text: &str) -> gst::Caps {
    gst::Caps::from_str(&format!("video/x-raw,{text}")).unwrap()
}

#[test]
fn sizes_go_both_ways() {
    let mut bench = Bench::new("outscale=4");
    let sink = bench.element.static_pad("sink").unwrap();
    let src = bench.element.static_pad("src").unwrap();
    for (output, input) in [
        ("width=132,height=108", "width=33,height=27"),
        ("width=[130,140],height=[1,9]", "width=[33,35],height=[1,2]"),
        ("width={132,136},height=108", "width={33,34},height=27"),
    ] {
        bench.harness.set_sink_caps(caps(output));
        assert_eq!(sizes(&sink.query_caps(None)), caps(input));
    }
    bench.harness.set_sink_caps(caps("width=130,height=108"));
    assert!(sink.query_caps(None).is_empty());

    bench.harness.set_sink_caps(caps("format=RGBx"));
    bench.harness.set_src_caps(caps(
        "format=RGBx,width=33,height=27,framerate=30000/1001,pixel-aspect-ratio=12/11,colorimetry=bt709,\
         interlace-mode=progressive",
    ));
    let offered = caps(
        "format=RGBx,width=132,height=108,framerate=30000/1001,pixel-aspect-ratio=12/11,colorimetry=bt709,\
         interlace-mode=progressive",
    );
    assert!(src.current_caps().unwrap().is_strictly_equal(&offered), "{:?}", src.current_caps());
}

#[test]
fn a_sleeping_element_can_do_every_size() {
    let element = element("outscale=2");
    let pad = element.static_pad("src").unwrap();
    assert_eq!(sizes(&pad.query_caps(None)), caps("width=[1,2147483647],height=[1,2147483647]"));
    element.set_state(gst::State::Paused).unwrap();
    assert_eq!(sizes(&pad.query_caps(None)), caps("width=[2,2147483647],height=[2,2147483647]"));
    element.set_state(gst::State::Null).unwrap();
}

#[test]
fn downstream_chooses_the_size_of_the_source() {
    init();
    let pipeline = gst::parse::launch(
        "videotestsrc num-buffers=3 ! realesrganscale device=cpu name=scale outscale=2 ! \
         video/x-raw,width=66,height=54,framerate=10/1 ! appsink name=sink",
    );
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    for i in 0..3 {
        let sample = sink.pull_sample().unwrap();
        let buffer = sample.buffer().unwrap();
        assert_eq!(buffer.pts(), Some(gst::ClockTime::from_mseconds(100 * i)));
        assert_eq!(buffer.duration(), Some(gst::ClockTime::from_mseconds(100)));
    }
    assert!(sink.pull_sample().is_err() && sink.is_eos());
    let input = pipeline.by_name("scale").unwrap().static_pad("sink").unwrap().current_caps().unwrap();
    assert_eq!(sizes(&input), caps("width=33,height=27"));
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn every_frame_comes_out_as_it_came_in() {
    let (_folder, small) = small();
    let mut bench = Bench::new(&small);
    let picture = noise(5, 3, 3);
    let info = info(VideoFormat::Rgb, &picture);
    bench.harness.set_src_caps(info.to_caps().unwrap());
    bench.element.static_pad("sink").unwrap();
    // Downstream says that it gets everything far too late.
    let late = gst::event::Qos::builder(gst::QOSType::Underflow, 100.0, 3_600_000_000_000)
        .timestamp(gst::ClockTime::SECOND)
        .build();
    assert!(bench.harness.push_upstream_event(late));
    for i in 0..20u64 {
        let mut buffer = buffer(&picture, &info);
        {
            let buffer = buffer.get_mut().unwrap();
            buffer.set_pts(gst::ClockTime::from_mseconds(i * 41 + 7));
            buffer.set_duration(gst::ClockTime::from_mseconds(40 + i % 3));
            buffer.set_offset(i);
            if i % 5 == 0 {
                buffer.set_flags(gst::BufferFlags::DISCONT | gst::BufferFlags::MARKER);
            }
        }
        let times = (buffer.pts(), buffer.dts(), buffer.duration(), buffer.offset());
        // The harness marks the first buffer itself.
        let flags = buffer.flags() & (gst::BufferFlags::DISCONT | gst::BufferFlags::MARKER);
        let output = bench.harness.push_and_pull(buffer).unwrap();
        assert_eq!((output.pts(), output.dts(), output.duration(), output.offset()), times);
        assert!(output.flags().contains(flags), "{i}: {:?}", output.flags());
        assert_eq!(output.flags().contains(gst::BufferFlags::MARKER), i % 5 == 0);
    }
    assert_eq!(bench.harness.buffers_received(), 20);
    assert!(!bench.element.property::<bool>("qos"));
    let progress = bench.texts(gst::MessageType::Progress);
    assert_eq!(
        progress,
        ["Start load-model Loading net.safetensors", "Complete load-model Loading net.safetensors: done"]
    );
}

#[test]
fn wrong_settings_end_in_one_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = |name: &str| file(&format!("tests/fixtures/esrgan/{name}")).display().to_string();
    let truncated = folder.path().join("short.safetensors");
    std::fs::write(&truncated, &std::fs::read(file(SHIPPED)).unwrap()[..100_000]).unwrap();
    for (properties, parts) in [
        (
            "model-path=/nowhere/x4.pth".into(),
            [
                "/nowhere/x4.pth: No such file",
                "To get it: the author's networks are files of https://github.com/xinntao/Real-ESRGAN/releases",
            ],
        ),
        (format!("model-path=\"{}\"", folder.path().display()), ["it is a folder", ".pth"]),
        (format!("model-path=\"{}\"", truncated.display()), ["short.safetensors", "not a complete safetensors file"]),
        (format!("model-path=\"{}\"", fixture("views.pth")), ["views.pth", "neither an RRDBNet"]),
        (
            format!("model-path=\"{}\"", fixture("rrdb_x4.safetensors")),
            ["rrdb_x4.safetensors", "out.even [2, 3, 48, 32]"],
        ),
        (format!("model-path=\"{}\"", fixture("hostile.pth")), ["hostile.pth", "posix.system"]),
        (format!("model-path=\"{}\"", fixture("hostile_legacy.pth")), ["hostile_legacy.pth", "posix.system"]),
        ("device=cuda:99".into(), ["cuda:99", "device"]),
        ("device=gpu".into(), ["device=gpu", "use auto, cpu"]),
        ("outscale=-1".into(), ["outscale=-1", "use 0.015625 to 64"]),
        ("outscale=65".into(), ["outscale=65", "use 0.015625 to 64"]),
        ("tile=-3".into(), ["tile=-3", "use 0"]),
        ("tile-pad=-2".into(), ["tile-pad=-2", "use -1 (as the model needs)"]),
        ("min-scale=-1".into(), ["min-scale=-1", "use 0 (the network"]),
        ("batch-size=0".into(), ["batch-size=0", "use 1 to 64"]),
        ("pre-pad=-2147483648".into(), ["pre-pad=-2147483648", "use 0"]),
    ] {
        let element = element(&properties);
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        assert!(element.set_state(gst::State::Paused).is_err());
        let errors = texts(&bus, gst::MessageType::Error);
        assert_eq!(errors.len(), 1, "{properties}: {errors:?}");
        assert!(parts.iter().all(|part| errors[0].contains(part)), "{properties}: {errors:?}");
        // It starts once the fault is mended.
        element.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn a_mended_element_starts() {
    let element = element("outscale=-1");
    assert!(element.set_state(gst::State::Paused).is_err());
    element.set_state(gst::State::Null).unwrap();
    element.set_property("outscale", 2.0);
    element.set_state(gst::State::Paused).unwrap();
    element.set_state(gst::State::Null).unwrap();
}

#[test]
fn interlaced_video_is_refused() {
    let mut bench = Bench::new("");
    bench.harness.set_src_caps(caps("format=RGB,width=4,height=4,framerate=25/1,interlace-mode=interleaved"));
    assert!(bench.harness.push(gst::Buffer::with_size(48).unwrap()).is_err());
    let errors = bench.texts(gst::MessageType::Error);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("interlace-mode=interleaved") && errors[0].contains("deinterlace"), "{errors:?}");
}

#[test]
fn weights_beyond_float16_are_warned_of_once() {
    let (_folder, path) = recipe_file("srvgg_x2_prelu", beyond_float16);
    let mut bench = Bench::new(&format!("dtype=fp16 model-path=\"{}\"", path.display()));
    let picture = noise(7, 6, 3);
    let wanted = upscaled(&path, &picture, Params::default());
    for _ in 0..3 {
        assert!(difference(&bench.run(&picture, VideoFormat::Rgb), &wanted) <= 1);
    }
    let warnings = bench.texts(gst::MessageType::Warning);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("fp16") && warnings[0].contains("dtype=fp32"), "{warnings:?}");
}

#[test]
fn broken_weights_end_in_one_error() {
    let (_folder, path) = recipe_file("srvgg_x2_prelu", |_, tensor| tensor * f64::NAN);
    let mut bench = Bench::new(&format!("model-path=\"{}\"", path.display()));
    let picture = noise(7, 6, 3);
    let info = info(VideoFormat::Rgb, &picture);
    bench.harness.set_src_caps(info.to_caps().unwrap());
    for _ in 0..3 {
        assert_eq!(bench.harness.push(buffer(&picture, &info)), Err(gst::FlowError::Error));
    }
    let errors = bench.texts(gst::MessageType::Error);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("not finite"), "{errors:?}");
}

#[test]
fn elements_share_a_model() {
    // A file of its own, because other tests use the shipped one.
    let (_folder, small) = small();
    let path = small.strip_prefix("model-path=").unwrap();
    let model = Model::shared(Path::new(path), Device::Cpu, Kind::Float);
    let holders = || {
        // A job that runs holds the model, too: let those that were sent end.
        model.submit(|_| Ok(())).wait().unwrap();
        Arc::strong_count(&model)
    };
    assert_eq!(holders(), 1);
    let mut benches = [Bench::new(&small), Bench::new(&format!("{small} outscale=1"))];
    assert_eq!(holders(), 3);
    let _other = Bench::new(&format!("{small} dtype=bf16"));
    assert_eq!(holders(), 3);
    let picture = noise(6, 4, 3);
    let widths = benches.each_mut().map(|bench| bench.run(&picture, VideoFormat::Rgb).width());
    assert_eq!(widths, [12, 6]);
    drop(benches);
    assert_eq!(holders(), 1);
}

/// Pushes a picture on a thread of its own, which says how that ended. Returns when the element has it.
fn push(bench: &mut Bench, picture: Frame) -> thread::JoinHandle<Result<gst::FlowSuccess, gst::FlowError>> {
    let info = info(VideoFormat::Rgb, &picture);
    bench.harness.set_src_caps(info.to_caps().unwrap());
    let (say, hear) = mpsc::channel();
    bench.element.static_pad("sink").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        say.send(()).unwrap();
        gst::PadProbeReturn::Remove
    });
    let pad = bench.harness.srcpad().unwrap();
    let pushing = thread::spawn(move || pad.push(buffer(&picture, &info)));
    hear.recv().unwrap();
    pushing
}

#[test]
fn a_caps_query_and_a_stop_need_not_wait_for_a_frame() {
    let (_folder, small) = small();
    let path = small.strip_prefix("model-path=").unwrap();
    // The model works on something else until it is told to go on, so the frame can't come out.
    let (go_on, wait) = mpsc::channel::<()>();
    let model = Model::shared(Path::new(path), Device::Cpu, Kind::Float);
    let work = model.submit(move |_| Ok(wait.recv().is_ok()));
    let mut bench = Bench::new(&format!("{small} outscale=2"));
    let pushing = push(&mut bench, noise(8, 6, 3));
    let src = bench.element.static_pad("src").unwrap();
    assert_eq!(sizes(&src.query_caps(None)), caps("width=16,height=12"));
    assert_eq!(bench.element.property::<i32>("tile"), 0);
    bench.element.set_state(gst::State::Null).unwrap();
    assert_eq!(pushing.join().unwrap(), Err(gst::FlowError::Flushing));
    assert_eq!(bench.harness.buffers_received(), 0);
    assert_eq!(
        bench.texts(gst::MessageType::Progress),
        ["Start load-model Loading net.safetensors"],
        "the load can't have ended"
    );
    go_on.send(()).unwrap();
    assert!(work.wait().unwrap());
    // And again.
    bench.harness.play();
    assert_eq!(bench.run(&noise(3, 3, 3), VideoFormat::Rgb).width(), 6);
    assert!(bench.texts(gst::MessageType::Error).is_empty());
}

#[test]
fn a_flush_ends_the_frame_in_work() {
    // A frame that takes minutes, in so many tiles that it can end early: the next one has to wait for that.
    let mut bench = Bench::new("tile=16");
    let pushing = push(&mut bench, noise(1280, 720, 3));
    assert!(bench.harness.push_event(gst::event::FlushStart::new()));
    assert_eq!(pushing.join().unwrap(), Err(gst::FlowError::Flushing));
    assert!(bench.harness.push_event(gst::event::FlushStop::new(true)));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    assert!(bench.harness.push_event(gst::event::Segment::new(&segment)));
    assert_eq!(bench.run(&noise(3, 3, 3), VideoFormat::Rgb).width(), 12);
    assert_eq!(bench.harness.buffers_received(), 1);
    assert!(bench.texts(gst::MessageType::Error).is_empty());
}
