// SPDX-License-Identifier: MPL-2.0
//! From a keyframe to a clip: encode, denoise, decode.

use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind};

use super::Params;
use crate::engine::Result;
use crate::engine::image::Frame;
use crate::engine::worker::{Cancel, Worker};

/// What the files of a model's folder say, read without its weights.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The parameters that the model's makers recommend: its own frames, size and steps.
    pub recommended: Params,
}

/// Reads and checks the configuration in a model's folder: fast, and without touching the weights.
pub fn inspect(_folder: &Path) -> Result<ModelInfo> {
    todo!()
}

/// What happens while a clip is made.
#[derive(Debug, Clone)]
pub enum Event {
    /// The keyframe has been encoded.
    Encoded,
    /// A denoising step has ended: `step` of `steps`.
    Step {
        /// 1 after the first step.
        step: i64,
        /// All steps.
        steps: i64,
    },
    /// Frames have been decoded: the next of the clip, in order.
    Decoded(Vec<Frame>),
}

/// A loaded model.
pub struct Model {}

impl Model {
    /// The worker that owns the model in `folder` on `device` in `kind`; loads it in the background, if nobody has.
    pub fn shared(_folder: &Path, _device: Device, _kind: Kind) -> Arc<Worker<Model>> {
        todo!()
    }
}

/// Makes one clip on the worker's thread. `report` gets every event there, the frames too. Returns when the clip is
/// done, or with [`crate::engine::Error::Cancelled`] within a step of the token being set.
pub fn generate(
    _model: &Model,
    _keyframe: &Frame,
    _params: &Params,
    _cancel: &Cancel,
    _report: &mut dyn FnMut(Event),
) -> Result<()> {
    todo!()
}
