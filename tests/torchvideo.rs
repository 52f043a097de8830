// SPDX-License-Identifier: MPL-2.0
//! The program `torchvideo`: what it says of a job, what it makes, and what is left when it is killed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gst::prelude::*;

mod common;

use common::svd::FILES;
use common::{play, register};

/// A folder with a configuration.
struct Job(tempfile::TempDir);

const SCENES: [&str; 6] = ["001", "002", "003", "004", "005", "006"];

impl Job {
    /// With this text behind settings for a tiny clip.
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (model, picture) = (FILES.model.display(), FILES.picture.display());
        let video = format!(
            "video: {{model_path: {model}, num_frames: 3, num_inference_steps: 4, width: 64, height: 48, device: cpu}}\n"
        );
        let text = format!("{video}output: {{container: mkv, encoder: jpegenc}}\n{text}")
            .replace("PICTURE", &picture.to_string());
        std::fs::write(folder.path().join("config.yaml"), text).unwrap();
        Self(folder)
    }

    /// Six scenes, each with another seed.
    fn six() -> Self {
        let scenes =
            SCENES.map(|id| format!("- {{id: {id:?}, keyframe: PICTURE, seed: {}}}\n", id.trim_start_matches('0')));
        Self::new(&format!("scenes:\n{}", scenes.concat()))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_torchvideo"));
        command.arg(arguments[0]).arg(self.0.path().join("config.yaml")).args(&arguments[1..]);
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }
}

/// The frames of a file.
fn frames(path: &Path) -> Vec<Vec<u8>> {
    let line = format!(
        "filesrc location=\"{}\" ! matroskademux ! jpegdec ! videoconvert ! video/x-raw,format=RGB ! appsink name=sink sync=false",
        path.display()
    );
    let pipeline = gst::parse::launch(&line).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sink = pipeline.by_name("sink").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let samples = std::iter::from_fn(|| sink.pull_sample().ok());
    let frames = samples.map(|sample| sample.buffer().unwrap().map_readable().unwrap().to_vec()).collect();
    let error = pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    assert!(error.is_none(), "{}: {error:?}", path.display());
    frames
}

#[test]
fn a_job_that_is_killed_again_and_again_ends_as_one_that_is_not() {
    register();
    let whole = Job::six();
    let (code, _, log) = whole.run(&["render"]);
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("6 made, 0 were there"), "{log}");
    let job = Job::six();
    // Killed where it says something, further on every time: in the midst of scenes and between them.
    for lines in 1.. {
        let mut child = job.command(&["render", "--jobs", "2"]).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap()).lines().take(lines).count();
        child.kill().unwrap();
        let status = child.wait().unwrap();
        // What has its name is whole.
        for id in SCENES {
            let path = job.out().join(format!("{id}.mkv"));
            assert!(!path.exists() || frames(&path).len() == 3, "{id} after {lines} lines");
        }
        if status.success() || said < lines {
            break;
        }
    }
    let (code, _, log) = job.run(&["render"]);
    assert_eq!(code, 0, "{log}");
    for id in SCENES {
        let name = format!("{id}.mkv");
        assert!(frames(&job.out().join(&name)) == frames(&whole.out().join(&name)), "{id}");
    }
    let left: Vec<_> = std::fs::read_dir(job.out()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), SCENES.len() + 2, "{left:?}");
    // Nothing is made twice, until something is another.
    let (_, _, log) = job.run(&["render"]);
    assert!(log.contains("0 made, 6 were there"), "{log}");
    let (_, _, log) =
        job.run(&["render", "--scene-id", "002", "--scene-id", "003", "--set", "video.motion_bucket_id=9"]);
    assert!(log.contains("2 made, 0 were there"), "{log}");
    let (_, _, log) = job.run(&["render", "--scene-id", "001", "--again"]);
    assert!(log.contains("1 made, 0 were there"), "{log}");
    std::fs::remove_file(job.out().join("004.mkv")).unwrap();
    let (_, _, log) = job.run(&["render", "--scene-id", "004"]);
    assert!(log.contains("1 made"), "{log}");
}

#[test]
fn a_scene_that_fails_does_not_stop_the_others() {
    let job = Job::new(
        "scenes:\n- {id: bad, keyframe: nowhere.png}\n- {id: good, keyframe: PICTURE}\n\
         - {id: worse, keyframe: PICTURE, output: {encoder: nosuchenc}}\n\
         - {id: spoilt, keyframe: PICTURE, video: {model_path: svd-nano, dtype: bf16}}\n",
    );
    let (code, _, log) = job.run(&["render"]);
    assert_eq!(code, 1, "{log}");
    for part in [
        "bad: failed: ",
        "nowhere.png: No such file",
        "good: made",
        "worse: failed: ",
        "nosuchenc",
        "spoilt: failed: dtype=bf16 is not possible: use fp32, fp16 or auto",
        "1 made, 0 were there, 3 failed",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(job.out().join("manifest.json")).unwrap()).unwrap();
    let entry = &manifest["files"]["good.mkv"];
    assert_eq!((&entry["file"], &entry["settings"]["video.num_frames"]), (&"good.mkv".into(), &3.into()));
    assert_eq!(entry["clips"][0]["properties"]["seed"], 42);
    assert!(manifest["files"].as_object().unwrap().len() == 1);
}

#[test]
fn what_was_denoised_is_not_denoised_again() {
    let job = Job::new("scenes: [{id: a, keyframe: PICTURE}]\n");
    let (code, _, log) = job.run(&["render", "--set", "output.encoder=identity error-after=1 ! jpegenc"]);
    assert!(code == 1 && log.contains("Denoising step 4 of 4"), "{log}");
    let (code, _, log) = job.run(&["render"]);
    assert!(
        code == 0 && log.contains("a: 80 %: Denoised before, decoding is left\n") && !log.contains("Denoising step"),
        "{log}"
    );
    // Once the file is there, nobody needs them.
    let left: Vec<_> = std::fs::read_dir(job.out()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("latents")), "{left:?}");
    let (code, _, log) = job.run(&["render", "--again"]);
    assert!(code == 0 && log.contains("Denoising step 4 of 4"), "{log}");
    // What a job that was killed has left goes with the next, which makes nothing.
    std::fs::create_dir(job.out().join(".a.latents")).unwrap();
    // Whatever was to be made then.
    for name in [".a.mkv.part", ".gone.mp4.part"] {
        std::fs::write(job.out().join(name), "half").unwrap();
    }
    let (_, _, log) = job.run(&["render"]);
    assert!(log.contains("0 made, 1 were there"), "{log}");
    let left: Vec<_> = std::fs::read_dir(job.out()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn a_file_that_is_there_is_not_made_again_after_another_container() {
    let job = Job::new("scenes: [{id: a, keyframe: PICTURE}]\n");
    let run = |container: &str| {
        let (code, _, log) = job.run(&["render", "--set", &format!("output.container={container}")]);
        assert_eq!(code, 0, "{log}");
        log
    };
    for (container, made) in
        [("mkv", "1 made, 0 "), ("mov", "1 made, 0 "), ("mkv", "0 made, 1 "), ("mov", "0 made, 1 ")]
    {
        let log = run(container);
        assert!(log.contains(made), "{container}: {log}");
    }
    // The first manifests told of one file of each scene, by the scene's name.
    let path = job.out().join("manifest.json");
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let first = serde_json::json!({ "scenes": { "a": manifest["files"]["a.mkv"] } });
    std::fs::write(&path, first.to_string()).unwrap();
    assert!(
        run("mkv").contains("0 made, 1 ") && run("mov").contains("1 made, 0 ") && run("mkv").contains("0 made, 1 ")
    );
}

#[test]
fn clips_are_made_as_the_check_says_whatever_is_behind() {
    register();
    let job = Job::new(
        "framerate: {mode: duplicate, fps: 14}\npostprocess: {target_width: 96, target_height: 72}\n\
         scenes: [{id: a, keyframe: PICTURE}]\n",
    );
    // The model's own size and rate.
    let text = std::fs::read_to_string(job.0.path().join("config.yaml")).unwrap();
    let text = text.replace(" width: 64, height: 48,", "");
    assert!(!text.contains("width: 64"));
    std::fs::write(job.0.path().join("config.yaml"), text).unwrap();
    let (_, json, _) = job.run(&["check", "--json"]);
    let checked = serde_json::from_str::<serde_json::Value>(&json).unwrap()[0]["estimate"].clone();
    let (code, _, log) = job.run(&["render"]);
    assert_eq!(code, 0, "{log}");
    let manifest = std::fs::read(job.out().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let made = &manifest["files"]["a.mkv"]["clips"][0]["properties"];
    assert_eq!((&made["fps"], &checked["output_fps"]), (&"7/1".into(), &14.0.into()));
    assert_eq!((&made["width"], &made["height"]), (&checked["size"][0], &checked["size"][1]));
    let frames = frames(&job.out().join("a.mkv"));
    assert_eq!((frames.len() as u64, frames[0].len()), (checked["output_frames"].as_u64().unwrap(), 96 * 72 * 3));
}

#[test]
fn a_target_size_goes_before_the_outscale() {
    register();
    let job = Job::new(
        "postprocess: {outscale: 2}\n\
         scenes:\n- {id: both, keyframe: PICTURE, postprocess: {target_width: 96, target_height: 72}}\n\
         - {id: wide, keyframe: PICTURE, postprocess: {target_width: 160}}\n- {id: twice, keyframe: PICTURE}\n",
    );
    let (code, _, log) = job.run(&["render"]);
    assert_eq!(code, 0, "{log}");
    for (id, width, height) in [("both", 96, 72), ("wide", 160, 120), ("twice", 128, 96)] {
        let frames = frames(&job.out().join(format!("{id}.mkv")));
        assert_eq!((frames.len(), frames[0].len()), (3, width * height * 3), "{id}");
    }
}

#[test]
fn a_scene_has_its_sound() {
    register();
    // The picture takes 3 frames of 7 a second.
    let job = Job::new(
        "scenes:\n- {id: a, keyframe: PICTURE, audio: long.wav}\n- {id: b, keyframe: PICTURE, audio: short.wav}\n\
         - {id: c, keyframe: PICTURE, audio: equal.wav}\n- {id: d, keyframe: PICTURE, audio: PICTURE}\n\
         - {id: e, keyframe: PICTURE, audio: config.yaml}\n- {id: f, keyframe: PICTURE, audio: nowhere.wav}\n",
    );
    for (name, samples) in [("long", 88200), ("short", 4410), ("equal", 18900)] {
        let path = job.0.path().join(format!("{name}.wav"));
        let made = play(&format!(
            "audiotestsrc num-buffers=1 samplesperbuffer={samples} ! audio/x-raw,rate=44100,channels=1 ! wavenc ! \
             filesink location=\"{}\"",
            path.display()
        ));
        made.set_state(gst::State::Null).unwrap();
    }
    let (code, said, _) = job.run(&["check"]);
    assert_eq!(code, 1);
    let scenes: Vec<_> = said.split("Scene ").skip(1).collect();
    for (scene, part) in [
        (0, "warning: audio: 2.00 s of sound, and 0.43 s of picture: the file is as long as the sound"),
        (1, "warning: audio: 0.10 s of sound, and 0.43 s of picture: the end is silent"),
        (3, "it has no sound"),
        (4, "config.yaml: it can't be read: "),
        (5, "nowhere.wav: No such file"),
    ] {
        assert!(scenes[scene].contains(part), "{part}: {}", scenes[scene]);
    }
    assert!(!scenes[2].contains("audio: 0."), "{}", scenes[2]);
    let (code, _, log) = job.run(&["render", "--scene-id", "a"]);
    assert_eq!(code, 0, "{log}");
    let path = job.out().join("a.mkv");
    assert_eq!(frames(&path).len(), 3);
    // It is as long as the check says.
    let line = format!("filesrc location=\"{}\" ! matroskademux name=d d.audio_0 ! fakesink name=sink", path.display());
    let played = play(&line);
    let length = played.query_duration::<gst::ClockTime>().unwrap();
    played.set_state(gst::State::Null).unwrap();
    assert!((1990..2100).contains(&length.mseconds()), "{length}");
}

#[test]
fn a_folder_is_one_job_s_at_a_time() {
    let job = Job::six();
    std::fs::create_dir_all(job.out()).unwrap();
    let lock = std::fs::File::create(job.out().join(".torchvideo.lock")).unwrap();
    lock.lock().unwrap();
    let (code, _, log) = job.run(&["render"]);
    assert!(code == 2 && log.contains("another torchvideo writes to it"), "{log}");
    drop(lock);
    let (code, _, log) = job.run(&["render", "--out", job.0.path().join("config.yaml").to_str().unwrap()]);
    assert!(code == 2 && log.contains("config.yaml: it is a file: name a folder"), "{log}");
    std::fs::write(job.out().join("manifest.json"), "{").unwrap();
    let (code, _, log) = job.run(&["render"]);
    assert!(code == 2 && log.contains("manifest.json: it is no manifest"), "{log}");
}

#[test]
fn an_interrupted_job_says_so() {
    let job = Job::six();
    let mut child = job.command(&["render"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("001: begun"));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    // What was never begun was not stopped.
    let is_begun = |id: &str| id == "001" || rest.contains(&format!("{id}: begun"));
    assert!(rest.last().unwrap().ends_with(" not begun"), "{rest:?}");
    assert!(rest.iter().filter_map(|line| line.strip_suffix(": stopped")).all(is_begun), "{rest:?}");
    let (code, _, log) = job.run(&["render"]);
    assert_eq!(code, 0, "{log}");
}

#[test]
fn a_check_says_what_will_be() {
    let job = Job::new(
        "framerate: {fps: 14, mode: duplicate}\n\
         scenes:\n- {id: a, keyframe: PICTURE, duration: 1, video: {fps: 7}}\n- {id: b, keyframe: nowhere.png}\n",
    );
    let (code, json, _) = job.run(&["check", "--json"]);
    assert_eq!(code, 1);
    let reports: serde_json::Value = serde_json::from_str(&json).unwrap();
    let [a, b] = [&reports[0], &reports[1]];
    let estimate = &a["estimate"];
    assert_eq!((&estimate["frames"], &estimate["clips"]), (&7.into(), &3.into()), "{a:#}");
    assert_eq!((&estimate["output_frames"], &estimate["size"]), (&14.into(), &vec![64, 48].into()), "{a:#}");
    let advice = |report: &serde_json::Value| {
        let advice = report["advice"].as_array().unwrap().clone();
        advice.iter().map(|advice| format!("{}: {}", advice["level"], advice["text"])).collect::<Vec<_>>()
    };
    assert!(advice(a).iter().any(|text| text.contains("3 clips of 3 are made")), "{:?}", advice(a));
    assert!(advice(b)[0].starts_with("\"error\"") && advice(b)[0].contains("nowhere.png"), "{:?}", advice(b));
    let fps = a["values"].as_array().unwrap().iter().find(|value| value["key"] == "video.fps").unwrap();
    assert_eq!(fps["from"], "scene");
    assert!(fps["at"].as_str().unwrap().contains("config.yaml:5:"), "{fps}");
    let (code, text, _) = job.run(&["check", "--scene-id", "a", "--preset", "speed"]);
    assert!(code == 0 && text.contains("(preset speed)"), "{text}");
}

#[test]
fn what_is_said_on_the_command_line_goes_before_the_file() {
    let job = Job::new("preset: speed\nscenes: [{id: a, keyframe: PICTURE, output: {encoder: nosuchenc}}]\n");
    let (code, text, _) = job.run(&["check", "--preset", "none", "--set", "output.folder=sub/x"]);
    let here = std::env::current_dir().unwrap().join("sub/x");
    assert!(code == 1 && !text.contains("preset speed") && text.contains(here.to_str().unwrap()), "{text}");
    assert!(text.contains("error: output.encoder: no element \"nosuchenc\""), "{text}");
    let (code, _, log) = job.run(&["check", "--set", "video.fsp=3"]);
    assert!(
        code == 2 && log.contains("--set video.fsp=3: video.fsp: there is no such key; did you mean fps?"),
        "{log}"
    );
}

#[test]
fn what_is_wrong_with_a_file_is_told_at_once() {
    let job = Job::new("scenes:\n- {id: a, keyfame: x.png}\n");
    for command in ["check", "render"] {
        let (code, _, log) = job.run(&[command]);
        assert!(
            code == 2
                && log.contains("config.yaml:4:20: scenes[0].keyfame: there is no such key; did you mean keyframe?"),
            "{log}"
        );
    }
    let (code, _, log) = Job::new("").run(&["render"]);
    assert!(code == 2 && log.contains("it has no scenes"), "{log}");
    let (code, _, log) = Job::six().run(&["check", "--scene-id", "007"]);
    assert!(code == 2 && log.contains("there is no scene \"007\": it has 001, 002"), "{log}");
}

#[test]
fn the_configurations_in_pipelines_are_checked_and_rendered() {
    register();
    let folder = tempfile::tempdir().unwrap();
    let model = format!("video.model_path={}", common::file("models/svd-nano").display());
    let small = ["num_frames=3", "num_inference_steps=2", "width=64", "height=48", "device=cpu"]
        .map(|value| format!("video.{value}"));
    let mut count = 0;
    for entry in std::fs::read_dir(common::file("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.ends_with(".yaml") || name == "presets.yaml" {
            continue;
        }
        let upscaler = "postprocess.model_path=models/realesrgan/realesr-animevideov3.safetensors";
        for command in ["check", "render"] {
            let mut program = Command::new(env!("CARGO_BIN_EXE_torchvideo"));
            program.arg(command).arg(&path).arg("--out").arg(folder.path().join(name));
            for value in small.iter().map(String::as_str).chain([model.as_str(), upscaler, "postprocess.model_scale=4"])
            {
                program.args(["--set", value]);
            }
            let Output { status, stdout, stderr } = program.output().unwrap();
            let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
            assert!(status.success(), "{name}: {said}");
        }
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn completions_and_a_manual_page_are_printed() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_torchvideo")).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["completions", "bash"]).contains("complete -F"));
    assert!(run(&["man"]).contains(".TH torchvideo"));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(&["man", folder.path().join("man").to_str().unwrap()]), "");
    let page = |name: &str| std::fs::read_to_string(folder.path().join("man").join(name)).unwrap();
    assert!(page("torchvideo.1").contains("torchvideo\\-render"));
    assert!(page("torchvideo-sweep.1").contains("\\-\\-over"));
    let keys = page("torchvideo.5");
    for part in ["num_inference_steps", "target_width", "face_emb_scale", "encoder", "keyframe", "karras, ays"] {
        assert!(keys.contains(part), "{part}: {keys}");
    }
    // Files have seconds.
    assert!(keys.contains("Seconds that are made") && !keys.contains("anoseconds"), "{keys}");
    assert!(run(&["--version"]).starts_with("torchvideo "));
}
