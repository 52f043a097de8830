# SPDX-License-Identifier: MPL-2.0
"""The camera moves of the training clips.

A camera is a unit vector (pan x, pan y, zoom, roll). Zooms are never positive: they go inwards, so that they need nothing from
outside the keyframe. What the last frame shows at `place` lies `field` pixels off in the keyframe:

  field = reach * (pan * (1 + PARALLAX * (1 - |r|^2)) + ZOOM * (zoom * r + roll * (-r.y, r.x)))
  r     = place from the frame's middle / the root mean square distance of the frame's pixels from it
  reach = REACH * bucket / 255 * 7 / fps     pixels, FARTHEST at most

so that |r|^2 is 1 in the mean, and `reach` about how far a pixel moves in the root mean square, at any size. What is in the
middle is taken to be nearer: it moves more in a pan. Frame i of FRAMES has i / (FRAMES - 1) of the field. (The frame
rate's 7 / fps: a camera of the same speed gets less far between two frames if there are more of them a second.)
"""
import cv2
import numpy as np

FRAMES = 14
REACH = 10.0     # px that motion bucket 255 moves in a clip at 7 frames a second
FARTHEST = 10.0  # px; no clip's reach is larger
ZOOM = 0.8       # of zooms and rolls, which move corners more: 1.7 times as far
PARALLAX = 0.25
NUMBERS = 4      # of a camera
MARGIN = 20      # px of picture around a frame that its clip may show
MOST = 12.0      # px that a pixel moves in training; more only happens in corners, far beyond the recommended settings


def reach(bucket, fps):
    return np.minimum(REACH * bucket / 255 * 7 / fps, FARTHEST)


def settings(rng):
    """(motion bucket, fps) of a training clip, near the recommended ones more often."""
    fps = 7.0 if rng.random() < 0.6 else float(rng.integers(4, 25))
    return float(rng.integers(1, 256)), fps


def camera(rng):
    """A random camera."""
    numbers = rng.normal(size=NUMBERS)
    numbers[2] = -abs(numbers[2])
    return numbers / np.linalg.norm(numbers)


def direction(rng):
    """A random unit vector (x, y)."""
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def field(camera, reach, size, window=None):
    """The field (h, w, 2) of a frame of `size` (width, height), or of a window (x, y, width, height) of it."""
    width, height = size
    left, top, across, down = window or (0, 0, width, height)
    scale = ((width ** 2 + height ** 2) / 12) ** 0.5
    y, x = np.mgrid[top:top + down, left:left + across].astype(np.float32)
    r = (np.stack([x, y], -1) - (np.array(size) - 1) / 2) / scale
    near = 1 + PARALLAX * (1 - (r ** 2).sum(-1, keepdims=True))
    turned = np.stack([-r[..., 1], r[..., 0]], -1)
    return (reach * (camera[:2] * near + ZOOM * (camera[2] * r + camera[3] * turned))).astype(np.float32)


def cells(field, size):
    """A field's means over squares of `size` pixels."""
    height, width, _ = field.shape
    return field.reshape(height // size, size, width // size, size, 2).mean((1, 3))


def moved(source, field):
    """The frame (h, w, 3) whose content lies `field` (h, w, 2) off in `source`, which has MARGIN more on all sides."""
    height, width, _ = field.shape
    y, x = np.mgrid[MARGIN:MARGIN + height, MARGIN:MARGIN + width].astype(np.float32)
    return cv2.remap(source, x + field[..., 0], y + field[..., 1], cv2.INTER_LANCZOS4)


def clip(source, field):
    """FRAMES frames (FRAMES, h, w, 3) uint8; the first is the keyframe."""
    return np.stack([moved(source, i / (FRAMES - 1) * field) for i in range(FRAMES)])
