// SPDX-License-Identifier: MPL-2.0
//! Every element in processes of their own: with GStreamer's leaks tracer, and with all of its debug output.
//! `scripts/memcheck.sh` runs the same under valgrind.

use std::path::Path;
use std::process::{Command, Output};

use gst::prelude::*;
use gst::{ClockTime, FlowError};
use gsttorchvideo::engine::{esrgan, rife, svd, worker::Worker};
use tch::{Device, Kind};

mod common;

use common::behaviour::{Stage, Subject, check_complaints, listen, subjects, write_files};

/// Says which run the process is for; and in which folder the models are.
const RUN: &str = "TORCHVIDEO_RUN";
const FOLDER: &str = "TORCHVIDEO_FOLDER";

/// What is left of a model's thread: it is awaited in the end, so that nothing is on its way.
trait Last {
    fn wait(&self);
}

impl<M: 'static> Last for std::sync::Arc<Worker<M>> {
    fn wait(&self) {
        self.submit(|_| Ok(())).wait().unwrap();
    }
}

/// The models of a run, held.
fn models(run: &str, folder: &Path) -> Vec<Box<dyn Last>> {
    let (cpu, float, mut models) = (Device::Cpu, Kind::Float, Vec::<Box<dyn Last>>::new());
    let has = |part: &str| run == "all" || run.starts_with(part);
    if has("svd") {
        let source = svd::Source::open(&folder.join("svd"), None).unwrap();
        models.push(Box::new(svd::Model::shared(&source, cpu, float)));
    }
    if has("realesrganscale") {
        models.push(Box::new(esrgan::Model::shared(folder.join("net.safetensors").as_path(), cpu, float)));
    }
    if has("frameratetune, RIFE") {
        let file = common::file("models/rife/rife-v4.25.safetensors");
        models.push(Box::new(rife::Model::shared(&file, cpu, float)));
    }
    models
}

/// A run to its end; one that is stopped in its work; one that is flushed there; one that ends in an error; one whose pads
/// lose one another; and those where somebody looks at previews, for a while, or to the end.
fn put_through_all(subject: &Subject) {
    subject.run();
    let (stage, held) = Stage::held(subject, -1);
    stage.set(gst::State::Null);
    drop((held, stage));

    let (stage, held) = Stage::held(subject, if subject.is_filter { -1 } else { subject.count() });
    stage.flush(subject, Some(ClockTime::from_mseconds(300)));
    drop(held);
    subject.finish(stage);

    let stage = Stage::new(subject, subject.count());
    stage.element("sink").static_pad("sink").unwrap().add_probe(gst::PadProbeType::BUFFER, |_, info| {
        info.flow_res = Err(FlowError::Error);
        gst::PadProbeReturn::Handled
    });
    stage.set(gst::State::Playing);
    stage.seen.wait(|told| told.is_over);
    drop(stage);

    let (stage, held) = Stage::held(subject, subject.count());
    let src = stage.it.static_pad("src").unwrap();
    src.unlink(&src.peer().unwrap()).unwrap();
    drop(held);
    stage.seen.wait(|told| told.is_over);
    stage.pipeline.remove(&stage.it).unwrap();
    stage.it.set_state(gst::State::Null).unwrap();

    for is_released in [true, false].into_iter().filter(|_| subject.has_preview) {
        let (stage, held) = Stage::held(subject, subject.count());
        stage.look();
        drop(held);
        stage.seen.wait(|told| told.is_over || !told.frames.is_empty());
        stage.look_away(is_released);
        stage.look();
        subject.finish(stage);
    }
}

#[test]
#[ignore = "a process of the other tests"]
fn process() {
    let Ok(run) = std::env::var(RUN) else { return };
    let folder = tempfile::tempdir().unwrap();
    let folder = std::env::var(FOLDER).map_or_else(
        |_| {
            write_files(folder.path());
            folder.path().to_owned()
        },
        Into::into,
    );
    let subjects = subjects(&folder);
    match run.as_str() {
        "frames" => {
            for subject in &subjects {
                println!("FRAMES {} {:?}", subject.name, subject.run());
            }
        }
        _ => {
            listen();
            let models = models(&run, &folder);
            subjects.iter().filter(|subject| run == "all" || run == subject.name).for_each(put_through_all);
            models.iter().for_each(|model| model.wait());
            check_complaints();
        }
    }
    // SAFETY: nothing of GStreamer's is used after it.
    unsafe { gst::deinit() };
}

/// Runs a process for `run`.
fn process_for(run: &str, folder: &Path, variables: &[(&str, &str)]) -> Output {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "process", "--ignored", "--nocapture"]).env(RUN, run).env(FOLDER, folder);
    let output = child.envs(variables.iter().copied()).output().unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{run}: {}\n{said}\n{wrong}", output.status);
    output
}

fn files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path());
    folder
}

#[test]
fn nothing_is_left_of_any_element() {
    let folder = files();
    let log = folder.path().join("log");
    let variables = [
        ("GST_TRACERS", "leaks"),
        ("GST_DEBUG", "GST_TRACER:7,leaks:7"),
        ("GST_DEBUG_NO_COLOR", "1"),
        ("GST_DEBUG_FILE", log.to_str().unwrap()),
    ];
    process_for("all", folder.path(), &variables);
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("object-alive"), "the tracer was there: {log}");
    let is_left = |line: &&str| line.contains("object-alive, ") && !line.contains("new format string");
    let left: Vec<_> = log.lines().filter(is_left).collect();
    assert!(left.is_empty(), "{} objects: {left:#?}", left.len());
}

#[test]
fn all_debug_output_changes_nothing() {
    let folder = files();
    let log = folder.path().join("log");
    let variables = [
        ("GST_DEBUG", "*:5"),
        ("GST_DEBUG_NO_COLOR", "1"),
        ("GST_DEBUG_FILE", log.to_str().unwrap()),
        ("G_ENABLE_DIAGNOSTIC", "1"),
    ];
    let frames = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| line.contains("FRAMES ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let (quiet, loud) = (process_for("frames", folder.path(), &[]), process_for("frames", folder.path(), &variables));
    assert!(frames(&quiet).len() == 6 && frames(&quiet) == frames(&loud));
    let log = std::fs::read_to_string(log).unwrap();
    let of = ["svdsrc", "svdanimate", "realesrganscale", "frameratetune"];
    for line in log.lines() {
        let words: Vec<_> = line.split_whitespace().take(5).collect();
        let [_, _, _, level, category] = words[..] else { continue };
        assert!(!(of.contains(&category) && ["ERROR", "WARN"].contains(&level)), "{line}");
    }
    assert!(of.iter().all(|name| log.lines().any(|line| line.split_whitespace().nth(4) == Some(name))));
}
