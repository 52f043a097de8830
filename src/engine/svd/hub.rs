// SPDX-License-Identifier: MPL-2.0
//! Repositories in the Hugging Face cache: `models--{owner}--{name}` with `refs` (names of commits), `snapshots` (a
//! folder of links for each commit) and `blobs` (the files that they lead to).
//!
//! Upstream: "Understand caching" in the documentation of huggingface_hub.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The folder of a repository (`owner/name`) in the cache `hub`.
pub fn repository(hub: &Path, name: &str) -> PathBuf {
    hub.join(format!("models--{}", name.replace('/', "--")))
}

/// Whether a folder is that of a repository.
pub fn is_repository(path: &Path) -> bool {
    path.join("snapshots").is_dir()
}

/// The snapshots of a repository: that of the branch `main` first, then from the newest to the oldest.
pub fn snapshots(repository: &Path) -> Vec<PathBuf> {
    let main = std::fs::read_to_string(repository.join("refs/main")).unwrap_or_default();
    let entries = repository.join("snapshots").read_dir().into_iter().flatten();
    let mut found: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    found.sort_by_key(|path| {
        let is_main = path.file_name().is_some_and(|name| name == main.trim());
        let time = path.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        std::cmp::Reverse((is_main, time))
    });
    found
}

/// A file of a repository whose download has not ended.
pub fn unfinished(repository: &Path) -> Option<PathBuf> {
    let mut blobs = repository.join("blobs").read_dir().into_iter().flatten();
    blobs.find_map(|entry| Some(entry.ok()?.path()).filter(|path| path.extension().is_some_and(|e| e == "incomplete")))
}

/// The SHA-256 that the cache names a large file by. `None` for other files.
pub fn hash_by_name(path: &Path) -> Option<String> {
    let blob = path.canonicalize().ok()?;
    let folder = blob.parent()?;
    let is_cache = folder.ends_with("blobs") && folder.parent().is_some_and(is_repository);
    let name = blob.file_name()?.to_str()?;
    let is_hash = name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_cache && is_hash).then(|| name.into())
}
