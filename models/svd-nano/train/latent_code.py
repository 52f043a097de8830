# SPDX-License-Identifier: MPL-2.0
"""The latent code: what the ten latent channels of svd-nano mean.

Channels 0 to 7 ("content") are a linear code of 4x4-pixel patches: the eight strongest
principal components of the training photographs' patches, each scaled so that its standard
deviation is the square root of its share of the first one's. Channels 8 and 9 ("motion") hold
where a frame's content comes from: the displacement (x, y) from a pixel of the frame to its
source in the keyframe, in latent pixels, times MOTION_GAIN. The encoder writes 0 there and the
decoder does not look at them.

As the code is linear, training clips are encoded by one matrix product; the encoder of the
exported autoencoder computes the same (`train_vae.py`, `write_encoder`).
"""
import os

import numpy as np
import torch
import torch.nn.functional as F

FACTOR = 4         # pixels per latent pixel, each way
CONTENT = 8        # content channels
MOTION = 2         # motion channels: x, y
LATENTS = CONTENT + MOTION
MOTION_GAIN = 6.0  # a typical late displacement of two latent pixels becomes 12: well above the noise
                   # where content takes shape, at levels from 3 down


def patches(pictures):
    """(n, 3, h, w) pictures in [-1, 1] -> (n, 48, h/4, w/4): row 16 * colour + 4 * y + x."""
    return F.pixel_unshuffle(pictures, FACTOR)


def fit(pictures):
    """The code for (1, 3, h, w) training pictures: encode (8, 48), decode (48, 8), middle (48,)."""
    rows = torch.cat([patches(p).flatten(2)[0] for p in pictures], 1).double()
    middle = rows.mean(1)
    rows = rows - middle[:, None]
    power, axes = torch.linalg.eigh(rows @ rows.T / rows.shape[1])
    axes, deviation = axes.flip(1)[:, :CONTENT], power.flip(0)[:CONTENT].sqrt()
    axes = axes * torch.where(axes.sum(0) < 0, -1.0, 1.0)  # so that brighter is more
    gain = (deviation / deviation[0]).sqrt() / deviation
    return {"encode": (axes * gain).T.float().contiguous(), "decode": (axes / gain).float().contiguous(),
            "middle": middle.float(), "deviation": (deviation * gain).float()}


def encode(code, pictures):
    """(n, 3, h, w) in [-1, 1] -> content (n, 8, h/4, w/4)."""
    weight = code["encode"].view(CONTENT, 3 * FACTOR * FACTOR, 1, 1)
    return F.conv2d(patches(pictures) - code["middle"].view(1, -1, 1, 1), weight)


def decode(code, content):
    """The linear decoder: content (n, 8, h, w) -> (n, 3, 4h, 4w)."""
    rows = F.conv2d(content, code["decode"][:, :, None, None]) + code["middle"].view(1, -1, 1, 1)
    return F.pixel_shuffle(rows, FACTOR)


def load(root, device="cpu"):
    """The code of the work folder."""
    return torch.load(os.path.join(root, "code.pt"), map_location=device)


def build(root):
    """Fits the code to the work folder's training pictures and keeps it."""
    import data
    pictures = [data.keyframe(p) for p in data.load(os.path.join(root, "train")).values()]
    code = fit(pictures)
    torch.save(code, os.path.join(root, "code.pt"))
    print("latent code: deviations", np.round(code["deviation"].numpy(), 3))
    return code
