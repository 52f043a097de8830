// SPDX-License-Identifier: MPL-2.0
//! Loaded models, shared: whoever asks for the same weights on the same device in the same precision gets the same
//! worker, for as long as somebody holds it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::SystemTime;

use tch::{Device, Kind};

use super::worker::Worker;

/// What makes two loaded models the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    path: PathBuf,
    variant: String,
    files: Vec<Stamp>,
    device: Device,
    kind: Kind,
}

/// What tells a file from the one that it is replaced by: its path, size and time.
pub type Stamp = (PathBuf, u64, Option<SystemTime>);

/// A file's stamp; of a link, that of the file that it leads to.
pub fn stamp(path: &Path) -> Stamp {
    let data = path.metadata().ok();
    (path.into(), data.as_ref().map_or(0, |data| data.len()), data.and_then(|data| data.modified().ok()))
}

impl Key {
    /// The key of the model in the file `path`. A file that has been replaced since is another model.
    pub fn new(path: &Path, device: Device, kind: Kind) -> Self {
        Self::of_files(path, "", &[path.into()], device, kind)
    }

    /// The key of the model at `path` that is read from `files`; `variant` tells apart what is read from the same ones.
    pub fn of_files(path: &Path, variant: &str, files: &[PathBuf], device: Device, kind: Kind) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.into());
        let files = files.iter().map(|file| stamp(file)).collect();
        Self { path, variant: variant.into(), files, device, kind }
    }
}

/// The workers of one sort of model.
pub struct Cache<M>(Mutex<Option<HashMap<Key, Weak<Worker<M>>>>>);

impl<M: 'static> Cache<M> {
    /// An empty cache.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The worker for `key`; `spawn` starts it if there is none, or one whose model could not be loaded: the reason may
    /// be gone.
    pub fn get(&self, key: Key, spawn: impl FnOnce() -> Arc<Worker<M>>) -> Arc<Worker<M>> {
        let mut cache = self.0.lock().unwrap();
        let workers = cache.get_or_insert_default();
        workers.retain(|_, worker| worker.strong_count() > 0);
        if let Some(worker) = workers.get(&key).and_then(Weak::upgrade).filter(|worker| !worker.has_failed()) {
            return worker;
        }
        let worker = spawn();
        workers.insert(key, Arc::downgrade(&worker));
        worker
    }
}

impl<M: 'static> Default for Cache<M> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Error;
    use std::sync::mpsc;

    #[test]
    fn equal_keys_share_a_worker_while_it_is_held() {
        let cache = Cache::<u8>::new();
        let get = |path: &str, kind| {
            cache.get(Key::new(Path::new(path), Device::Cpu, kind), || Worker::spawn("test", |_| Ok(0)))
        };
        let first = get("a", Kind::Float);
        assert!(Arc::ptr_eq(&first, &get("a", Kind::Float)));
        assert!(!Arc::ptr_eq(&first, &get("a", Kind::Half)));
        assert!(!Arc::ptr_eq(&first, &get("b", Kind::Float)));
        let weak = Arc::downgrade(&first);
        drop(first);
        assert!(weak.upgrade().is_none());
        get("a", Kind::Float);
    }

    #[test]
    fn a_model_in_the_middle_of_a_job_is_not_loaded_twice() {
        let cache = Cache::<u8>::new();
        let key = || Key::new(Path::new("a"), Device::Cpu, Kind::Float);
        let worker = cache.get(key(), || Worker::spawn("test", |_| Ok(0)));
        let ((begun, has_begun), (end, may_end)) = (mpsc::channel(), mpsc::channel::<()>());
        let reply = worker.submit(move |model| {
            begun.send(()).unwrap();
            may_end.recv().unwrap();
            *model += 1;
            Ok(())
        });
        has_begun.recv().unwrap();
        drop(worker);
        let worker = cache.get(key(), || unreachable!("it is there"));
        end.send(()).unwrap();
        reply.wait().unwrap();
        assert_eq!(worker.submit(|model| Ok(*model)).wait().unwrap(), 1);
    }

    #[test]
    fn a_load_that_failed_is_tried_again() {
        let cache = Cache::<u8>::new();
        let key = || Key::new(Path::new("a"), Device::Cpu, Kind::Float);
        let failed = cache.get(key(), || Worker::spawn("test", |_| Err(Error::model("a", "is broken"))));
        assert!(failed.submit(|_| Ok(())).wait().is_err());
        let again = cache.get(key(), || Worker::spawn("test", |_| Ok(1)));
        assert_eq!(again.submit(|model| Ok(*model)).wait().unwrap(), 1);
        assert!(Arc::ptr_eq(&again, &cache.get(key(), || unreachable!("it is there"))));
    }

    #[test]
    fn a_file_that_is_replaced_is_another_model() {
        let folder = tempfile::tempdir().unwrap();
        let (config, weights) = (folder.path().join("config.json"), folder.path().join("weights"));
        std::fs::write(&config, "{}").unwrap();
        std::fs::write(&weights, "one").unwrap();
        let files = [config, weights.clone()];
        let key = |variant| Key::of_files(folder.path(), variant, &files, Device::Cpu, Kind::Float);
        let before = key("");
        assert_eq!(key(""), before);
        assert_ne!(key("svd-xt"), before);
        // Of another size, and of the same size but another time: the folder's own time says neither.
        std::fs::write(&weights, "longer").unwrap();
        let longer = key("");
        assert_ne!(longer, before);
        let file = std::fs::File::options().write(true).open(&weights).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_ne!(key(""), longer);
    }
}
