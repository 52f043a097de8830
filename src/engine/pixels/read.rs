// SPDX-License-Identifier: MPL-2.0
//! A region of a picture's bytes as RGB.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::chroma;
use super::layout::{Colour, Layout};

/// A region's pixels as RGB: (1, 3 or, with alpha, 4, rows, columns) float32 in [0, 1], full range, on the device of
/// `bytes`, which are the picture's: (`layout.size()`) uint8. Values are not rounded to the picture's depth. Chroma is
/// filtered with what lies around the region, so that regions of a picture fit together.
///
/// # Panics
/// If the region is empty or not within the picture, or `bytes` are too few.
pub fn read(bytes: &Tensor, layout: &Layout, rows: Range<i64>, columns: Range<i64>) -> Tensor {
    let within = |range: &Range<i64>, end| 0 <= range.start && range.start < range.end && range.end <= end;
    assert!(within(&rows, layout.height) && within(&columns, layout.width), "{rows:?}, {columns:?} of {layout:?}");
    assert!(bytes.numel() >= layout.size, "{} bytes are not a picture of {layout:?}", bytes.numel());
    let channels = if layout.has_alpha() { 4 } else { 3 };
    let size = [1, channels, rows.end - rows.start, columns.end - columns.start];
    let mut picture = Tensor::empty(size, (Kind::Float, bytes.device()));
    let channel = |index: i64| picture.select(1, index).squeeze_dim(0);
    let (black, to_white) = layout.luma();
    let load = |index: usize| layout.load(bytes, index, &rows, &columns);
    let level = |index: usize| load(index).g_sub_scalar_(black).g_mul_scalar_(1.0 / to_white);
    match layout.colour {
        Colour::Rgb => (0..3).for_each(|index| channel(index).copy_(&level(index as usize))),
        Colour::Gray { .. } => picture.narrow(1, 0, 3).copy_(&level(0)),
        Colour::Yuv { kr, kb, .. } => {
            let (luma, kg) = (level(0), 1.0 - kr - kb);
            let [mut blue, mut red] = full_chroma(bytes, layout, &rows, &columns).map(|mut chroma| {
                let (middle, length) = layout.chroma();
                chroma.g_sub_scalar_(middle).g_mul_scalar_(1.0 / length)
            });
            channel(0).copy_(&(&red * (2.0 * (1.0 - kr)) + &luma));
            channel(2).copy_(&(&blue * (2.0 * (1.0 - kb)) + &luma));
            let green = blue.g_mul_scalar_(2.0 * kb * (1.0 - kb) / kg) + red.g_mul_scalar_(2.0 * kr * (1.0 - kr) / kg);
            channel(1).copy_(&(luma - green));
        }
    }
    if channels == 4 {
        channel(3).copy_(&load(3).g_mul_scalar_(1.0 / layout.max()));
    }
    picture.clamp_(0.0, 1.0)
}

/// The numbers of both chroma components at the resolution of the pixels.
fn full_chroma(bytes: &Tensor, layout: &Layout, rows: &Range<i64>, columns: &Range<i64>) -> [Tensor; 2] {
    let (halved, site) = layout.subsampling();
    // GStreamer rounds to 8 or 16 bits, so it keeps fractions of the numbers that have 10 or 12.
    let rounds = layout.depth() == 8 || layout.depth() == 16;
    let (height, width) = layout.extent(1);
    let seen_rows = around(rows, height, halved.vertical);
    let seen_columns = around(columns, width, halved.horizontal);
    [1, 2].map(|index| {
        let mut chroma = layout.load(bytes, index, &seen_rows, &seen_columns);
        if halved.horizontal {
            chroma = chroma::double(&chroma, 1, site.horizontal, rounds);
            chroma = chroma.narrow(1, columns.start - 2 * seen_columns.start, columns.end - columns.start);
        }
        if halved.vertical && site.vertical {
            chroma = chroma::repeat(&chroma, 0);
        } else if halved.vertical {
            chroma = chroma::double(&chroma, 0, false, rounds);
        }
        if halved.vertical {
            chroma = chroma.narrow(0, rows.start - 2 * seen_rows.start, rows.end - rows.start);
        }
        chroma
    })
}

/// The chroma numbers that pixels are made from: their own and one more at either end, if there is one.
fn around(pixels: &Range<i64>, count: i64, halved: bool) -> Range<i64> {
    if halved { (pixels.start / 2 - 1).max(0)..((pixels.end - 1) / 2 + 2).min(count) } else { pixels.clone() }
}
