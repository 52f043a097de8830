// SPDX-License-Identifier: MPL-2.0
//! `svd://` URIs in GStreamer's own players, with a tiny model of random weights.

use gst::prelude::*;
use gst::{ClockTime, MessageView};
use gsttorchvideo::engine::image::Frame;

mod common;

use common::svd::{FILES, PATIENCE, Pipeline, SINK, check_times, errors, info, picture};

/// `svdsrc` with the tiny model, and these properties.
fn source(properties: &[(&str, &str)]) -> gst::Element {
    let files = &*FILES;
    let src = gst::ElementFactory::make("svdsrc").property_from_str("device", "cpu").build().unwrap();
    src.set_property("location", files.picture.to_str().unwrap());
    src.set_property("model-path", files.model.to_str().unwrap());
    properties.iter().for_each(|(name, value)| src.set_property_from_str(name, value));
    src
}

fn uri_of(src: &gst::Element) -> String {
    src.dynamic_cast_ref::<gst::URIHandler>().unwrap().uri().unwrap().to_string()
}

const SMALL: [(&str, &str); 5] =
    [("num-frames", "4"), ("fps", "8/1"), ("width", "32"), ("height", "32"), ("num-inference-steps", "2")];

/// A URI of a small clip.
fn small() -> String {
    uri_of(&source(&SMALL))
}

/// The frames of the same clip.
fn wanted() -> Vec<Frame> {
    let properties = SMALL.map(|(name, value)| format!("{name}={value}")).join(" ");
    Pipeline::new(&properties, SINK).collect().iter().map(picture).collect()
}

fn set_uri(src: &gst::Element, uri: &str) -> Result<(), glib::Error> {
    src.dynamic_cast_ref::<gst::URIHandler>().unwrap().set_uri(uri)
}

/// A player, and what its frames come out of.
fn player(name: &str, uri: &str) -> (Pipeline, gst_app::AppSink) {
    let caps = gst_video::VideoCapsBuilder::new().format(gst_video::VideoFormat::Rgb).build();
    let sink = gst_app::AppSink::builder().caps(&caps).sync(false).build();
    if name.starts_with("playbin") {
        let pipeline = Pipeline::launch(name);
        pipeline.0.set_property("uri", uri);
        pipeline.0.set_property("video-sink", &sink);
        return (pipeline, sink);
    }
    let pipeline = Pipeline(gst::Pipeline::new());
    let player = gst::ElementFactory::make(name).property("uri", uri).build().unwrap();
    pipeline.0.add_many([&player, sink.upcast_ref()]).unwrap();
    let pad = sink.static_pad("sink").unwrap();
    player.connect_pad_added(move |_, source| {
        source.link(&pad).unwrap();
    });
    (pipeline, sink)
}

/// Plays to the end, with the frames that come out.
fn collect((pipeline, sink): &(Pipeline, gst_app::AppSink)) -> Vec<gst::Sample> {
    pipeline.play();
    // Before that, playbin has not started its sink.
    pipeline.0.state(PATIENCE).0.unwrap();
    let samples = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    assert_eq!(errors(&pipeline.messages_until_eos()), [""; 0]);
    samples
}

#[test]
fn players_show_a_uri() {
    let (uri, wanted) = (small(), wanted());
    for name in ["uridecodebin", "uridecodebin3", "playbin", "playbin3"] {
        let samples = collect(&player(name, &uri));
        assert!(samples.iter().map(picture).collect::<Vec<_>>() == wanted, "{name}");
        check_times(&samples, info(&samples[0]).fps());
    }
}

#[test]
fn a_player_knows_how_long_it_is_and_that_it_cannot_seek() {
    let (pipeline, sink) = player("playbin", &small());
    pipeline.0.set_state(gst::State::Paused).unwrap();
    pipeline.messages_until(|message| message.type_() == gst::MessageType::AsyncDone);
    assert_eq!(pipeline.0.query_duration(), Some(ClockTime::from_mseconds(500)));
    assert_eq!(pipeline.0.query_position(), Some(ClockTime::ZERO));
    let mut query = gst::query::Seeking::new(gst::Format::Time);
    assert!(pipeline.0.query(&mut query) && !query.result().0);
    assert!(pipeline.0.seek_simple(gst::SeekFlags::FLUSH, ClockTime::ZERO).is_err());
    // It goes on as if nothing had been asked.
    assert_eq!(collect(&(pipeline, sink)).len(), 4);
}

#[test]
fn a_live_uri_is_a_live_source() {
    let mut properties = SMALL.to_vec();
    properties.extend([("is-live", "true"), ("idle", "hold")]);
    let (pipeline, _sink) = player("playbin", &uri_of(&source(&properties)));
    assert_eq!(pipeline.0.set_state(gst::State::Paused), Ok(gst::StateChangeSuccess::NoPreroll));
    pipeline.play();
    // There is no end.
    pipeline.messages_until(|message| {
        let MessageView::Element(told) = message.view() else { return false };
        told.structure().is_some_and(|told| told.name() == "svdsrc-shown")
    });
    assert_eq!(pipeline.0.query_duration::<ClockTime>(), None);
}

#[test]
fn the_discoverer_tells_what_it_is() {
    let discoverer = gst_pbutils::Discoverer::new(PATIENCE).unwrap();
    let found = discoverer.discover_uri(&small()).unwrap();
    assert_eq!(
        (found.duration(), found.is_seekable(), found.is_live()),
        (ClockTime::from_mseconds(500).into(), false, false)
    );
    let videos = found.video_streams();
    assert_eq!((videos.len(), videos[0].width(), videos[0].height()), (1, 32, 32));
    assert_eq!(videos[0].framerate(), gst::Fraction::new(8, 1));
}

#[test]
fn a_player_says_what_is_wrong() {
    let small = small();
    let check = |name: &str, uri: &str, parts: [&str; 2]| {
        let (pipeline, _sink) = player(name, uri);
        assert!(pipeline.0.set_state(gst::State::Playing).is_err());
        let messages = pipeline.messages_until(|message| message.type_() == gst::MessageType::Error);
        let errors = errors(&messages);
        assert!(parts.iter().all(|part| errors[0].contains(part)), "{name}: {errors:?}");
    };
    for name in ["uridecodebin", "uridecodebin3", "playbin", "playbin3"] {
        check(name, &format!("{small}&sed=7"), ["there is no key sed", "did you mean seed?"]);
        check(name, &small.replace("width=32", "width=wide"), ["width=wide is not possible", "use a whole number"]);
    }
    // What the element finds out as it starts. (With any source that can't start, GStreamer 1.22's urisourcebin writes a
    // critical warning about its pads.)
    for name in ["uridecodebin", "playbin"] {
        check(name, &small.replace("width=32", "width=33"), ["width=33 is not possible", "32 or 40"]);
        check(name, &small.replace("picture.png", "no%20picture.png"), ["no picture.png", "No such file"]);
    }
}

#[test]
fn an_application_gives_a_player_its_keyframe() {
    let playing = player("playbin", &small().replace(FILES.picture.to_str().unwrap(), ""));
    playing.0.0.connect("source-setup", false, |values| {
        let src = values[1].get::<gst::Element>().unwrap();
        let bytes = std::fs::read(&FILES.picture).unwrap();
        let caps = gst::Caps::new_empty_simple("image/png");
        let sample = gst::Sample::builder().buffer(&gst::Buffer::from_slice(bytes)).caps(&caps).build();
        src.set_property("keyframe", sample);
        None
    });
    let samples = collect(&playing);
    assert!(samples.iter().map(picture).collect::<Vec<_>>() == wanted());
}

#[test]
fn a_uri_is_set_in_place_of_another_and_only_before_the_run() {
    let src = source(&[]);
    set_uri(&src, "svd://a.png?seed=7&guidance-scale=2.5&num-frames=3").unwrap();
    assert_eq!(src.property::<i64>("seed"), 7);
    assert_eq!(src.property::<f64>("max-guidance-scale"), 2.5);
    set_uri(&src, "svd://b.yaml?scene=001&num_frames=5").unwrap();
    assert_eq!(src.property::<Option<String>>("location"), None);
    assert_eq!(src.property::<i64>("seed"), 42);
    assert_eq!(src.property::<i32>("num-frames"), 5);
    // What was set by hand stays, and what is said is the whole.
    let uri = uri_of(&src);
    assert!(
        uri.starts_with("svd://b.yaml?device=cpu&model-path=/") && uri.ends_with("&num-frames=5&scene=001"),
        "{uri}"
    );
    let err = set_uri(&src, "svd://c.png?seed=x").unwrap_err();
    assert!(err.matches(gst::URIError::BadUri), "{err}");
    assert_eq!(uri_of(&src), uri);
    let empty = gst::ElementFactory::make("svdsrc").build().unwrap();
    assert_eq!(empty.dynamic_cast_ref::<gst::URIHandler>().unwrap().uri(), None);

    let pipeline = Pipeline::new("num-frames=2 width=32 height=32", SINK);
    pipeline.0.set_state(gst::State::Ready).unwrap();
    set_uri(&pipeline.src(), "svd://?num-frames=3").unwrap();
    let release = pipeline.play_and_hold();
    let err = set_uri(&pipeline.src(), "svd://?num-frames=4").unwrap_err();
    assert!(err.matches(gst::URIError::BadState) && err.to_string().contains("stop it first"), "{err}");
    drop(release);
    let sink = pipeline.0.by_name("sink").and_downcast::<gst_app::AppSink>().unwrap();
    assert_eq!(std::iter::from_fn(|| sink.pull_sample().ok()).count(), 3);
}

#[test]
fn a_scene_is_played_by_its_configuration() {
    let files = &*FILES;
    let folder = files.picture.with_file_name("a folder");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(&files.picture, folder.join("é.png")).unwrap();
    let job = folder.join("job.yaml");
    let text = format!(
        "video:\n  model_path: {}\n  device: cpu\n  num_frames: 4\n  fps: 8\n  width: 32\n  height: 32\n  num_inference_steps: 2\n\
         scenes:\n  - id: '001'\n    keyframe: é.png\n  - id: '002'\n    keyframe: é.png\n    video:\n      num_frames: 2\n",
        files.model.display()
    );
    std::fs::write(&job, text).unwrap();
    let uri = format!("svd://{}?scene=001", job.display()).replace(' ', "%20");
    let samples = collect(&player("playbin", &uri));
    assert!(samples.iter().map(picture).collect::<Vec<_>>() == wanted());
    assert_eq!(collect(&player("playbin", &uri.replace("scene=001", "scene=002"))).len(), 2);
    // A scene that is not there is told of by the element.
    let (pipeline, _sink) = player("playbin", &uri.replace("scene=001", "scene=003"));
    assert!(pipeline.0.set_state(gst::State::Playing).is_err());
    let messages = pipeline.messages_until(|message| message.type_() == gst::MessageType::Error);
    assert!(errors(&messages)[0].contains("003"), "{:?}", errors(&messages));
}
