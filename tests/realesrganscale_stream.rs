// SPDX-License-Identifier: MPL-2.0
//! `realesrganscale` in a stream: sizes and formats that others choose, batches, repeated frames, changes on the way,
//! metas, statistics.

mod common;

use std::str::FromStr;

use common::{difference, file, noise, recipe_file, register};
use gst::prelude::*;
use gst_check::Harness;
use gst_video::{VideoFormat, VideoFrameExt, VideoFrameRef, VideoInfo};
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::video;
use tch::Tensor;

fn caps(text: &str) -> gst::Caps {
    gst::Caps::from_str(&format!("video/x-raw,{text}")).unwrap()
}

/// A network x2 that adds nothing: every pixel comes out four times.
fn nothing() -> (tempfile::TempDir, String) {
    let (folder, path) = recipe_file("srvgg_x2_prelu", |_, tensor| tensor.zeros_like());
    let property = format!("model-path=\"{}\"", path.display());
    (folder, property)
}

/// A small network x2 that does something.
fn small() -> (tempfile::TempDir, String) {
    let (folder, path) = recipe_file("srvgg_x2_prelu", |_, tensor: &Tensor| tensor.shallow_clone());
    let property = format!("model-path=\"{}\"", path.display());
    (folder, property)
}

/// An element that plays alone, and its messages.
struct Bench {
    harness: Harness,
    element: gst::Element,
    bus: gst::Bus,
}

impl Bench {
    fn new(properties: &str) -> Self {
        register();
        let element = gst::parse::launch(&format!("realesrganscale device=cpu {properties}")).unwrap();
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let harness = Harness::with_element(&element, Some("sink"), Some("src"));
        Self { harness, element, bus }
    }

    /// The caps of what comes out.
    fn output(&self) -> VideoInfo {
        VideoInfo::from_caps(&self.element.static_pad("src").unwrap().current_caps().unwrap()).unwrap()
    }

    fn stat(&self, name: &str) -> u64 {
        self.element.property::<gst::Structure>("stats").get(name).unwrap()
    }

    fn messages(&self, kind: gst::MessageType) -> Vec<gst::Message> {
        std::iter::from_fn(|| self.bus.pop_filtered(&[kind])).collect()
    }
}

fn rgb(width: i32, height: i32) -> gst::Caps {
    caps(&format!("format=RGB,width={width},height={height},framerate=10/1"))
}

/// An RGB picture as a buffer, the frame of this number at 10 frames a second.
fn buffer(picture: &Frame, number: u64) -> gst::Buffer {
    let info = VideoInfo::builder(VideoFormat::Rgb, picture.width() as u32, picture.height() as u32).build().unwrap();
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    let target = buffer.get_mut().unwrap();
    video::write(picture, &mut VideoFrameRef::from_buffer_ref_writable(target, &info).unwrap());
    target.set_pts(gst::ClockTime::from_mseconds(100 * number));
    target.set_duration(gst::ClockTime::from_mseconds(100));
    buffer
}

/// Pictures that differ.
fn pictures(count: u8) -> Vec<Frame> {
    let picture = noise(12, 8, 3);
    let darker = |by: u8| picture.data().iter().map(|value| value.saturating_sub(by * 9)).collect();
    (0..count).map(|by| Frame::new(12, 8, 3, darker(by))).collect()
}

/// What a pipeline without an end of its own gives: the caps and the buffers.
fn play(line: &str) -> (gst::Caps, Vec<gst::Buffer>) {
    register();
    let pipeline = gst::parse::launch(&format!("{line} ! appsink name=sink sync=false")).unwrap();
    let pipeline = pipeline.downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let samples: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    let error = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(error.is_none() && !samples.is_empty(), "{line}: {error:?}");
    (samples[0].caps_owned().unwrap(), samples.iter().map(|sample| sample.buffer_owned().unwrap()).collect())
}

#[test]
fn any_size_that_is_asked_for() {
    let (_folder, nothing) = nothing();
    for (input, output, wanted) in [
        ("width=1024,height=576", "width=1920,height=1080", "width=1920,height=1080,pixel-aspect-ratio=1/1"),
        ("width=1280,height=720", "width=1920,height=1080", "width=1920,height=1080,pixel-aspect-ratio=1/1"),
        ("width=33,height=27", "format=RGB", "width=66,height=54,pixel-aspect-ratio=1/1"),
        ("width=33,height=27", "width=50", "width=50,height=41,pixel-aspect-ratio=1/1"),
        ("width=33,height=27", "width=50,height=50", "width=50,height=50,pixel-aspect-ratio=11/9"),
        ("width=33,height=27", "width=7,height=5,pixel-aspect-ratio=1/1", "width=7,height=5,pixel-aspect-ratio=1/1"),
    ] {
        let line = format!(
            "videotestsrc num-buffers=1 pattern=gradient ! video/x-raw,format=RGB,{input},pixel-aspect-ratio=1/1 ! \
             realesrganscale {nothing} device=cpu ! video/x-raw,{output}"
        );
        let (seen, buffers) = play(&line);
        assert!(seen.can_intersect(&caps(wanted)), "{output}: {seen}");
        assert_eq!(buffers[0].size(), VideoInfo::from_caps(&seen).unwrap().size());
    }
}

#[test]
fn borders_keep_the_shape_or_the_picture_is_stretched() {
    let (_folder, nothing) = nothing();
    let grey = Frame::new(8, 8, 3, vec![90; 8 * 8 * 3]);
    for (borders, wanted) in [(true, [0, 0, 0, 0, 90, 90, 90, 90]), (false, [90; 8])] {
        let mut bench = Bench::new(&format!("{nothing} add-borders={borders}"));
        bench.harness.set_sink_caps(caps("width=32,height=16,pixel-aspect-ratio=1/1"));
        bench.harness.set_src_caps(caps("format=RGB,width=8,height=8,framerate=10/1,pixel-aspect-ratio=1/1"));
        let output = bench.harness.push_and_pull(buffer(&grey, 0)).unwrap();
        let map = output.map_readable().unwrap();
        for row in map.chunks(32 * 3) {
            let left: Vec<_> = row.chunks(3).take(16).map(|pixel| pixel[0]).step_by(2).collect();
            assert_eq!(left, wanted, "{borders}");
            assert!(row.chunks(3).rev().take(16).eq(row.chunks(3).take(16)), "{borders}");
        }
    }
}

/// The numbers of one component, and how many are in a row.
fn samples(buffer: &gst::Buffer, info: &VideoInfo, component: u8) -> (Vec<i64>, usize) {
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let format = info.format_info();
    let data = frame.plane_data(info.comp_plane(component)).unwrap();
    let (step, row) = (info.comp_pstride(component) as usize, info.comp_stride(component) as usize);
    let shift = format.shift()[component as usize];
    let sample = |at: usize| match format.depth()[0] {
        8 => i64::from(data[at]),
        _ => i64::from(u16::from_le_bytes([data[at], data[at + 1]]) >> shift),
    };
    let (width, height) = (frame.comp_width(component.into()) as usize, frame.comp_height(component.into()) as usize);
    // In P010, GStreamer 1.22 counts the offset of V in numbers.
    let offset = match (info.format(), component) {
        (VideoFormat::P01010le, 2) => 2,
        _ => info.comp_poffset(component) as usize,
    };
    ((0..width * height).map(|i| sample(i / width * row + i % width * step + offset)).collect(), width)
}

#[test]
fn every_family_of_formats_goes_straight_through() {
    let (_folder, nothing) = nothing();
    for format in ["I420", "NV12", "P010_10LE", "Y444", "GRAY8", "GRAY16_LE", "RGBA64_LE", "GBR_10LE", "YUY2"] {
        for colours in ["bt601", "bt709", "bt2020", "1:4:0:0"] {
            // A colour, and all shades of grey from top to bottom.
            for pattern in ["solid-color foreground-color=0xff9a7040", "gradient"] {
                let is_yuv = !["GRAY8", "GRAY16_LE", "RGBA64_LE", "GBR_10LE"].contains(&format);
                let said = if is_yuv { format!(",colorimetry={colours}") } else { String::new() };
                let source = format!(
                    "videotestsrc num-buffers=1 pattern={pattern} ! \
                     video/x-raw,format={format},width=62,height=45{said}"
                );
                let (input, before) = play(&source);
                let (output, after) = play(&format!("{source} ! realesrganscale {nothing} device=cpu"));
                let (input, output) = (VideoInfo::from_caps(&input).unwrap(), VideoInfo::from_caps(&output).unwrap());
                assert_eq!((output.format(), output.width(), output.height()), (input.format(), 124, 90));
                assert_eq!(output.colorimetry(), input.colorimetry(), "{format} {colours}");
                for component in 0..input.n_components() as u8 {
                    let (before, width) = samples(&before[0], &input, component);
                    let (after, wide) = samples(&after[0], &output, component);
                    let source = |i: usize| {
                        let (x, y) = (i % wide / 2, i / wide / 2);
                        before[y.min(before.len() / width - 1) * width + x.min(width - 1)]
                    };
                    let most = after.iter().enumerate().map(|(i, seen)| (seen - source(i)).abs()).max().unwrap();
                    assert!(most <= 1, "{format} {colours} {pattern}: component {component} is off by {most}");
                }
            }
        }
    }
}

#[test]
fn formats_are_converted_on_the_way() {
    let (_folder, nothing) = nothing();
    for (from, to) in [("NV12", "RGB"), ("RGB", "I420"), ("GRAY8", "P010_10LE"), ("BGRA", "GBR"), ("P010_10LE", "NV12")]
    {
        let (seen, buffers) = play(&format!(
            "videotestsrc num-buffers=1 ! video/x-raw,format={from},width=16,height=12 ! \
             realesrganscale {nothing} device=cpu ! video/x-raw,format={to}"
        ));
        let info = VideoInfo::from_caps(&seen).unwrap();
        assert_eq!((info.format().to_str().as_str(), info.width()), (to, 32));
        assert_eq!(buffers[0].size(), info.size());
    }
}

#[test]
fn batches_come_out_whole_in_order_and_late() {
    let (_folder, small) = small();
    let pictures = pictures(7);
    let run = |properties: &str| {
        let mut bench = Bench::new(&format!("{small} {properties}"));
        bench.harness.set_src_caps(rgb(12, 8));
        let latency = bench.harness.query_latency();
        for (number, picture) in (0..).zip(&pictures) {
            let mut buffer = buffer(picture, number);
            if number == 0 {
                // As sources mark theirs.
                buffer.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
            }
            assert_eq!(bench.harness.push(buffer), Ok(gst::FlowSuccess::Ok));
        }
        let before = bench.harness.buffers_received();
        assert!(bench.harness.push_event(gst::event::Eos::new()));
        let buffers: Vec<_> = std::iter::from_fn(|| bench.harness.try_pull()).collect();
        assert_eq!(bench.stat("frames"), 7);
        (latency, before, buffers)
    };
    let (latency, before, wanted) = run("");
    assert_eq!((latency.unwrap_or_default(), before), (gst::ClockTime::ZERO, 7));
    let (latency, before, seen) = run("batch-size=3");
    assert_eq!((latency, before), (Some(gst::ClockTime::from_mseconds(200)), 6));
    assert_eq!(seen.len(), 7);
    for (number, (seen, wanted)) in seen.iter().zip(&wanted).enumerate() {
        assert_eq!(seen.pts(), Some(gst::ClockTime::from_mseconds(100 * number as u64)));
        let (seen, wanted) = (seen.map_readable().unwrap(), wanted.map_readable().unwrap());
        assert!(seen.iter().zip(wanted.iter()).all(|(a, b)| a.abs_diff(*b) <= 1), "frame {number}");
    }
}

#[test]
fn pictures_without_a_rate_have_no_latency() {
    let (_folder, small) = small();
    let mut bench = Bench::new(&format!("{small} batch-size=2"));
    bench.harness.set_src_caps(caps("format=RGB,width=12,height=8,framerate=0/1"));
    assert_eq!(bench.harness.query_latency().unwrap_or_default(), gst::ClockTime::ZERO);
    for picture in pictures(2) {
        bench.harness.push(buffer(&picture, 0)).unwrap();
    }
    assert_eq!(bench.harness.buffers_received(), 2);
    assert!(bench.messages(gst::MessageType::Error).is_empty());
}

#[test]
fn a_batch_does_not_wait_across_a_gap_or_a_change() {
    let (_folder, small) = small();
    let picture = &pictures(1)[0];
    let mut bench = Bench::new(&format!("{small} batch-size=4 skip-static=false"));
    bench.harness.set_src_caps(rgb(12, 8));
    let received = |bench: &Bench| bench.harness.buffers_received();
    bench.harness.push(buffer(picture, 0)).unwrap();
    bench.harness.push(buffer(picture, 1)).unwrap();
    assert_eq!(received(&bench), 0);
    let mut after = buffer(picture, 9);
    after.get_mut().unwrap().set_flags(gst::BufferFlags::DISCONT);
    bench.harness.push(after).unwrap();
    assert_eq!(received(&bench), 2);
    let gap = gst::event::Gap::builder(gst::ClockTime::SECOND).duration(gst::ClockTime::SECOND).build();
    assert!(bench.harness.push_event(gap));
    assert_eq!(received(&bench), 3);
    bench.harness.push(buffer(picture, 20)).unwrap();
    // Frames of the old size come out before caps of the new one.
    bench.harness.set_src_caps(rgb(6, 4));
    assert_eq!(received(&bench), 4);
    let sizes = |bench: &mut Bench| -> Vec<_> {
        std::iter::from_fn(|| bench.harness.try_pull()).map(|buffer| buffer.size()).collect()
    };
    let old = VideoInfo::builder(VideoFormat::Rgb, 24, 16).build().unwrap().size();
    assert_eq!(sizes(&mut bench), [old; 4]);
    bench.harness.push(buffer(&noise(6, 4, 3), 21)).unwrap();
    // A new rate, another format.
    bench.harness.set_src_caps(caps("format=RGB,width=6,height=4,framerate=30/1"));
    assert_eq!(sizes(&mut bench), [bench.output().size()]);
    bench.harness.push(buffer(&noise(6, 4, 3), 22)).unwrap();
    bench.harness.set_src_caps(caps("format=GRAY8,width=6,height=4,framerate=30/1"));
    assert_eq!(sizes(&mut bench).len(), 1);
    bench.harness.push(gst::Buffer::from_slice([9u8; 8 * 4])).unwrap();
    bench.harness.push_event(gst::event::Eos::new());
    assert_eq!(sizes(&mut bench), [bench.output().size()]);
    assert_eq!((bench.output().width(), bench.output().fps().numer()), (12, 30));
    assert_eq!(bench.output().format(), VideoFormat::Gray8);
}

#[test]
fn a_flush_forgets_what_was_gathered() {
    let (_folder, small) = small();
    let pictures = pictures(3);
    let mut bench = Bench::new(&format!("{small} batch-size=2"));
    bench.harness.set_src_caps(rgb(12, 8));
    bench.harness.push(buffer(&pictures[0], 0)).unwrap();
    assert!(bench.harness.push_event(gst::event::FlushStart::new()));
    assert!(bench.harness.push_event(gst::event::FlushStop::new(true)));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    assert!(bench.harness.push_event(gst::event::Segment::new(&segment)));
    bench.harness.push(buffer(&pictures[1], 5)).unwrap();
    bench.harness.push(buffer(&pictures[2], 6)).unwrap();
    let times: Vec<_> = std::iter::from_fn(|| bench.harness.try_pull()).map(|buffer| buffer.pts()).collect();
    assert_eq!(times, [500, 600].map(|time| Some(gst::ClockTime::from_mseconds(time))));
}

#[test]
fn downstream_can_change_its_mind() {
    let (_folder, nothing) = nothing();
    let pictures = pictures(3);
    let mut bench = Bench::new(&format!("{nothing} batch-size=2"));
    bench.harness.set_sink_caps(caps("format=RGB,width=18,height=12"));
    bench.harness.set_src_caps(rgb(12, 8));
    bench.harness.push(buffer(&pictures[0], 0)).unwrap();
    bench.harness.set_sink_caps(caps("format=NV12,width=36,height=24"));
    assert!(bench.harness.push_upstream_event(gst::event::Reconfigure::new()));
    bench.harness.push(buffer(&pictures[1], 1)).unwrap();
    bench.harness.push(buffer(&pictures[2], 2)).unwrap();
    let sizes: Vec<_> = std::iter::from_fn(|| bench.harness.try_pull()).map(|buffer| buffer.size()).collect();
    let size = |format, width, height| VideoInfo::builder(format, width, height).build().unwrap().size();
    let large = size(VideoFormat::Nv12, 36, 24);
    assert_eq!(sizes, [size(VideoFormat::Rgb, 18, 12), large, large]);
}

#[test]
fn a_frame_that_repeats_is_not_computed_again() {
    let (_folder, small) = small();
    let pictures = pictures(2);
    let shown = [0, 0, 0, 1, 1, 0];
    for (properties, repeated) in [("", 3), ("batch-size=4", 3), ("skip-static=false", 0)] {
        let mut bench = Bench::new(&format!("{small} {properties}"));
        bench.harness.set_src_caps(rgb(12, 8));
        for (number, &picture) in (0..).zip(&shown) {
            bench.harness.push(buffer(&pictures[picture], number)).unwrap();
        }
        bench.harness.push_event(gst::event::Eos::new());
        let buffers: Vec<_> = std::iter::from_fn(|| bench.harness.try_pull()).collect();
        assert_eq!((bench.stat("frames"), bench.stat("static-frames")), (6, repeated), "{properties}");
        assert_eq!(bench.stat("tiles"), 6 - repeated);
        let bytes: Vec<_> = buffers.iter().map(|buffer| buffer.map_readable().unwrap().to_vec()).collect();
        for (number, &picture) in shown.iter().enumerate() {
            assert_eq!(buffers[number].pts(), Some(gst::ClockTime::from_mseconds(100 * number as u64)));
            let first = shown.iter().position(|&other| other == picture).unwrap();
            assert_eq!(bytes[number], bytes[first], "{properties}: frame {number}");
        }
        assert_ne!(bytes[0], bytes[3]);
    }
}

#[test]
fn batches_and_repeated_frames_of_a_real_source() {
    let (_folder, small) = small();
    register();
    for (batch, messages) in [(1, 12), (4, 3), (5, 3)] {
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc num-buffers=12 pattern=white ! video/x-raw,format=RGB,width=16,height=12 ! \
             realesrganscale name=scale {small} device=cpu batch-size={batch} stats-interval=1 ! fakesink"
        ));
        let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let bus = pipeline.bus().unwrap();
        let kinds = [gst::MessageType::Eos, gst::MessageType::Error, gst::MessageType::Element];
        let mut told = 0;
        while let Some(message) = bus.timed_pop_filtered(gst::ClockTime::NONE, &kinds) {
            if message.type_() == gst::MessageType::Element {
                told += 1;
                continue;
            }
            assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
            break;
        }
        let stats = pipeline.by_name("scale").unwrap().property::<gst::Structure>("stats");
        pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!((stats.get("frames"), stats.get("static-frames")), (Ok(12u64), Ok(11u64)), "{batch}");
        // One for each batch, and one at the end.
        assert_eq!(told, messages + 1, "{batch}");
    }
}

#[test]
fn who_writes_to_a_frame_does_not_write_to_the_next() {
    let (_folder, small) = small();
    let mut bench = Bench::new(&small);
    bench.harness.set_src_caps(rgb(12, 8));
    let picture = &pictures(1)[0];
    let mut first = None;
    for number in 0..4 {
        let mut output = bench.harness.push_and_pull(buffer(picture, number)).unwrap();
        let mut map = output.make_mut().map_writable().unwrap();
        assert_eq!(map.to_vec(), *first.get_or_insert_with(|| map.to_vec()), "frame {number}");
        map.fill(number as u8);
    }
    assert_eq!(bench.stat("static-frames"), 3);
}

#[test]
fn odd_pixels_are_no_panic() {
    let (_folder, nothing) = nothing();
    for par in ["0/1", "2147483647/1", "1/2147483647", "65535/65536"] {
        for wanted in ["width=23,height=17", "width=23,height=17,pixel-aspect-ratio=1/1", "width=[1,30]"] {
            let mut bench = Bench::new(&nothing);
            bench.harness.set_sink_caps(caps(wanted));
            let input = format!("format=RGB,width=12,height=8,framerate=10/1,pixel-aspect-ratio={par}");
            bench.harness.set_src_caps(caps(&input));
            let picture = &pictures(1)[0];
            let output = bench.harness.push_and_pull(buffer(picture, 0)).unwrap();
            assert_eq!(output.size(), bench.output().size(), "{par} {wanted}");
            assert!(bench.messages(gst::MessageType::Error).is_empty());
        }
    }
}

#[test]
fn rows_that_go_upwards_are_an_error() {
    let (_folder, nothing) = nothing();
    let mut bench = Bench::new(&nothing);
    bench.harness.set_src_caps(rgb(12, 8));
    let mut buffer = buffer(&pictures(1)[0], 0);
    let meta = gst_video::VideoMeta::add_full(
        buffer.get_mut().unwrap(),
        gst_video::VideoFrameFlags::empty(),
        VideoFormat::Rgb,
        12,
        8,
        &[36 * 7],
        &[-36],
    );
    meta.unwrap();
    assert_eq!(bench.harness.push(buffer), Err(gst::FlowError::Error));
    assert_eq!(bench.messages(gst::MessageType::Error).len(), 1);
}

#[test]
fn sizes_that_do_not_meet_are_explained() {
    let (_folder, nothing) = nothing();
    let mut bench = Bench::new(&format!("{nothing} outscale=2"));
    bench.harness.set_sink_caps(caps("width=100,height=100"));
    bench.harness.set_src_caps(rgb(12, 8));
    assert!(bench.harness.push(buffer(&pictures(1)[0], 0)).is_err());
    let errors = bench.messages(gst::MessageType::Error);
    let gst::MessageView::Error(error) = errors[0].view() else { unreachable!() };
    let text = error.error().to_string();
    assert!(text.contains("outscale=2 was set, and makes 24x16") && text.contains("width=(int)100"), "{text}");
}

#[test]
fn metas_go_with_their_frames() {
    let (_folder, small) = small();
    let mut bench = Bench::new(&format!("{small} batch-size=2"));
    bench.harness.set_sink_caps(caps("width=48,height=16,pixel-aspect-ratio=1/1"));
    bench.harness.set_src_caps(caps("format=RGB,width=12,height=8,framerate=10/1,pixel-aspect-ratio=1/1"));
    let pictures = pictures(2);
    for (number, picture) in (0..).zip(&pictures) {
        let mut buffer = buffer(picture, number);
        let target = buffer.get_mut().unwrap();
        gst_video::VideoCaptionMeta::add(target, gst_video::VideoCaptionType::Cea708Raw, &[number as u8 + 1, 2, 3]);
        let code = format!("01:02:03:0{number}");
        let code = gst_video::VideoTimeCode::from_str(&code).unwrap();
        let code = gst_video::ValidVideoTimeCode::new(
            gst::Fraction::new(10, 1),
            None,
            gst_video::VideoTimeCodeFlags::empty(),
            code.hours(),
            code.minutes(),
            code.seconds(),
            code.frames(),
            0,
        )
        .unwrap();
        gst_video::VideoTimeCodeMeta::add(target, &code);
        gst_video::VideoRegionOfInterestMeta::add(target, "face", (2, 1, 4, 3));
        let reference = caps("reference=x");
        gst::ReferenceTimestampMeta::add(target, &reference, gst::ClockTime::from_seconds(number), None);
        bench.harness.push(buffer).unwrap();
    }
    for number in 0..2u64 {
        let output = bench.harness.pull().unwrap();
        let caption = output.meta::<gst_video::VideoCaptionMeta>().unwrap();
        assert_eq!(caption.data(), [number as u8 + 1, 2, 3]);
        let code = output.meta::<gst_video::VideoTimeCodeMeta>().unwrap();
        assert_eq!(u64::from(code.tc().frames()), number);
        let reference = output.meta::<gst::ReferenceTimestampMeta>().unwrap();
        assert_eq!(reference.timestamp(), gst::ClockTime::from_seconds(number));
        // Twice as large, and in the middle of 48 pixels.
        let region = output.meta::<gst_video::VideoRegionOfInterestMeta>().unwrap();
        assert_eq!((region.roi_type(), region.rect()), ("face", (4 + 12, 2, 8, 6)));
        assert!(output.meta::<gst_video::VideoMeta>().is_none());
        assert_eq!(output.size(), bench.output().size());
    }
}

#[test]
fn statistics_are_told_now_and_then_and_at_the_end() {
    let (_folder, small) = small();
    let pictures = pictures(3);
    let told = |properties: &str| -> Vec<u64> {
        let mut bench = Bench::new(&format!("{small} {properties}"));
        bench.harness.set_src_caps(rgb(12, 8));
        for (number, picture) in (0..).zip(&pictures) {
            bench.harness.push(buffer(picture, number)).unwrap();
        }
        bench.harness.push_event(gst::event::Eos::new());
        let messages = bench.messages(gst::MessageType::Element);
        messages
            .iter()
            .map(|message| {
                let structure = message.structure().unwrap();
                assert_eq!(structure.name(), "realesrganscale-stats");
                assert!(structure.get::<f64>("ms-per-frame").unwrap() > 0.0);
                structure.get::<u64>("frames").unwrap()
            })
            .collect()
    };
    assert_eq!(told("stats-interval=1"), [1, 2, 3, 3]);
    assert_eq!(told("stats-interval=3600000000000"), [3]);
    assert!(told("stats-interval=0").is_empty());
}

#[test]
fn interlaced_video_does_not_fit_its_caps() {
    let bench = Bench::new("");
    let offered = bench.element.static_pad("sink").unwrap().query_caps(None);
    assert!(!offered.can_intersect(&caps("interlace-mode=interleaved")), "{offered}");
    assert!(offered.can_intersect(&caps("interlace-mode=progressive")));
    assert!(offered.can_intersect(&caps("format=NV12,width=5,height=5")));
}

#[test]
fn a_seek_starts_anew() {
    let (_folder, nothing) = nothing();
    register();
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc num-buffers=50 ! video/x-raw,width=16,height=12,framerate=10/1 ! \
         realesrganscale {nothing} device=cpu batch-size=3 ! appsink name=sink sync=false max-buffers=2"
    ));
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let time = |sink: &gst_app::AppSink| sink.pull_sample().unwrap().buffer().unwrap().pts().unwrap();
    assert_eq!(time(&sink), gst::ClockTime::ZERO);
    for at in [3000, 500, 0] {
        let at = gst::ClockTime::from_mseconds(at);
        pipeline.seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, at).unwrap();
        assert_eq!(time(&sink), at);
        assert_eq!(time(&sink), at + gst::ClockTime::from_mseconds(100));
    }
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn a_hundred_frames_of_a_gradient_in_4k_have_no_bands() {
    // 1024 shades that move on from frame to frame, in tiles, through a network that repeats each pixel.
    let (_folder, nothing) = nothing();
    let (width, height) = (1920, 1080);
    let mut bench = Bench::new(&format!("{nothing} tile=500"));
    bench.harness.set_src_caps(caps(&format!("format=GBR_10LE,width={width},height={height},framerate=25/1")));
    let info = VideoInfo::builder(VideoFormat::Gbr10le, width as u32, height as u32).build().unwrap();
    let plane = info.offset()[1];
    for number in 0..100usize {
        let shade = |x: usize, y: usize, component: usize| (((x + y + 7 * number) / 3 + 300 * component) % 1024) as u16;
        let mut bytes = vec![0; info.size()];
        for (component, plane) in bytes.chunks_exact_mut(plane).enumerate() {
            for (y, row) in plane.chunks_exact_mut(width * 2).enumerate() {
                for (x, sample) in row.chunks_exact_mut(2).enumerate() {
                    sample.copy_from_slice(&shade(x, y, component).to_le_bytes());
                }
            }
        }
        let output = bench.harness.push_and_pull(gst::Buffer::from_mut_slice(bytes)).unwrap();
        let map = output.map_readable().unwrap();
        assert_eq!(map.len(), 4 * info.size());
        for (component, plane) in map.chunks_exact(4 * plane).enumerate() {
            for (y, row) in plane.chunks_exact(width * 4).enumerate() {
                let is_same = row
                    .chunks_exact(2)
                    .enumerate()
                    .all(|(x, seen)| u16::from_le_bytes([seen[0], seen[1]]) == shade(x / 2, y / 2, component));
                assert!(is_same, "frame {number}, row {y}");
            }
        }
    }
    assert!(bench.stat("tiles") >= 1200);
}

#[test]
fn a_photograph_comes_out_the_same_in_yuv() {
    // The shipped network, from and to the format that films have, against RGB.
    let picture = Frame::open(&file("pipelines/keyframe.jpg")).unwrap().resize(48, 32);
    let mut direct = Bench::new("");
    direct.harness.set_src_caps(rgb(48, 32));
    let wanted = direct.harness.push_and_pull(buffer(&picture, 0)).unwrap();
    let wanted = Frame::new(192, 128, 3, wanted.map_readable().unwrap().to_vec());
    let sample = gst::Sample::builder().buffer(&buffer(&picture, 0)).caps(&rgb(48, 32)).build();
    let to_yuv = caps("format=Y444,colorimetry=bt709");
    let yuv = gst_video::convert_sample(&sample, &to_yuv, gst::ClockTime::NONE).unwrap();
    let mut bench = Bench::new("");
    bench.harness.set_sink_caps(caps("format=RGB"));
    bench.harness.set_src_caps(yuv.caps_owned().unwrap());
    let seen = bench.harness.push_and_pull(yuv.buffer_owned().unwrap()).unwrap();
    let seen = Frame::new(192, 128, 3, seen.map_readable().unwrap().to_vec());
    let most = difference(&seen, &wanted);
    println!("{most} levels");
    // YUV of 8 bits holds a photograph to two levels or three, which the network sharpens.
    assert!(most <= 12, "{most} levels");
}
