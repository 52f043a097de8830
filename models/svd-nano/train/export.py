# SPDX-License-Identifier: MPL-2.0
"""Puts the trained parts together as a diffusers pipeline in float16: `python export.py DIR MODEL`."""
import glob
import json
import os
import sys

import torch
from diffusers import (AutoencoderKLTemporalDecoder, EulerDiscreteScheduler,
                       StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel)
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

import clip

SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
    prediction_type="v_prediction", interpolation_type="linear", use_karras_sigmas=True,
    sigma_min=0.002, sigma_max=700.0, timestep_spacing="leading", timestep_type="continuous",
    steps_offset=1)


def main(root, model):
    part = lambda name: os.path.join(root, name)
    pipeline = StableVideoDiffusionPipeline(
        vae=AutoencoderKLTemporalDecoder.from_pretrained(part("vae")),
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(part("image_encoder")),
        unet=UNetSpatioTemporalConditionModel.from_pretrained(part("unet")),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(
            crop_size=224, size=224, image_mean=clip.MEAN, image_std=clip.STD))
    pipeline.to(torch.float16).save_pretrained(model)
    for path in glob.glob(os.path.join(model, "*", "config.json")):  # no path of this machine
        with open(path) as f:
            config = json.load(f)
        config.pop("_name_or_path", None)
        with open(path, "w") as f:
            f.write(json.dumps(config, indent=2) + "\n")
    for path in glob.glob(os.path.join(model, "*", "*.safetensors")):
        os.chmod(path, 0o644)
    for name, module in (("unet", pipeline.unet), ("vae", pipeline.vae),
                         ("image_encoder", pipeline.image_encoder)):
        print(name, sum(p.numel() for p in module.parameters()), "parameters")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
