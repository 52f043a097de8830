// SPDX-License-Identifier: MPL-2.0
//! A picture that is written part by part.

use tch::{Device, Kind, Tensor};

use super::chroma;
use super::layout::{Colour, Layout};

/// How many pixels are float at a time: few enough to stay in a processor's cache, though enough for libtorch to use
/// several threads; or many enough to keep a GPU busy.
const PIXELS_CPU: i64 = 1 << 17;
const PIXELS_GPU: i64 = 1 << 21;

/// A picture that is written part by part.
///
/// Everything but subsampled chroma is written to the picture's bytes at once. Subsampled chroma needs its neighbours, so
/// it is kept at full resolution until the end, as integers: of 8 bits if the picture has 8 bits, else of 16.
pub struct Canvas {
    layout: Layout,
    bytes: Tensor,
    /// Chroma as (2, height, width), if it is to be subsampled: uint8, or int16 less [`BIAS`].
    chroma: Option<Tensor>,
    band: i64,
}

/// What is subtracted from a number of 16 bits: the first number that int16 has no place for.
const BIAS: f64 = 32768.0;

impl Canvas {
    /// An empty picture on `device`. Bytes that belong to no pixel are 0, or 255 if they lie between those of pixels
    /// (the fourth byte of `RGBx`).
    pub fn new(layout: &Layout, device: Device) -> Self {
        let size = [layout.size as i64];
        // A component's pixels are further apart than all components that can lie between them need.
        let count = layout.components.len();
        let has_gaps = layout.components.iter().all(|component| component.pixel > count * layout.samples.bytes);
        let bytes = if has_gaps && !layout.is_subsampled() {
            Tensor::full(size, 255, (Kind::Uint8, device))
        } else {
            Tensor::zeros(size, (Kind::Uint8, device))
        };
        let kind = if layout.depth() == 8 { Kind::Uint8 } else { Kind::Int16 };
        let chroma = layout.is_subsampled().then(|| Tensor::zeros([2, layout.height, layout.width], (kind, device)));
        let band = if device == Device::Cpu { PIXELS_CPU } else { PIXELS_GPU };
        Self { layout: layout.clone(), bytes, chroma, band }
    }

    /// Writes a region whose left top pixel is (`row`, `column`): `rgb` is (3 or 4, rows, columns) float32 for [0, 1],
    /// clamped, scaled and rounded. Without a fourth channel, alpha is opaque; alpha that the layout has no place for is
    /// dropped. Regions come in any order and do not overlap.
    ///
    /// # Panics
    /// If the region is not within the picture, or not on its device.
    pub fn put(&mut self, rgb: &Tensor, row: i64, column: i64) {
        let (channels, rows, columns) = rgb.size3().expect("a region has channels, rows and columns");
        let layout = &self.layout;
        assert!(channels == 3 || channels == 4, "a region has 3 or 4 channels, not {channels}");
        assert!(row >= 0 && column >= 0, "a region at {row}, {column}");
        assert!(row + rows <= layout.height && column + columns <= layout.width, "a region outside of {layout:?}");
        if rows == 0 || columns == 0 {
            return;
        }
        // Alpha that has no place is not computed either.
        let kept = if layout.has_alpha() { channels } else { 3 };
        let rgb = rgb.narrow(0, 0, kept);
        let band = (self.band / columns).clamp(1, rows);
        for first in (0..rows).step_by(band as usize) {
            let part = rgb.narrow(1, first, band.min(rows - first)).clamp(0.0, 1.0);
            self.put_band(part, row + first, column);
        }
    }

    /// Writes a few rows that are clamped.
    fn put_band(&mut self, rgb: Tensor, row: i64, column: i64) {
        let layout = &self.layout;
        let (channels, rows, columns) = rgb.size3().expect("a band has channels, rows and columns");
        let (black, to_white) = layout.luma();
        let store = |index: usize, numbers: &Tensor| layout.store(&self.bytes, index, row, column, numbers);
        if layout.has_alpha() {
            let opaque = || Tensor::full([rows, columns], layout.max(), (Kind::Float, rgb.device()));
            let alpha = if channels == 4 { rgb.get(3) * layout.max() + 0.5 } else { opaque() };
            store(3, &alpha);
        }
        let mut rgb = rgb.narrow(0, 0, 3);
        let (kr, kb) = match layout.colour {
            Colour::Rgb => {
                let rgb = rgb.g_mul_scalar_(to_white).g_add_scalar_(black + 0.5);
                (0..3).for_each(|index| store(index, &rgb.get(index as i64)));
                return;
            }
            Colour::Yuv { kr, kb, .. } | Colour::Gray { kr, kb } => (kr, kb),
        };
        let luma = [kr, 1.0 - kr - kb, kb];
        if layout.is_gray() {
            return store(0, &mixed(&rgb, &[luma.map(|share| share * to_white)], &[black + 0.5]).get(0));
        }
        let (middle, length) = layout.chroma();
        // Chroma to be subsampled is kept at 16 bits, if there are more than 8.
        let scale =
            if self.chroma.is_some() && layout.depth() > 8 { (1u32 << (16 - layout.depth())) as f64 } else { 1.0 };
        let chroma = |index: usize, k: f64| {
            let factor = scale * length / (2.0 * (1.0 - k));
            let mut shares = luma.map(|share| -share * factor);
            shares[index] += factor;
            shares
        };
        let offset = scale * middle + 0.5;
        let shares = [luma.map(|share| share * to_white), chroma(2, kb), chroma(0, kr)];
        let numbers = mixed(&rgb, &shares, &[black + 0.5, offset, offset]);
        store(0, &numbers.get(0));
        let mut colours = numbers.narrow(0, 1, 2);
        let colours = colours.clamp_max_(scale * (layout.max() + 1.0) - 1.0);
        for index in 0..2 {
            let mut numbers = colours.get(index as i64);
            match &self.chroma {
                None => store(1 + index, &numbers),
                Some(chroma) => {
                    let mut place = chroma.get(index as i64).narrow(0, row, rows).narrow(1, column, columns);
                    if layout.depth() == 8 {
                        place.copy_(&numbers);
                    } else {
                        place.copy_(&numbers.floor_().g_sub_scalar_(BIAS));
                    }
                }
            }
        }
    }

    /// The picture's bytes, (`layout.size()`) uint8 on its device.
    pub fn finish(mut self) -> Tensor {
        if let Some(chroma) = self.chroma.take() {
            // Two rows of pixels make one of chroma.
            let band = (self.band / self.layout.width / 2).max(1) * 2;
            for first in (0..self.layout.height).step_by(band as usize) {
                let rows = band.min(self.layout.height - first);
                self.finish_band(chroma.narrow(1, first, rows).to_kind(Kind::Float), first);
            }
        }
        self.bytes
    }

    /// Subsamples and writes the chroma (2, rows, width) of a few rows, which begin with the row `first`.
    fn finish_band(&self, mut chroma: Tensor, first: i64) {
        let layout = &self.layout;
        let (halved, site) = layout.subsampling();
        if layout.depth() > 8 {
            chroma = chroma.g_add_scalar_(BIAS);
        }
        let mut row = first;
        if halved.vertical {
            row /= 2;
            chroma = if site.vertical { chroma::drop(&chroma, 1) } else { chroma::halve(&chroma, 1) };
        }
        if halved.horizontal {
            let halve = if site.horizontal { chroma::halve_cosited } else { chroma::halve };
            chroma = halve(&chroma, 2);
        }
        if layout.depth() > 8 {
            let scale = f64::from(1u32 << (16 - layout.depth()));
            chroma = (chroma * (1.0 / scale)).g_add_scalar_(0.5).clamp_max_(layout.max());
        }
        (0..2).for_each(|index| layout.store(&self.bytes, 1 + index, row, 0, &chroma.get(index as i64)));
    }
}

/// `offsets` and `shares` of a region (3, rows, columns), in one pass: (n, rows, columns) for n of them.
fn mixed<const N: usize>(rgb: &Tensor, shares: &[[f64; 3]; N], offsets: &[f64; N]) -> Tensor {
    let device = rgb.device();
    let constant = |values: Vec<f64>, columns| {
        let values: Vec<_> = values.into_iter().map(|value| value as f32).collect();
        Tensor::from_slice(&values).view([N as i64, columns]).to_device(device)
    };
    let (_, rows, columns) = rgb.size3().expect("a region has three dimensions");
    let numbers = constant(offsets.to_vec(), 1).addmm(&constant(shares.concat(), 3), &rgb.reshape([3, -1]));
    numbers.view([N as i64, rows, columns])
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Component, Range, Samples, Site, Subsampling};
    use super::*;

    fn planes(count: usize, length: usize, row: usize) -> Vec<Component> {
        (0..count).map(|i| Component { offset: i * length, pixel: 1, row }).collect()
    }

    const BYTES: Samples = Samples { depth: 8, bytes: 1, shift: 0, big_endian: false };

    fn written(layout: &Layout, values: &[f32]) -> Vec<u8> {
        let mut canvas = Canvas::new(layout, Device::Cpu);
        let rgb = Tensor::from_slice(values).view([-1, layout.height(), layout.width()]);
        canvas.put(&rgb, 0, 0);
        Vec::try_from(canvas.finish()).unwrap()
    }

    #[test]
    fn values_are_clamped_and_rounded() {
        let layout = Layout::new((2, 1), 6, BYTES, planes(3, 2, 2), Colour::Rgb, Range::Full).unwrap();
        let values = [-1.0, 2.0, 0.499 / 255.0, 0.501 / 255.0, 254.6 / 255.0, 0.5];
        assert_eq!(written(&layout, &values), [0, 255, 0, 1, 255, 128]);
        let limited = Layout::new((2, 1), 6, BYTES, planes(3, 2, 2), Colour::Rgb, Range::Limited).unwrap();
        assert_eq!(written(&limited, &[-1.0, 2.0, 0.0, 1.0, 0.5, 0.5]), [16, 235, 16, 235, 126, 126]);
    }

    #[test]
    fn bytes_come_in_the_order_of_the_layout() {
        for (big_endian, bytes) in [(false, [0x00, 0xff, 0xc0, 0xff]), (true, [0xff, 0x00, 0xff, 0xc0])] {
            let samples = Samples { depth: 10, bytes: 2, shift: 6, big_endian };
            let places = vec![Component { offset: 0, pixel: 2, row: 4 }];
            let colour = Colour::Gray { kr: 0.299, kb: 0.114 };
            let layout = Layout::new((2, 1), 4, samples, places, colour, Range::Full).unwrap();
            assert_eq!(written(&layout, &[1020.0 / 1023.0, 1.0].repeat(3)), bytes);
        }
    }

    #[test]
    fn the_strongest_blue_and_red_do_not_wrap_around() {
        let colour = Colour::Yuv { kr: 0.299, kb: 0.114, subsampling: Subsampling::default(), site: Site::default() };
        let layout = Layout::new((2, 1), 6, BYTES, planes(3, 2, 2), colour, Range::Full).unwrap();
        assert_eq!(written(&layout, &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0]), [76, 29, 85, 255, 255, 107]);
    }

    #[test]
    fn bands_change_nothing() {
        let subsampling = Subsampling { horizontal: true, vertical: true };
        let colour = Colour::Yuv { kr: 0.2126, kb: 0.0722, subsampling, site: Site::default() };
        let layout = Layout::new((7, 9), 3 * 63, BYTES, planes(3, 63, 7), colour, Range::Limited).unwrap();
        let rgb = Tensor::rand([3, 9, 7], (Kind::Float, Device::Cpu));
        let write = |band: i64| {
            let mut canvas = Canvas { band, ..Canvas::new(&layout, Device::Cpu) };
            canvas.put(&rgb, 0, 0);
            canvas.finish()
        };
        let whole = write(1000);
        for band in [1, 14, 30] {
            assert_eq!(write(band), whole);
        }
    }
}
