// SPDX-License-Identifier: MPL-2.0
//! `frameratetune` in GStreamer: times, modes, cuts, repeated frames, ends, changes on the way.

mod common;

use std::str::FromStr;

use common::{file, play, register};
use gst::prelude::*;
use gst_check::Harness;
use gst_video::VideoInfo;
use gsttorchvideo::engine::image::Frame;

fn caps(text: &str) -> gst::Caps {
    gst::Caps::from_str(&format!("video/x-raw,{text}")).unwrap()
}

fn ms(time: u64) -> gst::ClockTime {
    gst::ClockTime::from_mseconds(time)
}

/// An element that plays alone, and its messages.
struct Bench {
    harness: Harness,
    element: gst::Element,
    bus: gst::Bus,
}

impl Bench {
    /// With these properties, for RGB frames of this size and rate, and this rate behind it.
    fn new(properties: &str, size: (i32, i32), from: &str, to: &str) -> Self {
        register();
        let element = gst::parse::launch(&format!("frameratetune device=cpu {properties}")).unwrap();
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let mut harness = Harness::with_element(&element, Some("sink"), Some("src"));
        harness.set_sink_caps(caps(&format!("framerate={to}")));
        let (width, height) = size;
        harness.set_src_caps(caps(&format!("format=RGB,width={width},height={height},framerate={from}")));
        Self { harness, element, bus }
    }

    fn rate(&mut self, (width, height): (i32, i32), from: &str) {
        let caps = caps(&format!("format=RGB,width={width},height={height},framerate={from}"));
        assert!(self.harness.push_event(gst::event::Caps::new(&caps)));
    }

    /// Pushes a segment of this rate and stop in milliseconds.
    fn segment(&mut self, rate: f64, stop: Option<u64>, base: u64) {
        let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
        segment.set_rate(rate);
        segment.set_stop(stop.map(ms));
        segment.set_base(ms(base));
        assert!(self.harness.push_event(gst::event::Segment::new(&segment)));
    }

    /// The times of what has come out, in milliseconds.
    fn times(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.harness.try_pull()).map(|buffer| buffer.pts().unwrap().mseconds()).collect()
    }

    fn push(&mut self, bytes: &[u8], pts: gst::ClockTime, duration: gst::ClockTime) -> Result<(), gst::FlowError> {
        let mut buffer = gst::Buffer::from_slice(bytes.to_vec());
        let target = buffer.get_mut().unwrap();
        target.set_pts(pts);
        target.set_duration(duration);
        self.harness.push(buffer).map(drop)
    }

    /// Pushes frames at so many a second, and gives all that comes out to the end.
    fn run(&mut self, frames: &[Vec<u8>], fps: u64) -> Vec<gst::Buffer> {
        let time = |number: usize| gst::ClockTime::from_nseconds(number as u64 * 1_000_000_000 / fps);
        for (number, bytes) in frames.iter().enumerate() {
            self.push(bytes, time(number), time(number + 1) - time(number)).unwrap();
        }
        self.end()
    }

    fn end(&mut self) -> Vec<gst::Buffer> {
        assert!(self.harness.push_event(gst::event::Eos::new()));
        std::iter::from_fn(|| self.harness.try_pull()).collect()
    }

    fn counts(&self) -> [u64; 5] {
        ["in", "out", "duplicate", "drop", "interpolated"].map(|name| self.element.property(name))
    }

    fn errors(&self) -> Vec<String> {
        std::iter::from_fn(|| self.bus.pop_filtered(&[gst::MessageType::Error]))
            .map(|message| match message.view() {
                gst::MessageView::Error(error) => error.error().to_string(),
                _ => unreachable!(),
            })
            .collect()
    }
}

fn bytes(buffer: &gst::Buffer) -> Vec<u8> {
    buffer.map_readable().unwrap().to_vec()
}

/// A part of a photograph that moves on by some pixels from frame to frame.
fn pan(count: usize, step: usize, top: usize) -> Vec<Vec<u8>> {
    let (width, height) = (64, 48);
    let photograph = Frame::open(&file("pipelines/keyframe.jpg")).unwrap().resize(320, 214);
    let part = |left: usize| {
        let rows = photograph.data().chunks(320 * 3).skip(top).take(height);
        rows.flat_map(|row| &row[left * 3..][..width * 3]).copied().collect()
    };
    (0..count).map(|number| part(40 + number * step)).collect()
}

const SIZE: (i32, i32) = (64, 48);

/// Frames of one shade each.
fn shades(values: &[u8]) -> Vec<Vec<u8>> {
    values.iter().map(|&value| vec![value; 64 * 48 * 3]).collect()
}

#[test]
fn every_mode_keeps_the_time_and_the_duration() {
    let frames = pan(6, 3, 40);
    for mode in ["auto", "duplicate", "blend", "interpolate"] {
        for (from, to, count) in
            [(12, "24/1", 12), (12, "16/1", 8), (12, "30000/1001", 15), (12, "8/1", 4), (12, "12/1", 6)]
        {
            let mut bench = Bench::new(&format!("mode={mode}"), SIZE, &format!("{from}/1"), to);
            let buffers = bench.run(&frames, from);
            assert_eq!(buffers.len(), count, "{mode} {to}");
            let (numer, denom) = to.split_once('/').unwrap();
            let (numer, denom) = (numer.parse::<u64>().unwrap(), denom.parse::<u64>().unwrap());
            for (number, buffer) in buffers.iter().enumerate() {
                let at = number as u64 * 1_000_000_000 * denom / numer;
                assert_eq!(buffer.pts(), Some(gst::ClockTime::from_nseconds(at)), "{mode} {to}");
                assert_eq!(buffer.size(), 64 * 48 * 3);
            }
            let total: u64 = buffers.iter().map(|buffer| buffer.duration().unwrap().nseconds()).sum();
            assert!(total.abs_diff(500_000_000) <= 1_000, "{mode} {to}: {total}");
            let [input, output, ..] = bench.counts();
            assert_eq!((input, output), (6, count as u64), "{mode} {to}");
        }
    }
}

#[test]
fn frames_at_their_own_times_pass_as_they_are() {
    let frames = pan(4, 4, 60);
    for mode in ["blend", "interpolate"] {
        let mut bench = Bench::new(&format!("mode={mode}"), SIZE, "12/1", "36/1");
        let buffers = bench.run(&frames, 12);
        assert_eq!(buffers.len(), 12);
        for (number, frame) in frames.iter().enumerate() {
            assert_eq!(&bytes(&buffers[3 * number]), frame, "{mode}: frame {number}");
        }
        assert!(!frames.contains(&bytes(&buffers[1])));
        // Behind the last frame, it is held.
        assert_eq!(bytes(&buffers[11]), frames[3]);
        assert_eq!(bench.counts(), [4, 12, 2, 0, 6], "{mode}");
    }
}

#[test]
fn what_moves_is_found_half_way() {
    let frames = pan(3, 4, 60);
    let wanted = pan(5, 2, 60);
    let error = |mode: &str| {
        let mut bench = Bench::new(&format!("mode={mode}"), SIZE, "10/1", "20/1");
        let seen = bytes(&bench.run(&frames, 10)[1]);
        let differences = seen.iter().zip(&wanted[1]).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
        10.0 * (255.0 * 255.0 / (differences.sum::<f64>() / seen.len() as f64)).log10()
    };
    let (interpolated, blended) = (error("interpolate"), error("blend"));
    println!("interpolated {interpolated:.1} dB, blended {blended:.1} dB");
    assert!(interpolated > blended + 3.0, "{interpolated} and {blended} dB");
}

#[test]
fn nothing_is_mixed_across_a_cut() {
    let (mut frames, other) = (pan(4, 2, 20), pan(4, 2, 150));
    frames.extend(other);
    for mode in ["blend", "interpolate"] {
        let mut bench = Bench::new(&format!("mode={mode}"), SIZE, "10/1", "30/1");
        let buffers = bench.run(&frames, 10);
        assert_eq!(buffers.len(), 24, "{mode}");
        // The frame before the cut is held up to it.
        assert_eq!(bytes(&buffers[10]), frames[3], "{mode}");
        assert_eq!(bytes(&buffers[11]), frames[3], "{mode}");
        assert_eq!(bytes(&buffers[12]), frames[4], "{mode}");
        assert_eq!(bench.counts()[4], 12, "{mode}");
        // And it would be, if one asked for it.
        let mut bench = Bench::new(&format!("mode={mode} scene-threshold=1"), SIZE, "10/1", "30/1");
        assert_ne!(bytes(&bench.run(&frames, 10)[11]), frames[3], "{mode}");
    }
}

#[test]
fn repeated_frames_are_looked_past() {
    // Animation on twos: between the first and the third frame it moves, and so it does in between.
    let moving = pan(3, 4, 60);
    let twos: Vec<_> = moving.iter().flat_map(|frame| [frame.clone(), frame.clone()]).collect();
    let mut bench = Bench::new("mode=blend", SIZE, "10/1", "10/1");
    let buffers = bench.run(&twos, 10);
    assert_eq!(buffers.len(), 6);
    assert_ne!(bytes(&buffers[1]), moving[0]);
    assert_eq!(bytes(&buffers[2]), moving[1]);
    let mut bench = Bench::new("mode=blend max-repeats=0", SIZE, "10/1", "10/1");
    assert_eq!(bytes(&bench.run(&twos, 10)[1]), moving[0]);
    // A picture that stands still is itself.
    let still = vec![moving[0].clone(); 6];
    let mut bench = Bench::new("mode=interpolate", SIZE, "10/1", "20/1");
    let buffers = bench.run(&still, 10);
    assert!(buffers.len() == 12 && buffers.iter().all(|buffer| bytes(buffer) == still[0]));
    assert_eq!(bench.counts()[4], 0);
}

#[test]
fn retime_shows_the_same_frames_faster() {
    let frames = shades(&[1, 2, 3, 4, 5, 6]);
    let mut bench = Bench::new("mode=retime", SIZE, "12/1", "16/1");
    let buffers = bench.run(&frames, 12);
    let seen: Vec<_> = buffers.iter().map(|buffer| bytes(buffer)[0]).collect();
    assert_eq!(seen, [1, 2, 3, 4, 5, 6]);
    assert_eq!(buffers[5].pts(), Some(gst::ClockTime::from_nseconds(312_500_000)));
    assert_eq!(bench.counts(), [6, 6, 0, 0, 0]);
}

#[test]
fn slow_and_fast_motion_change_the_duration() {
    let frames = shades(&[10, 20, 30, 40]);
    let mut bench = Bench::new("mode=blend speed=1/2", SIZE, "10/1", "10/1");
    let buffers = bench.run(&frames, 10);
    let seen: Vec<_> = buffers.iter().map(|buffer| bytes(buffer)[0]).collect();
    assert_eq!(seen, [10, 15, 20, 25, 30, 35, 40, 40]);
    assert_eq!(buffers[7].pts(), Some(ms(700)));
    let mut bench = Bench::new("mode=duplicate speed=2/1", SIZE, "10/1", "10/1");
    let seen: Vec<_> = bench.run(&frames, 10).iter().map(|buffer| bytes(buffer)[0]).collect();
    assert_eq!(seen, [10, 30]);
}

#[test]
fn durations_and_seeks_are_those_of_the_output() {
    register();
    let pipeline = gst::parse::launch(
        "videotestsrc num-buffers=100 ! video/x-raw,format=GRAY8,width=16,height=16,framerate=10/1 ! \
         frameratetune mode=duplicate speed=1/2 device=cpu ! appsink name=sink sync=false max-buffers=2",
    );
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(gst::ClockTime::NONE).0.unwrap();
    assert_eq!(pipeline.query_duration::<gst::ClockTime>(), Some(gst::ClockTime::from_seconds(20)));
    let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
    let (start, stop) = (gst::ClockTime::from_seconds(8), gst::ClockTime::from_seconds(20));
    pipeline.seek(1.0, flags, gst::SeekType::Set, start, gst::SeekType::Set, stop).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let sample = sink.pull_sample().unwrap();
    assert_eq!(sample.buffer().unwrap().pts(), Some(gst::ClockTime::from_seconds(8)));
    let mut last = gst::ClockTime::ZERO;
    while let Ok(sample) = sink.pull_sample() {
        let buffer = sample.buffer().unwrap();
        last = buffer.pts().unwrap() + buffer.duration().unwrap();
    }
    assert_eq!(last, gst::ClockTime::from_seconds(20));
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn gaps_and_jumps_are_held_over() {
    let frames = shades(&[10, 30, 50]);
    let mut bench = Bench::new("mode=blend scene-threshold=1", SIZE, "10/1", "20/1");
    bench.push(&frames[0], ms(0), ms(100)).unwrap();
    let gap = gst::event::Gap::builder(ms(100)).duration(ms(100)).build();
    assert!(bench.harness.push_event(gap));
    bench.push(&frames[1], ms(200), ms(100)).unwrap();
    bench.push(&frames[2], ms(300), ms(100)).unwrap();
    let seen: Vec<_> = bench.end().iter().map(|buffer| bytes(buffer)[0]).collect();
    assert_eq!(seen, [10, 10, 10, 10, 30, 40, 50, 50]);
}

#[test]
fn variable_rates_go_by_their_timestamps() {
    let frames = shades(&[0, 100, 200]);
    let mut bench = Bench::new("mode=blend scene-threshold=1", SIZE, "0/1", "10/1");
    for (frame, at) in frames.iter().zip([0, 300, 500]) {
        bench.push(frame, ms(at), gst::ClockTime::from_mseconds(200)).unwrap();
    }
    let buffers = bench.end();
    let seen: Vec<_> = buffers.iter().map(|buffer| bytes(buffer)[0]).collect();
    assert_eq!(seen, [0, 33, 67, 100, 150, 200, 200]);
}

#[test]
fn a_new_size_goes_on_where_the_old_one_ended() {
    let mut bench = Bench::new("mode=blend", SIZE, "10/1", "20/1");
    let frames = shades(&[10, 20]);
    bench.push(&frames[0], ms(0), ms(100)).unwrap();
    bench.push(&frames[1], ms(100), ms(100)).unwrap();
    bench.rate((2, 2), "10/1");
    bench.push(&[30; 2 * 3 * 2 + 4], ms(200), ms(100)).unwrap();
    let buffers = bench.end();
    let times: Vec<_> = buffers.iter().map(|buffer| buffer.pts().unwrap().mseconds()).collect();
    assert_eq!(times, [0, 50, 100, 150, 200, 250]);
    let sizes: Vec<_> = buffers.iter().map(|buffer| buffer.size()).collect();
    assert_eq!(sizes, [9216, 9216, 9216, 9216, 16, 16]);
}

#[test]
fn a_flush_forgets_the_frame_before() {
    let frames = shades(&[10, 200]);
    let mut bench = Bench::new("mode=blend", SIZE, "10/1", "20/1");
    bench.push(&frames[0], ms(0), ms(100)).unwrap();
    assert!(bench.harness.push_event(gst::event::FlushStart::new()));
    assert!(bench.harness.push_event(gst::event::FlushStop::new(true)));
    let mut segment = gst::FormattedSegment::<gst::ClockTime>::new();
    segment.set_start(ms(500));
    assert!(bench.harness.push_event(gst::event::Segment::new(&segment)));
    bench.push(&frames[1], ms(500), ms(100)).unwrap();
    let seen: Vec<_> = bench.end().iter().map(|buffer| (buffer.pts().unwrap().mseconds(), bytes(buffer)[0])).collect();
    assert_eq!(seen, [(0, 10), (500, 200), (550, 200)]);
}

#[test]
fn latency_is_a_frame_of_the_input() {
    let bench = Bench::new("mode=duplicate", SIZE, "10/1", "20/1");
    assert_eq!(bench.harness.query_latency(), Some(ms(100)));
    // And of those that are looked past.
    let bench = Bench::new("mode=blend max-repeats=2", SIZE, "10/1", "20/1");
    assert_eq!(bench.harness.query_latency(), Some(ms(300)));
    let bench = Bench::new("mode=retime", SIZE, "10/1", "20/1");
    assert_eq!(bench.harness.query_latency().unwrap_or_default(), gst::ClockTime::ZERO);
    // Or how long a frame of the output lasts.
    let bench = Bench::new("mode=duplicate", SIZE, "10/1", "4/1");
    assert_eq!(bench.harness.query_latency(), Some(ms(250)));
    let bench = Bench::new("mode=duplicate max-gap=18446744073709551615", SIZE, "0/1", "1/20");
    assert_eq!(bench.harness.query_latency(), Some(ms(20_000)));
    let bench = Bench::new("mode=blend max-gap=150000000", SIZE, "10/1", "20/1");
    assert_eq!(bench.harness.query_latency(), Some(ms(200)));
}

/// Times and durations in milliseconds, and the first byte.
fn seen(buffers: &[gst::Buffer]) -> Vec<(u64, u64, u8)> {
    let of = |buffer: &gst::Buffer| {
        (buffer.pts().unwrap().mseconds(), buffer.duration().unwrap().mseconds(), bytes(buffer)[0])
    };
    buffers.iter().map(of).collect()
}

#[test]
fn the_times_of_the_output_go_on_over_new_caps() {
    // At 4 a second; the input changes its size and its rate at 300 ms.
    let mut bench = Bench::new("mode=duplicate", SIZE, "10/1", "4/1");
    for (number, frame) in shades(&[10, 20, 30]).iter().enumerate() {
        bench.push(frame, ms(100 * number as u64), ms(100)).unwrap();
    }
    bench.rate((2, 2), "20/1");
    for number in 6..20 {
        bench.push(&[number; 16], ms(50 * u64::from(number)), ms(50)).unwrap();
    }
    assert_eq!(seen(&bench.end()), [(0, 250, 10), (250, 250, 30), (500, 250, 10), (750, 250, 15)]);
    // What follows the input's rate begins where the last frame ends; and so at half the speed.
    for (speed, wanted) in [("1/1", [(0, 100), (100, 50)]), ("1/2", [(0, 100), (100, 100)])] {
        let mut bench = Bench::new(&format!("mode=duplicate speed={speed}"), SIZE, "10/1", "[1/1,100/1]");
        bench.push(&shades(&[10])[0], ms(0), ms(100)).unwrap();
        bench.rate((2, 2), "20/1");
        for number in 2..6 {
            bench.push(&[number; 16], ms(50 * u64::from(number)), ms(50)).unwrap();
        }
        let frames = seen(&bench.end());
        assert_eq!(frames.iter().map(|frame| (frame.0, frame.1)).take(2).collect::<Vec<_>>(), wanted, "{speed}");
        assert!(frames.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0), "{frames:?}");
        let changed: Vec<_> = frames.iter().filter(|frame| frame.2 == 2).map(|frame| frame.0).collect();
        let (first, lasts) = if speed == "1/1" { (vec![100], 300) } else { (vec![200, 250], 600) };
        assert_eq!(changed, first, "{frames:?}");
        assert_eq!(frames.last().map(|frame| frame.0 + frame.1), Some(lasts));
    }
}

#[test]
fn the_same_caps_once_more_change_nothing() {
    let mut bench = Bench::new("mode=blend scene-threshold=1", SIZE, "10/1", "20/1");
    let frames = shades(&[10, 20, 30]);
    bench.push(&frames[0], ms(0), ms(100)).unwrap();
    assert!(bench.harness.push_upstream_event(gst::event::Reconfigure::new()));
    bench.push(&frames[1], ms(100), ms(100)).unwrap();
    bench.rate(SIZE, "10/1");
    bench.push(&frames[2], ms(200), ms(100)).unwrap();
    let shades: Vec<_> = seen(&bench.end()).iter().map(|frame| frame.2).collect();
    assert_eq!(shades, [10, 15, 20, 25, 30, 30]);
}

#[test]
fn frames_of_a_gap_come_with_it() {
    let mut bench = Bench::new("mode=blend", SIZE, "10/1", "20/1");
    bench.push(&shades(&[10])[0], ms(0), ms(100)).unwrap();
    let gap = gst::event::Gap::builder(ms(100)).duration(ms(200)).build();
    assert!(bench.harness.push_event(gap));
    assert_eq!(bench.times(), [0, 50, 100, 150, 200, 250]);
    // Before the first frame it is passed on, and nothing is shown in it.
    let mut bench = Bench::new("mode=blend", SIZE, "10/1", "20/1");
    assert!(bench.harness.push_event(gst::event::Gap::builder(ms(0)).duration(ms(500)).build()));
    bench.push(&shades(&[10])[0], ms(500), ms(100)).unwrap();
    assert!(bench.harness.push_event(gst::event::Eos::new()));
    assert_eq!(bench.times(), [500, 550]);
}

#[test]
fn a_segment_that_only_ends_elsewhere_is_no_jump() {
    let frames = shades(&[10, 20, 30, 40]);
    for is_new_stream in [false, true] {
        let mut bench = Bench::new("mode=duplicate", SIZE, "10/1", "10/1");
        bench.segment(1.0, None, 0);
        bench.push(&frames[0], ms(0), ms(100)).unwrap();
        bench.push(&frames[1], ms(100), ms(100)).unwrap();
        if is_new_stream {
            assert!(bench.harness.push_event(gst::event::StreamStart::new("another")));
            bench.rate(SIZE, "10/1");
        }
        bench.segment(1.0, Some(10_000), 0);
        bench.push(&frames[2], ms(200), ms(100)).unwrap();
        bench.push(&frames[3], ms(300), ms(100)).unwrap();
        assert!(bench.harness.push_event(gst::event::Eos::new()));
        assert_eq!(bench.times(), [0, 100, 200, 300], "{is_new_stream}");
    }
}

#[test]
fn nothing_lasts_longer_than_its_segment() {
    let mut bench = Bench::new("mode=duplicate", SIZE, "10/1", "20/1");
    bench.segment(1.0, Some(200), 0);
    bench.push(&shades(&[10])[0], ms(0), gst::ClockTime::from_seconds(3600)).unwrap();
    assert!(bench.harness.push_event(gst::event::Eos::new()));
    assert_eq!(bench.times(), [0, 50, 100, 150]);
}

#[test]
fn retimed_streams_follow_one_another() {
    // A second at 10 frames a second, shown in 200 ms, and then one at 25.
    let mut bench = Bench::new("mode=retime", SIZE, "10/1", "50/1");
    bench.segment(1.0, None, 0);
    for number in 0..10 {
        bench.push(&shades(&[10])[0], ms(100 * number), ms(100)).unwrap();
    }
    assert!(bench.harness.push_event(gst::event::StreamStart::new("another")));
    bench.rate(SIZE, "25/1");
    bench.segment(1.0, None, 1000);
    bench.push(&shades(&[20])[0], ms(0), ms(40)).unwrap();
    let segments = std::iter::from_fn(|| bench.harness.try_pull_event());
    let bases = segments.filter_map(|event| match event.view() {
        gst::EventView::Segment(segment) => segment.segment().downcast_ref::<gst::ClockTime>()?.base(),
        _ => None,
    });
    assert_eq!(bases.last(), Some(ms(200)));
}

#[test]
fn frames_lie_as_downstream_can_read_them() {
    // A decoder pads its frames where it may.
    register();
    let folder = tempfile::tempdir().unwrap();
    for (properties, frames) in [("mode=duplicate", 8), ("mode=blend fps=20/1", 16)] {
        let path = folder.path().join("frames");
        let made = play(&format!(
            "videotestsrc num-buffers=8 ! video/x-raw,format=I420,width=64,height=48,framerate=10/1 ! \
             vp9enc deadline=1 cpu-used=8 ! vp9dec ! frameratetune device=cpu {properties} ! filesink location=\"{}\"",
            path.display()
        ));
        made.set_state(gst::State::Null).unwrap();
        assert_eq!(path.metadata().unwrap().len(), frames * 64 * 48 * 3 / 2, "{properties}");
    }
}

#[test]
fn seeks_count_from_the_end_too_and_before_anything_is_known() {
    register();
    let element = gst::parse::launch("frameratetune device=cpu mode=duplicate speed=1/2").unwrap();
    let mut harness = Harness::with_element(&element, Some("sink"), Some("src"));
    harness.play();
    let mut asked = |kind, nanoseconds: i64| {
        let (flags, to) = (gst::SeekFlags::FLUSH, gst::ClockTime::from_nseconds(nanoseconds as u64));
        harness.push_upstream_event(gst::event::Seek::new(
            1.0,
            flags,
            kind,
            to,
            gst::SeekType::None,
            gst::ClockTime::NONE,
        ));
        let events = std::iter::from_fn(|| harness.try_pull_upstream_event());
        let starts = events.filter_map(|event| match event.view() {
            gst::EventView::Seek(seek) => Some(seek.get().3),
            _ => None,
        });
        match starts.last() {
            Some(gst::GenericFormattedValue::Time(Some(start))) => start.nseconds() as i64,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked(gst::SeekType::Set, 8_000_000_000), 4_000_000_000);
    assert_eq!(asked(gst::SeekType::End, -5_000_000_000), -2_500_000_000);
}

#[test]
fn what_is_played_backwards_comes_backwards() {
    let mut bench = Bench::new("mode=blend scene-threshold=1 speed=1/2", SIZE, "10/1", "10/1");
    bench.segment(-1.0, Some(400), 0);
    for (number, frame) in shades(&[10, 20, 30, 40]).iter().enumerate().rev() {
        bench.push(frame, ms(100 * number as u64), ms(100)).unwrap();
    }
    let wanted = [(700, 40), (600, 35), (500, 30), (400, 25), (300, 20), (200, 15), (100, 10), (0, 10)];
    assert_eq!(seen(&bench.end()), wanted.map(|(time, shade)| (time, 100, shade)));
    // What lies behind where it begins is not shown, and frames need not say how long they last.
    let mut bench = Bench::new("mode=duplicate", SIZE, "10/1", "10/1");
    bench.segment(-1.0, Some(200), 0);
    for (number, frame) in shades(&[10, 20, 30, 40]).iter().enumerate().rev() {
        bench.push(frame, ms(100 * number as u64), gst::ClockTime::ZERO).unwrap();
    }
    assert_eq!(seen(&bench.end()), [(100, 100, 20), (0, 100, 10)]);
    assert_eq!(bench.counts(), [4, 2, 0, 2, 0]);
}

#[test]
fn a_file_is_played_backwards() {
    register();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mkv");
    let made = play(&format!(
        "videotestsrc num-buffers=24 pattern=ball ! video/x-raw,width=64,height=48,framerate=12/1 ! jpegenc ! \
         matroskamux ! filesink location=\"{}\"",
        path.display()
    ));
    made.set_state(gst::State::Null).unwrap();
    let pipeline = gst::parse::launch(&format!(
        "filesrc location=\"{}\" ! decodebin ! videoconvert ! frameratetune device=cpu mode=interpolate ! \
         video/x-raw,framerate=24/1 ! appsink name=sink sync=false",
        path.display()
    ));
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(gst::ClockTime::NONE).0.unwrap();
    let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
    let (start, stop) = (gst::ClockTime::ZERO, gst::ClockTime::from_seconds(2));
    pipeline.seek(-1.0, flags, gst::SeekType::Set, start, gst::SeekType::Set, stop).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let samples = std::iter::from_fn(|| sink.pull_sample().ok());
    let times: Vec<_> = samples.map(|sample| sample.buffer().unwrap().pts().unwrap().mseconds()).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    let wanted: Vec<_> = (0..48).rev().map(|number| number * 1000 / 24).collect();
    assert_eq!(times.len(), 48, "{times:?}");
    // Matroska rounds to milliseconds.
    assert!(times.iter().zip(wanted).all(|(time, wanted)| time.abs_diff(wanted) <= 1), "{times:?}");
}

#[test]
fn what_is_told_of_a_frame_goes_with_it() {
    use gst_video::{VideoCaptionMeta, VideoCaptionType, VideoRegionOfInterestMeta};
    let mut bench = Bench::new("mode=blend scene-threshold=1", SIZE, "10/1", "20/1");
    for (number, bytes) in shades(&[10, 20]).into_iter().enumerate() {
        let mut buffer = gst::Buffer::from_slice(bytes);
        let target = buffer.get_mut().unwrap();
        target.set_pts(ms(100 * number as u64));
        target.set_duration(ms(100));
        target.set_offset(77);
        VideoRegionOfInterestMeta::add(target, "face", (1, 2, 3, 4));
        VideoCaptionMeta::add(target, VideoCaptionType::Cea608Raw, &[0x80, 0x80]);
        bench.harness.push(buffer).unwrap();
    }
    let buffers = bench.end();
    // A frame, one between, a frame, and the same again.
    assert_eq!(buffers.len(), 4);
    for (number, buffer) in buffers.iter().enumerate() {
        let region = buffer.meta::<VideoRegionOfInterestMeta>().map(|meta| meta.rect());
        assert_eq!(region, Some((1, 2, 3, 4)), "{number}");
        assert_eq!(buffer.iter_meta::<VideoCaptionMeta>().count(), usize::from(number % 2 == 0), "{number}");
        assert_eq!((buffer.offset(), buffer.offset_end()), (number as u64, number as u64 + 1));
    }
}

#[test]
fn queries_and_the_end_of_a_segment_are_in_the_output_s_time() {
    register();
    let pipeline = gst::parse::launch(
        "videotestsrc name=source num-buffers=100 ! video/x-raw,format=GRAY8,width=16,height=16,framerate=10/1 ! \
         frameratetune mode=duplicate speed=1/2 device=cpu ! appsink name=sink sync=false max-buffers=2",
    );
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(gst::ClockTime::NONE).0.unwrap();
    let source = pipeline.by_name("source").unwrap().static_pad("src").unwrap();
    source.add_probe(gst::PadProbeType::QUERY_UPSTREAM, |_, info| {
        let Some(gst::QueryViewMut::Seeking(query)) = info.query_mut().map(|query| query.view_mut()) else {
            return gst::PadProbeReturn::Ok;
        };
        query.set(true, gst::ClockTime::ZERO, gst::ClockTime::from_seconds(10));
        gst::PadProbeReturn::Handled
    });
    let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::SEGMENT;
    let (start, stop) = (gst::ClockTime::from_seconds(4), gst::ClockTime::from_seconds(8));
    pipeline.seek(1.0, flags, gst::SeekType::Set, start, gst::SeekType::Set, stop).unwrap();
    let mut query = gst::query::Seeking::new(gst::Format::Time);
    assert!(pipeline.query(&mut query));
    assert_eq!(query.result(), (true, gst::ClockTime::ZERO.into(), gst::ClockTime::from_seconds(20).into()));
    let mut query = gst::query::Segment::new(gst::Format::Time);
    let pad = sink.static_pad("sink").unwrap();
    let (say, hear) = std::sync::mpsc::channel();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::EventView::SegmentDone(done)) = info.event().map(|event| event.view()) {
            say.send(done.get()).unwrap();
        }
        gst::PadProbeReturn::Ok
    });
    assert!(pad.peer_query(&mut query));
    assert_eq!(query.result(), (1.0, start.into(), stop.into()));
    pipeline.set_state(gst::State::Playing).unwrap();
    let pulling = std::thread::spawn(move || {
        let samples = std::iter::from_fn(|| sink.pull_sample().ok());
        samples.map(|sample| sample.buffer().unwrap().pts().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(hear.recv().unwrap(), stop.into());
    pipeline.set_state(gst::State::Null).unwrap();
    let times = pulling.join().unwrap();
    assert_eq!(times[..2], [start, start + ms(100)]);
}

#[test]
fn who_writes_to_a_frame_does_not_write_to_the_next() {
    let frames = shades(&[10, 20]);
    let mut bench = Bench::new("mode=duplicate", SIZE, "10/1", "40/1");
    bench.push(&frames[0], ms(0), ms(100)).unwrap();
    bench.push(&frames[1], ms(100), ms(100)).unwrap();
    let mut seen = Vec::new();
    while let Some(mut buffer) = bench.harness.try_pull() {
        let mut map = buffer.make_mut().map_writable().unwrap();
        seen.push(map[0]);
        map.fill(99);
    }
    assert!(!seen.contains(&99) && seen.len() >= 4, "{seen:?}");
}

#[test]
fn frames_that_come_too_late_are_left_out() {
    let frames = shades(&[10, 20, 200, 30]);
    for mode in ["duplicate", "blend"] {
        let mut bench = Bench::new(&format!("mode={mode}"), SIZE, "10/1", "10/1");
        for (frame, at) in frames.iter().zip([0, 100, 30, 200]) {
            bench.push(frame, ms(at), ms(100)).unwrap();
        }
        let seen: Vec<_> = bench.end().iter().map(|buffer| bytes(buffer)[0]).collect();
        assert_eq!(seen, [10, 20, 30], "{mode}");
    }
}

#[test]
fn a_jump_in_time_is_filled_as_it_is_asked_for() {
    // Years of frames: the first of them come at once, and a flush ends it.
    register();
    let frames = shades(&[10, 20]);
    let mut bench = Bench::new("mode=duplicate", SIZE, "30/1", "60/1");
    bench.push(&frames[0], ms(0), ms(33)).unwrap();
    let (say, hear) = std::sync::mpsc::channel();
    let count = std::sync::atomic::AtomicUsize::new(1);
    bench.element.static_pad("src").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 100 {
            say.send(()).unwrap();
        }
        gst::PadProbeReturn::Drop
    });
    let pad = bench.harness.srcpad().unwrap();
    let mut buffer = gst::Buffer::from_slice(frames[1].clone());
    buffer.get_mut().unwrap().set_pts(gst::ClockTime::from_seconds(1_700_000_000));
    let pushing = std::thread::spawn(move || pad.push(buffer));
    hear.recv().unwrap();
    assert!(bench.harness.push_event(gst::event::FlushStart::new()));
    assert_eq!(pushing.join().unwrap(), Err(gst::FlowError::Flushing));
}

#[test]
fn a_gap_at_the_end_is_held_over_too() {
    let frames = shades(&[10, 20]);
    let mut bench = Bench::new("mode=duplicate speed=1/2", SIZE, "10/1", "10/1");
    bench.push(&frames[0], ms(0), ms(100)).unwrap();
    bench.push(&frames[1], ms(100), ms(100)).unwrap();
    let gap = gst::event::Gap::builder(ms(200)).duration(ms(300)).build();
    assert!(bench.harness.push_event(gap));
    let buffers = bench.end();
    let last = buffers.last().unwrap();
    assert_eq!(last.pts().unwrap() + last.duration().unwrap(), ms(1000));
}

#[test]
fn sound_and_picture_stay_in_step() {
    register();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mkv");
    let made = play(&format!(
        "videotestsrc num-buffers=36 pattern=ball ! video/x-raw,width=64,height=48,framerate=12/1 ! jpegenc ! queue ! mux. \
         audiotestsrc samplesperbuffer=441 num-buffers=300 ! audio/x-raw,rate=44100 ! queue ! mux. \
         matroskamux name=mux ! filesink location=\"{}\"",
        path.display()
    ));
    made.set_state(gst::State::Null).unwrap();
    let pipeline = gst::parse::launch(&format!(
        "filesrc location=\"{}\" ! decodebin name=in ! queue ! videoconvert ! frameratetune device=cpu mode=interpolate ! \
         video/x-raw,framerate=24/1 ! appsink name=video sync=false in. ! queue ! audioconvert ! appsink name=audio sync=false",
        path.display()
    ));
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let [video, audio] = ["video", "audio"].map(|name| {
        let sink = pipeline.by_name(name).unwrap().downcast::<gst_app::AppSink>().unwrap();
        std::thread::spawn(move || {
            let samples = std::iter::from_fn(|| sink.pull_sample().ok());
            let times = samples.map(|sample| {
                let buffer = sample.buffer().unwrap();
                (buffer.pts().unwrap(), buffer.duration().unwrap_or_default())
            });
            times.collect::<Vec<_>>()
        })
    });
    let (video, audio) = (video.join().unwrap(), audio.join().unwrap());
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!(video.len(), 72);
    for (number, (time, _)) in video.iter().enumerate() {
        assert_eq!(time.nseconds(), number as u64 * 1_000_000_000 / 24);
    }
    let end = |times: &[(gst::ClockTime, gst::ClockTime)]| times.last().map(|(time, lasts)| *time + *lasts).unwrap();
    let apart = end(&video).nseconds().abs_diff(end(&audio).nseconds());
    println!("{} and {}", end(&video), end(&audio));
    // Matroska rounds to milliseconds.
    assert!(apart <= 2_000_000, "{} and {}", end(&video), end(&audio));
}

#[test]
fn every_format_comes_out_as_it_is() {
    register();
    for format in ["I420", "NV12", "P010_10LE", "GRAY8", "RGBA", "YUY2"] {
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc num-buffers=4 pattern=ball ! \
             video/x-raw,format={format},width=34,height=26,framerate=10/1,pixel-aspect-ratio=4/3 ! \
             frameratetune device=cpu mode=interpolate fps=20/1 ! appsink name=sink sync=false"
        ));
        let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
        let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        let samples: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
        pipeline.set_state(gst::State::Null).unwrap();
        assert_eq!(samples.len(), 8, "{format}");
        let info = VideoInfo::from_caps(samples[0].caps().unwrap()).unwrap();
        assert_eq!((info.format().to_str().as_str(), info.fps()), (format, gst::Fraction::new(20, 1)));
        assert_eq!(info.par(), gst::Fraction::new(4, 3));
        assert!(samples.iter().all(|sample| sample.buffer().unwrap().size() == info.size()), "{format}");
    }
}

#[test]
fn wrong_settings_end_in_one_clear_error() {
    for (properties, parts) in [
        (
            "mode=interpolate model-path=/nowhere/net.pkl",
            ["/nowhere/net.pkl: No such file", "To get it: the authors' networks"],
        ),
        ("model-path=/nowhere/net.pkl", ["/nowhere/net.pkl", "No such file"]),
        (
            "mode=interpolate model-path=models/realesrgan/realesr-animevideov3.safetensors",
            ["realesr-animevideov3", "RIFE"],
        ),
        ("scale=3", ["scale=3", "use 0.25"]),
        ("scene-threshold=2", ["scene-threshold=2", "0 to 1"]),
        ("speed=0/1", ["speed=0 is not possible", "a fraction above 0"]),
        ("fps=-5/1", ["fps=-5 is not possible", "or 0/1"]),
        ("mode=retime speed=1/2", ["speed=1/2 is not possible", "mode=retime"]),
        ("max-repeats=-1", ["max-repeats=-1", "0 or more"]),
        ("device=gpu", ["device=gpu", "use auto, cpu"]),
    ] {
        register();
        let element = gst::parse::launch(&format!("frameratetune {properties}")).unwrap();
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        assert!(element.set_state(gst::State::Paused).is_err(), "{properties}");
        let message = bus.pop_filtered(&[gst::MessageType::Error]).unwrap();
        let gst::MessageView::Error(error) = message.view() else { unreachable!() };
        let text = error.error().to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{properties}: {text}");
        element.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn interlaced_video_and_missing_times_are_refused() {
    register();
    let bench = Bench::new("mode=blend", SIZE, "10/1", "20/1");
    let offered = bench.element.static_pad("sink").unwrap().query_caps(None);
    assert!(!offered.can_intersect(&caps("interlace-mode=interleaved")));
    // Who does not ask, is told.
    let pad = bench.harness.srcpad().unwrap();
    let fields = caps("format=RGB,width=64,height=48,framerate=10/1,interlace-mode=interleaved");
    pad.push_event(gst::event::Caps::new(&fields));
    let errors = bench.errors();
    assert!(errors.len() == 1 && errors[0].contains("deinterlace"), "{errors:?}");
    let mut bench = Bench::new("mode=blend", SIZE, "10/1", "20/1");
    assert_eq!(bench.harness.push(gst::Buffer::from_slice([0u8; 64 * 48 * 3])), Err(gst::FlowError::Error));
    let errors = bench.errors();
    assert!(errors.len() == 1 && errors[0].contains("timestamp"), "{errors:?}");
}
