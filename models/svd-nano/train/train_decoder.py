# SPDX-License-Identifier: MPL-2.0
"""Teaches the decoder to draw steady clips: `python train_decoder.py DIR [MINUTES]`.

`train_vae.py` trained it on single pictures. Here it sees clips as the video network makes them: of the keyframe's
content moved by `train_fetch.py`, with what little noise the sampler leaves. It learns to draw the true clip: as sharp, and
steady. It sees the motion, too: how far a frame has moved tells how much detail that cost. Some clips are shorter, down
to one frame, and some are the true latents, which have not moved.

Reads DIR/train, DIR/code.pt, DIR/fetch.pt and DIR/vae, writes DIR/vae and DIR/decoder.log, and
DIR/decoder.pt, from which an interrupted training goes on.
"""
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder

import data
import device
import latent_code
import motion
from latent_code import FACTOR, MOTION, MOTION_GAIN
from motion import FRAMES
from train_fetch import CELL, Fetch, piece

RATE = 2.5e-4
SIZES = [((256, 160), ((512, 288), (512, 288), (256, 256)), 0.65), ((160, 256), ((288, 512), (256, 256)), 0.35)]  # of windows, frames, share
CROPS = 3        # trainings on the clips that were sampled, each on pieces of CROP pixels, two of each clip
CROP = (128, 96)
CHANGE = 2.0     # how much changes count
LATE = 5.0       # how much more detail counts in frames that have moved MIDDLE px
MIDDLE = 5.0
SHORTER = (FRAMES, FRAMES, FRAMES, 7, 4, 1)


def over_time(conv, x):
    """A convolution over frames only, as one of two dimensions: the same, and eight times as fast on a CPU."""
    clips, channels, frames, height, width = x.shape
    y = F.conv2d(x.reshape(clips, channels, frames, height * width), conv.weight[..., 0], conv.bias, padding=(1, 0))
    return y.view(clips, -1, frames, height, width)


def some_field(rng, width, height, frames):
    """The motion (height, width, 2) of a window of one of `frames`' sizes."""
    size = frames[rng.integers(len(frames))]
    window = (rng.integers(size[0] - width + 1), rng.integers(size[1] - height + 1), width, height)
    field = motion.field(motion.camera(rng), motion.reach(*motion.settings(rng)), size, window)
    return field * min(1, motion.MOST / np.linalg.norm(field, axis=-1).max())


@torch.no_grad()
def steady_clips(pyramids, code, fetch, run, rng, width, height, frames):
    """Pixels (n, FRAMES, 3, height, width) and latents as the network makes them (n, FRAMES, 10, h, w)."""
    every, latents = [], []
    for _ in range(run.scale):
        field = some_field(rng, width, height, frames)
        pixels = torch.from_numpy(motion.clip(piece(pyramids, rng, width, height), field))
        pixels = pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        moved = [torch.linspace(0, 1, FRAMES)[:, None, None, None] * torch.from_numpy(motion.cells(field, size)).permute(2, 0, 1)
                 for size in (CELL, FACTOR)]
        if rng.random() < 0.2:
            content, moved[1] = latent_code.encode(code, pixels), 0 * moved[1]
        else:
            noisy = pixels[:1] + (0.02 if rng.random() < 0.7 else rng.uniform(0, 0.1)) * torch.randn_like(pixels[:1])
            content = fetch(latent_code.encode(code, noisy).expand(FRAMES, -1, -1, -1), moved[0])
        content = content + rng.uniform(0, 0.02) * torch.randn_like(content)
        every.append(pixels)
        latents.append(torch.cat([content, moved[1] / FACTOR * MOTION_GAIN], 1))
    return torch.stack(every).to(run.name), torch.stack(latents).to(run.name)


def pieces(rng, pixels, latents, frames):
    """Two pieces of each clip, of `frames` frames."""
    wide, tall = CROP[0] // FACTOR, CROP[1] // FACTOR
    if latents.shape[3] > latents.shape[4]:
        wide, tall = tall, wide
    want, have = [], []
    for clip, z in zip(pixels, latents):
        for _ in range(2):
            f = rng.integers(FRAMES - frames + 1)
            y, x = rng.integers(z.shape[2] - tall + 1), rng.integers(z.shape[3] - wide + 1)
            have.append(z[f:f + frames, :, y:y + tall, x:x + wide])
            y, x = y * FACTOR, x * FACTOR
            want.append(clip[f:f + frames, :, y:y + tall * FACTOR, x:x + wide * FACTOR])
    return torch.stack(want), torch.stack(have)


def decode(decoder, z):
    """Latents (n, frames, 10, h, w) to pixels (n, frames, 3, 4h, 4w)."""
    n, frames = z.shape[:2]
    still = torch.zeros(n, frames, device=z.device)
    return decoder(z.flatten(0, 1), image_only_indicator=still, num_frames=frames).unflatten(0, (n, frames))


def edges(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def texture(x):
    """How much fine detail there is around each place: the root mean square of the Laplacian in 8x8 pixels."""
    n, frames, colours, height, width = x.shape
    kernel = x.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    fine = F.conv2d(x.reshape(-1, 1, height, width), kernel) ** 2
    return (F.avg_pool2d(fine, 8, 4) + 1e-4).sqrt().view(n, frames, colours, -1)


def main(root, minutes):
    torch.manual_seed(3)
    run = device.Device()
    code = latent_code.load(root)
    pyramids = [data.pyramid(p) for p in data.load(os.path.join(root, "train")).values()]
    fetch = Fetch()
    fetch.load_state_dict(torch.load(os.path.join(root, "fetch.pt"))["net"])
    vae = AutoencoderKLTemporalDecoder.from_pretrained(os.path.join(root, "vae")).to(run.name)
    decoder = vae.decoder.train()
    for module in decoder.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.forward = lambda x, conv=module: over_time(conv, x)
    unused = {id(p) for p in decoder.mid_block.attentions.parameters()}  # in the file, but never run
    params = [p for p in decoder.parameters() if id(p) not in unused]
    optimiser = torch.optim.AdamW(params, lr=RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    ema = [p.detach().clone() for p in params]
    step, spent, kept = 0, 0.0, os.path.join(root, "decoder.pt")
    if os.path.exists(kept):
        state = torch.load(kept, map_location=run.name)
        step, spent, ema = state["step"], state["spent"], state["ema"]
        optimiser.load_state_dict(state["optimiser"])
        decoder.load_state_dict(state["decoder"])
    rng = np.random.default_rng([3, step])
    torch.manual_seed(3 + step)
    log = open(os.path.join(root, "decoder.log"), "a", buffering=1)
    before, next_log, next_save, seen = time.time() - spent, spent + 5, spent + 60, []
    while (spent := time.time() - before) < minutes * 60:
        (width, height), frames, _ = SIZES[rng.choice(len(SIZES), p=[s[2] for s in SIZES])]
        pixels, latents = steady_clips(pyramids, code, fetch, run, rng, width, height, frames)
        for _ in range(CROPS):
            part = min(1, (time.time() - before) / (minutes * 60))
            for group in optimiser.param_groups:
                group["lr"] = float(RATE * min(1, (step + 1) / 50) * (0.5 * (1 + np.cos(np.pi * part)) + 0.01))
            want, z = pieces(rng, pixels, latents, rng.choice(SHORTER))
            with run.autocast():
                have = decode(decoder, z)
            have = have.float()
            off = have - want
            # How a frame changes: what flickers was not there before, and hardly counts in the picture's own error.
            change = (off[:, 1:] - off[:, :-1]).abs().mean() if off.shape[1] > 1 else off.new_zeros(())
            grad = sum(F.l1_loss(a, b) for a, b in zip(edges(have), edges(want)))
            # Where the exact detail can't be known, a mean of all that it may be is a blur: ask for as much of it, and
            # the more the farther a frame has moved, for the less is known.
            fine = (texture(have) - texture(want)).abs().mean((2, 3))
            far = z[:, :, -MOTION:].norm(dim=2).mean((2, 3)) * FACTOR / MOTION_GAIN
            loss = off.abs().mean() + 0.25 * grad + CHANGE * change + (fine * (1 + LATE * (far / MIDDLE).clamp(max=1))).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 0.5)
            optimiser.step()
            step += 1
            decay = min(0.99, step / (step + 10))
            with torch.no_grad():
                torch._foreach_mul_(ema, decay)
                torch._foreach_add_(ema, params, alpha=1 - decay)
            seen.append(torch.stack([(off ** 2).mean(), change, *(((a ** 2).mean() / (b ** 2).mean())
                                     for a, b in zip(edges(have)[:1], edges(want)[:1]))]).detach())
        if spent > next_log:
            squares, change, sharp = torch.stack(seen).mean(0).tolist()
            print(f"{spent:6.0f}s step {step} psnr {10 * np.log10(4 / squares):.2f} "
                  f"change off by {change * 127.5:.2f} levels, edges' energy {sharp:.3f}", file=log)
            seen, next_log = [], spent + 5
        if spent > next_save:
            device.save(vae, params, ema, os.path.join(root, "vae"))
            torch.save({"step": step, "spent": spent, "ema": ema, "optimiser": optimiser.state_dict(),
                        "decoder": decoder.state_dict()}, kept)
            next_save = spent + 60
    device.save(vae, params, ema, os.path.join(root, "vae"))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 25)
