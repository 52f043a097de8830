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
    modified: Option<SystemTime>,
    device: Device,
    kind: Kind,
}

impl Key {
    /// The key of the model at `path`. A file that has been replaced since is another model.
    pub fn new(path: &Path, device: Device, kind: Kind) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.into());
        let modified = path.metadata().and_then(|data| data.modified()).ok();
        Self { path, modified, device, kind }
    }
}

/// The workers of one sort of model.
pub struct Cache<M>(Mutex<Option<HashMap<Key, Weak<Worker<M>>>>>);

impl<M: 'static> Cache<M> {
    /// An empty cache.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The worker for `key`; `spawn` starts it if there is none.
    pub fn get(&self, key: Key, spawn: impl FnOnce() -> Worker<M>) -> Arc<Worker<M>> {
        let mut cache = self.0.lock().unwrap();
        let workers = cache.get_or_insert_default();
        workers.retain(|_, worker| worker.strong_count() > 0);
        if let Some(worker) = workers.get(&key).and_then(Weak::upgrade) {
            return worker;
        }
        let worker = Arc::new(spawn());
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
}
