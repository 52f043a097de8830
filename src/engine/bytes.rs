// SPDX-License-Identifier: MPL-2.0
//! The bytes of a tensor, for those who know no tensors.

use tch::{Device, Kind, Tensor};

use super::{Error, Result};

/// Bytes in the host's memory, in one piece. They are libtorch's, so that its allocator can use them again.
#[derive(Debug)]
pub struct Bytes {
    tensor: Tensor,
    length: usize,
}

impl Bytes {
    /// The bytes of a uint8 tensor; from another device they are copied.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::Torch`] for a tensor of another kind.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        if tensor.kind() != Kind::Uint8 {
            return Err(Error::Torch(format!("bytes of a tensor of {:?}", tensor.kind())));
        }
        let tensor = tensor.f_to_device(Device::Cpu)?.f_contiguous()?;
        Ok(Self { length: tensor.numel(), tensor })
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the tensor is contiguous, in the host's memory, and has as many bytes; nobody else has it.
        unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast(), self.length) }
    }
}

impl AsMut<[u8]> for Bytes {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.tensor.data_ptr().cast(), self.length) }
    }
}
