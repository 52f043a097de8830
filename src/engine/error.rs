// SPDX-License-Identifier: MPL-2.0
//! What can go wrong, said once: every message names the value and what would be right.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The engine's error. Cheap to clone, because a model that failed to load tells everyone who asks.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A parameter is outside its range.
    #[error("{name}={value} is not possible: {expected}")]
    Param {
        /// The parameter's name, as the YAML keys and (with dashes) the properties spell it.
        name: Cow<'static, str>,
        /// The value that was given.
        value: String,
        /// What would be right.
        expected: String,
    },
    /// A file or folder could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        source: Arc<std::io::Error>,
    },
    /// A file is not the picture it should be.
    #[error("{}: not a picture that can be read (PNG, JPEG or WebP): {reason}", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// The decoder's word.
        reason: String,
    },
    /// A model's file or folder is not what it should be.
    #[error("{}: {reason}", path.display())]
    Model {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A device or a precision that this machine does not have.
    #[error("device {wanted}: {reason}")]
    Device {
        /// The device that was asked for.
        wanted: String,
        /// Why not, and what there is.
        reason: String,
    },
    /// The work was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The device's memory did not suffice.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// There is no way to make a clip in the memory that may be taken.
    #[error("{limit} is too little for {what}: it needs {:.2} GB at least ({needed} bytes); {remedy}", *needed as f64 / 1e9)]
    Budget {
        /// What sets the limit: "max-memory=1000".
        limit: String,
        /// The clip.
        what: String,
        /// Bytes that would be enough.
        needed: u64,
        /// What would fit.
        remedy: String,
    },
    /// A stage gave NaN or infinity.
    #[error("{stage} gave numbers that are not finite, even in {dtype}: the weights or the parameters are at fault")]
    NonFinite {
        /// The stage: "denoising", "decoding".
        stage: &'static str,
        /// The precision that it ran in.
        dtype: &'static str,
    },
    /// libtorch refused an operation: a fault of the program or of the installation.
    #[error("libtorch: {0}")]
    Torch(String),
}

/// What libtorch says where the memory does not suffice. CUDA's libraries have words of their own; and cuDNN's
/// convolutions try one way after the other, and say at the end that there was none, where each wanted too much.
const OUT_OF_MEMORY: [&str; 5] = [
    "out of memory",
    "can't allocate memory",
    "STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "unable to find an engine to execute this computation",
];

impl Error {
    /// A parameter's error.
    pub fn param(name: &'static str, value: impl ToString, expected: impl Into<String>) -> Self {
        Self::Param { name: name.into(), value: value.to_string(), expected: expected.into() }
    }

    /// A model's error.
    pub fn model(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Model { path: path.as_ref().into(), reason: reason.into() }
    }

    /// A file's error. It names the whole path: whoever gave a part of it may not be where they think.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        let path = path.as_ref();
        Self::Io { path: std::path::absolute(path).unwrap_or_else(|_| path.into()), source: Arc::new(source) }
    }

    /// libtorch's message as an error: its first line, and out-of-memory told apart from the rest.
    pub fn torch(message: &str) -> Self {
        // Behind its first line libtorch prints a C++ stack.
        let line = message.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown error").trim();
        if OUT_OF_MEMORY.iter().any(|said| message.contains(said)) {
            Self::OutOfMemory(line.into())
        } else {
            Self::Torch(line.into())
        }
    }
}

impl From<tch::TchError> for Error {
    fn from(err: tch::TchError) -> Self {
        match err {
            tch::TchError::Torch(message) => Self::torch(&message),
            other => Self::Torch(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_s_error_names_the_whole_path() {
        let said = |path: &str| Error::io(path, std::io::ErrorKind::NotFound.into()).to_string();
        let here = std::env::current_dir().unwrap();
        assert!(said("nowhere.png").starts_with(here.join("nowhere.png").to_str().unwrap()), "{}", said("nowhere.png"));
        assert!(said("/nowhere.png").starts_with("/nowhere.png: "), "{}", said("/nowhere.png"));
    }

    #[test]
    fn memory_that_does_not_suffice_is_told_apart() {
        for said in [
            "CUDA out of memory. Tried to allocate 2.00 GiB.\nException raised from malloc at CUDACachingAllocator.cpp:1",
            "CUDA error: out of memory",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "GET was unable to find an engine to execute this computation",
            "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.",
        ] {
            let err = Error::torch(said);
            assert!(matches!(&err, Error::OutOfMemory(line) if !line.contains('\n')), "{err}");
        }
        let err = Error::torch("\nCUDA error: invalid configuration argument\nmore");
        assert!(matches!(&err, Error::Torch(line) if line == "CUDA error: invalid configuration argument"), "{err}");
    }
}
