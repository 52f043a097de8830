// SPDX-License-Identifier: MPL-2.0
//! A Stable Video Diffusion model so small that a test can generate with it: the one of the pipeline's fixtures.

use std::fs;
use std::path::Path;

use tch::Tensor;

use super::Fixture;

/// Writes the model's folder as diffusers would.
pub fn write_tiny_svd(folder: &Path) {
    let fixture = Fixture::open("svd/pipeline");
    for (part, file) in [
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("image_encoder", "model.safetensors"),
    ] {
        let folder = folder.join(part);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), fixture.text(&format!("{part}_config"))).unwrap();
        Tensor::write_safetensors(&fixture.weights(&format!("{part}_keys")), folder.join(file)).unwrap();
    }
    for (part, name, file) in [
        ("scheduler", "scheduler_config", "scheduler_config.json"),
        ("feature_extractor", "feature_extractor_config", "preprocessor_config.json"),
    ] {
        fs::create_dir_all(folder.join(part)).unwrap();
        fs::write(folder.join(part).join(file), fixture.text(name)).unwrap();
    }
    fs::write(folder.join("recommended.yaml"), "width: 64\nheight: 40\nnum_inference_steps: 3\n").unwrap();
}
