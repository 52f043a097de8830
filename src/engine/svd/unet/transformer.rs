// SPDX-License-Identifier: MPL-2.0
//! Transformers over the pixels of each frame and over the frames at each pixel, blended.
//!
//! Upstream: `TransformerSpatioTemporalModel` in `diffusers/models/transformers/transformer_temporal.py`, with
//! `BasicTransformerBlock` and `TemporalBasicTransformerBlock` of `diffusers/models/attention.py`.

use tch::{Kind, Tensor};

use super::Conditions;
use super::config::Level;
use crate::engine::Result;
use crate::engine::nn::{GegluFeedForward, GroupNorm, LayerNorm, Linear, TimestepEmbedding, attend, sinusoidal};
use crate::engine::svd::layers::AlphaBlender;
use crate::engine::weights::Scope;

/// The layer norms' eps.
const EPS: f64 = 1e-5;

/// Spatial and temporal transformer blocks in turn, as a residual.
pub(super) struct SpatioTemporalTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<(SpatialBlock, TemporalBlock)>,
    time_pos_embed: TimestepEmbedding,
    time_mixer: AlphaBlender,
    proj_out: Linear,
    channels: i64,
}

impl SpatioTemporalTransformer {
    pub(super) fn new(scope: Scope, level: &Level) -> Self {
        let channels = level.channels;
        let block = |i| {
            let spatial = SpatialBlock::new(&scope / "transformer_blocks" / i, level);
            (spatial, TemporalBlock::new(&scope / "temporal_transformer_blocks" / i, level))
        };
        Self {
            norm: GroupNorm::new(&scope / "norm", channels, 1e-6),
            proj_in: Linear::new(&scope / "proj_in", channels, channels),
            blocks: (0..level.transformer_layers).map(block).collect(),
            time_pos_embed: TimestepEmbedding::new(&scope / "time_pos_embed", channels, 4 * channels, channels),
            time_mixer: AlphaBlender::new(&scope / "time_mixer", false),
            proj_out: Linear::new(&scope / "proj_out", channels, channels),
            channels,
        }
    }

    /// (clips * frames, c, h, w) -> the same shape.
    pub(super) fn forward(&self, x: &Tensor, at: Conditions) -> Result<Tensor> {
        let (n, _, h, w) = x.size4().expect("pictures have four dimensions");
        let positions = Tensor::arange(at.frames, (Kind::Float, x.device()));
        let positions = sinusoidal(&positions, self.channels).to_kind(x.kind());
        let positions = self.time_pos_embed.forward(&positions).repeat([n / at.frames, 1]).unsqueeze(1);

        let normed = self.norm.forward(x);
        let mut hidden = self.proj_in.forward(&normed.flatten(2, 3).transpose(1, 2));
        drop(normed);
        for (spatial, temporal) in &self.blocks {
            at.cancel.check()?;
            hidden = spatial.forward(hidden, at);
            at.cancel.check()?;
            let mixed = temporal.forward(&hidden + &positions, at);
            hidden = self.time_mixer.forward(&hidden, &mixed);
        }
        hidden = self.proj_out.forward(&hidden);
        Ok(hidden.transpose(1, 2).unflatten(2, [h, w]) + x)
    }
}

/// Attention of queries over a context, or over themselves.
struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: i64,
}

impl Attention {
    fn new(scope: Scope, level: &Level, context: i64) -> Self {
        let from = |name, width| Linear::without_bias(&scope / name, width, level.channels);
        Self {
            query: from("to_q", level.channels),
            key: from("to_k", context),
            value: from("to_v", context),
            output: Linear::new(&scope / "to_out.0", level.channels, level.channels),
            heads: level.heads,
        }
    }

    /// (n, tokens, c) -> the same shape.
    fn among(&self, x: Tensor) -> Tensor {
        let [query, key, value] = [&self.query, &self.key, &self.value].map(|layer| layer.forward(&x));
        drop(x);
        let attended = attend(&query, &key, &value, self.heads);
        drop((query, key, value));
        self.output.forward(&attended)
    }

    /// What `n` sequences see of a context (clips, 1, width) of one token, whatever they ask, because a softmax over
    /// one token is 1: (n, 1, c).
    fn over_one(&self, n: i64, context: &Tensor) -> Tensor {
        let seen = self.output.forward(&self.value.forward(context));
        seen.repeat_interleave_self_int(n / context.size()[0], 0, None)
    }

    /// `x` is (clips * something, tokens, c), `context` (clips, context tokens, width): each clip's tokens look at
    /// that clip's context. The same shape as `x`.
    fn over(&self, x: &Tensor, context: &Tensor) -> Tensor {
        let clips = context.size()[0];
        let (n, length, channels) = x.size3().expect("tokens have three dimensions");
        let queries = self.query.forward(x).view([clips, -1, channels]);
        let attended = attend(&queries, &self.key.forward(context), &self.value.forward(context), self.heads);
        self.output.forward(&attended).view([n, length, channels])
    }
}

struct SpatialBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: GegluFeedForward,
}

impl SpatialBlock {
    fn new(scope: Scope, level: &Level) -> Self {
        let norm = |name| LayerNorm::new(&scope / name, level.channels, EPS);
        Self {
            norm1: norm("norm1"),
            attn1: Attention::new(&scope / "attn1", level, level.channels),
            norm2: norm("norm2"),
            attn2: Attention::new(&scope / "attn2", level, level.context),
            norm3: norm("norm3"),
            ff: GegluFeedForward::new(&scope / "ff", level.channels),
        }
    }

    /// (n, pixels or frames, c) -> the same shape, in the same memory.
    fn forward(&self, mut x: Tensor, at: Conditions) -> Tensor {
        x += self.attn1.among(self.norm1.forward(&x));
        x += match at.context.size()[1] {
            1 => self.attn2.over_one(x.size()[0], at.context),
            _ => self.attn2.over(&self.norm2.forward(&x), at.context),
        };
        add_feed_forward(&x, &self.norm3, &self.ff, at.feed_forward_pieces);
        x
    }
}

/// Adds to `x` what a feed-forward block gives for it, behind its norm. Each token is by itself, so they may be taken
/// in `pieces`, one after the other: then the block's eightfold width takes less memory.
fn add_feed_forward(x: &Tensor, norm: &LayerNorm, block: &GegluFeedForward, pieces: i64) {
    let tokens = x.view([-1, x.size()[2]]);
    for mut piece in tokens.chunk(pieces, 0) {
        piece += block.forward(&norm.forward(&piece));
    }
}

/// A spatial block turned on its side, with one more feed-forward in front.
struct TemporalBlock {
    norm_in: LayerNorm,
    ff_in: GegluFeedForward,
    block: SpatialBlock,
}

impl TemporalBlock {
    fn new(scope: Scope, level: &Level) -> Self {
        Self {
            norm_in: LayerNorm::new(&scope / "norm_in", level.channels, EPS),
            ff_in: GegluFeedForward::new(&scope / "ff_in", level.channels),
            block: SpatialBlock::new(scope, level),
        }
    }

    /// (clips * frames, pixels, c) -> the same shape. The tensor's memory may be used for what lies between.
    fn forward(&self, mut x: Tensor, at: Conditions) -> Tensor {
        let (n, pixels, _) = x.size3().expect("tokens have three dimensions");
        let turn = |x: &Tensor, inner: i64| x.unflatten(0, [-1, inner]).transpose(1, 2).contiguous().flatten(0, 1);
        x = turn(&x, at.frames);
        add_feed_forward(&x, &self.norm_in, &self.ff_in, at.feed_forward_pieces);
        x = turn(&self.block.forward(x, at), pixels);
        debug_assert_eq!(x.size()[0], n);
        x
    }
}
