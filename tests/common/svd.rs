// SPDX-License-Identifier: MPL-2.0
//! Pipelines with the elements of Stable Video Diffusion, a tiny model of random weights, and what comes out of them.

use std::path::{Path, PathBuf};
use std::sync::{LazyLock, mpsc};

use gst::prelude::*;
use gst::{ClockTime, MessageView, ProgressType};
use gst_video::{VideoFrameRef, VideoInfo};
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::svd::{self, Params};
use gsttorchvideo::video;

use super::tiny_svd;

/// What a pipeline is built from: a picture and a model.
pub struct Files {
    pub picture: PathBuf,
    pub model: PathBuf,
    pub recommended: Params,
}

/// Those of this process.
pub static FILES: LazyLock<Files> = LazyLock::new(|| {
    super::register();
    let program = std::env::current_exe().unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(program.file_stem().unwrap());
    let (picture, model) = (folder.join("picture.png"), folder.join("model"));
    std::fs::create_dir_all(&model).unwrap();
    tiny_svd::write_tiny_svd(&model);
    let ramp = image::RgbImage::from_fn(100, 80, |x, y| image::Rgb([2 * x as u8, 3 * y as u8, (x + y) as u8]));
    ramp.save(&picture).unwrap();
    let recommended = svd::inspect(&model).unwrap().recommended;
    Files { picture, model, recommended }
});

/// How long to wait for what should come at once: a test that hangs should say where.
pub const PATIENCE: ClockTime = ClockTime::from_seconds(60);

/// A pipeline that is stopped in the end, whatever happens.
pub struct Pipeline(pub gst::Pipeline);

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.0.set_state(gst::State::Null);
    }
}

/// The next sample of an appsink, or `None` at the end. A copy: GStreamer 1.22's appsink writes to its last sample when
/// new caps come, whoever has it too.
pub fn pull(sink: &gst_app::AppSink) -> Option<gst::Sample> {
    sink.pull_sample().ok().map(|sample| sample.copy())
}

impl Pipeline {
    /// `svdsrc` with `properties` in front of `rest`.
    pub fn bare(properties: &str, rest: &str) -> Self {
        Self::launch(&format!("svdsrc name=src device=cpu {properties} ! {rest}"))
    }

    /// The pipeline of a line.
    pub fn launch(line: &str) -> Self {
        LazyLock::force(&FILES);
        Self(gst::parse::launch(line).unwrap().downcast().unwrap())
    }

    /// The same with a picture and a model, small and quick if nothing else is said.
    pub fn new(properties: &str, rest: &str) -> Self {
        let Files { picture, model, .. } = &*FILES;
        let files =
            format!("location=\"{}\" model-path=\"{}\" num-inference-steps=2", picture.display(), model.display());
        Self::bare(&format!("{files} {properties}"), rest)
    }

    pub fn src(&self) -> gst::Element {
        self.0.by_name("src").unwrap()
    }

    pub fn play(&self) {
        self.0.set_state(gst::State::Playing).unwrap();
    }

    /// The messages up to the first for which `is_last` holds, it too.
    pub fn messages_until(&self, is_last: impl Fn(&gst::Message) -> bool) -> Vec<gst::Message> {
        let bus = self.0.bus().unwrap();
        let mut messages = Vec::new();
        loop {
            let message = bus.timed_pop(PATIENCE);
            let message =
                message.unwrap_or_else(|| panic!("what was awaited did not come; errors: {:?}", errors(&messages)));
            messages.push(message);
            if is_last(messages.last().unwrap()) {
                return messages;
            }
        }
    }

    pub fn messages_until_eos(&self) -> Vec<gst::Message> {
        self.messages_until(|message| message.type_() == gst::MessageType::Eos)
    }

    /// Plays to the end, with the frames that come out. The pipeline must end in `appsink name=sink`.
    pub fn collect(&self) -> Vec<gst::Sample> {
        let sink: gst_app::AppSink = self.0.by_name("sink").unwrap().downcast().unwrap();
        self.play();
        let samples = std::iter::from_fn(|| pull(&sink)).collect();
        assert_eq!(errors(&self.messages_until_eos()), [""; 0]);
        samples
    }

    /// Plays, and holds the model's thread where it says `text`, until the sender is used or dropped. Returns when it
    /// is there.
    pub fn play_and_hold_at(&self, text: &'static str) -> mpsc::Sender<()> {
        self.play_and_hold_where(move |message| {
            let MessageView::Progress(progress) = message.view() else { return false };
            progress.get().2.starts_with(text)
        })
    }

    fn play_and_hold_where(
        &self,
        is_there: impl Fn(&gst::Message) -> bool + Send + Sync + 'static,
    ) -> mpsc::Sender<()> {
        let (has_reached, release) = self.hold_where(is_there);
        self.play();
        has_reached.recv().unwrap();
        release
    }

    /// Holds the thread that posts the first message for which `is_there` holds, until the sender is used or dropped; the
    /// receiver hears when it is there.
    pub fn hold_where(
        &self,
        is_there: impl Fn(&gst::Message) -> bool + Send + Sync + 'static,
    ) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (reached, has_reached) = mpsc::channel();
        let (release, is_released) = mpsc::channel::<()>();
        let first = std::sync::Mutex::new(Some((reached, is_released)));
        self.0.bus().unwrap().set_sync_handler(move |_, message| {
            if is_there(message)
                && let Some((reached, is_released)) = first.lock().unwrap().take()
            {
                reached.send(()).unwrap();
                let _ = is_released.recv();
            }
            gst::BusSyncReply::Pass
        });
        (has_reached, release)
    }

    /// The same, where the making of clip `number`, from 1, has been planned.
    pub fn play_and_hold_at_clip(&self, number: usize) -> mpsc::Sender<()> {
        self.play_and_hold_where(plans_clip(number))
    }

    /// The same, in the first denoising step.
    pub fn play_and_hold(&self) -> mpsc::Sender<()> {
        self.play_and_hold_at("Denoising step 1 ")
    }
}

/// Tells the message that the making of clip `number`, from 1, has been planned.
pub fn plans_clip(number: usize) -> impl Fn(&gst::Message) -> bool + Send + Sync + 'static {
    let planned = std::sync::atomic::AtomicUsize::new(0);
    move |message| {
        let MessageView::Element(element) = message.view() else { return false };
        let is_one = element.structure().is_some_and(|told| told.name().ends_with("-estimate"));
        is_one && planned.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1 == number
    }
}

pub fn errors(messages: &[gst::Message]) -> Vec<String> {
    let text = |message: &gst::Message| match message.view() {
        MessageView::Error(err) => Some(err.error().to_string()),
        _ => None,
    };
    messages.iter().filter_map(text).collect()
}

/// The PROGRESS messages of one code.
pub fn progress(messages: &[gst::Message], code: &str) -> Vec<(ProgressType, String)> {
    let progress = |message: &gst::Message| match message.view() {
        MessageView::Progress(progress) => {
            let (kind, of, text) = progress.get();
            (of == code).then(|| (kind, text.to_string()))
        }
        _ => None,
    };
    messages.iter().filter_map(progress).collect()
}

pub fn is_end(message: &gst::Message) -> bool {
    let MessageView::Progress(progress) = message.view() else { return false };
    let (kind, code, _) = progress.get();
    code == "generate" && !matches!(kind, ProgressType::Start | ProgressType::Continue)
}

pub fn info(sample: &gst::Sample) -> VideoInfo {
    VideoInfo::from_caps(sample.caps().unwrap()).unwrap()
}

pub fn picture(sample: &gst::Sample) -> Frame {
    video::read(&VideoFrameRef::from_buffer_ref_readable(sample.buffer().unwrap(), &info(sample)).unwrap())
}

/// The first three bytes of each pixel.
pub fn rgb(frame: &Frame) -> Vec<u8> {
    frame.data().chunks(frame.channels()).flat_map(|pixel| &pixel[..3]).copied().collect()
}

/// Checks that the frames follow each other without a gap from 0, each where `rate` says.
pub fn check_times(samples: &[gst::Sample], rate: gst::Fraction) {
    let time = |frame: usize| {
        let nanoseconds = frame as u64 * 1_000_000_000 * rate.denom() as u64 / rate.numer() as u64;
        ClockTime::from_nseconds(nanoseconds)
    };
    for (i, sample) in samples.iter().enumerate() {
        let buffer = sample.buffer().unwrap();
        assert_eq!(buffer.pts(), Some(time(i)));
        assert_eq!(buffer.duration(), Some(time(i + 1) - time(i)));
        assert_eq!((buffer.offset(), buffer.offset_end()), (i as u64, i as u64 + 1));
        assert_eq!(buffer.flags().contains(gst::BufferFlags::DISCONT), i == 0);
        assert_eq!(sample.segment().unwrap().format(), gst::Format::Time);
    }
}

pub const SINK: &str = "appsink name=sink sync=false";

/// Checks that `pipeline` ends with one error message, and that it contains all of `parts`.
pub fn check_error(pipeline: &Pipeline, parts: &[&str]) {
    let (say, has_ended) = mpsc::channel();
    let pad = pipeline.src().static_pad("src").unwrap();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if info.event().is_some_and(|event| event.type_() == gst::EventType::Eos) {
            say.send(()).unwrap();
        }
        gst::PadProbeReturn::Ok
    });
    // An error in the change of state fails it. One after it ends the stream, and all that posts errors is over then.
    if pipeline.0.set_state(gst::State::Playing).is_ok() {
        has_ended.recv_timeout(PATIENCE.into()).expect("the stream ends");
    }
    let messages: Vec<_> = std::iter::from_fn(|| pipeline.0.bus().unwrap().pop()).collect();
    let errors = errors(&messages);
    assert_eq!(errors.len(), 1, "{parts:?}: {errors:?}");
    assert!(parts.iter().all(|part| errors[0].contains(part)), "{parts:?}: {}", errors[0]);
    pipeline.0.set_state(gst::State::Null).unwrap();
}
