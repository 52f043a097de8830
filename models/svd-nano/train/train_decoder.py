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
CHANGE = 2.0     # how much changes from frame to frame count,
STEADY = 6.0     # and what changes when the frame before has been moved along
EXACT = 4.0      # how much squares count in frames that have not moved
DETAIL = 0.5     # how much fine detail counts in frames that have not moved,
LATE = 3.0       # and how much more in those that have moved MIDDLE px
MIDDLE = 5.0
EVEN = 0.06      # share of clips that are of one colour
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
    """Pixels (n, FRAMES, 3, height, width), latents as the network makes them (n, FRAMES, 10, h, w), and the motion between
    two frames in px (n, 2, height, width)."""
    every, latents, motions = [], [], []
    for _ in range(run.scale):
        field = some_field(rng, width, height, frames)
        source = piece(pyramids, rng, width, height)
        if rng.random() < EVEN:
            source = np.full_like(source, source[0, 0])
        pixels = torch.from_numpy(motion.clip(source, field)).to(run.name)
        pixels = pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        share = torch.linspace(0, 1, FRAMES, device=run.name)[:, None, None, None]
        moved = [share * torch.from_numpy(motion.cells(field, size)).to(run.name).permute(2, 0, 1) for size in (CELL, FACTOR)]
        if rng.random() < 0.2:
            content, moved[1] = latent_code.encode(code, pixels), 0 * moved[1]
        else:
            noisy = pixels[:1] + (0.02 if rng.random() < 0.7 else rng.uniform(0, 0.1)) * torch.randn_like(pixels[:1])
            content = fetch(latent_code.encode(code, noisy).expand(FRAMES, -1, -1, -1), moved[0])
        content = content + rng.uniform(0, 0.005) * torch.randn_like(content)
        every.append(pixels)
        latents.append(torch.cat([content, moved[1] / FACTOR * MOTION_GAIN], 1))
        motions.append(torch.from_numpy(field).to(run.name).permute(2, 0, 1) / (FRAMES - 1))
    return [torch.stack(parts) for parts in (every, latents, motions)]


def pieces(rng, pixels, latents, motions, frames):
    """Two pieces of each clip, of `frames` frames: pixels, latents, motions."""
    wide, tall = CROP[0] // FACTOR, CROP[1] // FACTOR
    if latents.shape[3] > latents.shape[4]:
        wide, tall = tall, wide
    want, have, moves = [], [], []
    for clip, z, step in zip(pixels, latents, motions):
        for _ in range(2):
            f = rng.integers(FRAMES - frames + 1)
            y, x = rng.integers(z.shape[2] - tall + 1), rng.integers(z.shape[3] - wide + 1)
            have.append(z[f:f + frames, :, y:y + tall, x:x + wide])
            y, x = y * FACTOR, x * FACTOR
            want.append(clip[f:f + frames, :, y:y + tall * FACTOR, x:x + wide * FACTOR])
            moves.append(step[:, y:y + tall * FACTOR, x:x + wide * FACTOR])
    return torch.stack(want), torch.stack(have), torch.stack(moves)


def decode(decoder, z):
    """Latents (n, frames, 10, h, w) to pixels (n, frames, 3, 4h, 4w)."""
    n, frames = z.shape[:2]
    still = torch.zeros(n, frames, device=z.device)
    return decoder(z.flatten(0, 1), image_only_indicator=still, num_frames=frames).unflatten(0, (n, frames))


def moved_along(x, motions):
    """Frames (n, frames, 3, h, w) as they are a frame later, after motions in px (n, 2, h, w)."""
    n, frames, _, height, width = x.shape
    rows, columns = torch.meshgrid(torch.arange(height, device=x.device), torch.arange(width, device=x.device), indexing="ij")
    places = torch.stack([columns, rows], -1) + motions.movedim(1, -1)
    places = (2 * places + 1) / places.new_tensor([width, height]) - 1
    places = places[:, None].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    return F.grid_sample(x.flatten(0, 1), places, "bicubic", "border", align_corners=False).unflatten(0, (n, frames))


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
    code = latent_code.load(root, run.name)
    pyramids = [data.pyramid(p) for p in data.load(os.path.join(root, "train")).values()]
    fetch = Fetch().to(run.name)
    fetch.load_state_dict(torch.load(os.path.join(root, "fetch.pt"), map_location=run.name)["net"])
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

    def save():
        device.save(vae, params, ema, os.path.join(root, "vae"))
        torch.save({"step": step, "spent": spent, "ema": ema, "optimiser": optimiser.state_dict(), "decoder": decoder.state_dict()}, kept)

    while (spent := time.time() - before) < minutes * 60:
        (width, height), frames, _ = SIZES[rng.choice(len(SIZES), p=[s[2] for s in SIZES])]
        clips = steady_clips(pyramids, code, fetch, run, rng, width, height, frames)
        for _ in range(CROPS):
            part = min(1, (time.time() - before) / (minutes * 60))
            for group in optimiser.param_groups:
                group["lr"] = float(RATE * min(1, (step + 1) / 50) * (0.5 * (1 + np.cos(np.pi * part)) + 0.01))
            want, z, motions = pieces(rng, *clips, rng.choice(SHORTER))
            with run.autocast():
                have = decode(decoder, z)
            have = have.float()
            off = have - want
            # What flickers hardly counts in the picture's own error. It was not there in the frame before, nor in that frame moved
            # along; detail that is wrong in all frames is in the latter.
            change = (off[:, 1:] - off[:, :-1]).abs().mean() if off.shape[1] > 1 else off.new_zeros(())
            steady = (off[:, 1:] - moved_along(off[:, :-1], motions)).abs().mean() if off.shape[1] > 1 else off.new_zeros(())
            grad = sum(F.l1_loss(a, b) for a, b in zip(edges(have), edges(want)))
            # Where the exact detail can't be known, a mean of all that it may be is a blur: ask for as much of it, and
            # the more the farther a frame has moved, for the less is known.
            fine = (texture(have) - texture(want)).abs().mean((2, 3))
            far = (z[:, :, -MOTION:].norm(dim=2).mean((2, 3)) * FACTOR / MOTION_GAIN / MIDDLE).clamp(max=1)
            exact = (off ** 2).mean((2, 3, 4)) * (1 - far)
            loss = (off.abs().mean() + 0.25 * grad + CHANGE * change + STEADY * steady + EXACT * exact.mean()
                    + (fine * (DETAIL + LATE * far)).mean())
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 0.5)
            optimiser.step()
            step += 1
            decay = min(0.99, step / (step + 10))
            with torch.no_grad():
                torch._foreach_mul_(ema, decay)
                torch._foreach_add_(ema, params, alpha=1 - decay)
            energies = [(edges(x)[0] ** 2).mean() for x in (have, want)]
            seen.append(torch.stack([(off ** 2).mean(), change, steady, *energies]).detach())
        if spent > next_log:
            squares, change, steady, mine, true = torch.stack(seen).mean(0).tolist()
            print(f"{spent:6.0f}s step {step} psnr {10 * np.log10(4 / squares):.2f} "
                  f"change off by {change * 127.5:.2f} levels, moved along {steady * 127.5:.2f}, edges' energy {mine / (true + 1e-4):.3f}", file=log)
            seen, next_log = [], spent + 5
        if spent > next_save:
            save()
            next_save = spent + 60
    save()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 25)
