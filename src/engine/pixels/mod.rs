// SPDX-License-Identifier: MPL-2.0
//! Raw video in memory: pixels as tensors and back, part by part, on any device.
//!
//! [`read`] takes a region out of a picture's bytes, and a [`Canvas`] is a picture that is written region by region. Only
//! the region is ever float, never the whole picture.
//!
//! The steps are those of GStreamer's converter on its general path, and roundings are where it has them: chroma is
//! brought to full resolution by a linear filter that knows where chroma lies, first along the row, and is rounded after
//! each direction. The matrices differ: here they are exact; there they have 8 bits, which is up to 6 levels of 8 bits and
//! makes grey of limited range darker.

mod canvas;
mod chroma;
mod layout;
mod mix;
mod read;

pub use canvas::Canvas;
pub use layout::{Colour, Component, Layout, Range, Samples, Site, Subsampling};
pub use mix::mix;
pub use read::read;
