// SPDX-License-Identifier: MPL-2.0
//! Pictures on their way to the device and back, while it computes others.
//!
//! On a GPU, copies run on streams of their own, between pinned memory and places on the device that are used in turn:
//! the next picture comes while one is computed, and the one before goes. On the CPU the same code copies at once.

use std::collections::VecDeque;

use tch::{Device, Kind, Tensor};

use super::Model;
use super::upscale::{Outcome, Task, run};
use crate::engine::bytes::Bytes;
use crate::engine::stream::{Event, Lanes, Pending, Stream};
use crate::engine::worker::{Cancel, guarded};
use crate::engine::{Error, Result};

/// The way of pictures to a device and back.
pub(super) struct Transfer {
    lanes: Lanes,
    device: Device,
    /// Places on the device, and since when they are free; the longest free first.
    places: VecDeque<(Tensor, Event)>,
}

/// Batches whose pictures may be on the device at once: the one that is computed, and the next.
const BATCHES: usize = 2;

impl Transfer {
    pub fn new(device: Device) -> Self {
        Self { lanes: Lanes::new(device), device, places: VecDeque::new() }
    }

    /// Brings a picture's bytes to the device.
    fn upload(&mut self, bytes: &[u8]) -> Result<Tensor> {
        let host = Tensor::f_from_data_size(bytes, &[bytes.len() as i64], Kind::Uint8)?;
        let host = if self.device.is_cuda() { host.f_pin_memory(self.device)? } else { host };
        Ok(match self.places.pop_front() {
            Some((place, free)) if place.size() == host.size() => self.lanes.upload_to(place, &free, &host).ready(),
            _ => self.lanes.upload(&host).ready(),
        })
    }

    /// The current stream has what it needs of these pictures: others may take their places.
    fn release(&mut self, pictures: Vec<Tensor>) {
        let most = BATCHES * pictures.len();
        for picture in pictures {
            self.places.push_back((picture, Stream::current(self.device).record()));
        }
        while self.places.len() > most {
            self.places.pop_front();
        }
    }
}

/// Pictures that the device may still be computing or copying.
pub struct Begun {
    /// Each in the host's memory, and on the device.
    pictures: Vec<Pending<(Tensor, Tensor)>>,
    /// Whether all numbers were finite, if that is not known yet.
    is_finite: Option<Pending<(Tensor, Tensor)>>,
    /// Tiles that were computed for them.
    pub tiles: u64,
    /// How often all tiles had to become smaller, because the memory did not suffice.
    pub retries: u64,
    /// The precision whose range did not suffice, so that at least a tile was done again in float32.
    pub redone: Option<&'static str>,
}

/// Upscales pictures (their bytes, in the layout that the task names) at once. On a GPU it does not wait for the end.
///
/// # Errors
/// Those of [`run`].
pub fn begin(model: &mut Model, pictures: &[impl AsRef<[u8]>], task: &Task, cancel: &Cancel) -> Result<Begun> {
    let upload = |bytes: &_| model.transfer.upload(AsRef::as_ref(bytes));
    let inputs = pictures.iter().map(upload).collect::<Result<Vec<_>>>()?;
    let outcome = run(model, &inputs, task, cancel);
    model.transfer.release(inputs);
    let Outcome { pictures, is_finite, tiles, retries, redone } = outcome?;
    let download = |tensor| model.transfer.lanes.download(tensor);
    Ok(Begun {
        pictures: pictures.into_iter().map(download).collect(),
        is_finite: is_finite.map(download),
        tiles,
        retries,
        redone,
    })
}

impl Begun {
    /// Waits for the pictures' bytes. `None` if there were numbers that are not finite: then the pictures are to be
    /// begun again, after [`Model::check_tiles`]. On any thread.
    ///
    /// # Errors
    /// [`Error::Torch`] if the device failed.
    pub fn finish(self) -> Result<Option<Vec<Bytes>>> {
        guarded(|| {
            let is_finite = self.is_finite.is_none_or(|flag| flag.wait().0.int64_value(&[]) == 1);
            let pictures: Vec<_> = self.pictures.into_iter().map(|picture| picture.wait().0).collect();
            if !is_finite {
                return Ok(None);
            }
            pictures.iter().map(Bytes::new).collect::<Result<_, Error>>().map(Some)
        })
    }
}
