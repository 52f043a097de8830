// SPDX-License-Identifier: MPL-2.0
//! Every element in a small pipeline of its own, so that all can be put through the same; and who watches meanwhile.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Condvar, LazyLock, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use gst::prelude::*;
use gst::{ClockTime, MessageView, ProgressType};
use gst_video::VideoInfo;
use tch::Tensor;

use super::{Fixture, tiny_svd};

/// How long something may take that should come at once: a test that hangs should say where. Valgrind needs more.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = std::env::var("TORCHVIDEO_PATIENCE").map_or(60, |text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds)
});

/// An element, and what is around it.
pub struct Subject {
    /// Its name, with what is special about it.
    pub name: &'static str,
    /// The element and its properties.
    element: String,
    /// Whether it has a sink pad.
    pub is_filter: bool,
    /// Whether frames come by the clock, without an end.
    pub is_live: bool,
    /// Whether a model works on frames.
    pub has_model: bool,
    /// Whether it has a pad `preview`.
    pub has_preview: bool,
    /// Caps that may come before it; the first are those of a run that nobody disturbs.
    pub before: &'static [&'static str],
    /// The same behind it.
    pub behind: &'static [&'static str],
    /// What the model's thread tells of when it is at work.
    at_work: &'static str,
}

const FORMATS: &[&str] = &["format=RGB", "format=BGRx", "format=GBR", "format=RGBA"];

/// Writes the models of [`subjects`] to a folder.
pub fn write_files(folder: &Path) {
    std::fs::create_dir_all(folder.join("svd")).unwrap();
    tiny_svd::write_tiny_svd(&folder.join("svd"));
    let weights = Fixture::open("esrgan/srvgg_x2_prelu").weights("keys");
    Tensor::write_safetensors(&weights, folder.join("net.safetensors")).unwrap();
    let ramp = image::RgbImage::from_fn(40, 40, |x, y| image::Rgb([2 * x as u8, 3 * y as u8, (x + y) as u8]));
    ramp.save(folder.join("picture.png")).unwrap();
}

/// All elements, with the files of a folder.
pub fn subjects(folder: &Path) -> Vec<Subject> {
    super::register();
    let folder = folder.display();
    let clip = "num-frames=3 width=32 height=32 num-inference-steps=2";
    let svd = format!("device=cpu model-path=\"{folder}/svd\" {clip}");
    let svdsrc = format!("svdsrc {svd} location=\"{folder}/picture.png\"");
    let sizes = &[
        "format=RGB,width=16,height=12,framerate=10/1",
        "format=RGB,width=20,height=8,framerate=10/1",
        "format=I420,width=16,height=12,framerate=10/1",
        "format=RGB,width=16,height=12,framerate=15/1",
    ];
    let rates = &["framerate=20/1", "framerate=25/1", "framerate=12/1"];
    let source = Subject {
        name: "svdsrc",
        element: format!("{svdsrc} num-clips=2"),
        is_filter: false,
        is_live: false,
        has_model: true,
        has_preview: true,
        before: &[],
        behind: FORMATS,
        at_work: "Denoising step 1 ",
    };
    let live = Subject {
        name: "svdsrc, live",
        element: format!("{svdsrc} is-live=true num-clips=0"),
        is_live: true,
        ..source
    };
    let live = Subject { behind: &["format=RGB,framerate=100/1", "format=BGRx,framerate=100/1"], ..live };
    let animate = Subject { name: "svdanimate", element: format!("svdanimate {svd}"), is_filter: true, ..source };
    let animate = Subject { before: sizes, ..animate };
    let scale = Subject {
        name: "realesrganscale",
        has_preview: false,
        element: format!("realesrganscale device=cpu model-path=\"{folder}/net.safetensors\" batch-size=2"),
        behind: &["format=RGB", "format=I420", "width=50,height=20", "format=BGRx,width=12,height=12"],
        at_work: "Loading net.safetensors: done",
        ..animate
    };
    let retime = Subject {
        name: "frameratetune, retime",
        element: "frameratetune device=cpu mode=retime".into(),
        has_model: false,
        behind: rates,
        ..scale
    };
    let rife = Subject {
        name: "frameratetune, RIFE",
        element: "frameratetune device=cpu mode=interpolate".into(),
        has_model: true,
        at_work: "Loading rife-v4.25.safetensors: done",
        ..retime
    };
    vec![source, live, animate, scale, retime, rife]
}

impl Subject {
    /// The pipeline: `it` between the capsfilters `before` and `behind`, and `sink`. `frames` is how many a filter gets;
    /// -1 is endless.
    pub fn line(&self, frames: i32) -> String {
        // Frames that are on their way to other caps are no error.
        let caps = |name: &str, caps: &str| {
            format!("capsfilter name={name} caps-change-mode=delayed caps=\"video/x-raw,{caps}\"")
        };
        let source = match self.before.first() {
            Some(before) => format!("videotestsrc pattern=ball num-buffers={frames} ! {} ! ", caps("before", before)),
            None => String::new(),
        };
        let sink = "fakesink name=sink sync=false";
        format!("{source}{} name=it ! {} ! {sink}", self.element, caps("behind", self.behind[0]))
    }

    /// How many frames a filter gets in a run that nobody disturbs.
    pub fn count(&self) -> i32 {
        if self.name == "svdanimate" { 2 } else { 7 }
    }

    /// What a run gives that nobody disturbs.
    pub fn run(&self) -> Vec<Shown> {
        let stage = Stage::new(self, self.count());
        stage.set(gst::State::Playing);
        self.finish(stage)
    }

    /// Waits for the end of a run, or for some frames of one without an end. Gives its frames.
    pub fn finish(&self, stage: Stage) -> Vec<Shown> {
        stage.seen.wait(|told| told.is_over || (self.is_live && told.frames.len() >= 3));
        stage.set(gst::State::Null);
        assert_eq!(stage.errors(), [""; 0], "{}", self.name);
        // What a live source shows depends on the time.
        if self.is_live { Vec::new() } else { stage.seen.told.lock().unwrap().frames.clone() }
    }
}

/// What came to the sink: a frame's time, and a number of its bytes.
pub type Shown = (Option<ClockTime>, u64);

/// What has happened in a pipeline.
#[derive(Default)]
pub struct Told {
    /// Messages, and what passed the pads of the element and the sink.
    pub events: u64,
    /// Frames that came to the element.
    pub taken: u64,
    /// Those that came to the sink.
    pub frames: Vec<Shown>,
    pub errors: Vec<String>,
    /// The stream has come to its end, or to an error.
    pub is_over: bool,
}

/// The same, for who waits for it.
#[derive(Default)]
pub struct Seen {
    pub told: Mutex<Told>,
    changed: Condvar,
}

impl Seen {
    /// Something happened.
    fn tell(&self, change: impl FnOnce(&mut Told)) {
        let mut told = self.told.lock().unwrap();
        told.events += 1;
        change(&mut told);
        self.changed.notify_all();
    }

    /// Waits until something holds.
    pub fn wait(&self, holds: impl Fn(&Told) -> bool) {
        let told = self.told.lock().unwrap();
        let (told, ended) = self.changed.wait_timeout_while(told, *PATIENCE, |told| !holds(told)).unwrap();
        let Told { events, taken, frames, errors, is_over } = &*told;
        let seen = format!("{events} events, {taken} frames in, {} out, over: {is_over}, {errors:?}", frames.len());
        drop(told);
        assert!(!ended.timed_out(), "what must come does not come: {seen}");
    }

    /// Waits until so much more has happened, or the stream is over.
    pub fn wait_for(&self, more: u64) {
        let until = self.told.lock().unwrap().events + more;
        self.wait(|told| told.events >= until || told.is_over);
    }
}

/// Lets a thread go on that is held, when it is dropped.
pub struct Held(#[allow(dead_code)] mpsc::Sender<()>);

/// A subject's pipeline, stopped in the end.
pub struct Stage {
    pub pipeline: gst::Pipeline,
    pub it: gst::Element,
    pub seen: Arc<Seen>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Stage {
    pub fn new(subject: &Subject, frames: i32) -> Self {
        Self::watched(subject, frames, |_| ())
    }

    /// One that has each message looked at on the thread that posts it.
    fn watched(subject: &Subject, frames: i32, look: impl Fn(&gst::Message) + Send + Sync + 'static) -> Self {
        let pipeline = gst::parse::launch(&subject.line(frames)).unwrap().downcast::<gst::Pipeline>().unwrap();
        let [it, sink] = ["it", "sink"].map(|name| pipeline.by_name(name).unwrap());
        let seen = Arc::<Seen>::default();
        let told = seen.clone();
        pipeline.bus().unwrap().set_sync_handler(move |_, message| {
            look(message);
            told.tell(|told| match message.view() {
                MessageView::Error(err) => {
                    told.errors.push(format!("{} {:?}", err.error(), err.debug()));
                    told.is_over = true;
                }
                MessageView::Eos(_) => told.is_over = true,
                _ => {}
            });
            gst::BusSyncReply::Drop
        });
        let told = seen.clone();
        let data = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
        sink.static_pad("sink").unwrap().add_probe(data, move |pad, info| {
            let shown = info.buffer().map(|buffer| {
                let map = buffer.map_readable().unwrap();
                let info = VideoInfo::from_caps(&pad.current_caps().expect("caps come before frames")).unwrap();
                assert_eq!(map.len(), info.size(), "a frame is as large as its caps say");
                let mut hasher = DefaultHasher::new();
                map.hash(&mut hasher);
                (buffer.pts(), hasher.finish())
            });
            told.tell(|told| told.frames.extend(shown));
            gst::PadProbeReturn::Ok
        });
        if let Some(pad) = it.static_pad("sink") {
            let told = seen.clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                told.tell(|told| told.taken += 1);
                gst::PadProbeReturn::Ok
            });
        }
        Self { pipeline, it, seen }
    }

    /// A pipeline that plays, whose model's thread is held in its work; and which waits for it, unless it is live.
    pub fn held(subject: &Subject, frames: i32) -> (Self, Held) {
        let ((reached, has_reached), (release, is_released)) = (mpsc::channel(), mpsc::channel::<()>());
        let first = Mutex::new(Some((reached, is_released)));
        let at_work = subject.at_work;
        let stage = Self::watched(subject, frames, move |message| {
            if let MessageView::Progress(progress) = message.view()
                && let (ProgressType::Complete | ProgressType::Continue, _, text) = progress.get()
                && text.starts_with(at_work)
                && let Some((reached, is_released)) = first.lock().unwrap().take()
            {
                let _ = reached.send(());
                let _ = is_released.recv();
            }
        });
        // So that it plays before there is a frame: on the way to PLAYING, GStreamer takes no event of an application.
        stage.element("sink").set_property("async", false);
        stage.set(gst::State::Playing);
        if subject.has_model {
            has_reached.recv_timeout(*PATIENCE).expect("the model goes to work");
        }
        if subject.is_filter {
            // Its batches have two.
            let enough = if subject.name == "realesrganscale" { 2 } else { 1 };
            stage.seen.wait(|told| told.taken >= enough);
        }
        (stage, Held(release))
    }

    /// Has somebody look at the pad `preview`, which it asks for if it is not there.
    pub fn look(&self) {
        let pad = self.it.static_pad("preview").unwrap_or_else(|| self.it.request_pad_simple("preview").unwrap());
        let view = gst::ElementFactory::make("fakesink").name("view").property("sync", false).property("async", false);
        let view = view.build().unwrap();
        self.pipeline.add(&view).unwrap();
        view.sync_state_with_parent().unwrap();
        pad.link(&view.static_pad("sink").unwrap()).unwrap();
    }

    /// Takes away who looks at the pad `preview`, if there is anybody, and the pad with it if it `is_released`.
    pub fn look_away(&self, is_released: bool) {
        let pad = self.it.static_pad("preview").unwrap();
        let peer = pad.peer();
        if is_released {
            self.it.release_request_pad(&pad);
        } else if let Some(peer) = &peer {
            pad.unlink(peer).unwrap();
        }
        if let Some(view) = peer.and_then(|peer| peer.parent_element()) {
            view.set_state(gst::State::Null).unwrap();
            self.pipeline.remove(&view).unwrap();
        }
    }

    /// Asks for the pad `preview`, links, unlinks or releases it: whatever is possible.
    pub fn change_preview(&self, random: &mut Random) {
        match self.it.static_pad("preview") {
            None if random.below(2) == 0 => _ = self.it.request_pad_simple("preview").unwrap(),
            Some(pad) if pad.is_linked() || random.below(2) == 0 => self.look_away(random.below(2) == 0),
            _ => self.look(),
        }
    }

    /// Changes the state. It may come later, but must not fail.
    pub fn set(&self, state: gst::State) {
        let _watch = Watch::over(format!("the change to {state:?}"));
        self.pipeline.set_state(state).unwrap_or_else(|err| panic!("{state:?}: {err}, {:?}", self.errors()));
    }

    /// The errors so far.
    pub fn errors(&self) -> Vec<String> {
        self.seen.told.lock().unwrap().errors.clone()
    }

    /// Waits for the end of a change of state.
    pub fn settle(&self) {
        let _watch = Watch::over("a change of state".into());
        self.pipeline.state(ClockTime::NONE).0.unwrap();
    }

    /// Leaves the pipeline as it is to a thread of GStreamer's, which alone has it from now on, and stops it.
    pub fn abandon(
        mut self,
        then: impl FnOnce(Result<gst::StateChangeSuccess, gst::StateChangeError>) + Send + 'static,
    ) {
        let pipeline = std::mem::replace(&mut self.pipeline, gst::Pipeline::new());
        pipeline.call_async(|pipeline| then(pipeline.set_state(gst::State::Null)));
    }

    pub fn element(&self, name: &str) -> gst::Element {
        self.pipeline.by_name(name).unwrap()
    }

    /// Sets the caps of a capsfilter.
    pub fn set_caps(&self, filter: &str, caps: &str) {
        self.element(filter).set_property("caps", format!("video/x-raw,{caps}").parse::<gst::Caps>().unwrap());
    }

    /// Has what gives the frames begin again, up to a time. `svdsrc` is flushed, and goes on.
    pub fn flush(&self, subject: &Subject, stop: Option<ClockTime>) -> bool {
        if !subject.is_filter {
            let [start, stop] = [gst::event::FlushStart::new(), gst::event::FlushStop::new(true)];
            return self.it.send_event(start) && self.it.send_event(stop);
        }
        let (set, none) = (gst::SeekType::Set, gst::SeekType::None);
        let flags = gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE;
        let kind = if stop.is_some() { set } else { none };
        let seek = gst::event::Seek::new(1.0, flags, set, ClockTime::ZERO, kind, stop);
        self.element("before").static_pad("src").unwrap().send_event(seek)
    }
}

/// Ends the process if what it watches over does not end.
pub struct Watch(#[allow(dead_code)] mpsc::Sender<()>);

impl Watch {
    pub fn over(what: String) -> Self {
        let (alive, has_ended) = mpsc::channel::<()>();
        thread::spawn(move || {
            if has_ended.recv_timeout(*PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{what} has not ended within {:?}", *PATIENCE);
                std::process::abort();
            }
        });
        Self(alive)
    }
}

/// What GLib and GStreamer have complained about.
static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// What goes on, by the names of tests: who complains is on another thread.
static AT_WORK: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Says what goes on in this test from now on. Complaints are shown with it.
pub fn now(what: &str) {
    println!("{what}");
    AT_WORK.lock().unwrap().insert(thread::current().name().unwrap_or("main").into(), what.into());
}

/// Takes down what GLib and GStreamer complain about from now on.
pub fn listen() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        glib::log_set_writer_func(|level, fields| {
            let field = |name| fields.iter().find(|field| field.key() == name).and_then(|field| field.value_str());
            let text = format!("{level:?} {:?} {:?}", field("GLIB_DOMAIN"), field("MESSAGE"));
            if !matches!(level, glib::LogLevel::Info | glib::LogLevel::Debug | glib::LogLevel::Message) {
                let text = format!("{text} while {:?}", AT_WORK.lock().unwrap());
                eprintln!("{text}");
                COMPLAINTS.lock().unwrap().push(text);
            }
            glib::LogWriterOutput::Handled
        });
    });
}

/// Asserts that nobody has complained, in this test or beside it.
pub fn check_complaints() {
    AT_WORK.lock().unwrap().remove(thread::current().name().unwrap_or("main"));
    let complaints = std::mem::take(&mut *COMPLAINTS.lock().unwrap());
    assert_eq!(complaints, [""; 0]);
}

/// Numbers that look random (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// From 0 to `bound`, without it.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len() as u64) as usize]
    }
}
