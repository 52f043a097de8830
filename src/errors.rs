// SPDX-License-Identifier: MPL-2.0
//! The engine's errors as GStreamer's: which domain and code each becomes. The text stays the engine's.

use std::io::ErrorKind;

use crate::engine::Error;

/// The message that an element posts for `err`.
pub fn message(err: &Error) -> gst::ErrorMessage {
    match err {
        // By the property's name.
        Error::Param { name, value, expected } => {
            let err =
                Error::Param { name: name.replace('_', "-").into(), value: value.clone(), expected: expected.clone() };
            gst::error_msg!(gst::LibraryError::Settings, ("{err}"))
        }
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
