// SPDX-License-Identifier: MPL-2.0
//! A Stable Video Diffusion model so small that a test can generate with it: the one of the pipeline's fixtures.

use std::fs;
use std::path::Path;

use tch::Tensor;

use super::{Fixture, Keys, recipe_tensors};

/// Writes the model's folder as diffusers would.
pub fn write_tiny_svd(folder: &Path) {
    let fixture = Fixture::open("svd/pipeline.safetensors");
    for (part, prefix, file) in [
        ("unet", "unet", "diffusion_pytorch_model.safetensors"),
        ("vae", "vae", "diffusion_pytorch_model.safetensors"),
        ("image_encoder", "image_encoder", "model.safetensors"),
    ] {
        let folder = folder.join(part);
        fs::create_dir_all(&folder).unwrap();
        let config: serde_json::Value = fixture.json(&format!("{prefix}_config"));
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let keys: Keys = fixture.json(&format!("{prefix}_keys"));
        Tensor::write_safetensors(&recipe_tensors(&keys), folder.join(file)).unwrap();
    }
    for (part, name, file) in [
        ("scheduler", "scheduler_config", "scheduler_config.json"),
        ("feature_extractor", "feature_extractor_config", "preprocessor_config.json"),
    ] {
        let config: serde_json::Value = fixture.json(name);
        fs::create_dir_all(folder.join(part)).unwrap();
        fs::write(folder.join(part).join(file), config.to_string()).unwrap();
    }
}
