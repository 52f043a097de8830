# SPDX-License-Identifier: MPL-2.0
"""Trains how content is fetched: `python train_fetch.py DIR [MINUTES]`.

From the keyframe's content and a pan, told by a small network that stands in for the lower levels, to the moved
picture's content; as the last three blocks of the network's largest level do it. There is no noise in it.
Then the rest of the network is set (`network.py`). Reads DIR/train and DIR/code.pt, writes DIR/fetch.log, DIR/unet (diffusers
folder), and DIR/fetch.pt, from which an interrupted training goes on.
"""
import os
import sys
import time

import cv2
import numpy as np
import torch

import data
import latent_code
import motion
import network
from latent_code import CONTENT, FACTOR, LATENTS, MOTION
from network import C, CLEAN, EDGE, EDGE_SIZE, EDGES, EXACT, GATE_SIZE, GATES, KEY, LARGE, PLANES, THIRDS, WIDTHS, handed, signal

silu = torch.nn.functional.silu
RATE = 3e-4
SIZES = [((128, 96), 8, 0.45), ((96, 128), 8, 0.4), ((256, 160), 3, 0.15)]  # pixels, pictures, share of the steps
SCALARS = 29  # between the two blocks of the second level; the pan is there, too
SMALL = 0.02  # differences beside a companion of 1
SCALE, SHIFT = 1393 / 2048, 985 / 2048  # of a norm: where differences are 0, so is what it gives, in float16, too


def both(x):
    """A scalar's two sides, (..., n) -> (..., 2 n)."""
    return torch.cat([silu(x), silu(-x)], -1)


class Companions(torch.nn.Module):
    """From a pan in px (n, 2) to what divides the differences (n, GATES): as the last two blocks of the second level do it.

    All its numbers are there with their negatives, and beside constants, so that norms leave them as they are.
    """

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(*n) for n in ((2, 32), (64, SCALARS), (2 * SCALARS, 32), (64, GATES)))
        with torch.no_grad():
            self.layers[0].weight.mul_(6)
            self.layers[0].bias.mul_(6)

    def forward(self, pan):
        first, second, third, fourth = self.layers
        return fourth(both(third(both(second(both(first(pan / motion.FARTHEST)))))))


def seen_first(companions):
    """Companions as the first block's norm leaves them: (h, -h, h', -h', K, -K)."""
    pairs = companions.unflatten(1, (GATES // 2, 2))
    return (pairs / ((pairs / LARGE).square().sum(2, keepdim=True) + 1).sqrt()).flatten(1)


def seen_later(companions):
    """Companions as the later blocks' norm and nonlinearity leave them, and the first convolution mends them: nearly as they are."""
    threes = torch.nn.functional.pad(companions, (0, 2)).unflatten(1, (GATES // 2 + 1, 2))
    signs = torch.tensor([1.0, -1.0]).repeat(len(threes[0]) // 2).view(1, -1, 1).expand(len(threes), -1, -1)
    threes = torch.cat([threes, LARGE * signs], 2).flatten(1)
    normed = torch.nn.functional.group_norm(threes[:, :, None], len(threes[0]) // 6, eps=1e-5)[:, :, 0]
    seen = silu(normed / 3 ** 0.5 * LARGE * GATE_SIZE)
    fours = seen.unflatten(1, (GATES // 2 + 1, 3))[:, :, :2].reshape(len(companions), -1, 4)
    mended = (fours + 0.5 * fours.sum(2, keepdim=True)) * 2 / GATE_SIZE
    return mended.flatten(1)[:, :GATES]


def seen_edges(edges, key):
    """Content at the edges (n, 4 * EDGES, h, w) as the first block of the way down finds it."""
    far = network.FAR
    where = torch.zeros(4, *key.shape[2:])
    where[0, :, -1] = where[1, :, 0] = where[2, -1] = where[3, 0] = 1
    inside = far * (where.repeat(EDGES, 1, 1) - 1)
    threes = torch.stack([inside + edges, inside - edges, -2 * inside.expand_as(edges)], 2).flatten(1, 2)
    normed = torch.nn.functional.group_norm(threes, 4 * EDGES, eps=1e-5).unflatten(1, (4 * EDGES, 3))
    hidden = silu(normed * 2 ** 0.5 * far)
    return hidden[:, :, 0] - hidden[:, :, 1]


def seen_signals(pairs, size=1.0):
    """Pairs of signals (n, k, 2, h, w) beside constants, as a norm and silu leave them: nearly silu(size * signals)."""
    threes = torch.cat([pairs, torch.full_like(pairs[:, :, :1], C)], 2).flatten(1, 2)
    normed = torch.nn.functional.group_norm(threes, pairs.shape[1] // 2, eps=1e-5).unflatten(1, (-1, 3))[:, :, :2]
    return silu((normed * (1393 / EXACT * C) + C / 3) * size)


class Third(torch.nn.Module):
    """A third of the way: what one residual block does, with the weights that are not 0 alone."""

    def __init__(self):
        super().__init__()
        self.differences = torch.nn.Conv2d(CONTENT + 4 * EDGES, 2 * GATES, 3, padding=1)
        self.mixing = torch.nn.Conv2d(2 * GATES, CONTENT, 3, padding=1)

    def forward(self, clean, edges, companions):
        sides = seen_signals(torch.stack([clean, -clean], 2))
        edges = seen_signals(edges.unflatten(1, (-1, 2)), EDGE_SIZE).flatten(1, 2)
        d = SMALL * self.differences(torch.cat([sides[:, :, 0] - sides[:, :, 1], edges], 1))
        companions = companions[:, :, None, None].expand(-1, -1, *d.shape[2:])
        threes = torch.cat([d.unflatten(1, (GATES, 2)), companions[:, :, None]], 2).flatten(1, 2)
        normed = torch.nn.functional.group_norm(threes, GATES, eps=1e-5).unflatten(1, (GATES, 3))[:, :, :2].flatten(1, 2)
        return clean + self.mixing(silu(normed * SCALE + SHIFT) / SMALL)


class Fetch(torch.nn.Module):
    """Content (n, 8, h, w) moved by pans in px (n, 2)."""

    def __init__(self):
        super().__init__()
        self.companions = Companions()
        self.thirds = torch.nn.ModuleList(Third() for _ in range(THIRDS))

    def forward(self, key, pan, noise=0.0):
        edges = torch.zeros(len(key), EDGES, 4, *key.shape[2:])
        inner = key[:, :EDGES]
        edges[:, :, 0, :, -1], edges[:, :, 1, :, 0] = inner[..., -1], inner[..., 0]
        edges[:, :, 2, -1], edges[:, :, 3, 0] = inner[..., -1, :], inner[..., 0, :]
        edges = seen_edges(edges.flatten(1, 2), key)
        companions = self.companions(pan)
        companions = companions * (1 + noise * torch.randn_like(companions))
        first, middle, last = self.thirds
        later = seen_later(companions)
        return last(middle(first(key, edges, seen_first(companions)), edges, later), edges, later)

    @torch.no_grad()
    def begin_with(self, linear):
        """Takes what `fit_fetch.py` found; scaled so that differences stay small beside their companions."""
        self.companions.load_state_dict({k.removeprefix("companions."): v for k, v in linear.items() if k.startswith("companions.")})
        for n, third in enumerate(self.thirds):
            differences, mixing = linear[f"differences.{n}"], linear[f"mixing.{n}"]
            size = (differences.square().sum((1, 2)) / mixing.square().sum((0, 2))).sqrt().sqrt()
            third.differences.weight.zero_()
            third.differences.weight[:, :CONTENT] = (differences / size[:, None, None]).unflatten(2, (3, 3))
            third.differences.bias.zero_()
            third.mixing.weight.copy_((mixing * size[:, None] / (SCALE * 0.5 * 3 / 2 ** 0.5)).unflatten(2, (3, 3)))
            third.mixing.bias.zero_()

    @torch.no_grad()
    def install(self, unet):
        """Writes the weights into the network's last three blocks, and into the two of the level below."""
        network.set_pairs(unet)
        layers = self.companions.layers
        below = [r.spatial_res_block for r in unet.up_blocks[-2].resnets]
        for block, before, after, scale in ((below[0], layers[0], layers[1], FACTOR / motion.FARTHEST), (below[1], layers[2], layers[3], 1)):
            sources = range(MOTION) if block is below[0] else range(MOTION, MOTION + SCALARS)
            for unit in range(32):
                for off, sign in ((0, 1), (1, -1)):
                    # silu(x) - silu(-x) is x, and each alone is a side of it.
                    for column, source in enumerate(sources):
                        for side, flip in ((0, 1), (1, -1)):
                            weight = flip * scale * before.weight[unit, column] if block is below[0] else before.weight[
                                unit, column + side * SCALARS]
                            block.conv1.weight[3 * unit + off, 3 * source + side, 1, 1] = sign * weight
                    block.conv1.bias[3 * unit + off] = sign * before.bias[unit]
                for target in range(len(after.bias)):
                    for side in (0, 1):
                        weight = after.weight[target, unit + 32 * side]
                        for column, sign in network.pair_of(block is below[0], target):
                            block.conv2.weight[column, 3 * unit + side, 1, 1] = sign * weight
            for target in range(len(after.bias)):
                for column, sign in network.pair_of(block is below[0], target):
                    block.conv2.bias[column] = sign * after.bias[target]
        skip = WIDTHS[1]
        for place, (third, resnet) in enumerate(zip(self.thirds, unet.up_blocks[-1].resnets)):
            block, is_first = resnet.spatial_res_block, place == 0
            key, edge = (skip + signal(KEY), skip + signal(EDGE)) if is_first else (signal(CLEAN), signal(LATENTS))
            block.norm2.weight[:3 * GATES], block.norm2.bias[:3 * GATES] = SCALE, SHIFT
            for row in range(2 * GATES):
                hidden = 3 * (row // 2) + row % 2
                for k in range(CONTENT):
                    block.conv1.weight[hidden, key + 3 * k] = SMALL * third.differences.weight[row, k]
                    block.conv1.weight[hidden, key + 3 * k + 1] = -SMALL * third.differences.weight[row, k]
                    for off, sign in ((0, 1), (1, -1)):
                        block.conv2.weight[signal(CLEAN + k) + off, hidden] = sign * third.mixing.weight[k, row] / SMALL
                for number in range(4 * EDGES):
                    column = edge + signal(number // 2) + number % 2
                    block.conv1.weight[hidden, column] = SMALL * third.differences.weight[row, CONTENT + number]
                block.conv1.bias[hidden] = SMALL * third.differences.bias[row]
            for k in range(CONTENT):
                for off, sign in ((0, 1), (1, -1)):
                    block.conv2.bias[signal(CLEAN + k) + off] = sign * third.mixing.bias[k]
            for gate in range(GATES):
                if is_first:
                    block.conv1.weight[3 * gate + 2, handed(gate), 1, 1] = 1
                    block.conv1.weight[3 * gate + 2, handed(gate) + 1, 1, 1] = -1
                else:
                    for other in range(gate // 4 * 4, gate // 4 * 4 + 4):
                        column = signal(PLANES + other // 2) + other % 2
                        block.conv1.weight[3 * gate + 2, column, 1, 1] = (1.5 if other == gate else 0.5) * 2 / GATE_SIZE


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
    if rng.random() < 0.2:
        piece = piece[::-1]
    if rng.random() < 0.5:
        gain, shift = rng.uniform(0.85, 1.15, 3) * rng.uniform(0.8, 1.1), rng.uniform(-30, 30)
        piece = np.clip(piece * gain + shift, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(piece)


def piece(pyramids, rng, width, height):
    found = None
    while found is None:
        found = window(pyramids[rng.integers(len(pyramids))], rng, width, height)
    return found


def some_pan(rng):
    """A pan in px; often a short one, for a clip's first frames go nowhere."""
    return motion.direction(rng) * motion.FARTHEST * rng.random() ** (3 if rng.random() < 0.25 else 1)


def batch(pyramids, code, rng, width, height, count):
    """Content latents of `count` keyframes and of the same after a pan, and the pans in px."""
    pans = np.stack([some_pan(rng) for _ in range(count)])
    sources = [piece(pyramids, rng, width, height) for _ in range(count)]
    pictures = [motion.shifted(s, (0, 0)) for s in sources] + [motion.shifted(s, p) for s, p in zip(sources, pans)]
    pictures = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    latents = latent_code.encode(code, pictures)
    return latents[:count], latents[count:], torch.from_numpy(pans).float()


def detail(code, latents):
    """How much fine detail there is, 32x32 pixels each: the root mean square of the Laplacian of the linear decoder's grey."""
    grey = latent_code.decode(code, latents).mean(1, keepdim=True)
    inner = -4 * grey[..., 1:-1, 1:-1] + grey[..., 2:, 1:-1] + grey[..., :-2, 1:-1] + grey[..., 1:-1, 2:] + grey[..., 1:-1, :-2]
    return (torch.nn.functional.avg_pool2d(inner ** 2, 30, 32, ceil_mode=True) + 1e-4).sqrt()


@torch.no_grad()
def check(net, unet, key, sigma=0.3):
    """Raises if what the network fetches for a keyframe's content (1, 8, h, w) is not what `net` does for the same pans."""
    seen = {}
    keep = lambda name: lambda module, inputs: seen.__setitem__(name, inputs[0])
    hooks = [unet.up_blocks[-1].resnets[0].register_forward_pre_hook(keep("pans")), unet.conv_norm_out.register_forward_pre_hook(keep("clean"))]
    still = lambda pans: pans[:, :, None, None].expand(-1, -1, *key.shape[2:])
    pans = torch.linspace(0, 1, motion.FRAMES)[:, None] * torch.tensor([[4.2, 3.3]])
    clip = torch.cat([net(key.expand(motion.FRAMES, -1, -1, -1), pans), still(pans / FACTOR * latent_code.MOTION_GAIN)], 1)
    noisy = (clip + sigma * torch.randn_like(clip)) / (sigma ** 2 + 1) ** 0.5
    keyframe = torch.cat([key, still(torch.zeros(1, MOTION))], 1).expand(motion.FRAMES, -1, -1, -1)
    bucket = float(pans[-1].norm()) / motion.REACH * 255
    unet(torch.cat([noisy, keyframe], 1)[None], torch.tensor([0.25 * np.log(sigma)]).float(), torch.zeros(1, 1, network.EMBEDDING),
         torch.tensor([[6.0, bucket, 0.02]]))
    for hook in hooks:
        hook.remove()
    pans = seen["pans"][:, [0, 2]].mean((2, 3)) * FACTOR
    fetched = torch.stack([seen["clean"][:, signal(CLEAN + k)] for k in range(CONTENT)], 1)
    off = (fetched - net(key.expand(motion.FRAMES, -1, -1, -1), pans)).square().mean().sqrt().item()
    print(f"the network's fetching is off by {off:.4f}")
    assert off < 0.0015, "the network does not fetch as it was trained to"


def main(root, minutes):
    torch.manual_seed(2)
    cv2.setNumThreads(1)
    code = latent_code.load(root)
    pyramids = [data.pyramid(p) for p in data.load(os.path.join(root, "train")).values()]
    net = Fetch()
    kept = os.path.join(root, "fetch.pt")
    spent, step = 0.0, 0
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE, betas=(0.9, 0.99))
    if os.path.exists(kept):
        state = torch.load(kept)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        spent, step = state["spent"], state["step"]
    else:
        net.begin_with(torch.load(os.path.join(root, "linear.pt")))
    rng = np.random.default_rng([3, step])
    log = open(os.path.join(root, "fetch.log"), "a", buffering=1)
    before, next_save = time.time() - spent, spent + 60
    recent = []
    while (spent := time.time() - before) < minutes * 60:
        part = spent / (minutes * 60)
        for group in optimiser.param_groups:
            group["lr"] = float(RATE * min(1, (step + 1) / 100) * (0.5 * (1 + np.cos(np.pi * part)) + 0.02))
        (width, height), count, _ = SIZES[rng.choice(len(SIZES), p=[s[2] for s in SIZES])]
        key, moved, pans = batch(pyramids, code, rng, width, height, count)
        off = net(key, pans, 0.005) - moved
        loss = (off ** 2).mean() + 0.03 * off.abs().mean() + 0.1 * (detail(code, moved + off) - detail(code, moved)).abs().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1)
        optimiser.step()
        step += 1
        inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))
        recent.append([(off ** 2).mean().item(), ((key - moved) ** 2).mean().item(), (off[inner] ** 2).mean().item(),
                       ((key - moved)[inner] ** 2).mean().item()])
        if step % 50 == 0:
            a = np.mean(recent[-200:], 0)
            print(f"{spent:6.0f}s step {step} warp {a[0] / a[1]:.4f} inside {a[2] / a[3]:.4f}", file=log)
        if spent > next_save:
            torch.save({"net": net.state_dict(), "optimiser": optimiser.state_dict(), "spent": spent, "step": step}, kept)
            next_save += 60
    torch.save({"net": net.state_dict(), "optimiser": optimiser.state_dict(), "spent": spent, "step": step}, kept)
    unet = network.build()
    network.start(unet)
    network.set_pan(unet)
    network.fit_reach(unet)
    network.fit_gains(unet)
    net.install(unet)
    check(net, unet, batch(pyramids, code, rng, 256, 160, 1)[0])
    unet.save_pretrained(os.path.join(root, "unet"))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 15)
