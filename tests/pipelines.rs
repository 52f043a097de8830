// SPDX-License-Identifier: MPL-2.0
//! Launch lines of `pipelines` that an application copies, played with a tiny model of random weights.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use gst::prelude::*;

mod common;

use common::svd::{FILES, PATIENCE, Pipeline, SINK, check_times, errors, info, picture};

/// The line of a file, with these properties for `svdsrc`.
fn line(name: &str, properties: &str) -> String {
    let text = std::fs::read_to_string(common::file(&format!("pipelines/{name}.launch"))).unwrap();
    let line = text.lines().last().unwrap();
    let line = line.strip_prefix("gst-launch-1.0 ").unwrap();
    let src = format!("svdsrc name=src device=cpu model-path=\"{}\" num-inference-steps=1", FILES.model.display());
    line.strip_prefix("-e ").unwrap_or(line).replace("svdsrc ", &format!("{src} {properties} "))
}

const SMALL: &str = "width=64 height=48 num-frames=4";

/// Changes a file's name in a line, which must be there.
fn put(line: String, from: &str, to: &str) -> String {
    assert!(line.contains(from), "{line}");
    line.replace(from, to)
}

fn photograph(line: String) -> String {
    put(line, "pipelines/keyframe.jpg", &format!("\"{}\"", FILES.picture.display()))
}

#[test]
fn an_appsink_has_the_frames() {
    let pipeline = Pipeline::launch(&photograph(line("appsink", SMALL)));
    let sink: gst_app::AppSink = pipeline.0.by_name("frames").unwrap().downcast().unwrap();
    pipeline.play();
    let samples: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    assert_eq!(errors(&pipeline.messages_until_eos()), [""; 0]);
    let wanted = Pipeline::new(&format!("{SMALL} num-inference-steps=1"), SINK).collect();
    assert!(samples.iter().map(picture).eq(wanted.iter().map(picture)));
}

#[test]
fn a_player_shows_a_scene() {
    let line = line("play-uri", "");
    let scenes = common::file("pipelines/scenes.yaml");
    let keys = "width=64&height=48&num-frames=4&num-inference-steps=1&device=cpu";
    let line = put(line, "svd://pipelines/scenes.yaml?", &format!("svd://{}?{keys}&", scenes.display()));
    let pipeline = Pipeline::launch(&line);
    let sink = gst_app::AppSink::builder().sync(false).build();
    pipeline.0.set_property("video-sink", &sink);
    pipeline.play();
    pipeline.0.state(PATIENCE).0.unwrap();
    let samples: Vec<_> = std::iter::from_fn(|| sink.pull_sample().ok()).collect();
    assert_eq!(errors(&pipeline.messages_until_eos()), [""; 0]);
    assert_eq!((samples.len(), info(&samples[0]).width()), (4, 64));
    check_times(&samples, info(&samples[0]).fps());
}

#[test]
fn web_players_get_a_playlist() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("\"{}\"", folder.path().join(name).display());
    let line = put(
        photograph(line("hls", SMALL)),
        " location=segment-%05d.ts",
        &format!(" location={}", at("segment-%05d.ts")),
    );
    let line = put(line, "playlist-location=playlist.m3u8", &format!("playlist-location={}", at("playlist.m3u8")));
    let pipeline = Pipeline::launch(&line);
    pipeline.play();
    assert_eq!(errors(&pipeline.messages_until_eos()), [""; 0]);
    drop(pipeline);
    let playlist = std::fs::read_to_string(folder.path().join("playlist.m3u8")).unwrap();
    assert!(playlist.starts_with("#EXTM3U") && playlist.contains("#EXT-X-ENDLIST"), "{playlist}");
    let segments: Vec<_> = playlist.lines().filter(|line| line.ends_with(".ts")).collect();
    assert!(segments.len() > 1, "{playlist}");
    assert!(
        segments.iter().all(|name| folder.path().join(Path::new(name).file_name().unwrap()).exists()),
        "{playlist}"
    );

    // And back, frame by frame: six seconds of them.
    let reader = "decodebin ! videoconvert ! video/x-raw,format=RGB ! appsink name=sink sync=false";
    let mut frames = 0;
    for name in &segments {
        let segment = folder.path().join(Path::new(name).file_name().unwrap());
        let reader = Pipeline::launch(&format!("filesrc location=\"{}\" ! {reader}", segment.display()));
        frames += reader.collect().len();
    }
    assert_eq!(frames, 42);
}

/// A program that is ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_rtsp_server_takes_the_stream() {
    let mut python = Command::new(common::python(&["Gst", "GstRtspServer"]));
    python.arg(common::file("tests/rtsp_server.py")).stdout(Stdio::piped());
    let mut server = Server(python.spawn().unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let port = lines.next().unwrap();
    let line = put(photograph(line("rtsp-publish", SMALL)), "127.0.0.1:8554", &format!("127.0.0.1:{port}"));
    let pipeline = Pipeline::launch(&line);
    pipeline.play();
    let (say, heard) = mpsc::channel();
    std::thread::spawn(move || say.send(lines.take(10).collect::<Vec<_>>()));
    let frames = heard.recv_timeout(PATIENCE.into());
    let messages: Vec<_> = std::iter::from_fn(|| pipeline.0.bus().unwrap().pop()).collect();
    assert_eq!(errors(&messages), [""; 0]);
    assert_eq!(frames.expect("the server sees frames"), ["frame"; 10]);
}
