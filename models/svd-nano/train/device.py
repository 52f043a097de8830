# SPDX-License-Identifier: MPL-2.0
"""Where training runs: a CUDA device if there is one, else as many threads of the CPU as OMP_NUM_THREADS says."""
import torch


class Device:
    """`name` for tensors, `scale`: how many times the CPU's batch it takes."""

    def __init__(self):
        cuda = torch.cuda.is_available()
        self.name = "cuda" if cuda else "cpu"
        self.scale = 8 if cuda else 1

    def autocast(self):
        return torch.autocast(self.name, torch.bfloat16)


@torch.no_grad()
def save(network, params, weights, folder):
    """Writes a network's folder with `weights` in the place of its `params`, which stay as they are."""
    own = [p.detach().clone() for p in params]
    for p, w in zip(params, weights):
        p.copy_(w)
    network.save_pretrained(folder)
    for p, w in zip(params, own):
        p.copy_(w)
