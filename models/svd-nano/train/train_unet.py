# SPDX-License-Identifier: MPL-2.0
"""Trains the video network: `python train_unet.py DIR [MINUTES]`.

A training clip is a camera move over a photograph (`motion.py`): fourteen frames, rendered from
a picture larger than the frame and encoded by the latent code, with the move itself in the motion
channels. Those are smooth and strong, so they stand out of the noise first: at high noise
levels, the network settles on a move that suits the motion bucket and, if there is more than one,
the noise; at the lower ones, all that is left to do is to fetch the keyframe's content from
where the move says.

Training is v-prediction as the scheduler's settings say, at noise levels from 700 to 0.02.
Reads DIR/train and DIR/code.pt, writes DIR/unet (diffusers folder, averaged weights), DIR/unet.log
and DIR/unet.pt, from which an interrupted training goes on.
"""
import os
import sys
import time

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNetSpatioTemporalConditionModel

import data
import device
import latent_code
import motion
from latent_code import CONTENT, FACTOR, LATENTS, MOTION_GAIN

FRAMES = motion.FRAMES
EMBEDDING = 64     # width of the image embedding, which is always zero (export.py)
WIDTHS = [64, 64, 96, 96]
SMALL = (64, 64)   # many of these at once, to learn the motion: it has one answer a clip
# (width, height) in pixels, clips at once, share of the steps
SIZES = [((128, 96), 2, 0.55), ((96, 128), 2, 0.25), (SMALL, 6, 0.2)]
FINAL_SIZES = [((128, 96), 2, 0.4), ((256, 160), 1, 0.45), (SMALL, 6, 0.15)]


def build():
    last = len(WIDTHS) - 1
    return UNetSpatioTemporalConditionModel(
        sample_size=128, in_channels=2 * LATENTS, out_channels=LATENTS, num_frames=FRAMES,
        block_out_channels=WIDTHS, layers_per_block=(2,) + (1,) * last, transformer_layers_per_block=(2,) + (1,) * last,
        down_block_types=["DownBlockSpatioTemporal"] * last + ["CrossAttnDownBlockSpatioTemporal"],
        up_block_types=["CrossAttnUpBlockSpatioTemporal"] + ["UpBlockSpatioTemporal"] * last,
        num_attention_heads=[max(1, w // 32) for w in WIDTHS], cross_attention_dim=EMBEDDING,
        addition_time_embed_dim=EMBEDDING, projection_class_embeddings_input_dim=3 * EMBEDDING)


def frame_wise(unet):
    """The blocks of the largest level, whose temporal halves are exact identities.

    At that level content is moved within each frame; what frames have to agree on, the move,
    is settled at the smaller ones.
    """
    return list(unet.down_blocks[0].resnets) + list(unet.up_blocks[-1].resnets)


def over_time(conv, x):
    """A convolution over frames only, as one of two dimensions: the same, and eight times as fast on a CPU."""
    clips, channels, frames, height, width = x.shape
    y = F.conv2d(x.reshape(clips, channels, frames, height * width), conv.weight[..., 0], conv.bias, padding=(1, 0))
    return y.view(clips, -1, frames, height, width)


@torch.no_grad()
def start(unet):
    """Starts the network as one that answers 'the keyframe, standing still', with no motion.

    conv_in copies noise (x) and keyframe (c) into 20 channels, the last resnet's shortcut turns
    them into pairs (a, -a), and silu(a) - silu(-a) = a brings them back out of the last norm.
    c rides on 3x, whose size is known, so that the norm cannot change its size.
    """
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out")):
            module.weight.mul_(0.3)
    for block in frame_wise(unet):
        block.temporal_res_block.conv2.weight.zero_()
        block.temporal_res_block.conv2.bias.zero_()
    conv = unet.conv_in
    conv.weight[:2 * LATENTS] = 0
    conv.bias[:2 * LATENTS] = 0
    for k in range(2 * LATENTS):
        # The motion is larger than the content by its gain.
        conv.weight[k, k, 1, 1] = 1 if k % LATENTS < CONTENT else 1 / MOTION_GAIN
    last = unet.up_blocks[-1].resnets[-1].spatial_res_block.conv_shortcut
    width = last.weight.shape[1] - WIDTHS[0]  # the skip connection's channels come last
    last.weight.mul_(0.3)
    last.bias.zero_()
    for k in range(LATENTS):
        for sign, channel in ((1, 2 * k), (-1, 2 * k + 1)):
            for row in (channel, 2 * LATENTS + channel):
                last.weight[row] = 0
                last.weight[row, width + k] = sign * (3 if row == channel else 1)
            last.weight[channel, width + LATENTS + k] = sign
    out = unet.conv_out
    out.weight.mul_(0.1)
    out.weight[CONTENT:] *= MOTION_GAIN
    out.bias.zero_()
    for k in range(CONTENT):
        for sign, channel in ((1, 2 * k), (-1, 2 * k + 1)):
            out.weight[k, channel, 1, 1] -= sign * 10 ** 0.5
            out.weight[k, 2 * LATENTS + channel, 1, 1] += sign * 3


def window(levels, rng, width, height):
    """A piece of a photograph with MARGIN around a frame of that size, mirrored or recoloured at random."""
    h, w = height + 2 * motion.MARGIN, width + 2 * motion.MARGIN
    fit = [level for level in levels if level.shape[0] >= h and level.shape[1] >= w]
    if not fit:
        return None
    level = fit[-1 - min(rng.geometric(0.45) - 1, len(fit) - 1)]  # small ones more often
    y, x = rng.integers(level.shape[0] - h + 1), rng.integers(level.shape[1] - w + 1)
    piece = level[y:y + h, x:x + w]
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    if rng.random() < 0.5:
        gain, shift = rng.uniform(0.85, 1.15, 3) * rng.uniform(0.8, 1.1), rng.uniform(-30, 30)
        piece = np.clip(piece * gain + shift, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(piece)


def example(pyramids, code, rng, width, height):
    """One clip: x0 (FRAMES, 10, h, w), keyframe's latents (10, h, w), ids (fps - 1, bucket, noise), pixels (FRAMES, 3, height, width)."""
    source = None
    while source is None:
        source = window(pyramids[rng.integers(len(pyramids))], rng, width, height)
    bucket, fps = motion.settings(rng)
    move = motion.field(rng, height, width) * motion.reach(bucket, fps)
    frames = torch.from_numpy(motion.clip(source, move)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    aug = 0.02 if rng.random() < 0.7 else rng.uniform(0, 0.1)
    noisy = frames[:1] + aug * torch.from_numpy(rng.standard_normal(frames[:1].shape, np.float32))
    content = latent_code.encode(code, torch.cat([frames, noisy]))
    small = cv2.resize(move, (width // FACTOR, height // FACTOR), interpolation=cv2.INTER_AREA)
    small = torch.from_numpy(small).permute(2, 0, 1) * (MOTION_GAIN / FACTOR)
    steps = torch.linspace(0, 1, FRAMES).view(-1, 1, 1, 1)
    cond = torch.cat([content[-1], torch.zeros_like(small)])
    return torch.cat([content[:FRAMES], steps * small], 1), cond, torch.tensor([fps - 1, bucket, aug]), frames


def noise_levels(rng, count, share):
    """A `share` of them where content takes shape, the others over the whole schedule (rho 7)."""
    levels = []
    for _ in range(count):
        if rng.random() < share:
            levels.append(np.exp(rng.uniform(np.log(0.1), np.log(6.0))))
        else:
            levels.append((700 ** (1 / 7) + rng.random() * (0.02 ** (1 / 7) - 700 ** (1 / 7))) ** 7)
    return torch.tensor(levels, dtype=torch.float32)


def velocity(x0, noise, sigma):
    """What the scheduler calls v: noise and x0 mixed for that level."""
    return (noise - sigma * x0) / (sigma ** 2 + 1) ** 0.5


def main(root, minutes):
    torch.manual_seed(2)
    run = device.Device()
    if run.name == "cpu":
        cv2.setNumThreads(1)
    code = latent_code.load(root)
    pyramids = [data.pyramid(p) for p in data.load(os.path.join(root, "train")).values()]
    unet = build()
    start(unet)
    unet.to(run.name).train()
    identities = frame_wise(unet)
    for block in identities:
        block.temporal_res_block.requires_grad_(False)
        block.time_mixer.requires_grad_(False)
        block.forward = lambda x, time, image_only_indicator, block=block: block.spatial_res_block(x, time)
    for module in unet.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.forward = lambda x, conv=module: over_time(conv, x)
    params = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=1e-3, betas=(0.9, 0.98), weight_decay=1e-4)
    ema = [p.detach().clone() for p in params]
    step, spent, kept = 0, 0.0, os.path.join(root, "unet.pt")
    if os.path.exists(kept):
        state = torch.load(kept, map_location=run.name)
        step, spent, ema = state["step"], state["spent"], state["ema"]
        optimiser.load_state_dict(state["optimiser"])
        unet.load_state_dict(state["unet"])
    rng = np.random.default_rng([2, step])
    torch.manual_seed(2 + step)
    log = open(os.path.join(root, "unet.log"), "a", buffering=1)
    before, next_save = time.time() - spent, spent + 180
    recent = {"high": [], "motion": [], "content": [], "fine": [], "warp": []}
    while (spent := time.time() - before) < minutes * 60:
        part = spent / (minutes * 60)
        lr = 1.2e-3 * min(1, (step + 1) / 100) * (0.5 * (1 + np.cos(np.pi * part)) + 0.02)
        for group in optimiser.param_groups:
            group["lr"] = float(lr)
        sizes = SIZES if part < 0.8 else FINAL_SIZES
        (width, height), count, _ = sizes[rng.choice(len(sizes), p=[s[2] for s in sizes])]
        count *= run.scale
        examples = [example(pyramids, code, rng, width, height) for _ in range(count)]
        x0, cond, ids = (torch.stack(t).to(run.name) for t in list(zip(*examples))[:3])
        for_motion = (width, height) == SMALL
        level = noise_levels(rng, count, 0.2 if for_motion else 0.8).to(run.name)
        sigma = level.view(-1, 1, 1, 1, 1)
        noise = torch.randn_like(x0)
        x = (x0 + sigma * noise) / (sigma ** 2 + 1) ** 0.5
        x = torch.cat([x, cond[:, None].expand(-1, FRAMES, -1, -1, -1)], 2)
        with run.autocast():
            v = unet(x, 0.25 * level.log(), torch.zeros(count, 1, EMBEDDING, device=run.name), ids).sample
        error = (v.float() - velocity(x0, noise, sigma)) ** 2
        # At high levels, most of the move can't be known yet.
        known = 1 / (1 + sigma / 60) / MOTION_GAIN ** 2
        loss = error[:, :, :CONTENT].mean() + (0.6 if for_motion else 0.3) * (known * error[:, :, CONTENT:]).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 0.5)
        optimiser.step()
        step += 1
        decay = min(0.995, step / (step + 10))
        with torch.no_grad():
            torch._foreach_mul_(ema, decay)
            torch._foreach_add_(ema, params, alpha=1 - decay)
        # Errors of the predicted clip, by noise level.
        clean = (error.detach() * (sigma ** 2 / (sigma ** 2 + 1))).mean((3, 4))
        still = ((cond[:, None] - x0) ** 2)[:, 6:, :CONTENT].mean((1, 2, 3, 4)).tolist()
        for e, s, standing in zip(clean[:, 6:, :CONTENT].mean((1, 2)).tolist(), level.tolist(), still):
            if 0.5 < s < 4:  # of the later frames' content, what share of standing still's error is left
                recent["warp"].append((e, standing))
        clean = clean.mean(1)
        for e, s in zip(clean, level.tolist()):
            if s > 12:
                recent["high"].append(e[CONTENT:].mean().item())
            elif s > 1:
                recent["motion"].append(e[CONTENT:].mean().item())
                recent["content"].append(e[:CONTENT].mean().item())
            else:
                recent["fine"].append(e[:CONTENT].mean().item())
        if step % 20 == 0:
            recent = {k: v[-200:] for k, v in recent.items()}
            warp = np.sum(recent["warp"], 0) if recent["warp"] else (0, 1)
            means = " ".join(f"{k} {np.mean(v) if v else 0:.4f}" for k, v in recent.items() if k != "warp")
            means += f" warp {warp[0] / warp[1]:.3f}"
            print(f"{spent:6.0f}s step {step} lr {lr:.1e} loss {loss.item():.4f} {means}", file=log)
        if spent > next_save:
            device.save(unet, params, ema, os.path.join(root, "unet"))
            torch.save({"step": step, "spent": spent, "ema": ema, "optimiser": optimiser.state_dict(),
                        "unet": unet.state_dict()}, kept)
            next_save += 180
    device.save(unet, params, ema, os.path.join(root, "unet"))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 80)
