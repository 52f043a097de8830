// SPDX-License-Identifier: MPL-2.0
//! The mean of two pictures, in the numbers that they have.

use tch::Tensor;

use super::layout::Layout;

/// The picture between two of one layout, given as their bytes on any device: each number is `1 - share` of the first's
/// and `share` of the second's, rounded. Colours are not converted. Bytes that belong to no pixel are the first's.
///
/// # Panics
/// If `bytes` are too few.
pub fn mix(first: &Tensor, second: &Tensor, layout: &Layout, share: f64) -> Tensor {
    for bytes in [first, second] {
        assert!(bytes.numel() >= layout.size, "{} bytes are not a picture of {layout:?}", bytes.numel());
    }
    let mixed = first.copy();
    for index in 0..layout.components.len() {
        let (rows, columns) = layout.extent(index);
        let load = |bytes: &Tensor| layout.load(bytes, index, &(0..rows), &(0..columns));
        let (from, to) = (load(first), load(second));
        layout.store(&mixed, index, 0, 0, &(from.lerp(&to, share) + 0.5));
    }
    mixed
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Colour, Component, Range, Samples, Site, Subsampling};
    use super::*;

    fn mixed(layout: &Layout, first: &[u8], second: &[u8], share: f64) -> Vec<u8> {
        Vec::try_from(mix(&Tensor::from_slice(first), &Tensor::from_slice(second), layout, share)).unwrap()
    }

    #[test]
    fn numbers_are_mixed_and_rounded() {
        let layout = Layout::rgb(1, 1, true).unwrap();
        assert_eq!(mixed(&layout, &[0, 10, 255, 7], &[1, 20, 0, 7], 0.5), [1, 15, 128, 7]);
        assert_eq!(mixed(&layout, &[0, 10, 255, 7], &[100, 20, 0, 7], 0.25), [25, 13, 191, 7]);
        // What lies between the picture's bytes stays.
        let samples = Samples { depth: 8, bytes: 1, shift: 0, big_endian: false };
        let places = (0..3).map(|offset| Component { offset, pixel: 4, row: 4 }).collect();
        let layout = Layout::new((1, 1), 4, samples, places, Colour::Rgb, Range::Full).unwrap();
        assert_eq!(mixed(&layout, &[0, 0, 0, 9], &[4, 4, 4, 4], 0.5), [2, 2, 2, 9]);
    }

    #[test]
    fn chroma_has_its_own_size_and_deep_numbers_their_depth() {
        let samples = Samples { depth: 10, bytes: 2, shift: 6, big_endian: true };
        let subsampling = Subsampling { horizontal: true, vertical: true };
        let colour = Colour::Yuv { kr: 0.299, kb: 0.114, subsampling, site: Site::default() };
        let places = [(0, 4), (8, 2), (10, 2)].map(|(offset, row)| Component { offset, pixel: 2, row }).into();
        let layout = Layout::new((2, 2), 12, samples, places, colour, Range::Limited).unwrap();
        let picture = |values: [u16; 6]| values.iter().flat_map(|v| (v << 6).to_be_bytes()).collect::<Vec<_>>();
        let (first, second) = (picture([0, 1023, 64, 500, 512, 100]), picture([1, 1023, 940, 502, 511, 701]));
        assert_eq!(mixed(&layout, &first, &second, 0.5), picture([1, 1023, 502, 501, 512, 401]));
    }
}
