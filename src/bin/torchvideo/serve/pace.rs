// SPDX-License-Identifier: MPL-2.0
//! Whether a machine keeps up with a live source's frames, and which are left out if it does not. It knows neither clocks
//! nor buffers.

use std::time::Duration;

/// A frame that would be this late when the next has its turn is left out, unless none is newer. The source itself goes on
/// with what is new after a second: it would be too late for what is even.
const LATE: Duration = Duration::from_millis(500);
/// Over a longer gap, nothing fills it: that would take time that is missing, and takers' queues are no longer.
const LONGEST: Duration = Duration::from_secs(1);
/// Frames that are left out are told of if they are this long, with no more than this between two.
const WHILE: Duration = Duration::from_secs(5);
/// The machine keeps up again if for this long none was left out.
const AGAIN: Duration = Duration::from_secs(10);

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It follows the one before.
    Goes,
    /// It goes, and some before it are missing.
    GoesOn,
    /// It goes, and so much before it is missing that nothing is to be made of that.
    Begins,
    /// It is left out.
    Skipped,
}

/// What is known of the frames so far.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the frame after the last one begins.
    next: Option<Duration>,
    /// When the last one that went ends.
    went: Option<Duration>,
    /// When it left, if none has come since.
    left: Option<Duration>,
    /// What the last two that went took.
    took: [Duration; 2],
    skipped: u64,
    /// When the first and the last of those were missing that are missing now and then.
    missing: Option<(Duration, Duration)>,
    is_behind: bool,
}

impl Pace {
    /// A frame leaves the source `now`; its turn was at `time`.
    pub fn turn(&mut self, time: Duration, duration: Duration, now: Duration) -> Turn {
        // Those that the source itself left out.
        let gap = self.next.map_or(Duration::ZERO, |next| time.saturating_sub(next));
        let mut missing = (gap.as_secs_f64() / duration.as_secs_f64().max(1e-9)).round() as u64;
        self.next = Some(time + duration);
        if let Some(left) = self.left.take() {
            self.took = [self.took[1], now.saturating_sub(left)];
        }
        // One that was held up catches up.
        let takes = self.took[0].min(self.took[1]);
        // What comes first is waited for: models are loaded.
        let is_late =
            self.went.is_some() && now.saturating_sub(time) > duration.max((LATE + duration).saturating_sub(takes));
        missing += u64::from(is_late);
        self.skipped += missing;
        if missing > 0 {
            let first =
                self.missing.filter(|(_, last)| now.saturating_sub(*last) <= WHILE).map_or(now, |(first, _)| first);
            self.missing = Some((first, now));
            self.is_behind |= now.saturating_sub(first) >= WHILE;
        } else if self.missing.is_some_and(|(_, last)| now.saturating_sub(last) >= AGAIN) {
            (self.missing, self.is_behind) = (None, false);
        }
        if is_late {
            return Turn::Skipped;
        }
        let hole = self.went.map_or(Duration::ZERO, |went| time.saturating_sub(went));
        (self.went, self.left) = (Some(time + duration), Some(now));
        match hole {
            hole if hole > LONGEST => Turn::Begins,
            hole if hole > duration / 2 => Turn::GoesOn,
            _ => Turn::Goes,
        }
    }

    /// Nobody looks: what comes meanwhile is not missing.
    pub fn rest(&mut self) {
        (self.next, self.left, self.missing, self.is_behind) = (None, None, None, false);
    }

    /// Frames that were left out.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether frames have been missing for a while.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(100);

    /// A machine, and the frames of a source.
    #[derive(Default)]
    struct Machine {
        pace: Pace,
        number: u32,
        now: Duration,
    }

    impl Machine {
        /// So many frames more, each of which takes so long if it goes. As the source does it, it goes on with what is new
        /// where it is late by more than a second.
        fn run(&mut self, frames: u32, takes: Duration) -> Vec<Turn> {
            let turns = (0..frames).map(|_| {
                if self.now.saturating_sub(FRAME * self.number) > Duration::from_secs(1) {
                    self.number = self.now.div_duration_f64(FRAME) as u32;
                }
                let time = FRAME * self.number;
                self.number += 1;
                self.now = self.now.max(time);
                let turn = self.pace.turn(time, FRAME, self.now);
                if turn != Turn::Skipped {
                    self.now += takes;
                }
                turn
            });
            turns.collect()
        }
    }

    #[test]
    fn who_keeps_up_misses_nothing() {
        let mut machine = Machine::default();
        // Whatever the first takes, and held up for a moment now and then.
        machine.run(1, FRAME * 15);
        machine.run(20, FRAME / 2);
        let skipped = machine.pace.skipped();
        for _ in 0..20 {
            assert_eq!(machine.run(1, FRAME * 5), [Turn::Goes]);
            assert_eq!(machine.run(20, FRAME / 2), [Turn::Goes; 20]);
        }
        assert_eq!(machine.run(100, FRAME), [Turn::Goes; 100]);
        assert_eq!((machine.pace.skipped(), machine.pace.is_behind()), (skipped, false));
    }

    #[test]
    fn who_does_not_keep_up_misses_frames_evenly() {
        for (takes, most) in [(105, 1), (130, 1), (200, 1), (300, 2), (450, 4), (800, 8), (940, 9)] {
            let mut machine = Machine::default();
            let takes = Duration::from_millis(takes);
            machine.run(60, takes);
            let (turns, begun) = (machine.run(300, takes), machine.number);
            // Up to the next frame of the source, each goes at once.
            let missing = turns.split(|turn| *turn != Turn::Skipped).map(<[_]>::len).max();
            assert!(missing <= Some(most), "{takes:?}: {missing:?}");
            assert!(turns.contains(&Turn::GoesOn) && !turns.contains(&Turn::Begins), "{takes:?}: {turns:?}");
            let late = machine.now.saturating_sub(FRAME * begun);
            assert!(late < Duration::from_secs(1) + takes, "{takes:?}: {late:?}");
        }
    }

    #[test]
    fn who_does_not_keep_up_for_a_while_is_told_of_until_he_does() {
        let mut machine = Machine::default();
        machine.run(40, FRAME * 2);
        assert!(!machine.pace.is_behind() && machine.pace.skipped() > 0);
        machine.run(40, FRAME * 2);
        assert!(machine.pace.is_behind());
        machine.run(90, FRAME / 2);
        assert!(machine.pace.is_behind(), "it may be for a moment");
        machine.run(30, FRAME / 2);
        assert!(!machine.pace.is_behind());
        // Now and then is not for a while.
        for _ in 0..10 {
            machine.run(1, FRAME * 8);
            machine.run(60, FRAME / 2);
        }
        assert!(!machine.pace.is_behind());
        machine.run(100, FRAME * 2);
        assert!(machine.pace.is_behind());
        machine.pace.rest();
        assert!(!machine.pace.is_behind());
    }

    #[test]
    fn a_rest_is_not_filled_and_not_missing() {
        let mut machine = Machine::default();
        machine.run(10, FRAME);
        machine.pace.rest();
        (machine.number, machine.now) = (1000, FRAME * 1000);
        assert_eq!(machine.run(3, FRAME), [Turn::Begins, Turn::Goes, Turn::Goes]);
        assert_eq!(machine.pace.skipped(), 0);
        // What the source left out is.
        (machine.number, machine.now) = (1008, FRAME * 1008);
        assert_eq!(machine.run(2, FRAME), [Turn::GoesOn, Turn::Goes]);
        assert_eq!(machine.pace.skipped(), 5);
    }
}
