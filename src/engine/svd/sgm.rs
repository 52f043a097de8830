// SPDX-License-Identifier: MPL-2.0
//! The names and the shapes of Stability AI's own layout, and what they are to diffusers.
//!
//! Upstream: `sgm/modules/diffusionmodules/video_model.py` (UNet), `sgm/modules/autoencoding/temporal_ae.py` and
//! `sgm/modules/diffusionmodules/model.py` (VAE), `sgm/modules/encoders/modules.py` (the keyframe's encoders) in
//! `generative-models`, and `open_clip/transformer.py` (CLIP). The tower may also have transformers' names behind the
//! same prefix: that is how ComfyUI's `ImageOnlyCheckpointSave` writes it.

use super::source::Network;
use super::unet::OneOrEach;
use super::{clip, unet, vae};
use crate::engine::weights::Part;

const UNET: &str = "model.diffusion_model.";
const TOWER: &str = "conditioner.embedders.0.open_clip.model.visual.";
const FIRST_STAGE: &str = "first_stage_model.";
/// The autoencoder that encodes the keyframe as a condition.
const CONDITION: &str = "conditioner.embedders.3.encoder.";

/// What a file may have, and no network here needs: weights of the training, the text half of CLIP, the decoder of the
/// condition's autoencoder, and tables that follow from the noise levels.
const UNUSED: [&str; 22] = [
    "model_ema.",
    "conditioner.embedders.0.open_clip.mean",
    "conditioner.embedders.0.open_clip.std",
    "conditioner.embedders.0.open_clip.model.transformer.",
    "conditioner.embedders.0.open_clip.model.token_embedding.",
    "conditioner.embedders.0.open_clip.model.positional_embedding",
    "conditioner.embedders.0.open_clip.model.ln_final.",
    "conditioner.embedders.0.open_clip.model.text_projection",
    "conditioner.embedders.0.open_clip.model.logit_",
    "conditioner.embedders.0.open_clip.model.attn_mask",
    "conditioner.embedders.3.encoder.decoder.",
    "conditioner.embedders.3.encoder.post_quant_conv.",
    "conditioner.embedders.3.encoder.loss.",
    "first_stage_model.loss.",
    "denoiser.",
    "sampler.",
    "loss_fn.",
    "edm_vpred.",
    "v_pred",
    "betas",
    "alphas_cumprod",
    "sqrt_",
];

/// Where a tensor belongs.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// To a network: the parts of it, by diffusers' names.
    In(Network, Vec<(String, Part)>),
    /// Nowhere: it is known and not needed.
    Unused,
    /// Not known.
    Unknown,
}

/// The order of a model's blocks, which names in this layout don't say by themselves.
#[derive(Debug, Clone)]
pub struct Blocks {
    /// For each input block behind the first, its level and layer; no layer for one that halves the resolution.
    inputs: Vec<(usize, Option<usize>)>,
    /// For each output block, its level and layer.
    outputs: Vec<(usize, usize)>,
    /// Levels of the VAE's decoder: they are counted from the other end.
    decoder_levels: usize,
    /// Whether the condition has an encoder of its own, with a `quant_conv`. In the first stage it is part of the
    /// encoder's last convolution.
    has_condition: bool,
}

/// The shapes of a file's tensors, by name.
pub type Shapes = std::collections::BTreeMap<String, Vec<i64>>;

/// Sizes beyond this are no network's.
const LARGEST: i64 = 1 << 20;

struct Reader<'a>(&'a Shapes);

impl Reader<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn side(&self, name: &str, dim: usize) -> Result<i64, String> {
        let side = self.0.get(name).ok_or_else(|| format!("has no {name}"))?.get(dim).copied().unwrap_or(0);
        if (1..=LARGEST).contains(&side) { Ok(side) } else { Err(format!("{name} has a side of {side}")) }
    }

    /// How many tensors `name` gives in a row, from 0.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|&i| self.has(&name(i))).count()
    }
}

/// A level of the UNet, as the tensors show it.
#[derive(Default)]
struct Level {
    channels: i64,
    layers: i64,
    transformer_layers: usize,
    attends: bool,
}

/// Says which parts of a model are missing, if not all are.
pub fn missing(shapes: &Shapes) -> Option<Vec<String>> {
    let has = |prefix: &str, name: &str| shapes.contains_key(&format!("{prefix}{name}"));
    let encoder = "encoder.conv_in.weight";
    let parts = [
        ("the UNet", UNET, has(UNET, "input_blocks.0.0.weight")),
        ("the VAE's decoder", FIRST_STAGE, has(FIRST_STAGE, "decoder.conv_in.weight")),
        ("the VAE's encoder", FIRST_STAGE, has(FIRST_STAGE, encoder) || has_condition(shapes)),
        ("the image encoder", TOWER, shapes.keys().any(|name| name.starts_with(TOWER))),
    ];
    let missing = parts.into_iter().filter(|(.., is_there)| !is_there);
    let missing: Vec<_> = missing.map(|(part, prefix, _)| format!("{part} ({prefix}*)")).collect();
    (!missing.is_empty()).then_some(missing)
}

/// Whether the condition has an encoder of its own.
fn has_condition(shapes: &Shapes) -> bool {
    let names = ["encoder.conv_in.weight", "quant_conv.weight"];
    names.iter().all(|name| shapes.contains_key(&format!("{CONDITION}{name}")))
}

/// Reads the sizes and the order of the blocks off the tensors of a whole model.
///
/// The heads are those that the published models have, because tensors don't tell them: one for each 64 channels in
/// the UNet, and 16 in CLIP. What the configurations say beyond sizes is SVD's.
///
/// # Errors
/// Why it can't be Stable Video Diffusion.
pub fn read(shapes: &Shapes) -> Result<(Blocks, unet::Config, vae::Config, clip::Config), String> {
    let reader = Reader(shapes);
    let (inputs, outputs, unet) = read_unet(&reader)?;
    let has_condition = has_condition(shapes);
    let decoder_levels = reader.count(|i| format!("{FIRST_STAGE}decoder.up.{i}.block.0.conv1.weight"));
    let vae = read_vae(&reader, if has_condition { CONDITION } else { FIRST_STAGE })?;
    Ok((Blocks { inputs, outputs, decoder_levels, has_condition }, unet, vae, read_clip(&reader)?))
}

type Inputs = Vec<(usize, Option<usize>)>;
type Outputs = Vec<(usize, usize)>;

fn read_unet(reader: &Reader) -> Result<(Inputs, Outputs, unet::Config), String> {
    let name = |name: String| format!("{UNET}{name}");
    let transformers = |block: &str| reader.count(|i| format!("{block}.1.transformer_blocks.{i}.norm1.weight"));
    if !reader.has(&name("middle_block.0.time_mixer.mix_factor".into())) {
        return Err("its UNet has no layers over time: it makes pictures, not video".into());
    }
    let (mut levels, mut inputs) = (vec![Level::default()], Vec::new());
    for i in 1.. {
        let block = name(format!("input_blocks.{i}"));
        let at = levels.len() - 1;
        if reader.has(&format!("{block}.0.op.weight")) {
            inputs.push((at, None));
            levels.push(Level::default());
        } else if reader.has(&format!("{block}.0.in_layers.2.weight")) {
            let level = &mut levels[at];
            inputs.push((at, Some(level.layers as usize)));
            level.channels = reader.side(&format!("{block}.0.in_layers.2.weight"), 0)?;
            level.layers += 1;
            level.attends = reader.has(&format!("{block}.1.proj_in.weight"));
            level.transformer_layers = level.transformer_layers.max(transformers(&block));
        } else {
            break;
        }
    }
    let (mut outputs, mut up_attends) = (Vec::new(), vec![false]);
    let mut layer = 0;
    for i in 0.. {
        let block = name(format!("output_blocks.{i}"));
        if !reader.has(&format!("{block}.0.in_layers.2.weight")) {
            break;
        }
        let at = up_attends.len() - 1;
        outputs.push((at, layer));
        layer += 1;
        up_attends[at] |= reader.has(&format!("{block}.1.proj_in.weight"));
        // Behind the last layer of a level, and behind its attention, if there is one.
        if (1..=2).any(|i| reader.has(&format!("{block}.{i}.conv.weight"))) {
            up_attends.push(false);
            layer = 0;
        }
        if let Some(level) = (levels.len() - 1).checked_sub(at).map(|at| &mut levels[at]) {
            level.transformer_layers = level.transformer_layers.max(transformers(&block));
        }
    }
    let (count, last) = (levels.len(), levels.len() - 1);
    levels[last].transformer_layers = levels[last].transformer_layers.max(transformers(&name("middle_block".into())));
    if up_attends.len() != count || levels.iter().any(|level| level.layers == 0) {
        return Err(format!("its UNet has {count} levels on the way down, and not the same ones on the way up"));
    }
    let ids = reader.side(&name("label_emb.0.0.weight".into()), 1)?;
    if ids % 3 != 0 {
        return Err(format!(
            "its UNet takes {ids} values besides the noise level, as SV3D does, and not three numbers"
        ));
    }
    let types = |attends: &[bool], way: &str| {
        let of = |attends: &bool| format!("{}{way}BlockSpatioTemporal", if *attends { "CrossAttn" } else { "" });
        attends.iter().map(of).collect()
    };
    let attends: Vec<_> = levels.iter().map(|level| level.attends).collect();
    let each = |value: fn(&Level) -> i64| OneOrEach::Each(levels.iter().map(value).collect());
    let config = unet::Config {
        in_channels: reader.side(&name("input_blocks.0.0.weight".into()), 1)?,
        out_channels: reader.side(&name("out.2.weight".into()), 0)?,
        down_block_types: types(&attends, "Down"),
        up_block_types: types(&up_attends, "Up"),
        block_out_channels: levels.iter().map(|level| level.channels).collect(),
        addition_time_embed_dim: ids / 3,
        projection_class_embeddings_input_dim: ids,
        layers_per_block: each(|level| level.layers),
        cross_attention_dim: OneOrEach::One(
            reader.side(&name("middle_block.1.transformer_blocks.0.attn2.to_k.weight".into()), 1)?,
        ),
        transformer_layers_per_block: each(|level| level.transformer_layers.max(1) as i64),
        num_attention_heads: each(|level| (level.channels / 64).max(1)),
        // Both SVD and SVD-XT can make as many.
        num_frames: 14,
    };
    Ok((inputs, outputs, config))
}

fn read_vae(reader: &Reader, encoder: &str) -> Result<vae::Config, String> {
    if !reader.has(&format!("{FIRST_STAGE}decoder.mid.block_1.mix_factor")) {
        return Err("its VAE decodes each frame by itself (it is an image_decoder file): \
                    take the file without image_decoder in its name"
            .into());
    }
    let block = |level: usize, i: usize| format!("{encoder}encoder.down.{level}.block.{i}.conv1.weight");
    let levels = reader.count(|level| block(level, 0));
    let channels = (0..levels).map(|level| reader.side(&block(level, 0), 0)).collect::<Result<_, _>>()?;
    Ok(vae::Config {
        block_out_channels: channels,
        layers_per_block: reader.count(|i| block(0, i)) as i64,
        latent_channels: reader.side(&format!("{FIRST_STAGE}decoder.conv_in.weight"), 1)?,
        ..vae::Config::default()
    })
}

fn read_clip(reader: &Reader) -> Result<clip::Config, String> {
    let name = |name: &str| format!("{TOWER}{name}");
    let is_open_clip = reader.has(&name("conv1.weight"));
    let (patches, positions, projection) = if is_open_clip {
        (name("conv1.weight"), name("positional_embedding"), (name("proj"), 1))
    } else {
        let embeddings = "vision_model.embeddings";
        (
            name(&format!("{embeddings}.patch_embedding.weight")),
            name(&format!("{embeddings}.position_embedding.weight")),
            (name("visual_projection.weight"), 0),
        )
    };
    let feed_forward = |i: usize| match is_open_clip {
        true => name(&format!("transformer.resblocks.{i}.mlp.c_fc.weight")),
        false => name(&format!("vision_model.encoder.layers.{i}.mlp.fc1.weight")),
    };
    let patch_size = reader.side(&patches, 2)?;
    Ok(clip::Config {
        hidden_size: reader.side(&patches, 0)?,
        intermediate_size: reader.side(&feed_forward(0), 0)?,
        projection_dim: reader.side(&projection.0, projection.1)?,
        num_hidden_layers: reader.count(feed_forward) as i64,
        num_attention_heads: 16,
        // One position for each patch of a square, and one for the class.
        image_size: (reader.side(&positions, 0)? - 1).isqrt() * patch_size,
        patch_size,
        hidden_act: "gelu".into(),
        layer_norm_eps: 1e-5,
    })
}

impl Blocks {
    /// Whether the encoder of the VAE has its `quant_conv` apart.
    pub fn has_quant_conv(&self) -> bool {
        self.has_condition
    }

    /// Where a tensor of the file belongs.
    pub fn place(&self, name: &str) -> Place {
        let one = |network, name: Option<String>, part| match name {
            Some(name) => Place::In(network, vec![(name, part)]),
            None => Place::Unknown,
        };
        if let Some(name) = name.strip_prefix(UNET) {
            return one(Network::Unet, self.unet(name), Part::Whole);
        }
        if let Some(name) = name.strip_prefix(TOWER) {
            return tower(name).map_or(Place::Unknown, |parts| Place::In(Network::ImageEncoder, parts));
        }
        if UNUSED.iter().any(|unused| name.starts_with(unused)) {
            return Place::Unused;
        }
        let (from, name) = match (name.strip_prefix(CONDITION), name.strip_prefix(FIRST_STAGE)) {
            (Some(name), _) => (CONDITION, name),
            (_, Some(name)) => (FIRST_STAGE, name),
            _ => return Place::Unknown,
        };
        let is_matrix = name.contains(".attn_1.") && name.ends_with(".weight") && !name.contains(".norm.");
        let part = if is_matrix { Part::Matrix } else { Part::Whole };
        let is_condition = from == CONDITION;
        match name.split_once('.') {
            Some(("encoder", rest)) => match encoder(rest) {
                Some(_) if is_condition != self.has_condition => Place::Unused,
                name => one(Network::Vae, name.map(|name| format!("encoder.{name}")), part),
            },
            Some(("quant_conv", _)) if is_condition && self.has_condition => one(Network::Vae, Some(name.into()), part),
            Some(("quant_conv", _)) if is_condition => Place::Unused,
            Some(("decoder", rest)) => {
                one(Network::Vae, self.decoder(rest).map(|name| format!("decoder.{name}")), part)
            }
            _ => Place::Unknown,
        }
    }

    fn unet(&self, name: &str) -> Option<String> {
        let (block, rest) = name.split_once('.')?;
        Some(match block {
            "time_embed" => format!("time_embedding.{}", linears(rest)?),
            "label_emb" => format!("add_embedding.{}", linears(rest.strip_prefix("0.")?)?),
            "out" => match rest.split_once('.')? {
                ("0", rest) => format!("conv_norm_out.{rest}"),
                ("2", rest) => format!("conv_out.{rest}"),
                _ => return None,
            },
            "middle_block" => match rest.split_once('.')? {
                ("0", rest) => format!("mid_block.resnets.0.{}", resnet(rest)?),
                ("1", rest) => format!("mid_block.attentions.0.{}", attention(rest)?),
                ("2", rest) => format!("mid_block.resnets.1.{}", resnet(rest)?),
                _ => return None,
            },
            "input_blocks" => {
                let (index, rest) = numbered(rest)?;
                let (part, rest) = rest.split_once('.')?;
                if index == 0 {
                    return (part == "0").then(|| format!("conv_in.{rest}"));
                }
                let (level, layer) = *self.inputs.get(index - 1)?;
                let level = format!("down_blocks.{level}");
                match (layer, part) {
                    (None, "0") => format!("{level}.downsamplers.0.conv.{}", rest.strip_prefix("op.")?),
                    (Some(layer), "0") => format!("{level}.resnets.{layer}.{}", resnet(rest)?),
                    (Some(layer), "1") => format!("{level}.attentions.{layer}.{}", attention(rest)?),
                    _ => return None,
                }
            }
            "output_blocks" => {
                let (index, rest) = numbered(rest)?;
                let (part, rest) = rest.split_once('.')?;
                let (level, layer) = *self.outputs.get(index)?;
                let level = format!("up_blocks.{level}");
                match (part, rest.strip_prefix("conv.")) {
                    ("0", _) => format!("{level}.resnets.{layer}.{}", resnet(rest)?),
                    ("1" | "2", Some(rest)) => format!("{level}.upsamplers.0.conv.{rest}"),
                    ("1", None) => format!("{level}.attentions.{layer}.{}", attention(rest)?),
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    fn decoder(&self, name: &str) -> Option<String> {
        if let Some(rest) = name.strip_prefix("conv_out.time_mix_conv.") {
            return Some(format!("time_conv_out.{rest}"));
        }
        let up = |rest: &str| {
            let (level, rest) = numbered(rest)?;
            let level = format!("up_blocks.{}", self.decoder_levels.checked_sub(level + 1)?);
            Some(match rest.split_once('.')? {
                ("upsample", rest) => format!("{level}.upsamplers.0.{rest}"),
                ("block", rest) => {
                    let (layer, rest) = numbered(rest)?;
                    format!("{level}.resnets.{layer}.{}", video_resnet(rest)?)
                }
                _ => return None,
            })
        };
        match name.split_once('.')? {
            ("up", rest) => up(rest),
            ("mid", rest) => middle(rest, video_resnet),
            _ => ends(name),
        }
    }
}

/// "12.rest" -> 12 and "rest".
fn numbered(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// Two linear layers with an activation between them.
fn linears(name: &str) -> Option<String> {
    match name.split_once('.')? {
        ("0", rest) => Some(format!("linear_1.{rest}")),
        ("2", rest) => Some(format!("linear_2.{rest}")),
        _ => None,
    }
}

/// A residual block in parts that are numbered.
fn res_block(name: &str) -> Option<String> {
    const LAYERS: [(&str, &str); 6] = [
        ("in_layers.0.", "norm1."),
        ("in_layers.2.", "conv1."),
        ("emb_layers.1.", "time_emb_proj."),
        ("out_layers.0.", "norm2."),
        ("out_layers.3.", "conv2."),
        ("skip_connection.", "conv_shortcut."),
    ];
    LAYERS.iter().find_map(|(old, new)| Some(format!("{new}{}", name.strip_prefix(old)?)))
}

/// A residual block of the UNet.
fn resnet(name: &str) -> Option<String> {
    if name == "time_mixer.mix_factor" {
        return Some(name.into());
    }
    match name.strip_prefix("time_stack.") {
        Some(rest) => Some(format!("temporal_res_block.{}", res_block(rest)?)),
        None => Some(format!("spatial_res_block.{}", res_block(name)?)),
    }
}

/// A transformer of the UNet.
fn attention(name: &str) -> Option<String> {
    match name.split_once('.')? {
        ("time_stack", rest) => Some(format!("temporal_transformer_blocks.{rest}")),
        ("time_pos_embed", rest) => Some(format!("time_pos_embed.{}", linears(rest)?)),
        ("norm" | "proj_in" | "transformer_blocks" | "time_mixer" | "proj_out", _) => Some(name.into()),
        _ => None,
    }
}

/// A residual block of the VAE over pictures.
fn picture_resnet(name: &str) -> Option<String> {
    match name.split_once('.')? {
        ("nin_shortcut", rest) => Some(format!("conv_shortcut.{rest}")),
        ("norm1" | "conv1" | "norm2" | "conv2", _) => Some(name.into()),
        _ => None,
    }
}

/// A residual block of the VAE over pictures and time.
fn video_resnet(name: &str) -> Option<String> {
    match name.strip_prefix("time_stack.") {
        Some(rest) => Some(format!("temporal_res_block.{}", res_block(rest)?)),
        None if name == "mix_factor" => Some("time_mixer.mix_factor".into()),
        None => Some(format!("spatial_res_block.{}", picture_resnet(name)?)),
    }
}

/// The lowest resolution of either half of the VAE.
fn middle(name: &str, resnet: fn(&str) -> Option<String>) -> Option<String> {
    let (part, rest) = name.split_once('.')?;
    if let Some(number) = part.strip_prefix("block_") {
        let layer = number.parse::<usize>().ok()?.checked_sub(1)?;
        return Some(format!("mid_block.resnets.{layer}.{}", resnet(rest)?));
    }
    let (layer, rest) = rest.split_once('.').filter(|_| part == "attn_1")?;
    let layer = match layer {
        "norm" => "group_norm",
        "q" => "to_q",
        "k" => "to_k",
        "v" => "to_v",
        "proj_out" => "to_out.0",
        _ => return None,
    };
    Some(format!("mid_block.attentions.0.{layer}.{rest}"))
}

/// The first and the last layers of either half of the VAE.
fn ends(name: &str) -> Option<String> {
    match name.split_once('.')? {
        ("conv_in" | "conv_out", _) => Some(name.into()),
        ("norm_out", rest) => Some(format!("conv_norm_out.{rest}")),
        _ => None,
    }
}

fn encoder(name: &str) -> Option<String> {
    match name.split_once('.')? {
        ("down", rest) => {
            let (level, rest) = numbered(rest)?;
            Some(match rest.split_once('.')? {
                ("downsample", rest) => format!("down_blocks.{level}.downsamplers.0.{rest}"),
                ("block", rest) => {
                    let (layer, rest) = numbered(rest)?;
                    format!("down_blocks.{level}.resnets.{layer}.{}", picture_resnet(rest)?)
                }
                _ => return None,
            })
        }
        ("mid", rest) => middle(rest, picture_resnet),
        _ => ends(name),
    }
}

/// The CLIP tower, by OpenCLIP's names or by transformers'.
fn tower(name: &str) -> Option<Vec<(String, Part)>> {
    let whole = |name: String| Some(vec![(name, Part::Whole)]);
    if name.starts_with("vision_model.") || name == "visual_projection.weight" {
        return whole(name.into());
    }
    if name == "proj" {
        return Some(vec![("visual_projection.weight".into(), Part::Transposed)]);
    }
    let Some(rest) = name.strip_prefix("transformer.resblocks.") else {
        let name = match name.split_once('.').unwrap_or((name, "")) {
            ("class_embedding", "") => "embeddings.class_embedding".into(),
            ("positional_embedding", "") => "embeddings.position_embedding.weight".into(),
            ("conv1", "weight") => "embeddings.patch_embedding.weight".into(),
            // Spelt as in transformers.
            ("ln_pre", rest) => format!("pre_layrnorm.{rest}"),
            ("ln_post", rest) => format!("post_layernorm.{rest}"),
            _ => return None,
        };
        return whole(format!("vision_model.{name}"));
    };
    let (layer, rest) = numbered(rest)?;
    let layer = format!("vision_model.encoder.layers.{layer}");
    if let Some(role) = rest.strip_prefix("attn.in_proj_").filter(|role| matches!(*role, "weight" | "bias")) {
        let third = |(i, name)| (format!("{layer}.self_attn.{name}_proj.{role}"), Part::Third(i));
        return Some(["q", "k", "v"].into_iter().enumerate().map(third).collect());
    }
    const LAYERS: [(&str, &str); 5] = [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("attn.out_proj.", "self_attn.out_proj."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ];
    whole(LAYERS.iter().find_map(|(old, new)| Some(format!("{layer}.{new}{}", rest.strip_prefix(old)?)))?)
}
