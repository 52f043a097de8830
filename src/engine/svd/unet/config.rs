// SPDX-License-Identifier: MPL-2.0
//! `unet/config.json`.

use serde::Deserialize;

/// The UNet's sizes, with the names and defaults (those of SVD-XT) of diffusers.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Channels of a latent and of the keyframe's latent together.
    pub in_channels: i64,
    /// Channels of a latent.
    pub out_channels: i64,
    /// Each level's block, from the latents' resolution down.
    pub down_block_types: Vec<String>,
    /// Each level's block on the way up, from the lowest resolution.
    pub up_block_types: Vec<String>,
    /// Channels of each level.
    pub block_out_channels: Vec<i64>,
    /// Width of each added id's embedding.
    pub addition_time_embed_dim: i64,
    /// Width of the three ids' embeddings together.
    pub projection_class_embeddings_input_dim: i64,
    /// Residual blocks in each level.
    pub layers_per_block: OneOrEach,
    /// Width of the keyframe's embedding.
    pub cross_attention_dim: OneOrEach,
    /// Transformer blocks behind each residual block of a level.
    pub transformer_layers_per_block: OneOrEach,
    /// Attention heads of each level.
    pub num_attention_heads: OneOrEach,
    /// Frames of the clips that the model was trained on.
    pub num_frames: i64,
}

/// A number for all levels, or one for each.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrEach {
    /// For all.
    One(i64),
    /// For each, from the latents' resolution down.
    Each(Vec<i64>),
}

impl OneOrEach {
    fn at(&self, level: usize) -> i64 {
        match self {
            Self::One(value) => *value,
            Self::Each(values) => values[level],
        }
    }

    fn check(&self, name: &str, levels: usize) -> Result<(), String> {
        let fits = match self {
            Self::One(value) => *value > 0,
            Self::Each(values) => values.len() == levels && values.iter().all(|&value| value > 0),
        };
        fits.then_some(()).ok_or_else(|| format!("{name} must be one positive number, or {levels}"))
    }
}

impl Default for Config {
    fn default() -> Self {
        let types = |kinds: [&str; 4]| kinds.map(|kind| format!("{kind}BlockSpatioTemporal")).to_vec();
        Self {
            in_channels: 8,
            out_channels: 4,
            down_block_types: types(["CrossAttnDown", "CrossAttnDown", "CrossAttnDown", "Down"]),
            up_block_types: types(["Up", "CrossAttnUp", "CrossAttnUp", "CrossAttnUp"]),
            block_out_channels: vec![320, 640, 1280, 1280],
            addition_time_embed_dim: 256,
            projection_class_embeddings_input_dim: 768,
            layers_per_block: OneOrEach::One(2),
            cross_attention_dim: OneOrEach::One(1024),
            transformer_layers_per_block: OneOrEach::One(1),
            num_attention_heads: OneOrEach::Each(vec![5, 10, 20, 20]),
            num_frames: 25,
        }
    }
}

/// One resolution of the UNet.
#[derive(Debug, Clone)]
pub(in crate::engine::svd) struct Level {
    pub channels: i64,
    pub layers: i64,
    pub transformer_layers: i64,
    pub heads: i64,
    pub context: i64,
    pub attends: bool,
}

impl Config {
    /// Says what is not possible about these values.
    pub fn check(&self) -> Result<(), String> {
        let count = self.block_out_channels.len();
        if count == 0 || self.block_out_channels.iter().any(|&c| c < 1 || c % 32 != 0) {
            return Err(format!("block_out_channels={:?} must be multiples of 32", self.block_out_channels));
        }
        for (name, types, kinds) in [
            (
                "down_block_types",
                &self.down_block_types,
                ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
            ),
            ("up_block_types", &self.up_block_types, ["CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"]),
        ] {
            if types.len() != count {
                return Err(format!("{name} must name {count} blocks, as block_out_channels does"));
            }
            if let Some(other) = types.iter().find(|kind| !kinds.contains(&kind.as_str())) {
                return Err(format!("{name} has {other}, where {} and {} are known", kinds[0], kinds[1]));
            }
        }
        self.layers_per_block.check("layers_per_block", count)?;
        self.cross_attention_dim.check("cross_attention_dim", count)?;
        self.transformer_layers_per_block.check("transformer_layers_per_block", count)?;
        self.num_attention_heads.check("num_attention_heads", count)?;
        if let Some(level) = self.levels().iter().find(|level| level.channels % level.heads != 0) {
            return Err(format!("{} channels can't be split into num_attention_heads={}", level.channels, level.heads));
        }
        if self.projection_class_embeddings_input_dim != 3 * self.addition_time_embed_dim {
            return Err(format!(
                "projection_class_embeddings_input_dim={} must be 3 times addition_time_embed_dim={}",
                self.projection_class_embeddings_input_dim, self.addition_time_embed_dim
            ));
        }
        if self.out_channels < 1 || self.in_channels != 2 * self.out_channels || self.num_frames < 1 {
            return Err(format!(
                "in_channels={} must be twice out_channels={}, and num_frames={} positive",
                self.in_channels, self.out_channels, self.num_frames
            ));
        }
        Ok(())
    }

    /// The levels on the way down.
    pub(in crate::engine::svd) fn levels(&self) -> Vec<Level> {
        (0..self.block_out_channels.len())
            .map(|i| Level {
                channels: self.block_out_channels[i],
                layers: self.layers_per_block.at(i),
                transformer_layers: self.transformer_layers_per_block.at(i),
                heads: self.num_attention_heads.at(i),
                context: self.cross_attention_dim.at(i),
                attends: self.down_block_types[i].starts_with("CrossAttn"),
            })
            .collect()
    }

    /// Whether the block at `i` on the way up attends.
    pub(in crate::engine::svd) fn up_attends(&self, i: usize) -> bool {
        self.up_block_types[i].starts_with("CrossAttn")
    }
}
