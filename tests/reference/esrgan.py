# SPDX-License-Identifier: MPL-2.0
"""Reference answers for the Real-ESRGAN networks, from spandrel's modules: tests/fixtures/esrgan/.

    python tests/reference/esrgan.py

Three kinds of file:

  rrdb_*, srvgg_*  (safetensors) small networks with recipe weights. Metadata, each value JSON:
                     keys     [[name, shape], ...], the weights by basicsr's names, in basicsr's order
                     inputs   {name: shape}; the values are (recipe.sample(name, shape) + 1) / 2
                     arch     the facts that the network is built from
                     old_keys (of ESRGAN's other layouts) spandrel's names for the same, which are those of
                              ESRGAN's first code
                   The tensor `out.NAME` is the answer to the input NAME: float32, not clamped. A network
                   whose scale is 2 or 1 unshuffles its input by 2 or 4: a picture that does not divide is
                   first padded on the right and at the bottom (reflected, without repeating the edge), and
                   the answer is cropped to the picture's size times the scale, as RealESRGANer does.
  blend            (safetensors) a small SRVGGNetCompact between two sets of recipe weights, the second of
                   which has `wdn.` before the names that the recipe takes. `strengths` are the first one's
                   shares; the tensor `out.STRENGTH.NAME` is the answer.
  real_*           (safetensors) the networks in models/realesrgan, widened to float32, on photographs.
                     NAME.input   uint8 [h, w, 3], RGB; the network sees value / 255
                     NAME.float   float32 [1, 3, 4h, 4w], clamped to 0..1
                     NAME.output  uint8 [4h, 4w, 3], RGB, 255 times that, rounded
  *.pth            files for the loader: an RRDBNet with recipe weights (num_feat 4, num_block 1,
                   num_grow_ch 2; see TINY) as trainers store it, the state of a training without a network, a
                   TorchScript program, tensors that are views, and two hostile
                   files that try to run `touch /tmp/pwned`. Never load those two with weights_only=False.

  others.json      {network: tensor names} of networks that are no RRDBNet and no SRVGGNetCompact, by spandrel's
                   names of them; of names that differ in numbers alone, those whose first
                   number is up to 1 and whose others are up to 3

The photographs are scikit-image's: the astronaut (NASA, public domain), coffee (Rachel Michetti, CC0).
"""

import hashlib
import json
import os
import pathlib
import typing
from collections import Counter, OrderedDict

import numpy as np
import recipe
import safetensors.torch
import skimage.data
import spandrel
import torch
from spandrel.architectures.__arch_helpers import block
from spandrel.architectures.Compact import Compact
from spandrel.architectures.ESRGAN import ESRGAN
from torch.nn import functional

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/fixtures/esrgan"
INPUTS = {"even": (2, 3, 12, 8), "odd": (1, 3, 13, 10)}
SMALL_INPUTS = {"even": (1, 3, 4, 4), "odd": (1, 3, 3, 5)}  # for the larger scales
STRENGTHS = (0.0, 0.3, 0.75)
TINY = {"scale": 4, "num_feat": 4, "num_block": 1, "num_grow_ch": 2}


def rrdb_shapes(scale, num_feat, num_block, num_grow_ch, doublings=2, plus=False):
    """[(name, shape)] of basicsr's RRDBNet, in its order; as many conv_up as there are doublings."""
    convs = [("conv_first", num_feat, 3 * (2**doublings // scale) ** 2)]
    for b in range(num_block):
        for r in (1, 2, 3):
            for c in (1, 2, 3, 4, 5):
                out = num_grow_ch if c < 5 else num_feat
                convs.append((f"body.{b}.rdb{r}.conv{c}", out, num_feat + (c - 1) * num_grow_ch))
    ups = [f"conv_up{i + 1}" for i in range(doublings)]
    convs += [(name, num_feat, num_feat) for name in ("conv_body", *ups, "conv_hr")]
    convs.append(("conv_last", 3, num_feat))
    shapes = []
    for name, out, inside in convs:
        if plus and name.startswith("body.") and name.endswith("conv1"):
            shapes.append((f"{name}x1.weight", (out, inside, 1, 1)))
        shapes += [(f"{name}.weight", (out, inside, 3, 3)), (f"{name}.bias", (out,))]
    return shapes


def old_name(name, num_block, doublings=2):
    """The name that ESRGAN's first code gave the same tensor, which is also spandrel's."""
    fixed = {
        "conv_first": "model.0",
        "conv_body": f"model.1.sub.{num_block}",
        "conv_hr": f"model.{3 * doublings + 2}",
        "conv_last": f"model.{3 * doublings + 4}",
    }
    fixed |= {f"conv_up{i}": f"model.{3 * i}" for i in range(1, doublings + 1)}
    layer, role = name.rsplit(".", 1)
    if layer not in fixed:
        _, index, rdb, conv = layer.split(".")
        if conv == "conv1x1":
            return f"model.1.sub.{index}.{rdb.upper()}.{conv}.{role}"
        return f"model.1.sub.{index}.{rdb.upper()}.{conv}.0.{role}"
    return f"{fixed[layer]}.{role}"


def weights(shapes, before=""):
    return OrderedDict((name, torch.from_numpy(recipe.weight(before + name, shape))) for name, shape in shapes)


def rrdb(scale, num_feat, num_block, num_grow_ch, doublings=2, plus=False):
    unshuffle = 2**doublings // scale
    model = ESRGAN(
        in_nc=3 * unshuffle**2,
        num_filters=num_feat,
        num_blocks=num_block,
        scale=2**doublings,
        plus=plus,
        shuffle_factor=unshuffle if unshuffle > 1 else None,
    )
    for index in range(num_block):  # spandrel fixes the growth at 32
        model.model[1].sub[index] = block.RRDB(num_feat, gc=num_grow_ch, plus=plus)
    shapes = rrdb_shapes(scale, num_feat, num_block, num_grow_ch, doublings, plus)
    state = {old_name(name, num_block, doublings): tensor for name, tensor in weights(shapes).items()}
    model.load_state_dict(state)
    assert spandrel.architectures.ESRGAN._get_scale(state) == 2**doublings
    assert list(model.state_dict()) == list(state)
    return model.eval(), shapes


def srvgg(scale, num_feat, num_conv, act_type):
    model = Compact(num_feat=num_feat, num_conv=num_conv, upscale=scale, act_type=act_type)
    return model.eval(), recipe.fill(model)


def enhance(model, scale, picture):
    """Pads to what the unshuffle needs, runs the network, crops."""
    multiple = model.shuffle_factor or 1
    height, width = picture.shape[2:]
    padded = functional.pad(picture, (0, -width % multiple, 0, -height % multiple), "reflect")
    return model(padded)[:, :, : height * scale, : width * scale]


def sample(name, shape):
    return torch.from_numpy((recipe.sample(name, shape) + np.float32(1)) / np.float32(2))


def small(file, kind, **facts):
    model, shapes = {"RRDBNet": rrdb, "SRVGGNetCompact": srvgg}[kind](**facts)
    scale = facts["scale"]
    inputs = SMALL_INPUTS if "doublings" in facts else INPUTS
    tensors = {}
    for name, shape in inputs.items():
        picture = sample(name, shape)
        out = enhance(model, scale, picture) if kind == "RRDBNet" else model(picture)
        assert out.shape[2:] == (shape[2] * scale, shape[3] * scale)
        assert torch.allclose(out, model(picture), atol=1e-6), "spandrel's own padding disagrees"
        tensors[f"out.{name}"] = out.contiguous()
        print(f"{file} {name}: {tuple(out.shape)}, {out.min():.3f} to {out.max():.3f}, deviation {out.std():.3f}")
    metadata = {
        "keys": json.dumps([[name, list(shape)] for name, shape in shapes]),
        "inputs": json.dumps({name: list(shape) for name, shape in inputs.items()}),
        "arch": json.dumps({"architecture": kind, **facts}),
    }
    if "doublings" in facts:
        metadata["old_keys"] = json.dumps(list(model.state_dict()))
    safetensors.torch.save_file(tensors, OUT / f"{file}.safetensors", metadata)


def blend():
    """Between two networks, each tensor as RealESRGANer.dni computes it."""
    facts = {"scale": 4, "num_feat": 8, "num_conv": 3, "act_type": "prelu"}
    model, shapes = srvgg(**facts)
    first, second = weights(shapes), weights(shapes, "wdn.")
    tensors = {}
    for strength in STRENGTHS:
        state = {name: strength * first[name] + (1 - strength) * second[name] for name in first}
        model.load_state_dict(state)
        for name, shape in INPUTS.items():
            tensors[f"out.{strength}.{name}"] = out = model(sample(name, shape)).contiguous()
            print(f"blend {strength} {name}: {out.min():.3f} to {out.max():.3f}")
    metadata = {
        "keys": json.dumps(shapes),
        "inputs": json.dumps({name: list(shape) for name, shape in INPUTS.items()}),
        "arch": json.dumps({"architecture": "SRVGGNetCompact", **facts}),
        "strengths": json.dumps(STRENGTHS),
    }
    safetensors.torch.save_file(tensors, OUT / "blend.safetensors", metadata)


def to_bytes(picture):
    return (picture.clamp(0, 1)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()


def real(name):
    path = ROOT / "models/realesrgan" / f"{name}.safetensors"
    model = spandrel.ModelLoader("cpu").load_from_file(path).model.float().eval()
    pictures = {
        "coffee": skimage.data.coffee()[100:140, 240:288],
        "astronaut": skimage.data.astronaut()[100:127, 200:233],
    }
    tensors = {}
    for label, pixels in pictures.items():
        pixels = torch.from_numpy(np.ascontiguousarray(pixels))
        picture = pixels.permute(2, 0, 1)[None].float() / 255
        out = model(picture).clamp(0, 1)
        tensors[f"{label}.input"] = pixels
        tensors[f"{label}.float"] = out.contiguous()
        tensors[f"{label}.output"] = to_bytes(out)
        print(f"real_{name} {label}: {tuple(out.shape)}, {out.min():.3f} to {out.max():.3f}")
    metadata = {
        "weights": f"{name}.safetensors",
        "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "scale": "4",
    }
    safetensors.torch.save_file(tensors, OUT / f"real_{name}.safetensors", metadata)


def others():
    """The tensor names of spandrel's other networks for single pictures."""
    given = {
        "MMRealSR": {"num_in_ch": 3, "num_out_ch": 3},
        "SPAN": {"num_in_ch": 3, "num_out_ch": 3},
        "SAFMN": {"dim": 36},
        "Swin2SR": {"window_size": 8},
        "SwinIR": {"window_size": 8},
    }
    choices = {"PLKSR": ("PLKSR", "RealPLKSR"), "RealCUGAN": ("UpCunet2x",)}
    left_out = ("ESRGAN", "Compact", "KBNet", "IPT", "SAFMNBCIE", "AuraSR")
    listing = {}
    for support in spandrel.MAIN_REGISTRY.architectures():
        arch = support.architecture
        if arch.id in left_out:
            continue
        (model,) = typing.get_args(type(arch).__orig_bases__[0])
        models = {model.__name__: model}
        if arch.id in choices:
            models = {m.__name__: m for m in typing.get_args(model) if m.__name__ in choices[arch.id]}
        for name, model in models.items():
            few = []
            for tensor in model(**given.get(arch.id, {})).state_dict():
                numbers = [int(part) for part in tensor.split(".") if part.isdigit()]
                if all(number <= 1 for number in numbers[:1]) and all(number <= 3 for number in numbers):
                    few.append(tensor)
            listing[name if arch.id in choices else arch.id] = few
    (OUT / "others.json").write_text(json.dumps(listing, separators=(",", ":")) + "\n")


class Hostile:
    def __reduce__(self):
        return os.system, ("touch /tmp/pwned",)


def checkpoints():
    shapes = rrdb_shapes(**TINY)

    def state():
        """As a module's state_dict() comes: with the attribute `_metadata`, which pickle keeps."""
        values = weights(shapes)
        values._metadata = OrderedDict({"": {"version": 1}, "conv_first": {"version": 1}})
        return values

    old = OrderedDict((old_name(name, TINY["num_block"]), tensor) for name, tensor in weights(shapes).items())
    half = {name: tensor.half() for name, tensor in weights(shapes).items()}
    wrapped = {"epoch": 3, "state_dict": OrderedDict((f"module.{name}", tensor) for name, tensor in old.items())}
    training = {  # what basicsr stores beside a network, but for the numbers
        "epoch": 3,
        "iter": 4000,
        "optimizers": [{"state": {0: {"step": torch.tensor(4000.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}],
        "schedulers": [{"milestones": Counter({1000: 1}), "gamma": 0.5}],
    }
    hostile = {"params": {"conv_first.weight": Hostile()}}
    base = torch.from_numpy(recipe.weight("base", (6, 4)))
    views = {
        "base": base,  # one storage for the first four
        "transposed": base.t(),
        "rows": base[2:5],
        "columns": base[:, 1:3],
        "bfloat16": torch.from_numpy(recipe.weight("bfloat16", (5,))).bfloat16(),
        "double": torch.from_numpy(recipe.weight("double", (5,))).double(),
        "count": torch.tensor(7),  # int64, no dimension
        "parameter": torch.nn.Parameter(torch.from_numpy(recipe.weight("parameter", (5,)))),
    }
    for file, content, zipped in (
        ("zip_params_ema", {"params_ema": state()}, True),
        ("legacy_params", {"params": state()}, False),
        ("bare", half, True),
        ("old_esrgan", old, True),
        ("state_dict_module", wrapped, True),
        ("training", training, True),
        ("views", views, True),
        ("views_legacy", views, False),
        ("hostile", hostile, True),
        ("hostile_legacy", hostile, False),
    ):
        torch.save(content, OUT / f"{file}.pth", _use_new_zipfile_serialization=zipped)
    torch.jit.save(torch.jit.script(torch.nn.PReLU()), OUT / "script.pth")


if __name__ == "__main__":
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        for scale in (4, 2, 1):
            small(f"rrdb_x{scale}", "RRDBNet", scale=scale, num_feat=8, num_block=2, num_grow_ch=4)
        # ESRGAN's other layouts: the scale is 2^doublings over the unshuffle.
        for file, scale, doublings, plus in (
            ("up0_x1", 1, 0, False),
            ("up1_x2", 2, 1, False),
            ("up1_x1", 1, 1, False),
            ("up3_x8", 8, 3, False),
            ("up3_x4", 4, 3, False),
            ("up4_x16", 16, 4, False),
            ("plus_x4", 4, 2, True),
        ):
            facts = {"num_feat": 8, "num_block": 2, "num_grow_ch": 4, "doublings": doublings, "plus": plus}
            small(f"rrdb_{file}", "RRDBNet", scale=scale, **facts)
        blend()
        for scale, act_type in ((4, "prelu"), (2, "prelu"), (1, "prelu"), (3, "leakyrelu"), (2, "relu")):
            file = f"srvgg_x{scale}_{act_type}"
            small(file, "SRVGGNetCompact", scale=scale, num_feat=8, num_conv=3, act_type=act_type)
        real("realesr-animevideov3")
        real("RealESRGAN_x4plus_anime_6B")
    checkpoints()
    others()
