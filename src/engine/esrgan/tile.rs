// SPDX-License-Identifier: MPL-2.0
//! How a picture is cut into tiles. Upstream: `realesrgan/utils.py`, `RealESRGANer.tile_process`.

use std::ops::Range;

/// A tile along one side of the picture, in pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What the network sees: the tile with its padding, within the picture.
    pub seen: Range<i64>,
    /// What is kept of it.
    pub kept: Range<i64>,
}

/// Cuts a side of `length` pixels into tiles of `tile` (0: one tile); the last may be smaller. Each sees up to `pad`
/// pixels more at either end, where the picture has them.
pub fn spans(length: i64, tile: i64, pad: i64) -> Vec<Span> {
    let tile = if tile == 0 { length } else { tile };
    let cut = |first: i64| {
        let kept = first..(first + tile).min(length);
        Span { seen: (kept.start - pad).max(0)..(kept.end + pad).min(length), kept }
    };
    (0..length).step_by(tile as usize).map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_side_once_and_see_their_neighbours() {
        let cut = |length, tile, pad| -> Vec<_> {
            let spans = spans(length, tile, pad).into_iter();
            spans.map(|span| (span.seen.start, span.kept.start, span.kept.end, span.seen.end)).collect()
        };
        assert_eq!(cut(40, 16, 10), [(0, 0, 16, 26), (6, 16, 32, 40), (22, 32, 40, 40)]);
        assert_eq!(cut(32, 16, 0), [(0, 0, 16, 16), (16, 16, 32, 32)]);
        assert_eq!(cut(7, 0, 10), [(0, 0, 7, 7)]);
        assert_eq!(cut(7, 100, 10), [(0, 0, 7, 7)]);
        assert_eq!(cut(3, 1, 1), [(0, 0, 1, 2), (0, 1, 2, 3), (1, 2, 3, 3)]);
    }
}
