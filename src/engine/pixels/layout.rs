// SPDX-License-Identifier: MPL-2.0
//! Where the components of a picture lie in its bytes and what they mean.

use std::ops;

use tch::{Kind, Tensor};

/// What the components of a picture are. `kr` and `kb` are the shares of red and blue in luma.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Colour {
    /// Red, green, blue.
    Rgb,
    /// Luma, blue chroma, red chroma.
    Yuv {
        /// The share of red.
        kr: f64,
        /// The share of blue.
        kb: f64,
        /// Whether chroma has fewer numbers.
        subsampling: Subsampling,
        /// Where it lies then.
        site: Site,
    },
    /// Luma alone.
    Gray {
        /// The share of red.
        kr: f64,
        /// The share of blue.
        kb: f64,
    },
}

/// Which numbers are black and white.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// From 0 to the largest number.
    Full,
    /// From 16 to 235, chroma from 16 to 240, at 8 bits; times a power of two at more.
    Limited,
}

/// How a number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Samples {
    /// The bits of a number, 8 to 16.
    pub depth: u32,
    /// The bytes that it takes, 1 or 2.
    pub bytes: usize,
    /// How many bits the number is shifted up in them. Bits that are left over are written as 0.
    pub shift: u32,
    /// Whether the first byte is the more significant one.
    pub big_endian: bool,
}

/// Where the numbers of one component lie, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    /// The first number, from the beginning of the picture.
    pub offset: usize,
    /// From a number to the next one in its row.
    pub pixel: usize,
    /// From a row to the next one.
    pub row: usize,
}

/// Whether chroma has half the numbers along a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Subsampling {
    /// Along a row.
    pub horizontal: bool,
    /// Down a column.
    pub vertical: bool,
}

/// Where chroma that has fewer numbers lies: on the first of two pixels, or between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Site {
    /// On the left pixel.
    pub horizontal: bool,
    /// On the upper pixel. As in GStreamer, its filter is the nearest pixel then.
    pub vertical: bool,
}

/// Where the components of a picture lie in its bytes and what they mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    pub(super) width: i64,
    pub(super) height: i64,
    pub(super) size: usize,
    pub(super) samples: Samples,
    pub(super) components: Vec<Component>,
    pub(super) colour: Colour,
    pub(super) range: Range,
}

impl Layout {
    /// A picture of `width` x `height` pixels in `size` bytes. `components` are those that `colour` names, in that
    /// order, and alpha, if there is one. Alpha has as many numbers as there are pixels, and its range is full.
    ///
    /// None if the description is not possible: a size of 0, a wrong number of components, numbers that don't fit their
    /// bytes, or bytes outside of the picture.
    pub fn new(
        (width, height): (usize, usize),
        size: usize,
        samples: Samples,
        components: Vec<Component>,
        colour: Colour,
        range: Range,
    ) -> Option<Self> {
        let (width, height) = (i64::try_from(width).ok()?, i64::try_from(height).ok()?);
        let layout = Self { width, height, size, samples, components, colour, range };
        layout.is_possible().then_some(layout)
    }

    /// 8-bit RGB, or RGBA, of full range, pixel beside pixel without padding.
    ///
    /// None for a size of 0.
    pub fn rgb(width: usize, height: usize, has_alpha: bool) -> Option<Self> {
        let channels = if has_alpha { 4 } else { 3 };
        let samples = Samples { depth: 8, bytes: 1, shift: 0, big_endian: false };
        let component = |offset| Component { offset, pixel: channels, row: width * channels };
        let components = (0..channels).map(component).collect();
        Self::new((width, height), width * height * channels, samples, components, Colour::Rgb, Range::Full)
    }

    fn is_possible(&self) -> bool {
        let Samples { depth, bytes, shift, .. } = self.samples;
        let inside = |(index, component): (usize, &Component)| {
            let (rows, columns) = self.extent(index);
            let last = component.row.checked_mul(rows as usize - 1)?;
            let last = last.checked_add(component.pixel.checked_mul(columns as usize - 1)?)?;
            Some(last.checked_add(component.offset)?.checked_add(bytes)? <= self.size)
        };
        let count = self.components.len();
        (self.width > 0 && self.height > 0)
            && (if self.is_gray() { count == 1 } else { count == 3 || count == 4 })
            && (8..=16).contains(&depth)
            && (bytes == 1 || bytes == 2)
            && (depth + shift) as usize <= 8 * bytes
            && self.components.iter().enumerate().all(|component| inside(component) == Some(true))
    }

    /// Pixels in a row.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> i64 {
        self.height
    }

    /// The bytes of the picture, padding included.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether there is an alpha channel.
    pub fn has_alpha(&self) -> bool {
        self.components.len() == 4
    }

    /// The bits of a number, 8 to 16.
    pub fn depth(&self) -> u32 {
        self.samples.depth
    }

    /// Whether there is luma alone.
    pub fn is_gray(&self) -> bool {
        matches!(self.colour, Colour::Gray { .. })
    }

    /// Whether chroma has fewer numbers than there are pixels.
    pub fn is_subsampled(&self) -> bool {
        let (halved, _) = self.subsampling();
        halved.horizontal || halved.vertical
    }

    /// Whether chroma has fewer numbers, and where it lies then.
    pub(super) fn subsampling(&self) -> (Subsampling, Site) {
        match self.colour {
            Colour::Yuv { subsampling, site, .. } => (subsampling, site),
            _ => Default::default(),
        }
    }

    /// The largest number.
    pub(super) fn max(&self) -> f64 {
        f64::from((1u32 << self.samples.depth) - 1)
    }

    /// The number that is black, and how far it is to white.
    pub(super) fn luma(&self) -> (f64, f64) {
        let unit = f64::from(1u32 << (self.samples.depth - 8));
        match self.range {
            Range::Full => (0.0, self.max()),
            Range::Limited => (16.0 * unit, 219.0 * unit),
        }
    }

    /// The number that is no colour, and how far it is from the one end of chroma to the other.
    pub(super) fn chroma(&self) -> (f64, f64) {
        let unit = f64::from(1u32 << (self.samples.depth - 8));
        match self.range {
            Range::Full => (128.0 * unit, self.max()),
            Range::Limited => (128.0 * unit, 224.0 * unit),
        }
    }

    /// The rows and columns of numbers that the component `index` has.
    pub(super) fn extent(&self, index: usize) -> (i64, i64) {
        let is_chroma = index == 1 || index == 2;
        let halve = |length: i64, halved: bool| if is_chroma && halved { (length + 1) / 2 } else { length };
        let (halved, _) = self.subsampling();
        (halve(self.height, halved.vertical), halve(self.width, halved.horizontal))
    }

    /// One byte of the numbers of the component `index`, (rows, columns) uint8, within the picture's bytes: the less
    /// significant one, or the more significant one.
    pub(super) fn bytes(
        &self,
        picture: &Tensor,
        index: usize,
        significant: bool,
        rows: &ops::Range<i64>,
        columns: &ops::Range<i64>,
    ) -> Tensor {
        let component = self.components[index];
        let (row, pixel) = (component.row as i64, component.pixel as i64);
        let second = self.samples.bytes == 2 && significant != self.samples.big_endian;
        let offset = component.offset as i64 + rows.start * row + columns.start * pixel + i64::from(second);
        let size = [rows.end - rows.start, columns.end - columns.start];
        picture.narrow(0, offset, picture.numel() as i64 - offset).as_strided(size, [row, pixel], None)
    }

    /// The numbers of the component `index` in a region of its rows and columns, as float32.
    pub(super) fn load(
        &self,
        picture: &Tensor,
        index: usize,
        rows: &ops::Range<i64>,
        columns: &ops::Range<i64>,
    ) -> Tensor {
        let low = self.bytes(picture, index, false, rows, columns).to_kind(Kind::Float);
        if self.samples.bytes == 1 {
            return low;
        }
        let mut numbers = self.bytes(picture, index, true, rows, columns).to_kind(Kind::Float).g_mul_scalar_(256.0);
        numbers += low;
        if self.samples.shift == 0 {
            numbers
        } else {
            numbers.g_mul_scalar_(1.0 / f64::from(1u32 << self.samples.shift))
        }
    }

    /// Writes float32 numbers, which are 0 or more, to a region of the component `index`, whose first row and column are
    /// given. They are cut off to integers.
    pub(super) fn store(&self, picture: &Tensor, index: usize, row: i64, column: i64, numbers: &Tensor) {
        let size = numbers.size();
        let (rows, columns) = (row..row + size[0], column..column + size[1]);
        let mut low = self.bytes(picture, index, false, &rows, &columns);
        if self.samples.bytes == 1 {
            return low.copy_(numbers);
        }
        // A conversion to one byte keeps the lowest eight bits.
        let mut numbers = numbers.to_kind(Kind::Int);
        let numbers = numbers.bitwise_left_shift_tensor_scalar_(i64::from(self.samples.shift));
        low.copy_(&numbers);
        self.bytes(picture, index, true, &rows, &columns).copy_(&numbers.bitwise_right_shift_tensor_scalar(8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: Samples = Samples { depth: 10, bytes: 2, shift: 6, big_endian: false };

    fn gray(size: (usize, usize), bytes: usize, samples: Samples, count: usize) -> Option<Layout> {
        let places = vec![Component { offset: 2, pixel: 2, row: 8 }; count];
        Layout::new(size, bytes, samples, places, Colour::Gray { kr: 0.299, kb: 0.114 }, Range::Limited)
    }

    #[test]
    fn what_can_not_be_is_refused() {
        // The last row needs no padding: 2 + 2 rows of 8 + 3 numbers of 2 bytes.
        let layout = gray((3, 3), 24, WORDS, 1).unwrap();
        assert_eq!((layout.width(), layout.height(), layout.size(), layout.depth()), (3, 3, 24, 10));
        assert!(layout.is_gray() && !layout.has_alpha() && !layout.is_subsampled());
        assert_eq!(gray((3, 3), 23, WORDS, 1), None);
        assert_eq!(gray((0, 3), 24, WORDS, 1), None);
        assert_eq!(gray((3, 3), 24, WORDS, 3), None);
        assert_eq!(gray((3, 3), 24, Samples { shift: 7, ..WORDS }, 1), None);
        assert_eq!(gray((3, 3), 24, Samples { bytes: 1, ..WORDS }, 1), None);
        assert_eq!(gray((3, 3), 24, Samples { depth: 4, ..WORDS }, 1), None);
    }

    #[test]
    fn ranges_grow_with_the_depth() {
        let layout = gray((3, 3), 24, WORDS, 1).unwrap();
        assert_eq!((layout.luma(), layout.chroma()), ((64.0, 876.0), (512.0, 896.0)));
        let full = Layout { range: Range::Full, ..layout };
        assert_eq!((full.luma(), full.chroma()), ((0.0, 1023.0), (512.0, 1023.0)));
    }
}
