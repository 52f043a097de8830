// SPDX-License-Identifier: MPL-2.0
//! The spatio-temporal UNet that predicts what to take out of noisy latents.
//!
//! Upstream: `diffusers/models/unets/unet_spatio_temporal_condition.py`, `UNetSpatioTemporalConditionModel`.

mod blocks;
mod config;
mod transformer;

use tch::Tensor;

use self::blocks::{DownBlock, MidBlock, UpBlock};
pub(super) use self::config::Level;
pub use self::config::{Config, OneOrEach};
use crate::engine::Result;
use crate::engine::nn::{Conv2d, GroupNorm, TimestepEmbedding, sinusoidal};
use crate::engine::weights::Scope;
use crate::engine::worker::Cancel;

/// The UNet.
pub struct UNet {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    add_embedding: TimestepEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    channels: i64,
    addition_time_embed_dim: i64,
}

impl UNet {
    /// The UNet of a checked configuration.
    pub fn new(scope: Scope, config: &Config) -> Self {
        let levels = config.levels();
        let (first, time) = (levels[0].channels, levels[0].channels * 4);
        let count = levels.len();
        let down = |i: usize| {
            let inputs = levels[i.saturating_sub(1)].channels;
            DownBlock::new(&scope / "down_blocks" / i, inputs, &levels[i], time, i + 1 < count)
        };
        let up = |i: usize| {
            let at = count - 1 - i;
            // The blocks before hand on the level below's channels; the last skip of a level comes from the level above.
            let inputs = levels[(at + 1).min(count - 1)].channels;
            let last_skip = levels[at.saturating_sub(1)].channels;
            let level = config::Level { attends: config.up_attends(i), ..levels[at].clone() };
            UpBlock::new(&scope / "up_blocks" / i, inputs, last_skip, &level, time, i + 1 < count)
        };
        Self {
            conv_in: Conv2d::new(&scope / "conv_in", config.in_channels, first, 3),
            time_embedding: TimestepEmbedding::new(&scope / "time_embedding", first, time, time),
            add_embedding: TimestepEmbedding::new(
                &scope / "add_embedding",
                config.projection_class_embeddings_input_dim,
                time,
                time,
            ),
            down_blocks: (0..count).map(down).collect(),
            mid_block: MidBlock::new(&scope / "mid_block", &levels[count - 1], time),
            up_blocks: (0..count).map(up).collect(),
            conv_norm_out: GroupNorm::new(&scope / "conv_norm_out", first, 1e-5),
            conv_out: Conv2d::new(&scope / "conv_out", first, config.out_channels, 3),
            channels: first,
            addition_time_embed_dim: config.addition_time_embed_dim,
        }
    }

    /// One prediction for each frame of each clip.
    ///
    /// `sample` is (clips, frames, in_channels, h, w) with sides of any size, `timestep` (1), `context` the keyframes'
    /// embeddings (clips, tokens, cross_attention_dim) and `added_time_ids` (clips, 3). Gives (clips, frames,
    /// out_channels, h, w). Feed-forward blocks take the tokens in `feed_forward_pieces`, 1 or more: what comes out is
    /// the same, but for rounding.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::engine::Error::Cancelled) within a layer of the token being set.
    pub fn forward(
        &self,
        sample: &Tensor,
        timestep: &Tensor,
        context: &Tensor,
        added_time_ids: &Tensor,
        feed_forward_pieces: i64,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        let (clips, frames, _, h, w) = sample.size5().expect("a sample has five dimensions");
        let kind = sample.kind();

        let time = self.time_embedding.forward(&sinusoidal(timestep, self.channels).to_kind(kind));
        let ids = sinusoidal(&added_time_ids.flatten(0, -1), self.addition_time_embed_dim);
        let added = self.add_embedding.forward(&ids.view([clips, -1]).to_kind(kind));
        let time = (time + added).repeat_interleave_self_int(frames, 0, None);
        let at = Conditions { time: &time, context, frames, feed_forward_pieces, cancel };

        let mut x = self.conv_in.forward(&sample.flatten(0, 1));
        let mut skips = vec![x.shallow_clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &mut skips, at)?;
        }
        x = self.mid_block.forward(x, at)?;
        // Where a side can't be halved evenly at every level, upsampling aims at the size of the next skip.
        let halvings = 1 << (self.up_blocks.len() - 1);
        let is_odd = h % halvings != 0 || w % halvings != 0;
        for block in &self.up_blocks {
            x = block.forward(x, &mut skips, at, is_odd)?;
        }
        x = self.conv_norm_out.forward(&x).silu_();
        Ok(self.conv_out.forward(&x).unflatten(0, [clips, frames]))
    }
}

/// What every block is told besides its input.
#[derive(Clone, Copy)]
struct Conditions<'a> {
    /// The embedding of the noise level and the added ids, (clips * frames, width).
    time: &'a Tensor,
    /// The keyframes' embeddings, (clips, tokens, width).
    context: &'a Tensor,
    /// Frames in a clip.
    frames: i64,
    /// In how many pieces feed-forward blocks take the tokens.
    feed_forward_pieces: i64,
    /// Ends the work between two layers.
    cancel: &'a Cancel,
}
