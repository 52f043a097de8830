# SPDX-License-Identifier: MPL-2.0
"""Pillow's Lanczos resampling of a picture by the recipe -> tests/fixtures/pillow.safetensors."""

import json

import numpy as np
import recipe
from PIL import Image
from safetensors.numpy import save_file

NAME, SHAPE = "pillow.picture", (23, 37, 3)
SIZES = [(64, 40), (16, 8), (37, 8), (64, 23), (1, 1)]

picture = np.floor((recipe.uniform(NAME, SHAPE) + 1) / 2 * 255).astype(np.uint8)
resized = {
    f"{width}x{height}": np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
    for width, height in SIZES
}
save_file(resized, "tests/fixtures/pillow.safetensors", metadata={"inputs": json.dumps({NAME: SHAPE})})
