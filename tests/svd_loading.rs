// SPDX-License-Identifier: MPL-2.0
//! Models as people have them: diffusers' folders with their variants and shards, single files in Stability AI's layout
//! and in ComfyUI's, the Hugging Face cache; and what is said of those that are broken.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::sgm::{self, CONDITION, TOWER};
use common::tiny_svd::write_tiny_svd;
use common::{file, noise, recipe};
use gsttorchvideo::engine::Error;
use gsttorchvideo::engine::device::Precision;
use gsttorchvideo::engine::image::Frame;
use gsttorchvideo::engine::svd::{
    Event, Model, ModelType, Network, Params, Source, clip, generate, hub, inspect, unet, vae,
};
use gsttorchvideo::engine::weights::{LoadProgress, Weights};
use gsttorchvideo::engine::worker::Cancel;
use gsttorchvideo::models::find_svd_in;
use tch::{Device, Kind, Tensor};

type Tensors = BTreeMap<String, Tensor>;

/// The tensors that a network asks for, by the recipe.
fn random(build: impl FnOnce(&Weights)) -> Tensors {
    let weights = Weights::from_tensors("shapes", [], Device::Cpu, Kind::Float);
    build(&weights);
    weights.wanted().into_iter().map(|(name, shape)| (name.clone(), recipe::weight(&name, &shape))).collect()
}

/// All tensors of a network of a source.
fn tensors(source: &Source, network: Network, kind: Kind) -> Tensors {
    let weights = source.weights(network, Device::Cpu, kind, &Cancel::default()).unwrap();
    let shapes: Vec<_> = weights.shapes().map(|(name, shape)| (name.to_owned(), shape)).collect();
    shapes.into_iter().map(|(name, shape)| (name.clone(), weights.root().get(&name, &shape))).collect()
}

fn assert_same(seen: &Tensors, wanted: &Tensors) {
    assert!(seen.keys().eq(wanted.keys()));
    for (name, wanted) in wanted {
        assert!(seen[name].equal(wanted), "{name}");
    }
}

fn write(tensors: &Tensors, path: &Path) {
    Tensor::write_safetensors(&tensors.iter().collect::<Vec<_>>(), path).unwrap();
}

/// Changes a JSON file.
fn edit(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// The tiny model's folder, with as many heads as a single file is taken to have.
fn tiny(folder: &Path) {
    write_tiny_svd(folder);
    edit(&folder.join("unet/config.json"), |config| config["num_attention_heads"] = 1.into());
    edit(&folder.join("image_encoder/config.json"), |config| config["num_attention_heads"] = 16.into());
}

/// The folder's model in Stability AI's layout, with all that such a file has besides.
fn stability(folder: &Path) -> Tensors {
    let source = Source::open(folder, None).unwrap();
    let of = |network: Network| tensors(&source, network, Kind::Float);
    let pairs = |network: Network| sgm::pairs("full", network.name());
    let mut all = sgm::convert(&pairs(Network::Unet), &of(Network::Unet));
    all.extend(sgm::convert(&pairs(Network::ImageEncoder), &of(Network::ImageEncoder)));
    all.extend(sgm::convert_vae(&pairs(Network::Vae), &of(Network::Vae)));
    let unused = [
        "conditioner.embedders.0.open_clip.model.token_embedding.weight",
        "conditioner.embedders.0.open_clip.model.positional_embedding",
        "conditioner.embedders.0.open_clip.model.ln_final.weight",
        "conditioner.embedders.0.open_clip.model.text_projection",
        "conditioner.embedders.0.open_clip.model.logit_scale",
        "conditioner.embedders.3.encoder.decoder.conv_in.weight",
        "conditioner.embedders.3.encoder.post_quant_conv.weight",
        "model_ema.decay",
        "model_ema.diffusion_modelinput_blocks00weight",
        "denoiser.sigmas",
    ];
    all.extend(unused.map(|name| (name.to_owned(), recipe::weight(name, &[2, 3]))));
    all
}

/// What ComfyUI's `ImageOnlyCheckpointSave` writes of a model: transformers' names behind the tower's prefix, no
/// encoder of the condition's own, and the noise levels.
fn comfy(folder: &Path) -> Tensors {
    let mut all = stability(folder);
    all.retain(|name, _| {
        let prefixes = ["model.diffusion_model.", "first_stage_model."];
        prefixes.iter().any(|prefix| name.starts_with(prefix))
    });
    let tower = tensors(&Source::open(folder, None).unwrap(), Network::ImageEncoder, Kind::Float);
    all.extend(tower.into_iter().map(|(name, tensor)| (format!("{TOWER}{name}"), tensor)));
    all.insert("edm_vpred.sigma_max".into(), Tensor::from(700.0f32));
    all.insert("edm_vpred.sigma_min".into(), Tensor::from(0.002f32));
    all
}

fn clip_of(path: &Path) -> Vec<Frame> {
    let mut model = Model::load(path, Device::Cpu, Kind::Float, &Cancel::default()).unwrap();
    let params = Params { width: 56, height: 40, num_frames: 3, num_inference_steps: 2, ..Params::default() };
    let mut frames = Vec::new();
    generate(&mut model, &noise(56, 40, 3), &params, &Cancel::default(), &mut |event| {
        if let Event::Decoded(decoded) = event {
            frames.extend(decoded);
        }
    })
    .unwrap();
    frames
}

fn assert_same_clip(a: &Path, b: &Path) {
    let (a, b) = (clip_of(a), clip_of(b));
    assert_eq!(a.len(), 3);
    assert!(a.iter().zip(&b).all(|(a, b)| a.data() == b.data()));
}

fn message<T>(result: Result<T, Error>) -> String {
    result.err().expect("it must be refused").to_string()
}

fn assert_message<T>(result: Result<T, Error>, parts: &[&str]) {
    let message = message(result);
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn a_single_file_is_the_folder_that_it_was_made_of() {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path());
    let path = folder.path().join("svd_xt.safetensors");
    write(&stability(folder.path()), &path);
    let (of_folder, of_file) = (Source::open(folder.path(), None).unwrap(), Source::open(&path, None).unwrap());
    assert_eq!(of_folder.path(), folder.path());
    for network in Network::ALL {
        // To another precision too, and so from the file's own bytes.
        for kind in [Kind::Float, Kind::Half] {
            assert_same(&tensors(&of_file, network, kind), &tensors(&of_folder, network, kind));
        }
    }
    let (a, b) = (&of_folder.info, &of_file.info);
    assert_eq!((b.model_type, b.recommended.num_frames), (Some(ModelType::SvdXt), 25));
    assert_eq!(a.unet.block_out_channels, b.unet.block_out_channels);
    assert_eq!(a.unet.down_block_types, b.unet.down_block_types);
    assert_eq!(a.unet.up_block_types, b.unet.up_block_types);
    assert_eq!(a.unet.addition_time_embed_dim, b.unet.addition_time_embed_dim);
    assert_eq!(a.vae.block_out_channels, b.vae.block_out_channels);
    assert_eq!(a.vae.layers_per_block, b.vae.layers_per_block);
    assert_eq!((a.clip.patch_size, a.clip.image_size), (b.clip.patch_size, b.clip.image_size));
    assert_eq!((a.clip.projection_dim, a.clip.intermediate_size), (b.clip.projection_dim, b.clip.intermediate_size));
    assert_same_clip(folder.path(), &path);
}

#[test]
fn comfyui_s_file_is_the_folder_that_it_was_made_of() {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path());
    let path = folder.path().join("ComfyUI_00001_.safetensors");
    // Where quant_conv does something, it is in the encoder's last convolution, and the moments are the same.
    write(&comfy(folder.path()), &path);
    let (of_folder, of_file) = (Source::open(folder.path(), None).unwrap(), Source::open(&path, None).unwrap());
    for network in [Network::Unet, Network::ImageEncoder] {
        assert_same(&tensors(&of_file, network, Kind::Float), &tensors(&of_folder, network, Kind::Float));
    }
    let latents = |source: &Source| {
        let weights = source.weights(Network::Vae, Device::Cpu, Kind::Float, &Cancel::default()).unwrap();
        let vae = vae::Vae::new(weights.root(), &source.info.vae);
        weights.finish().unwrap();
        vae.encode(&recipe::sample("picture", &[1, 3, 40, 56]), &Cancel::default()).unwrap()
    };
    common::assert_close("latents", &latents(&of_file), &latents(&of_folder), 1e-5);
    // Nothing tells what it is, so it makes what either can.
    assert_eq!((of_file.info.model_type, of_file.info.recommended.num_frames), (None, 14));
    assert_eq!((of_file.info.schedule.sigma_max, of_file.info.schedule.sigma_min), (700.0, 0.002));

    // Where it does nothing, clips are the same to the byte.
    let vae = folder.path().join("vae/diffusion_pytorch_model.safetensors");
    let mut tensors = tensors(&of_folder, Network::Vae, Kind::Float);
    let moments = tensors["quant_conv.bias"].size()[0];
    let options = (Kind::Float, Device::Cpu);
    tensors.insert("quant_conv.weight".into(), Tensor::eye(moments, options).view([moments, moments, 1, 1]));
    tensors.insert("quant_conv.bias".into(), Tensor::zeros([moments], options));
    write(&tensors, &vae);
    write(&comfy(folder.path()), &path);
    assert_same_clip(folder.path(), &path);

    let mut other = comfy(folder.path());
    other.insert("edm_vpred.sigma_max".into(), Tensor::from(120.0f32));
    write(&other, &path);
    assert_eq!(inspect(&path).unwrap().schedule.sigma_max, 120.0);
}

/// Every name of the full size, with narrow tensors; and a UNet of another build.
#[test]
fn every_name_is_mapped_as_proven() {
    let folder = tempfile::tempdir().unwrap();
    for size in ["full", "small"] {
        let full: unet::Config = serde_json::from_str(
            r#"{"block_out_channels": [32, 64, 96, 96], "cross_attention_dim": 16, "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 24, "num_attention_heads": 1}"#,
        )
        .unwrap();
        let small: unet::Config = serde_json::from_str(
            r#"{"block_out_channels": [32, 64], "cross_attention_dim": 24, "addition_time_embed_dim": 16,
                "projection_class_embeddings_input_dim": 48, "num_attention_heads": 1, "layers_per_block": 1,
                "transformer_layers_per_block": 2,
                "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
                "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"]}"#,
        )
        .unwrap();
        let unet = if size == "full" { full } else { small };
        let vae: vae::Config =
            serde_json::from_str(r#"{"block_out_channels": [32, 64, 96, 96], "layers_per_block": 2}"#).unwrap();
        let clip = clip::Config {
            hidden_size: 32,
            intermediate_size: 64,
            projection_dim: 8,
            num_hidden_layers: 32,
            num_attention_heads: 16,
            image_size: 28,
            patch_size: 14,
            ..clip::Config::default()
        };
        let unet_tensors = random(|weights| drop(unet::UNet::new(weights.root(), &unet)));
        let vae_tensors = random(|weights| drop(vae::Vae::new(weights.root(), &vae)));
        let clip_tensors = random(|weights| drop(clip::ClipVision::new(weights.root(), &clip)));
        let pairs = sgm::pairs(size, "unet");
        assert_eq!(pairs.len(), unet_tensors.len());
        let mut all = sgm::convert(&pairs, &unet_tensors);
        let pairs = sgm::pairs("full", "vae");
        assert_eq!(pairs.len() + 2, vae_tensors.len());
        all.extend(sgm::convert_vae(&pairs, &vae_tensors));
        let pairs = sgm::pairs("full", "image_encoder");
        assert_eq!(pairs.len(), clip_tensors.len());
        all.extend(sgm::convert(&pairs, &clip_tensors));
        let path = folder.path().join("model.safetensors");
        write(&all, &path);

        let source = Source::open(&path, Some(ModelType::Svd)).unwrap();
        for (network, wanted) in
            [(Network::Unet, &unet_tensors), (Network::Vae, &vae_tensors), (Network::ImageEncoder, &clip_tensors)]
        {
            assert_same(&tensors(&source, network, Kind::Float), wanted);
        }
        // What was read off the tensors builds networks that they fit.
        let info = &source.info;
        let rebuilt = random(|weights| drop(unet::UNet::new(weights.root(), &info.unet)));
        assert_same(&rebuilt, &unet_tensors);
        let rebuilt = random(|weights| drop(clip::ClipVision::new(weights.root(), &info.clip)));
        assert_same(&rebuilt, &clip_tensors);
    }
}

/// Writes a safetensors file with nothing in it but zeros, which take no space.
fn write_sparse(shapes: &BTreeMap<String, Vec<i64>>, metadata: &[(&str, &str)], path: &Path) {
    let (header, data) = common::safetensors_header(shapes, metadata);
    fs::write(path, &header).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_len((header.len() + data) as u64).unwrap();
}

fn full_size(network: &str) -> (serde_json::Value, BTreeMap<String, Vec<i64>>) {
    let text = fs::read(file(&format!("tests/fixtures/svd/full_{network}.json"))).unwrap();
    let mut full: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let keys: Vec<(String, Vec<i64>)> = serde_json::from_value(full["keys"].take()).unwrap();
    (full["config"].take(), keys.into_iter().collect())
}

#[test]
fn a_full_size_file_is_svd() {
    let folder = tempfile::tempdir().unwrap();
    let networks = [("unet", "unet"), ("vae", "vae"), ("image_encoder", "clip")];
    let wanted = networks.map(|(network, file)| (network, full_size(file).1));
    let mut shapes = BTreeMap::new();
    for (network, wanted) in &wanted {
        for (new, old, part) in sgm::pairs("full", network) {
            let mut shape = wanted[&new].clone();
            match part.as_str() {
                "" => {}
                "T" => shape.reverse(),
                "M" => shape.extend([1, 1]),
                _ => shape[0] *= 3,
            }
            if let Some(encoder) = old.strip_prefix("first_stage_model.").filter(|old| old.starts_with("encoder.")) {
                shapes.insert(format!("{CONDITION}{encoder}"), shape.clone());
            }
            shapes.insert(old, shape);
        }
    }
    shapes.insert(format!("{CONDITION}quant_conv.weight"), vec![8, 8, 1, 1]);
    shapes.insert(format!("{CONDITION}quant_conv.bias"), vec![8]);
    let path = folder.path().join("checkpoint.safetensors");
    write_sparse(&shapes, &[("modelspec.title", "Stable Video Diffusion XT 1.1")], &path);
    // UNet, VAE, the second encoder and CLIP in float16.
    assert_eq!(path.metadata().unwrap().len() / 1_000_000, 4577);

    let source = Source::open(&path, None).unwrap();
    for ((_, wanted), network) in wanted.iter().zip([Network::Unet, Network::Vae, Network::ImageEncoder]) {
        let weights = source.weights(network, Device::Cpu, Kind::Half, &Cancel::default()).unwrap();
        let seen: BTreeMap<_, _> = weights.shapes().map(|(name, shape)| (name.to_owned(), shape)).collect();
        assert_eq!(&seen, wanted);
    }
    let info = source.info;
    assert_svd(&info);
    assert_eq!(info.clip.num_attention_heads, 16);
    assert_eq!(info.model_type, Some(ModelType::SvdXt11));
    let Params { num_frames, fps, motion_bucket_id, .. } = info.recommended;
    assert_eq!((num_frames, fps, motion_bucket_id), (25, 6.0, 127.0));

    // SV3D's file is of the same build but for one layer.
    shapes.insert("model.diffusion_model.label_emb.0.0.weight".into(), vec![1280, 1280]);
    write_sparse(&shapes, &[], &path);
    assert_message(inspect(&path), &["takes 1280 values", "SV3D"]);
}

/// SVD's sizes.
fn assert_svd(info: &gsttorchvideo::engine::svd::ModelInfo) {
    let (unet, vae, clip) = (full_size("unet").0, full_size("vae").0, full_size("clip").0);
    let numbers = |value: &serde_json::Value| serde_json::from_value::<Vec<i64>>(value.clone()).unwrap();
    let (of_unet, of_vae, of_clip) = (&info.unet, &info.vae, &info.clip);
    assert_eq!(of_unet.block_out_channels, numbers(&unet["block_out_channels"]));
    assert_eq!(serde_json::json!(of_unet.down_block_types), unet["down_block_types"]);
    assert_eq!(serde_json::json!(of_unet.up_block_types), unet["up_block_types"]);
    assert_eq!(of_unet.in_channels, unet["in_channels"]);
    assert_eq!(of_unet.out_channels, unet["out_channels"]);
    assert_eq!(of_unet.addition_time_embed_dim, unet["addition_time_embed_dim"]);
    assert_eq!(of_unet.projection_class_embeddings_input_dim, unet["projection_class_embeddings_input_dim"]);
    for (value, wanted) in [
        (&of_unet.num_attention_heads, vec![5, 10, 20, 20]),
        (&of_unet.layers_per_block, vec![2; 4]),
        (&of_unet.transformer_layers_per_block, vec![1; 4]),
        (&of_unet.cross_attention_dim, vec![1024; 4]),
    ] {
        let each = match value {
            unet::OneOrEach::One(value) => vec![*value; 4],
            unet::OneOrEach::Each(values) => values.clone(),
        };
        assert_eq!(each, wanted);
    }
    assert_eq!(of_vae.block_out_channels, numbers(&vae["block_out_channels"]));
    assert_eq!(of_vae.layers_per_block, vae["layers_per_block"]);
    assert_eq!(of_vae.latent_channels, vae["latent_channels"]);
    assert_eq!(of_vae.scaling_factor, vae["scaling_factor"]);
    assert!(of_vae.force_upcast);
    for (value, name) in [
        (of_clip.hidden_size, "hidden_size"),
        (of_clip.intermediate_size, "intermediate_size"),
        (of_clip.projection_dim, "projection_dim"),
        (of_clip.num_hidden_layers, "num_hidden_layers"),
        (of_clip.num_attention_heads, "num_attention_heads"),
        (of_clip.image_size, "image_size"),
        (of_clip.patch_size, "patch_size"),
    ] {
        assert_eq!(value, clip[name], "{name}");
    }
    assert_eq!(of_clip.hidden_act, "gelu");
    assert_eq!((info.schedule.sigma_max, info.schedule.sigma_min), (700.0, 0.002));
}

/// Writes the configuration of one of the published repositories, as the hub has it.
fn write_hub_configs(folder: &Path, num_frames: i64, name: &str) {
    let unet = serde_json::json!({
        "_class_name": "UNetSpatioTemporalConditionModel", "_diffusers_version": "0.24.0.dev0",
        "_name_or_path": name, "addition_time_embed_dim": 256, "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 1024,
        "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal",
            "CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
        "in_channels": 8, "layers_per_block": 2, "num_attention_heads": [5, 10, 20, 20], "num_frames": num_frames,
        "out_channels": 4, "projection_class_embeddings_input_dim": 768, "sample_size": 96,
        "transformer_layers_per_block": 1,
        "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal",
            "CrossAttnUpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
    });
    let vae = serde_json::json!({
        "_class_name": "AutoencoderKLTemporalDecoder", "_diffusers_version": "0.24.0.dev0", "_name_or_path": name,
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "force_upcast": true, "in_channels": 3, "latent_channels": 4, "layers_per_block": 2, "out_channels": 3,
        "sample_size": 768, "scaling_factor": 0.18215,
    });
    let image_encoder = serde_json::json!({
        "_name_or_path": name, "architectures": ["CLIPVisionModelWithProjection"], "attention_dropout": 0.0,
        "dropout": 0.0, "hidden_act": "gelu", "hidden_size": 1280, "image_size": 224, "initializer_factor": 1.0,
        "initializer_range": 0.02, "intermediate_size": 5120, "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model", "num_attention_heads": 16, "num_channels": 3, "num_hidden_layers": 32,
        "patch_size": 14, "projection_dim": 1024, "torch_dtype": "float16", "transformers_version": "4.34.0.dev0",
    });
    let scheduler = serde_json::json!({
        "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.24.0.dev0", "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": false, "interpolation_type": "linear",
        "num_train_timesteps": 1000, "prediction_type": "v_prediction", "set_alpha_to_one": false,
        "sigma_max": 700.0, "sigma_min": 0.002, "skip_prk_steps": true, "steps_offset": 1,
        "timestep_spacing": "leading", "timestep_type": "continuous", "trained_betas": null,
        "use_karras_sigmas": true,
    });
    let feature_extractor = serde_json::json!({
        "crop_size": {"height": 224, "width": 224}, "do_center_crop": true, "do_convert_rgb": true,
        "do_normalize": true, "do_rescale": true, "do_resize": true,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor", "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3, "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 224},
    });
    let index = serde_json::json!({
        "_class_name": "StableVideoDiffusionPipeline", "_diffusers_version": "0.24.0.dev0", "_name_or_path": name,
        "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
    });
    for (file, value) in [
        ("unet/config.json", unet),
        ("vae/config.json", vae),
        ("image_encoder/config.json", image_encoder),
        ("scheduler/scheduler_config.json", scheduler),
        ("feature_extractor/preprocessor_config.json", feature_extractor),
        ("model_index.json", index),
    ] {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, serde_json::to_vec_pretty(&value).unwrap()).unwrap();
    }
}

#[test]
fn the_hub_s_configurations_are_svd() {
    for (name, frames, model_type) in [
        ("diffusers/svd-test", 14, ModelType::Svd),
        ("diffusers/svd-xt", 25, ModelType::SvdXt),
        ("stabilityai/stable-video-diffusion-img2vid-xt-1-1", 25, ModelType::SvdXt11),
    ] {
        let folder = tempfile::tempdir().unwrap();
        write_hub_configs(folder.path(), frames, name);
        let info = inspect(folder.path()).unwrap();
        assert_svd(&info);
        assert_eq!(info.model_type, Some(model_type));
        let fps = if model_type == ModelType::SvdXt11 { 6.0 } else { 7.0 };
        assert_eq!(info.recommended, Params { num_frames: frames, fps, ..Params::default() });
    }
}

#[test]
fn the_caller_s_type_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stable-video-diffusion-img2vid-xt-1-1");
    write_hub_configs(&path, 25, "diffusers/svd-xt");
    let recommended = |wanted| {
        let info = Source::open(&path, wanted).unwrap().info;
        (info.model_type, info.recommended.num_frames, info.recommended.fps)
    };
    // Only the folder's name says that it is 1.1.
    assert_eq!(recommended(None), (Some(ModelType::SvdXt11), 25, 6.0));
    assert_eq!(recommended(Some(ModelType::SvdXt)), (Some(ModelType::SvdXt), 25, 6.0));
    assert_eq!(recommended(Some(ModelType::Svd)), (Some(ModelType::Svd), 14, 6.0));
    // What the folder itself recommends counts unless the caller's type says otherwise.
    fs::write(path.join("recommended.yaml"), "num_frames: 20\nfps: 12\n").unwrap();
    assert_eq!(recommended(None), (Some(ModelType::SvdXt11), 20, 12.0));
    assert_eq!(recommended(Some(ModelType::SvdXt)), (Some(ModelType::SvdXt), 25, 12.0));
    assert_eq!(recommended(Some(ModelType::SvdXt11)), (Some(ModelType::SvdXt11), 25, 6.0));
}

#[test]
fn a_model_says_what_it_can_be_computed_in() {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path());
    let file = folder.path().join("recommended.yaml");
    let dtypes = |text: &str| {
        fs::write(&file, text).unwrap();
        inspect(folder.path()).map(|info| info.dtypes)
    };
    assert_eq!(dtypes("width: 64\n").unwrap(), Precision::ALL);
    assert_eq!(dtypes("dtypes: [fp16, fp32]\nwidth: 64\n").unwrap(), [Precision::Fp16, Precision::Fp32]);
    assert_eq!(dtypes("dtypes:\n- bf16\n").unwrap(), [Precision::Bf16]);
    for (text, part) in [
        ("dtypes: [fp32, fp8]", "unknown variant `fp8`, expected one of `fp32`, `fp16`, `bf16`"),
        ("dtypes: [auto]", "unknown variant `auto`, expected one of `fp32`, `fp16`, `bf16`"),
        ("dtypes: fp32", "dtypes: invalid type: string \"fp32\", expected a sequence"),
        ("dtypes: {fp32: true}", "dtypes: invalid type: map, expected a sequence"),
        ("dtypes: [16]", "dtypes[0]: "),
        ("dtypes: []", "dtypes=[] is not possible: name one or more of fp32, fp16 and bf16"),
    ] {
        assert_message(dtypes(text), &["recommended.yaml: ", part]);
    }
}

#[test]
fn a_network_s_files_are_those_that_suit_the_precision() {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path());
    let unet = folder.path().join("unet");
    let source = Source::open(folder.path(), None).unwrap();
    let chosen = |kind| {
        let files = source.weight_files(kind).unwrap();
        let files = files.iter().filter_map(|file| file.strip_prefix(&unet).ok());
        files.map(|file| file.display().to_string()).collect::<Vec<_>>().join(" ")
    };
    let plain = unet.join("diffusion_pytorch_model.safetensors");
    for variant in ["non_ema", "zebra", "fp16", "bf16"] {
        fs::copy(&plain, unet.join(format!("diffusion_pytorch_model.{variant}.safetensors"))).unwrap();
    }
    assert_eq!(chosen(Kind::Half), "diffusion_pytorch_model.fp16.safetensors");
    assert_eq!(chosen(Kind::BFloat16), "diffusion_pytorch_model.bf16.safetensors");
    assert_eq!(chosen(Kind::Float), "diffusion_pytorch_model.safetensors");
    let remove = |variant: &str| fs::remove_file(unet.join(format!("diffusion_pytorch_model.{variant}safetensors")));
    remove("").unwrap();
    assert_eq!(chosen(Kind::Float), "diffusion_pytorch_model.bf16.safetensors");
    remove("bf16.").unwrap();
    remove("fp16.").unwrap();
    assert_eq!(chosen(Kind::Half), "diffusion_pytorch_model.zebra.safetensors");
    remove("zebra.").unwrap();
    assert_eq!(chosen(Kind::Half), "diffusion_pytorch_model.non_ema.safetensors");
    assert_eq!(clip_of(folder.path()).len(), 3);
    remove("non_ema.").unwrap();
    assert_message(source.weight_files(Kind::Half), &["unet", "has no weights", "diffusion_pytorch_model.safetensors"]);

    fs::write(unet.join("diffusion_pytorch_model.fp16.bin"), "").unwrap();
    assert_message(source.weight_files(Kind::Half), &["model.fp16.bin", "pickle", "save_pretrained"]);
    fs::write(unet.join("diffusion_pytorch_model.safetensors.incomplete"), "").unwrap();
    assert_message(source.weight_files(Kind::Half), &["safetensors.incomplete", "has not ended"]);
    symlink("../blobs/gone", &plain).unwrap();
    assert_message(source.weight_files(Kind::Half), &["diffusion_pytorch_model.safetensors", "not there"]);
    assert_message(
        Model::load(folder.path(), Device::Cpu, Kind::Half, &Cancel::default()),
        &["diffusion_pytorch_model.safetensors", "not there"],
    );
}

#[test]
fn shards_are_one_network() {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path());
    let before = clip_of(folder.path());
    let unet = folder.path().join("unet");
    let source = Source::open(folder.path(), None).unwrap();
    let all = tensors(&source, Network::Unet, Kind::Float);
    let whole = unet.join("diffusion_pytorch_model.safetensors");
    fs::remove_file(&whole).unwrap();
    let shard = |i: usize| format!("diffusion_pytorch_model-0000{i}-of-00002.safetensors");
    let mut halves = [Tensors::new(), Tensors::new()];
    let mut map = BTreeMap::new();
    for (i, (name, tensor)) in all.iter().enumerate() {
        map.insert(name.clone(), shard(i % 2 + 1));
        halves[i % 2].insert(name.clone(), tensor.shallow_clone());
    }
    for (i, half) in halves.iter().enumerate() {
        write(half, &unet.join(shard(i + 1)));
    }
    let load = || Model::load(folder.path(), Device::Cpu, Kind::Float, &Cancel::default());
    let index = |name: &str, map: &BTreeMap<String, String>| {
        fs::write(unet.join(name), serde_json::json!({"weight_map": map}).to_string()).unwrap();
    };
    for name in [
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.fp16.safetensors.index.json",
    ] {
        index(name, &map);
        assert_eq!(source.weight_files(Kind::Half).unwrap().len(), 4);
        let after = clip_of(folder.path());
        assert!(before.iter().zip(&after).all(|(a, b)| a.data() == b.data()), "{name}");
        fs::remove_file(unet.join(name)).unwrap();
    }

    let name = "diffusion_pytorch_model.safetensors.index.json";
    index(name, &BTreeMap::from([("a".into(), "../../secret.safetensors".into())]));
    assert_message(load(), &["../../secret.safetensors", "not in this folder"]);
    index(name, &BTreeMap::from([("a".into(), "/etc/secret.safetensors".into())]));
    assert_message(load(), &["/etc/secret.safetensors", "not in this folder"]);
    index(name, &BTreeMap::new());
    assert_message(load(), &[name, "names no file"]);
    index(name, &BTreeMap::from([("a".into(), shard(3)), ("b".into(), shard(1))]));
    assert_message(load(), &[name, &shard(3), "not there"]);
    index(name, &BTreeMap::from([("a".into(), shard(1))]));
    assert_message(load(), &["unet", "missing ("]);
    fs::copy(unet.join(shard(1)), unet.join("copy.safetensors")).unwrap();
    index(name, &BTreeMap::from([("a".into(), shard(1)), ("b".into(), "copy.safetensors".into())]));
    assert_message(load(), &["in another file"]);
}

#[test]
fn a_folder_one_level_off_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    tiny(&model);
    for path in [model.join("unet"), model.join("image_encoder"), folder.path().into()] {
        assert_eq!(Source::open(&path, None).unwrap().path(), model);
    }
    // A file is only taken for a model's if its name says so, so that others may lie beside it.
    fs::write(folder.path().join("notes.safetensors"), "").unwrap();
    assert_eq!(Source::open(folder.path(), None).unwrap().path(), model);
    write(&stability(&model), &folder.path().join("svd.safetensors"));
    assert_message(Source::open(folder.path(), None), &["more than one", "model, svd.safetensors"]);
    fs::remove_dir_all(&model).unwrap();
    let source = Source::open(folder.path(), None).unwrap();
    assert_eq!(source.path(), folder.path().join("svd.safetensors"));
    assert_eq!(source.info.recommended.num_frames, 14);

    let empty = tempfile::tempdir().unwrap();
    assert_message(Source::open(empty.path(), None), &["has no unet/config.json", "svd_xt.safetensors"]);
    assert_message(Source::open(&empty.path().join("none"), None), &["does not exist"]);
    symlink("gone", empty.path().join("svd.safetensors")).unwrap();
    assert_message(Source::open(&empty.path().join("svd.safetensors"), None), &["link to a file that is not there"]);
}

#[test]
fn a_file_that_is_not_a_whole_model_says_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path());
    let path = folder.path().join("svd.safetensors");
    let refused = |change: &dyn Fn(&mut Tensors), parts: &[&str]| {
        let mut all = stability(folder.path());
        change(&mut all);
        write(&all, &path);
        assert_message(Source::open(&path, None), parts);
    };
    refused(
        &|all| all.retain(|name, _| name.starts_with("model.")),
        &["lacks", "the VAE's decoder (first_stage_model.*)", "the image encoder (conditioner", "svd_xt.safetensors"],
    );
    refused(
        &|all| all.retain(|name, _| !name.starts_with("first_stage_model.decoder.")),
        &["lacks the VAE's decoder (first_stage_model.*);"],
    );
    refused(
        &|all| all.retain(|name, _| !(name.contains("time_stack") || name.contains("mix_"))),
        &["makes pictures, not video"],
    );
    refused(
        &|all| all.retain(|name, _| !(name.starts_with("first_stage") && name.contains("mix_factor"))),
        &["image_decoder"],
    );
    refused(
        &|all| {
            all.insert("model.diffusion_model.adapter.weight".into(), Tensor::from(1.0f32));
            all.insert("lora.up".into(), Tensor::from(1.0f32));
        },
        &["2 of its tensors are not known", "lora.up, model.diffusion_model.adapter.weight"],
    );
    refused(
        &|all| {
            all.retain(|name, _| !name.starts_with("model.diffusion_model.output_blocks.8."));
        },
        &["levels on the way down"],
    )
}

#[test]
fn files_of_another_sort_are_told_from_models() {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path());
    for (network, parts) in [
        ("unet/diffusion_pytorch_model", ["the UNet's weights alone", "name the model's folder"]),
        ("vae/diffusion_pytorch_model", ["the VAE's weights alone", "name the model's folder"]),
        ("image_encoder/model", ["the image encoder's weights alone", "name the model's folder"]),
    ] {
        assert_message(Source::open(&folder.path().join(format!("{network}.safetensors")), None), &parts);
    }
    let other = folder.path().join("other.safetensors");
    write(&[("conv_first.weight".to_owned(), Tensor::from(1.0f32))].into(), &other);
    assert_message(Source::open(&other, None), &["not Stable Video Diffusion", "conv_first.weight"]);
    for name in ["svd_xt.ckpt", "svd.pt"] {
        fs::write(folder.path().join(name), "").unwrap();
        assert_message(Source::open(&folder.path().join(name), None), &["pickle", ".safetensors"]);
    }
    assert_message(Source::open(&file("README.md"), None), &["README.md", "not a complete safetensors file"]);
}

/// A safetensors file of this header, with this much behind it.
fn hostile(path: &Path, length: u64, header: &str, data: usize) {
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    fs::write(path, bytes).unwrap();
}

#[test]
fn hostile_headers_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("svd.safetensors");
    let tensor = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    let overlapping = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
                          "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let backwards = tensor("F32", "[2]", 8, 0);
    for (header, length, data) in [
        ("{", u64::MAX, 0),
        ("{", 1 << 40, 0),
        ("{}", 3, 0),
        ("[]", 2, 0),
        ("{\"a\":1}", 7, 0),
        ("", 0, 0),
        (overlapping, overlapping.len() as u64, 12),
        (&backwards, backwards.len() as u64, 8),
        (&tensor("F32", "[2]", 0, 8), tensor("F32", "[2]", 0, 8).len() as u64, 7),
        (&tensor("F32", "[3]", 0, 8), tensor("F32", "[3]", 0, 8).len() as u64, 8),
        (
            &tensor("F32", "[4611686018427387904,4]", 0, 0),
            tensor("F32", "[4611686018427387904,4]", 0, 0).len() as u64,
            0,
        ),
        (&tensor("F99", "[2]", 0, 8), tensor("F99", "[2]", 0, 8).len() as u64, 8),
        (&tensor("F32", "[-2]", 0, 8), tensor("F32", "[-2]", 0, 8).len() as u64, 8),
    ] {
        hostile(&path, length, header, data);
        assert_message(Source::open(&path, None), &["svd.safetensors: not a complete safetensors file"]);
    }
    let header = tensor("C64", "[1]", 0, 8);
    hostile(&path, header.len() as u64, &header, 8);
    assert_message(Source::open(&path, None), &["tensor a", "C64"]);
    // Nothing can be so large; what is empty may say so.
    let header = tensor("F32", "[18446744073709551615,0]", 0, 0);
    hostile(&path, header.len() as u64, &header, 0);
    assert_message(Source::open(&path, None), &["tensor a can't be of the shape"]);
    // A whole model's names with sizes that no network has.
    let model = folder.path().join("model");
    tiny(&model);
    for (name, shape) in [
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight", &[0, 0][..]),
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight", &[1 << 40, 0]),
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight", &[33, 1]),
        ("model.diffusion_model.label_emb.0.0.weight", &[]),
        ("first_stage_model.decoder.conv_in.weight", &[1]),
        ("conditioner.embedders.0.open_clip.model.visual.conv1.weight", &[1, 1, 0, 0]),
        ("conditioner.embedders.0.open_clip.model.visual.positional_embedding", &[1, 1]),
    ] {
        let mut all = stability(&model);
        all.insert(name.into(), Tensor::zeros(shape, (Kind::Half, Device::Cpu)));
        write(&all, &path);
        let result = Model::load(&path, Device::Cpu, Kind::Half, &Cancel::default());
        assert!(matches!(result, Err(Error::Model { .. })), "{name} {shape:?}");
    }
    // Thirds that are none are misshapen, not lost.
    let mut all = stability(&model);
    let name = format!("{TOWER}transformer.resblocks.0.attn.in_proj_bias");
    all.insert(name, Tensor::zeros([97], (Kind::Float, Device::Cpu)));
    write(&all, &path);
    assert_message(
        Model::load(&path, Device::Cpu, Kind::Float, &Cancel::default()),
        &["misshapen (3)", "q_proj.bias [97] instead of [32]"],
    );
}

#[test]
fn tensors_that_lie_askew_are_read_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("askew.safetensors");
    let header = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"F32","shape":[0],"data_offsets":[24,24]}}"#;
    let values = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    for padding in 0..8 {
        let header = format!("{header}{}", " ".repeat(padding));
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        fs::write(&path, bytes).unwrap();
        for kind in [Kind::Float, Kind::Half, Kind::BFloat16, Kind::Double] {
            let weights = Weights::open(std::slice::from_ref(&path), Device::Cpu, kind, &Cancel::default()).unwrap();
            let (a, b) = (weights.root().get("a", &[2, 3]), weights.root().get("b", &[0]));
            weights.finish().unwrap();
            assert_eq!((a.kind(), b.numel()), (kind, 0));
            assert_eq!(Vec::<f32>::try_from(a.to_kind(Kind::Float).view(-1)).unwrap(), values);
        }
    }
}

#[test]
fn eight_bits_are_enough_for_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.safetensors");
    // 1, -2 and 0.5 in either format.
    for (dtype, bytes) in [("F8_E4M3", [0x38, 0xC0, 0x30]), ("F8_E5M2", [0x3C, 0xC0, 0x38])] {
        let header = format!(r#"{{"a":{{"dtype":"{dtype}","shape":[3],"data_offsets":[0,3]}}}}"#);
        let length = (header.len() as u64).to_le_bytes();
        fs::write(&path, [&length, header.as_bytes(), &bytes].concat()).unwrap();
        for kind in [Kind::Half, Kind::BFloat16, Kind::Float] {
            let weights = Weights::open(std::slice::from_ref(&path), Device::Cpu, kind, &Cancel::default()).unwrap();
            let a = weights.root().get("a", &[3]);
            weights.finish().unwrap();
            assert_eq!(Vec::<f32>::try_from(a.to_kind(Kind::Float)).unwrap(), [1.0, -2.0, 0.5], "{dtype} {kind:?}");
        }
    }
}

#[test]
fn a_load_is_counted_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path());
    let path = folder.path().join("svd.safetensors");
    write(&stability(folder.path()), &path);
    let data = |path: &Path| {
        let weights = Weights::open(&[path.into()], Device::Cpu, Kind::Float, &Cancel::default()).unwrap();
        weights.shapes().map(|(_, shape)| 4 * shape.iter().product::<i64>() as u64).sum::<u64>()
    };
    let in_folder: u64 =
        Source::open(folder.path(), None).unwrap().weight_files(Kind::Float).unwrap().iter().map(|f| data(f)).sum();
    for path in [folder.path(), &path] {
        let source = Source::open(path, None).unwrap();
        let progress = LoadProgress::default();
        assert_eq!(progress.bytes(), (0, 0));
        Model::from_source(&source, Device::Cpu, Kind::Half, &Cancel::default(), &progress).unwrap();
        // The same tensors from either; what a file has besides them is not read.
        assert_eq!(progress.bytes(), (in_folder, in_folder));
    }
    let (source, progress, set) = (Source::open(&path, None).unwrap(), LoadProgress::default(), Cancel::default());
    set.cancel();
    let result = Model::from_source(&source, Device::Cpu, Kind::Half, &set, &progress);
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(progress.bytes(), (0, in_folder));
}

#[test]
fn a_repaired_model_is_loaded_again() {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path());
    let path = folder.path().join("vae/diffusion_pytorch_model.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let shared = || Model::shared(&Source::open(folder.path(), None).unwrap(), Device::Cpu, Kind::Float);
    let works = |worker: &Arc<gsttorchvideo::engine::worker::Worker<Model>>| worker.submit(|_| Ok(())).wait();
    let broken = shared();
    assert_message(works(&broken), &["not a complete safetensors file"]);
    // As long as nothing has changed, it is tried again and fails again, though somebody holds the one that failed.
    let still = shared();
    assert!(!Arc::ptr_eq(&broken, &still));
    assert!(works(&still).is_err());
    fs::write(&path, &whole).unwrap();
    let repaired = shared();
    works(&repaired).unwrap();
    let (done, all) = repaired.loading().progress.bytes();
    assert_eq!(done, all);
    assert!(Arc::ptr_eq(&repaired, &shared()));
    // A file that is replaced makes another model, whatever the folder's time says.
    let time = folder.path().metadata().unwrap().modified().unwrap();
    let mut tensors = tensors(&Source::open(folder.path(), None).unwrap(), Network::Vae, Kind::Float);
    tensors.insert("quant_conv.bias".into(), Tensor::zeros([8], (Kind::Float, Device::Cpu)));
    write(&tensors, &path);
    fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
    let replaced = shared();
    assert!(!Arc::ptr_eq(&repaired, &replaced));
    works(&replaced).unwrap();
    // So does another type.
    let source = Source::open(folder.path(), Some(ModelType::Svd)).unwrap();
    assert!(!Arc::ptr_eq(&replaced, &Model::shared(&source, Device::Cpu, Kind::Float)));
}

#[test]
fn hashes_are_those_that_sha256sum_says() {
    let source = Source::open(&file("models/svd-nano"), None).unwrap();
    let wanted = BTreeMap::from(
        [
            ("image_encoder/model.safetensors", "bec4032c49548992a591afd20c627f4f45f6ac3263ea3b1a7fb439518e6e9406"),
            (
                "unet/diffusion_pytorch_model.safetensors",
                "5987e73043a35215e0dd2fc4e92b5ac0d0a45da7e406f2ec19a3060112affca5",
            ),
            (
                "vae/diffusion_pytorch_model.safetensors",
                "b94117acb33933cfb591f1bd12c1cd3f0efb908fdb3f5420d95d0739425d921a",
            ),
        ]
        .map(|(name, hash)| (name.to_owned(), hash.to_owned())),
    );
    let set = Cancel::default();
    set.cancel();
    assert!(matches!(source.hashes(Kind::Float, &set).wait(), Err(Error::Cancelled)));
    for _ in 0..2 {
        assert_eq!(source.hashes(Kind::Half, &Cancel::default()).wait().unwrap(), wanted);
    }
    // What is known is not read again.
    assert_eq!(source.hashes(Kind::Half, &set).wait().unwrap(), wanted);
}

/// A repository in a Hugging Face cache: the files of `from` as blobs, and a snapshot `commit` of links to them.
fn write_repository(hub: &Path, model_type: ModelType, commit: &str, from: &Path) -> PathBuf {
    let repository = hub::repository(hub, model_type.repository());
    let snapshot = repository.join("snapshots").join(commit);
    fs::create_dir_all(repository.join("blobs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let mut folders = vec![from.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(from).unwrap();
            // Not the real hash: it must be taken from the name.
            let blob = format!("{:064x}", recipe::uniform(&format!("{commit}{}", name.display()), &[1])[0].to_bits());
            fs::copy(&path, repository.join("blobs").join(&blob)).unwrap();
            let link = snapshot.join(name);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(repository.join("blobs").join(&blob), link).unwrap();
        }
    }
    repository
}

#[test]
fn models_are_found_where_people_have_them() {
    let dir = tempfile::tempdir().unwrap();
    let tiny_model = dir.path().join("tiny");
    tiny(&tiny_model);
    edit(&tiny_model.join("unet/config.json"), |config| config["num_frames"] = 25.into());
    fs::remove_file(tiny_model.join("recommended.yaml")).unwrap();
    let folders = ["first", "second"].map(|name| dir.path().join(name));
    let hubs = ["hub", "other/hub"].map(|name| dir.path().join(name));
    let find = |model_type| find_svd_in(model_type, &folders, &hubs);
    for folder in &folders {
        fs::create_dir_all(folder).unwrap();
    }

    let message = find(ModelType::SvdXt).unwrap_err();
    for part in [
        "svd-xt is not there",
        "looked for stable-video-diffusion-img2vid-xt, svd-xt, svd_xt.safetensors in ",
        &folders[0].display().to_string(),
        &folders[1].display().to_string(),
        &hubs[0].display().to_string(),
        &hubs[1].display().to_string(),
        "accept its licence at https://huggingface.co/stabilityai/stable-video-diffusion-img2vid-xt (non-commercial",
        "hf download stabilityai/stable-video-diffusion-img2vid-xt --include",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }

    // The cache: the snapshot of `main`, else the newest whole one.
    let repository = write_repository(&hubs[1], ModelType::SvdXt, "1111", &tiny_model);
    let snapshot = repository.join("snapshots/1111");
    assert_eq!(find(ModelType::SvdXt).unwrap(), snapshot);
    assert!(find(ModelType::Svd).is_err() && find(ModelType::SvdXt11).is_err());
    write_repository(&hubs[1], ModelType::SvdXt, "2222", &tiny_model);
    fs::create_dir_all(repository.join("refs")).unwrap();
    for main in ["1111", "2222"] {
        fs::write(repository.join("refs/main"), main).unwrap();
        assert_eq!(find(ModelType::SvdXt).unwrap(), repository.join("snapshots").join(main));
    }
    fs::remove_file(repository.join("snapshots/2222/unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(find(ModelType::SvdXt).unwrap(), snapshot);
    // By the folder of the repository, too, which tells the type that files don't.
    assert_eq!(Source::open(&repository, None).unwrap().path(), snapshot);
    let newer = write_repository(&hubs[0], ModelType::SvdXt11, "3333", &tiny_model);
    assert_eq!(inspect(&newer).unwrap().model_type, Some(ModelType::SvdXt11));
    // The cache says the hashes, and no file is read.
    let set = Cancel::default();
    set.cancel();
    let hashes = Source::open(&snapshot, None).unwrap().hashes(Kind::Float, &set).wait().unwrap();
    assert_eq!(hashes.len(), 3);
    let link = fs::read_link(snapshot.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(hashes["unet/diffusion_pytorch_model.safetensors"], link.file_name().unwrap().to_str().unwrap());

    // Downloads that have not ended.
    fs::remove_dir_all(repository.join("snapshots/2222")).unwrap();
    fs::remove_file(&link).unwrap();
    let message = find(ModelType::SvdXt).unwrap_err();
    assert!(message.contains("not whole") && message.contains("not there"), "{message}");
    fs::write(repository.join("blobs/abc.incomplete"), "").unwrap();
    let message = find(ModelType::SvdXt).unwrap_err();
    assert!(message.contains("abc.incomplete: is a download that has not ended"), "{message}");

    // A snapshot that has the single file only.
    let single = dir.path().join("single");
    fs::create_dir_all(&single).unwrap();
    write(&stability(&tiny_model), &single.join("svd.safetensors"));
    let repository = write_repository(&hubs[0], ModelType::Svd, "4444", &single);
    assert_eq!(find(ModelType::Svd).unwrap(), repository.join("snapshots/4444/svd.safetensors"));

    // Folders go before the cache, and what is not whole is passed over.
    fs::create_dir_all(folders[0].join("svd-xt/unet")).unwrap();
    fs::copy(single.join("svd.safetensors"), folders[1].join("svd_xt.safetensors")).unwrap();
    assert_eq!(find(ModelType::SvdXt).unwrap(), folders[1].join("svd_xt.safetensors"));
    let named = folders[1].join("stable-video-diffusion-img2vid-xt");
    fs::rename(&tiny_model, &named).unwrap();
    assert_eq!(find(ModelType::SvdXt).unwrap(), named);
}
