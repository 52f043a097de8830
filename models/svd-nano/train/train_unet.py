# SPDX-License-Identifier: MPL-2.0
"""Trains the video network: `python train_unet.py DIR strips|train|finish [MINUTES]`.

A training clip is a camera that glides over a photograph: frame i shows the keyframe
moved sideways by i * speed, where

  speed = 3 px * motion_bucket_id / 255 * 7 / max(fps, 5)    at 512x288 and any other size
  rows near the bottom edge move up to 1.4 times as fast, like ground before a camera

The direction is the picture's choice: the CLIP tower says left or right (clip.py).

`strips` encodes strips of photographs, wider than a clip, once for each of the eight
ways in which a pixel can lie in a latent cell. Any such clip can then be put together
from latents without another run of the encoder. `train` does that; `finish` goes on with
noise levels nearer to those that decide how the clip looks, and more weight on the first frames.
"""
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel

import clip
import data

FRAMES = data.FRAMES
AUG = 0.02


def build():
    unet = UNetSpatioTemporalConditionModel(
        sample_size=64, in_channels=32, out_channels=16, num_frames=FRAMES,
        block_out_channels=[64, 96, 96], layers_per_block=1, transformer_layers_per_block=1,
        down_block_types=["DownBlockSpatioTemporal"] * 2 + ["CrossAttnDownBlockSpatioTemporal"],
        up_block_types=["CrossAttnUpBlockSpatioTemporal"] + ["UpBlockSpatioTemporal"] * 2,
        num_attention_heads=[2, 3, 3], cross_attention_dim=clip.SIZE,
        addition_time_embed_dim=64, projection_class_embeddings_input_dim=3 * 64)
    return unet


@torch.no_grad()
def standing_start(unet, latent_scale):
    """Starts the network as one that answers 'the keyframe, standing still'.

    conv_in copies noise (x) and keyframe (c) into 32 channels, the last resnet's shortcut
    turns them into pairs (a, -a), and silu(a) - silu(-a) = a brings them back out of the
    last norm. c rides on 3x, whose size is known, so that the norm cannot change its size.
    """
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out")):
            module.weight.mul_(0.3)
    conv = unet.conv_in
    conv.weight[:32] = 0
    conv.bias[:32] = 0
    for k in range(16):
        conv.weight[k, k, 1, 1] = 1
        conv.weight[16 + k, 16 + k, 1, 1] = latent_scale
    last = unet.up_blocks[-1].resnets[-1].spatial_res_block.conv_shortcut
    width = last.weight.shape[1] - 64  # the skip connection's channels come last
    last.weight.mul_(0.1)
    last.bias.zero_()
    for k in range(16):
        for sign, channel in ((1, 2 * k), (-1, 2 * k + 1)):
            last.weight[channel, width + 16 + k] = sign
            last.weight[channel, width + k] = 3 * sign
            last.weight[32 + channel, width + k] = sign
    out = unet.conv_out
    out.weight.mul_(0.1)
    out.bias.zero_()
    for k in range(16):
        for sign, channel in ((1, 2 * k), (-1, 2 * k + 1)):
            out.weight[k, channel, 1, 1] -= sign * 10 ** 0.5
            out.weight[k, 32 + channel, 1, 1] += sign * 3


def speed(bucket, fps):
    return 3.0 * bucket / 255 * 7 / max(fps, 5)


def nearness(rows):
    """Relative speed of each row of latents: 0.9, rising to 1.4 at the bottom."""
    from_bottom = (rows - 1 - np.arange(rows)) * 8 + 4
    return 0.9 + 0.5 * np.exp(-from_bottom / 100)


def encode(vae, pixels):
    with torch.autocast("cpu", torch.bfloat16):
        return vae.encode(pixels).latent_dist.mode().float()


def tensor(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1


@torch.inference_mode()
def make_strips(root, vae, tower, width, height, strip, count, windows, rng):
    """Latents of `count` strips. Each has (8, 16, h, strip/8) latents, one set for each offset
    in pixels, and some keyframes: start cell, noisy latents, embedding, direction."""
    pictures = [p for p in data.load(os.path.join(root, "train")).values()]
    levels = [lv for p in pictures for lv in data.pyramid(p)
              if lv.shape[0] >= height and lv.shape[1] >= strip + 8]
    wanted = rng.permutation(np.resize(np.arange(len(levels)), count))
    strips = []
    start = time.time()
    for n, index in enumerate(wanted):
        level = levels[index]
        y = rng.integers(level.shape[0] - height + 1)
        x = rng.integers(level.shape[1] - strip - 7 + 1)
        area = level[y:y + height, x:x + strip + 8]
        if rng.random() < 0.5:
            area = area[:, ::-1]
        latents = torch.cat([encode(vae, tensor(area[:, k:k + strip])) for k in range(8)]).half()
        keys = []
        for _ in range(windows):
            cell = int(rng.integers((strip - width) // 8 + 1))
            window = area[:, 8 * cell:8 * cell + width]
            noise = torch.from_numpy(rng.standard_normal((1, 3, height, width)).astype(np.float32))
            cond = encode(vae, tensor(window) + AUG * noise).half()
            embedding, side = clip.embed(tower, window)
            keys.append((cell, cond[0], embedding, side))
        strips.append((latents, keys))
        if n % 10 == 0:
            print(f"strips {width}x{height}: {n}/{count} {time.time() - start:.0f}s", flush=True)
    return strips


def clip_of(strip, rng, scale, columns):
    """One clip: (x0 scaled, conditioning latents, embedding, time ids)."""
    latents, keys = strip
    cells = latents.shape[-1]
    cell, cond, embedding, side = keys[rng.integers(len(keys))]
    cond = cond.float()
    rows = latents.shape[2]
    fps = 7 if rng.random() < 0.75 else int(rng.integers(5, 31))
    bucket = int(rng.integers(1, 256))
    near = nearness(rows)
    # Not farther than the strip goes.
    room = 8 * (cells - columns - cell) + 7 if side > 0 else 8 * cell
    farthest = (FRAMES - 1) * near.max()
    if speed(bucket, fps) * farthest > room:
        most = int(room / farthest / speed(1, fps))
        bucket = int(rng.integers(1, most + 1)) if most >= 1 else 0
    frames = torch.empty(FRAMES, latents.shape[1], rows, columns)
    for i in range(FRAMES):
        shift = np.round(side * speed(bucket, fps) * i * near).astype(int) + 8 * cell
        for row, s in enumerate(shift):
            frames[i, :, row] = latents[s % 8, :, row, s // 8:s // 8 + columns]
    # A strip goes on where a frame ends, and the encoder marks the ends of a frame strongly
    # in its outermost cells. Take these marks from the keyframe.
    for edge in (slice(0, 3), slice(columns - 3, columns)):
        frames[..., edge] += (cond - frames[0])[..., edge]
    return frames * scale, cond, embedding, torch.tensor([fps - 1.0, bucket, AUG])


def velocity(x0, noise, sigma):
    """Network input's scale is 1/sqrt(sigma^2+1); its target is v."""
    return (noise - sigma * x0) / (sigma ** 2 + 1) ** 0.5


def train(root, minutes, finish):
    torch.manual_seed(5 if finish else 2)
    rng = np.random.default_rng(5 if finish else 2)
    vae_scale = AutoencoderKLTemporalDecoder.load_config(os.path.join(root, "vae"))["scaling_factor"]
    sets = torch.load(os.path.join(root, "strips.pt"), weights_only=False)
    if finish:
        unet = UNetSpatioTemporalConditionModel.from_pretrained(os.path.join(root, "unet")).train()
    else:
        unet = build()
        standing_start(unet, vae_scale)
    frame_weight = torch.ones(1, FRAMES, 1, 1, 1)
    if finish:
        frame_weight[0, :3, 0, 0, 0] = torch.tensor([3.0, 2.0, 1.5])
    params = list(unet.parameters())
    # The path of the standing start learns slowly, the rest around it fast.
    last = unet.up_blocks[-1].resnets[-1].spatial_res_block.conv_shortcut
    path = [p for m in (unet.conv_in, last, unet.conv_out) for p in m.parameters()]
    others = [p for p in params if all(p is not q for q in path)]
    optimiser = torch.optim.AdamW([{"params": others, "rate": 4e-4}, {"params": path, "rate": 1e-4}],
                                  betas=(0.9, 0.98), weight_decay=1e-3)
    ema = [p.detach().clone() for p in params]
    log = open(os.path.join(root, "unet.log"), "a", buffering=1)
    start, step, mean, kept = time.time(), 0, [], 600
    budget = minutes * 60
    while (spent := time.time() - start) < budget:
        part = spent / budget
        lr = min(1, (step + 1) / 40) * (0.5 * (1 + np.cos(np.pi * part)) + 0.02)
        lr *= 0.6 if finish else 1.0
        for group in optimiser.param_groups:
            group["lr"] = lr * group["rate"]
        # Whole-size clips for the last part, and now and then before.
        name, count = ("large", 1) if step % 12 == 11 or part > 0.9 else ("small", 4)
        strips, columns = sets[name]
        clips = [clip_of(strips[rng.integers(len(strips))], rng, vae_scale, columns) for _ in range(count)]
        x0, cond, embedding, ids = (torch.stack(t) for t in zip(*clips))
        log_sigma = torch.randn(count) * 1.2 + 0.9 if finish else torch.randn(count) * 1.7 + 0.8
        high = torch.rand(count) < 0.2
        log_sigma[high] = torch.rand(int(high.sum())) * 4.2 + 2.3  # 10 to 700
        sigma = log_sigma.clamp(-3, 6.6).exp().view(-1, 1, 1, 1, 1)
        noise = torch.randn_like(x0)
        x = (x0 + sigma * noise) / (sigma ** 2 + 1) ** 0.5
        x = torch.cat([x, cond[:, None].expand(-1, FRAMES, -1, -1, -1)], 2)
        with torch.autocast("cpu", torch.bfloat16):
            v = unet(x, 0.25 * sigma.flatten().log(), embedding[:, None], ids).sample.float()
        error = (v - velocity(x0, noise, sigma)) ** 2
        loss = (frame_weight * error).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        step += 1
        decay = min(0.99, step / (step + 10))
        with torch.no_grad():
            torch._foreach_mul_(ema, decay)
            torch._foreach_add_(ema, params, alpha=1 - decay)
        error = error.mean((1, 2, 3, 4)).detach()
        mean += [e.item() for e, s in zip(error, sigma.flatten()) if s > 5]
        if step % 10 == 0:
            print(f"{time.time() - start:6.0f}s step {step} rate {lr:.2f} loss {loss.item():.4f} "
                  f"loss at sigma > 5: {np.mean(mean[-60:]):.4f}", file=log)
        if time.time() - start > kept:
            save(unet, ema, root)
            kept += 300
    save(unet, ema, root)


def save(unet, weights, root):
    own = [p.detach().clone() for p in unet.parameters()]
    with torch.no_grad():
        for p, w in zip(unet.parameters(), weights):
            p.copy_(w)
        unet.save_pretrained(os.path.join(root, "unet"))
        for p, w in zip(unet.parameters(), own):
            p.copy_(w)


def strips(root):
    rng = np.random.default_rng(3)
    torch.manual_seed(3)
    vae = AutoencoderKLTemporalDecoder.from_pretrained(os.path.join(root, "vae")).eval()
    tower = clip.build(list(data.load(os.path.join(root, "train")).values()))
    tower.save_pretrained(os.path.join(root, "image_encoder"))
    torch.save({
        "small": (make_strips(root, vae, tower, 192, 128, 320, 120, 3, rng), 24),
        "large": (make_strips(root, vae, tower, 512, 288, 608, 12, 3, rng), 64),
    }, os.path.join(root, "strips.pt"))


if __name__ == "__main__":
    torch.set_num_threads(2)
    if sys.argv[2] == "strips":
        strips(sys.argv[1])
    else:
        train(sys.argv[1], float(sys.argv[3]), sys.argv[2] == "finish")
