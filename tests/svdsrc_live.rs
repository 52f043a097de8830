// SPDX-License-Identifier: MPL-2.0
//! `svdsrc is-live=true`: what is shown while clips are made, when, and what stops it. Time is a test's own, so that a
//! frame comes when it is asked for.

use gst::prelude::*;
use gst::{ClockTime, MessageView, ProgressType};
use gst_check::TestClock;
use gsttorchvideo::engine::image::{Fit, Frame};

mod common;

use common::svd::{
    FILES, PATIENCE, Pipeline, SINK, check_error, check_times, errors, info, is_end, picture, plans_clip, progress,
};

const SMALL: &str = "num-frames=4 width=32 height=32";

/// A live pipeline that ends in a sink, at its own clock.
struct Live {
    pipeline: Pipeline,
    clock: TestClock,
    sink: gst_app::AppSink,
    samples: Vec<gst::Sample>,
    messages: Vec<gst::Message>,
    /// Ends of the making of clips that were waited for.
    ends: usize,
}

impl Live {
    fn new(properties: &str, rest: &str) -> Self {
        let pipeline = Pipeline::new(&format!("{SMALL} is-live=true {properties}"), &format!("{rest}{SINK}"));
        let clock = TestClock::new();
        pipeline.0.use_clock(Some(&clock));
        let sink = pipeline.0.by_name("sink").unwrap().downcast().unwrap();
        Self { pipeline, clock, sink, samples: vec![], messages: vec![], ends: 0 }
    }

    fn playing(properties: &str) -> Self {
        let live = Self::new(properties, "");
        live.pipeline.play();
        live
    }

    /// Lets the next frame's time come.
    fn turn(&self) {
        let (is_there, _) = self.clock.timed_wait_for_multiple_pending_ids(1, PATIENCE.mseconds() as u32);
        assert!(is_there, "the source waits for the clock; errors: {:?}", errors(&self.messages));
        self.clock.crank();
    }

    /// The next frame.
    fn next(&mut self) -> Frame {
        if !self.samples.is_empty() {
            self.turn();
        }
        let sample = self.sink.try_pull_sample(PATIENCE).expect("a frame comes when its time has come");
        // A copy: after a flush, GStreamer 1.22's appsink writes to its last sample, whoever has it too.
        self.samples.push(sample.copy());
        self.messages.extend(std::iter::from_fn(|| self.pipeline.0.bus().unwrap().pop()));
        picture(self.samples.last().unwrap())
    }

    fn frames(&mut self, count: usize) -> Vec<Frame> {
        (0..count).map(|_| self.next()).collect()
    }

    /// The number of the frame that clip `clip`, from 0, was told to begin with.
    fn shown(&self, clip: u64) -> Option<usize> {
        let told = self.messages.iter().find_map(|message| match message.view() {
            MessageView::Element(element) => {
                element.structure().filter(|told| told.name() == "svdsrc-shown" && told.get::<u64>("clip") == Ok(clip))
            }
            _ => None,
        });
        let time = told?.get::<ClockTime>("running-time").unwrap();
        self.samples.iter().position(|sample| sample.buffer().unwrap().pts() == Some(time))
    }

    /// Shows frames until something holds. It is about to: what it waits for has ended, or nearly so.
    fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        let patience = self.samples.len() + 200_000;
        while !holds(self) {
            assert!(self.samples.len() < patience, "what was awaited did not come");
            self.next();
        }
    }

    /// Shows frames until clip `clip` has begun.
    fn until_shown(&mut self, clip: u64) {
        self.until(|live| live.shown(clip).is_some());
        assert_eq!(self.shown(clip), Some(self.samples.len() - 1));
    }

    /// Waits for the end of the making of a clip, one more than were waited for.
    fn await_end(&mut self) {
        self.ends += 1;
        while self.ended() < self.ends {
            self.messages.extend(self.pipeline.messages_until(is_end));
        }
    }

    /// How many clips' making has ended.
    fn ended(&self) -> usize {
        self.messages.iter().filter(|message| is_end(message)).count()
    }

    /// The same, and shows frames until it is shown.
    fn await_clip(&mut self, clip: u64) {
        if self.samples.is_empty() {
            self.next();
        }
        self.await_end();
        self.until_shown(clip);
    }

    fn count(&self, kind: ProgressType) -> usize {
        progress(&self.messages, "generate").iter().filter(|(of, _)| *of == kind).count()
    }

    fn warnings(&self) -> Vec<String> {
        let text = |message: &gst::Message| match message.view() {
            MessageView::Warning(warning) => Some(warning.error().to_string()),
            _ => None,
        };
        self.messages.iter().filter_map(text).collect()
    }

    fn check(&self) {
        check_times(&self.samples, info(&self.samples[0]).fps());
        assert_eq!(errors(&self.messages), [""; 0]);
    }
}

/// The clip that is not live.
fn clip(properties: &str) -> Vec<Frame> {
    Pipeline::new(&format!("{SMALL} {properties}"), SINK).collect().iter().map(picture).collect()
}

fn keyframe() -> Frame {
    Frame::open(&FILES.picture).unwrap().with_aspect_of(32, 32, Fit::Crop).unwrap().resize(32, 32)
}

/// Whether these are the `places` of a clip; 9 is black.
fn are(seen: &[Frame], clip: &[Frame], places: &[usize]) -> bool {
    let black = Frame::new(32, 32, 3, vec![0; 32 * 32 * 3]);
    seen.len() == places.len() && seen.iter().zip(places).all(|(seen, &at)| seen == clip.get(at).unwrap_or(&black))
}

/// A file beside the picture.
fn beside(name: &str, bytes: &[u8]) -> String {
    let path = FILES.picture.with_file_name(name);
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// Another picture, in a file that no other test writes.
fn other_picture(name: &str) -> String {
    let path = FILES.picture.with_file_name(name);
    image::RgbImage::from_fn(48, 48, |x, y| image::Rgb([200, 4 * x as u8, 5 * y as u8])).save(&path).unwrap();
    path.display().to_string()
}

#[test]
fn the_keyframe_then_the_clip_then_what_idle_says() {
    let wanted = clip("");
    for (idle, places) in [
        ("loop", [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]),
        ("hold", [0, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3]),
        ("pingpong", [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2]),
        ("black", [0, 1, 2, 3, 9, 9, 9, 9, 9, 9, 9]),
    ] {
        let mut live = Live::playing(&format!("idle={idle}"));
        live.await_clip(0);
        assert!(live.samples.len() > 1, "{idle}");
        assert!(live.samples[..live.samples.len() - 1].iter().all(|sample| picture(sample) == keyframe()), "{idle}");
        let mut seen = vec![picture(live.samples.last().unwrap())];
        seen.extend(live.frames(10));
        assert!(are(&seen, &wanted, &places), "{idle}");
        // It was all that was asked for.
        assert_eq!((live.count(ProgressType::Start), live.count(ProgressType::Complete)), (1, 1));
        live.check();
    }
}

#[test]
fn the_next_clip_begins_where_the_one_before_ends() {
    let (first, second) = (clip(""), clip("seed=43"));
    for (idle, held, ends) in [("loop", [0, 1, 2, 3, 0, 1, 2], [3, 3]), ("pingpong", [0, 1, 2, 3, 2, 1, 0], [0, 3])] {
        let mut live = Live::new(&format!("num-clips=2 idle={idle}"), "");
        let (planned, release) = live.pipeline.hold_where(plans_clip(2));
        live.pipeline.play();
        live.await_clip(0);
        let start = live.samples.len() - 1;
        live.frames(6);
        // The second is in the making.
        planned.recv_timeout(PATIENCE.into()).unwrap();
        let seen: Vec<_> = live.samples[start..].iter().map(picture).collect();
        assert!(are(&seen, &first, &held), "{idle}");
        release.send(()).unwrap();
        live.await_end();
        live.until_shown(1);
        let before: Vec<_> = live.samples[start..live.samples.len() - 1].iter().map(picture).collect();
        // As before, to an end.
        let round = if idle == "loop" { vec![0, 1, 2, 3] } else { vec![0, 1, 2, 3, 2, 1] };
        let places: Vec<_> = round.into_iter().cycle().take(before.len()).collect();
        assert!(are(&before, &first, &places), "{idle}");
        assert!(ends.contains(places.last().unwrap()), "{idle}: {places:?}");
        let mut seen = vec![picture(live.samples.last().unwrap())];
        seen.extend(live.frames(4));
        assert!(are(&seen, &second, &[0, 1, 2, 3, if idle == "loop" { 0 } else { 2 }]), "{idle}");
        live.check();
    }
}

#[test]
fn clips_are_told_of_as_ever() {
    let mut live = Live::playing("num-clips=2 seed=5");
    live.await_clip(0);
    live.await_clip(1);
    live.frames(2);
    let told: Vec<_> = live
        .messages
        .iter()
        .filter_map(|message| match message.view() {
            MessageView::Element(element) => element.structure().map(ToOwned::to_owned),
            _ => None,
        })
        .filter(|told| told.name() == "svdsrc-clip")
        .collect();
    let said: Vec<_> = told.iter().map(|told| (told.get("clip").unwrap(), told.get("seed").unwrap())).collect();
    assert_eq!(said, [(0u64, 5i64), (1, 6)]);
    // From its message, the clip is made again.
    let again = Pipeline::bare("", SINK);
    again.src().set_property("provenance", told[1].get::<String>("provenance").unwrap());
    assert!(again.collect().iter().map(picture).eq(clip("seed=6")));
    let tags = live.messages.iter().filter(|message| message.type_() == gst::MessageType::Tag).count();
    assert_eq!(tags, 1);
    live.check();
}

#[test]
fn a_chain_goes_on() {
    let wanted = clip("num-clips=2 chain=true");
    let mut live = Live::playing("num-clips=2 chain=true idle=hold");
    live.await_clip(0);
    live.await_clip(1);
    let mut seen = vec![picture(live.samples.last().unwrap())];
    seen.extend(live.frames(3));
    assert!(are(&seen, &wanted, &[4, 5, 6, 6]));
    live.check();
}

#[test]
fn downstream_chooses_size_rate_and_format() {
    let caps = "capsfilter name=caps caps=video/x-raw,format=BGRx,framerate=30000/1001 ! ";
    let mut live = Live::new("idle=loop", caps);
    live.pipeline.play();
    live.await_clip(0);
    live.frames(7);
    assert_eq!(info(&live.samples[0]).format(), gst_video::VideoFormat::Bgrx);
    check_times(&live.samples, gst::Fraction::new(30_000, 1001));
    // Another format in mid-life: pictures that were shown are, too.
    let filter = live.pipeline.0.by_name("caps").unwrap();
    filter.set_property("caps", "video/x-raw,format=RGB".parse::<gst::Caps>().unwrap());
    let frames = live.frames(12);
    assert_eq!(info(live.samples.last().unwrap()).format(), gst_video::VideoFormat::Rgb);
    let wanted = clip("fps=30000/1001");
    assert!(are(&frames[8..], &wanted, &[0, 1, 2, 3]));
    check_times(&live.samples, gst::Fraction::new(30_000, 1001));
}

#[test]
fn latency_is_a_frame_and_has_no_bound() {
    let answer = |live: &Live| {
        let mut query = gst::query::Latency::new();
        assert!(live.pipeline.src().query(&mut query));
        query.result()
    };
    let mut live = Live::new("", "video/x-raw,framerate=25/1 ! ");
    assert_eq!(live.pipeline.0.set_state(gst::State::Paused), Ok(gst::StateChangeSuccess::NoPreroll));
    assert!(answer(&live).0 && answer(&live).2.is_none());
    live.pipeline.play();
    live.next();
    assert_eq!(answer(&live), (true, ClockTime::from_mseconds(40), None));
    let is_latency = |message: &gst::Message| message.type_() == gst::MessageType::Latency;
    live.messages.extend(live.pipeline.0.bus().unwrap().iter());
    assert!(live.messages.iter().any(is_latency));
    assert_eq!(live.pipeline.src().query_duration::<ClockTime>(), None);
}

#[test]
fn a_change_makes_another_clip_and_nothing_else_does() {
    let mut live = Live::playing("");
    live.await_clip(0);
    live.frames(9);
    assert_eq!(live.count(ProgressType::Start), 1);
    live.pipeline.src().set_property("motion-bucket-id", 3.0);
    live.next();
    live.await_clip(1);
    let mut seen = vec![picture(live.samples.last().unwrap())];
    seen.extend(live.frames(8));
    assert!(are(&seen, &clip("seed=43 motion-bucket-id=3"), &[0, 1, 2, 3, 0, 1, 2, 3, 0]));
    assert_eq!(live.count(ProgressType::Start), 2);
    // A picture, too.
    let other = other_picture("changed.png");
    live.pipeline.src().set_property("location", &other);
    live.next();
    live.await_clip(2);
    let mut seen = vec![picture(live.samples.last().unwrap())];
    seen.extend(live.frames(3));
    assert!(are(&seen, &clip(&format!("seed=44 motion-bucket-id=3 location=\"{other}\"")), &[0, 1, 2, 3]));
    // The mode of idling makes no clip.
    live.pipeline.src().set_property_from_str("idle", "black");
    let seen = live.frames(6);
    assert!(are(&seen[4..], &[], &[9, 9]));
    assert_eq!(live.count(ProgressType::Start), 3);
    live.check();
}

#[test]
fn a_change_gives_up_the_clip_in_the_making() {
    let mut live = Live::new("num-inference-steps=50", "");
    let (planned, release) = live.pipeline.hold_where(plans_clip(1));
    live.pipeline.play();
    live.next();
    planned.recv_timeout(PATIENCE.into()).unwrap();
    live.pipeline.src().set_property("num-inference-steps", 2);
    live.pipeline.src().set_property("seed", 7i64);
    // Whatever is made, frames come.
    assert!(live.frames(5).iter().all(|frame| *frame == keyframe()));
    release.send(()).unwrap();
    live.await_end();
    live.await_end();
    assert_eq!((live.count(ProgressType::Canceled), live.count(ProgressType::Complete)), (1, 1));
    live.until_shown(0);
    let mut seen = vec![picture(live.samples.last().unwrap())];
    seen.extend(live.frames(3));
    assert!(are(&seen, &clip("seed=7"), &[0, 1, 2, 3]));
    live.check();
}

#[test]
fn a_clip_that_fails_keeps_the_old() {
    let text = beside("text.png", b"no picture at all");
    let mut live = Live::new("num-clips=0 num-frames=3", "");
    let (planned, release) = live.pipeline.hold_where(plans_clip(2));
    live.pipeline.play();
    live.await_clip(0);
    live.next();
    planned.recv_timeout(PATIENCE.into()).unwrap();
    live.pipeline.src().set_property("location", &text);
    live.next();
    release.send(()).unwrap();
    // The one that is given up, and the one that fails.
    live.await_end();
    live.await_end();
    live.until(|live| !live.warnings().is_empty());
    let seen = live.frames(9);
    let wanted = clip("num-frames=3");
    assert!(seen.iter().all(|frame| wanted.contains(frame)));
    // That one went through the same model's thread: whatever was sent there before has ended.
    live.next();
    assert_eq!(live.warnings().len(), 1, "{:?}", live.warnings());
    assert!(live.warnings()[0].contains("text.png") && live.warnings()[0].contains("goes on"), "{:?}", live.warnings());
    assert_eq!(live.ended(), live.ends, "it is not tried again");
    // Until something is set.
    live.pipeline.src().set_property("location", other_picture("good again.png"));
    live.next();
    live.await_clip(1);
    live.check();
}

#[test]
fn without_a_clip_a_failure_is_an_error() {
    let text = beside("text2.png", b"no picture at all");
    check_error(&Pipeline::new(&format!("is-live=true location=\"{text}\""), "fakesink"), &["text2.png", "PNG, JPEG"]);
    let folder = FILES.picture.with_file_name("live part");
    common::tiny_svd::write_tiny_svd(&folder);
    std::fs::write(folder.join("unet/diffusion_pytorch_model.safetensors"), b"nothing").unwrap();
    let pipeline = Pipeline::new(&format!("is-live=true model-path=\"{}\"", folder.display()), "fakesink");
    check_error(&pipeline, &["live part"]);
}

#[test]
fn stopping_ends_the_wait_and_the_generation() {
    let mut live = Live::new("num-inference-steps=50", "");
    let (planned, release) = live.pipeline.hold_where(plans_clip(1));
    live.pipeline.play();
    live.next();
    planned.recv_timeout(PATIENCE.into()).unwrap();
    // The source waits for a time that does not come, and the model's thread is held.
    live.pipeline.0.set_state(gst::State::Ready).unwrap();
    release.send(()).unwrap();
    live.await_end();
    assert_eq!(live.count(ProgressType::Canceled), 1);
    // A second run begins anew.
    live.pipeline.src().set_property("num-inference-steps", 2);
    live.samples.clear();
    live.messages.clear();
    live.ends = 0;
    let clock = TestClock::new();
    live.pipeline.0.use_clock(Some(&clock));
    live.clock = clock;
    live.pipeline.play();
    live.await_clip(0);
    live.check();
}

#[test]
fn a_flush_and_a_pause_leave_the_clip_in_the_making_alone() {
    let mut live = Live::new("", "");
    let (planned, release) = live.pipeline.hold_where(plans_clip(1));
    live.pipeline.play();
    live.next();
    planned.recv_timeout(PATIENCE.into()).unwrap();
    let src = live.pipeline.src();
    assert!(src.send_event(gst::event::FlushStart::new()));
    assert!(src.send_event(gst::event::FlushStop::new(false)));
    live.frames(2);
    live.pipeline.0.set_state(gst::State::Paused).unwrap();
    live.pipeline.play();
    live.frames(2);
    release.send(()).unwrap();
    live.await_end();
    live.until_shown(0);
    let mut seen = vec![picture(live.samples.last().unwrap())];
    seen.extend(live.frames(5));
    assert!(are(&seen, &clip(""), &[0, 1, 2, 3, 0, 1]));
    assert_eq!((live.count(ProgressType::Start), live.count(ProgressType::Complete)), (1, 1));
    let pts: Vec<_> = live.samples.iter().map(|sample| sample.buffer().unwrap().offset()).collect();
    assert!(pts.iter().copied().eq(0..pts.len() as u64), "{pts:?}");
}

#[test]
fn the_application_ends_it() {
    let mut live = Live::new("num-inference-steps=50", "");
    let (planned, release) = live.pipeline.hold_where(plans_clip(1));
    live.pipeline.play();
    live.next();
    planned.recv_timeout(PATIENCE.into()).unwrap();
    assert!(live.pipeline.0.send_event(gst::event::Eos::new()));
    // The stream ends though no time passes, and before the step does.
    assert_eq!(errors(&live.pipeline.messages_until_eos()), [""; 0]);
    release.send(()).unwrap();
    live.await_end();
    assert_eq!(live.count(ProgressType::Canceled), 1);
}

#[test]
fn who_is_held_up_goes_on_with_now() {
    let mut live = Live::new("fps=10/1", "");
    live.pipeline.play();
    live.frames(3);
    let offsets = |live: &mut Live, count: usize| {
        let samples = (0..count).map(|_| live.sink.try_pull_sample(PATIENCE).unwrap());
        let told = samples.map(|sample| {
            let buffer = sample.buffer().unwrap();
            assert_eq!(buffer.pts(), Some(ClockTime::from_mseconds(100 * buffer.offset())));
            (buffer.offset(), buffer.flags().contains(gst::BufferFlags::DISCONT))
        });
        told.collect::<Vec<_>>()
    };
    let turn_at = |live: &Live, time: u64| {
        let (is_there, _) = live.clock.timed_wait_for_multiple_pending_ids(1, PATIENCE.mseconds() as u32);
        assert!(is_there);
        live.clock.set_time(ClockTime::from_mseconds(time));
        live.clock.crank();
    };
    // Less than a second is caught up with.
    turn_at(&live, 700);
    assert_eq!(offsets(&mut live, 5), [3, 4, 5, 6, 7].map(|number| (number, false)));
    turn_at(&live, 4230);
    assert_eq!(offsets(&mut live, 2), [(8, false), (42, true)]);
    live.turn();
    assert_eq!(offsets(&mut live, 1), [(43, false)]);
}

/// The niceness of the thread that makes the clip of a line.
#[cfg(target_os = "linux")]
fn niceness_of_the_model(properties: &str) -> i32 {
    let pipeline = Pipeline::new(&format!("{SMALL} {properties}"), "fakesink sync=false");
    let (say, hear) = std::sync::mpsc::channel();
    pipeline.0.bus().unwrap().set_sync_handler(move |_, message| {
        if matches!(message.view(), MessageView::Element(told) if told.has_name("svdsrc-estimate")) {
            say.send(niceness()).unwrap();
        }
        gst::BusSyncReply::Pass
    });
    pipeline.play();
    hear.recv_timeout(PATIENCE.into()).unwrap()
}

/// That of this thread.
#[cfg(target_os = "linux")]
fn niceness() -> i32 {
    // SAFETY: it takes numbers; 0 is the thread that calls.
    unsafe { libc::getpriority(libc::PRIO_PROCESS as _, 0) }
}

#[cfg(target_os = "linux")]
#[test]
fn the_model_gives_way_to_a_live_stream() {
    // Of another model than the other tests', which may run meanwhile.
    for (live, more) in [(false, 0), (true, 10)] {
        let folder = FILES.picture.with_file_name(format!("model of its own {live}"));
        common::tiny_svd::write_tiny_svd(&folder);
        let properties = format!("is-live={live} model-path=\"{}\"", folder.display());
        assert_eq!(niceness_of_the_model(&properties), (niceness() + more).min(19), "is-live={live}");
    }
}

/// Threads that compute until they are dropped.
struct Busy(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Busy {
    fn all_processors() -> Self {
        let is_over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            let is_over = is_over.clone();
            std::thread::spawn(move || {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(is_over)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Plays clips live at the system's clock while all processors are busy, until clip `last` is shown. Gives each frame's
/// number and how much later than its time it left, in milliseconds.
fn play_under_load(properties: &str, last: u64) -> Vec<(u64, f64)> {
    let pipeline = Pipeline::new(&format!("is-live=true num-clips=0 {properties}"), "fakesink sync=true");
    let (say, hear) = std::sync::mpsc::channel();
    let weak = pipeline.src().downgrade();
    pipeline.src().static_pad("src").unwrap().add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let now = weak.upgrade().and_then(|src| src.current_running_time());
        if let (Some(buffer), Some(now)) = (info.buffer(), now) {
            let late = now.nseconds() as f64 - buffer.pts().unwrap().nseconds() as f64;
            let _ = say.send((buffer.offset(), late / 1e6));
        }
        gst::PadProbeReturn::Ok
    });
    let _busy = Busy::all_processors();
    pipeline.play();
    let messages = pipeline.messages_until(|message| match message.view() {
        MessageView::Element(told) => {
            told.structure().is_some_and(|told| told.name() == "svdsrc-shown" && told.get::<u64>("clip") == Ok(last))
        }
        _ => message.type_() == gst::MessageType::Error,
    });
    assert_eq!(errors(&messages), [""; 0]);
    pipeline.0.set_state(gst::State::Null).unwrap();
    hear.try_iter().collect()
}

#[test]
fn frames_come_while_all_processors_are_busy() {
    let seen = play_under_load(&format!("{SMALL} fps=30/1"), 2);
    assert!(seen.iter().zip(&seen[1..]).all(|((before, _), (after, _))| before < after), "{seen:?}");
    // None before its time.
    assert!(seen.iter().all(|(_, late)| *late >= 0.0), "{seen:?}");
}

#[test]
#[ignore = "prints what it measures"]
fn how_late_frames_are_while_all_processors_are_busy() {
    let seen = play_under_load("num-frames=8 fps=25/1 width=64 height=64 num-inference-steps=5", 2);
    let mut late: Vec<_> = seen.into_iter().map(|(_, late)| late).collect();
    late.sort_by(f64::total_cmp);
    let at = |part: f64| late[((late.len() - 1) as f64 * part) as usize];
    println!("{} frames, ms late: median {:.2}, 99 % {:.2}, most {:.2}", late.len(), at(0.5), at(0.99), at(1.0));
}
