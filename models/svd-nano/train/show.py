# SPDX-License-Identifier: MPL-2.0
"""Makes the README's pictures: `python show.py DIR MODEL`.

For two test pictures, recommended settings, seed 42: the keyframe, a strip of frames 0, 4, 9
and 13, and the clip, forth and back, as a small animation.
"""
import os
import sys

import numpy as np
from PIL import Image

import data
from sampling import Model

NAMES = ("flower", "china")
SHOWN = (0, 4, 9, 13)


def main(root, folder):
    model = Model(folder)
    out = os.path.join(folder, "pictures")
    os.makedirs(out, exist_ok=True)
    pictures = data.load(os.path.join(root, "test"))
    for name in NAMES:
        key = model.keyframe(pictures[name])
        frames = model.frames(model.latents(key))
        path = lambda kind: os.path.join(out, f"{name}-{kind}.webp")
        Image.fromarray(key).save(path("keyframe"), quality=90)
        Image.fromarray(np.concatenate(frames[list(SHOWN)], 1)).save(path("strip"), quality=85)
        small = [Image.fromarray(f).resize((384, 216), Image.LANCZOS) for f in frames]
        small[0].save(path("clip"), save_all=True, append_images=small[1:] + small[-2:0:-1],
                      duration=round(1000 / model.settings["fps"]), loop=0, quality=75)
        print(*(f"{os.path.basename(path(k))} {os.path.getsize(path(k)) // 1000} kB" for k in ("strip", "clip")))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
