// SPDX-License-Identifier: MPL-2.0
//! Which frames of a video make the frames of another rate, exactly.
//!
//! The frame `n` of the output is at `n` / rate, and shows what the input shows at `n` / rate * speed. All times are
//! kept as whole numbers of a fraction of a nanosecond that fits both rates, so that nothing drifts and a frame that
//! falls on one of the input is that one. Input frames are told one by one, and every output frame comes as soon as it
//! is known what it is made of.
//!
//! Timestamps are rounded to nanoseconds, and to milliseconds in some files. If the input has a rate, they are taken
//! for the times by this rate that they are near to; but they are the truth, and not the rate, where they are not.

use std::fmt;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// Nanoseconds by which a time may miss that of a frame and still be the frame's.
const SNAP: i128 = 1_000;
/// Nanoseconds by which a timestamp may miss the time that the input's rate gives: Matroska rounds to one millisecond.
const ROUNDED: i128 = 1_000_000;
/// The most parts of a nanosecond that times are counted in: times of 64 bits then fit into 127 bits.
const FINEST: u128 = 1_000_000_000_000_000_000;

/// A positive fraction in its lowest terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    numer: u64,
    denom: u64,
}

impl Fraction {
    /// One.
    pub const ONE: Self = Self { numer: 1, denom: 1 };

    /// The fraction `numer` / `denom`; `None` if either is 0.
    pub fn new(numer: u64, denom: u64) -> Option<Self> {
        if numer == 0 || denom == 0 {
            return None;
        }
        let common = gcd(numer.into(), denom.into()) as u64;
        Some(Self { numer: numer / common, denom: denom / common })
    }

    /// What is above the line.
    pub fn numer(&self) -> u64 {
        self.numer
    }

    /// What is below the line.
    pub fn denom(&self) -> u64 {
        self.denom
    }

    /// A fraction between 0 and 1 of numbers that may be too large: then the nearest one, by far less than any
    /// rounding.
    fn between(numer: i128, denom: i128) -> Self {
        let (numer, denom) = (numer.unsigned_abs(), denom.unsigned_abs());
        let common = gcd(numer, denom);
        let (numer, denom) = (numer / common, denom / common);
        let more = (128 - denom.leading_zeros()).saturating_sub(63);
        let (numer, denom) = ((numer >> more).max(1) as u64, (denom >> more) as u64);
        Self { numer: numer.min(denom - 1), denom }
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.numer, self.denom)
    }
}

/// How the rate changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The same frames, one after the other, at the new rate: the duration changes. The speed has no meaning.
    Retime,
    /// The input's frame that is nearest in time, the earlier one of two, as `videorate` has it.
    Duplicate,
    /// A frame between two of the input, for blending and interpolating.
    Interpolate,
}

/// What is planned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// How the rate changes.
    pub mode: Mode,
    /// Frames per second of the output.
    pub rate: Fraction,
    /// How many times faster the output shows what the input does.
    pub speed: Fraction,
    /// Frames per second of the input, if it says so.
    pub input_rate: Option<Fraction>,
    /// The time at which the input and the output begin, in nanoseconds: a segment's start. `None` is that of the first
    /// frame. What is before the first frame shows the first frame.
    pub origin: Option<u64>,
    /// The input's time at which all ends, in nanoseconds, whatever its last frame says: a segment's stop.
    pub stop: Option<u64>,
    /// The longest time between two frames that have something between them, in nanoseconds: over a longer one the
    /// first is held.
    pub longest: u64,
    /// How many repeated frames there may be between two that have something between them; over more, the first is held
    /// up to the last of its repetitions. For animation on twos it is 1, on threes 2.
    pub repeats: u32,
}

impl Settings {
    /// Settings with these, and: the speed 1, no rate of the input, the first frame's time as origin, a second at the
    /// longest, three repeated frames.
    pub fn new(mode: Mode, rate: Fraction) -> Self {
        Self {
            mode,
            rate,
            speed: Fraction::ONE,
            input_rate: None,
            origin: None,
            stop: None,
            longest: SECOND,
            repeats: 3,
        }
    }

    /// Whether the output's frames are at the same times.
    pub fn is_same_output(&self, other: &Self) -> bool {
        let same = |settings: &Self| (settings.rate, settings.speed, settings.mode == Mode::Retime);
        same(self) == same(other)
    }
}

/// What an output frame is made of. Input frames are counted from 0, in the order in which they were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// This frame, as it is.
    At(u64),
    /// What is between two frames.
    Between {
        /// The frame before.
        first: u64,
        /// The frame behind.
        second: u64,
        /// How far it is from the first to the second, more than 0 and less than 1.
        time: Fraction,
    },
}

/// An output frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Its number, from 0.
    pub number: u64,
    /// Its time in nanoseconds: the origin and `number` / rate, cut off to nanoseconds, as GStreamer's elements do.
    pub time: u64,
    /// How long it is shown, in nanoseconds: until the next one. If there is none, [`Planner::end_time`] may come before.
    pub duration: u64,
    /// What it is made of.
    pub source: Source,
    /// Whether the output frame before shows the same frame of the input.
    pub is_repeated: bool,
}

/// What has been planned so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Frames that were told, repeated ones included.
    pub input: u64,
    /// Frames that were given.
    pub output: u64,
    /// Of these: frames that show the same frame as the one before.
    pub duplicated: u64,
    /// Of these: frames between two.
    pub interpolated: u64,
    /// Frames that were told and are shown by no output frame as they are.
    pub dropped: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.input += more.input;
        self.output += more.output;
        self.duplicated += more.duplicated;
        self.interpolated += more.interpolated;
        self.dropped += more.dropped;
    }
}

/// The fractions of the settings need too fine a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooFine(String);

impl fmt::Display for TooFine {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: their common time is too fine; use fractions of smaller numbers", self.0)
    }
}

impl std::error::Error for TooFine {}

/// A frame of the input.
#[derive(Debug, Clone, Copy)]
struct Frame {
    number: u64,
    /// In parts of a nanosecond.
    at: i128,
}

/// Plans an output as its input comes.
#[derive(Debug, Clone)]
pub struct Planner {
    settings: Settings,
    /// Parts of a nanosecond that times are counted in.
    parts: i128,
    /// The input's time between two output frames, in parts.
    step: i128,
    /// The first frame's timestamp.
    start: Option<u64>,
    origin: u64,
    /// The number of the output frame that comes next.
    number: u64,
    last: Option<Frame>,
    /// The time of the last frame that was told, a repeated one perhaps, in parts.
    told: i128,
    /// When the last frame ends, in parts.
    end: i128,
    /// Repeated frames since the last one.
    repeated: u32,
    /// Whether the next frame belongs to the last.
    is_connected: bool,
    /// The frame that is shown last.
    shown: Option<Source>,
    /// What was told last, until all is planned that is known by it.
    upcoming: Option<Upcoming>,
    counts: Counts,
}

/// What was told.
#[derive(Debug, Clone, Copy)]
enum Upcoming {
    /// A frame of this number that passes as it is.
    Passed(u64),
    /// A frame.
    Frame(Frame),
    /// Too many frames that repeat the last one, up to this time, in parts.
    Repeated(i128),
    /// Nothing, up to this time, in parts.
    Nothing(i128),
}

impl Planner {
    /// A plan that begins.
    ///
    /// # Errors
    /// [`TooFine`] if rates and speed have no common time that is coarse enough.
    pub fn new(settings: Settings) -> Result<Self, TooFine> {
        let Settings { rate, speed, input_rate, origin, .. } = settings;
        let too_fine = || {
            let input = input_rate.map_or(String::new(), |rate| format!(" from the rate {rate}"));
            TooFine(format!("the rate {rate} at the speed {speed}{input}"))
        };
        let output = u128::from(rate.numer) * u128::from(speed.denom);
        let input = input_rate.map_or(1, |rate| rate.numer.into());
        let parts = (output / gcd(output, input)).checked_mul(input).filter(|parts| *parts <= FINEST);
        let parts = parts.ok_or_else(too_fine)?;
        let step = u128::from(SECOND) * (parts / output);
        let step = step.checked_mul(rate.denom.into()).and_then(|step| step.checked_mul(speed.numer.into()));
        let step = step.and_then(|step| i128::try_from(step).ok()).ok_or_else(too_fine)?;
        Ok(Self {
            settings,
            parts: parts as i128,
            step,
            start: None,
            origin: origin.unwrap_or(0),
            number: 0,
            last: None,
            told: 0,
            end: 0,
            repeated: 0,
            is_connected: true,
            shown: None,
            upcoming: None,
            counts: Counts::default(),
        })
    }

    /// What has been planned so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The time of the output frame that comes next, in nanoseconds. `None` if no frame has said when the output
    /// begins.
    pub fn next_time(&self) -> Option<u64> {
        (self.settings.origin.is_some() || self.start.is_some()).then(|| self.time_of(self.number))
    }

    /// The output's time at which what was told so far ends, in nanoseconds. `None` if there is no other than that of the
    /// frame that comes next.
    pub fn end_time(&self) -> Option<u64> {
        (self.settings.mode != Mode::Retime && self.last.is_some()).then(|| self.shown_at(self.end))
    }

    /// A plan that goes on where this one has come to, with a frame at `time`, in nanoseconds; and what is to be added to
    /// its output times for them to be of this one's time. Output frames have the times that they would have had here if
    /// rate and speed are the same. If not, they go on from the end of the last one: `is_cut` tells that it was cut off
    /// where the input ended.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn follow(&self, settings: Settings, time: u64, is_cut: bool) -> Result<(Self, i128), TooFine> {
        if settings.is_same_output(&self.settings) && !is_cut {
            let next = Self::new(Settings { origin: Some(self.origin), ..settings })?;
            return Ok((Self { number: self.number, ..next }, 0));
        }
        if self.settings.mode == Mode::Retime {
            let next = Self::new(Settings { origin: Some(time), ..settings })?;
            return Ok((next, i128::from(self.time_of(self.number)) - i128::from(time)));
        }
        let reached = if is_cut { self.end } else { self.position() };
        let at = i128::from(time) * self.parts;
        let begin = if at - reached < i128::from(SECOND) * self.parts { reached } else { at };
        let origin = u64::try_from(begin / self.parts).unwrap_or(time);
        let next = Self::new(Settings { origin: Some(origin), ..settings })?;
        Ok((next, i128::from(self.shown_at(begin)) - i128::from(origin)))
    }

    /// Whether a frame at this time, in nanoseconds, is later than those before. Others are left out.
    pub fn accepts(&self, time: u64) -> bool {
        self.settings.mode == Mode::Retime || self.last.is_none() || self.at(time) > self.told
    }

    /// Tells the next frame: its time and, if known, its duration, in nanoseconds. The output frames that are known by it
    /// come from [`next`](Self::next), all of them before the next is told; they need this frame and the one that was told
    /// before it and was no repeated one.
    ///
    /// A frame that is not later than the one before is left out.
    pub fn tell(&mut self, time: u64, duration: Option<u64>) {
        let number = self.counts.input;
        self.counts.input += 1;
        self.counts.dropped += 1;
        if self.settings.mode == Mode::Retime {
            self.begin(time);
            self.upcoming = Some(Upcoming::Passed(number));
        } else if let Some(at) = self.place(time, duration) {
            self.upcoming = Some(Upcoming::Frame(Frame { number, at }));
        }
    }

    /// As [`tell`](Self::tell), for a frame that shows the same as the one before: it is looked past, if there are few like
    /// it, so that what is interpolated does not stand still with it. The first frame can't be one.
    pub fn tell_repeated(&mut self, time: u64, duration: Option<u64>) {
        let Some(last) = self.last.filter(|_| self.settings.mode == Mode::Interpolate) else {
            return self.tell(time, duration);
        };
        self.counts.input += 1;
        self.counts.dropped += 1;
        let Some(at) = self.place(time, duration) else { return };
        self.repeated += 1;
        let is_long = at - last.at >= i128::from(self.settings.longest) * self.parts;
        if self.repeated > self.settings.repeats || is_long {
            self.upcoming = Some(Upcoming::Repeated(at));
        }
    }

    /// The next output frame that is known. `None` until something else is told.
    #[allow(clippy::should_implement_trait)] // What comes depends on what is told in between.
    pub fn next(&mut self) -> Option<Output> {
        let snap = SNAP * self.parts;
        match self.upcoming? {
            Upcoming::Passed(number) => {
                self.upcoming = None;
                return Some(self.output(Source::At(number)));
            }
            Upcoming::Frame(frame) => {
                if let Some(source) = self.source(self.position(), frame) {
                    return Some(self.output(source));
                }
                self.last = Some(frame);
                self.repeated = 0;
                self.is_connected = true;
            }
            Upcoming::Repeated(at) => {
                let last = self.last?;
                if self.position() <= at + snap {
                    return Some(self.output(Source::At(last.number)));
                }
                self.last = Some(Frame { at, ..last });
            }
            Upcoming::Nothing(end) => {
                let last = self.last?;
                if self.position() < end - snap {
                    return Some(self.output(Source::At(last.number)));
                }
            }
        }
        self.upcoming = None;
        None
    }

    /// Leaves out the output frames before `time`, in nanoseconds.
    pub fn skip(&mut self, time: u64) {
        let since = i128::from(time) * self.parts - self.position();
        if since > 0 && self.settings.mode != Mode::Retime {
            self.number += u64::try_from(since / self.step).unwrap_or(u64::MAX >> 1) + u64::from(since % self.step > 0);
        }
    }

    /// Holds the last frame up to `end`, in nanoseconds, if it ends before: nothing comes until then, and what comes next
    /// does not follow it.
    pub fn hold(&mut self, end: u64) {
        self.end = self.end.max(self.stopped(i128::from(end) * self.parts));
        self.is_connected = false;
        self.tell_end();
    }

    /// Says that the next frame does not follow the last one: a discontinuity. The last frame is held until then.
    pub fn disconnect(&mut self) {
        self.is_connected = false;
    }

    /// Ends the input: the last frame is held for its full time, which its duration says; or else for as long as the input's
    /// rate, or the frame before, has lasted.
    pub fn tell_end(&mut self) {
        self.upcoming = self.last.map(|_| Upcoming::Nothing(self.end));
    }

    /// Notes the first frame's time.
    fn begin(&mut self, time: u64) -> u64 {
        if self.start.is_none() && self.settings.origin.is_none() {
            self.origin = time;
        }
        // A plan that goes on does not fill up what is long past.
        let since = i128::from(time) * self.parts - self.position();
        if self.start.is_none() && self.number > 0 && since >= i128::from(SECOND) * self.parts {
            self.skip(time);
        }
        *self.start.get_or_insert(time)
    }

    /// Where a frame is, and notes when it ends; `None` if it is not behind the one before.
    fn place(&mut self, time: u64, duration: Option<u64>) -> Option<i128> {
        self.begin(time);
        let at = self.at(time);
        let nominal = self.nominal();
        let before = self.last.map(|_| self.told);
        if before.is_some_and(|before| at <= before) {
            return None;
        }
        let duration = duration.map(|duration| i128::from(duration) * self.parts);
        let lasts = match (duration, nominal) {
            (Some(duration), Some(nominal)) if (duration - nominal).abs() <= ROUNDED * self.parts => nominal,
            (Some(duration), _) if duration > 0 => duration,
            (_, Some(nominal)) => nominal,
            _ => before.map_or(self.step, |before| at - before),
        };
        self.told = at;
        self.end = self.stopped(at + lasts);
        Some(at)
    }

    /// How long a frame lasts by the input's rate, in parts.
    fn nominal(&self) -> Option<i128> {
        let rate = self.settings.input_rate?;
        Some(i128::from(SECOND) * i128::from(rate.denom) * (self.parts / i128::from(rate.numer)))
    }

    /// A time, in parts, or that at which all ends.
    fn stopped(&self, at: i128) -> i128 {
        self.settings.stop.map_or(at, |stop| at.min(i128::from(stop) * self.parts))
    }

    /// Where a frame is whose timestamp may be rounded, in parts.
    fn at(&self, time: u64) -> i128 {
        let exact = i128::from(time) * self.parts;
        let Some(nominal) = self.nominal() else { return exact };
        let start = i128::from(self.start.unwrap_or(time)) * self.parts;
        let grid = start + (exact - start + nominal / 2).div_euclid(nominal) * nominal;
        let is_near = (exact - grid).abs() <= (ROUNDED * self.parts).min(nominal / 4);
        if is_near && (self.last.is_none() || grid > self.told) { grid } else { exact }
    }

    /// The input's time that the next output frame shows, in parts.
    fn position(&self) -> i128 {
        i128::from(self.origin) * self.parts + i128::from(self.number) * self.step
    }

    /// What is shown at `position`, if it is not behind the frame `next`.
    fn source(&self, position: i128, next: Frame) -> Option<Source> {
        let snap = SNAP * self.parts;
        if position > next.at + snap {
            return None;
        }
        let Some(last) = self.last else { return Some(Source::At(next.number)) };
        if position <= last.at + snap {
            return Some(Source::At(last.number));
        }
        if position >= next.at - snap {
            return Some(Source::At(next.number));
        }
        let (since, until) = (position - last.at, next.at - position);
        Some(match self.settings.mode {
            _ if !self.is_connected => Source::At(last.number),
            Mode::Interpolate if since + until > i128::from(self.settings.longest) * self.parts => {
                Source::At(last.number)
            }
            Mode::Interpolate => Source::Between {
                first: last.number,
                second: next.number,
                time: Fraction::between(since, since + until),
            },
            _ if since <= until => Source::At(last.number),
            _ => Source::At(next.number),
        })
    }

    /// The time of an output frame, in nanoseconds.
    fn time_of(&self, number: u64) -> u64 {
        let rate = self.settings.rate;
        let since = u128::from(number) * u128::from(SECOND) * u128::from(rate.denom) / u128::from(rate.numer);
        self.origin.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// The output's time for a time of the input, in nanoseconds.
    fn shown_at(&self, at: i128) -> u64 {
        let Settings { speed, .. } = self.settings;
        let input = (at - i128::from(self.origin) * self.parts).max(0) as u128 / self.parts.unsigned_abs();
        let since = input.saturating_mul(speed.denom.into()) / u128::from(speed.numer);
        self.origin.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// The next output frame.
    fn output(&mut self, source: Source) -> Output {
        let number = self.number;
        let (time, until) = (self.time_of(number), self.time_of(number + 1));
        let is_repeated = self.shown == Some(source);
        self.number += 1;
        self.counts.output += 1;
        match source {
            Source::At(_) if is_repeated => self.counts.duplicated += 1,
            Source::At(_) => self.counts.dropped -= 1,
            Source::Between { .. } => self.counts.interpolated += 1,
        }
        // A frame may be shown, then one between it and the next; it is not shown again behind that.
        self.shown = Some(source);
        Output { number, time, duration: until - time, source, is_repeated }
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Planner {
        fn all(&mut self) -> Vec<Output> {
            std::iter::from_fn(|| self.next()).collect()
        }

        fn push(&mut self, time: u64, duration: Option<u64>) -> Vec<Output> {
            self.tell(time, duration);
            self.all()
        }

        fn repeat(&mut self, time: u64, duration: Option<u64>) -> Vec<Output> {
            self.tell_repeated(time, duration);
            self.all()
        }

        fn finish(&mut self) -> Vec<Output> {
            self.tell_end();
            self.all()
        }
    }

    fn fraction(numer: u64, denom: u64) -> Fraction {
        Fraction::new(numer, denom).unwrap()
    }

    fn planner(mode: Mode, rate: Fraction, change: impl FnOnce(&mut Settings)) -> Planner {
        let mut settings = Settings::new(mode, rate);
        change(&mut settings);
        Planner::new(settings).unwrap()
    }

    /// All that comes of frames at these times.
    fn all(planner: &mut Planner, times: impl IntoIterator<Item = u64>, duration: Option<u64>) -> Vec<Output> {
        let mut outputs: Vec<_> = times.into_iter().flat_map(|time| planner.push(time, duration)).collect();
        outputs.extend(planner.finish());
        outputs
    }

    fn between(first: u64, numer: u64, denom: u64) -> Source {
        Source::Between { first, second: first + 1, time: fraction(numer, denom) }
    }

    fn sources(outputs: &[Output]) -> Vec<Source> {
        outputs.iter().map(|output| output.source).collect()
    }

    const HOURS: u64 = 2 * 3600;
    const MS: u64 = 1_000_000;

    #[test]
    fn two_hours_do_not_drift() {
        let rates = [((24, 1), (60, 1)), ((30000, 1001), (25, 1)), ((12, 1), (16, 1)), ((16, 1), (12, 1))];
        let more = [((24000, 1001), (60000, 1001)), ((25, 1), (30000, 1001)), ((60, 1), (24000, 1001))];
        for ((n, d), (to_n, to_d)) in rates.into_iter().chain(more) {
            // Timestamps as elements cut them off, and as Matroska has them.
            for unit in [1, MS] {
                for origin in [0, 3_600_000_000_007] {
                    let count = HOURS * n / d;
                    let time = |k: u64| origin + (k * SECOND * d / n + unit / 2) / unit * unit;
                    let change = |settings: &mut Settings| settings.input_rate = Some(fraction(n, d));
                    let mut planner = planner(Mode::Interpolate, fraction(to_n, to_d), change);
                    let outputs = all(&mut planner, (0..count).map(time), None);
                    // As many as fit into the input's time: count * d / n seconds.
                    assert_eq!(outputs.len() as u64, (count * d * to_n).div_ceil(n * to_d));
                    for (number, output) in (0u64..).zip(&outputs) {
                        assert_eq!((output.number, output.time), (number, origin + number * SECOND * to_d / to_n));
                        // The input's frame that the position is behind, and by what part.
                        let (numer, denom) = (number * to_d * n, to_n * d);
                        let (frame, rest) = (numer / denom, numer % denom);
                        let wanted = if rest == 0 || frame + 1 == count {
                            Source::At(frame)
                        } else {
                            between(frame, rest, denom)
                        };
                        assert_eq!(output.source, wanted, "{n}/{d} to {to_n}/{to_d}, frame {number}");
                    }
                    for pair in outputs.windows(2) {
                        assert_eq!(pair[0].time + pair[0].duration, pair[1].time);
                    }
                    assert_eq!(planner.end_time(), Some(origin + count * SECOND * d / n));
                }
            }
        }
    }

    #[test]
    fn an_output_frame_comes_as_soon_as_it_is_known() {
        let mut planner = planner(Mode::Interpolate, fraction(50, 1), |settings| settings.origin = Some(0));
        assert_eq!(planner.next_time(), Some(0));
        assert_eq!(sources(&planner.push(0, None)), [Source::At(0)]);
        assert_eq!(sources(&planner.push(40 * MS, None)), [between(0, 1, 2), Source::At(1)]);
        assert_eq!(planner.next_time(), Some(60 * MS));
        // The last one lasts as long as the one before.
        let rest = planner.finish();
        assert_eq!(sources(&rest), [Source::At(1)]);
        assert_eq!((rest[0].time, rest[0].duration), (60 * MS, 20 * MS));
        let counts = Counts { input: 2, output: 4, duplicated: 1, interpolated: 1, dropped: 0 };
        assert_eq!(planner.counts(), counts);
    }

    #[test]
    fn frames_are_where_their_timestamps_say() {
        let plan = |times: &[u64]| {
            let mut planner = planner(Mode::Interpolate, fraction(100, 1), |_| ());
            sources(&all(&mut planner, times.iter().map(|time| time * MS), Some(10 * MS)))
        };
        assert_eq!(
            plan(&[0, 30, 40, 55]),
            [
                Source::At(0),
                between(0, 1, 3),
                between(0, 2, 3),
                Source::At(1),
                Source::At(2),
                between(2, 2, 3),
                Source::At(3),
            ]
        );
        // Off the rate that the input claims, too.
        let claim = |settings: &mut Settings| settings.input_rate = Some(fraction(25, 1));
        let mut planner = planner(Mode::Interpolate, fraction(25, 1), claim);
        let seen = sources(&all(&mut planner, [0, 40 * MS, 90 * MS, 120 * MS], None));
        assert_eq!(seen, [Source::At(0), Source::At(1), between(1, 4, 5), Source::At(3)]);
    }

    #[test]
    fn the_last_frame_is_held_for_its_full_time() {
        let plan = |mode, duration, held: Option<u64>| {
            let change = |settings: &mut Settings| settings.input_rate = Some(fraction(12, 1));
            let mut planner = planner(mode, fraction(16, 1), change);
            let mut outputs: Vec<_> = (0..25u64).flat_map(|k| planner.push(k * SECOND / 12, duration)).collect();
            if let Some(end) = held {
                planner.hold(end);
                outputs.extend(planner.all());
            }
            outputs.extend(planner.finish());
            (outputs, planner.end_time())
        };
        for mode in [Mode::Interpolate, Mode::Duplicate] {
            for duration in [None, Some(83_333_333), Some(83 * MS)] {
                let (outputs, end) = plan(mode, duration, None);
                // 25/12 s are 33 1/3 frames.
                assert_eq!((outputs.len(), outputs[33].source, end), (34, Source::At(24), Some(25 * SECOND / 12)));
            }
            // A frame that lasts longer, and nothing for longer.
            let (outputs, end) = plan(mode, Some(SECOND), None);
            assert_eq!((outputs.len(), end), (48, Some(3 * SECOND)));
            let (outputs, end) = plan(mode, None, Some(5 * SECOND));
            assert_eq!((outputs.len(), outputs[79].source, end), (80, Source::At(24), Some(5 * SECOND)));
        }
    }

    #[test]
    fn a_plan_goes_on_where_another_has_ended() {
        let of = |rate, speed, origin| {
            let settings = Settings::new(Mode::Duplicate, fraction(rate, 1));
            Settings { speed, origin, input_rate: Some(fraction(10, 1)), ..settings }
        };
        let before = |speed| {
            let mut before = Planner::new(of(4, speed, Some(0))).unwrap();
            let outputs = all(&mut before, (0..3).map(|k| k * 100 * MS), Some(100 * MS));
            (before, outputs.len())
        };
        let after = |before: &Planner, settings, time: u64, is_cut| {
            let (mut next, offset) = before.follow(settings, time, is_cut).unwrap();
            let outputs = all(&mut next, [time, time + 100 * MS, time + 200 * MS], Some(100 * MS));
            let times: Vec<_> = outputs.iter().map(|output| (i128::from(output.time) + offset) as u64 / MS).collect();
            (times, (i128::from(next.end_time().unwrap()) + offset) as u64 / MS)
        };
        // At 4 a second, frames come at 0, 250 ms, 500 ms, ...; the input changes at 300 ms.
        let (planner, count) = before(Fraction::ONE);
        assert_eq!((count, planner.end_time()), (2, Some(300 * MS)));
        assert_eq!(after(&planner, of(4, Fraction::ONE, None), 300 * MS, false), (vec![500], 600));
        // What is long past is not filled up.
        assert_eq!(after(&planner, of(4, Fraction::ONE, None), 2310 * MS, false), (vec![2500], 2610));
        // Another rate begins where the last frame ended, cut off or not.
        assert_eq!(after(&planner, of(5, Fraction::ONE, None), 300 * MS, true), (vec![300, 500], 600));
        assert_eq!(after(&planner, of(5, Fraction::ONE, None), 300 * MS, false), (vec![500], 600));
        assert_eq!(after(&planner, of(5, Fraction::ONE, None), 2310 * MS, true), (vec![2310, 2510], 2610));
        // At half the speed, all of it takes twice as long.
        let (planner, count) = before(fraction(1, 2));
        assert_eq!((count, planner.end_time()), (3, Some(600 * MS)));
        assert_eq!(after(&planner, of(4, fraction(1, 2), None), 300 * MS, false), (vec![750, 1000], 1200));
        assert_eq!(after(&planner, of(5, fraction(1, 2), None), 2310 * MS, true), (vec![4620, 4820, 5020], 5220));
        // Retimed frames follow one another.
        let retimed = Settings { mode: Mode::Retime, ..of(4, Fraction::ONE, None) };
        let mut planner = Planner::new(retimed).unwrap();
        all(&mut planner, [0, 100 * MS, 200 * MS], None);
        for rate in [fraction(4, 1), fraction(5, 1)] {
            let (mut next, offset) = planner.follow(Settings { rate, ..retimed }, 9000 * MS, false).unwrap();
            assert_eq!(i128::from(next.push(9000 * MS, None)[0].time) + offset, i128::from(750 * MS));
        }
    }

    #[test]
    fn retiming_keeps_every_frame() {
        let mut planner = planner(Mode::Retime, fraction(16, 1), |_| ());
        let outputs = all(&mut planner, [5, 5, 90 * MS, 80 * MS], None);
        for (k, output) in (0u64..).zip(&outputs) {
            let time = 5 + k * SECOND / 16;
            let source = Source::At(k);
            assert_eq!(*output, Output { number: k, time, duration: SECOND / 16, source, is_repeated: false });
        }
        assert_eq!(outputs.len(), 4);
        assert_eq!(planner.counts(), Counts { input: 4, output: 4, ..Counts::default() });
    }

    #[test]
    fn the_nearest_frame_is_taken_and_the_earlier_of_two() {
        let plan = |rate, input| {
            let change = |settings: &mut Settings| settings.input_rate = Some(fraction(input, 1));
            let mut planner = planner(Mode::Duplicate, fraction(rate, 1), change);
            let outputs = all(&mut planner, (0..input).map(|k| k * SECOND / input), None);
            let numbers: Vec<_> = outputs
                .iter()
                .map(|output| match output.source {
                    Source::At(number) => number,
                    Source::Between { .. } => unreachable!("frames are taken as they are"),
                })
                .collect();
            (numbers, planner.counts())
        };
        let (numbers, counts) = plan(8, 4);
        assert_eq!(numbers, [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!((counts.duplicated, counts.dropped), (4, 0));
        let (numbers, counts) = plan(4, 10);
        assert_eq!(numbers, [0, 2, 5, 7]);
        assert_eq!((counts.duplicated, counts.dropped), (0, 6));
        assert_eq!(plan(12, 16).0, [0, 1, 3, 4, 5, 7, 8, 9, 11, 12, 13, 15]);
    }

    #[test]
    fn the_speed_changes_what_is_shown_and_not_the_rate() {
        let plan = |speed: Fraction| {
            let change = |settings: &mut Settings| settings.speed = speed;
            let mut planner = planner(Mode::Interpolate, fraction(10, 1), change);
            let outputs = all(&mut planner, (7..11).map(|k| k * 100 * MS), Some(100 * MS));
            (outputs, planner.end_time())
        };
        let (slow, end) = plan(fraction(2, 3));
        assert_eq!(
            sources(&slow),
            [Source::At(0), between(0, 2, 3), between(1, 1, 3), Source::At(2), between(2, 2, 3), Source::At(3)]
        );
        assert_eq!((slow[5].time, end), (1200 * MS, Some(1300 * MS)));
        let (fast, end) = plan(fraction(3, 1));
        assert_eq!(sources(&fast), [Source::At(0), Source::At(3)]);
        // 0.4 s are shown in 0.1333 s.
        assert_eq!((fast[1].time, end), (800 * MS, Some(833_333_333)));
    }

    #[test]
    fn the_output_begins_where_it_is_told() {
        let plan = |origin| {
            let mut planner = planner(Mode::Interpolate, fraction(10, 1), |settings| settings.origin = Some(origin));
            all(&mut planner, [500 * MS, 600 * MS, 700 * MS], Some(100 * MS))
        };
        // Before the first frame it shows the first frame.
        let early = plan(250 * MS);
        assert_eq!(sources(&early)[..4], [Source::At(0), Source::At(0), Source::At(0), between(0, 1, 2)]);
        assert_eq!(early[0].time, 250 * MS);
        // Behind it, nothing is shown of what was before.
        let late = plan(575 * MS);
        assert_eq!(sources(&late)[0], between(0, 3, 4));
        assert_eq!(late[0].time, 575 * MS);
    }

    #[test]
    fn nothing_is_between_frames_that_do_not_belong_together() {
        let plan = |gap: u64, is_cut: bool| {
            let mut planner = planner(Mode::Interpolate, fraction(10, 1), |_| ());
            let mut outputs = planner.push(0, None);
            if is_cut {
                planner.disconnect();
            }
            outputs.extend(planner.push(gap, None));
            outputs.extend(planner.push(gap + 200 * MS, None));
            sources(&outputs)
        };
        assert_eq!(plan(200 * MS, false)[1], between(0, 1, 2));
        let cut = plan(200 * MS, true);
        assert_eq!(cut, [Source::At(0), Source::At(0), Source::At(1), between(1, 1, 2), Source::At(2)]);
        let gap = plan(1100 * MS, false);
        assert!(gap[..11].iter().all(|source| *source == Source::At(0)), "{gap:?}");
        assert_eq!(gap[11..13], [Source::At(1), between(1, 1, 2)]);
    }

    #[test]
    fn repeated_frames_are_looked_past() {
        // On twos, then a still, then motion again.
        let mut planner = planner(Mode::Interpolate, fraction(10, 1), |settings| settings.repeats = 1);
        let mut outputs = planner.push(0, None);
        outputs.extend(planner.repeat(100 * MS, None));
        assert_eq!(sources(&outputs), [Source::At(0)]);
        outputs = planner.push(200 * MS, None);
        let halfway = Source::Between { first: 0, second: 2, time: fraction(1, 2) };
        assert_eq!(sources(&outputs), [halfway, Source::At(2)]);
        outputs = (3..6).flat_map(|k| planner.repeat(k * 100 * MS, None)).collect();
        assert_eq!(sources(&outputs), [Source::At(2), Source::At(2), Source::At(2)]);
        assert_eq!(sources(&planner.push(600 * MS, None)), [Source::At(6)]);
        // At the end, repeated frames are part of its time.
        planner.repeat(700 * MS, Some(100 * MS));
        assert_eq!(sources(&planner.finish()), [Source::At(6)]);
        assert_eq!(planner.next_time(), Some(800 * MS));
    }

    #[test]
    fn frames_that_come_too_late_are_left_out() {
        let mut planner = planner(Mode::Interpolate, fraction(10, 1), |_| ());
        planner.push(100 * MS, None);
        for time in [100 * MS, 50 * MS] {
            assert_eq!(planner.push(time, None), []);
        }
        assert_eq!(sources(&planner.push(200 * MS, None)), [Source::At(3)]);
        assert_eq!(planner.counts().dropped, 2);
    }

    #[test]
    fn fractions_that_are_too_fine_are_refused() {
        let settings = Settings {
            speed: fraction(2_147_483_629, 2_147_483_647),
            input_rate: Some(fraction(2_147_483_587, 3)),
            ..Settings::new(Mode::Interpolate, fraction(2_147_483_579, 2))
        };
        let message = Planner::new(settings).unwrap_err().to_string();
        assert!(message.contains("2147483579/2") && message.contains("smaller numbers"), "{message}");
        // What has no short fraction is rounded, and stays between.
        let rough = Fraction::between(1, i128::MAX);
        assert!(rough.numer >= 1 && rough.numer < rough.denom);
        let rough = Fraction::between(i128::MAX - 1, i128::MAX);
        assert!(rough.numer < rough.denom);
        assert_eq!(Fraction::new(0, 1), None);
    }
}
