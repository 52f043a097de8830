// SPDX-License-Identifier: MPL-2.0
//! `svdanimate` in real pipelines, with a tiny model of random weights.

use gst::prelude::*;
use gst::{ClockTime, MessageView, ProgressType};
use gsttorchvideo::engine::image::Frame;

mod common;

use common::svd::{FILES, Pipeline, SINK, check_error, check_times, errors, info, is_end, picture, progress};

const SMALL: &str = "num-frames=4 width=32 height=32";

/// `svdanimate` between `pictures` and `rest`.
fn animate(pictures: &str, properties: &str, rest: &str) -> Pipeline {
    let model = FILES.model.display();
    let element =
        format!("svdanimate name=src device=cpu model-path=\"{model}\" num-inference-steps=2 {SMALL} {properties}");
    Pipeline::launch(&format!("{pictures} ! {element} ! {rest}"))
}

/// The test's picture as a stream of `count`.
fn still(count: i32) -> String {
    format!("filesrc location=\"{}\" ! pngdec ! imagefreeze num-buffers={count}", FILES.picture.display())
}

fn pictures(samples: &[gst::Sample]) -> Vec<Frame> {
    samples.iter().map(picture).collect()
}

#[test]
fn a_picture_becomes_the_clip_that_svdsrc_makes() {
    let wanted = Pipeline::new(SMALL, SINK).collect();
    let samples = animate(&still(1), "", SINK).collect();
    check_times(&samples, info(&samples[0]).fps());
    assert!(pictures(&samples) == pictures(&wanted));
    assert_eq!(info(&samples[0]).colorimetry(), "sRGB".parse().unwrap());
}

#[test]
fn every_picture_becomes_a_clip_and_they_follow_each_other() {
    let samples = animate(&still(3), "seed=7 fps=8/1", SINK).collect();
    assert_eq!(samples.len(), 12);
    check_times(&samples, gst::Fraction::new(8, 1));
    let second = Pipeline::new(&format!("{SMALL} seed=8 fps=8/1"), SINK).collect();
    assert!(pictures(&samples)[4..8] == pictures(&second));
}

#[test]
fn a_clip_waits_for_its_pictures_time() {
    // A picture every two seconds, and clips of half a second.
    let source = "videotestsrc num-buffers=2 ! video/x-raw,framerate=1/2,width=40,height=30";
    let samples = animate(source, "fps=8/1", SINK).collect();
    let starts: Vec<_> = samples.iter().map(|sample| sample.buffer().unwrap().pts().unwrap()).collect();
    assert_eq!((samples.len(), starts[0]), (8, ClockTime::ZERO));
    assert_eq!((starts[3], starts[4]), (ClockTime::from_mseconds(375), ClockTime::from_seconds(2)));
}

#[test]
fn pictures_of_any_format_are_taken() {
    let clip = |format: &str| {
        let caps = format!("videoconvert ! video/x-raw,format={format}");
        pictures(&animate(&format!("{} ! {caps}", still(1)), "", SINK).collect())
    };
    let wanted = clip("RGB");
    assert!(clip("BGRA") == wanted);
    for format in ["I420", "NV12", "GRAY8", "RGBA64_LE", "I420_10LE"] {
        assert_eq!(clip(format).len(), 4, "{format}");
    }
}

#[test]
fn pictures_of_other_than_square_pixels_are_shown_upright() {
    // Twice as wide pixels: 20x40 of them are a square.
    let raw =
        "videotestsrc num-buffers=1 pattern=ball ! video/x-raw,format=RGB,width=20,height=40,pixel-aspect-ratio=2/1";
    let square = format!("{raw} ! videoconvertscale ! video/x-raw,width=40,height=40,pixel-aspect-ratio=1/1");
    let clip = |source: &str| pictures(&animate(source, "", SINK).collect());
    assert!(clip(raw) == clip(&square));
}

#[test]
fn downstream_chooses() {
    let model = FILES.model.display();
    let element = format!("svdanimate name=src device=cpu model-path=\"{model}\" num-inference-steps=2 num-frames=3");
    let caps = "video/x-raw,format=BGRx,width=40,height=24,framerate=30000/1001";
    let samples = Pipeline::launch(&format!("{} ! {element} ! {caps} ! {SINK}", still(1))).collect();
    check_times(&samples, gst::Fraction::new(30_000, 1001));
    assert_eq!((info(&samples[0]).width(), info(&samples[0]).height()), (40, 24));
    assert_eq!(info(&samples[0]).format(), gst_video::VideoFormat::Bgrx);
}

#[test]
fn what_does_not_fit_ends_in_one_message() {
    check_error(
        &animate(&still(1), "", "video/x-raw,width=128 ! fakesink"),
        &["width=(int)128", "width=32, height=32 was set"],
    );
    check_error(&animate(&still(1), "num-inference-steps=0", "fakesink"), &["num-inference-steps=0", "1 to 1000"]);
    check_error(&animate(&still(1), "max-memory=1000", "fakesink"), &["max-memory=1000"]);
    let nano = format!("model-path=\"{}\" dtype=bf16", common::file("models/svd-nano").display());
    check_error(&animate(&still(1), &nano, "fakesink"), &["dtype=bf16", "use fp32, fp16 or auto"]);
    let interlaced = "videotestsrc num-buffers=1 ! capssetter caps=video/x-raw,interlace-mode=interleaved";
    check_error(&animate(interlaced, "", "fakesink"), &["interlaced", "deinterlace"]);
}

#[test]
fn the_next_picture_is_made_while_one_is_shown() {
    let pipeline = animate(&still(3), "", "appsink name=sink sync=false max-buffers=1");
    let release = pipeline.play_and_hold_at_clip(2);
    let sink: gst_app::AppSink = pipeline.0.by_name("sink").unwrap().downcast().unwrap();
    for _ in 0..4 {
        sink.pull_sample().unwrap();
    }
    release.send(()).unwrap();
    assert_eq!(std::iter::from_fn(|| sink.pull_sample().ok()).count(), 8);
}

#[test]
fn what_is_set_counts_from_the_next_clip_on() {
    let pipeline = animate(&still(3), "seed=5", "appsink name=sink sync=false max-buffers=1");
    let release = pipeline.play_and_hold_at_clip(2);
    let sink: gst_app::AppSink = pipeline.0.by_name("sink").unwrap().downcast().unwrap();
    let first = picture(&sink.pull_sample().unwrap());
    pipeline.src().set_property("seed", 100i64);
    release.send(()).unwrap();
    let rest: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).map(|sample| picture(&sample)).collect();
    let clip = |seed: i64| pictures(&Pipeline::new(&format!("{SMALL} seed={seed}"), SINK).collect());
    assert!(first == clip(5)[0] && rest[3..7] == clip(100) && rest[7..] == clip(101));
}

#[test]
fn the_end_comes_from_downstream_too() {
    let pipeline = animate(&still(-1), "", "identity eos-after=6 ! fakesink");
    pipeline.play();
    assert_eq!(errors(&pipeline.messages_until_eos()), [""; 0]);
}

#[test]
fn early_events_wait_for_the_caps() {
    // Warnings end the test.
    let source = format!("{} ! taginject tags=title=x", still(1));
    assert_eq!(animate(&source, "", SINK).collect().len(), 4);
    let nothing = "videotestsrc num-buffers=0 ! taginject tags=title=x";
    assert_eq!(animate(nothing, "", SINK).collect().len(), 0);
}

#[test]
fn svdsrcs_provenance_is_taken() {
    let pipeline = Pipeline::new(&format!("{SMALL} seed=9 num-clips=1"), "fakesink");
    pipeline.play();
    let messages = pipeline.messages_until_eos();
    let told = messages.iter().find_map(|message| match message.view() {
        MessageView::Element(told) => told.structure().filter(|told| told.name() == "svdsrc-clip"),
        _ => None,
    });
    let provenance: String = told.unwrap().get("provenance").unwrap();
    let pipeline = Pipeline::launch(&format!("{} ! svdanimate name=src device=cpu ! {SINK}", still(1)));
    pipeline.src().set_property("provenance", provenance);
    assert!(pictures(&pipeline.collect()) == pictures(&Pipeline::new(&format!("{SMALL} seed=9"), SINK).collect()));
}

#[test]
fn stopping_ends_the_generation_and_a_second_run_works() {
    let pipeline = animate(&still(1), "", SINK);
    let release = pipeline.play_and_hold_at("Denoising step 1 ");
    pipeline.0.set_state(gst::State::Ready).unwrap();
    release.send(()).unwrap();
    let told = progress(&pipeline.messages_until(is_end), "generate");
    assert_eq!(told.last().unwrap().0, ProgressType::Canceled);
    let samples = pipeline.collect();
    assert_eq!(samples.len(), 4);
    check_times(&samples, info(&samples[0]).fps());
}

#[test]
fn a_flush_gives_way_to_other_pictures() {
    let pipeline = animate(&still(-1), "num-inference-steps=1", "appsink name=sink sync=false max-buffers=1");
    let release = pipeline.play_and_hold_at("Denoising step 1 ");
    let sink: gst_app::AppSink = pipeline.0.by_name("sink").unwrap().downcast().unwrap();
    for _ in 0..2 {
        // A seek of what gives the pictures: it flushes, and they come again.
        let freeze = pipeline.src().static_pad("sink").unwrap().peer().unwrap();
        let seek = gst::event::Seek::new(
            1.0,
            gst::SeekFlags::FLUSH,
            gst::SeekType::Set,
            ClockTime::ZERO,
            gst::SeekType::None,
            ClockTime::NONE,
        );
        assert!(freeze.send_event(seek));
        let _ = release.send(());
        let samples: Vec<_> = (0..6).map(|_| sink.pull_sample().unwrap()).collect();
        check_times(&samples, info(&samples[0]).fps());
    }
    pipeline.0.set_state(gst::State::Null).unwrap();
    let messages: Vec<_> = std::iter::from_fn(|| pipeline.0.bus().unwrap().pop()).collect();
    assert_eq!(errors(&messages), [""; 0]);
}

#[test]
fn clips_can_not_be_sought_in_and_queries_answer() {
    let pipeline = animate(&still(1), "", "fakesink");
    let _hold = pipeline.play_and_hold_at("Denoising step 1 ");
    let src = pipeline.src();
    let pad = src.static_pad("src").unwrap();
    let caps = pad.query_caps(None);
    assert_eq!(caps.structure(0).unwrap().get::<i32>("width"), Ok(32));
    assert_eq!(pad.query_position::<ClockTime>(), Some(ClockTime::ZERO));
    assert_eq!(pad.query_duration::<ClockTime>(), None);
    let mut query = gst::query::Seeking::new(gst::Format::Time);
    assert!(pad.query(&mut query) && !query.result().0);
    assert!(pipeline.0.seek_simple(gst::SeekFlags::FLUSH, ClockTime::ZERO).is_err());
}

#[test]
fn clips_are_told_of() {
    let pipeline = animate(&still(2), "seed=3", "fakesink");
    pipeline.play();
    let messages = pipeline.messages_until_eos();
    let seeds: Vec<i64> = messages
        .iter()
        .filter_map(|message| match message.view() {
            MessageView::Element(told) => told.structure().filter(|told| told.name() == "svdanimate-clip"),
            _ => None,
        })
        .map(|told| told.get("seed").unwrap())
        .collect();
    assert_eq!(seeds, [3, 4]);
    let has_tags = |message: &gst::Message| match message.view() {
        MessageView::Tag(tag) => tag.tags().get::<gst::tags::Comment>().is_some(),
        _ => false,
    };
    assert!(messages.iter().any(has_tags));
}

#[test]
fn an_event_that_meets_the_stop_is_no_error() {
    let pipeline = animate(&still(-1), "", SINK);
    let [sink, src] = ["sink", "src"].map(|name| pipeline.src().static_pad(name).unwrap());
    // The thread that pushes is held, so that the pads can't be stopped: the element has only begun to.
    let ((reached, has_reached), (release, is_released)) =
        (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let is_released = std::sync::Mutex::new(is_released);
    src.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let _ = reached.send(());
        let _ = is_released.lock().unwrap().recv();
        gst::PadProbeReturn::Remove
    });
    pipeline.play();
    has_reached.recv().unwrap();
    let it = pipeline.src();
    let stopping = std::thread::spawn(move || it.set_state(gst::State::Ready));
    while !src.pad_flags().contains(gst::PadFlags::FLUSHING) {
        std::thread::yield_now();
    }
    assert!(!sink.pad_flags().contains(gst::PadFlags::FLUSHING));
    assert!(sink.send_event(gst::event::Tag::new(gst::TagList::new())));
    drop(release);
    stopping.join().unwrap().unwrap();
}

#[test]
fn tags_outlive_a_flush() {
    let model = FILES.model.display();
    let line = format!("svdanimate device=cpu model-path=\"{model}\" num-inference-steps=1 {SMALL}");
    let mut harness = gst_check::Harness::with_element(&gst::parse::launch(&line).unwrap(), Some("sink"), Some("src"));
    harness.set_src_caps("video/x-raw,format=RGB,width=8,height=8,framerate=1/1".parse().unwrap());
    let mut tags = gst::TagList::new();
    tags.get_mut().unwrap().add::<gst::tags::Title>(&"x", gst::TagMergeMode::Append);
    // It waits for the caps of the first clip.
    assert!(harness.push_event(gst::event::Tag::new(tags)));
    assert!(harness.push_event(gst::event::FlushStart::new()));
    assert!(harness.push_event(gst::event::FlushStop::new(true)));
    assert!(harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<ClockTime>::new())));
    harness.push(gst::Buffer::from_slice([0; 8 * 8 * 3])).unwrap();
    harness.pull().unwrap();
    let pad = harness.sinkpad().unwrap();
    let tags = (0..).map_while(|index| pad.sticky_event::<gst::event::Tag>(index));
    let titles: Vec<_> = tags.filter_map(|tag| Some(tag.tag().get::<gst::tags::Title>()?.get().to_owned())).collect();
    assert_eq!(titles, ["x"]);
}
