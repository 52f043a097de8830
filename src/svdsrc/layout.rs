// SPDX-License-Identifier: MPL-2.0
//! How much a run makes, and how its frames are divided into clips.

use std::ops::Range;

use gst::prelude::*;
use serde_json::Value as Json;

use crate::engine::{Error, Result};
use crate::svd::settings::Settings;

/// How much is made.
#[derive(Debug, Clone, Copy)]
pub enum Extent {
    /// So many clips; `None` is endless.
    Clips {
        /// How many.
        count: Option<u64>,
        /// Whether each goes on from the one before.
        is_chained: bool,
    },
    /// So long.
    Duration(gst::ClockTime),
    /// One clip, of which only these frames are shown.
    Part {
        /// The first.
        first: u64,
        /// How many.
        count: u64,
    },
}

impl Extent {
    /// How much the settings ask for; `pictures` is how many keyframes there are.
    ///
    /// # Errors
    /// [`Error::Param`] for settings that contradict one another.
    pub fn of(settings: &Settings, pictures: u64) -> Result<Self> {
        let is_chained = settings.value("chain").and_then(Json::as_bool).unwrap_or(false);
        if is_chained && pictures > 1 {
            let expected = "a chain has one keyframe: use a location with one picture, or chain=false";
            return Err(Error::param("chain", true, expected));
        }
        let count = settings.integer("num-clips");
        let duration = settings.value("duration").and_then(Json::as_u64).filter(|&duration| duration > 0);
        if let Some(duration) = duration {
            if let Some(count) = count {
                let expected = format!("leave it unset: duration={duration} decides how many clips there are");
                return Err(Error::param("num_clips", count, expected));
            }
            return Ok(Self::Duration(gst::ClockTime::from_nseconds(duration)));
        }
        let count = count.unwrap_or(pictures.max(1) as i64);
        let count = u64::try_from(count)
            .map_err(|_| Error::param("num_clips", count, "use 1 or more, or 0 for clips without an end"))?;
        Ok(Self::Clips { count: Some(count).filter(|&count| count > 0), is_chained })
    }

    /// The same at a frame rate, in clips of `num_frames` at most.
    ///
    /// # Errors
    /// Those of [`Layout::of_clips`], [`Layout::of_frames`] and [`Layout::of_part`].
    pub fn layout(self, num_frames: i64, fps: gst::Fraction) -> Result<Layout> {
        match self {
            Self::Clips { count, is_chained } => Layout::of_clips(num_frames, count, is_chained),
            Self::Duration(duration) => {
                let second = gst::ClockTime::SECOND.nseconds() * fps.denom() as u64;
                let frames = duration.nseconds().mul_div_round(fps.numer() as u64, second);
                Layout::of_frames(num_frames, frames.unwrap_or(u64::MAX))
            }
            Self::Part { first, count } => Layout::of_part(num_frames, first, count),
        }
    }
}

/// The clips of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Frames that are generated for each clip.
    pub num_frames: i64,
    /// Whether each clip but the first begins with a frame that has been shown.
    pub is_chained: bool,
    /// Frames in all; `None` if there is no end.
    pub total: Option<u64>,
    /// Frames of the first clip that are left out.
    left_out: u64,
}

impl Layout {
    /// A run of `clips` (`None`: without an end) clips of `num_frames` each.
    ///
    /// # Errors
    /// [`Error::Param`] if a chain could not go on.
    pub fn of_clips(num_frames: i64, clips: Option<u64>, is_chained: bool) -> Result<Self> {
        if is_chained && num_frames < 2 && clips != Some(1) {
            return Err(Error::param("num_frames", num_frames, "use 2 or more for a chain"));
        }
        let layout = Self { num_frames, is_chained, total: None, left_out: 0 };
        Ok(Self { total: clips.map(|clips| layout.start(clips)), ..layout })
    }

    /// A run of `total` frames: in one clip, if it may have as many, else in a chain of clips as long as one another.
    ///
    /// # Errors
    /// [`Error::Param`] if a chain could not go on.
    pub fn of_frames(num_frames: i64, total: u64) -> Result<Self> {
        let total = total.max(1);
        if total <= num_frames as u64 {
            return Ok(Self { num_frames: total as i64, is_chained: false, total: Some(total), left_out: 0 });
        }
        if num_frames < 2 {
            return Err(Error::param("num_frames", num_frames, "use 2 or more: the duration takes more than one clip"));
        }
        // Each clip goes on by one frame less than it has.
        let clips = (total - 1).div_ceil(num_frames as u64 - 1);
        let steps = (total - 1).div_ceil(clips);
        Ok(Self { num_frames: steps as i64 + 1, is_chained: true, total: Some(total), left_out: 0 })
    }

    /// One clip, of which `count` frames are shown, from `first` on.
    ///
    /// # Errors
    /// [`Error::Param`] if it has not as many.
    pub fn of_part(num_frames: i64, first: u64, count: u64) -> Result<Self> {
        if first + count > num_frames as u64 {
            let expected = format!("use {} or more, or another provenance", first + count);
            return Err(Error::param("num_frames", num_frames, expected));
        }
        Ok(Self { num_frames, is_chained: false, total: Some(count), left_out: first })
    }

    /// The number of the first frame that clip `clip`, counted from 0, adds; that of clip `n` is also how many frames
    /// `n` clips have.
    pub fn start(&self, clip: u64) -> u64 {
        let frames = self.num_frames as u64;
        let start = match (self.is_chained, clip) {
            (false, _) => clip.saturating_mul(frames),
            (true, 0) => 0,
            (true, _) => clip.saturating_mul(frames - 1).saturating_add(1),
        };
        self.total.map_or(start, |total| start.min(total))
    }

    /// The frames of clip `clip` that are shown: in a chain, all but the first clip begin with one that has been. A clip
    /// beyond the last is whole.
    pub fn frames(&self, clip: u64) -> Range<usize> {
        let first = if clip == 0 { self.left_out } else { u64::from(self.is_chained) };
        if !self.has(clip) {
            return first as usize..self.num_frames as usize;
        }
        let count = self.start(clip.saturating_add(1)) - self.start(clip);
        first as usize..(first + count) as usize
    }

    /// How many clips there are; `None` if there is no end.
    pub fn clips(&self) -> Option<u64> {
        let frames = self.num_frames as u64;
        let each = if self.is_chained { frames - 1 } else { frames };
        let total = if self.is_chained { self.total?.saturating_sub(1) } else { self.total? };
        Some(total.div_ceil(each.max(1)).max(1))
    }

    /// Whether there is a clip of this number.
    pub fn has(&self, clip: u64) -> bool {
        self.total.is_none_or(|total| self.start(clip) < total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many frames each clip adds.
    fn parts(layout: &Layout) -> Vec<u64> {
        (0..20).take_while(|&clip| layout.has(clip)).map(|clip| layout.start(clip + 1) - layout.start(clip)).collect()
    }

    #[test]
    fn clips_stand_side_by_side() {
        let layout = Layout::of_clips(14, Some(3), false).unwrap();
        assert_eq!((parts(&layout), layout.total), (vec![14; 3], Some(42)));
        let endless = Layout::of_clips(14, None, false).unwrap();
        assert_eq!((endless.total, endless.has(1 << 60)), (None, true));
    }

    #[test]
    fn a_chain_shares_its_joints() {
        let layout = Layout::of_clips(14, Some(3), true).unwrap();
        assert_eq!((parts(&layout), layout.total), (vec![14, 13, 13], Some(40)));
        assert_eq!([0, 1, 2].map(|clip| layout.frames(clip)), [0..14, 1..14, 1..14]);
        assert!(Layout::of_clips(1, None, true).is_err());
        assert!(Layout::of_clips(1, Some(1), true).is_ok());
    }

    #[test]
    fn a_number_of_frames_is_met() {
        for (most, total, each, wanted) in [
            (25, 1, 1, vec![1]),
            (25, 25, 25, vec![25]),
            (25, 26, 14, vec![14, 12]),
            (25, 49, 25, vec![25, 24]),
            (25, 50, 18, vec![18, 17, 15]),
            (14, 40, 14, vec![14, 13, 13]),
        ] {
            let layout = Layout::of_frames(most, total).unwrap();
            assert_eq!((layout.num_frames, parts(&layout)), (each, wanted), "{total}");
            assert_eq!(layout.is_chained, total > most as u64);
        }
        assert!(Layout::of_frames(1, 2).is_err());
        let layout = Layout::of_frames(25, 50).unwrap();
        assert_eq!([0, 1, 2, 3].map(|clip| layout.frames(clip)), [0..18, 1..18, 1..16, 1..18]);
    }

    #[test]
    fn a_part_is_shown_alone() {
        let layout = Layout::of_part(18, 1, 15).unwrap();
        assert_eq!((parts(&layout), layout.total, layout.frames(0)), (vec![15], Some(15), 1..16));
        assert!(Layout::of_part(15, 1, 15).is_err());
    }
}
