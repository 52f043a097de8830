// SPDX-License-Identifier: MPL-2.0
//! PROGRESS messages of work that runs off the streaming thread, so that an application can show how far it is.

use std::path::Path;
use std::sync::Arc;

use gst::prelude::*;

use crate::engine::worker::{Cancel, Worker};

/// Tells of a model's load, which `load` begins: START now, COMPLETE when it is there, CANCELED if `closing` is set before.
/// If it fails, the first frame's job says why.
pub fn loading<M: 'static>(
    element: &gst::Element,
    path: &Path,
    closing: &Cancel,
    load: impl FnOnce() -> Arc<Worker<M>>,
) -> Arc<Worker<M>> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let progress = Progress::start(element.downgrade(), "load-model", format!("Loading {name}"), closing);
    let (worker, token) = (load(), closing.clone());
    // The first job comes when the model is loaded.
    drop(worker.submit(move |_| {
        if !token.is_cancelled() {
            progress.complete();
        }
        Ok(())
    }));
    worker
}

/// Work that an application can watch. It posts START when it is made and always an end: COMPLETE when it is told to,
/// else, when it is dropped, CANCELED if its token is set and ERROR if not. So it moves into the job that it tells of,
/// and neither a panic nor a job that never runs leaves an application waiting.
pub struct Progress {
    element: glib::WeakRef<gst::Element>,
    code: &'static str,
    what: String,
    cancel: Cancel,
    is_complete: bool,
}

impl Progress {
    /// Posts that `what` ("Loading svd-nano") has begun. No lock may be held: applications answer messages.
    pub fn start(element: glib::WeakRef<gst::Element>, code: &'static str, what: String, cancel: &Cancel) -> Self {
        let progress = Self { element, code, what, cancel: cancel.clone(), is_complete: false };
        progress.post(gst::ProgressType::Start, &progress.what);
        progress
    }

    /// Posts how far the work is.
    pub fn update(&self, text: &str) {
        self.post(gst::ProgressType::Continue, text);
    }

    /// Posts that the work is done.
    pub fn complete(mut self) {
        self.is_complete = true;
        self.post(gst::ProgressType::Complete, &format!("{}: done", self.what));
    }

    fn post(&self, kind: gst::ProgressType, text: &str) {
        if let Some(element) = self.element.upgrade() {
            let message = gst::message::Progress::builder(kind, self.code, text).src(&element).build();
            // An element outside of a pipeline has no bus, and that is fine.
            let _ = element.post_message(message);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_complete {
            return;
        }
        if self.cancel.is_cancelled() {
            self.post(gst::ProgressType::Canceled, &format!("{}: cancelled", self.what));
        } else {
            self.post(gst::ProgressType::Error, &format!("{}: failed", self.what));
        }
    }
}
