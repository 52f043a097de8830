// SPDX-License-Identifier: MPL-2.0
//! One run of `frameratetune`: what was negotiated, and the output's times for the input's.

use std::path::PathBuf;
use std::sync::Arc;

use gst::prelude::*;
use tch::{Device, Kind};

use super::settings::{Mode, Settings, fraction};
use super::tuner::{Ended, Format};
use crate::engine::rife::Model;
use crate::engine::worker::{Cancel, Worker};
use crate::timing;

/// One run, from READY to PAUSED and back.
pub struct Run {
    pub setup: Arc<Setup>,
    pub worker: Option<Arc<Worker<Model>>>,
    pub negotiated: Option<Negotiated>,
    /// The input's segment.
    pub segment: gst::FormattedSegment<gst::ClockTime>,
    /// Its base and that of the output's segment, and the output's time over the input's.
    pub bases: Option<(gst::ClockTime, gst::ClockTime, (u64, u64))>,
    /// Where the segment's output goes on, if it has begun.
    pub ended: Option<Ended>,
    /// The input's time that the segment has come to with gaps, by the planner.
    pub reached: gst::ClockTime,
    /// Where a segment that is played backwards begins, if it does not say: with its first frame.
    pub backwards_from: Option<gst::ClockTime>,
    pub has_failed: bool,
    pub has_warned: bool,
    pub has_fallen_back: bool,
}

/// What does not change in a run.
pub struct Setup {
    pub settings: Settings,
    pub device: Device,
    pub kind: Kind,
    /// The model's file, if there is one.
    pub model: Option<PathBuf>,
    /// Tells the load that the end of it was wanted.
    pub closing: Cancel,
}

/// What was negotiated.
#[derive(Clone)]
pub struct Negotiated {
    /// The input's caps.
    pub caps: gst::Caps,
    pub format: Arc<Format>,
    pub settings: timing::Settings,
    /// The output's time over the input's; `None` if the input has no rate to tell.
    pub stretch: Option<(u64, u64)>,
    /// Nanoseconds that a frame is known later.
    pub latency: Option<u64>,
}

impl Run {
    pub fn new(setup: Setup) -> Self {
        Self {
            setup: Arc::new(setup),
            worker: None,
            negotiated: None,
            segment: gst::FormattedSegment::new(),
            bases: None,
            ended: None,
            reached: gst::ClockTime::ZERO,
            backwards_from: None,
            has_failed: false,
            has_warned: false,
            has_fallen_back: false,
        }
    }

    /// The output's time over the input's; `None` if that is not known.
    pub fn stretch(&self) -> Option<(u64, u64)> {
        let settings = &self.setup.settings;
        match &self.negotiated {
            Some(negotiated) => negotiated.stretch,
            None if settings.mode == Mode::Retime => None,
            None => fraction(settings.speed).map(|speed| (speed.denom(), speed.numer())),
        }
    }

    /// Whether the output's times are others than the input's.
    pub fn is_stretched(&self) -> bool {
        self.stretch().is_none_or(|(numer, denom)| numer != denom)
    }

    /// The output's time for one of the input. `None` if it is not known.
    pub fn stretched(&self, time: gst::ClockTime) -> Option<gst::ClockTime> {
        let (numer, denom) = self.stretch()?;
        time.mul_div_round(numer, denom)
    }

    /// The same for a value, if it is a time.
    pub fn stretched_value(&self, value: gst::GenericFormattedValue) -> Option<gst::GenericFormattedValue> {
        let gst::GenericFormattedValue::Time(time) = value else { return None };
        Some(self.stretched(time?)?.into())
    }

    /// The input's value for one of the output, if it is a time. `from_end` is one that counts back from the end.
    pub fn shrunk_value(
        &self,
        value: gst::GenericFormattedValue,
        from_end: bool,
    ) -> Option<gst::GenericFormattedValue> {
        let gst::GenericFormattedValue::Time(Some(time)) = value else { return None };
        let (numer, denom) = self.stretch()?;
        let nanoseconds = time.nseconds();
        // GStreamer keeps what is before the end as a number below 0.
        let (back, time) = if from_end && (nanoseconds as i64) < 0 {
            (true, gst::ClockTime::from_nseconds((nanoseconds as i64).unsigned_abs()))
        } else {
            (false, time)
        };
        let shrunk = time.mul_div_round(denom, numer)?;
        let shrunk = if back { shrunk.nseconds().wrapping_neg() } else { shrunk.nseconds() };
        Some(gst::ClockTime::from_nseconds(shrunk.min(u64::MAX - 1)).into())
    }

    pub fn is_backwards(&self) -> bool {
        self.segment.rate() < 0.0
    }

    /// The planner's time for what lasts from `time` to `end`: it counts from the end of a segment that is played backwards.
    pub fn mirrored(&mut self, time: gst::ClockTime, end: gst::ClockTime) -> gst::ClockTime {
        if !self.is_backwards() {
            return time;
        }
        let from = self.segment.stop().unwrap_or_else(|| *self.backwards_from.get_or_insert(end));
        from.saturating_sub(end)
    }

    /// Forgets all of the output before.
    pub fn begin_anew(&mut self) {
        (self.ended, self.reached, self.backwards_from) = (None, gst::ClockTime::ZERO, None);
    }

    /// Whether a segment is the one at hand: one that only ends elsewhere, or says where it is, is no jump.
    pub fn goes_on(&self, segment: &gst::FormattedSegment<gst::ClockTime>) -> bool {
        let mapping = |segment: &gst::FormattedSegment<gst::ClockTime>| {
            (segment.rate(), segment.base(), segment.offset(), segment.start(), segment.time())
        };
        mapping(&self.segment) == mapping(segment)
    }

    /// Takes a segment of the input. Returns the output's, if it is another.
    pub fn enter(
        &mut self,
        segment: gst::FormattedSegment<gst::ClockTime>,
    ) -> Option<gst::FormattedSegment<gst::ClockTime>> {
        self.segment = segment.clone();
        if !self.is_stretched() {
            self.bases = None;
            return None;
        }
        let mut output = segment;
        let stretched = |time: Option<gst::ClockTime>| time.and_then(|time| self.stretched(time));
        let (start, stop, time) = (stretched(output.start()), stretched(output.stop()), stretched(output.time()));
        // What was before took as long as it did, whatever it would take now.
        let input = output.base().unwrap_or_default();
        let base = match self.bases {
            Some((before, base, (numer, denom))) if input >= before => {
                (input - before).mul_div_round(numer, denom).map(|more| base.saturating_add(more))
            }
            _ => self.stretched(input),
        };
        let (base, offset) = (base.unwrap_or(input), stretched(output.offset()));
        self.bases = self.stretch().map(|stretch| (input, base, stretch));
        output.set_base(base);
        output.set_offset(offset.or(output.offset()));
        output.set_start(start.or(output.start()));
        output.set_stop(stop);
        output.set_time(time.or(output.time()));
        output.set_position(output.start());
        output.set_duration(gst::ClockTime::NONE);
        Some(output)
    }
}

impl Negotiated {
    /// Bytes of a frame.
    pub fn size(&self) -> usize {
        self.format.info.size()
    }

    /// How long a frame of the input lasts, by its rate.
    pub fn frame(&self) -> Option<gst::ClockTime> {
        let rate = self.settings.input_rate?;
        gst::ClockTime::SECOND.mul_div_floor(rate.denom(), rate.numer())
    }
}
