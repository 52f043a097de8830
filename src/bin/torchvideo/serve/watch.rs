// SPDX-License-Identifier: MPL-2.0
//! A folder whose new pictures become clips: those in it of the playlist, those in a folder of a scene's name of the scene.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::mount::{self, Mount};

/// Watches a folder as long as what is given is kept.
///
/// # Errors
/// In words why it can't be watched.
pub fn watch(folder: &Path, mounts: Vec<Arc<Mount>>) -> Result<RecommendedWatcher, String> {
    let folder = folder.canonicalize().map_err(|err| format!("--watch {}: {err}", folder.display()))?;
    if !folder.is_dir() {
        return Err(format!("--watch {}: it is no folder", folder.display()));
    }
    let root = folder.clone();
    let hear = move |event: notify::Result<notify::Event>| match event {
        Ok(event) if is_whole(event.kind) => {
            for path in event.paths {
                take(&root, path, &mounts);
            }
        }
        Ok(_) => {}
        Err(err) => eprintln!("--watch {}: {err}", root.display()),
    };
    let mut watcher = notify::recommended_watcher(hear).map_err(|err| err.to_string())?;
    watcher
        .watch(&folder, RecursiveMode::Recursive)
        .map_err(|err| format!("--watch {}: it can't be watched: {err}", folder.display()))?;
    Ok(watcher)
}

/// Whether a file is there whole: its writer has closed it, or it was moved here.
fn is_whole(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Name(RenameMode::To))
    )
}

fn take(root: &Path, path: PathBuf, mounts: &[Arc<Mount>]) {
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
        Err(reason) => eprintln!("--watch: {reason}"),
    }
}
