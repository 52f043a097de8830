// SPDX-License-Identifier: MPL-2.0
//! The keyframe's embedding: a CLIP vision tower (Radford et al., 2021, arXiv:2103.00020) and the preparation of its
//! picture.
//!
//! Upstream: `transformers/models/clip/modeling_clip.py`, `CLIPVisionModelWithProjection`; the preparation is that of
//! `StableVideoDiffusionPipeline._encode_image` in diffusers.

use serde::Deserialize;
use tch::{Kind, Tensor};

use crate::engine::nn::{Activation, LayerNorm, Linear, attend};
use crate::engine::weights::Scope;

/// `image_encoder/config.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The width of the tower.
    pub hidden_size: i64,
    /// The width between its feed-forward layers.
    pub intermediate_size: i64,
    /// The width of the embedding.
    pub projection_dim: i64,
    /// How many layers.
    pub num_hidden_layers: i64,
    /// How many heads in each.
    pub num_attention_heads: i64,
    /// The picture's side in pixels.
    pub image_size: i64,
    /// A patch's side in pixels.
    pub patch_size: i64,
    /// The activation's name.
    pub hidden_act: String,
    /// The norms' eps.
    pub layer_norm_eps: f64,
}

impl Default for Config {
    /// What transformers takes for a value that the file does not have.
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
        }
    }
}

impl Config {
    /// Says what is not possible about these values.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [self.hidden_size, self.intermediate_size, self.projection_dim, self.image_size, self.patch_size];
        if sizes.iter().any(|&size| size < 1) || self.num_attention_heads < 1 {
            return Err("its sizes must be positive".into());
        }
        if self.hidden_size % self.num_attention_heads != 0 {
            let (width, heads) = (self.hidden_size, self.num_attention_heads);
            return Err(format!("hidden_size={width} can't be split into num_attention_heads={heads}"));
        }
        self.hidden_act.parse::<Activation>().map(drop)
    }
}

/// The tower.
pub struct ClipVision {
    patch_embedding: Tensor,
    class_embedding: Tensor,
    position_embedding: Tensor,
    pre_norm: LayerNorm,
    layers: Vec<EncoderLayer>,
    post_norm: LayerNorm,
    projection: Linear,
    image_size: i64,
    patch_size: i64,
}

impl ClipVision {
    /// The tower of a checked configuration.
    pub fn new(scope: Scope, config: &Config) -> Self {
        let model = &scope / "vision_model";
        let embeddings = &model / "embeddings";
        let (width, patch) = (config.hidden_size, config.patch_size);
        let positions = (config.image_size / patch).pow(2) + 1;
        let norm = |name| LayerNorm::new(&model / name, width, config.layer_norm_eps);
        // Older checkpoints store the numbers from 0 up.
        embeddings.skip("position_ids");
        Self {
            patch_embedding: (&embeddings / "patch_embedding").get("weight", &[width, 3, patch, patch]),
            class_embedding: embeddings.get("class_embedding", &[width]),
            position_embedding: (&embeddings / "position_embedding").get("weight", &[positions, width]),
            // Spelt as in the checkpoints.
            pre_norm: norm("pre_layrnorm"),
            layers: (0..config.num_hidden_layers)
                .map(|i| EncoderLayer::new(&model / "encoder" / "layers" / i, config))
                .collect(),
            post_norm: norm("post_layernorm"),
            projection: Linear::without_bias(scope / "visual_projection", width, config.projection_dim),
            image_size: config.image_size,
            patch_size: patch,
        }
    }

    /// Prepared pictures (n, 3, image_size, image_size) -> embeddings (n, projection_dim).
    pub fn forward(&self, pictures: &Tensor) -> Tensor {
        let n = pictures.size()[0];
        let stride = [self.patch_size; 2];
        let patches = pictures
            .conv2d(&self.patch_embedding, None::<&Tensor>, stride, [0; 2], [1; 2], 1)
            .flatten(2, 3)
            .transpose(1, 2);
        let class = self.class_embedding.expand([n, 1, -1], false);
        let mut hidden = self.pre_norm.forward(&(Tensor::cat(&[class, patches], 1) + &self.position_embedding));
        for layer in &self.layers {
            hidden = layer.forward(&hidden);
        }
        self.projection.forward(&self.post_norm.forward(&hidden.select(1, 0)))
    }

    /// A picture (1, 3, h, w) in [0, 1] -> the tower's input: squashed to its square with antialiasing, and with
    /// `mean` and `deviation` taken out of each channel. In float32.
    pub fn prepare(&self, picture: &Tensor, mean: &[f32; 3], deviation: &[f32; 3]) -> Tensor {
        let channels = |values: &[f32; 3]| Tensor::from_slice(values).view([1, 3, 1, 1]).to_device(picture.device());
        // The detour over [-1, 1] is upstream's; it matters in the last bits.
        let picture = resize_antialiased(&(picture * 2.0 - 1.0), self.image_size);
        ((picture + 1.0) / 2.0 - channels(mean)) / channels(deviation)
    }
}

/// A blur for what the smaller size can't show, then a bicubic resize with corners aligned: (1, c, h, w) -> (1, c,
/// side, side). Values may leave the input's range.
fn resize_antialiased(x: &Tensor, side: i64) -> Tensor {
    let blurred = blur(&blur(x, 3, side), 2, side);
    blurred.upsample_bicubic2d([side, side], true, None, None)
}

/// Blurs along one dimension with the Gaussian that belongs to its reduction to `side`.
fn blur(x: &Tensor, dim: usize, side: i64) -> Tensor {
    let factor = x.size()[dim] as f64 / side as f64;
    if factor <= 1.0 {
        // The Gaussian is so narrow that its neighbours' weights are 0 in float32.
        return x.shallow_clone();
    }
    let sigma = ((factor - 1.0) / 2.0).max(0.001);
    let radius = (4.0 * sigma).max(3.0) as i64 / 2;
    let sigma = Tensor::from(sigma as f32).to_device(x.device());
    let offsets = Tensor::arange_start(-radius, radius + 1, (Kind::Float, x.device()));
    let weights = (-offsets.square() / (sigma.square() * 2.0)).exp();
    let weights = &weights / weights.sum(Kind::Float);
    let channels = x.size()[1];
    let (shape, pad) = match dim {
        3 => ([1, 1, 1, -1], [radius, radius, 0, 0]),
        _ => ([1, 1, -1, 1], [0, 0, radius, radius]),
    };
    let kernel = weights.view(shape).repeat([channels, 1, 1, 1]);
    x.reflection_pad2d(pad).conv2d(&kernel, None::<&Tensor>, [1; 2], [0; 2], [1; 2], channels)
}

struct EncoderLayer {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
    heads: i64,
}

impl EncoderLayer {
    fn new(scope: Scope, config: &Config) -> Self {
        let (width, hidden) = (config.hidden_size, config.intermediate_size);
        let attention = |name| Linear::new(&scope / "self_attn" / name, width, width);
        Self {
            norm1: LayerNorm::new(&scope / "layer_norm1", width, config.layer_norm_eps),
            query: attention("q_proj"),
            key: attention("k_proj"),
            value: attention("v_proj"),
            output: attention("out_proj"),
            norm2: LayerNorm::new(&scope / "layer_norm2", width, config.layer_norm_eps),
            fc1: Linear::new(&scope / "mlp" / "fc1", width, hidden),
            fc2: Linear::new(&scope / "mlp" / "fc2", hidden, width),
            activation: config.hidden_act.parse().expect("the configuration was checked"),
            heads: config.num_attention_heads,
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let normed = self.norm1.forward(x);
        let [query, key, value] = [&self.query, &self.key, &self.value].map(|layer| layer.forward(&normed));
        let x = x + self.output.forward(&attend(&query, &key, &value, self.heads));
        let hidden = self.activation.forward(&self.fc1.forward(&self.norm2.forward(&x)));
        self.fc2.forward(&hidden) + x
    }
}
