# SPDX-License-Identifier: MPL-2.0
"""Teaches the decoder to draw steady clips: `python train_decoder.py DIR [MINUTES]`.

`train_vae.py` trained it on single pictures. Here it sees clips as the video network makes them,
from the noise level at which the move is settled down to none, and learns to draw the true clip:
its temporal half, until now an identity, compares the frames and takes out what differs from
one to the next without having moved. Some clips are shorter, down to one frame, and some are
the true latents with a little noise.

Reads DIR/train, DIR/code.pt, DIR/unet and DIR/vae, writes DIR/vae and DIR/decoder.log, and
DIR/decoder.pt, from which an interrupted training goes on.
"""
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel

import data
import device
import latent_code
from latent_code import CONTENT, FACTOR
from motion import FRAMES
from train_unet import EMBEDDING, example, over_time

RATE = 2.5e-4
SIZES = [((256, 160), 0.65), ((160, 256), 0.35)]
CROPS = 3        # trainings on the clips that were sampled, each on pieces of CROP pixels, two of each clip
CROP = (128, 96)
SHORTER = (FRAMES, FRAMES, FRAMES, 7, 4, 1)


def karras(steps):
    """The scheduler's noise levels."""
    return (700 ** (1 / 7) + np.linspace(0, 1, steps) * (0.002 ** (1 / 7) - 700 ** (1 / 7))) ** 7


@torch.no_grad()
def sample(unet, run, x, levels, cond, ids):
    """Euler's method from x at the first of the levels to the last."""
    for now, after in zip(levels[:-1], levels[1:]):
        size = (now ** 2 + 1) ** 0.5
        both = torch.cat([x / size, cond[:, None].expand(-1, FRAMES, -1, -1, -1)], 2)
        time = torch.full((len(x),), 0.25 * np.log(now), device=x.device)
        with run.autocast():
            v = unet(both, time, torch.zeros(len(x), 1, EMBEDDING, device=x.device), ids).sample
        clean = x / size ** 2 - v.float() * (now / size)
        x = clean + after / now * (x - clean)
    return x


def steady_clips(pyramids, code, unet, run, rng, width, height):
    """Pixels (n, FRAMES, 3, height, width) and latents as the network makes them (n, FRAMES, 10, h, w)."""
    clips = zip(*(example(pyramids, code, rng, width, height) for _ in range(run.scale)))
    x0, cond, ids, pixels = (torch.stack(part).to(run.name) for part in clips)
    if rng.random() < 0.2:
        noisy = x0 + torch.randn_like(x0) * torch.rand(len(x0), 1, 1, 1, 1, device=x0.device) * 0.06
        return pixels, torch.cat([noisy[:, :, :CONTENT], x0[:, :, CONTENT:]], 2)
    levels = karras(rng.choice((8, 8, 10, 12)))
    levels = np.append(levels[levels < 40], 0).tolist()
    return pixels, sample(unet, run, x0 + levels[0] * torch.randn_like(x0), levels, cond, ids)


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
    """How much fine detail there is around each place: the mean size of the Laplacian in 8x8 pixels."""
    n, frames, colours, height, width = x.shape
    kernel = x.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    fine = F.conv2d(x.reshape(-1, 1, height, width), kernel).abs()
    return F.avg_pool2d(fine, 8, 4).view(n, frames, colours, -1)


def main(root, minutes):
    torch.manual_seed(3)
    run = device.Device()
    code = latent_code.load(root)
    pyramids = [data.pyramid(p) for p in data.load(os.path.join(root, "train")).values()]
    unet = UNetSpatioTemporalConditionModel.from_pretrained(os.path.join(root, "unet")).to(run.name).eval()
    vae = AutoencoderKLTemporalDecoder.from_pretrained(os.path.join(root, "vae")).to(run.name)
    decoder = vae.decoder.train()
    for module in list(unet.modules()) + list(decoder.modules()):
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
        (width, height), _ = SIZES[rng.choice(len(SIZES), p=[s[1] for s in SIZES])]
        pixels, latents = steady_clips(pyramids, code, unet, run, rng, width, height)
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
            # Where the exact detail can't be known, a mean of all that it may be is a blur: ask for as much of it.
            loss = off.abs().mean() + 0.25 * grad + change + 0.7 * F.l1_loss(texture(have), texture(want))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 0.5)
            optimiser.step()
            step += 1
            decay = min(0.99, step / (step + 10))
            with torch.no_grad():
                decoder.conv_in.weight[:, CONTENT:] = 0  # blind to the motion
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
