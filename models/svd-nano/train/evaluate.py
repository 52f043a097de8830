# SPDX-License-Identifier: MPL-2.0
"""Measures the finished model on the test pictures: `python evaluate.py DIR MODEL [OUT]`.

Per picture: PSNR of the clip's first frame against the keyframe, and how far the last
frame has moved (mean length of the optical flow between first and last frame, in pixels).
Writes a contact sheet per clip to OUT (frames 0, 4, 9, 13 under the keyframe).
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


def moved(first, last):
    grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in (first, last)]
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    return float(np.abs(flow[..., 0]).mean()), float(flow[..., 0].mean())


def main(root, model, out):
    os.makedirs(out, exist_ok=True)
    torch.set_num_threads(2)
    with open(os.path.join(model, "recommended.yaml")) as f:
        recommended = yaml.safe_load(f)
    pipeline = StableVideoDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pictures = data.load(os.path.join(root, "test"))
    jobs = [(name, recommended["motion_bucket_id"]) for name in pictures]
    jobs += [("china", b) for b in (1, 64, 200, 255)] + [("flower", b) for b in (1, 64, 200)]
    for name, bucket in jobs:
        key = data.keyframe(pictures[name], recommended["width"], recommended["height"])
        key = np.round((key[0].permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)
        settings = dict(recommended, motion_bucket_id=bucket)
        start = time.time()
        frames = pipeline(Image.fromarray(key), generator=torch.Generator().manual_seed(42),
                          output_type="np", **settings).frames[0]
        spent = time.time() - start
        frames = np.round(frames * 255).astype(np.uint8)
        mse = np.mean((frames[0].astype(float) - key) ** 2)
        size, sideways = moved(frames[0], frames[-1])
        print(f"{name:12s} bucket {bucket:3d}  first frame {10 * np.log10(255 ** 2 / mse):5.2f} dB  "
              f"flow {size:5.1f} px ({sideways:+.1f})  {spent:.1f} s", flush=True)
        sheet = np.concatenate([key] + [frames[i] for i in (0, 4, 9, 13)])
        Image.fromarray(sheet).save(os.path.join(out, f"{name}_{bucket}.png"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else os.path.join(sys.argv[1], "sheets"))
