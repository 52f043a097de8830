#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Turns RIFE's flownet.pkl into safetensors, mostly in half precision, without what only training needs.

    convert.py flownet.pkl OUTPUT.safetensors [--origin TEXT]

The weights of `convblock` and `lastconv`, 93 % of all numbers, are rounded to the nearest that half precision has. The
others stay as they are: biases, `beta`, and the weights of `encode` and `conv0`, in which rounding was seen to change
frames by up to 3 of 255 where the motion is large. Left out are `teacher` and `caltime`, which the network never runs
when it interpolates, and `module.` before names. Needs PyTorch and safetensors.
"""

import argparse

import safetensors.torch
import torch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--origin", default="", help="what the file says of where it is from")
    arguments = parser.parse_args()
    state = torch.load(arguments.source, map_location="cpu", weights_only=True)
    tensors = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if name.split(".")[0] not in ("teacher", "caltime"):
            is_half = name.endswith("weight") and ("convblock" in name or "lastconv" in name)
            tensors[name] = (tensor.half() if is_half else tensor.float()).contiguous()
            if not tensors[name].isfinite().all():
                raise SystemExit(f"{name} has numbers that half precision can't hold")
    metadata = {"format": "pt"}
    if arguments.origin:
        metadata["origin"] = arguments.origin
    safetensors.torch.save_file(tensors, arguments.target, metadata)


if __name__ == "__main__":
    main()
