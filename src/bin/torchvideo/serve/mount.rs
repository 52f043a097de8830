// SPDX-License-Identifier: MPL-2.0
//! What can be looked at: a scene, or all of them in turn; and what a director changes about it.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::prelude::*;
use gsttorchvideo::job::{self, Live};
use serde_json::{Value as Json, json};

use super::generator::{Generator, Told};
use super::rtsp::View;

/// How long a playlist waits after a clip that could not be made.
const PAUSE: Duration = Duration::from_secs(5);

/// A picture that clips begin with.
#[derive(Clone)]
pub enum Keyframe {
    File(PathBuf),
    /// Its name and its bytes.
    Sent(String, gst::Sample),
}

/// A clip that can be made: a scene's, or that of a picture that was dropped.
#[derive(Clone)]
struct Item {
    id: String,
    live: Live,
    keyframe: Keyframe,
}

/// What is to be made.
struct Plan {
    items: Vec<Item>,
    /// The one that comes next, if no picture does.
    next: usize,
    /// Pictures that come before.
    pictures: VecDeque<Keyframe>,
    /// The clip in the making, or the last one.
    making: Item,
    /// It is one of `items`.
    is_planned: bool,
    /// What is shown.
    shown: Option<String>,
    /// How often all were made: each round has other seeds.
    round: i64,
    /// Nobody looks: nothing is made before somebody does.
    is_resting: bool,
}

/// Something that can be looked at.
pub struct Mount {
    /// The scene's, or `live`.
    pub id: String,
    /// Where it is, as addresses have it: `/scene/001`.
    pub path: String,
    pub generator: Arc<Generator>,
    plan: Mutex<Plan>,
    /// It goes from scene to scene.
    is_playlist: bool,
}

impl Keyframe {
    fn name(&self) -> String {
        match self {
            Self::File(path) => path.to_string_lossy().into_owned(),
            Self::Sent(name, _) => name.clone(),
        }
    }

    fn set(&self, source: &gst::Element) {
        match self {
            Self::File(path) => {
                source.set_property("location", path.to_string_lossy().as_ref());
                source.set_property("keyframe", None::<gst::Sample>);
            }
            Self::Sent(_, sample) => source.set_property("keyframe", sample),
        }
    }
}

impl Item {
    /// Makes a source make it next.
    fn set(&self, source: &gst::Element) {
        self.keyframe.set(source);
        let mut live = self.live.clone();
        // All that another may have set, and the seed, which counts anew.
        if let Ok(properties) = live.set(&self.live.parameters()) {
            for (name, value) in properties {
                source.set_property_from_value(&name, &value);
            }
        }
    }

    fn seed(&self) -> i64 {
        self.live.parameters().get("seed").and_then(Json::as_i64).unwrap_or_default()
    }
}

impl Mount {
    /// One of these scenes, in turn if they are several.
    pub fn new(
        id: &str,
        scenes: Vec<(String, PathBuf, Live)>,
        is_playlist: bool,
        generator: Arc<Generator>,
    ) -> Arc<Self> {
        let item = |(id, keyframe, live)| Item { id, live, keyframe: Keyframe::File(keyframe) };
        let items: Vec<_> = scenes.into_iter().map(item).collect();
        let making = items[0].clone();
        let plan = Plan {
            next: 1 % items.len(),
            round: i64::from(items.len() == 1),
            items,
            pictures: VecDeque::new(),
            making,
            is_planned: true,
            shown: None,
            is_resting: false,
        };
        let path = if is_playlist { "/live".into() } else { format!("/scene/{}", escaped(id)) };
        let mount = Arc::new(Self { id: id.into(), path, generator, plan: Mutex::new(plan), is_playlist });
        let weak = Arc::downgrade(&mount);
        mount.generator.listen(move |told| {
            if let Some(mount) = weak.upgrade() {
                mount.hear(told);
            }
        });
        mount
    }

    /// Where a view of it is.
    pub fn path_of(&self, view: View) -> String {
        match view {
            View::Clip => self.path.clone(),
            View::Preview => format!("/preview/{}", escaped(&self.id)),
        }
    }

    /// Somebody wants to look: it is begun, if it does not run.
    ///
    /// # Errors
    /// In words why there is nothing to see.
    pub fn open(&self) -> Result<(), String> {
        let item = self.plan.lock().unwrap().making.clone();
        self.generator.begin(|source| item.set(source))?;
        let is_resting = std::mem::take(&mut self.plan.lock().unwrap().is_resting);
        if is_resting {
            self.advance();
        }
        Ok(())
    }

    /// Sets parameters of the next clip, and of those after it.
    ///
    /// # Errors
    /// In words what is not possible; then nothing is set.
    pub fn set(&self, values: &BTreeMap<String, Json>) -> Result<(), String> {
        {
            let mut plan = self.plan.lock().unwrap();
            let (mut making, mut items) = (plan.making.clone(), plan.items.clone());
            making.live.set(values)?;
            for item in &mut items {
                item.live.set(values)?;
            }
            (plan.making, plan.items) = (making, items);
        }
        self.make();
        Ok(())
    }

    /// Makes the clip again with this seed, or with the next one.
    ///
    /// # Errors
    /// The seed is none.
    pub fn regenerate(&self, seed: Option<&Json>) -> Result<(), String> {
        {
            let mut plan = self.plan.lock().unwrap();
            let next = plan.making.seed().wrapping_add(1).into();
            let seed = seed.unwrap_or(&next);
            plan.making.live.set(&BTreeMap::from([("seed".to_string(), seed.clone())]))?;
            plan.keep();
        }
        self.make();
        Ok(())
    }

    /// Makes a clip of another picture next. In a playlist that is one clip; a scene keeps it.
    pub fn take(&self, keyframe: Keyframe) {
        {
            let mut plan = self.plan.lock().unwrap();
            if self.is_playlist {
                plan.pictures.push_back(keyframe);
                if !plan.is_planned {
                    // The picture before comes first.
                    return;
                }
                plan.put_back();
                plan.proceed();
            } else {
                plan.making.keyframe = keyframe;
                plan.keep();
            }
        }
        self.make();
    }

    /// Makes the source make what is to be made.
    fn make(&self) {
        if self.generator.forgive() {
            return;
        }
        let item = self.plan.lock().unwrap().making.clone();
        if let Some(source) = self.generator.source() {
            item.set(&source);
        }
    }

    fn hear(self: &Arc<Self>, told: Told) {
        match told {
            Told::Shown => {
                let is_idle = self.generator.shown.feeds.is_idle();
                {
                    let mut plan = self.plan.lock().unwrap();
                    plan.shown = Some(plan.making.id.clone());
                    plan.is_resting = self.is_playlist && is_idle;
                }
                if self.is_playlist && !is_idle {
                    self.advance();
                }
            }
            Told::NotMade if self.is_playlist => {
                let weak = Arc::downgrade(self);
                glib::timeout_add_once(PAUSE, move || {
                    if let Some(mount) = weak.upgrade() {
                        mount.advance();
                    }
                });
            }
            Told::NotMade => {}
            Told::Behind(true) => {
                eprintln!("{}: {}", self.path, self.generator.status().behind.unwrap_or_default());
            }
            Told::Behind(false) => eprintln!("{}: the machine keeps up again", self.path),
        }
    }

    /// On to the next clip of a playlist.
    fn advance(&self) {
        self.plan.lock().unwrap().proceed();
        self.make();
    }

    /// What there is to tell.
    pub fn status(&self) -> Json {
        let mut status = serde_json::to_value(self.generator.status()).unwrap_or_default();
        let (frames, missed) = self.generator.shown.feeds.counts();
        let plan = self.plan.lock().unwrap();
        status["id"] = json!(self.id);
        status["mount"] = json!(self.path);
        status["keyframe"] = json!(plan.making.keyframe.name());
        status["parameters"] = json!(plan.making.live.parameters());
        status["frames"] = json!(frames);
        status["missed"] = json!(missed);
        status["skipped"] = json!(self.generator.skipped());
        if self.is_playlist {
            status["scenes"] = plan.items.iter().map(|item| item.id.clone()).collect();
            status["scene"] = json!(plan.making.id);
            status["shown_scene"] = json!(plan.shown);
        }
        status
    }
}

impl Plan {
    /// Decides what is made next.
    fn proceed(&mut self) {
        if let Some(keyframe) = self.pictures.pop_front() {
            let id = Path::new(&keyframe.name()).file_name().map(|name| name.to_string_lossy().into_owned());
            self.making = Item { id: id.unwrap_or_default(), live: self.making.live.clone(), keyframe };
            self.is_planned = false;
            return;
        }
        let mut item = self.items[self.next].clone();
        let seed = item.seed().wrapping_add(self.round);
        // A number is always possible.
        let _ = item.live.set(&BTreeMap::from([("seed".to_string(), seed.into())]));
        (self.making, self.is_planned) = (item, true);
        self.next = (self.next + 1) % self.items.len();
        self.round += i64::from(self.next == 0);
    }

    /// The scene in the making gives way, and comes again.
    fn put_back(&mut self) {
        self.round -= i64::from(self.next == 0);
        self.next = (self.next + self.items.len() - 1) % self.items.len();
    }

    /// What was set of the clip in the making is the scene's from now on, if there is but one.
    fn keep(&mut self) {
        if let [only] = &mut self.items[..] {
            *only = self.making.clone();
        }
    }
}

/// A name as a part of an address.
fn escaped(id: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let shown = |byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    id.bytes().map(shown).collect()
}

/// The scene of this name, or all in turn.
pub fn find<'a>(mounts: &'a [Arc<Mount>], id: Option<&str>) -> Option<&'a Arc<Mount>> {
    mounts.iter().find(|mount| match id {
        Some(id) => !mount.is_playlist && mount.id == id,
        None => mount.is_playlist,
    })
}

/// Reads a keyframe from the bytes of a file.
///
/// # Errors
/// In words why it is none.
pub fn sent(bytes: Vec<u8>) -> Result<Keyframe, String> {
    let name = "the picture that was sent";
    job::keyframe(bytes, name).map(|sample| Keyframe::Sent(name.into(), sample))
}

/// A keyframe in a file.
///
/// # Errors
/// In words why it is none.
pub fn file(path: PathBuf) -> Result<Keyframe, String> {
    job::check_keyframe(&path).map(|()| Keyframe::File(path))
}
