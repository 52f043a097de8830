// SPDX-License-Identifier: MPL-2.0
//! What a live source shows, frame by frame, of the clips that arrive now and then. It knows neither clocks nor buffers.

use super::Idle;

/// What is shown: a picture that stands still, until there is a clip; then the newest clip, with what its idle mode makes
/// of it until there is another.
pub struct Show<F> {
    /// What `frames` are shown as.
    idle: Idle,
    frames: Vec<F>,
    /// The first picture is shown, and no clip.
    is_still: bool,
    /// Steps since the clip began.
    step: u64,
    /// The clip that comes next, and its number.
    waiting: Option<(u64, Vec<F>)>,
}

/// One step of a show.
pub struct Step<'a, F> {
    /// The picture; nothing is black.
    pub picture: Option<&'a mut F>,
    /// The clip that begins with it.
    pub begins: Option<u64>,
}

impl<F> Show<F> {
    /// A show that begins with a still picture.
    pub fn of(still: F) -> Self {
        Self { idle: Idle::Hold, frames: vec![still], is_still: true, step: 0, waiting: None }
    }

    /// Clip `number` is there: it is shown when the one before has been shown to an end. One that is newer goes before it.
    pub fn arrive(&mut self, number: u64, frames: Vec<F>) {
        self.waiting = Some((number, frames));
    }

    /// Whether a clip waits.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether there is a clip, or one waits.
    pub fn has_clip(&self) -> bool {
        !self.is_still || self.is_waiting()
    }

    /// The next step. Another idle mode than before counts where a clip might begin.
    pub fn next(&mut self, idle: Idle) -> Step<'_, F> {
        let mut begins = None;
        let is_boundary = self.is_still || may_end(self.idle, self.frames.len() as u64, self.step);
        if let Some((number, frames)) = self.waiting.take_if(|_| is_boundary) {
            *self = Self { idle, frames, is_still: false, step: 0, waiting: None };
            begins = Some(number);
        } else if is_boundary && self.idle != idle && !self.is_still {
            (self.idle, self.step) = (idle, 0);
        }
        let place = place(self.idle, self.frames.len() as u64, self.step);
        self.step += 1;
        Step { picture: place.and_then(|place| self.frames.get_mut(place as usize)), begins }
    }
}

/// The frame of a clip of `count` frames that is shown at `step`; none is black.
fn place(idle: Idle, count: u64, step: u64) -> Option<u64> {
    match idle {
        Idle::Loop => step.checked_rem(count),
        Idle::Hold => Some(step.min(count.saturating_sub(1))),
        Idle::Black => Some(step).filter(|&step| step < count),
        // The frames at both ends are shown once.
        Idle::Pingpong => {
            let there_and_back = (2 * count).saturating_sub(2).max(1);
            let place = step % there_and_back;
            Some(place.min(there_and_back - place)).filter(|_| count > 0)
        }
    }
}

/// Whether the clip has been shown to an end before `step`, so that another may begin.
fn may_end(idle: Idle, count: u64, step: u64) -> bool {
    step >= count
        && match idle {
            Idle::Loop => step.checked_rem(count).is_none_or(|place| place == 0),
            Idle::Hold | Idle::Black => true,
            // Behind the last frame, and behind the first.
            Idle::Pingpong => {
                let before = place(idle, count, step - 1);
                before == Some(0) || before == count.checked_sub(1)
            }
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [Idle; 4] = [Idle::Loop, Idle::Hold, Idle::Pingpong, Idle::Black];

    /// What is shown in so many steps, with when clips begin; black is 0.
    fn steps(show: &mut Show<u8>, idle: Idle, count: usize) -> Vec<u8> {
        (0..count).map(|_| show.next(idle).picture.map_or(0, |picture| *picture)).collect()
    }

    fn of_three(idle: Idle) -> Show<u8> {
        let mut show = Show::of(9);
        show.arrive(0, vec![1, 2, 3]);
        assert_eq!(steps(&mut show, idle, 3), [1, 2, 3], "{idle:?}");
        show
    }

    #[test]
    fn a_clip_is_shown_and_then_what_its_mode_makes_of_it() {
        for (idle, wanted) in MODES.into_iter().zip([
            [1, 2, 3, 1, 2, 3, 1, 2, 3],
            [3, 3, 3, 3, 3, 3, 3, 3, 3],
            [2, 1, 2, 3, 2, 1, 2, 3, 2],
            [0, 0, 0, 0, 0, 0, 0, 0, 0],
        ]) {
            assert_eq!(steps(&mut of_three(idle), idle, 9), wanted, "{idle:?}");
        }
    }

    #[test]
    fn the_still_picture_is_held_until_there_is_a_clip() {
        for idle in MODES {
            let mut show = Show::of(9);
            assert_eq!(steps(&mut show, idle, 4), [9; 4]);
            assert!(!show.has_clip());
            show.arrive(5, vec![1, 2]);
            assert!(show.has_clip() && show.is_waiting());
            assert_eq!(show.next(idle).begins, Some(5));
            assert!(show.has_clip() && !show.is_waiting());
            assert_eq!((show.next(idle).begins, show.next(idle).begins), (None, None));
        }
    }

    #[test]
    fn another_clip_begins_where_one_ends() {
        for (idle, shown, rest) in [
            (Idle::Loop, 0, vec![]),
            (Idle::Loop, 1, vec![2, 3]),
            (Idle::Loop, 2, vec![3]),
            (Idle::Hold, 0, vec![]),
            (Idle::Hold, 5, vec![]),
            (Idle::Black, 2, vec![]),
            (Idle::Pingpong, 0, vec![]),
            // 2 was shown on the way back.
            (Idle::Pingpong, 1, vec![1]),
            (Idle::Pingpong, 2, vec![]),
            (Idle::Pingpong, 3, vec![3]),
            (Idle::Pingpong, 4, vec![]),
        ] {
            let mut show = of_three(idle);
            steps(&mut show, idle, shown);
            show.arrive(1, vec![7, 8]);
            assert_eq!(steps(&mut show, idle, rest.len()), rest, "{idle:?} after {shown}");
            let step = show.next(idle);
            assert_eq!((step.begins, step.picture), (Some(1), Some(&mut 7)), "{idle:?} after {shown}");
        }
        // Not before it was shown once.
        for idle in MODES {
            let mut show = Show::of(9);
            show.arrive(0, vec![1, 2, 3]);
            show.next(idle);
            show.arrive(1, vec![7]);
            // The newest goes first.
            show.arrive(2, vec![8]);
            assert_eq!(steps(&mut show, idle, 3), [2, 3, 8], "{idle:?}");
        }
    }

    #[test]
    fn short_clips_are_clips() {
        for (idle, one, two) in [
            (Idle::Loop, [1, 1, 1, 1], [1, 2, 1, 2]),
            (Idle::Hold, [1, 1, 1, 1], [1, 2, 2, 2]),
            (Idle::Pingpong, [1, 1, 1, 1], [1, 2, 1, 2]),
            (Idle::Black, [1, 0, 0, 0], [1, 2, 0, 0]),
        ] {
            for (frames, wanted) in [(vec![1], one), (vec![1, 2], two), (vec![], [0; 4])] {
                let mut show = Show::of(9);
                show.arrive(0, frames);
                assert_eq!(steps(&mut show, idle, 4), wanted, "{idle:?}");
                show.arrive(1, vec![7]);
                let next = steps(&mut show, idle, 2);
                assert!(next.contains(&7), "{idle:?}");
            }
        }
    }

    #[test]
    fn another_mode_counts_where_the_clip_ends() {
        let mut show = of_three(Idle::Loop);
        assert_eq!(steps(&mut show, Idle::Loop, 1), [1]);
        assert_eq!(steps(&mut show, Idle::Black, 6), [2, 3, 1, 2, 3, 0]);
        assert_eq!(steps(&mut show, Idle::Pingpong, 6), [1, 2, 3, 2, 1, 2]);
    }
}
