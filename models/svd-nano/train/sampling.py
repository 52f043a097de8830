# SPDX-License-Identifier: MPL-2.0
"""Clips of the finished model, as evaluate.py and show.py need them."""
import os

import numpy as np
import torch
import yaml
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

import data


class Model:
    """The pipeline in a folder and its recommended settings; on a GPU if there is one, in float32."""

    def __init__(self, folder):
        with open(os.path.join(folder, "recommended.yaml")) as f:
            self.settings = yaml.safe_load(f)
        del self.settings["dtypes"]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pipeline = StableVideoDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)

    def keyframe(self, picture, width=None, height=None):
        """The middle of a picture as (height, width, 3) uint8, of the recommended size unless told."""
        key = data.keyframe(picture, width or self.settings["width"], height or self.settings["height"])
        return np.round((key[0].permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)

    @torch.inference_mode()
    def latents(self, key, seed=42, **changes):
        """A clip's latents (frames, channels, h, w)."""
        settings = dict(self.settings, width=key.shape[1], height=key.shape[0], **changes)
        return self.pipeline(Image.fromarray(key), generator=torch.Generator().manual_seed(seed),
                             output_type="latent", **settings).frames[0]

    @torch.inference_mode()
    def frames(self, latents):
        """Latents as pictures (frames, height, width, 3) uint8, decoded together."""
        pixels = self.pipeline.vae.decode(latents, num_frames=len(latents)).sample.clamp(-1, 1)
        return np.round((pixels.permute(0, 2, 3, 1).cpu().numpy() + 1) * 127.5).astype(np.uint8)
