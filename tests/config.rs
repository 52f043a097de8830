// SPDX-License-Identifier: MPL-2.0
//! Configurations in the elements: what a file says, what goes before it, and what is said of a wrong one.

use std::path::PathBuf;

use gst::prelude::*;
use gst_video::VideoInfo;

mod common;

use common::register;
use common::svd::{FILES, Pipeline, errors, info};

/// A file in a folder of its own.
struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    /// With this text, in which `MODEL` and `PICTURE` are paths.
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let text = text.replace("MODEL", FILES.model.to_str().unwrap());
        std::fs::write(&path, text.replace("PICTURE", FILES.picture.to_str().unwrap())).unwrap();
        Self { _folder: folder, path }
    }

    fn path(&self) -> String {
        self.path.to_str().unwrap().into()
    }
}

const SMALL: &str =
    "video: {model_path: MODEL, num_frames: 3, num_inference_steps: 2, width: 32, height: 32, fps: 12}\n";

#[test]
fn a_file_and_a_scene_make_a_clip() {
    let file = File::new(&format!(
        "{SMALL}scenes:\n- {{id: 001, keyframe: PICTURE, seed: 7}}\n- {{id: 002, keyframe: PICTURE, video: {{width: 40}}}}\n"
    ));
    let run = |properties: &str| {
        let samples =
            Pipeline::bare(&format!("config=\"{}\" {properties}", file.path()), "appsink name=sink sync=false")
                .collect();
        let info = info(&samples[0]);
        (samples.len(), info.width(), info.fps(), common::svd::picture(&samples[0]))
    };
    let first = run("scene-id=001");
    assert_eq!((first.0, first.1, first.2), (3, 32, gst::Fraction::new(12, 1)));
    assert_eq!(run("scene-id=002").1, 40);
    // What is set by hand goes before it, whatever the order, and even if it is the default.
    let by_hand = run("seed=8 scene-id=001");
    assert!(by_hand.3 != first.3);
    assert_eq!(run("scene-id=002 width=48 num-frames=2").1, 48);
    let line = format!("width=48 scene-id=002 config=\"{}\"", file.path());
    let samples = Pipeline::bare(&line, "appsink name=sink sync=false").collect();
    assert_eq!(info(&samples[0]).width(), 48);
    let default =
        Pipeline::bare(&format!("config=\"{}\" scene-id=001 fps=7/1", file.path()), "appsink name=sink sync=false");
    assert_eq!(info(&default.collect()[0]).fps(), gst::Fraction::new(7, 1));
}

#[test]
fn a_plan_goes_before_the_file_and_after_what_is_set() {
    let file = File::new(&format!("preset: speed\n{SMALL}scenes: [{{id: a, keyframe: PICTURE}}]\n"));
    let run = |properties: &str| {
        let line = format!("config=\"{}\" {properties}", file.path());
        let pipeline = Pipeline::bare(&line, "fakesink");
        pipeline.0.set_state(gst::State::Ready).unwrap();
        pipeline.0.set_state(gst::State::Paused).unwrap();
        let caps = pipeline.src().static_pad("src").unwrap().query_caps(None);
        caps.structure(0).unwrap().get::<i32>("width").ok()
    };
    assert_eq!(run(""), Some(32));
    assert_eq!(run("preset=speed"), Some(1024));
    assert_eq!(run("preset=speed width=64"), Some(64));
}

#[test]
fn the_filters_take_their_sections() {
    register();
    let file = File::new("postprocess: {outscale: 2, tile: 64}\nframerate: {mode: duplicate, fps: 29.97}\n");
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc num-buffers=3 ! video/x-raw,format=RGB,width=16,height=16,framerate=10/1 ! \
         realesrganscale device=cpu config=\"{0}\" ! frameratetune device=cpu config=\"{0}\" ! appsink name=sink sync=false",
        file.path()
    ));
    let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let samples: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    pipeline.set_state(gst::State::Null).unwrap();
    let info = VideoInfo::from_caps(samples[0].caps().unwrap()).unwrap();
    assert_eq!((info.width(), info.fps(), samples.len()), (32, gst::Fraction::new(30_000, 1001), 9));
}

#[test]
fn a_filter_without_a_scene_takes_what_all_scenes_have() {
    register();
    let run = |scenes: &str| {
        let file = File::new(&format!("postprocess: {{outscale: 2}}\nscenes: [{scenes}]\n"));
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc num-buffers=1 ! video/x-raw,format=RGB,width=16,height=16 ! \
             realesrganscale name=up device=cpu config=\"{}\" ! appsink name=sink sync=false",
            file.path()
        ));
        let pipeline = pipeline.unwrap().downcast::<gst::Pipeline>().unwrap();
        let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
        let started = pipeline.set_state(gst::State::Playing);
        let sample = started.is_ok().then(|| sink.pull_sample().unwrap());
        let messages: Vec<_> = std::iter::from_fn(|| pipeline.bus().unwrap().pop()).collect();
        pipeline.set_state(gst::State::Null).unwrap();
        sample.map(|sample| info(&sample).width()).ok_or_else(|| errors(&messages))
    };
    assert_eq!(run("{id: 001, seed: 1}, {id: 002, seed: 2}"), Ok(32));
    let [one, two] = [1, 2].map(|number| format!("{{id: 00{number}, postprocess: {{outscale: 3}}}}"));
    assert_eq!(run(&format!("{one}, {two}")), Ok(48));
    let messages = run(&format!("{one}, {{id: 002}}")).unwrap_err();
    let wanted = "they differ in postprocess: name one as scene-id, of 001, 002";
    assert!(messages.len() == 1 && messages[0].contains(wanted), "{messages:?}");
}

#[test]
fn a_wrong_file_ends_in_one_clear_error() {
    let file = File::new(&format!("{SMALL}scenes: [{{id: a}}, {{id: b, video: {{fsp: 12}}}}]\n"));
    let good = File::new(&format!("{SMALL}scenes: [{{id: a}}, {{id: b}}]\n"));
    for (element, properties, part) in [
        (
            "svdsrc",
            format!("config=\"{}\"", file.path()),
            "scenes[1].video.fsp: there is no such key; did you mean fps?",
        ),
        ("realesrganscale", format!("config=\"{}\"", file.path()), "config.yaml:2:40: scenes[1].video.fsp"),
        ("frameratetune", "config=/nowhere/c.yaml".into(), "/nowhere/c.yaml: it can't be read"),
        ("svdsrc", format!("config=\"{}\" scene-id=c", good.path()), "there is no scene \"c\": it has a, b"),
        ("svdsrc", "scene-id=c".into(), "scene-id=c is not possible: config names no file"),
        ("svdsrc", format!("config=\"{}\" scene-id=a", good.path()), "as scene-id"),
    ] {
        register();
        let element = gst::parse::launch(&format!("{element} device=cpu {properties}")).unwrap();
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        assert!(element.set_state(gst::State::Paused).is_err(), "{properties}");
        let messages: Vec<_> = std::iter::from_fn(|| bus.pop()).collect();
        let errors = errors(&messages);
        assert!(errors.len() == 1 && errors[0].contains(part), "{properties}: {errors:?}");
        element.set_state(gst::State::Null).unwrap();
    }
}
