// SPDX-License-Identifier: MPL-2.0
//! The programs in `examples` that show how an application embeds `svdsrc`, as an application's developer builds and runs
//! them, with the model that comes with the plugin.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use gst::prelude::*;
use gsttorchvideo::engine::image::Frame;

mod common;

use common::python;
use common::svd::{Pipeline, SINK, picture};

/// How long a program may take. It only ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(300);
const SMALL: [&str; 5] = ["device=cpu", "width=128", "height=72", "num-inference-steps=2", "num-frames=4"];
const LONG: [&str; 5] = ["device=cpu", "width=128", "height=72", "num-inference-steps=1000", "num-frames=4"];

fn photograph() -> PathBuf {
    common::file("pipelines/keyframe.jpg")
}

fn temporary(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("embedding");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// A command that finds the plugin as an application would.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    // The plugin lies in the folder above the test's.
    let program_folder = std::env::current_exe().unwrap();
    let plugins = program_folder.ancestors().nth(2).unwrap().to_owned();
    assert!(plugins.join("libgsttorchvideo.so").exists(), "no plugin in {}", plugins.display());
    let mut command = Command::new(program);
    command.env("GST_PLUGIN_PATH", plugins).env("GST_REGISTRY", temporary("registry.bin"));
    command.current_dir(common::file("")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A command once the registry is there: while it is made, other people's plugins may warn.
fn prepared(program: impl AsRef<std::ffi::OsStr>) -> Command {
    static REGISTRY: LazyLock<()> = LazyLock::new(|| {
        let mut inspect = command("gst-inspect-1.0");
        assert!(inspect.arg("svdsrc").env_remove("G_DEBUG").output().unwrap().status.success());
    });
    LazyLock::force(&REGISTRY);
    command(program)
}

/// What came out of a program.
struct End {
    code: Option<i32>,
    out: String,
    err: String,
}

fn wait(child: Child) -> End {
    let (id, (say, ended)) = (child.id(), mpsc::channel());
    std::thread::spawn(move || say.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(PATIENCE) else {
        // SAFETY: a signal to a process that was started here and not waited for.
        unsafe { libc::kill(id as libc::pid_t, libc::SIGKILL) };
        panic!("the program hangs");
    };
    let Output { status, stdout, stderr } = output.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    End { code: status.code(), out: text(stdout), err: text(stderr) }
}

fn run(command: &mut Command) -> End {
    wait(command.spawn().unwrap())
}

fn check(end: &End, code: i32) {
    assert_eq!(end.code, Some(code), "{}\n{}", end.out, end.err);
}

/// The frames that `svdsrc` makes in this process.
fn wanted() -> &'static Vec<Frame> {
    static WANTED: LazyLock<Vec<Frame>> = LazyLock::new(|| {
        let properties = format!("location=\"{}\" {}", photograph().display(), SMALL.join(" "));
        let frames: Vec<_> = Pipeline::bare(&properties, SINK).collect().iter().map(picture).collect();
        assert_eq!((frames.len(), frames[0].width(), frames[0].height()), (4, 128, 72));
        assert!(frames.iter().all(|frame| frame.data().iter().any(|byte| *byte > 128)));
        frames
    });
    &WANTED
}

/// Checks what an application hears of a clip.
fn check_progress(out: &str) {
    let wanted = [
        "load-model: Loading svd-nano\n",
        "load-model: Loading svd-nano: done\n",
        "generate: Generating clip 1 with seed 42\n",
        "generate: Encoded the keyframe\n",
        "generate: Denoising step 1 of 2 (50 %)",
        "generate: Denoising step 2 of 2 (100 %)",
        "generate: Decoded 4 of 4 frames\n",
        "generate: Generating clip 1 with seed 42: done\n",
    ];
    let places: Vec<_> =
        wanted.iter().map(|line| out.find(line).unwrap_or_else(|| panic!("no {line} in {out}"))).collect();
    assert!(places.is_sorted(), "{out}");
}

/// A program that shows that it is cancelled in the first step, by its option and by Ctrl+C, and why it failed.
fn check_cancel_and_errors(program: &Path) {
    let output = temporary("never");
    let mut base = prepared(program);
    base.arg(photograph()).arg(&output);
    let end = run(base.args(LONG).arg("--cancel-after-step=1"));
    check(&end, 2);
    assert!(end.out.contains("Denoising step 1 of 1000 ") && end.out.ends_with("cancelled\n"), "{}", end.out);

    let mut child = prepared(program).arg(photograph()).arg(&output).args(LONG).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("Denoising step 1 ")));
    // SAFETY: a signal to a process that was started here and not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) }, 0);
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    check(&wait(child), 2);
    assert_eq!(rest.last().map(String::as_str), Some("cancelled"));

    let end = run(prepared(program).arg("/nowhere/cat.png").arg(&output));
    check(&end, 1);
    assert!(end.err.contains("/nowhere/cat.png: No such file"), "{}", end.err);
    let end = run(prepared(program).arg(photograph()).arg(&output).arg("width=33"));
    check(&end, 1);
    assert!(end.err.contains("width=33 is not possible") && end.err.contains("32 or 40"), "{}", end.err);
    let end = run(prepared(program).arg(photograph()).arg(&output).arg("sed=7"));
    check(&end, 1);
    assert!(end.err.contains("svdsrc has no property sed"), "{}", end.err);
    assert!(!output.exists());
}

#[test]
fn a_rust_program() {
    let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
    let build = ["build", "--release", "--offline", "--locked", "--quiet", "--example", "embed"];
    check(&run(prepared(cargo).args(build)), 0);
    // Beside the plugin.
    let program = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/embed");
    let folder = temporary("frames");
    let end = run(prepared(&program).arg(photograph()).arg(&folder).args(SMALL));
    check(&end, 0);
    check_progress(&end.out);
    assert!(end.out.contains("it will take ") && end.out.ends_with("made with seed 42\n4 frames\n"), "{}", end.out);
    for (number, wanted) in wanted().iter().enumerate() {
        let frame = Frame::open(&folder.join(format!("frame-{number:03}.png"))).unwrap();
        assert!(frame.data() == wanted.data(), "frame {number}");
    }
    check_cancel_and_errors(&program);
}

#[test]
fn a_c_program() {
    let flags = Command::new("pkg-config")
        .args(["--cflags", "--libs", "gstreamer-1.0", "gstreamer-app-1.0", "gstreamer-video-1.0"])
        .output()
        .unwrap();
    let flags = String::from_utf8(flags.stdout).unwrap();
    let program = temporary("embed-c");
    let mut cc = command("cc");
    cc.args(["-Wall", "-Wextra", "-Werror", "examples/embed.c", "-o"]).arg(&program).args(flags.split_whitespace());
    check(&run(&mut cc), 0);

    let output = temporary("clip.ppm");
    let end = run(prepared(&program).arg(photograph()).arg(&output).args(SMALL));
    check(&end, 0);
    check_progress(&end.out);
    assert!(end.out.ends_with("made again: the same, byte for byte\n"), "{}", end.out);
    let provenance = end.out.lines().find_map(|line| line.strip_prefix("provenance: ")).unwrap();
    let provenance: serde_json::Value = serde_json::from_str(provenance).unwrap();
    assert_eq!((&provenance["properties"]["seed"], &provenance["model"]["name"]), (&42.into(), &"svd-nano".into()));
    let mut bytes = &*std::fs::read(&output).unwrap();
    for wanted in wanted() {
        bytes = bytes.strip_prefix(b"P6 128 72 255\n").unwrap();
        let (frame, rest) = bytes.split_at(wanted.data().len());
        assert!(frame == wanted.data());
        bytes = rest;
    }
    assert!(bytes.is_empty());
    check_cancel_and_errors(&program);
}

#[test]
fn a_python_program() {
    let (program, output) = (common::file("examples/embed.py"), temporary("clips.npy"));
    let end = run(prepared(python(&["Gst", "GstVideo"])).arg(&program).arg(photograph()).arg(&output).args(SMALL));
    check(&end, 0);
    check_progress(&end.out);
    assert!(end.out.ends_with("4 and 4 frames of 128x72\n"), "{}", end.out);

    // A text, and the array's bytes.
    let mut file = std::fs::File::open(&output).unwrap();
    let mut start = [0; 10];
    file.read_exact(&mut start).unwrap();
    let mut header = vec![0; usize::from(u16::from_le_bytes([start[8], start[9]]))];
    file.read_exact(&mut header).unwrap();
    let header = String::from_utf8(header).unwrap();
    assert!(header.contains("'|u1'") && header.contains("(8, 72, 128, 3)"), "{header}");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    let size = 128 * 72 * 3;
    let frames: Vec<_> = bytes.chunks(size).collect();
    let last = wanted().last().unwrap().data();
    assert!(frames[..4].iter().zip(wanted()).all(|(frame, wanted)| *frame == wanted.data()));
    // The second clip begins with the last frame of the first.
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, 128, 72).build().unwrap();
    let buffer = gst::Buffer::from_slice(last.to_vec());
    let sample = gst::Sample::builder().buffer(&buffer).caps(&info.to_caps().unwrap()).build();
    let pipeline = Pipeline::bare(&SMALL.join(" "), SINK);
    pipeline.src().set_property("keyframe", sample);
    let second = pipeline.collect();
    assert!(frames[4..].iter().zip(&second).all(|(frame, wanted)| *frame == picture(wanted).data()));

    for (arguments, words) in [
        ([Path::new("/nowhere/cat.png"), &output, Path::new("width=64")], "/nowhere/cat.png"),
        ([&program, &output, Path::new("width=64")], "not a picture that can be read (PNG, JPEG or WebP)"),
        ([&photograph(), &output, Path::new("width=33")], "width=33 is not possible"),
        ([&photograph(), &output, Path::new("sed=7")], "svdsrc has no property sed"),
    ] {
        let end = run(prepared(python(&["Gst", "GstVideo"])).arg(&program).args(arguments));
        check(&end, 1);
        assert!(end.err.contains(words), "{}", end.err);
    }
}
