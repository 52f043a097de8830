// SPDX-License-Identifier: MPL-2.0
//! IFNet: blocks that look at two frames, each at a finer scale than the one before, and better the flow between them.
//!
//! Upstream: `IFNet_HDv3.py` of Practical-RIFE 4.25, which comes with its weights; vs-rife has the same for each
//! version. What is done otherwise here, and gives the same but for the last bits:
//! - pictures are only warped where the next block looks (`warp.rs`), and a frame's picture and features at once;
//! - mask and features go from one block to the next at their own scale instead of in full size. Bilinear interpolation
//!   to full size and back to a finer scale is interpolation to this scale;
//! - `beta` is a factor of its convolution's weights;
//! - the last block's features, which nobody looks at, are not computed.

use tch::{Kind, Tensor};

use super::file::Shapes;
use super::warp::{Positions, reduced, resized};
use crate::engine::Result;
use crate::engine::nn::{Conv2d, ConvTranspose2d, channels_last, leaky_relu};
use crate::engine::weights::Scope;
use crate::engine::worker::Cancel;

/// The slope of all leaky ReLUs.
const SLOPE: f64 = 0.2;
/// What comes out of a block: two flows of x and y, the mask, and features for the next.
const OUTPUTS: i64 = 4 + 1 + CARRIED;
/// Features from a block to the next.
const CARRIED: i64 = 8;
/// Residual convolutions of a block.
const DEPTH: i64 = 8;

/// The size of an IFNet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Channels within the head: 16 or 32.
    pub head: i64,
    /// Features that it gives for each frame: 4, 8 or 16.
    pub features: i64,
    /// The channels of each block, the coarsest first: four or five blocks.
    pub widths: Vec<i64>,
}

impl Config {
    /// The network that these tensors are of; `None` if it is another one.
    pub fn detect(shapes: &Shapes) -> Option<Self> {
        let shape = |name: &str| shapes.get(name).map(Vec::as_slice);
        let (Some([head, 3, 3, 3]), Some([_, features, 4, 4])) =
            (shape("encode.cnn0.weight"), shape("encode.cnn3.weight"))
        else {
            return None;
        };
        let mut widths = Vec::new();
        while let Some([width, outputs, 4, 4]) = shape(&format!("block{}.lastconv.0.weight", widths.len())) {
            if *outputs != 4 * OUTPUTS {
                return None;
            }
            widths.push(*width);
        }
        let config = Self { head: *head, features: *features, widths };
        ((4..=5).contains(&config.widths.len()) && shapes.contains_key("block0.convblock.0.beta")).then_some(config)
    }

    /// How many times smaller each block sees the frames, at `scale` 1.
    pub fn scales(&self) -> &'static [i64] {
        match (self.widths.len(), self.widths.last()) {
            (4, _) => &[8, 4, 2, 1],
            // 4.25.lite, whose last block alone has so few channels.
            (_, Some(24)) => &[32, 16, 8, 4, 1],
            _ => &[16, 8, 4, 2, 1],
        }
    }

    /// The sides of what it looks at must be multiples of this, at `scale` 1.
    pub fn multiple(&self) -> i64 {
        (4 * self.scales()[0]).max(64)
    }

    /// Practical-RIFE's name for it.
    pub fn version(&self) -> &'static str {
        match (self.head, self.features, self.widths.as_slice()) {
            (16, 4, [192, 128, 96, 64, 32]) => "4.25 or 4.26",
            (16, 4, [192, 128, 96, 64, 24]) => "4.25.lite",
            (16, 4, [384, 256, 192, 128, 64]) => "4.25.heavy",
            (16, 16, [192, 128, 96, 64, 32]) => "4.26.heavy",
            (16, 4, [192, 128, 64, 32]) => "4.22.lite",
            (32, 8, [256, 192, 96, 48]) => "4.21, 4.22 or 4.23",
            _ => "4.21 or later",
        }
    }
}

/// What a network makes of two frames.
pub struct Motion {
    /// Where each pixel of the frame between comes from, (1, 4, h, w) float32 in pixels: x and y in the first frame, x
    /// and y in the second.
    pub flow: Tensor,
    /// How much each pixel is of the first frame, (1, 1, h, w) float32, before the sigmoid.
    pub mask: Tensor,
}

/// The network.
pub struct IfNet {
    config: Config,
    encode: Head,
    blocks: Vec<Block>,
}

impl IfNet {
    /// A network of this size.
    pub fn new(scope: Scope, config: &Config) -> Self {
        let last = config.widths.len() - 1;
        let block = |(i, &width): (usize, &i64)| {
            let inputs = if i == 0 { 7 + 2 * config.features } else { 8 + 4 + 2 * config.features + CARRIED };
            Block::new(&scope / format!("block{i}"), inputs, config.features, width, i == last)
        };
        Self {
            encode: Head::new((&scope / "encode").with_kind(Kind::Float), config),
            blocks: config.widths.iter().enumerate().map(block).collect(),
            config: config.clone(),
        }
    }

    /// The features of a picture, in float32 in every precision: (1, 3, h, w) in [0, 1] -> (1, features, h, w), for
    /// even sides.
    pub fn encode(&self, picture: &Tensor) -> Tensor {
        self.encode.forward(picture)
    }

    /// What is between two frames at `time`, 0 to 1. `frames` are their pictures and features, (2, 3 + features, h, w)
    /// float32, and `scale` is how much larger than usual the blocks see them: 1, or another power of two. The blocks
    /// compute in `kind`. The token is looked at between blocks.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::engine::Error::Cancelled) soon after the token is set.
    pub fn forward(
        &self,
        frames: &Tensor,
        time: f64,
        scale: f64,
        positions: &Positions,
        kind: Kind,
        cancel: &Cancel,
    ) -> Result<Motion> {
        let (height, width) = positions.size();
        let mut state: Option<(Tensor, Tensor)> = None;
        for (block, base) in self.blocks.iter().zip(self.config.scales()) {
            cancel.check()?;
            let smaller = *base as f64 / scale;
            // The block's own size; a scale of 2 can make it larger than the picture.
            let (rows, columns) = ((height as f64 / smaller) as i64, (width as f64 / smaller) as i64);
            let at = Tensor::full([1, 1, rows, columns], time, (kind, frames.device()));
            let bring = |x: &Tensor| {
                if smaller < 2.0 { resized(x, rows, columns) } else { reduced(x, smaller as i64) }
            };
            // Both frames' channels behind one another.
            let beside = |x: Tensor| x.view([1, -1, rows, columns]).to_kind(kind);
            let x = match &state {
                None => Tensor::cat(&[beside(bring(frames)), at], 1),
                Some((flow, told)) => {
                    let flows = flow.view([2, 2, height, width]);
                    let warped = if smaller < 2.0 {
                        bring(&positions.warp(frames, &flows))
                    } else {
                        positions.warp_reduced(frames, &flows, smaller as i64)
                    };
                    let told = resized(&told.narrow(1, 4, 1 + CARRIED), rows, columns);
                    let flow = (bring(flow) * (1.0 / smaller)).to_kind(kind);
                    Tensor::cat(&[beside(warped), at, told, flow], 1)
                }
            };
            let told = block.forward(&x);
            let step = resized(&told.narrow(1, 0, 4).to_kind(Kind::Float), height, width) * smaller;
            let flow = match state {
                None => step,
                Some((flow, _)) => flow + step,
            };
            state = Some((flow, told));
        }
        let (flow, told) = state.expect("a network has blocks");
        let mask = resized(&told.narrow(1, 4, 1).to_kind(Kind::Float), height, width);
        Ok(Motion { flow, mask })
    }
}

/// What makes a frame's features. It sees a frame once, and takes little time; and rounding shows most in it.
struct Head {
    convs: [Conv2d; 3],
    last: ConvTranspose2d,
}

impl Head {
    fn new(scope: Scope, config: &Config) -> Self {
        let head = config.head;
        Self {
            convs: [
                Conv2d::strided(&scope / "cnn0", 3, head, 3, 2, 1),
                Conv2d::new(&scope / "cnn1", head, head, 3),
                Conv2d::new(&scope / "cnn2", head, head, 3),
            ],
            last: ConvTranspose2d::new(&scope / "cnn3", head, config.features),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let [first, second, third] = &self.convs;
        let x = leaky_relu(first.forward(&channels_last(x)), SLOPE);
        let x = leaky_relu(second.forward(&x), SLOPE);
        self.last.forward(&leaky_relu(third.forward(&x), SLOPE)).contiguous()
    }
}

/// A block: at a quarter of its size, it looks at two frames and gives what is between them.
struct Block {
    narrow: [Conv2d; 2],
    body: Vec<Conv2d>,
    last: ConvTranspose2d,
}

impl Block {
    /// The order of `inputs` is not the checkpoint's: a frame's picture and features are beside one another.
    fn new(scope: Scope, inputs: i64, features: i64, width: i64, is_last: bool) -> Self {
        let (conv0, body) = (&scope / "conv0", &scope / "convblock");
        let mut order: Vec<i64> = (0..inputs).collect();
        let (second, features) = (6 + features, 6..6 + features);
        order.splice(3..second as usize, features.chain(3..6));
        let residual = |i: i64| {
            // What is multiplied is rounded once.
            let layer = (&body / i).with_kind(Kind::Float);
            let beta = layer.get("beta", &[1, width, 1, 1]).view(-1);
            Conv2d::new(&layer / "conv", width, width, 3).scaled(&beta).to_kind(scope.kind())
        };
        let last = ConvTranspose2d::new(&scope / "lastconv" / 0, width, 4 * OUTPUTS);
        Self {
            narrow: [
                Conv2d::strided(&conv0 / 0 / 0, inputs, width / 2, 3, 2, 1).reordered(&order),
                Conv2d::strided(&conv0 / 1 / 0, width / 2, width, 3, 2, 1),
            ],
            body: (0..DEPTH).map(residual).collect(),
            last: if is_last { last.first(4 * (OUTPUTS - CARRIED)) } else { last },
        }
    }

    /// (1, inputs, h, w) -> (1, 13, h, w), or (1, 5, h, w) of the last block.
    fn forward(&self, x: &Tensor) -> Tensor {
        let [first, second] = &self.narrow;
        let x = leaky_relu(first.forward(&channels_last(x)), SLOPE);
        let mut x = leaky_relu(second.forward(&x), SLOPE);
        for conv in &self.body {
            x = leaky_relu(conv.forward(&x).g_add_(&x), SLOPE);
        }
        // In the order that is fastest to warp and resize.
        self.last.forward(&x).pixel_shuffle(2).contiguous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(features: i64, outputs: i64, widths: &[i64]) -> Shapes {
        let mut shapes = Shapes::from([
            ("encode.cnn0.weight".into(), vec![16, 3, 3, 3]),
            ("encode.cnn3.weight".into(), vec![16, features, 4, 4]),
            ("block0.convblock.0.beta".into(), vec![1, 8, 1, 1]),
        ]);
        for (i, width) in widths.iter().enumerate() {
            shapes.insert(format!("block{i}.lastconv.0.weight"), vec![*width, outputs, 4, 4]);
        }
        shapes
    }

    #[test]
    fn networks_are_read_off_the_tensors() {
        for (features, widths, version, coarsest, multiple) in [
            (4, [192, 128, 96, 64, 32].as_slice(), "4.25 or 4.26", 16, 64),
            (4, &[192, 128, 96, 64, 24], "4.25.lite", 32, 128),
            (4, &[384, 256, 192, 128, 64], "4.25.heavy", 16, 64),
            (16, &[192, 128, 96, 64, 32], "4.26.heavy", 16, 64),
            (4, &[192, 128, 64, 32], "4.22.lite", 8, 64),
        ] {
            let found = Config::detect(&shapes(features, 52, widths)).unwrap();
            assert_eq!(found, Config { head: 16, features, widths: widths.into() });
            assert_eq!((found.version(), found.scales()[0], found.multiple()), (version, coarsest, multiple));
        }
        assert_eq!(Config::detect(&shapes(4, 24, &[192, 128, 96, 64])), None);
        assert_eq!(Config::detect(&shapes(4, 52, &[192, 128, 96])), None);
    }
}
