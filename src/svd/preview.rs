// SPDX-License-Identifier: MPL-2.0
//! The pad `preview`: how a clip looks after each denoising step, pushed by a thread of its own.
//!
//! The model's thread leaves the newest step here and goes on; a step that nobody has taken by then is dropped whole. So
//! neither the model nor the clip's pad waits for who looks at the preview, or hears of what becomes of it.

use std::sync::{Arc, Condvar, Mutex};

use gst::prelude::*;
use gst_video::{VideoColorimetry, VideoFormat, VideoInfo, VideoInterlaceMode};

use super::{frame_buffer, pace, time};
use crate::engine::image::Frame;
use crate::engine::svd::MAX_SIDE;

/// The pad's name, and its template's.
const NAME: &str = "preview";

/// The pad of an element that makes clips, if it was asked for, and what is shown there. Its lock is held for no longer
/// than a look takes; within it, only locks of pads are taken.
#[derive(Default)]
pub struct Preview {
    state: Mutex<State>,
    /// Something of the state is other.
    changed: Condvar,
}

struct State {
    pad: glib::WeakRef<gst::Pad>,
    /// Frames come by the clock.
    is_live: bool,
    /// In PLAYING.
    is_playing: bool,
    /// Nothing may wait or be pushed: the pad is not active, or a flush is on its way through.
    is_flushing: bool,
    /// The thread is in a push.
    is_pushing: bool,
    /// What is shown next; when frames come by the clock, until something newer is there.
    newest: Option<Arc<Step>>,
    /// Nothing newer comes.
    is_over: bool,
    /// EOS was pushed.
    has_ended: bool,
    /// Downstream takes no more, until it is linked or configured anew.
    is_refused: bool,
    /// What the thread waits for at the clock.
    wait: Option<gst::SingleShotClockId>,
    /// The rate of the clips, before there is a step.
    rate: gst::Fraction,
    /// What the thread has pushed.
    output: Output,
}

impl Default for State {
    fn default() -> Self {
        Self {
            pad: glib::WeakRef::new(),
            is_live: false,
            is_playing: false,
            is_flushing: true,
            is_pushing: false,
            newest: None,
            is_over: false,
            has_ended: false,
            is_refused: false,
            wait: None,
            rate: gst::Fraction::new(1, 1),
            output: Output::default(),
        }
    }
}

/// A clip as a step foresees it.
struct Step {
    frames: Vec<gst::Buffer>,
    info: VideoInfo,
    /// What is told of it.
    title: Option<String>,
}

#[derive(Default, Clone)]
struct Output {
    is_begun: bool,
    info: Option<VideoInfo>,
    has_segment: bool,
    /// The step that downstream was told of.
    told: Option<Arc<Step>>,
    /// Where the frames of this rate begin.
    origin: gst::ClockTime,
    /// Frames from there on.
    since: u64,
    /// The next frame's number; none before the first.
    next: Option<u64>,
}

impl Output {
    /// The end of the last frame.
    fn end(&self) -> gst::ClockTime {
        let time = self.info.as_ref().and_then(|info| time(self.since, info.fps()));
        self.origin + time.unwrap_or_default()
    }
}

/// What the thread does next.
enum Turn {
    /// The pad rests.
    Rest,
    /// Shows a step.
    Show(Arc<Step>),
    /// Ends the stream.
    End,
}

/// The pad's template.
pub fn template() -> gst::PadTemplate {
    let caps = gst_video::VideoCapsBuilder::new()
        .format(VideoFormat::Rgb)
        .width_range(1..=MAX_SIDE as i32)
        .height_range(1..=MAX_SIDE as i32)
        .framerate_range(gst::Fraction::new(1, 1)..=gst::Fraction::new(i32::MAX, 1))
        .build();
    gst::PadTemplate::new(NAME, gst::PadDirection::Src, gst::PadPresence::Request, &caps)
        .expect("the template is valid")
}

impl Preview {
    /// Makes the pad, and adds it to `element`. `None` if there is one.
    pub fn request(self: &Arc<Self>, element: &gst::Element, template: &gst::PadTemplate) -> Option<gst::Pad> {
        let [active, event, query, linked] = [(); 4].map(|()| self.clone());
        let pad = gst::Pad::builder_from_template(template)
            .name(NAME)
            .activatemode_function(move |pad, _, _, is_active| active.activate(pad, is_active))
            .event_function(move |_, _, sent| event.event(&sent))
            .query_function(move |pad, parent, asked| query.query(pad, parent, asked))
            .build();
        {
            let state = self.state.lock().unwrap();
            if state.pad.upgrade().is_some() {
                return None;
            }
            state.pad.set(Some(&pad));
        }
        pad.connect_linked(move |_, _| linked.is_linked());
        // The pad's thread begins when the pad is the element's: it makes its stream's id of the element's name.
        let _lock = pad.stream_lock();
        if element.current_state() >= gst::State::Paused || element.pending_state() >= gst::State::Paused {
            let _ = pad.set_active(true);
        }
        element.add_pad(&pad).ok()?;
        Some(pad.clone())
    }

    /// Takes the pad from `element`. What is stuck in a push is freed by a flush.
    pub fn release(&self, element: &gst::Element, pad: &gst::Pad) {
        let is_stuck = self.stop();
        if is_stuck {
            pad.push_event(gst::event::FlushStart::new());
            drop(pad.stream_lock());
            pad.push_event(gst::event::FlushStop::new(false));
        }
        let _ = pad.set_active(false);
        self.state.lock().unwrap().pad.set(None);
        let _ = element.remove_pad(pad);
    }

    /// A run of the element begins.
    pub fn begin(&self, is_live: bool, rate: gst::Fraction) {
        let mut state = self.state.lock().unwrap();
        *state = State { pad: std::mem::take(&mut state.pad), is_live, rate, ..State::default() };
    }

    /// The clips have this rate.
    pub fn set_rate(&self, rate: gst::Fraction) {
        self.state.lock().unwrap().rate = rate;
    }

    /// The element is in PLAYING, or not any more.
    pub fn set_playing(&self, is_playing: bool) {
        let mut state = self.state.lock().unwrap();
        state.is_playing = is_playing;
        if let Some(wait) = state.wait.take() {
            wait.unschedule();
        }
        self.changed.notify_all();
    }

    /// Whether anybody would see a step.
    pub fn is_wanted(&self) -> bool {
        let state = self.state.lock().unwrap();
        let is_open = !state.is_flushing && !state.is_over && !state.is_refused;
        is_open && state.pad.upgrade().is_some_and(|pad| pad.is_linked())
    }

    /// A step's pictures: they go before those of all steps before. `title` is told of them.
    pub fn offer(&self, frames: Vec<Frame>, fps: gst::Fraction, title: String) {
        if let Some(step) = step(frames, fps, Some(title)) {
            self.state.lock().unwrap().newest = Some(Arc::new(step));
            self.changed.notify_all();
        }
    }

    /// A picture to begin with.
    pub fn offer_still(&self, frame: Frame, fps: gst::Fraction) {
        if let Some(step) = step(vec![frame], fps, None) {
            self.state.lock().unwrap().newest.get_or_insert(Arc::new(step));
            self.changed.notify_all();
        }
    }

    /// Nothing comes any more: the stream ends behind what waits.
    pub fn finish(&self) {
        self.state.lock().unwrap().is_over = true;
        self.changed.notify_all();
    }

    /// A flush begins.
    pub fn flush_start(&self) {
        let Some(pad) = self.state.lock().unwrap().pad.upgrade() else { return };
        self.stop();
        pad.push_event(gst::event::FlushStart::new());
        let _ = pad.pause_task();
    }

    /// A flush ends; if it sets the time back, so do the frames. Comes before clips go on: they may be at their end.
    pub fn flush_stop(self: &Arc<Self>, sets_time: bool) {
        let Some(pad) = self.state.lock().unwrap().pad.upgrade() else { return };
        // The thread has left its turn.
        drop(pad.stream_lock());
        pad.push_event(gst::event::FlushStop::new(sets_time));
        {
            let mut state = self.state.lock().unwrap();
            let Output { is_begun, info, origin, since, .. } = state.output.clone();
            let (origin, since) = if sets_time { Default::default() } else { (origin, since) };
            state.output = Output { is_begun, info, origin, since, ..Output::default() };
            (state.is_refused, state.is_over, state.has_ended) = (false, false, false);
            if pad.is_active() {
                state.is_flushing = false;
            }
        }
        if pad.is_active() {
            let _ = self.start(&pad);
        }
    }

    /// Ends whatever the thread waits for but a push, and says whether it is in one.
    fn stop(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        state.is_flushing = true;
        if !state.is_live {
            state.newest = None;
        }
        if let Some(wait) = state.wait.take() {
            wait.unschedule();
        }
        self.changed.notify_all();
        state.is_pushing
    }

    /// Downstream is another: where the stream has ended, it hears of the end, too.
    fn is_linked(&self) {
        {
            let mut state = self.state.lock().unwrap();
            state.is_refused |= state.is_over;
        }
        self.may_be_taken();
    }

    /// Downstream is another, or has changed its mind: where the stream was refused, it begins anew.
    fn may_be_taken(&self) {
        let mut state = self.state.lock().unwrap();
        if std::mem::take(&mut state.is_refused) {
            state.has_ended = false;
            state.output = Output { origin: state.output.end(), next: state.output.next, ..Output::default() };
        }
        self.changed.notify_all();
    }

    fn start(self: &Arc<Self>, pad: &gst::Pad) -> Result<(), glib::BoolError> {
        let (this, weak) = (self.clone(), pad.downgrade());
        pad.start_task(move || {
            if let Some(pad) = weak.upgrade() {
                this.work(&pad);
            }
        })
    }

    fn activate(self: &Arc<Self>, pad: &gst::Pad, is_active: bool) -> Result<(), gst::LoggableError> {
        let done = if is_active {
            {
                let mut state = self.state.lock().unwrap();
                (state.is_flushing, state.has_ended, state.is_refused) = (false, false, false);
                state.output = Output::default();
            }
            self.start(pad)
        } else {
            self.stop();
            pad.stop_task()
        };
        done.map_err(|err| gst::loggable_error!(gst::CAT_RUST, "{err}"))
    }

    fn event(&self, event: &gst::EventRef) -> bool {
        match event.type_() {
            gst::EventType::Reconfigure => self.may_be_taken(),
            gst::EventType::Qos | gst::EventType::Latency => {}
            // There is nothing to seek in; and what is meant for the clip's source comes by the clip's pad.
            _ => return false,
        }
        true
    }

    fn query(&self, pad: &gst::Pad, parent: Option<&gst::Object>, query: &mut gst::QueryRef) -> bool {
        let (is_live, rate, output) = {
            let state = self.state.lock().unwrap();
            (state.is_live, state.rate, state.output.clone())
        };
        match query.view_mut() {
            gst::QueryViewMut::Caps(query) => {
                let set = output.info.and_then(|info| info.to_caps().ok());
                let mut caps = set.unwrap_or_else(|| pad.pad_template_caps());
                if let Some(filter) = query.filter_owned() {
                    caps = filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First);
                }
                query.set_result(&caps);
                true
            }
            gst::QueryViewMut::Latency(query) => {
                let latency = time(1, output.info.map_or(rate, |info| info.fps())).filter(|_| is_live);
                query.set(is_live, latency.unwrap_or_default(), gst::ClockTime::NONE);
                true
            }
            gst::QueryViewMut::Position(query) if query.format() == gst::Format::Time => {
                query.set(output.end());
                true
            }
            gst::QueryViewMut::Seeking(query) => {
                let none = gst::GenericFormattedValue::none_for_format(query.format());
                query.set(false, none, none);
                true
            }
            gst::QueryViewMut::AcceptCaps(_) | gst::QueryViewMut::Context(_) => {
                gst::Pad::query_default(pad, parent, query)
            }
            _ => false,
        }
    }

    /// One turn of the pad's thread.
    fn work(&self, pad: &gst::Pad) {
        let flow = match self.next(pad) {
            Turn::Rest => {
                let _ = pad.pause_task();
                return;
            }
            Turn::End => {
                self.begin_stream(pad, None);
                pad.push_event(gst::event::Eos::new());
                return;
            }
            Turn::Show(step) if self.state.lock().unwrap().is_live => self.show_now(pad, step),
            Turn::Show(step) => self.show_all(pad, &step),
        };
        match flow {
            // Nobody is there at the moment.
            Ok(()) | Err(gst::FlowError::Flushing | gst::FlowError::NotLinked) => {}
            Err(err) => self.refuse(pad, err),
        }
    }

    /// Waits until there is something to do.
    fn next(&self, pad: &gst::Pad) -> Turn {
        let mut state = self.state.lock().unwrap();
        loop {
            if state.is_flushing {
                return Turn::Rest;
            }
            let is_due =
                !state.has_ended && (!state.is_live || (state.is_playing && !state.is_over && pad.is_linked()));
            if is_due {
                let step = if state.is_live { state.newest.clone() } else { state.newest.take() };
                if let Some(step) = step {
                    return Turn::Show(step);
                }
            }
            if state.is_over && !std::mem::replace(&mut state.has_ended, true) {
                return Turn::End;
            }
            state = self.changed.wait(state).unwrap();
        }
    }

    /// Pushes all frames of a step, one behind the other.
    fn show_all(&self, pad: &gst::Pad, step: &Arc<Step>) -> Result<(), gst::FlowError> {
        self.begin_stream(pad, Some(step));
        for buffer in &step.frames {
            let (start, end, number) = {
                let output = &mut self.state.lock().unwrap().output;
                let start = output.end();
                output.since += 1;
                (start, output.end(), output.next.unwrap_or(0))
            };
            self.push(pad, buffer, start..end, number)?;
        }
        Ok(())
    }

    /// Pushes the frame of the newest step whose turn it is, when its time has come.
    fn show_now(&self, pad: &gst::Pad, step: Arc<Step>) -> Result<(), gst::FlowError> {
        let element = pad.parent_element().ok_or(gst::FlowError::Flushing)?;
        let fps = step.info.fps();
        let time = |number| time(number, fps).ok_or(gst::FlowError::Eos);
        let now = element.current_running_time();
        let next = self.state.lock().unwrap().output.next;
        let number = now.map_or(next.unwrap_or(0), |now| {
            pace::turn(next, now.nseconds(), (fps.numer() as u64, fps.denom() as u64))
        });
        let (start, end) = (time(number)?, time(number + 1)?);
        if now.is_some_and(|now| now < start) {
            self.wait_until(&element, start)?;
        }
        // There may be a newer one by now.
        let step = self.state.lock().unwrap().newest.clone().filter(|newer| newer.info == step.info).unwrap_or(step);
        self.begin_stream(pad, Some(&step));
        let Some(place) = number.checked_rem(step.frames.len() as u64) else { return Ok(()) };
        self.push(pad, &step.frames[place as usize], start..end, number)
    }

    /// Waits for the clock.
    fn wait_until(&self, element: &gst::Element, time: gst::ClockTime) -> Result<(), gst::FlowError> {
        let (Some(clock), Some(base_time)) = (element.clock(), element.base_time()) else { return Ok(()) };
        let id = clock.new_single_shot_id(base_time + time);
        {
            let mut state = self.state.lock().unwrap();
            if state.is_flushing || !state.is_playing {
                return Err(gst::FlowError::Flushing);
            }
            state.wait = Some(id.clone());
        }
        let (ended, _) = id.wait();
        self.state.lock().unwrap().wait = None;
        if ended == Err(gst::ClockError::Unscheduled) { Err(gst::FlowError::Flushing) } else { Ok(()) }
    }

    /// Pushes a frame. The memory is the step's.
    fn push(
        &self,
        pad: &gst::Pad,
        frame: &gst::Buffer,
        times: std::ops::Range<gst::ClockTime>,
        number: u64,
    ) -> Result<(), gst::FlowError> {
        let is_new = {
            let mut state = self.state.lock().unwrap();
            if state.is_flushing {
                return Err(gst::FlowError::Flushing);
            }
            state.is_pushing = true;
            state.output.next.replace(number + 1) != Some(number)
        };
        let mut buffer = frame.copy();
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(times.start);
            buffer.set_duration(times.end - times.start);
            buffer.set_offset(number);
            buffer.set_offset_end(number + 1);
            if is_new {
                buffer.set_flags(gst::BufferFlags::DISCONT);
            }
        }
        let flow = pad.push(buffer);
        self.state.lock().unwrap().is_pushing = false;
        flow.map(drop)
    }

    /// Pushes what must come before the frames of a step, or before the end.
    fn begin_stream(&self, pad: &gst::Pad, step: Option<&Arc<Step>>) {
        let (before, now) = {
            let output = &mut self.state.lock().unwrap().output;
            let before = output.clone();
            (output.is_begun, output.has_segment) = (true, true);
            if let Some(step) = step {
                if output.info.as_ref() != Some(&step.info) {
                    // Another rate counts from where the one before has ended.
                    (output.origin, output.since) = (output.end(), 0);
                    output.info = Some(step.info.clone());
                }
                output.told = Some(step.clone());
            }
            (before, output.clone())
        };
        if !before.is_begun
            && let Some(element) = pad.parent_element()
        {
            let id = pad.create_stream_id(&element, Some(NAME));
            let clips = element.static_pad("src").and_then(|src| src.sticky_event::<gst::event::StreamStart>(0));
            let group = clips.and_then(|event| event.group_id()).unwrap_or_else(gst::GroupId::next);
            pad.push_event(gst::event::StreamStart::builder(&id).group_id(group).build());
        }
        if let Some(info) = now.info.filter(|info| before.info.as_ref() != Some(info)) {
            // Whether it is taken, the first frame says.
            let _ = info.to_caps().map(|caps| pad.push_event(gst::event::Caps::new(&caps)));
        }
        if !before.has_segment {
            let segment = gst::FormattedSegment::<gst::ClockTime>::new();
            pad.push_event(gst::event::Segment::new(&segment));
        }
        let is_told = |step: &&Arc<Step>| before.told.as_ref().is_some_and(|told| Arc::ptr_eq(told, step));
        if let Some(title) = step.filter(|step| !is_told(step)).and_then(|step| step.title.as_deref()) {
            let mut tags = gst::TagList::new();
            let list = tags.get_mut().expect("a new list has one owner");
            list.add::<gst::tags::Title>(&title, gst::TagMergeMode::Replace);
            pad.push_event(gst::event::Tag::new(tags));
        }
    }

    /// Downstream has ended the stream, or does not take it. It hears of its end, or a pipeline would wait for it.
    fn refuse(&self, pad: &gst::Pad, err: gst::FlowError) {
        let info = {
            let mut state = self.state.lock().unwrap();
            (state.is_refused, state.has_ended) = (true, true);
            state.output.info.clone()
        };
        if let (gst::FlowError::NotNegotiated, Some(element), Some(info)) = (err, pad.parent_element(), info) {
            let (width, height, fps) = (info.width(), info.height(), info.fps());
            gst::element_warning!(
                element,
                gst::CoreError::Negotiation,
                (
                    "the preview is {width}x{height} in RGB at {}/{}, which is not taken behind it: put \
                     videoconvertscale there",
                    fps.numer(),
                    fps.denom()
                )
            );
        }
        pad.push_event(gst::event::Eos::new());
    }
}

/// Pictures as they are pushed. `None` if there are none, or no room for them.
fn step(frames: Vec<Frame>, fps: gst::Fraction, title: Option<String>) -> Option<Step> {
    let first = frames.first()?;
    let info = VideoInfo::builder(VideoFormat::Rgb, first.width() as u32, first.height() as u32)
        .fps(fps)
        .par(gst::Fraction::new(1, 1))
        .interlace_mode(VideoInterlaceMode::Progressive)
        .colorimetry(&"sRGB".parse::<VideoColorimetry>().ok()?)
        .build()
        .ok()?;
    let frames = frames.into_iter().map(|frame| frame_buffer(frame, &info)).collect::<Result<_, _>>().ok()?;
    Some(Step { frames, info, title })
}
