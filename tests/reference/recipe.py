# SPDX-License-Identifier: MPL-2.0
"""Reproducible pseudo-random tensors, so that fixtures hold answers and no weights.

A tensor's values follow from its name and shape alone. `tests/common/recipe.rs` computes the same
values bit for bit, so the reference implementation and the engine run on equal weights and inputs.

    seed    FNV-1a (64 bit) of the name's UTF-8 bytes
    bits_i  splitmix64's output for the state seed + (i + 1) * 0x9E3779B97F4A7C15
    v_i     (bits_i >> 40) / 2^23 - 1, in [-1, 1)

A weight scales v by its role:

    two or more dimensions      v * sqrt(3 / fan_in), fan_in the product of all dimensions but the first
    one dimension, `*.weight`   1 + 0.1 v (a norm's gain)
    `*mix_factor`               v
    anything else               0.1 v (a bias)

An input is v itself, in [-1, 1).
"""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniform(name, shape):
    """float64 values in [-1, 1) for `name`, in row-major order."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0).reshape(shape)


def weight(name, shape):
    """The float32 weight called `name`."""
    v = uniform(name, shape)
    if len(shape) >= 2:
        v = v * np.sqrt(3.0 / float(np.prod(shape[1:], dtype=np.int64)))
    elif name.endswith(".weight"):
        v = 1.0 + 0.1 * v
    elif not name.endswith("mix_factor"):
        v = 0.1 * v
    return v.astype(np.float32)


def sample(name, shape):
    """The float32 input called `name`, in [-1, 1)."""
    return uniform(name, shape).astype(np.float32)


def fill(module):
    """Gives every parameter of a torch module its weight by its own name; returns [(name, shape)] in state-dict order."""
    import torch

    listing = []
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            shape = tuple(tensor.shape)
            tensor.copy_(torch.from_numpy(weight(name, shape)))
            listing.append((name, list(shape)))
    return listing
