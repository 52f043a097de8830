// SPDX-License-Identifier: MPL-2.0
//! A folder whose new pictures become clips: those in it of the playlist, those in a folder of a scene's name of the scene.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::mount::{self, Mount};

/// What is heard of the folder; `None` ends it.
type Heard = Option<notify::Result<notify::Event>>;

/// Watches as long as it is kept.
pub struct Watch {
    end: Sender<Heard>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.end.send(None);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Watches a folder as long as what is given is kept.
///
/// # Errors
/// In words why it can't be watched.
pub fn watch(folder: &Path, mounts: Vec<Arc<Mount>>) -> Result<Watch, String> {
    let root = folder.canonicalize().map_err(|err| format!("--watch {}: {err}", folder.display()))?;
    if !root.is_dir() {
        return Err(format!("--watch {}: it is no folder", root.display()));
    }
    let (sender, heard) = mpsc::channel::<Heard>();
    let end = sender.clone();
    let hear = move |event| {
        let _ = sender.send(Some(event));
    };
    let mut watcher = notify::recommended_watcher(hear).map_err(|err| err.to_string())?;
    // Not into the depth: what is put in a new folder before it is watched, nobody tells of.
    let add = |watcher: &mut RecommendedWatcher, folder: &Path| {
        let added = watcher.watch(folder, RecursiveMode::NonRecursive);
        added.map_err(|err| format!("--watch {}: it can't be watched: {err}", folder.display()))
    };
    add(&mut watcher, &root)?;
    for folder in inside(&root).filter(|path| path.is_dir()) {
        add(&mut watcher, &folder)?;
    }
    let listen = move || {
        while let Ok(Some(event)) = heard.recv() {
            let event = match event {
                Ok(event) => event,
                Err(err) => {
                    eprintln!("--watch {}: {err}", root.display());
                    continue;
                }
            };
            for path in event.paths {
                if path.parent() == Some(&root) && is_new(event.kind) && path.is_dir() {
                    if let Err(reason) = add(&mut watcher, &path) {
                        eprintln!("{reason}");
                    }
                    // A folder that was moved here has whole pictures. In one that was made here, one that is still written
                    // is told of again when it is whole.
                    let is_whole = is_whole(event.kind);
                    inside(&path).for_each(|path| take(&root, path, &mounts, is_whole));
                } else if is_whole(event.kind) {
                    take(&root, path, &mounts, true);
                }
            }
        }
    };
    let thread = std::thread::Builder::new().name("watch".into()).spawn(listen).map_err(|err| err.to_string())?;
    Ok(Watch { end, thread: Some(thread) })
}

/// What is in a folder, by name.
fn inside(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths.into_iter()
}

/// Whether something has come that was not there.
fn is_new(kind: EventKind) -> bool {
    matches!(kind, EventKind::Create(CreateKind::Folder) | EventKind::Modify(ModifyKind::Name(RenameMode::To)))
}

/// Whether a file is there whole: its writer has closed it, or it was moved here.
fn is_whole(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Name(RenameMode::To))
    )
}

/// Makes a picture the next keyframe. If it may be half written, it is not told that it is none.
fn take(root: &Path, path: PathBuf, mounts: &[Arc<Mount>], is_whole: bool) {
    let Ok(place) = path.strip_prefix(root) else { return };
    let steps: Vec<_> = place.iter().map(|step| step.to_string_lossy().into_owned()).collect();
    let wanted = match &steps[..] {
        [_] => None,
        [scene, _] => Some(scene.as_str()),
        _ => return,
    };
    // What programs write on the way to a name is none of ours.
    if steps.last().is_some_and(|name| name.starts_with('.')) || !path.is_file() {
        return;
    }
    let Some(mount) = mount::find(mounts, wanted) else {
        return eprintln!("--watch: {}: there is no scene {}", path.display(), wanted.unwrap_or_default());
    };
    match mount::file(path.clone()) {
        Ok(keyframe) => {
            eprintln!("{}: next is {}", mount.path, path.display());
            mount.take(keyframe);
        }
        Err(reason) if is_whole => eprintln!("--watch: {reason}"),
        Err(_) => {}
    }
}
