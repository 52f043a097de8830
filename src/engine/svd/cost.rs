// SPDX-License-Identifier: MPL-2.0
//! What each network takes: walks that mirror the networks' own `forward`, line by line, with sketches for tensors.
//!
//! `tests/svd_memory.rs` holds them against what is really taken.

use tch::{Device, Kind};

use super::sketch::{Cost, Layout, Sketch, Walk};
use super::store::{spans, strips};
use super::unet::{self, Level};
use super::vae::{self, Decoding, Keep};
use super::{DecodeMode, clip};

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
    let more = [picture.map(), picture.map()];
    let prepared = preparing.cost();
    drop(more);
    walk.cost() + Cost { weights: 0, ..prepared }
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

/// Decoding latents of `frames` of `h` x `w`, with the decoder's weights.
pub fn vae_decoder(config: &vae::Config, device: Device, kind: Kind, [frames, h, w]: [i64; 3], how: &Decoding) -> Cost {
    if how.mode == DecodeMode::Reference && how.chunk < frames {
        // One clip of a chunk's length after the other; their pictures wait for the last one.
        let clips = (frames + how.chunk - 1) / how.chunk;
        let one = vae_decoder(config, device, kind, [how.chunk, h, w], how);
        let pictures = 3 * frames * h * w * config.factor().pow(2) * kind.elt_size_in_bytes() as i64;
        return Cost { peak: one.peak + pictures as u64, ..one.repeated(clips) };
    }
    let walk = Walk::new(device, kind);
    let spans: Vec<_> = spans(frames, how.chunk).into_iter().map(|span| span.end - span.start).collect();
    let on_host = how.keep == Keep::Host;
    // Something comes or goes while something else is computed with.
    let overlaps = on_host && spans.len() > 1;
    // On the CPU, what is kept on the host counts, too.
    let counts = on_host && !device.is_cuda();
    let latents = walk.tensor(frames, config.latent_channels, h, w);
    let piece = |&n: &i64| match on_host {
        false => Some(latents.view([n, config.latent_channels, h, w], Layout::Plain)),
        true => counts.then(|| walk.tensor(n, config.latent_channels, h, w)),
    };
    let mut pieces: Vec<_> = spans.iter().map(piece).collect();
    let (mut h, mut w, mut c) = (h, w, config.latent_channels);
    for (i, shape) in config.shapes().into_iter().enumerate() {
        let (inputs, outputs) = (shape.inputs, shape.outputs);
        let [rows, columns] = [latents.h * shape.side, latents.w * shape.side];
        for_each(&walk, &spans, &mut pieces, |n, place| {
            // From the host come its tiles, and of them the whole.
            let x = if on_host { walk.tensor(n, c, h, w).map() } else { place.clone().expect("it is there") };
            // The next piece's tiles come and the last one's go meanwhile.
            let _ahead = overlaps.then(|| walk.tensor(n, c, h, w));
            let leaving = overlaps.then(|| walk.tensor(n, outputs, rows, columns));
            let x = match (i, shape.before) {
                (0, _) => x.conv(inputs, 9, 1),
                (1, Some(_)) if config.layers_per_block > 1 => pixel_attention(&x),
                (_, Some(_)) => x.resized(rows, columns).conv(inputs, 9, 1),
                (_, None) => x,
            };
            let x = spatial_block(&x, outputs, None).contiguous();
            x.change();
            drop(leaving);
            if on_host {
                let tiles = x.copy();
                drop(x);
                let has_room =
                    place.as_ref().is_some_and(|room| (room.c, room.h, room.w) == (tiles.c, tiles.h, tiles.w));
                if counts && !has_room {
                    *place = Some(tiles.copy());
                }
            } else {
                *place = Some(x);
            }
        });
        (h, w, c) = (rows, columns, outputs);
        temporal_block(&walk, [frames, outputs, h * w], spans.len(), how, on_host, None);
    }
    let pictures = walk.tensor(frames + 2, 3, h, w);
    for_each(&walk, &spans, &mut pieces, |n, place| {
        let x = if on_host { walk.tensor(n, c, h, w).map() } else { place.clone().expect("it is there") };
        let _ahead = overlaps.then(|| walk.tensor(n, c, h, w));
        let normed = x.norm();
        normed.change();
        normed.conv(3, 9, 1);
    });
    pieces.clear();
    walk.weights(3 * 3 * 3 + 3);
    pictures.map();
    walk.cost()
}

/// Does the `work` for pieces of so many frames. Layers run once for each piece, and have their weights only once.
fn for_each<'a>(
    walk: &Walk,
    spans: &[i64],
    pieces: &mut [Option<Sketch<'a>>],
    mut work: impl FnMut(i64, &mut Option<Sketch<'a>>),
) {
    for (i, (&n, place)) in spans.iter().zip(pieces).enumerate() {
        let before = walk.cost();
        work(n, place);
        if i > 0 {
            walk.forget_weights_since(before);
        }
    }
}

/// The temporal block of a residual block, in as many strips as there are pieces: (frames, channels, pixels).
fn temporal_block(
    walk: &Walk,
    [frames, c, pixels]: [i64; 3],
    pieces: usize,
    how: &Decoding,
    on_host: bool,
    time: Option<i64>,
) {
    walk.weights(2 * (2 * c + 3 * c * c + c) + 1 + time.map_or(0, |time| time * c + c));
    let widths: Vec<_> = strips(pixels, pieces).into_iter().map(|strip| strip.end - strip.start).collect();
    let keeps = !how.two_pass || pieces == 1;
    let mut kept = Vec::new();
    let scratch = walk.tensor(frames + 2, c, 1, widths[0]);
    for pass in [0, 1] {
        for &width in &widths {
            let _x = (pieces > 1 || on_host).then(|| walk.tensor(frames, c, 1, width));
            // The next strip comes and, once they change, the last one goes meanwhile.
            let _ahead = (pieces > 1 && on_host).then(|| walk.tensor(frames, c, 1, width));
            let _leaving = (pass == 1 && pieces > 1 && on_host).then(|| walk.tensor(frames, c, 1, width));
            let hidden = (pass == 0 || !keeps).then(|| walk.tensor(frames + 2, c, 1, width));
            let halves = if pass == 1 && !keeps { 2 } else { 1 };
            for _ in 0..halves {
                // The norm's moments, the norm, the activation, the product.
                scratch.change();
                scratch.change();
                scratch.conv_over_frames();
            }
            if pass == 0 && keeps {
                kept.extend(hidden);
            }
        }
    }
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

/// A residual block as both networks have it, over one clip (frames, channels, h, w).
pub fn block(device: Device, kind: Kind, [frames, c, h, w]: [i64; 4]) -> Cost {
    let walk = Walk::new(device, kind);
    res_block(&walk.tensor(frames, c, h, w), c, None, 1);
    walk.cost()
}

/// A spatial block, then, clip by clip and in place, a temporal one.
fn res_block<'a>(x: &Sketch<'a>, outputs: i64, time: Option<i64>, clips: i64) -> Sketch<'a> {
    let x = spatial_block(x, outputs, time).contiguous();
    let before = x.walk().cost();
    let whole = Decoding { chunk: x.n, mode: DecodeMode::Exact, keep: Keep::Device, two_pass: false };
    temporal_block(x.walk(), [x.n / clips, outputs, x.h * x.w], 1, &whole, false, time);
    x.walk().repeat_since(before, clips);
    x
}

/// Two convolutions with norms before them, as a residual.
fn spatial_block<'a>(x: &Sketch<'a>, outputs: i64, time: Option<i64>) -> Sketch<'a> {
    let mut hidden = x.norm();
    hidden.change();
    hidden = hidden.conv(outputs, 9, 1);
    if let Some(time) = time {
        x.walk().weights(time * outputs + outputs);
        hidden.change();
    }
    hidden = hidden.norm();
    hidden.change();
    hidden = hidden.conv(outputs, 9, 1);
    if x.c != outputs {
        x.conv(outputs, 1, 1);
    }
    hidden.change();
    hidden
}

/// Two linear layers with a SiLU between them: their activations are too small to count.
fn embedding_weights(walk: &Walk, inputs: i64, hidden: i64, outputs: i64) {
    walk.weights(inputs * hidden + hidden + hidden * outputs + outputs);
}
