// SPDX-License-Identifier: MPL-2.0
//! What a run of the element knows: what was set, the clips in hand and ahead, the pictures.

use std::sync::Arc;

use gst_video::VideoInfo;
use serde_json::Value as Json;

use super::Idle;
use super::layout::{Extent, Layout};
use crate::engine;
use crate::engine::worker::Cancel;
use crate::svd::clip::{Clip, Link, Since};
use crate::svd::keyframe::{self, Keyframe};
use crate::svd::plan::Plan;
use crate::svd::session::Session;
use crate::svd::settings::Settings;

/// What was set by hand.
#[derive(Default, Clone)]
pub struct Wanted {
    pub settings: Settings,
    pub keyframe: Option<gst::Sample>,
    /// How often `location` or `keyframe` was set.
    pub picturings: u64,
    /// The properties that a URI has set.
    pub by_uri: Vec<String>,
}

/// What the element is at.
#[derive(Default)]
pub struct State {
    /// Between `unlock` and `unlock_stop` nothing may wait.
    pub is_flushing: bool,
    /// From the change to PAUSED to the one back to READY.
    pub run: Option<Run>,
}

/// One run of the element.
pub struct Run {
    pub session: Arc<Session>,
    /// The last that was possible.
    pub plan: Plan,
    pub pictures: Pictures,
    /// What decides how many frames there are.
    pub extent: Extent,
    /// The same, once the frame rate is known.
    pub layout: Option<Layout>,
    pub info: Option<VideoInfo>,
    /// The clip whose frames are given out; in a live run, the one in the making.
    pub current: Option<Arc<Clip>>,
    /// The one after it.
    pub ahead: Option<Arc<Clip>>,
    /// In a chain, what the clip in hand goes on from.
    pub last: Option<(Keyframe, Link)>,
    /// For a clip of a chain that is made again: the clips before it.
    pub before: Option<Vec<Before>>,
    /// Clips that were given out whole; in a live run, that were made.
    pub clips: u64,
    /// Frames that were given out, of all clips; in a live run, the number of the next.
    pub frames: u64,
    /// The clip that has the seed that was set.
    pub seeded: Since,
    /// The clip that begins with the picture that was set, though it be in a chain.
    pub pictured: Since,
    /// The last picture that there was.
    pub keyframe: Option<Keyframe>,
    /// The last warning about properties; one is enough.
    pub warned: String,
    /// The clip in hand has been told of.
    pub is_told: bool,
    /// An error was posted. One is enough.
    pub has_failed: bool,
    /// Of a live run.
    pub live: Option<Live>,
}

/// What a live run has besides.
#[derive(Default)]
pub struct Live {
    /// How often something was set.
    pub changes: u64,
    /// The same, as the last clip was begun.
    pub begun_at: u64,
    /// The last clip could not be made: none is begun before something is set.
    pub has_stopped: bool,
    /// Ends what the streaming thread waits for but the clock.
    pub stop: Cancel,
    /// What it waits for at the clock.
    pub wait: Option<gst::SingleShotClockId>,
}

impl Live {
    /// Something was set since the last clip was begun.
    pub fn is_changed(&self) -> bool {
        self.changes != self.begun_at
    }

    /// Ends whatever the streaming thread waits for.
    pub fn interrupt(&self) {
        self.stop.cancel();
        if let Some(wait) = &self.wait {
            wait.unschedule();
        }
    }
}

/// Clips of a chain that differ by their seeds alone.
pub struct Before {
    pub settings: Settings,
    /// The last that was possible.
    pub plan: Plan,
    pub clips: u64,
}

/// The pictures that a location names, one for each clip.
#[derive(Clone, Default)]
pub struct Pictures {
    pub location: String,
    pub files: Vec<Keyframe>,
}

impl Wanted {
    /// Whether frames are to come by the clock, whatever is made.
    pub fn is_live(&self) -> bool {
        self.settings.value("is-live").and_then(Json::as_bool).unwrap_or(false)
    }

    /// What a live run shows when a clip has been shown.
    pub fn idle(&self) -> Idle {
        self.settings.text("idle").map(Idle::of).unwrap_or_default()
    }
}

impl Pictures {
    /// Those of a location; none of an empty one.
    ///
    /// # Errors
    /// Those of [`keyframe::files`].
    pub fn open(location: &str) -> engine::Result<Self> {
        if location.is_empty() {
            return Ok(Self::default());
        }
        let files = keyframe::files(location)?;
        let is_one = files.len() == 1;
        let files = files.into_iter().map(|file| Keyframe::file(file, is_one)).collect();
        Ok(Self { location: location.into(), files })
    }

    /// That of a clip; after the last comes the first.
    pub fn of(&self, clip: u64) -> Option<Keyframe> {
        let count = self.files.len() as u64;
        clip.checked_rem(count).map(|clip| self.files[clip as usize].clone())
    }
}

impl Run {
    /// Where the frame of this number begins. `None` before the frame rate is known.
    pub fn time(&self, frame: u64) -> Option<gst::ClockTime> {
        self.info.as_ref().and_then(|info| crate::svd::time(frame, info.fps()))
    }

    /// Frames of all clips. `None` if there is no end, as in a live run.
    pub fn total(&self) -> Option<u64> {
        if self.live.is_some() { None } else { self.layout?.total }
    }
}

/// What a clip's order depends on.
pub struct Place {
    pub wanted: Wanted,
    pub session: Arc<Session>,
    pub info: VideoInfo,
    pub layout: Layout,
    pub start: gst::ClockTime,
    /// The last frame of the clip before it, if it goes on from there.
    pub before: Option<(Keyframe, Link)>,
    /// How many clips after the one that has the seed that was set.
    pub after_seed: u64,
    /// The same of the picture.
    pub after_picture: u64,
}
