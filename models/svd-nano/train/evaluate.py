# SPDX-License-Identifier: MPL-2.0
"""Measures the finished model on the test pictures: `python evaluate.py DIR MODEL [quick]`.

Prints a table and writes MODEL/measured.json, which the README quotes. All clips: the recommended
settings and seed 42, unless it says otherwise. The figures:

  psnr           of the autoencoder's reconstruction, dB, at 512x288
  lpips          its LPIPS (`perceptual.py`)
  first          PSNR of the clip's first frame against the keyframe, dB
  sharpness      Laplacian energy of the last frame over that of the first
  sharpness_true the same of the true clip: the photograph itself, moved about as the clip moves
  flicker        mean absolute difference between a frame and the one before it, moved to it by optical
                 flow, in levels; flicker_true: the same of the true clip
  drift          the most by which any frame's mean level differs from the true clip's
  moved          mean length of the optical flow from the first to the last frame, px
"""
import json
import os
import sys

import cv2
import numpy as np
import torch

import data
from perceptual import Lpips
from sampling import Model

BORDER = 32  # px at the sides where new content enters, left out where clips are compared
BUCKETS = (1, 32, 64, 127, 200)


def grey(frame):
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def inside(picture):
    return picture[BORDER:-BORDER, BORDER:-BORDER]


def psnr(a, b):
    return 10 * np.log10(255 ** 2 / np.mean((a.astype(float) - b) ** 2))


def flow(a, b):
    """Where each pixel of `a` lies in `b`, relative to its own place: (h, w, 2)."""
    return cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(grey(a), grey(b), None)


def smooth(field):
    """The field of second order in x and y that fits best inside, and its terms (6, 2): 1, x, y from the middle, squares."""
    height, width = field.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
    fit, *_ = np.linalg.lstsq(inside(terms).reshape(-1, 6), inside(field).reshape(-1, 2), rcond=None)
    return (terms @ fit).astype(np.float32), fit


def moved(frames):
    """Mean length of the flow from the first to the last frame; how far the middle went (x and y, px), zoom (%) and roll (degrees)."""
    field = flow(frames[0], frames[-1])
    _, fit = smooth(field)
    camera = [*fit[0].tolist(), float(50 * (fit[1, 0] + fit[2, 1])), float(np.degrees(fit[1, 1] - fit[2, 0]) / 2)]
    return float(np.linalg.norm(inside(field), axis=-1).mean()), camera


def laplacian(frame):
    return float(np.mean(inside(cv2.Laplacian(grey(frame).astype(np.float32), cv2.CV_32F)) ** 2))


def flicker(frames):
    y, x = np.mgrid[0:frames.shape[1], 0:frames.shape[2]].astype(np.float32)
    errors = []
    for before, after in zip(frames[:-1], frames[1:]):
        field = flow(after, before)
        came = cv2.remap(before, x + field[..., 0], y + field[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        errors.append(np.abs(inside(came).astype(float) - inside(after)).mean())
    return float(np.mean(errors))


def true_clip(picture, key, frames):
    """The photograph itself under a smooth camera move like the clip's: its optical flow from the
    last to the first frame, made smooth, and proportional to time."""
    height, width = key.shape[:2]
    move, _ = smooth(flow(frames[-1], frames[0]))
    h, w = picture.shape[:2]
    scale = max(width / w, height / h)
    size = (max(width, round(w * scale)), max(height, round(h * scale)))
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # as data.keyframe does
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    y, x = y + (size[1] - height) // 2, x + (size[0] - width) // 2
    return np.stack([cv2.remap(picture, x + t * move[..., 0], y + t * move[..., 1], cv2.INTER_LANCZOS4,
                               borderMode=cv2.BORDER_REFLECT_101) for t in np.linspace(0, 1, len(frames)).tolist()])


def compare(picture, key, frames):
    true = true_clip(picture, key, frames)
    drift = [np.abs(inside(a).mean() - inside(b).mean()) for a, b in zip(frames, true)]
    return {
        "first": psnr(frames[0], key),
        "sharpness": laplacian(frames[-1]) / laplacian(frames[0]),
        "sharpness_true": laplacian(true[-1]) / laplacian(true[0]),
        "flicker": flicker(frames), "flicker_true": flicker(true), "drift": float(max(drift)),
        "moved": moved(frames)[0],
    }


@torch.inference_mode()
def reconstruct(model, key):
    pixels = torch.from_numpy(key).permute(2, 0, 1)[None].float().div(127.5).sub(1).to(model.device)
    vae = model.pipeline.vae
    return model.frames(vae.encode(pixels).latent_dist.mode())[0]


def rounded(value):
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return round(value, 3) if isinstance(value, float) else value


def main(root, folder, quick):
    model = Model(folder)
    pictures = data.load(os.path.join(root, "test"))
    names = ["flower", "china"] if quick else ["china", "flower"] + sorted(set(pictures) - {"china", "flower"})
    lpips = Lpips()
    measured = {"settings": model.settings, "pictures": {}, "buckets": {}, "fps": {}, "seeds": {}, "noise": {}, "steps": {}}
    for name in names:
        key = model.keyframe(pictures[name])
        again = reconstruct(model, key)
        row = {"psnr": psnr(again, key), "lpips": lpips(again, key)}
        row.update(compare(pictures[name], key, model.frames(model.latents(key))))
        measured["pictures"][name] = row
        print(f"{name:12s}", *(f"{k} {v:.2f}" for k, v in row.items()), flush=True)
    key, base = model.keyframe(pictures["flower"]), model.settings
    ends = lambda **changes: model.frames(model.latents(key, **changes))[[0, -1]]
    usual = ends()
    for bucket in BUCKETS:
        same = bucket == base["motion_bucket_id"]
        measured["buckets"][bucket] = moved(usual if same else ends(motion_bucket_id=bucket))[0]
    for fps in (5, 7, 14):
        measured["fps"][fps] = moved(usual if fps == base["fps"] else ends(fps=fps))[0]
    for seed in (42, 1, 2, 3, 4, 5):
        measured["seeds"][seed] = moved(usual if seed == 42 else ends(seed=seed))
    for aug in (0.0, 0.02, 0.1):
        frames = usual if aug == base["noise_aug_strength"] else ends(noise_aug_strength=aug)
        measured["noise"][aug] = {"first": psnr(frames[0], key), "moved": moved(frames)[0]}
    for steps in (4, 12, 25):
        frames = model.frames(model.latents(key, num_inference_steps=steps))
        measured["steps"][steps] = {"first": psnr(frames[0], key), "flicker": flicker(frames), "moved": moved(frames)[0]}
    one, two = (model.latents(key, num_inference_steps=2) for _ in range(2))
    measured["same seed, same clip"] = bool(torch.equal(one, two))
    for size in ((256, 256), (288, 512)):
        key = model.keyframe(pictures["flower"], *size)
        clip = model.frames(model.latents(key))
        measured[f"flower {size[0]}x{size[1]}"] = compare(pictures["flower"], key, clip)
    measured = rounded(measured)
    for name in list(measured)[2:]:
        print(name, json.dumps(measured[name]))
    with open(os.path.join(folder, "measured.json"), "w") as f:
        f.write(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], "quick" in sys.argv[3:])
