// SPDX-License-Identifier: MPL-2.0
//! Frames between two by mixing them: what there is without a model.

use tch::{Device, Kind, Tensor};

use super::{Judgement, Look, Time};
use crate::engine::bytes::Bytes;
use crate::engine::pixels::{self, Canvas, Layout};
use crate::engine::worker::guarded;
use crate::engine::{Error, Result};

/// A frame of a video, on a device.
pub struct Picture {
    /// (1, 3 or 4, height, width), float32.
    pixels: Tensor,
    look: Look,
    layout: Layout,
}

impl Clone for Picture {
    fn clone(&self) -> Self {
        Self { pixels: self.pixels.shallow_clone(), look: self.look.clone(), layout: self.layout.clone() }
    }
}

impl Picture {
    /// A frame from its bytes.
    ///
    /// # Errors
    /// [`Error::Param`] if the bytes are fewer than the layout says; [`Error::OutOfMemory`].
    pub fn new(device: Device, bytes: &[u8], layout: &Layout) -> Result<Self> {
        if bytes.len() < layout.size() {
            let value = format!("{} bytes", bytes.len());
            return Err(Error::param("frame", value, format!("its layout has {}", layout.size())));
        }
        guarded(|| {
            let bytes = Tensor::f_from_data_size(bytes, &[bytes.len() as i64], Kind::Uint8)?.f_to_device(device)?;
            let pixels = pixels::read(&bytes, layout, 0..layout.height(), 0..layout.width());
            Ok(Self { look: Look::new(&pixels), pixels, layout: layout.clone() })
        })
    }

    /// What is told of this frame and the next, which is of the same layout.
    ///
    /// # Errors
    /// [`Error::Torch`] if it is not.
    pub fn compare(&self, next: &Self) -> Result<Judgement> {
        guarded(|| self.look.compare(&next.look))
    }

    /// The frame at `time` between this one and the next, which is of the same layout.
    ///
    /// # Errors
    /// [`Error::Torch`] if it is not; [`Error::OutOfMemory`].
    pub fn blend(&self, next: &Self, time: Time) -> Result<Bytes> {
        guarded(|| {
            let mixed = self.pixels.lerp(&next.pixels, time.value());
            let mut canvas = Canvas::new(&self.layout, mixed.device());
            canvas.put(&mixed.squeeze_dim(0), 0, 0);
            Bytes::new(&canvas.finish())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_is_mixed_and_rounded() {
        let layout = Layout::rgb(2, 1, false).unwrap();
        let picture = |bytes: [u8; 6]| Picture::new(Device::Cpu, &bytes, &layout).unwrap();
        let (first, second) = (picture([0, 10, 100, 255, 7, 8]), picture([100, 10, 0, 0, 8, 7]));
        let mixed = first.blend(&second, Time::new(1, 4).unwrap()).unwrap();
        assert_eq!(mixed.as_ref(), [25, 10, 75, 191, 7, 8]);
        assert!(Picture::new(Device::Cpu, &[0; 5], &layout).is_err());
    }
}
