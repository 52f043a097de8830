// SPDX-License-Identifier: MPL-2.0
//! Which frame's turn it is, where frames come by the clock. It knows neither clocks nor buffers.

const SECOND: u64 = 1_000_000_000;

/// The number of the frame whose turn it is, `now` nanoseconds from the beginning, at a rate of frames in seconds: the
/// `next` one, and the one that is shown now, if there is none or `now` is more than a second away from it: somebody
/// held the stream up, or the time was set anew.
pub fn turn(next: Option<u64>, now: u64, (frames, seconds): (u64, u64)) -> u64 {
    let at = |time: u64| {
        let number = u128::from(time) * u128::from(frames) / (u128::from(seconds) * u128::from(SECOND));
        u64::try_from(number).unwrap_or(u64::MAX)
    };
    let (here, second) = (at(now), at(SECOND) + 1);
    let is_near = |next: &u64| next.saturating_add(second) >= here && *next <= here.saturating_add(1 + second);
    next.filter(is_near).unwrap_or(here)
}

#[cfg(test)]
mod tests {
    use super::turn;

    #[test]
    fn turns_come_one_after_the_other() {
        const RATE: (u64, u64) = (25, 2);
        let turn = |next, now| turn(next, now, RATE);
        // A frame takes 80 ms.
        assert_eq!((turn(None, 0), turn(None, 79_999_999), turn(None, 80_000_000)), (0, 0, 1));
        for now in [0, 80_000_000, 1_050_000_000] {
            assert_eq!(turn(Some(1), now), 1, "{now}");
        }
        assert_eq!(turn(Some(1), 2_000_000_000), 25);
        assert_eq!(turn(Some(1000), 160_000_000), 2);
        // At a frame a second, the next is always a second away.
        assert_eq!(super::turn(Some(1), 0, (1, 1)), 1);
        assert_eq!(super::turn(Some(u64::MAX), 0, (1, 1)), 0);
        assert_eq!(super::turn(None, u64::MAX, (i32::MAX as u64, 1)), u64::MAX);
    }
}
