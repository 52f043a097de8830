# SPDX-License-Identifier: MPL-2.0
"""Trains what decides on the pan: `python train_motion.py DIR [MINUTES]`.

The smaller levels of the network see the noisy motion channels and nothing else of the clip, besides the noise
level, the motion bucket and the frame rate. They learn to hand the second level, for each frame, the pan that they
see in the noise; where it is not to be seen yet, the mean of those that are possible. So no photographs are needed. Reads DIR/fetch.pt, writes DIR/motion.pt (the whole network) and DIR/motion.log.
"""
import os
import sys
import time

import numpy as np
import torch

import motion
import network
import train_fetch
from latent_code import FACTOR, LATENTS, MOTION, MOTION_GAIN
from network import NOISY, TIME, signal

FRAMES = motion.FRAMES
# (width, height) in latent pixels, clips at once, share of the steps
SIZES = [((16, 16), 3, 0.5), ((24, 16), 2, 0.2), ((16, 24), 2, 0.2), ((32, 24), 1, 0.1)]
LATE_SIZES = [((16, 16), 3, 0.3), ((24, 16), 2, 0.2), ((16, 24), 2, 0.1), ((32, 24), 1, 0.2), ((64, 40), 1, 0.15), ((128, 72), 1, 0.05)]


@torch.no_grad()
def start(unet):
    """What is handed down is the noisy motion alone."""
    down = unet.down_blocks[0].downsamplers[0].conv
    weight = down.weight * 4
    down.weight.zero_()
    for group in range(NOISY + LATENTS - MOTION, NOISY + LATENTS):
        down.weight[:, signal(group):signal(group) + 2] = weight[:, signal(group):signal(group) + 2]


def trained(unet):
    """The parameters of the smaller levels, and which of their numbers are trained (None: all)."""
    pairs = []
    modules = [unet.down_blocks[0].downsamplers, unet.down_blocks[1:], unet.mid_block, unet.up_blocks[:-3], unet.up_blocks[-3].resnets,
               unet.add_embedding, unet.time_embedding.linear_2]
    for module in modules:
        for name, parameter in module.named_parameters():
            free = None
            if module is unet.down_blocks[0].downsamplers and name.endswith("weight"):
                free = torch.zeros_like(parameter)
                first = signal(NOISY + LATENTS - MOTION)
                free[:, first:first + 3 * MOTION] = 1
                free[:, first + 2:first + 3 * MOTION:3] = 0
            if name.startswith("linear_2") or module is unet.time_embedding.linear_2:
                free = torch.ones_like(parameter)
                free[:TIME] = 0
            pairs.append((parameter, free))
    return pairs


def lower(unet, noisy, level, ids):
    """The pan in latent px that the smaller levels hand up: (n * FRAMES, 2, h / 4, w / 4), of noisy motion (n, FRAMES, 2, h, w)."""
    n = len(noisy)
    x = torch.zeros(n * FRAMES, 2 * LATENTS, *noisy.shape[3:])
    x[:, LATENTS - MOTION:LATENTS] = noisy.flatten(0, 1)
    emb = unet.time_embedding(unet.time_proj(0.25 * level.log()))
    emb = emb + unet.add_embedding(unet.add_time_proj(ids.flatten()).view(n, -1))
    emb = emb.repeat_interleave(FRAMES, 0)
    context = torch.zeros(n * FRAMES, 1, network.EMBEDDING)
    still = torch.zeros(n, FRAMES)
    x = unet.down_blocks[0].downsamplers[0](unet.conv_in(x))
    skips = [x]
    for block in unet.down_blocks[1:]:
        with_attention = {"encoder_hidden_states": context} if hasattr(block, "attentions") else {}
        x, more = block(hidden_states=x, temb=emb, image_only_indicator=still, **with_attention)
        skips += more
    x = unet.mid_block(hidden_states=x, temb=emb, encoder_hidden_states=context, image_only_indicator=still)
    for block in unet.up_blocks[:-3]:
        with_attention = {"encoder_hidden_states": context} if hasattr(block, "attentions") else {}
        count = len(block.resnets)
        taken, skips = skips[-count:], skips[:-count]
        x = block(hidden_states=x, temb=emb, res_hidden_states_tuple=taken, upsample_size=skips[-1].shape[-2:],
                  image_only_indicator=still, **with_attention)
    for resnet in unet.up_blocks[-3].resnets:
        x = resnet(torch.cat([x, skips.pop()], 1), emb, image_only_indicator=still)
    return x[:, :MOTION]


def example(rng, count):
    """Pans in px (n, 2), ids (n, 3)."""
    pans, ids = [], []
    for _ in range(count):
        bucket, fps = motion.settings(rng)
        pans.append(motion.direction(rng) * motion.reach(bucket, fps))
        ids.append((fps - 1, bucket, 0.02 if rng.random() < 0.7 else rng.uniform(0, 0.1)))
    return torch.tensor(np.stack(pans), dtype=torch.float32), torch.tensor(ids, dtype=torch.float32)


def main(root, minutes):
    torch.manual_seed(4)
    unet, fetch = network.build(), train_fetch.Fetch()
    fetch.load_state_dict(torch.load(os.path.join(root, "fetch.pt"))["net"])
    network.start(unet)
    network.fit_gains(unet)
    fetch.install(unet)
    start(unet)
    network.quicken(unet)
    pairs = trained(unet)
    for parameter, free in pairs:
        if free is not None:
            parameter.register_hook(lambda grad, free=free: grad * free)
    params = [p for p, _ in pairs]
    optimiser = torch.optim.Adam(params, lr=1e-3, betas=(0.9, 0.98))
    averaged = [p.detach().clone() for p in params]
    kept = os.path.join(root, "motion.pt")
    spent, step = 0.0, 0
    if os.path.exists(kept):
        state = torch.load(kept)
        unet.load_state_dict(state["raw"])
        optimiser.load_state_dict(state["optimiser"])
        averaged, spent, step = state["averaged"], state["spent"], state["step"]
    rng = np.random.default_rng([4, step])
    torch.manual_seed(4 + step)
    log = open(os.path.join(root, "motion.log"), "a", buffering=1)
    before, next_save = time.time() - spent, spent + 60
    recent = []

    def save():
        raw = {k: v.clone() for k, v in unet.state_dict().items()}
        own = [p.detach().clone() for p in params]
        with torch.no_grad():
            for p, value in zip(params, averaged):
                p.copy_(value)
            state = {k: v.clone() for k, v in unet.state_dict().items()}
            for p, value in zip(params, own):
                p.copy_(value)
        torch.save({"unet": state, "raw": raw, "averaged": averaged, "optimiser": optimiser.state_dict(), "spent": spent, "step": step}, kept)

    while (spent := time.time() - before) < minutes * 60:
        part = spent / (minutes * 60)
        for group in optimiser.param_groups:
            group["lr"] = float(1.5e-3 * min(1, (step + 1) / 100) * (0.5 * (1 + np.cos(np.pi * part)) + 0.01))
        sizes = SIZES if part < 0.7 else LATE_SIZES
        (width, height), count, _ = sizes[rng.choice(len(sizes), p=[s[2] for s in sizes])]
        pans, ids = example(rng, count)
        level = torch.tensor((700 ** (1 / 7) + rng.random(count) * (0.05 ** (1 / 7) - 700 ** (1 / 7))) ** 7, dtype=torch.float32)
        steps = torch.linspace(0, 1, FRAMES).view(1, -1, 1)
        frames = steps * pans[:, None]  # (n, FRAMES, 2) px
        sigma = level.view(-1, 1, 1, 1, 1)
        noisy = frames[..., None, None] * (MOTION_GAIN / FACTOR) + sigma * torch.randn(count, FRAMES, MOTION, height, width)
        got = lower(unet, noisy / (sigma ** 2 + 1) ** 0.5, level, ids)
        off = got * FACTOR - frames.flatten(0, 1)[:, :, None, None]
        loss = (off ** 2).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 0.5)
        optimiser.step()
        step += 1
        decay = min(0.998, step / (step + 10))
        with torch.no_grad():
            torch._foreach_mul_(averaged, decay)
            torch._foreach_add_(averaged, params, alpha=1 - decay)
            mean = off.mean((2, 3)).view(count, FRAMES, MOTION)[:, -1].norm(dim=1)
        recent += list(zip(level.tolist(), mean.tolist()))
        if step % 25 == 0:
            recent = recent[-1500:]
            bands = [("low", 0, 1), ("middle", 1, 12), ("high", 12, 100), ("highest", 100, 1000)]
            words = []
            for name, least, most in bands:
                of = [r for r in recent if least <= r[0] < most]
                words.append(f"{name} {np.mean([r[1] for r in of]):.3f} px" if of else f"{name} -")
            print(f"{spent:6.0f}s step {step} " + ", ".join(words), file=log)
        if spent > next_save:
            save()
            next_save += 60
    save()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 15)
