# SPDX-License-Identifier: MPL-2.0
"""Puts the trained parts together as a diffusers pipeline in float16: `python export.py DIR MODEL`.

Adds the image encoder, whose embedding is always zero (nothing in these clips depends on what
a picture means; the class wants one), and `latent_rgb.json`, linear factors that turn latents
into a small preview without the decoder.
"""
import glob
import json
import os
import sys

import torch
import torch.nn.functional as F
from diffusers import (AutoencoderKLTemporalDecoder, EulerDiscreteScheduler,
                       StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

import data
import latent_code
from latent_code import CONTENT, FACTOR, LATENTS
from network import EMBEDDING

# SVD's, but for its lowest noise level, 0.002. Near 1 / 20 and below, the network takes away a part of the noise only (network.py, MOST): up to 0.02
# of it, with many steps, stayed in the clip. At 0.2 it takes away all but 0.0005 at once.
SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
    prediction_type="v_prediction", interpolation_type="linear", use_karras_sigmas=True,
    sigma_min=0.2, sigma_max=700.0, timestep_spacing="leading", timestep_type="continuous",
    steps_offset=1)


def image_encoder():
    """A random CLIP tower with a projection of zero."""
    torch.manual_seed(4)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        image_size=224, patch_size=32, projection_dim=EMBEDDING, hidden_act="gelu"))
    torch.nn.init.zeros_(tower.visual_projection.weight)
    return tower


def preview_factors(root):
    """Least squares from latents to the mean colour of their 4x4 pixels, in [-1, 1], over training pictures."""
    code, rows, colours = latent_code.load(root), [], []
    for picture in data.load(os.path.join(root, "train")).values():
        pixels = data.keyframe(picture)
        rows.append(latent_code.encode(code, pixels)[0].flatten(1).T)
        colours.append(F.avg_pool2d(pixels, FACTOR)[0].flatten(1).T)
    rows, colours = torch.cat(rows).double(), torch.cat(colours).double()
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    answer = torch.linalg.lstsq(rows, colours).solution
    error = (rows @ answer - colours).pow(2).mean().sqrt()
    print(f"preview factors: root mean square error {error:.4f} of [-1, 1]")
    weights = torch.cat([answer[:CONTENT], torch.zeros(LATENTS - CONTENT, 3)])
    round_all = lambda rows: [round(v, 5) for v in rows.tolist()]
    return {"factor": FACTOR, "weight": [round_all(row) for row in weights], "bias": round_all(answer[CONTENT])}


def main(root, model):
    part = lambda name: os.path.join(root, name)
    pipeline = StableVideoDiffusionPipeline(
        vae=AutoencoderKLTemporalDecoder.from_pretrained(part("vae")),
        image_encoder=image_encoder(),
        unet=UNetSpatioTemporalConditionModel.from_pretrained(part("unet")),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(
            crop_size=224, size=224, image_mean=(0.48145466, 0.4578275, 0.40821073),
            image_std=(0.26862954, 0.26130258, 0.27577711)))
    pipeline.to(torch.float16).save_pretrained(model)
    for path in glob.glob(os.path.join(model, "*", "config.json")) + [os.path.join(model, "model_index.json")]:
        with open(path) as f:
            config = json.load(f)
        config.pop("_name_or_path", None)  # no path of this machine
        if "feature_extractor" in config:  # the class has another name where torchvision is missing
            config["feature_extractor"][1] = "CLIPImageProcessor"
        with open(path, "w") as f:
            f.write(json.dumps(config, indent=2) + "\n")
    for path in glob.glob(os.path.join(model, "*", "*.safetensors")):
        os.chmod(path, 0o644)
    with open(os.path.join(model, "latent_rgb.json"), "w") as f:
        f.write(json.dumps(preview_factors(root), indent=1) + "\n")
    for name, module in (("unet", pipeline.unet), ("vae", pipeline.vae),
                         ("image_encoder", pipeline.image_encoder)):
        print(name, sum(p.numel() for p in module.parameters()), "parameters")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
