# SPDX-License-Identifier: MPL-2.0
"""Trains how content is fetched: `python train_fetch.py DIR [MINUTES]`.

From the keyframe's content and the motion of each place to the moved picture's content; as the last blocks of the network's
largest level do it, and the last two of the level below. There is no noise in it.
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
import device
import latent_code
import motion
import network
from latent_code import CONTENT, FACTOR, MOTION
from network import (BLOCKS, C, CENTRE, CLEAN, EDGE, EDGE_SIZE, EDGES, EXACT, GATES, KEPT, KEY, PLANE, PLANES, SCALARS, WIDTHS, signal,
                     spatial, wire, wire_smooth)

silu = torch.nn.functional.silu
RATE = 3e-4
SIZES = [((128, 96), 8, 0.45), ((96, 128), 8, 0.4), ((256, 160), 3, 0.15)]  # pixels, pictures, share of the steps
CELL = 2 * FACTOR  # px that share what the second level makes of the motion
UNITS = 32         # hidden numbers of its last block
SMALL = 0.3        # of differences in hidden channels


def both(x):
    """A number's two sides, (..., n) -> (..., 2 n)."""
    return torch.cat([silu(x), silu(-x)], -1)


class Planes(torch.nn.Module):
    """From a motion in px (..., 2) to PLANES numbers, as the last two blocks of the second level do it.

    All its numbers are there with their negatives, and beside constants, so that norms leave them as they are.
    """

    def __init__(self):
        super().__init__()
        sizes = ((MOTION, SCALARS), (2 * SCALARS, SCALARS), (2 * SCALARS, UNITS), (2 * UNITS, PLANES))
        self.layers = torch.nn.ModuleList(torch.nn.Linear(*n) for n in sizes)
        with torch.no_grad():
            self.layers[0].weight.mul_(6)
            self.layers[0].bias.mul_(6)
            self.layers[3].weight.mul_(4)

    def forward(self, moved):
        first, second, third, fourth = self.layers
        return fourth(both(third(both(second(both(first(moved / motion.FARTHEST)))))))


def seen_edges(edges, key):
    """Content at the edges (n, 4 * EDGES, h, w) as the first block of the way down finds it."""
    far = network.FAR
    where = key.new_zeros(4, *key.shape[2:])
    where[0, :, -1] = where[1, :, 0] = where[2, -1] = where[3, 0] = 1
    inside = far * (where.repeat(EDGES, 1, 1) - 1)
    threes = torch.stack([inside + edges, inside - edges, -2 * inside.expand_as(edges)], 2).flatten(1, 2)
    normed = torch.nn.functional.group_norm(threes, 4 * EDGES, eps=1e-5).unflatten(1, (4 * EDGES, 3))
    hidden = silu(normed * 2 ** 0.5 * far)
    return hidden[:, :, 0] - hidden[:, :, 1]


def seen_signals(pairs, size=1.0, together=2):
    """Two numbers a group (n, k, 2, h, w) beside constants, as a norm and silu leave them: nearly silu(size * numbers).

    A norm of the blocks' 192 channels takes two of these groups together, one of 96 channels each alone.
    """
    threes = torch.cat([pairs, torch.full_like(pairs[:, :, :1], C)], 2).flatten(1, 2)
    normed = torch.nn.functional.group_norm(threes, pairs.shape[1] // together, eps=1e-5).unflatten(1, (-1, 3))[:, :, :2]
    return silu((normed * (1393 / EXACT * C) + C / 3) * size)


class Block(torch.nn.Module):
    """A part of the way: what one residual block does, with the weights that are not 0 alone.

    Of each gate g there are two differences d, d', and hidden numbers (g + d, d' - g) in a group, (g - d, -d' - g) in the next.
    """

    def __init__(self):
        super().__init__()
        self.differences = torch.nn.Conv2d(CONTENT + 4 * EDGES, 2 * GATES, 3, padding=1, bias=False)
        self.gates = torch.nn.Conv2d(PLANES, GATES, 1)
        self.mixing = torch.nn.Conv2d(2 * GATES, CONTENT, 3, padding=1, bias=False)

    def forward(self, clean, edges, planes):
        sides = seen_signals(torch.stack([clean, -clean], 2))
        edges = seen_signals(edges.unflatten(1, (-1, 2)), EDGE_SIZE).flatten(1, 2)
        d = SMALL * self.differences(torch.cat([sides[:, :, 0] - sides[:, :, 1], edges], 1)).unflatten(1, (GATES, 1, 2))
        gates = self.gates(planes)
        gates = torch.stack([gates, -gates], 2)[:, :, None]
        hidden = seen_signals(torch.cat([gates + d, gates - d], 2).flatten(1, 2), together=1).unflatten(1, (GATES, 2))
        return clean + self.mixing((hidden[:, :, 0] - hidden[:, :, 1]).flatten(1, 2)) / SMALL


class Fetch(torch.nn.Module):
    """Content (n, 8, h, w) moved by motions in px (n, 2, h / 2, w / 2)."""

    def __init__(self):
        super().__init__()
        self.planes = Planes()
        self.blocks = torch.nn.ModuleList(Block() for _ in range(BLOCKS))

    def forward(self, key, moved):
        edges = key.new_zeros(len(key), EDGES, 4, *key.shape[2:])
        inner = key[:, :EDGES]
        edges[:, :, 0, :, -1], edges[:, :, 1, :, 0] = inner[..., -1], inner[..., 0]
        edges[:, :, 2, -1], edges[:, :, 3, 0] = inner[..., -1, :], inner[..., 0, :]
        edges = seen_edges(edges.flatten(1, 2), key)
        planes = self.planes(moved.movedim(1, -1)).movedim(-1, 1)
        planes = torch.nn.functional.interpolate(planes, size=key.shape[2:])
        for block in self.blocks:
            key = block(key, edges, planes)
        return key

    @torch.no_grad()
    def begin_with(self, linear):
        """Takes what `fit_fetch.py` found."""
        self.planes.load_state_dict({k.removeprefix("planes."): v for k, v in linear.items() if k.startswith("planes.")})
        both = torch.arange(2 * GATES).view(2, GATES).T.flatten()  # its two differences of a gate, one after the other
        for n, block in enumerate(self.blocks):
            differences, mixing = linear[f"differences.{n}"][both], linear[f"mixing.{n}"][:, both]
            size = (differences.square().sum((1, 2)) / mixing.square().sum((0, 2))).sqrt().sqrt()
            block.differences.weight.zero_()
            block.differences.weight[:, :CONTENT] = (differences / size[:, None, None]).unflatten(2, (3, 3))
            block.mixing.weight.copy_((mixing * size[:, None]).unflatten(2, (3, 3)))
            block.gates.weight.copy_(linear[f"gates.{n}.weight"][:, :, None, None])
            block.gates.bias.copy_(linear[f"gates.{n}.bias"])

    @torch.no_grad()
    def install(self, unet):
        """Writes the weights into the network's last blocks, and into the two of the level below."""
        first, second, third, fourth = self.planes.layers
        one, two = spatial(unet.up_blocks[-2])
        for unit in range(SCALARS):
            for k in range(MOTION):
                wire_smooth(one.conv1, signal(unit), k, first.weight[unit, k] * FACTOR / motion.FARTHEST)
        for k in range(MOTION):
            wire_smooth(one.conv1, signal(SCALARS + k), k, 1)
            wire(one.conv2, signal(k), signal(SCALARS + k), 1)
        # silu(x) - silu(-x) is x, and each alone is a side of it.
        for conv, layer, source, target in ((one.conv1, first, None, 0), (one.conv2, second, 0, MOTION), (two.conv1, third, MOTION, 0),
                                            (two.conv2, fourth, 0, MOTION)):
            count, inputs = layer.weight.shape
            for row in range(count):
                for off, sign in ((0, 1), (1, -1)):
                    channel = signal(target + row) + off
                    conv.bias[channel] = sign * layer.bias[row]
                    for column in range(inputs if source is not None else 0):
                        half = inputs // 2
                        place = signal(source + column % half) + column // half
                        conv.weight[(channel, place, *CENTRE)] = sign * layer.weight[row, column]
        skip = WIDTHS[0]
        for place, (own, block) in enumerate(zip(self.blocks, spatial(unet.up_blocks[-1]))):
            key, edges = (skip + signal(KEY), skip + signal(EDGE)) if place == 0 else (signal(CLEAN), signal(KEPT))
            for number in range(4 * GATES):
                gate, side, which = number // 4, 1 - number % 4 // 2 * 2, number % 2
                row, hidden = 2 * gate + which, signal(number // 2) + which
                for k in range(CONTENT):
                    block.conv1.weight[hidden, key + signal(k)] = side * SMALL * own.differences.weight[row, k]
                    block.conv1.weight[hidden, key + signal(k) + 1] = -side * SMALL * own.differences.weight[row, k]
                    for off, sign in ((0, 1), (1, -1)):
                        block.conv2.weight[signal(CLEAN + k) + off, hidden] = sign * side * own.mixing.weight[k, row] / SMALL
                for edge in range(4 * EDGES):
                    column = edges + signal(edge // 2) + edge % 2
                    block.conv1.weight[hidden, column] = side * SMALL * own.differences.weight[row, CONTENT + edge]
                block.conv1.bias[hidden] = (1 - 2 * which) * own.gates.bias[gate]
                for plane in range(PLANES):
                    wire(block.conv1, hidden, signal(PLANE + plane), (1 - 2 * which) * own.gates.weight[gate, plane, 0, 0], pair=False)


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
    return motion.direction(rng) * motion.MOST * rng.random() ** (3 if rng.random() < 0.25 else 1)


def some_field(rng, width, height):
    """The motion of a piece of a frame (height, width, 2): a pan, and most often it changes from place to place."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    place = np.stack([x - (width - 1) / 2, y - (height - 1) / 2], -1)
    turn, odd = rng.normal(0, 0.02, 2), rng.normal(0, 0.006, (2, 2))
    change = np.array([[turn[0], turn[1]], [-turn[1], turn[0]]]) + odd
    field = some_pan(rng) + (rng.random() < 0.7) * place @ change
    return (field * min(1, motion.MOST / np.linalg.norm(field, axis=-1).max())).astype(np.float32)


def batch(pyramids, code, run, rng, width, height, count):
    """Content latents of `count` keyframes and of the same moved, and the motions in px, for each CELL."""
    fields = [some_field(rng, width, height) for _ in range(count)]
    sources = [piece(pyramids, rng, width, height) for _ in range(count)]
    pictures = [s[motion.MARGIN:-motion.MARGIN, motion.MARGIN:-motion.MARGIN] for s in sources]
    pictures += [motion.moved(s, field) for s, field in zip(sources, fields)]
    pictures = torch.from_numpy(np.stack(pictures)).to(run.name).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    latents = latent_code.encode(code, pictures)
    cells = torch.from_numpy(np.stack([motion.cells(field, CELL) for field in fields])).permute(0, 3, 1, 2)
    return latents[:count], latents[count:], cells.to(run.name)


def detail(code, latents):
    """How much fine detail there is, 32x32 pixels each: the root mean square of the Laplacian of the linear decoder's grey."""
    grey = latent_code.decode(code, latents).mean(1, keepdim=True)
    inner = -4 * grey[..., 1:-1, 1:-1] + grey[..., 2:, 1:-1] + grey[..., :-2, 1:-1] + grey[..., 1:-1, 2:] + grey[..., 1:-1, :-2]
    return (torch.nn.functional.avg_pool2d(inner ** 2, 30, 32, ceil_mode=True) + 1e-4).sqrt()


@torch.no_grad()
def check(net, unet, key, sigma=0.3):
    """Raises if the network does not move a keyframe's content (1, 8, h, w) as it should: as `motion.field` says, and `net` does."""
    seen = {}
    keep = lambda name: lambda module, inputs: seen.__setitem__(name, inputs[0])
    hooks = [unet.up_blocks[-1].resnets[0].register_forward_pre_hook(keep("motion")),
             unet.conv_norm_out.register_forward_pre_hook(keep("clean"))]
    size, camera = (FACTOR * key.shape[3], FACTOR * key.shape[2]), np.array([0.5, -0.4, -0.6, 0.48])
    field = torch.from_numpy(motion.field(camera / np.linalg.norm(camera), 5.0, size)).permute(2, 0, 1)
    share = torch.linspace(0, 1, motion.FRAMES)[:, None, None, None]
    area = lambda factor: torch.nn.functional.avg_pool2d(share * field, factor)
    clip = torch.cat([net(key.expand(motion.FRAMES, -1, -1, -1), area(CELL)), area(FACTOR) / FACTOR * latent_code.MOTION_GAIN], 1)
    noisy = (clip + sigma * torch.randn_like(clip)) / (sigma ** 2 + 1) ** 0.5
    keyframe = torch.cat([key, torch.zeros(1, MOTION, *key.shape[2:])], 1).expand(motion.FRAMES, -1, -1, -1)
    unet(torch.cat([noisy, keyframe], 1)[None], torch.tensor([0.25 * np.log(sigma)]).float(), torch.zeros(1, 1, network.EMBEDDING),
         torch.tensor([[6.0, 5.0 / motion.REACH * 255, 0.02]]))
    for hook in hooks:
        hook.remove()
    number = lambda where, group: where[:, signal(group)]
    moved = torch.stack([number(seen["motion"], network.MOVED + k) for k in range(MOTION)], 1)[:, :, ::2, ::2] * FACTOR
    fetched = torch.stack([number(seen["clean"], CLEAN + k) for k in range(CONTENT)], 1)
    off = (fetched - net(key.expand(motion.FRAMES, -1, -1, -1), moved)).square().mean().sqrt().item()
    astray = (moved - area(CELL)).norm(dim=1).max().item()
    print(f"the network's fetching is off by {off:.4f}, its motion by {astray:.2f} px at most")
    assert off < 0.0015, "the network does not fetch as it was trained to"
    assert astray < 0.8, "the network's motion is not what it should be"


def main(root, minutes):
    torch.manual_seed(2)
    cv2.setNumThreads(1)
    run = device.Device()
    code = latent_code.load(root, run.name)
    pyramids = [data.pyramid(p) for p in data.load(os.path.join(root, "train")).values()]
    net = Fetch().to(run.name)
    kept = os.path.join(root, "fetch.pt")
    spent, step = 0.0, 0
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE, betas=(0.9, 0.99))
    if os.path.exists(kept):
        state = torch.load(kept, map_location=run.name)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        spent, step = state["spent"], state["step"]
    else:
        net.begin_with(torch.load(os.path.join(root, "linear.pt"), map_location=run.name)["net"])
    rng = np.random.default_rng([3, step])
    log = open(os.path.join(root, "fetch.log"), "a", buffering=1)
    before, next_save = time.time() - spent, spent + 60
    recent = []
    while (spent := time.time() - before) < minutes * 60:
        part = spent / (minutes * 60)
        for group in optimiser.param_groups:
            group["lr"] = float(RATE * min(1, (step + 1) / 100) * (0.5 * (1 + np.cos(np.pi * part)) + 0.02))
        (width, height), count, _ = SIZES[rng.choice(len(SIZES), p=[s[2] for s in SIZES])]
        key, moved, cells = batch(pyramids, code, run, rng, width, height, count)
        off = net(key, cells) - moved
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
    network.set_camera(unet)
    network.set_between(unet)
    network.fit_reach(unet)
    network.fit_frames(unet)
    network.fit_gains(unet)
    net.cpu().install(unet)
    check(net, unet, batch(pyramids, code, run, rng, 512, 288, 1)[0].cpu())
    unet.save_pretrained(os.path.join(root, "unet"))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 15)
