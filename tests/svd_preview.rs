// SPDX-License-Identifier: MPL-2.0
//! Previews: how latents look as small pictures, and the pad `preview` of `svdsrc` and `svdanimate` in real pipelines.

use std::cell::Cell;
use std::path::Path;
use std::sync::mpsc;

use gst::prelude::*;
use gst::{ClockTime, MessageView};
use gst_check::TestClock;
use gsttorchvideo::engine::image::{Fit, Frame};
use gsttorchvideo::engine::svd::vae::{Config, Vae};
use gsttorchvideo::engine::svd::{
    Event, Extras, Factors, Model, ModelInfo, Network, Params, Source, generate_with, inspect,
};
use gsttorchvideo::engine::worker::Cancel;
use tch::{Device, Kind, Tensor};

mod common;

use common::behaviour::{check_complaints, listen};
use common::svd::{FILES, PATIENCE, Pipeline, SINK, check_times, errors, info, is_end, picture, pull};
use common::{file, recipe};

const CPU: Device = Device::Cpu;
const SMALL: &str = "num-frames=3 width=32 height=24 num-inference-steps=4";
/// A sink that does not wait for its first frame before the preview is played.
const CLIP: &str = "appsink name=sink sync=false async=false";
const VIEW: &str = "appsink name=view sync=false";

fn psnr(a: &[Frame], b: &[Frame]) -> f64 {
    let bytes = |frames: &[Frame]| frames.iter().flat_map(|frame| frame.data().to_vec()).collect::<Vec<_>>();
    let (a, b) = (bytes(a), bytes(b));
    assert_eq!(a.len(), b.len());
    let squares: f64 = a.iter().zip(&b).map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2)).sum();
    10.0 * (255.0f64.powi(2) * a.len() as f64 / squares.max(1e-9)).log10()
}

fn autoencoder(folder: &Path) -> (Vae, Config) {
    let source = Source::open(folder, None).unwrap();
    let weights = source.weights(Network::Vae, CPU, Kind::Float, &Cancel::default()).unwrap();
    let vae = Vae::new(weights.root(), &source.info.vae);
    weights.finish().unwrap();
    (vae, source.info.vae)
}

fn fit((vae, config): &(Vae, Config)) -> Factors {
    tch::no_grad(|| Factors::fit(vae, config, CPU, &Cancel::default())).unwrap()
}

#[test]
fn what_is_fitted_shows_what_the_known_shows() {
    let folder = file("models/svd-nano");
    let known = Factors::known(&inspect(&folder).unwrap()).expect("svd-nano brings its own");
    let nano = autoencoder(&folder);
    let fitted = fit(&nano);
    for name in ["pipelines/keyframe.jpg", "models/svd-nano/pictures/flower-keyframe.webp"] {
        let picture = Frame::open(&file(name)).unwrap().with_aspect_of(256, 144, Fit::Crop).unwrap().resize(256, 144);
        let pixels = picture.to_tensor(CPU) * 2.0 - 1.0;
        let latents = tch::no_grad(|| nano.0.encode(&pixels, &Cancel::default())).unwrap();
        let [known, fitted] = [&known, &fitted].map(|factors| factors.pictures(&latents).unwrap());
        let small = [picture.resize(64, 36)];
        let both = psnr(&known, &fitted);
        let [known, fitted] = [known, fitted].map(|shown| psnr(&shown, &small));
        println!(
            "{name}: fitted against known {both:.1} dB; to the small picture known {known:.1}, fitted {fitted:.1} dB"
        );
        assert!(both > 36.0 && fitted > 31.0, "{name}: {both:.1} dB, {fitted:.1} dB");
    }
}

#[test]
fn what_is_not_known_is_fitted() {
    // A model of another's networks, without what it says of its latents.
    let folder = tempfile::tempdir().unwrap();
    for part in ["unet", "vae", "image_encoder", "scheduler", "feature_extractor"] {
        std::os::unix::fs::symlink(file("models/svd-nano").join(part), folder.path().join(part)).unwrap();
    }
    assert_eq!(Factors::known(&inspect(folder.path()).unwrap()), None);
    let keyframe = Frame::open(&file("pipelines/keyframe.jpg")).unwrap();
    let params = Params { width: 128, height: 72, num_frames: 2, num_inference_steps: 2, ..model_params() };
    let made = |folder: &Path| {
        let mut model = Model::load(folder, CPU, Kind::Float, &Cancel::default()).unwrap();
        [|_| false, |_| true].map(|is_watched| make(&mut model, &keyframe, &params, is_watched))
    };
    let ([unseen, fitted], [_, known]) = (made(folder.path()), made(&file("models/svd-nano")));
    assert!(unseen.0 == fitted.0 && fitted.0 == known.0);
    let [fitted, known] =
        [fitted, known].map(|(_, previews)| previews.into_iter().flat_map(|(_, shown)| shown).collect::<Vec<_>>());
    let near = psnr(&fitted, &known);
    println!("{near:.1} dB");
    assert!(near > 33.0, "{near:.1} dB");
    // That of an autoencoder like SD's is known; one of random weights can be fitted, too.
    assert_eq!(Factors::known(&inspect(&FILES.model).unwrap()), Factors::known(&ModelInfo::published()));
    let random = fit(&autoencoder(&FILES.model));
    assert_eq!((random.weight.len(), random.factor), (4, 8));
    assert!(random.weight.as_flattened().iter().any(|number| number.abs() > 1e-3), "{random:?}");
}

#[test]
fn latents_of_all_kinds_become_pictures() {
    let factors = Factors { weight: vec![[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]], bias: [0.0, 0.0, 0.5], factor: 8 };
    let at = |x: f64, y: f64| Tensor::from_slice(&[x, y]).view([1, 2, 1, 1]);
    let shown = |latents: &Tensor| factors.pictures(latents).unwrap()[0].data().to_vec();
    for kind in [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16] {
        // (v + 1) * 127.5
        assert_eq!(shown(&at(0.0, 1.0).to_kind(kind)), [128, 191, 191], "{kind:?}");
        assert_eq!(shown(&at(1.0, -4.0).to_kind(kind)), [255, 0, 64], "{kind:?}");
    }
    assert_eq!(shown(&at(f64::NAN, 0.0)), [0, 0, 0]);
    assert_eq!(shown(&at(0.0, f64::INFINITY)), [0, 255, 0]);
    // Frames, rows and pixels stay where they are.
    let latents = recipe::sample("latents", &[3, 2, 4, 5]);
    let pictures = factors.pictures(&latents).unwrap();
    assert_eq!(pictures.len(), 3);
    for (frame, picture) in pictures.iter().enumerate() {
        assert_eq!((picture.width(), picture.height(), picture.channels()), (5, 4, 3));
        for (pixel, colour) in picture.data().chunks(3).enumerate() {
            let value = latents.double_value(&[frame as i64, 0, pixel as i64 / 5, pixel as i64 % 5]);
            assert_eq!(colour[0], ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8, "{frame}, {pixel}");
        }
    }
}

#[test]
fn wrong_factors_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    common::tiny_svd::write_tiny_svd(folder);
    let channels = inspect(folder).unwrap().vae.latent_channels as usize;
    let rows = |count: usize| serde_json::json!(vec![[0.5, 0.5, 0.5]; count]);
    let factor = inspect(folder).unwrap().vae.factor();
    for (json, part) in [
        (serde_json::json!({"factor": factor, "weight": rows(channels), "bias": [0, 0, 0]}), None),
        (serde_json::json!({"factor": factor, "weight": rows(channels + 1), "bias": [0, 0, 0]}), Some("rows")),
        (serde_json::json!({"factor": 16, "weight": rows(channels), "bias": [0, 0, 0]}), Some("factor=16")),
        (serde_json::json!({"factor": factor, "weight": rows(channels)}), Some("bias")),
    ] {
        std::fs::write(folder.join("latent_rgb.json"), json.to_string()).unwrap();
        match (inspect(folder).map_err(|err| err.to_string()), part) {
            (Ok(info), None) => assert!(Factors::known(&info).is_some()),
            (Err(message), Some(part)) => {
                assert!(message.contains("latent_rgb.json") && message.contains(part), "{message}");
            }
            (other, _) => panic!("{json}: {other:?}"),
        }
    }
}

/// A clip's frames, and the previews with the step that they came after, while `is_watched` says so of the step to come.
fn make(
    model: &mut Model,
    keyframe: &Frame,
    params: &Params,
    is_watched: fn(i64) -> bool,
) -> (Vec<Frame>, Vec<(i64, Vec<Frame>)>) {
    let (step, mut frames, mut previews) = (Cell::new(0), Vec::new(), Vec::new());
    let watched = || is_watched(step.get());
    let extras = Extras { is_watched: &watched, ..Extras::default() };
    tch::no_grad(|| {
        generate_with(model, keyframe, params, extras, &Cancel::default(), &mut |event| match event {
            Event::Step { step: now, .. } => step.set(now),
            Event::Preview(pictures) => previews.push((step.get(), pictures)),
            Event::Decoded(decoded) => frames.extend(decoded),
            Event::Warning(text) => panic!("{text}"),
            _ => {}
        })
    })
    .unwrap();
    (frames, previews)
}

#[test]
fn the_last_preview_is_the_clip_made_small_and_changes_nothing() {
    let mut model = Model::load(&file("models/svd-nano"), CPU, Kind::Float, &Cancel::default()).unwrap();
    let keyframe = Frame::open(&file("pipelines/keyframe.jpg")).unwrap();
    let params = Params { width: 256, height: 144, num_frames: 4, num_inference_steps: 4, ..model_params() };
    let (unseen, none) = make(&mut model, &keyframe, &params, |_| false);
    assert!(none.is_empty());
    let (clip, previews) = make(&mut model, &keyframe, &params, |step| step != 2);
    assert!(clip == unseen);
    assert_eq!(previews.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 3, 4]);
    let small: Vec<_> = clip.iter().map(|frame| frame.resize(64, 36)).collect();
    let near: Vec<_> = previews.iter().map(|(_, pictures)| psnr(pictures, &small)).collect();
    println!("previews against the clip made small: {near:.1?} dB");
    assert!(near[2] > 28.0 && near[0] < near[2], "{near:?}");
}

fn model_params() -> Params {
    inspect(&file("models/svd-nano")).unwrap().recommended
}

/// `svdsrc` whose clip goes to `rest` and whose preview to `view`.
fn source(properties: &str, rest: &str, view: &str) -> Pipeline {
    Pipeline::new(&format!("{SMALL} {properties}"), &format!("{rest} src.preview ! {view}"))
}

fn sink(pipeline: &Pipeline, name: &str) -> gst_app::AppSink {
    pipeline.0.by_name(name).unwrap().downcast().unwrap()
}

/// Holds the model's thread after each step until all frames of those before have passed the preview's pad: else those
/// of a quick model are dropped.
fn show_all(pipeline: &Pipeline) {
    let passed = std::sync::Arc::new((std::sync::Mutex::new(0), std::sync::Condvar::new()));
    let count = passed.clone();
    pipeline.src().static_pad("preview").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        *count.0.lock().unwrap() += 1;
        count.1.notify_all();
        gst::PadProbeReturn::Ok
    });
    let told = std::sync::atomic::AtomicUsize::new(0);
    pipeline.0.bus().unwrap().set_sync_handler(move |_, message| {
        if is_step(message) && message.src().is_some_and(|src| src.name() == "src") {
            let due = 3 * told.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let wait = passed.1.wait_timeout_while(passed.0.lock().unwrap(), PATIENCE.into(), |count| *count < due);
            assert!(!wait.unwrap().1.timed_out(), "the steps before are shown");
        }
        gst::BusSyncReply::Pass
    });
}

fn is_step(message: &gst::Message) -> bool {
    let MessageView::Element(element) = message.view() else { return false };
    element.structure().is_some_and(|told| told.name().ends_with("-step"))
}

/// The same of every step.
fn play_all(pipeline: &Pipeline) -> (Vec<gst::Sample>, Vec<gst::Sample>, Vec<gst::Message>) {
    show_all(pipeline);
    play(pipeline)
}

/// All that comes out of both ends.
fn play(pipeline: &Pipeline) -> (Vec<gst::Sample>, Vec<gst::Sample>, Vec<gst::Message>) {
    let (clip, view) = (sink(pipeline, "sink"), sink(pipeline, "view"));
    pipeline.play();
    let samples = |sink: gst_app::AppSink| std::iter::from_fn(move || pull(&sink)).collect::<Vec<_>>();
    let view = std::thread::spawn(move || samples(view));
    let clip = samples(clip);
    let view = view.join().unwrap();
    let messages = pipeline.messages_until_eos();
    assert_eq!(errors(&messages), [""; 0]);
    (clip, view, messages)
}

fn pictures(samples: &[gst::Sample]) -> Vec<Frame> {
    samples.iter().map(picture).collect()
}

/// The messages about steps: clip, step, steps.
fn steps(messages: &[gst::Message], name: &str) -> Vec<(u64, i64, i64)> {
    let told = |message: &gst::Message| match message.view() {
        MessageView::Element(element) => {
            let told = element.structure().filter(|told| told.name() == name)?;
            assert!(told.get::<f64>("sigma").unwrap() > 0.0 && told.get::<f64>("seconds-left").unwrap() >= 0.0);
            Some((told.get("clip").unwrap(), told.get("step").unwrap(), told.get("steps").unwrap()))
        }
        _ => None,
    };
    messages.iter().filter_map(told).collect()
}

/// What a test's two clips of the small model are, and their previews' size.
fn check_preview(view: &[gst::Sample], count: usize, fps: gst::Fraction) {
    assert_eq!(view.len(), count);
    check_times(view, fps);
    let info = info(&view[0]);
    let factor = inspect(&FILES.model).unwrap().vae.factor() as u32;
    assert_eq!((info.width(), info.height(), info.fps()), (32 / factor, 24 / factor, fps));
    assert_eq!(info.format(), gst_video::VideoFormat::Rgb);
}

#[test]
fn every_step_is_shown_and_the_clip_is_the_same() {
    let alone = pictures(&Pipeline::new(&format!("{SMALL} fps=8/1 num-clips=2"), SINK).collect());
    let pipeline = source("fps=8/1 num-clips=2", CLIP, VIEW);
    let pad = pipeline.src().static_pad("preview").unwrap();
    let (say, titles) = mpsc::channel();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::EventView::Tag(tag)) = info.event().map(|event| event.view()) {
            say.send(tag.tag().get::<gst::tags::Title>().unwrap().get().to_owned()).unwrap();
        }
        gst::PadProbeReturn::Ok
    });
    let starts = ["src", "preview"].map(|name| stream_start(&pipeline.src().static_pad(name).unwrap()));
    let (clip, view, messages) = play_all(&pipeline);
    assert!(pictures(&clip) == alone);
    check_preview(&view, 2 * 4 * 3, gst::Fraction::new(8, 1));
    let wanted: Vec<_> = (0..2).flat_map(|clip| (1..=4).map(move |step| (clip, step, 4))).collect();
    assert_eq!(steps(&messages, "svdsrc-step"), wanted);
    let titles: Vec<_> = titles.try_iter().collect();
    assert_eq!(titles.len(), 8);
    assert!(titles[2].starts_with("step 3 of 4, sigma ") && titles[2].ends_with(" s left"), "{titles:?}");
    let [(one, group), (other, of_preview)] = starts.map(|hear| hear.recv().unwrap());
    assert!(one != other && group.is_some() && group == of_preview, "{one} {other}");
}

/// Hears the stream's id and group when a pad begins a stream.
fn stream_start(pad: &gst::Pad) -> mpsc::Receiver<(String, Option<gst::GroupId>)> {
    let (say, hear) = mpsc::channel();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::EventView::StreamStart(start)) = info.event().map(|event| event.view()) {
            let _ = say.send((start.stream_id().to_string(), start.group_id()));
        }
        gst::PadProbeReturn::Ok
    });
    hear
}

#[test]
fn pictures_of_a_stream_have_previews_too() {
    let model = FILES.model.display();
    let stills = format!("filesrc location=\"{}\" ! pngdec ! imagefreeze num-buffers=2", FILES.picture.display());
    let animate = format!("svdanimate name=src device=cpu model-path=\"{model}\" {SMALL} fps=8/1");
    let alone = Pipeline::launch(&format!("{stills} ! {animate} ! {SINK}")).collect();
    let pipeline = Pipeline::launch(&format!("{stills} ! {animate} ! {CLIP} src.preview ! {VIEW}"));
    let (clip, view, messages) = play_all(&pipeline);
    assert!(pictures(&clip) == pictures(&alone));
    check_preview(&view, 2 * 4 * 3, gst::Fraction::new(8, 1));
    assert_eq!(steps(&messages, "svdanimate-step").len(), 8);
}

/// Buffers that pass a pad, counted.
fn count(pad: &gst::Pad) -> std::sync::Arc<std::sync::atomic::AtomicUsize> {
    let counted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = counted.clone();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    counted
}

#[test]
fn nothing_is_shown_where_nobody_looks() {
    let pipeline = Pipeline::new(SMALL, SINK);
    let pad = pipeline.src().request_pad_simple("preview").unwrap();
    // A push to nobody would pass here.
    let pushed = count(&pad);
    // There is one at most.
    let template = pad.pad_template().unwrap();
    assert!(pipeline.src().request_pad(&template, None, None).is_none());
    assert_eq!(pipeline.collect().len(), 3);
    assert_eq!(pushed.load(std::sync::atomic::Ordering::Relaxed), 0);
    pipeline.src().release_request_pad(&pad);
    assert!(pipeline.src().static_pad("preview").is_none());
    assert!(pipeline.src().request_pad_simple("preview").is_some());
}

#[test]
fn who_stands_still_holds_nothing_up() {
    // The preview's consumer keeps the first frame, and never asks for another.
    let pipeline = source("num-clips=2", SINK, "appsink name=view sync=false max-buffers=1");
    let (say, has_ended) = mpsc::channel();
    pipeline.src().static_pad("src").unwrap().add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if info.event().is_some_and(|event| event.type_() == gst::EventType::Eos) {
            let _ = say.send(());
        }
        gst::PadProbeReturn::Ok
    });
    let pushed = count(&pipeline.src().static_pad("preview").unwrap());
    pipeline.play();
    let clip = sink(&pipeline, "sink");
    assert_eq!(std::iter::from_fn(|| pull(&clip)).count(), 6);
    has_ended.recv_timeout(PATIENCE.into()).unwrap();
    // What is kept, what waits at the sink: nothing more.
    assert!(pushed.load(std::sync::atomic::Ordering::Relaxed) <= 3);
    // Then it sees the rest of the step it was at, and the last step, whole.
    let view = sink(&pipeline, "view");
    let samples: Vec<_> = std::iter::from_fn(|| pull(&view)).collect();
    check_times(&samples, info(&samples[0]).fps());
    assert_eq!(samples.len(), 6);
    let (_, all, _) = play_all(&source("num-clips=2", CLIP, VIEW));
    assert!(pictures(&samples)[3..] == pictures(&all)[21..]);
    pipeline.messages_until_eos();
}

#[test]
fn stopping_does_not_wait_for_who_stands_still() {
    for state in [gst::State::Null, gst::State::Ready] {
        let pipeline = source("num-clips=0", "fakesink", "appsink name=view sync=false max-buffers=1");
        pipeline.play();
        pipeline.messages_until(is_end);
        pipeline.0.set_state(state).unwrap();
        // A second run begins anew.
        if state == gst::State::Ready {
            let view = sink(&pipeline, "view");
            // It keeps what it has until NULL.
            while view.try_pull_sample(ClockTime::ZERO).is_some() {}
            pipeline.play();
            let samples: Vec<_> = (0..4).map(|_| pull(&view).unwrap()).collect();
            check_times(&samples, info(&samples[0]).fps());
        }
    }
}

#[test]
fn the_pad_comes_and_goes_while_the_element_runs() {
    let pipeline = Pipeline::new(&format!("{SMALL} num-clips=0"), "fakesink");
    pipeline.play();
    let src = pipeline.src();
    for stands_still in [false, true, false] {
        let view = gst_app::AppSink::builder().sync(false).async_(false).build();
        if stands_still {
            view.set_max_buffers(1);
        }
        pipeline.0.add(&view).unwrap();
        view.sync_state_with_parent().unwrap();
        let pad = src.request_pad_simple("preview").unwrap();
        let pushed = count(&pad);
        pad.link(&view.static_pad("sink").unwrap()).unwrap();
        let samples: Vec<_> = (0..4).map(|_| pull(&view).unwrap()).collect();
        check_times(&samples, info(&samples[0]).fps());
        // Nobody takes frames any more, or all are.
        while stands_still && pushed.load(std::sync::atomic::Ordering::Relaxed) < 6 {
            pipeline.messages_until(is_step);
        }
        src.release_request_pad(&pad);
        pipeline.0.remove(&view).unwrap();
        view.set_state(gst::State::Null).unwrap();
    }
    pipeline.messages_until(is_end);
    pipeline.0.set_state(gst::State::Null).unwrap();
    let messages: Vec<_> = std::iter::from_fn(|| pipeline.0.bus().unwrap().pop()).collect();
    assert_eq!(errors(&messages), [""; 0]);
}

#[test]
fn another_may_look_after_the_first_has_gone() {
    let pipeline = source("num-clips=0", "fakesink", VIEW);
    let pad = pipeline.src().static_pad("preview").unwrap();
    pipeline.play();
    let view = sink(&pipeline, "view");
    pull(&view).unwrap();
    pad.unlink(&view.static_pad("sink").unwrap()).unwrap();
    // Clips go on.
    pipeline.messages_until(is_end);
    pipeline.messages_until(is_end);
    let other = gst_app::AppSink::builder().sync(false).async_(false).build();
    pipeline.0.add(&other).unwrap();
    other.sync_state_with_parent().unwrap();
    pad.link(&other.static_pad("sink").unwrap()).unwrap();
    let sample = pull(&other).unwrap();
    assert!(sample.caps().is_some() && sample.segment().is_some());
}

#[test]
fn who_looks_after_the_end_hears_of_it() {
    let pipeline = Pipeline::new(SMALL, "fakesink async=false");
    listen();
    pipeline.play();
    assert_eq!(errors(&pipeline.messages_until_eos()), [""; 0]);
    // Many, because the pad's thread may be fast or slow to begin.
    for _ in 0..100 {
        let pad = pipeline.src().request_pad_simple("preview").unwrap();
        let view = gst::ElementFactory::make("fakesink").property("async", false).build().unwrap();
        let (say, hear) = mpsc::channel();
        view.static_pad("sink").unwrap().add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            let _ = say.send(info.event().map(|event| event.type_()));
            gst::PadProbeReturn::Ok
        });
        pipeline.0.add(&view).unwrap();
        view.sync_state_with_parent().unwrap();
        pad.link(&view.static_pad("sink").unwrap()).unwrap();
        let events: Vec<_> = [(); 3].map(|()| hear.recv_timeout(PATIENCE.into()).unwrap().unwrap()).into();
        assert_eq!(events, [gst::EventType::StreamStart, gst::EventType::Segment, gst::EventType::Eos]);
        pipeline.src().release_request_pad(&pad);
        view.set_state(gst::State::Null).unwrap();
        pipeline.0.remove(&view).unwrap();
    }
    check_complaints();
}

#[test]
fn an_end_or_a_refusal_behind_the_preview_leaves_the_clip_alone() {
    let wanted = pictures(&Pipeline::new(&format!("{SMALL} num-clips=2"), SINK).collect());
    for (view, warns) in [("identity eos-after=2 ! fakesink", false), ("video/x-raw,width=33 ! fakesink", true)] {
        let pipeline = source("num-clips=2", SINK, view);
        let clip = sink(&pipeline, "sink");
        pipeline.play();
        let samples: Vec<_> = std::iter::from_fn(|| pull(&clip)).collect();
        assert!(pictures(&samples) == wanted, "{view}");
        let messages = pipeline.messages_until_eos();
        assert_eq!(errors(&messages), [""; 0], "{view}");
        let warnings: Vec<_> = messages
            .iter()
            .filter_map(|message| match message.view() {
                MessageView::Warning(warning) => Some(warning.error().to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(warnings.len(), usize::from(warns), "{view}: {warnings:?}");
        assert!(warnings.iter().all(|text| text.contains("videoconvertscale")), "{warnings:?}");
    }
}

#[test]
fn a_flush_begins_the_preview_anew() {
    let pipeline = source("num-clips=0", "fakesink", "appsink name=view sync=false max-buffers=1");
    pipeline.play();
    let view = sink(&pipeline, "view");
    for sets_time in [true, false] {
        let before: Vec<_> = (0..4).map(|_| pull(&view).unwrap()).collect();
        let last = before[3].buffer().unwrap().offset();
        assert!(pipeline.src().send_event(gst::event::FlushStart::new()));
        assert!(pipeline.src().send_event(gst::event::FlushStop::new(sets_time)));
        let sample = pull(&view).unwrap();
        let buffer = sample.buffer().unwrap();
        assert!(buffer.flags().contains(gst::BufferFlags::DISCONT));
        assert_eq!(buffer.pts() == Some(ClockTime::ZERO), sets_time, "{buffer:?} after {last}");
    }
    pipeline.0.set_state(gst::State::Null).unwrap();
    let messages: Vec<_> = std::iter::from_fn(|| pipeline.0.bus().unwrap().pop()).collect();
    assert_eq!(errors(&messages), [""; 0]);
}

#[test]
fn queries_answer() {
    let pipeline = source("num-clips=0", "fakesink", VIEW);
    let pad = pipeline.src().static_pad("preview").unwrap();
    assert!(pad.query_caps(None).can_intersect(&"video/x-raw,format=RGB,width=8".parse::<gst::Caps>().unwrap()));
    pipeline.play();
    pull(&sink(&pipeline, "view")).unwrap();
    let caps = pad.query_caps(None);
    let factor = inspect(&FILES.model).unwrap().vae.factor() as i32;
    assert_eq!(caps.structure(0).unwrap().get::<i32>("width"), Ok(32 / factor));
    assert!(pad.query_position::<ClockTime>().unwrap() > ClockTime::ZERO);
    assert_eq!(pad.query_duration::<ClockTime>(), None);
    let mut seeking = gst::query::Seeking::new(gst::Format::Time);
    assert!(pad.query(&mut seeking) && !seeking.result().0);
    let mut latency = gst::query::Latency::new();
    assert!(pad.query(&mut latency) && !latency.result().0);
}

#[test]
fn a_shared_model_shows_each_its_own() {
    // Both at once; only one is watched. Its steps are those of its own clip.
    let other = format!(
        "svdsrc location=\"{}\" model-path=\"{}\" device=cpu seed=7 num-clips=3 num-inference-steps=2 num-frames=2 width=64 \
         height=64 ! fakesink async=false",
        FILES.picture.display(),
        FILES.model.display()
    );
    let (_, alone, _) = play_all(&source("", CLIP, VIEW));
    let (_, view, _) = play_all(&source("", CLIP, &format!("{VIEW} {other}")));
    assert!(pictures(&view) == pictures(&alone));
}

#[test]
fn a_clip_that_was_denoised_before_is_shown_once() {
    let folder = FILES.picture.with_file_name("kept");
    let _ = std::fs::remove_dir_all(&folder);
    let properties = format!("latents-folder=\"{}\"", folder.display());
    let (_, first, _) = play_all(&source(&properties, CLIP, VIEW));
    let (_, second, messages) = play(&source(&properties, CLIP, VIEW));
    assert_eq!((first.len(), second.len()), (12, 3));
    assert!(pictures(&second) == pictures(&first)[9..]);
    assert_eq!(steps(&messages, "svdsrc-step"), []);
}

#[test]
fn a_live_preview_comes_by_the_clock() {
    let pipeline = source("fps=10/1 is-live=true", "fakesink sync=false async=false", VIEW);
    let clock = TestClock::new();
    pipeline.0.use_clock(Some(&clock));
    let view = sink(&pipeline, "view");
    let src = pipeline.src();
    pipeline.play();
    let mut latency = gst::query::Latency::new();
    let pad = src.static_pad("preview").unwrap();
    let mut samples = vec![pull(&view).unwrap()];
    assert!(pad.query(&mut latency));
    assert_eq!(latency.result(), (true, ClockTime::from_mseconds(100), ClockTime::NONE));
    // False if so many do not wait in time.
    let turn = |waiting: u32, patience: ClockTime| {
        let (are_there, waits) = clock.timed_wait_for_multiple_pending_ids(waiting, patience.mseconds() as u32);
        if are_there {
            clock.set_time(waits.iter().map(|wait| wait.time()).max().unwrap());
            clock.process_id_list(&waits.iter().collect::<Vec<_>>());
        }
        are_there
    };
    // Both pads wait for the same time.
    let next = || {
        assert!(turn(2, PATIENCE));
        view.try_pull_sample(PATIENCE).map(|sample| sample.copy()).expect("a frame comes when its time has come")
    };
    while samples.len() < 3 {
        samples.push(next());
    }
    pipeline.messages_until(is_end);
    let is_over = samples.len() + 7;
    while samples.len() < is_over {
        samples.push(next());
    }
    check_times(&samples, gst::Fraction::new(10, 1));
    let shown = pictures(&samples);
    let factor = inspect(&FILES.model).unwrap().vae.factor() as usize;
    let still = Frame::open(&FILES.picture).unwrap().with_aspect_of(32, 24, Fit::Crop).unwrap().resize(32, 24);
    assert!(shown[0] == still.resize(32 / factor, 24 / factor));
    // The last step's clip, again and again: frame n of it at frame n.
    let (_, all, _) = play_all(&source("fps=10/1", CLIP, VIEW));
    let last = pictures(&all)[9..].to_vec();
    for (number, frame) in shown.iter().enumerate().skip(is_over - 6) {
        assert!(*frame == last[number % 3], "{number}");
    }
    src.send_event(gst::event::Eos::new());
    // Who has ended waits for no time anymore: crank() would never return.
    while pad.sticky_event::<gst::event::Eos>(0).is_none() {
        turn(1, ClockTime::from_mseconds(10));
    }
}
