# SPDX-License-Identifier: MPL-2.0
"""Where training runs: a CUDA device if there is one, else as many threads of the CPU as OMP_NUM_THREADS says."""
import torch


class Device:
    """`name` for tensors, `scale`: how many times the CPU's batch it takes."""

    def __init__(self):
        cuda = torch.cuda.is_available()
        self.name = "cuda" if cuda else "cpu"
        self.scale = 8 if cuda else 1
        if cuda:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True

    def autocast(self):
        return torch.autocast(self.name, torch.bfloat16)
