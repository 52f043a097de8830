// SPDX-License-Identifier: MPL-2.0
//! What each network takes: walks that mirror the networks' own `forward`, line by line, with sketches for tensors.
//!
//! `tests/svd_memory.rs` holds them against what is really taken.

use tch::{Device, Kind};

use super::sketch::{Cost, Layout, Sketch, Walk};
use super::unet::{self, Level};
use super::{clip, vae};

/// Preparing a picture of `width` x `height` for the tower, on the CPU, and embedding it.
pub fn clip(config: &clip::Config, device: Device, kind: Kind, width: i64, height: i64) -> Cost {
    let walk = Walk::new(device, kind);
    let (side, patch, hidden) = (config.image_size, config.patch_size, config.hidden_size);
    let tokens = (side / patch).pow(2) + 1;
    // Patches don't overlap: their convolution is a linear layer.
    let patches = walk.tensor(1, 3 * patch * patch, 1, tokens - 1).linear(hidden, false);
    walk.weights(hidden + tokens * hidden);
    let mut x = walk.tensor(1, hidden, 1, tokens).norm();
    drop(patches);
    for _ in 0..config.num_hidden_layers {
        let normed = x.norm();
        let [query, key, _value] = [(); 3].map(|()| normed.linear(hidden, true));
        x = query.attend(&key, config.num_attention_heads).linear(hidden, true).map();
        let wide = x.norm().linear(config.intermediate_size, true);
        x = wide.map().linear(hidden, true).map();
    }
    x.view([1, hidden, 1, 1], Layout::Plain).norm().linear(config.projection_dim, false);
    if device.is_cuda() {
        return walk.cost();
    }
    let preparing = Walk::new(device, Kind::Float);
    let picture = preparing.tensor(1, 3, height, width);
    // To [-1, 1] and through two blurs: at each time what it is made from, the outcome, and one between.
    let _more = [picture.map(), picture.map()];
    Cost { peak: walk.cost().peak.max(preparing.cost().peak), ..walk.cost() }
}

/// Encoding a picture of `width` x `height`, with the encoder's weights.
pub fn vae_encoder(config: &vae::Config, device: Device, kind: Kind, width: i64, height: i64) -> Cost {
    let walk = Walk::new(device, if config.force_upcast { Kind::Float } else { kind });
    let channels = &config.block_out_channels;
    let picture = walk.tensor(1, 3, height, width);
    let mut x = picture.conv(channels[0], 9, 1);
    for (level, &outputs) in channels.iter().enumerate() {
        for _ in 0..config.layers_per_block {
            x = spatial_block(&x, outputs, None);
        }
        if level + 1 < channels.len() {
            let padded = walk.tensor(1, outputs, x.h + 1, x.w + 1);
            x = padded.view([1, outputs, x.h, x.w], Layout::Plain).conv(outputs, 9, 2);
        }
    }
    let c = x.c;
    x = spatial_block(&x, c, None);
    x = pixel_attention(&x);
    x = spatial_block(&x, c, None);
    let normed = x.norm();
    let moments = normed.map().conv(2 * config.latent_channels, 9, 1);
    moments.conv(2 * config.latent_channels, 1, 1);
    walk.cost()
}

/// Decoding latents of `frames` of `h` x `w`, `chunk` at a time, with the decoder's weights.
pub fn vae_decoder(config: &vae::Config, device: Device, kind: Kind, [frames, h, w]: [i64; 3], chunk: i64) -> Cost {
    let walk = Walk::new(device, kind);
    let channels: Vec<_> = config.block_out_channels.iter().rev().copied().collect();
    let latents = walk.tensor(chunk.min(frames), config.latent_channels, h, w);
    let mut x = latents.conv(channels[0], 9, 1);
    for i in 0..config.layers_per_block {
        if i == 1 {
            x = pixel_attention(&x);
        }
        x = res_block(&x, channels[0], None, 1);
    }
    for (level, &outputs) in channels.iter().enumerate() {
        for _ in 0..=config.layers_per_block {
            x = res_block(&x, outputs, None, 1);
        }
        if level + 1 < channels.len() {
            x = x.resized(2 * x.h, 2 * x.w).conv(outputs, 9, 1);
        }
    }
    let x = x.norm().map().conv(3, 9, 1);
    temporal_conv(&x);
    // All chunks, one after the other.
    Cost { peak: walk.cost().peak, ..walk.cost().repeated((frames + chunk - 1) / chunk) }
}

/// What one prediction is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Prediction {
    /// Clips at once: 2 with guidance.
    pub clips: i64,
    /// Frames in each.
    pub frames: i64,
    /// Rows of latents.
    pub h: i64,
    /// Columns of latents.
    pub w: i64,
    /// In how many pieces feed-forward blocks take the tokens.
    pub pieces: i64,
}

/// One prediction, with the UNet's weights.
pub fn unet(config: &unet::Config, device: Device, kind: Kind, at: Prediction) -> Cost {
    let walk = Walk::new(device, kind);
    let levels = config.levels();
    let (first, time) = (levels[0].channels, 4 * levels[0].channels);
    embedding_weights(&walk, first, time, time);
    embedding_weights(&walk, config.projection_class_embeddings_input_dim, time, time);

    let sample = walk.tensor(at.clips * at.frames, config.in_channels, at.h, at.w);
    let mut x = sample.conv(first, 9, 1);
    let mut skips = vec![x.clone()];
    for (i, level) in levels.iter().enumerate() {
        for _ in 0..level.layers {
            x = layer(x, level, level.attends, time, at);
            skips.push(x.clone());
        }
        if i + 1 < levels.len() {
            x = x.conv(level.channels, 9, 2);
            skips.push(x.clone());
        }
    }
    let lowest = &levels[levels.len() - 1];
    x = layer(x, lowest, true, time, at);
    x = layer(x, lowest, false, time, at);
    for (i, level) in levels.iter().rev().enumerate() {
        for _ in 0..=level.layers {
            let skip = skips.pop().expect("there is a skip for every layer");
            x = x.cat(&skip);
            drop(skip);
            x = layer(x, level, config.up_attends(i), time, at);
        }
        if let Some(next) = skips.last() {
            x = x.resized(next.h, next.w).conv(level.channels, 9, 1);
        }
    }
    x = x.norm();
    x.change();
    x.conv(config.out_channels, 9, 1);
    walk.cost()
}

/// A residual block and, where the level attends, a transformer behind it.
fn layer<'a>(mut x: Sketch<'a>, level: &Level, attends: bool, time: i64, at: Prediction) -> Sketch<'a> {
    x = res_block(&x, level.channels, Some(time), at.clips);
    if attends { transformer(&x, level, at) } else { x }
}

fn transformer<'a>(x: &Sketch<'a>, level: &Level, at: Prediction) -> Sketch<'a> {
    let c = level.channels;
    let pixels = x.h * x.w;
    embedding_weights(x.walk(), c, 4 * c, c);
    x.walk().weights(1);
    let normed = x.norm();
    let mut hidden = normed.linear(c, true);
    drop(normed);
    for _ in 0..level.transformer_layers {
        transformer_block(&hidden, level, at.pieces);
        let mixed = {
            let mut x = hidden.map();
            x = x.copy().view([at.clips * pixels, c, 1, at.frames], Layout::Plain);
            feed_forward(&x, at.pieces);
            transformer_block(&x, level, at.pieces);
            x.copy()
        };
        hidden = mixed.map().view([hidden.n, c, hidden.h, hidden.w], Layout::Plain);
    }
    hidden = hidden.linear(c, true);
    hidden.with_layout(Layout::ChannelsLast).map()
}

/// Attention, attention over the keyframe's embedding and a feed-forward block, all added in place.
fn transformer_block(x: &Sketch, level: &Level, pieces: i64) {
    let c = x.c;
    let normed = x.norm();
    let [query, key, value] = [(); 3].map(|()| normed.linear(c, false));
    drop(normed);
    let attended = query.attend(&key, level.heads);
    drop((query, key, value));
    attended.linear(c, true).change();
    drop(attended);
    // One token: a value for each clip. The norm, queries and keys have weights nonetheless.
    x.walk().weights(2 * c + c * c + 2 * level.context * c + c * c + c);
    x.change();
    feed_forward(x, pieces);
}

/// A norm and a gated feed-forward block, added in place a piece at a time.
fn feed_forward(x: &Sketch, pieces: i64) {
    let c = x.c;
    let before = x.walk().cost();
    let tokens = (x.n * x.h * x.w + pieces - 1) / pieces;
    {
        let piece = x.view([1, c, 1, tokens], Layout::Plain);
        let normed = piece.norm();
        let wide = normed.linear(8 * c, true);
        wide.change();
        wide.view([1, 4 * c, 1, tokens], Layout::Plain).linear(c, true).change();
    }
    x.walk().repeat_since(before, pieces);
}

/// Attention among the pixels of a picture.
fn pixel_attention<'a>(x: &Sketch<'a>) -> Sketch<'a> {
    let pixels = x.norm().copy();
    let [query, key, value] = [(); 3].map(|()| pixels.linear(x.c, true));
    let attended = query.attend(&key, 1);
    drop((key, value));
    attended.linear(x.c, true).map()
}

/// A spatial block, a temporal one, and the two blended.
fn res_block<'a>(x: &Sketch<'a>, outputs: i64, time: Option<i64>, clips: i64) -> Sketch<'a> {
    let spatial = spatial_block(x, outputs, time);
    let (n, h, w) = (spatial.n, spatial.h, spatial.w);
    let spatial = spatial.copy().view([clips, outputs, n / clips, h * w], Layout::Plain);
    let temporal = {
        let normed = spatial.norm();
        let hidden = temporal_conv(&normed.map());
        drop(normed);
        if let Some(time) = time {
            x.walk().weights(time * outputs + outputs);
            hidden.change();
        }
        let normed = hidden.norm();
        let silu = normed.map();
        let outcome = temporal_conv(&silu);
        outcome.map()
    };
    x.walk().weights(1);
    let frames = temporal.map().view([n, outputs, h, w], Layout::Scattered);
    if clips == 1 { frames } else { frames.copy() }
}

/// (clips, c, frames, pixels) -> the same shape.
fn temporal_conv<'a>(x: &Sketch<'a>) -> Sketch<'a> {
    x.conv(x.c, 3, 1)
}

/// Two convolutions with norms before them, as a residual.
fn spatial_block<'a>(x: &Sketch<'a>, outputs: i64, time: Option<i64>) -> Sketch<'a> {
    let hidden = {
        let normed = x.norm();
        normed.map().conv(outputs, 9, 1)
    };
    if let Some(time) = time {
        x.walk().weights(time * outputs + outputs);
        hidden.change();
    }
    let normed = hidden.norm();
    let outcome = normed.map().conv(outputs, 9, 1);
    drop(normed);
    if x.c == outputs { outcome.map() } else { x.conv(outputs, 1, 1).map() }
}

/// Two linear layers with a SiLU between them: their activations are too small to count.
fn embedding_weights(walk: &Walk, inputs: i64, hidden: i64, outputs: i64) {
    walk.weights(inputs * hidden + hidden + hidden * outputs + outputs);
}
