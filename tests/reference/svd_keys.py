#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Makes tests/fixtures/svd/sgm_keys.json: what a Stable Video Diffusion model's tensors are called by diffusers and in
the layout of Stability AI's own code, and proves it.

    python tests/reference/svd_keys.py GENERATIVE_MODELS

GENERATIVE_MODELS is a checkout of Stability AI's repository of this name. It needs `einops` and `open_clip_torch` besides
what requirements.txt lists, and is not run with the other scripts: its answer changes with the layout only.

The proof: small networks of Stability's code get random weights, diffusers' and transformers' networks get the same ones
by the names that are written down, and both must compute the same. The lists for the full sizes come from the same
rules, and must name every tensor of diffusers' full-size networks exactly once.

The file is {"full": {"unet": [row, ...], "vae": ..., "image_encoder": ...}, "small": {"unet": ...}}; a row is
[diffusers' path, Stability's path, ends, part]. The ends, with spaces between them, complete both paths to names: a dot
comes before each, except before one that is empty. The part says what of Stability's tensor it is: "" all, "0" to "2"
a third of its rows, "T" its transpose, "M" the matrix of a convolution of 1 x 1.
"""

import importlib
import json
import os
import re
import sys
import types

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

FIXTURE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "svd", "sgm_keys.json")
UNET, FIRST_STAGE = "model.diffusion_model.", "first_stage_model."
TOWER = "conditioner.embedders.0.open_clip.model.visual."


def stability(folder):
    """The modules of Stability's networks, without the packages that its trainer needs."""
    for name in ("sgm", "sgm.modules", "sgm.modules.autoencoding"):
        package = types.ModuleType(name)
        package.__path__ = [os.path.join(folder, *name.split("."))]
        sys.modules[name] = package
    names = ("diffusionmodules.video_model", "autoencoding.temporal_ae", "diffusionmodules.model")
    return [importlib.import_module("sgm.modules." + name) for name in names]


# Rules, from Stability's names to diffusers'.

RES_BLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def res_block(name):
    for old, new in RES_BLOCK.items():
        name = re.sub(rf"^{re.escape(old)}\b", new, name)
    return name


def resnet(name):
    if name.startswith("time_mixer"):
        return name
    if name.startswith("time_stack."):
        return "temporal_res_block." + res_block(name.removeprefix("time_stack."))
    return "spatial_res_block." + res_block(name)


def attention(name):
    name = re.sub(r"^time_stack\b", "temporal_transformer_blocks", name)
    return re.sub(r"^time_pos_embed\.([02])", lambda m: f"time_pos_embed.linear_{int(m[1]) // 2 + 1}", name)


def unet_name(name, layers, levels):
    for pattern, new in (
        (r"time_embed\.0", "time_embedding.linear_1"),
        (r"time_embed\.2", "time_embedding.linear_2"),
        (r"label_emb\.0\.0", "add_embedding.linear_1"),
        (r"label_emb\.0\.2", "add_embedding.linear_2"),
        (r"input_blocks\.0\.0", "conv_in"),
        (r"out\.0", "conv_norm_out"),
        (r"out\.2", "conv_out"),
    ):
        if re.match(pattern + r"\.(weight|bias)$", name):
            return re.sub("^" + pattern, new, name)
    block, rest = name.split(".", 1)
    index, part, rest = rest.split(".", 2) if block != "middle_block" else ("0", *rest.split(".", 1))
    if block == "middle_block":
        return "mid_block." + {
            "0": "resnets.0." + resnet(rest),
            "1": "attentions.0." + attention(rest),
            "2": "resnets.1." + resnet(rest),
        }[part]
    # Each level has its layers and, but for the last one down, something that halves; one layer more on the way up.
    at = int(index) - (1 if block == "input_blocks" else 0)
    level, layer = divmod(at, layers + 1)
    assert level < levels
    path = ("down_blocks" if block == "input_blocks" else "up_blocks") + f".{level}."
    if rest.startswith("op."):
        return path + "downsamplers.0.conv." + rest.removeprefix("op.")
    if rest.startswith("conv."):
        return path + "upsamplers.0." + rest
    return path + (f"resnets.{layer}." + resnet(rest) if part == "0" else f"attentions.{layer}." + attention(rest))


def vae_name(name, levels):
    half, name = name.split(".", 1)
    name = name.replace("conv_out.time_mix_conv", "time_conv_out").replace("norm_out", "conv_norm_out")
    name = re.sub(r"^down\.(\d+)\.block\.", r"down_blocks.\1.resnets.", name)
    name = re.sub(r"^down\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0.", name)
    name = re.sub(r"^up\.(\d+)\.", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.", name)
    name = re.sub(r"^(up_blocks\.\d+)\.block\.", r"\1.resnets.", name)
    name = re.sub(r"^(up_blocks\.\d+)\.upsample\.", r"\1.upsamplers.0.", name)
    name = re.sub(r"^mid\.block_(\d+)\.", lambda m: f"mid_block.resnets.{int(m[1]) - 1}.", name)
    name = name.replace("nin_shortcut", "conv_shortcut")
    if name.startswith("mid.attn_1."):
        name = name.replace("mid.attn_1.", "mid_block.attentions.0.")
        name = re.sub(r"\.(q|k|v)\.", r".to_\1.", name).replace(".norm.", ".group_norm.")
        name = name.replace(".proj_out.", ".to_out.0.")
    elif half == "decoder" and (found := re.match(r"(.*\.resnets\.\d+\.)(.*)", name)):
        path, rest = found.groups()
        if rest == "mix_factor":
            name = path + "time_mixer.mix_factor"
        elif rest.startswith("time_stack."):
            name = path + "temporal_res_block." + res_block(rest.removeprefix("time_stack."))
        else:
            name = path + "spatial_res_block." + rest
    return half + "." + name


def tower_names(name):
    """[(transformers' name, the part of the tensor)]"""
    name = name.removeprefix("visual.")
    if name == "proj":
        return [("visual_projection.weight", "T")]
    for old, new in (
        ("class_embedding", "embeddings.class_embedding"),
        ("positional_embedding", "embeddings.position_embedding.weight"),
        ("conv1.", "embeddings.patch_embedding."),
        ("ln_pre.", "pre_layrnorm."),
        ("ln_post.", "post_layernorm."),
        ("transformer.resblocks.", "encoder.layers."),
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("attn.out_proj.", "self_attn.out_proj."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ):
        name = re.sub(rf"(^|\.){re.escape(old)}", rf"\1{new}", name)
    name = "vision_model." + name
    if found := re.match(r"(.*)\.attn\.in_proj_(weight|bias)$", name):
        return [(f"{found[1]}.self_attn.{part}_proj.{found[2]}", str(i)) for i, part in enumerate("qkv")]
    return [(name, "")]


def part_of(tensor, part):
    if part in ("0", "1", "2"):
        return tensor.chunk(3)[int(part)]
    return {"": lambda: tensor, "T": lambda: tensor.T, "M": lambda: tensor[:, :, 0, 0]}[part]()


def listing(prefix, state, names):
    """[[diffusers' name, Stability's name, part], ...], in order."""
    pairs = [[new, prefix + old, part] for old in state for new, part in names(old)]
    assert len({new for new, _, _ in pairs}) == len(pairs), "a name twice"
    return sorted(pairs)


def unet_pairs(state, layers, levels):
    return listing(UNET, state, lambda name: [(unet_name(name, layers, levels), "")])


def vae_pairs(state, levels):
    def names(name):
        is_matrix = re.search(r"\.attn_1\.(q|k|v|proj_out)\.weight$", name)
        return [(vae_name(name, levels), "M" if is_matrix else "")]

    return listing(FIRST_STAGE, state, names)


def tower_pairs(state):
    return listing(TOWER, state, tower_names)


def same(what, model, state, pairs, prefix, ours, theirs):
    """Loads `model` by the pairs, and compares."""
    model.load_state_dict({new: part_of(state[old.removeprefix(prefix)], part) for new, old, part in pairs})
    wanted, got = theirs(), ours(model.eval())
    error = ((wanted - got).abs().max() / wanted.abs().max()).item()
    print(f"{what}: {error:.1e}")
    # Their norms differ in eps here and there; a wrong name shows in the first digit.
    assert error < 1e-3, what


def rows(pairs):
    paths = {}
    for new, old, part in pairs:
        new, old, end = new.split("."), old.split("."), []
        while len(new) > 1 and new[-1] == old[-1]:
            end.insert(0, new.pop())
            old.pop()
        paths.setdefault((".".join(new), ".".join(old), part), []).append(".".join(end))
    return [[new, old, " ".join(ends), part] for (new, old, part), ends in paths.items()]


def randomise(model):
    generator = torch.Generator().manual_seed(1)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            scale = max(tensor[0].numel(), 1) ** -0.5 if tensor.ndim > 1 else 0.5
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
    return model.eval()


def stability_unet(module, channels, mult, layers, depth, attends, context, ids, head):
    return module.VideoUNet(
        adm_in_channels=ids,
        num_classes="sequential",
        in_channels=8,
        out_channels=4,
        model_channels=channels,
        attention_resolutions=attends,
        num_res_blocks=layers,
        channel_mult=mult,
        num_head_channels=head,
        use_linear_in_transformer=True,
        transformer_depth=depth,
        context_dim=context,
        spatial_transformer_attn_type="softmax",
        extra_ff_mix_layer=True,
        use_spatial_context=True,
        merge_strategy="learned_with_images",
        video_kernel_size=[3, 1, 1],
    )


def diffusers_unet(channels, mult, layers, depth, attends, context, ids, head):
    cross = [2**level in attends for level in range(len(mult))]
    kinds = [("CrossAttn" if attends else "") for attends in cross]
    blocks = [channels * factor for factor in mult]
    return UNetSpatioTemporalConditionModel(
        in_channels=8,
        out_channels=4,
        down_block_types=tuple(kind + "DownBlockSpatioTemporal" for kind in kinds),
        up_block_types=tuple(kind + "UpBlockSpatioTemporal" for kind in reversed(kinds)),
        block_out_channels=tuple(blocks),
        layers_per_block=layers,
        transformer_layers_per_block=depth,
        num_attention_heads=tuple(block // head for block in blocks),
        cross_attention_dim=context,
        addition_time_embed_dim=ids // 3,
        projection_class_embeddings_input_dim=ids,
    )


def prove_unet(module, **sizes):
    from diffusers.models.embeddings import get_timestep_embedding

    frames, network = 3, randomise(stability_unet(module, **sizes))
    pairs = unet_pairs(network.state_dict(), sizes["layers"], len(sizes["mult"]))
    sample, context = torch.randn(1, frames, 8, 8, 8), torch.randn(1, 1, sizes["context"])
    ids, time = torch.tensor([[6.0, 127.0, 0.02]]), torch.tensor([0.7])

    def theirs():
        embedded = get_timestep_embedding(ids.flatten(), sizes["ids"] // 3, True, 0).reshape(1, -1)
        return network(
            sample.flatten(0, 1),
            time.repeat(frames),
            context.repeat(frames, 1, 1),
            embedded.repeat(frames, 1),
            num_video_frames=frames,
            image_only_indicator=torch.zeros(1, frames),
        )

    same(
        f"UNet {sizes['mult']}",
        diffusers_unet(**sizes),
        network.state_dict(),
        pairs,
        UNET,
        lambda model: model(sample, time, context, ids).sample.flatten(0, 1),
        theirs,
    )
    return pairs


def vae_config(channels, mult, layers):
    return dict(ch=channels, out_ch=3, ch_mult=mult, num_res_blocks=layers, attn_resolutions=[], in_channels=3,
                resolution=256, z_channels=4, double_z=True, attn_type="vanilla")


def stability_vae(temporal, picture, channels, mult, layers):
    config = vae_config(channels, mult, layers)
    decoder = temporal.VideoDecoder(**config, video_kernel_size=[3, 1, 1])
    return torch.nn.ModuleDict({"encoder": picture.Encoder(**config), "decoder": decoder})


def diffusers_vae(channels, mult, layers):
    return AutoencoderKLTemporalDecoder(
        block_out_channels=tuple(channels * factor for factor in mult),
        down_block_types=("DownEncoderBlock2D",) * len(mult),
        layers_per_block=layers,
        latent_channels=4,
    )


def prove_vae(temporal, picture, **sizes):
    network = randomise(stability_vae(temporal, picture, **sizes))
    state = network.state_dict()
    pairs = vae_pairs(state, len(sizes["mult"]))
    pixels, latents = torch.randn(1, 3, 32, 32), torch.randn(3, 4, 4, 4)
    # In the first stage there is no quant_conv: diffusers' is the identity.
    quant = {"quant_conv.weight": torch.eye(8)[:, :, None, None], "quant_conv.bias": torch.zeros(8)}
    identity = [[name, name, ""] for name in quant]
    for what, ours, theirs in (
        ("VAE encoder", lambda m: m.encode(pixels).latent_dist.parameters, lambda: network["encoder"](pixels)),
        (
            "VAE decoder",
            lambda m: m.decode(latents, num_frames=3).sample,
            lambda: network["decoder"](latents, timesteps=3),
        ),
    ):
        same(what, diffusers_vae(**sizes), state | quant, pairs + identity, FIRST_STAGE, ours, theirs)
    return pairs


def stability_tower(width, layers, heads, projection, patch):
    from open_clip.transformer import VisionTransformer

    tower = VisionTransformer(
        image_size=224,
        patch_size=patch,
        width=width,
        layers=layers,
        heads=heads,
        mlp_ratio=4.0,
        output_dim=projection,
    )
    return torch.nn.ModuleDict({"visual": tower})


def transformers_tower(width, layers, heads, projection, patch):
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            patch_size=patch,
            image_size=224,
            projection_dim=projection,
            hidden_act="gelu",
        )
    )


def prove_tower(**sizes):
    network = randomise(stability_tower(**sizes))
    state = {name.removeprefix("visual."): tensor for name, tensor in network.state_dict().items()}
    pairs, picture = tower_pairs(state), torch.randn(1, 3, 224, 224)
    same(
        "CLIP",
        transformers_tower(**sizes),
        state,
        pairs,
        TOWER,
        lambda model: model(picture).image_embeds,
        lambda: network["visual"](picture),
    )
    return pairs


def whole(pairs, model, extra=()):
    """Every tensor of the full-size network must be named once."""
    names, wanted = [new for new, _, _ in pairs], set(model.state_dict()) - {"vision_model.embeddings.position_ids"}
    assert set(names) | set(extra) == wanted, set(names) ^ wanted
    return rows(pairs)


def main():
    torch.set_grad_enabled(False)
    torch.manual_seed(2)
    video, temporal, picture = stability(sys.argv[1])
    like_svd = dict(channels=32, mult=[1, 2, 2, 2], layers=2, depth=1, attends=[4, 2, 1], context=16, ids=24, head=16)
    prove_unet(video, **like_svd)
    small = prove_unet(video, channels=32, mult=[1, 2], layers=1, depth=2, attends=[1], context=24, ids=48, head=16)
    prove_vae(temporal, picture, channels=32, mult=[1, 1, 2, 2], layers=2)
    prove_tower(width=32, layers=2, heads=4, projection=16, patch=32)
    unet = dict(channels=320, mult=[1, 2, 4, 4], layers=2, depth=1, attends=[4, 2, 1], context=1024, ids=768, head=64)
    vae = dict(channels=128, mult=[1, 2, 4, 4], layers=2)
    tower = dict(width=1280, layers=32, heads=16, projection=1024, patch=14)
    with torch.device("meta"):
        state = {name.removeprefix("visual."): 0 for name in stability_tower(**tower).state_dict()}
        full = {
            "unet": whole(unet_pairs(stability_unet(video, **unet).state_dict(), 2, 4), diffusers_unet(**unet)),
            "vae": whole(
                vae_pairs(stability_vae(temporal, picture, **vae).state_dict(), 4),
                diffusers_vae(**vae),
                ("quant_conv.weight", "quant_conv.bias"),
            ),
            "image_encoder": whole(tower_pairs(state), transformers_tower(**tower)),
        }
    lines = [
        f'"{size}":{{' + ",\n".join(
            f'"{network}":[\n' + ",\n".join(json.dumps(row, separators=(",", ":")) for row in table) + "\n]"
            for network, table in networks.items()
        ) + "}"
        for size, networks in (("full", full), ("small", {"unet": rows(small)}))
    ]
    with open(FIXTURE, "w", encoding="utf-8", newline="\n") as file:
        file.write("{" + ",\n".join(lines) + "}\n")


main()
