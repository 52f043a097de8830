# SPDX-License-Identifier: MPL-2.0
"""Measures the finished model on the test pictures: `python evaluate.py DIR MODEL [OUT]`.

Per clip: PSNR of the first frame against the keyframe, and how far the last frame has
moved (mean sideways optical flow between first and last frame, in pixels). Writes a
contact sheet per clip to OUT (the keyframe, then frames 0, 4, 9 and 13). Only these four
frames are decoded: the temporal half of the decoder is an identity, so that frames do not
depend on each other. The last line is the time of one whole clip.
"""
import os
import sys
import time

import cv2
import numpy as np
import torch
import yaml
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

import data

SHOWN = (0, 4, 9, 13)


def moved(first, last):
    """(mean absolute, mean) sideways flow"""
    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (first, last)]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    return float(np.abs(flow[..., 0]).mean()), float(flow[..., 0].mean())


@torch.inference_mode()
def main(root, model, out):
    os.makedirs(out, exist_ok=True)
    torch.set_num_threads(2)
    with open(os.path.join(model, "recommended.yaml")) as f:
        recommended = yaml.safe_load(f)
    pipeline = StableVideoDiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pictures = data.load(os.path.join(root, "test"))
    order = ["china", "flower"] + [n for n in pictures if n not in ("china", "flower")]
    jobs = [(name, recommended["motion_bucket_id"]) for name in order]
    jobs += [("flower", 1), ("flower", 64), ("flower", 200)]
    for name, bucket in jobs:
        key = data.keyframe(pictures[name], recommended["width"], recommended["height"])
        key = np.round((key[0].permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)
        settings = dict(recommended, motion_bucket_id=bucket)
        call = lambda kind: pipeline(Image.fromarray(key), generator=torch.Generator().manual_seed(42),
                                     output_type=kind, **settings).frames
        latents = call("latent")[0][list(SHOWN)] / pipeline.vae.config.scaling_factor
        frames = pipeline.vae.decode(latents, num_frames=len(SHOWN)).sample.clamp(-1, 1)
        frames = np.round((frames.permute(0, 2, 3, 1).numpy() + 1) * 127.5).astype(np.uint8)
        mse = np.mean((frames[0].astype(float) - key) ** 2)
        size, sideways = moved(frames[0], frames[-1])
        print(f"{name:12s} bucket {bucket:3d}  first frame {10 * np.log10(255 ** 2 / mse):5.2f} dB  "
              f"flow {size:5.1f} px ({sideways:+.1f})", flush=True)
        Image.fromarray(np.concatenate([key, *frames])).save(os.path.join(out, f"{name}_{bucket}.png"))
    start = time.time()
    call("np")
    print(f"one clip: {time.time() - start:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else os.path.join(sys.argv[1], "sheets"))
