# SPDX-License-Identifier: MPL-2.0
"""The camera moves of the training clips.

A move is a smooth field of displacements over the frame: for every pixel, in pixels, where in
the keyframe its content lies at the clip's last frame. It is a pan to the right, in which the
lower part of the picture moves faster; with MOVES=all in the environment, any pan, zoom or rotation
or a mix, with parallax of random depth. It is scaled so that its mean length over the frame is

  reach(bucket, fps) = REACH * bucket / 255 * 7 / fps     pixels, at any frame size

Frame i of FRAMES has i / (FRAMES - 1) of it. (The frame rate's 7 / fps: a camera of the same
speed gets less far between two frames if there are more of them a second.)
"""
import os

import cv2
import numpy as np

FRAMES = 14
REACH = 16.0    # px that motion bucket 255 moves in a clip at 7 frames a second
FARTHEST = 18.0  # px; no training clip goes farther in the mean
# How often a clip pans to the right (its lower part faster, like the ground), pans anywhere,
# zooms, zooms and pans, turns and pans.
MOVES = (0.0, 0.4, 0.2, 0.2, 0.2) if os.environ.get("MOVES") == "all" else (1.0, 0.0, 0.0, 0.0, 0.0)
MARGIN = 40     # px of picture around a frame that its clip may show


def reach(bucket, fps):
    return REACH * bucket / 255 * 7 / fps


def smooth_depth(rng, height, width):
    """A random smooth map in [-1, 1]: how near things are."""
    coarse = rng.uniform(-1, 1, (3, 4)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), -1, 1)


def field(rng, height, width):
    """A random move of mean length 1: (height, width, 2), x before y."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = (y + 0.5) / height * 2 - 1, (x + 0.5) / width * 2 - 1
    aspect = width / height
    kind = rng.choice(5, p=MOVES)
    pan, zoom, turn = 0.0, 0.0, 0.0
    angle = rng.uniform(0, 2 * np.pi)
    if kind == 0:
        angle = 0.0
    if kind != 2:
        pan = 1.0
    if kind in (2, 3):
        zoom = rng.choice([-1.0, 1.0]) * (1.0 if kind == 2 else rng.uniform(0.3, 1.2))
    if kind == 4:
        turn = rng.choice([-1.0, 1.0]) * rng.uniform(0.2, 1.0)
    d = np.stack([pan * np.cos(angle) + zoom * x - turn * y / aspect,
                  pan * np.sin(angle) + zoom * y / aspect + turn * x], -1).astype(np.float32)
    depth = 0.3 * y
    if kind:
        depth = rng.uniform(0, 0.4) * y + rng.choice([0, 1]) * rng.uniform(0, 0.35) * smooth_depth(rng, height, width)
    d *= (1 + depth)[..., None]
    return d / np.linalg.norm(d, axis=-1).mean()


def settings(rng):
    """(motion bucket, fps) of a training clip, near the recommended ones more often."""
    while True:
        fps = 7.0 if rng.random() < 0.6 else float(rng.integers(4, 25))
        bucket = float(rng.integers(1, 256))
        if reach(bucket, fps) <= FARTHEST:
            return bucket, fps


def render(source, move, step):
    """The frame whose content lies `step` * `move` off in `source`, which has MARGIN more on all sides."""
    height, width = move.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return cv2.remap(source, x + MARGIN + step * move[..., 0], y + MARGIN + step * move[..., 1],
                     cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT_101)


def clip(source, move):
    """FRAMES frames (FRAMES, height, width, 3) uint8; the first is the keyframe."""
    return np.stack([render(source, move, i / (FRAMES - 1)) for i in range(FRAMES)])
