// SPDX-License-Identifier: MPL-2.0
//! The engine's errors as GStreamer's: which domain and code each becomes. The text stays the engine's.

use std::io::ErrorKind;

use crate::engine::Error;

/// The error in words, a parameter by its property's name.
pub fn text(err: &Error) -> String {
    match err {
        Error::Param { name, value, expected } => {
            let name = name.replace('_', "-").into();
            Error::Param { name, value: value.clone(), expected: expected.clone() }.to_string()
        }
        err => err.to_string(),
    }
}

/// The message that an element posts for `err`.
pub fn message(err: &Error) -> gst::ErrorMessage {
    match err {
        Error::Param { .. } => gst::error_msg!(gst::LibraryError::Settings, ("{}", text(err))),
        Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
            gst::error_msg!(gst::ResourceError::NotFound, ("{err}"))
        }
        Error::Io { .. } => gst::error_msg!(gst::ResourceError::Read, ("{err}")),
        Error::Picture { .. } => gst::error_msg!(gst::StreamError::Decode, ("{err}")),
        Error::Model { .. } => gst::error_msg!(gst::ResourceError::OpenRead, ("{err}")),
        Error::Device { .. } => gst::error_msg!(gst::ResourceError::NotFound, ("{err}")),
        Error::OutOfMemory(_) | Error::Budget { .. } => gst::error_msg!(gst::ResourceError::NoSpaceLeft, ("{err}")),
        Error::Cancelled | Error::NonFinite { .. } | Error::Torch(_) => {
            gst::error_msg!(gst::LibraryError::Failed, ("{err}"))
        }
    }
}
