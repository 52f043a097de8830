// SPDX-License-Identifier: MPL-2.0
//! `torchvideo sweep`: variants of a scene are made once, measured and compared on a page of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

mod common;

use common::svd::FILES;
use serde_json::Value as Json;

/// A folder with a configuration of a tiny clip.
struct Job(tempfile::TempDir);

impl Job {
    fn new(scenes: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (model, picture) = (FILES.model.display(), FILES.picture.display());
        let text = format!(
            "video: {{model_path: {model}, num_frames: 3, num_inference_steps: 2, width: 64, height: 48, device: cpu}}\n\
             output: {{container: mkv, encoder: jpegenc}}\nscenes: {scenes}\n"
        );
        let text = text.replace("PICTURE", &picture.to_string());
        std::fs::write(folder.path().join("config.yaml"), text).unwrap();
        Self(folder)
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_torchvideo"));
        command.arg("sweep").arg(self.0.path().join("config.yaml")).args(arguments);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    fn folder(&self) -> PathBuf {
        self.0.path().join("out/sweep-001")
    }
}

fn json(folder: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(folder.join("compare.json")).unwrap()).unwrap()
}

#[test]
fn variants_are_made_once_measured_and_compared() {
    let job = Job::new("[{id: 001, keyframe: PICTURE}, {id: '<b>', keyframe: PICTURE}]");
    let arguments =
        ["--scene-id", "001", "--over", "video.num_inference_steps=3,2", "--over", "video.motion_bucket_id=2,200"];
    let (code, said, log) = job.run(&arguments);
    assert_eq!(code, 0, "{log}");
    assert!(said.trim().ends_with("sweep-001/compare.html") && log.contains("4 made, 0 were there"), "{said}{log}");
    let compared = json(&job.folder());
    let variants = compared["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 4);
    let measures: Vec<_> = compared["measures"].as_array().unwrap().iter().map(|measure| &measure["name"]).collect();
    let page = std::fs::read_to_string(job.folder().join("compare.html")).unwrap();
    for variant in variants {
        assert!(variant["failed"].is_null() && variant["frames"] == 3, "{variant:#}");
        let file = variant["file"].as_str().unwrap();
        assert!(job.folder().join(file).is_file() && page.contains(&format!("href=\"./{file}\"")), "{file}");
        let metrics = &variant["metrics"];
        for name in &measures {
            let value = metrics[name.as_str().unwrap()].as_f64();
            assert!(value.is_some_and(|value| value >= 0.0 && value.is_finite()), "{name}: {metrics:#}");
        }
        assert!(metrics["peak_memory"].as_f64().unwrap() > 0.1);
        assert!(metrics["seconds"].as_f64() >= metrics["generate_seconds"].as_f64());
    }
    let last = &variants[3];
    assert_eq!(
        (&last["values"]["video.num_inference_steps"], &last["values"]["video.motion_bucket_id"]),
        (&2.into(), &200.into())
    );
    // The difference of means is the mean of differences.
    let sharpness = |number: usize| variants[number]["metrics"]["sharpness"].as_f64().unwrap();
    let steps = &compared["influence"][0];
    assert_eq!(
        (&steps["key"], &steps["low"], &steps["high"]),
        (&"video.num_inference_steps".into(), &"2".into(), &"3".into())
    );
    let wanted = (sharpness(0) + sharpness(1) - sharpness(2) - sharpness(3)) / 2.0;
    let change = &steps["changes"]["sharpness"];
    assert!((change["change"].as_f64().unwrap() - wanted).abs() < 1e-6 * sharpness(0), "{change}");
    // It needs nothing else: neither the network nor other files, but for the links to the clips.
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src=\"."));
    assert_eq!(page.matches("<figure><div class=\"screen\">").count(), 4);
    // A second time, nothing is made but the comparison.
    std::fs::remove_file(job.folder().join("compare.json")).unwrap();
    let (code, _, log) = job.run(&arguments);
    assert!(code == 0 && log.contains("0 made, 4 were there"), "{log}");
    assert_eq!(json(&job.folder())["variants"][1]["metrics"], variants[1]["metrics"]);
}

#[test]
fn a_page_plays_the_files_and_leaves_out_what_tells_nothing() {
    let job = Job::new("[{id: 001, keyframe: PICTURE, output: {container: webm, encoder: vp8enc deadline=1}}]");
    let (code, _, log) =
        job.run(&["--set", "video.fps=7", "--set", "framerate.fps=14", "--over", "framerate.mode=auto,duplicate"]);
    assert_eq!(code, 0, "{log}");
    let compared = json(&job.folder());
    let [interpolated, duplicated] = [&compared["variants"][0], &compared["variants"][1]];
    assert!(
        interpolated["interpolated"] == true && interpolated["metrics"]["smoothness"].is_null(),
        "{interpolated:#}"
    );
    assert!(duplicated["interpolated"] == false && duplicated["metrics"]["smoothness"].is_f64(), "{duplicated:#}");
    let page = std::fs::read_to_string(job.folder().join("compare.html")).unwrap();
    let video =
        "<video controls loop muted playsinline preload=\"none\" src=\"./mode=auto/001.webm\" poster=\"data:image";
    assert!(page.contains(video) && page.matches("<video").count() == 2);
    assert!(page.contains("RIFE would be held against itself"));
}

#[test]
fn a_variant_that_fails_is_told_of_beside_the_others() {
    let job = Job::new("[{id: '<b>', keyframe: PICTURE}]");
    let out = job.0.path().join("compared");
    let (code, _, log) =
        job.run(&["--out", out.to_str().unwrap(), "--over", "output.encoder=jpegenc,nosuchenc", "--jobs", "2"]);
    assert!(code == 1 && log.contains("1 made, 0 were there, 1 failed"), "{log}");
    let compared = json(&out);
    assert!(compared["variants"][0]["failed"].is_null());
    assert!(compared["variants"][1]["failed"].as_str().unwrap().contains("nosuchenc"));
    assert!(compared["influence"][0]["changes"].as_object().unwrap().is_empty());
    let page = std::fs::read_to_string(out.join("compare.html")).unwrap();
    assert!(page.contains("encoder=nosuchenc</b> is missing") && page.contains("Scene &lt;b&gt;: 2 variants"));
    assert!(!page.contains("Scene <b>"));
    let (code, _, log) = job.run(&["--over", "output.encoder=nosuchenc,norsuchone"]);
    assert!(code == 2 && log.contains("there is nothing to compare: ") && log.contains("nosuchenc"), "{log}");
}

#[test]
fn what_is_wrong_is_told_before_anything_is_made() {
    let job = Job::new("[{id: 001, keyframe: PICTURE}, {id: 002, keyframe: PICTURE}]");
    let many = format!("video.seed={}", (0..65).map(|seed| seed.to_string()).collect::<Vec<_>>().join(","));
    for (arguments, part) in [
        (&["--scene-id", "001", "--over", "video.num_inference_stps=2,3"][..], "did you mean num_inference_steps?"),
        (&["--scene-id", "001", "--over", "video.seed=2"], "one value is nothing to compare"),
        (&["--scene-id", "001", "--over", &many], "65 are 65 variants, and 64 are possible"),
        (&["--scene-id", "003", "--over", "video.seed=1,2"], "there is no scene \"003\": it has 001, 002"),
        (&["--over", "video.seed=1,2"], "name a scene with --scene-id: there are 001, 002"),
        (&["--scene-id", "001", "--scene-id", "002", "--over", "video.seed=1,2"], "give --scene-id once"),
        (&["--scene-id", "001"], "--over"),
    ] {
        let (code, _, log) = job.run(arguments);
        assert!(code == 2 && log.contains(part), "{arguments:?}: {log}");
    }
    assert!(!job.0.path().join("out").exists());
}
