# SPDX-License-Identifier: MPL-2.0
"""The camera moves of the training clips: pans in any direction.

What a frame shows lies `pan` pixels (x, y) off in the keyframe at the clip's last frame, and

  |pan| = reach(bucket, fps) = REACH * bucket / 255 * 7 / fps     pixels, at any frame size, FARTHEST at most

Frame i of FRAMES has i / (FRAMES - 1) of it. (The frame rate's 7 / fps: a camera of the same
speed gets less far between two frames if there are more of them a second.)
"""
import cv2
import numpy as np

FRAMES = 14
REACH = 10.0     # px that motion bucket 255 moves in a clip at 7 frames a second
FARTHEST = 10.0  # px; no clip goes farther
MARGIN = 16      # px of picture around a frame that its clip may show


def reach(bucket, fps):
    return np.minimum(REACH * bucket / 255 * 7 / fps, FARTHEST)


def settings(rng):
    """(motion bucket, fps) of a training clip, near the recommended ones more often."""
    fps = 7.0 if rng.random() < 0.6 else float(rng.integers(4, 25))
    return float(rng.integers(1, 256)), fps


def direction(rng):
    """A random unit vector (x, y)."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def shifted(source, pan):
    """The frame whose content lies `pan` pixels off in `source`, which has MARGIN more on all sides."""
    height, width = source.shape[0] - 2 * MARGIN, source.shape[1] - 2 * MARGIN
    to = np.float32([[1, 0, -MARGIN - pan[0]], [0, 1, -MARGIN - pan[1]]])
    return cv2.warpAffine(source, to, (width, height), flags=cv2.INTER_LANCZOS4)


def clip(source, pan):
    """FRAMES frames (FRAMES, height, width, 3) uint8; the first is the keyframe."""
    return np.stack([shifted(source, i / (FRAMES - 1) * np.asarray(pan)) for i in range(FRAMES)])
