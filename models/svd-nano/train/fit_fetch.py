# SPDX-License-Identifier: MPL-2.0
"""Finds where the training of `train_fetch.py` begins: `python fit_fetch.py DIR [MINUTES]`.

While differences are small beside their gates, fetching is linear in the keyframe's content:

  B(motion) = 1 + sum over gates of  mixing * differences * 2 silu'(gate(motion))    for each of the blocks

What it gets wrong in the mean square then follows from two things alone: the code, and the covariance of the photographs' pixels
at every distance. So no step needs a picture: the error of a motion, the same all over the frame, is a sum over frequencies of small
matrices' products. Edges, motion that changes from place to place, the nonlinearity, and how sharp it is are left to `train_fetch.py`.

Reads DIR/train and DIR/code.pt, writes DIR/linear.log and DIR/linear.pt, from which an interrupted fit goes on.
"""
import math
import os
import sys
import time

import numpy as np
import torch

import data
import device
import latent_code
import motion
from latent_code import CONTENT, FACTOR
from network import BLOCKS, GATES, PLANES
from train_fetch import Planes, piece, some_pan

RATE = 4e-3
SEEN = 2 * BLOCKS         # latent px around a place that the blocks see
AROUND = 4 * SEEN + 1     # latent px; covariances of what they see fit in, without wrapping around
FAR = 80                  # px up to which pixels' covariance is taken
PIECES, SIZE = 10000, (192, 128)
PANS, SOME = 480, 32      # pans in all, and in each step
NOISE = 0.01              # in the keyframe's content


def pixel_covariance(pyramids, middle, rng):
    """(3, 3, 2 FAR + 1, 2 FAR + 1): the mean of x(place + distance) * y(place), without the code's mean colour."""
    width, height = SIZE
    size = height + 128, width + 128
    spectrum = lambda x: torch.fft.rfft2(x, size)
    around = lambda x: torch.roll(torch.fft.irfft2(x, size), (FAR, FAR), (-2, -1))[..., :2 * FAR + 1, :2 * FAR + 1]
    total = torch.zeros(3, 3, 2 * FAR + 1, 2 * FAR + 1, dtype=torch.double)
    for _ in range(PIECES):
        picture = torch.from_numpy(piece(pyramids, rng, width, height)[motion.MARGIN:-motion.MARGIN, motion.MARGIN:-motion.MARGIN])
        x = spectrum(picture.permute(2, 0, 1).float() / 127.5 - 1 - middle)
        total += around(x[:, None] * x[None].conj())
    total /= PIECES * around(spectrum(torch.ones(height, width)).abs() ** 2).clamp(min=1)
    return (0.5 * (total + total.flip(2, 3).transpose(0, 1))).float()  # of pictures and of the same, turned by 180 degrees


def lanczos(shift):
    """Where a shifted pixel's sum begins, and its weights: as `motion.moved` does it."""
    whole = math.floor(shift)
    x = np.round((shift - whole) * 32) / 32 - np.arange(-3, 5)
    weights = np.sinc(x) * np.sinc(x / 4)
    return whole - 3, weights / weights.sum()


class Problem:
    """The errors of fetching for pans in px (n, 2), by kernels that are given in frequencies: (frequencies, n, 8, 8)."""

    def __init__(self, code, pixels, pans, device):
        encode = code["encode"].view(CONTENT, 3, FACTOR, FACTOR)
        # The covariance of content with content some px away; of pixels with content on the way there.
        half = torch.nn.functional.conv2d(pixels.transpose(0, 1), encode)
        content = torch.nn.functional.conv2d(half.transpose(0, 1), encode.flip(2, 3))
        zero = FAR - (FACTOR - 1)
        at = lambda rows, columns: content[:, :, zero + np.asarray(rows)][..., zero + np.asarray(columns)]
        spots = np.arange(-2 * SEEN, 2 * SEEN + 1)  # latent px
        still = torch.roll(at(FACTOR * spots, FACTOR * spots), (-2 * SEEN, -2 * SEEN), (2, 3))
        still[:, :, 0, 0] += NOISE ** 2 * torch.eye(CONTENT)
        self.still = torch.fft.rfft2(still).flatten(2).permute(2, 0, 1).contiguous()
        # A sum over frequencies as `rfft2` gives them: all but the first column stand for two.
        twice = torch.full((AROUND, AROUND // 2 + 1), 2.0)
        twice[:, 0] = 1
        self.share = twice.flatten() / AROUND ** 2
        self.phases = {size: self.phase(size) for size in (1, SEEN)}
        self.pans = torch.from_numpy(np.asarray(pans)).float()
        # The covariance of moved content with the keyframe's around it, and the moved content's own.
        spots, steps, moved, power = np.arange(-SEEN, SEEN + 1), np.arange(8), [], []
        around = at(np.arange(-7, 8), np.arange(-7, 8)).diagonal(dim1=0, dim2=1).sum(2)
        for pan in pans:
            (left, across), (top, down) = lanczos(pan[0]), lanczos(pan[1])
            rows, columns = ((first + steps - FACTOR * spots[:, None]).ravel() for first in (top, left))
            near = at(rows, columns).view(CONTENT, CONTENT, len(spots), 8, len(spots), 8)
            moved.append(torch.einsum("abysxt,s,t->abyx", near, *(torch.from_numpy(w).float() for w in (down, across))).flatten(2))
            weights = np.outer(np.correlate(down, down, "full"), np.correlate(across, across, "full"))
            power.append((around * torch.from_numpy(weights)).sum())
        self.moved = (torch.stack(moved).to(torch.complex64) @ self.phases[SEEN]).permute(3, 0, 1, 2).contiguous()
        self.power = torch.stack(power).float()
        for name in ("still", "share", "pans", "moved", "power"):
            setattr(self, name, getattr(self, name).to(device))
        self.phases = {size: phases.to(device) for size, phases in self.phases.items()}
        self.standing = self.errors(self.unmoved().expand(-1, len(pans), -1, -1), slice(None))

    def phase(self, size):
        """What a place of a kernel (2 size + 1, 2 size + 1) contributes to the frequencies."""
        place = torch.arange(-size, size + 1.0)
        y = place[:, None, None, None] * torch.arange(AROUND)[None, None, :, None]
        x = place[None, :, None, None] * torch.arange(AROUND // 2 + 1)[None, None, None]
        return torch.exp(-2j * math.pi / AROUND * (y + x)).flatten(2).flatten(0, 1)

    def unmoved(self):
        return torch.eye(CONTENT, dtype=torch.complex64, device=self.share.device).expand(len(self.share), 1, -1, -1)

    def kernels(self, gates, blocks):
        """Of blocks' gates (n, 2 GATES), differences (2 GATES, 8, 9) and mixing (8, 2 GATES, 9), one after another."""
        together = None
        for gate, (differences, mixing) in zip(gates, blocks):
            before, after = ((x.to(torch.complex64) @ self.phases[1]).permute(2, 0, 1) for x in (differences, mixing.transpose(0, 1)))
            parts = torch.view_as_real(after[..., None] * before[:, :, None]).flatten(2)
            block = torch.view_as_complex((gate @ parts).unflatten(2, (CONTENT, CONTENT, 2))) + self.unmoved()
            together = block if together is None else block @ together
        return together

    def errors(self, kernels, which):
        """Mean square errors (n,) of kernels for the pans `which`."""
        square = (kernels.conj().flatten(1, 2) @ self.still).view_as(kernels) * kernels
        return ((square - 2 * kernels.conj() * self.moved[:, which]).sum((2, 3)).real * self.share[:, None]).sum(0) + self.power[which]


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.planes = Planes()
        self.gates = torch.nn.ModuleList(torch.nn.Linear(PLANES, GATES) for _ in range(BLOCKS))
        with torch.no_grad():
            for gate in self.gates:
                gate.weight.mul_(2)
                gate.bias.normal_()
        some = lambda size, *shape: torch.nn.Parameter(size * (2 * torch.rand(shape) - 1))
        self.differences = torch.nn.ParameterList(some(1 / 72 ** 0.5, 2 * GATES, CONTENT, 9) for _ in range(BLOCKS))
        self.mixing = torch.nn.ParameterList(some(0.1 / (18 * GATES) ** 0.5, CONTENT, 2 * GATES, 9) for _ in range(BLOCKS))

    def forward(self, problem, which):
        planes = self.planes(problem.pans[which])
        both = [torch.cat([gate(planes), -gate(planes)], 1) for gate in self.gates]
        slopes = [2 * torch.sigmoid(g) * (1 + g * torch.sigmoid(-g)) for g in both]
        return problem.kernels(slopes, zip(self.differences, self.mixing))


def main(root, minutes):
    torch.manual_seed(1)
    run, kept = device.Device(), os.path.join(root, "linear.pt")
    net = Linear().to(run.name)
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE, betas=(0.9, 0.99))
    spent, step = 0.0, 0
    if os.path.exists(kept):
        state = torch.load(kept, map_location=run.name)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        spent, step = state["spent"], state["step"]
    if spent >= minutes * 60:
        return
    code, rng = latent_code.load(root), np.random.default_rng(3)
    pyramids = [data.pyramid(p) for p in data.load(os.path.join(root, "train")).values()]
    pixels = pixel_covariance(pyramids, code["middle"].view(3, -1).mean(1)[:, None, None], rng)
    problem, unseen = (Problem(code, pixels, [some_pan(rng) for _ in range(count)], run.name) for count in (PANS, 96))
    weights = (problem.standing + 0.05) ** -0.5
    rng = np.random.default_rng([4, step])
    log = open(os.path.join(root, "linear.log"), "a", buffering=1)
    save = lambda: torch.save({"net": net.state_dict(), "optimiser": optimiser.state_dict(), "spent": spent, "step": step}, kept)
    before, next_save = time.time() - spent, spent + 60
    while (spent := time.time() - before) < minutes * 60:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * (0.5 * (1 + math.cos(math.pi * spent / (minutes * 60))) + 0.005)
        which = torch.from_numpy(rng.choice(PANS, SOME, replace=False)).to(run.name)
        kernels = net(problem, which)
        loss = (weights[which] * problem.errors(kernels, which)).mean() / (weights * problem.standing).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
        if step % 100 == 0:
            with torch.no_grad():
                kernels = net(unseen, slice(None))
                left = unseen.errors(kernels, slice(None)).sum() / unseen.standing.sum()
            print(f"{spent:6.0f}s step {step} of standing still's error is left {left:.4f}", file=log)
        if spent > next_save:
            save()
            next_save = spent + 60
    save()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 22)
