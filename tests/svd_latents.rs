// SPDX-License-Identifier: MPL-2.0
//! Latents that are kept in a folder: what was denoised before is only decoded, and the clip is the same.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::{Duration, SystemTime};

use gst::MessageView;
use gst::prelude::*;
use gsttorchvideo::engine::device::DeviceChoice;
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::svd::{Estimate, Event, Extras, LatentsFolder, Model, Params, Summary, generate_with};
use gsttorchvideo::engine::worker::Cancel;
use gsttorchvideo::engine::{Error, Result};
use tch::{Device, Kind};

mod common;

use common::noise;
use common::svd::{FILES, Pipeline, SINK, check_error, errors, picture, progress};
use common::tiny_svd::write_tiny_svd;

/// Has libtorch as the elements would have it. They would change it while the engine is in use on another thread.
fn settle() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| assert!(DeviceChoice::Cpu.resolve().is_ok()));
}

/// A folder with a tiny model in `model`, and a place for latents in `latents`.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        settle();
        let folder = tempfile::tempdir().unwrap();
        write_tiny_svd(&folder.path().join("model"));
        Self(folder)
    }

    fn model(&self) -> Model {
        load(self.0.path(), Kind::Float)
    }

    fn latents(&self) -> LatentsFolder {
        LatentsFolder::open(&self.0.path().join("latents")).unwrap()
    }

    fn files(&self) -> Vec<PathBuf> {
        files(&self.0.path().join("latents"))
    }
}

fn load(folder: &Path, kind: Kind) -> Model {
    Model::load(&folder.join("model"), Device::Cpu, kind, &Cancel::default()).unwrap()
}

/// The files of a folder, in the order of their names.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn params() -> Params {
    Params { num_frames: 3, width: 32, height: 40, num_inference_steps: 2, ..Params::default() }
}

fn extras(latents: Option<&LatentsFolder>) -> Extras<'_> {
    Extras { latents, ..Extras::default() }
}

/// A clip, and what was told of it.
struct Made {
    frames: Vec<Frame>,
    estimate: Estimate,
    steps: i64,
    before: Vec<PathBuf>,
    warnings: Vec<String>,
    summary: Summary,
}

fn make_of(model: &mut Model, keyframe: &Frame, params: &Params, folder: Option<&LatentsFolder>) -> Made {
    let (mut frames, mut estimate, mut steps) = (Vec::new(), None, 0);
    let (mut before, mut warnings) = (Vec::new(), Vec::new());
    let mut report = |event| match event {
        Event::Planned(first, _) => assert!(estimate.replace(first).is_none()),
        Event::DenoisedBefore(file) => before.push(file),
        Event::Step { .. } => steps += 1,
        Event::Decoded(decoded) => frames.extend(decoded),
        Event::Warning(text) => warnings.push(text),
        Event::Encoded | Event::Decoding { .. } => assert!(estimate.is_some()),
        Event::Preview(_) => panic!("nobody watches"),
    };
    let summary = generate_with(model, keyframe, params, extras(folder), &Cancel::default(), &mut report).unwrap();
    Made { frames, estimate: estimate.expect("a plan comes first"), steps, before, warnings, summary }
}

fn make(model: &mut Model, params: &Params, folder: Option<&LatentsFolder>) -> Made {
    make_of(model, &noise(48, 40, 3), params, folder)
}

/// Begins a clip, and does `end` when the first of it is decoded.
fn end_in_decoding(model: &mut Model, folder: &LatentsFolder, end: impl Fn(&Cancel)) -> Result<Summary> {
    let cancel = Cancel::default();
    generate_with(model, &noise(48, 40, 3), &params(), extras(Some(folder)), &cancel, &mut |event| {
        if let Event::Decoding { .. } = event {
            end(&cancel);
        }
    })
}

#[test]
fn what_was_denoised_is_only_decoded_and_the_clip_is_the_same() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let place = Place::new();
        let folder = place.latents();
        let wanted = make(&mut load(place.0.path(), kind), &params(), None);
        let ended = end_in_decoding(&mut load(place.0.path(), kind), &folder, Cancel::cancel);
        assert!(matches!(ended, Err(Error::Cancelled)));
        assert_eq!(place.files().len(), 1);

        let mut model = load(place.0.path(), kind);
        let made = make(&mut model, &params(), Some(&folder));
        assert!(made.frames == wanted.frames);
        assert_eq!((made.steps, &made.before, &made.warnings), (0, &place.files(), &vec![]));
        let Estimate { encode, denoise, decode } = made.estimate;
        assert!(encode.seconds == 0.0 && denoise.seconds == 0.0 && decode.seconds > 0.0, "{:?}", made.estimate);
        let [encode, denoise, decode] = made.summary.seconds;
        assert!(encode == 0.0 && denoise == 0.0 && decode > 0.0, "{:?}", made.summary);

        // What was not done says nothing of how long the next one takes.
        let next = make(&mut model, &Params { seed: 1, ..params() }, Some(&folder));
        assert_eq!((next.steps, next.before.len()), (2, 0));
        assert!(next.estimate.encode.seconds > 0.0 && next.estimate.denoise.seconds > 0.0, "{:?}", next.estimate);
        assert!(next.frames != made.frames);
        assert_eq!(place.files().len(), 2);
    }
}

#[test]
fn a_process_that_was_killed_has_kept_what_it_denoised() {
    const NAME: &str = "TORCHVIDEO_TEST_KILLED";
    if let Some(folder) = std::env::var_os(NAME) {
        let folder = PathBuf::from(folder);
        let latents = LatentsFolder::open(&folder.join("latents")).unwrap();
        let ended = end_in_decoding(&mut load(&folder, Kind::Float), &latents, |_| {
            // SAFETY: ends this process, here and now.
            unsafe { libc::raise(libc::SIGKILL) };
        });
        unreachable!("{ended:?}");
    }
    let place = Place::new();
    let name = "a_process_that_was_killed_has_kept_what_it_denoised";
    let mut child = Command::new(std::env::current_exe().unwrap());
    let ended = child.args(["--exact", name]).env(NAME, place.0.path()).output().unwrap();
    assert_eq!(ended.status.signal(), Some(libc::SIGKILL), "{ended:?}");
    let made = make(&mut place.model(), &params(), Some(&place.latents()));
    assert_eq!((made.steps, &made.before), (0, &place.files()));
    assert!(made.frames == make(&mut place.model(), &params(), None).frames);
}

#[test]
fn other_clips_are_denoised_and_other_ways_to_decode_them_are_not() {
    let place = Place::new();
    let (mut model, folder) = (place.model(), place.latents());
    let steps = |model: &mut Model, params: &Params| make(model, params, Some(&folder)).steps;
    assert_eq!(steps(&mut model, &params()), 2);
    assert_eq!(steps(&mut model, &Params { decode_chunk_size: 1, ..params() }), 0);
    assert_eq!(steps(&mut model, &Params { max_memory: 1 << 40, ..params() }), 0);
    assert_eq!(steps(&mut model, &Params { seed: 1, ..params() }), 2);
    assert_eq!(steps(&mut model, &Params { fps: 8.0, ..params() }), 2);
    // Another keyframe, by one byte.
    let mut bytes = noise(48, 40, 3).into_data();
    bytes[1000] ^= 1;
    let other = make_of(&mut model, &Frame::new(48, 40, 3, bytes), &params(), Some(&folder));
    assert_eq!((other.steps, place.files().len()), (2, 4));
    // Another precision.
    assert_eq!(steps(&mut load(place.0.path(), Kind::BFloat16), &params()), 2);

    // Weights that were replaced: other ones, as far as can be seen, but not for the model that is loaded.
    let weights = place.0.path().join("model/unet/diffusion_pytorch_model.safetensors");
    let file = fs::File::options().write(true).open(weights).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(100)).unwrap();
    assert_eq!(steps(&mut model, &params()), 0);
    assert_eq!(steps(&mut place.model(), &params()), 2);
    assert_eq!(place.files().len(), 6);
}

#[test]
fn a_damaged_file_is_told_of_and_written_again() {
    let place = Place::new();
    let (mut model, folder) = (place.model(), place.latents());
    let wanted = make(&mut model, &params(), Some(&folder)).frames;
    let file = &place.files()[0];
    let whole = fs::read(file).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [&whole[..whole.len() / 2], b"", &flipped] {
        fs::write(file, damaged).unwrap();
        let made = make(&mut model, &params(), Some(&folder));
        assert!(made.frames == wanted);
        assert_eq!((made.steps, made.before.len(), made.warnings.len()), (2, 0, 1), "{:?}", made.warnings);
        let parts = [file.to_str().unwrap(), "denoised again"];
        assert!(parts.iter().all(|part| made.warnings[0].contains(part)), "{:?}", made.warnings);
        assert_eq!(place.files().len(), 1);
        assert!(fs::read(file).unwrap() == whole);
    }
}

#[test]
fn a_write_that_fails_does_not_end_the_clip() {
    let place = Place::new();
    let (mut model, folder) = (place.model(), place.latents());
    fs::remove_dir(place.0.path().join("latents")).unwrap();
    let made = make(&mut model, &params(), Some(&folder));
    assert!(made.frames == make(&mut model, &params(), None).frames);
    assert_eq!(made.warnings.len(), 1, "{:?}", made.warnings);
    assert!(made.warnings[0].contains("latents are not kept"), "{:?}", made.warnings);
}

const SMALL: &str = "num-frames=4 width=32 height=32";

/// `svdsrc`, or `svdanimate` behind pictures, which keeps latents in `folder`.
fn pipeline(element: &str, folder: &Path, properties: &str) -> Pipeline {
    settle();
    let properties = format!("{SMALL} latents-folder=\"{}\" {properties}", folder.display());
    if element == "svdsrc" {
        return Pipeline::new(&format!("num-clips=2 {properties}"), SINK);
    }
    let (picture, model) = (FILES.picture.display(), FILES.model.display());
    Pipeline::launch(&format!(
        "filesrc location=\"{picture}\" ! pngdec ! imagefreeze num-buffers=2 ! svdanimate name=src device=cpu \
         model-path=\"{model}\" num-inference-steps=2 {properties} ! {SINK}"
    ))
}

/// Plays to the end: the frames, what was told of progress, and the messages about the clips.
fn run(pipeline: &Pipeline) -> (Vec<Frame>, Vec<String>, Vec<gst::Structure>) {
    let sink: gst_app::AppSink = pipeline.0.by_name("sink").unwrap().downcast().unwrap();
    pipeline.play();
    let frames = std::iter::from_fn(|| sink.pull_sample().ok()).map(|sample| picture(&sample)).collect();
    let messages = pipeline.messages_until_eos();
    assert_eq!(errors(&messages), [""; 0]);
    assert!(messages.iter().all(|message| message.type_() != gst::MessageType::Warning));
    let told = |message: &gst::Message| match message.view() {
        MessageView::Element(told) => {
            let told = told.structure().filter(|told| told.name().ends_with("-clip"));
            told.map(ToOwned::to_owned)
        }
        _ => None,
    };
    let texts = progress(&messages, "generate").into_iter().map(|(_, text)| text).collect();
    (frames, texts, messages.iter().filter_map(told).collect())
}

#[test]
fn elements_take_what_was_denoised_before() {
    for (element, properties) in [("svdsrc", ""), ("svdsrc", "chain=true"), ("svdanimate", "")] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("latents");
        let count = |texts: &[String], part: &str| texts.iter().filter(|text| text.contains(part)).count();
        let (wanted, texts, first) = run(&pipeline(element, &folder, properties));
        assert_eq!((count(&texts, "Denoised before"), files(&folder).len()), (0, 2), "{element}: {texts:?}");
        assert!(count(&texts, "Denoising step") > 0, "{texts:?}");

        let (frames, texts, second) = run(&pipeline(element, &folder, properties));
        assert!(frames == wanted, "{element} {properties}");
        assert_eq!((count(&texts, "Denoising step"), files(&folder).len()), (0, 2), "{element}: {texts:?}");
        // That of a clip ahead need not be told.
        assert!(files(&folder).iter().any(|file| texts.contains(&format!("Denoised before: {}", file.display()))));
        assert_eq!((first.len(), second.len()), (2, 2));
        for (first, second) in first.iter().zip(&second) {
            let seconds = |name| second.get::<f64>(name).unwrap();
            assert_eq!((seconds("encode-seconds"), seconds("denoise-seconds")), (0.0, 0.0));
            assert!(first.get::<f64>("denoise-seconds").unwrap() > 0.0 && seconds("decode-seconds") > 0.0);
            // How the clip was made is the same, and does not tell of the folder.
            let [first, second] = [first, second].map(|told| told.get::<String>("provenance").unwrap());
            assert!(!second.contains("latents-folder"), "{second}");
            let properties = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["properties"].take();
            assert_eq!(properties(&first), properties(&second));
        }

        let (_, texts, _) = run(&pipeline(element, &folder, &format!("{properties} seed=1000")));
        assert!(count(&texts, "Denoising step") > 0, "{texts:?}");
        assert_eq!(files(&folder).len(), 4);
    }
}

#[test]
fn a_folder_that_can_not_be_written_to_ends_in_one_message() {
    let file = FILES.picture.display().to_string();
    for element in ["svdsrc", "svdanimate"] {
        for folder in ["/nowhere/latents", &file, "/proc"] {
            let parts = [&format!("latents-folder={folder} is not possible"), "a folder that can be written to"];
            check_error(&pipeline(element, Path::new(folder), ""), &parts);
        }
    }
}
