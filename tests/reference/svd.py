# SPDX-License-Identifier: MPL-2.0
"""Makes tests/fixtures/svd: diffusers' answers for small Stable Video Diffusion networks.

Run it from the repository root: `python tests/reference/svd.py`. README.md here describes the files.
"""

import json
import math
import os
import struct
from types import SimpleNamespace

import numpy as np
import PIL.Image
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from diffusers.schedulers import AysSchedules
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

import recipe

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "svd")
KEEP = 2048  # an intermediate with more values than this is thinned out

CROSS_DOWN, PLAIN_DOWN = "CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"
CROSS_UP, PLAIN_UP = "CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"


def compact(value):
    return json.dumps(value, separators=(",", ":"))


class Fixture:
    """One .safetensors file: answers as tensors; configs, listings and input shapes as JSON in the metadata."""

    def __init__(self, name):
        self.name = name
        self.tensors = {}
        self.inputs = {}
        self.shapes = {}
        self.strides = {}
        self.extra = {}

    def input(self, name, shape):
        """The recipe's tensor called `name`, which the file lists and does not store."""
        self.inputs[name] = list(shape)
        return torch.from_numpy(recipe.sample(name, shape))

    def picture(self, name, width, height):
        """An RGB picture: byte = floor((v + 1) / 2 * 255), exact in float64, v of shape (height, width, 3)."""
        shape = (height, width, 3)
        self.inputs[name] = list(shape)
        v = recipe.sample(name, shape).astype(np.float64)
        return PIL.Image.fromarray(np.floor((v + 1.0) / 2.0 * 255.0).astype(np.uint8))

    def keep(self, name, tensor):
        """Stores a tensor whole."""
        self.tensors[name] = np.array(tensor.detach().cpu().contiguous().numpy(), copy=True)

    def debug(self, name, tensor):
        """Stores an intermediate, or if it is large every n-th value of it in row-major order."""
        step = math.ceil(tensor.numel() / KEEP)
        if step > 1:
            step += 1 - step % 2  # odd, so that it does not fall in step with the usual sizes
            self.shapes[name] = list(tensor.shape)
            self.strides[name] = step
            tensor = tensor.flatten()[::step]
        self.keep(name, tensor)

    def watch(self, modules):
        """Stores each module's (first) output at its next run under its name here; returns the hooks."""

        def hook(name):
            def store(_module, _args, output):
                self.debug(name, output[0] if isinstance(output, tuple) else output)

            return store

        return [module.register_forward_hook(hook(name)) for name, module in modules.items()]

    def model(self, module, prefix=""):
        """Fills a module by the recipe and lists its config and weights."""
        self.extra[prefix + "keys"] = recipe.fill(module)
        self.extra[prefix + "config"] = config_of(module)
        return module.eval()

    def save(self):
        metadata = {name: compact(value) for name, value in self.extra.items()}
        metadata["inputs"] = compact(self.inputs)
        metadata["shapes"] = compact(self.shapes)
        metadata["strides"] = compact(self.strides)
        header, offset = {"__metadata__": dict(sorted(metadata.items()))}, 0
        for name, array in self.tensors.items():
            kind = {np.dtype(np.float32): "F32", np.dtype(np.int64): "I64"}[array.dtype]
            header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
            offset += array.nbytes
        text = compact(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(FOLDER, self.name + ".safetensors"), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for array in self.tensors.values():
                file.write(array.tobytes())


def config_of(part):
    """What the part's own config.json would hold, with every default spelt out."""
    if isinstance(part, CLIPVisionModelWithProjection):
        return part.config.to_dict()
    return json.loads(part.to_json_string())


def clip_model(activation):
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=224,
            patch_size=32,
            projection_dim=16,
            hidden_act=activation,
        )
    )


def clip(name, activation):
    fixture = Fixture(name)
    model = fixture.model(clip_model(activation))
    pixels = fixture.input("clip.pixel_values", (2, 3, 224, 224))
    tower = model.vision_model
    watched = {"embeddings": tower.embeddings, "pre_layrnorm": tower.pre_layrnorm}
    watched |= {f"layers.{i}": layer for i, layer in enumerate(tower.encoder.layers)}
    watched |= {"pooler_output": tower.post_layernorm}
    fixture.watch(watched)
    output = model(pixels)
    fixture.keep("last_hidden_state", output.last_hidden_state)
    fixture.keep("image_embeds", output.image_embeds)
    fixture.save()


def clip_preprocess():
    fixture = Fixture("clip_preprocess")
    pipe = StableVideoDiffusionPipeline(
        vae=vae_model((32,), 1, 4),
        image_encoder=clip_model("gelu"),
        unet=UNetSpatioTemporalConditionModel(**UNET_A),
        scheduler=svd_scheduler(),
        feature_extractor=CLIPImageProcessor(),
    )
    seen = []
    pipe.image_encoder.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    strides = {}
    for width, height in ((48, 40), (300, 224), (97, 513), (1000, 600)):
        size = f"{width}x{height}"
        picture = fixture.picture(f"clip_preprocess.{size}", width, height)
        pipe._encode_image(picture, torch.device("cpu"), 1, False)
        strides[size] = 1 if size == "48x40" else 7
        fixture.keep(size, seen[-1][0, :, :: strides[size], :: strides[size]])
    fixture.extra["stride"] = strides
    fixture.extra["feature_extractor_config"] = config_of(pipe.feature_extractor)
    fixture.save()


def vae_model(channels, layers, latent):
    return AutoencoderKLTemporalDecoder(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        layers_per_block=layers,
        latent_channels=latent,
        scaling_factor=0.18215,
    )


def vae(name, channels, layers, latent, height, width):
    fixture = Fixture(name)
    model = fixture.model(vae_model(channels, layers, latent))
    factor = 2 ** (len(channels) - 1)
    picture = fixture.input("vae.picture", (1, 3, height, width))
    latents = fixture.input("vae.latents", (5, latent, height // factor, width // factor))

    encoder = model.encoder
    watched = {"encoder.conv_in": encoder.conv_in, "encoder.mid_block": encoder.mid_block, "encoder.out": encoder}
    watched |= {f"encoder.down_blocks.{i}": block for i, block in enumerate(encoder.down_blocks)}
    hooks = fixture.watch(watched)
    posterior = model.encode(picture).latent_dist
    fixture.keep("mode", posterior.mode())
    fixture.keep("mean", posterior.mean)
    fixture.keep("logvar", posterior.logvar)

    decoder = model.decoder
    watched = {"decoder.conv_in": decoder.conv_in, "decoder.mid_block": decoder.mid_block}
    watched |= {f"decoder.mid_block.resnets.{i}": block for i, block in enumerate(decoder.mid_block.resnets)}
    watched |= {f"decoder.mid_block.attentions.{i}": block for i, block in enumerate(decoder.mid_block.attentions)}
    watched |= {f"decoder.up_blocks.{i}": block for i, block in enumerate(decoder.up_blocks)}
    watched |= {"decoder.conv_out": decoder.conv_out}
    hooks += fixture.watch(watched)
    fixture.keep("decoded", model.decode(latents, num_frames=5).sample)
    for hook in hooks:
        hook.remove()

    chunks = [model.decode(chunk, num_frames=len(chunk)).sample for chunk in latents.split(2)]
    fixture.keep("decoded_chunks_2", torch.cat(chunks))
    # The pipeline's own way: the latents are divided by scaling_factor first, and frames come out as [1, 3, 5, h, w].
    whole = StableVideoDiffusionPipeline.decode_latents(SimpleNamespace(vae=model), latents[None], 5, 2)
    fixture.keep("decode_latents_2", whole)
    fixture.save()


UNET_A = dict(
    in_channels=8,
    out_channels=4,
    down_block_types=(CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN),
    up_block_types=(PLAIN_UP, CROSS_UP, CROSS_UP, CROSS_UP),
    block_out_channels=(32, 64, 64, 64),
    layers_per_block=2,
    num_attention_heads=(2, 4, 4, 4),
    cross_attention_dim=16,
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=24,
    num_frames=3,
)
UNET_B = dict(
    in_channels=32,
    out_channels=16,
    down_block_types=(CROSS_DOWN, PLAIN_DOWN),
    up_block_types=(PLAIN_UP, CROSS_UP),
    block_out_channels=(32, 64),
    layers_per_block=1,
    transformer_layers_per_block=2,
    num_attention_heads=(2, 8),
    cross_attention_dim=24,
    addition_time_embed_dim=16,
    projection_class_embeddings_input_dim=48,
    num_frames=4,
)
UNET_C = dict(
    in_channels=8,
    out_channels=4,
    down_block_types=(PLAIN_DOWN, CROSS_DOWN, CROSS_DOWN),
    up_block_types=(CROSS_UP, CROSS_UP, PLAIN_UP),
    block_out_channels=(32, 64, 96),
    layers_per_block=(1, 2, 1),
    transformer_layers_per_block=(1, 2, 1),
    num_attention_heads=(1, 4, 3),
    cross_attention_dim=16,
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=24,
    num_frames=2,
)
TIME_IDS = [[6.0, 127.0, 0.02], [15.0, 2.0, 0.0004]]


def unet(name, config, batch, frames, height, width, tokens, timesteps):
    fixture = Fixture(name)
    model = fixture.model(UNetSpatioTemporalConditionModel(**config))
    sample = fixture.input("unet.sample", (batch, frames, config["in_channels"], height, width))
    states = fixture.input("unet.encoder_hidden_states", (batch, tokens, config["cross_attention_dim"]))
    time_ids = torch.tensor(TIME_IDS[:batch])
    fixture.keep("added_time_ids", time_ids)
    fixture.keep("timesteps", torch.tensor(timesteps))

    watched = {"time_embedding": model.time_embedding, "add_embedding": model.add_embedding, "conv_in": model.conv_in}
    watched |= {f"down_blocks.{i}": block for i, block in enumerate(model.down_blocks)}
    watched |= {"mid_block": model.mid_block}
    watched |= {f"up_blocks.{i}": block for i, block in enumerate(model.up_blocks)}
    # Inside the first block that attends, one piece after the other.
    first = next(i for i, block in enumerate(model.down_blocks) if hasattr(block, "attentions"))
    block, path = model.down_blocks[first], f"down_blocks.{first}."
    watched |= {
        path + "resnets.0.spatial_res_block": block.resnets[0].spatial_res_block,
        path + "resnets.0": block.resnets[0],
        path + "attentions.0.time_pos_embed": block.attentions[0].time_pos_embed,
        path + "attentions.0.transformer_blocks.0": block.attentions[0].transformer_blocks[0],
        path + "attentions.0.temporal_transformer_blocks.0": block.attentions[0].temporal_transformer_blocks[0],
        path + "attentions.0": block.attentions[0],
    }
    hooks = fixture.watch(watched)
    # `emb` as every block gets it: summed and repeated for the frames.
    hooks.append(
        model.mid_block.register_forward_pre_hook(
            lambda _module, _args, named: fixture.debug("emb", named["temb"]), with_kwargs=True
        )
    )
    for i, timestep in enumerate(timesteps):
        output = model(sample, torch.tensor(timestep), states, time_ids).sample
        fixture.keep(f"output.{i}", output)
        for hook in hooks:
            hook.remove()
        hooks = []
    fixture.save()


def svd_scheduler():
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        trained_betas=None,
        use_karras_sigmas=True,
    )


def schedule():
    fixture = Fixture("schedule")
    scheduler = svd_scheduler()
    fixture.extra["config"] = config_of(scheduler)

    def keep(label):
        fixture.keep(f"sigmas.{label}", scheduler.sigmas)
        fixture.keep(f"timesteps.{label}", scheduler.timesteps)
        fixture.keep(f"init_noise_sigma.{label}", torch.as_tensor(scheduler.init_noise_sigma).reshape(1))

    for steps in (1, 2, 3, 5, 10, 25, 50):
        scheduler.set_timesteps(steps)
        keep(steps)
    # Sigmas given by hand take precedence over Karras's and end with the zero.
    given = AysSchedules["StableDiffusionVideoSigmas"]
    fixture.extra["ays"] = given
    scheduler.set_timesteps(sigmas=given)
    keep("ays")

    shape = (1, 2, 4, 3, 5)
    scheduler.set_timesteps(5)
    latents = fixture.input("schedule.sample", shape) * scheduler.init_noise_sigma
    for i, timestep in enumerate(scheduler.timesteps):
        fixture.keep(f"step.{i}.scaled", scheduler.scale_model_input(latents, timestep))
        output = scheduler.step(fixture.input(f"schedule.model_output.{i}", shape), timestep, latents)
        fixture.keep(f"step.{i}.pred_original_sample", output.pred_original_sample)
        fixture.keep(f"step.{i}.prev_sample", output.prev_sample)
        latents = output.prev_sample
    fixture.save()


def pipeline(name, seed, **call):
    fixture = Fixture(name)
    width, height, frames = 56, 40, 5
    parts = dict(
        vae=fixture.model(vae_model((32, 32, 64, 64), 1, 4), "vae_"),
        image_encoder=fixture.model(clip_model("gelu"), "image_encoder_"),
        unet=fixture.model(UNetSpatioTemporalConditionModel(**UNET_A), "unet_"),
        scheduler=svd_scheduler(),
        feature_extractor=CLIPImageProcessor(),
    )
    fixture.extra["scheduler_config"] = config_of(parts["scheduler"])
    fixture.extra["feature_extractor_config"] = config_of(parts["feature_extractor"])
    call = dict(width=width, height=height, num_frames=frames, **call)
    fixture.extra["call"] = dict(seed=seed, **call)
    picture = fixture.picture("pipeline.picture", width, height)
    pipe = StableVideoDiffusionPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)

    def spy(method, label):
        inner = getattr(pipe, method)

        def wrapped(*args, **named):
            if method == "_encode_vae_image":
                fixture.keep("noised_picture", args[0])
            result = inner(*args, **named)
            fixture.keep(label, result)
            return result

        setattr(pipe, method, wrapped)

    spy("_encode_image", "image_embeddings")
    spy("_encode_vae_image", "image_latents")
    spy("_get_add_time_ids", "added_time_ids")
    spy("prepare_latents", "initial_latents")

    runs = []

    def unet_ran(_module, args, output):
        step = len(runs)
        runs.append(step)
        fixture.keep(f"unet_input.{step}", args[0])
        fixture.keep(f"unet_output.{step}", output[0])

    pipe.unet.register_forward_hook(unet_ran)

    def step_ended(_pipe, step, _timestep, named):
        fixture.keep(f"latents.{step}", named["latents"])
        return named

    output = pipe(
        picture,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="pt",
        callback_on_step_end=step_ended,
        **call,
    )
    fixture.keep("sigmas", pipe.scheduler.sigmas)
    fixture.keep("timesteps", pipe.scheduler.timesteps)
    fixture.keep("guidance_scale", pipe.guidance_scale.flatten())
    fixture.keep("frames", output.frames)

    # The two draws, in the pipeline's order from one generator.
    generator = torch.Generator("cpu").manual_seed(seed)
    for label, shape in (("picture", (1, 3, height, width)), ("latents", (1, frames, 4, height // 8, width // 8))):
        fixture.keep(f"randn.{label}", torch.randn(shape, generator=generator))
    fixture.save()


def listing(name, model):
    keys = [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()]
    with open(os.path.join(FOLDER, name + ".json"), "w", encoding="utf-8", newline="\n") as file:
        file.write(compact({"config": config_of(model), "keys": keys}) + "\n")


def full_size():
    with torch.device("meta"):
        listing("full_unet", UNetSpatioTemporalConditionModel(sample_size=96))
        listing(
            "full_vae",
            AutoencoderKLTemporalDecoder(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=4,
                sample_size=768,
                scaling_factor=0.18215,
                force_upcast=True,
            ),
        )
        listing(
            "full_clip",
            CLIPVisionModelWithProjection(
                CLIPVisionConfig(
                    hidden_size=1280,
                    intermediate_size=5120,
                    num_hidden_layers=32,
                    num_attention_heads=16,
                    patch_size=14,
                    image_size=224,
                    projection_dim=1024,
                    hidden_act="gelu",
                )
            ),
        )


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_grad_enabled(False)
    os.makedirs(FOLDER, exist_ok=True)
    clip("clip", "gelu")
    clip("clip_quick", "quick_gelu")
    clip_preprocess()
    vae("vae", (32, 64, 64), 1, 4, 40, 24)
    vae("vae2", (32, 64), 2, 16, 22, 14)
    noisy, clean = 0.25 * math.log(700.0), 0.25 * math.log(0.002)
    unet("unet_a", UNET_A, 2, 3, 11, 7, 1, [noisy, clean])
    unet("unet_b", UNET_B, 1, 4, 6, 5, 3, [noisy])
    unet("unet_c", UNET_C, 2, 2, 9, 8, 1, [clean])
    schedule()
    usual = dict(fps=7, motion_bucket_id=127, noise_aug_strength=0.02, num_inference_steps=3)
    pipeline("pipeline", 42, min_guidance_scale=1.0, max_guidance_scale=3.0, decode_chunk_size=2, **usual)
    pipeline("pipeline_noguide", 7, min_guidance_scale=1.0, max_guidance_scale=1.0, decode_chunk_size=None, **usual)
    pipeline(
        "pipeline_fast",
        42,
        min_guidance_scale=1.0,
        max_guidance_scale=6.0,
        decode_chunk_size=2,
        fps=16,
        motion_bucket_id=2,
        noise_aug_strength=0.0004,
        num_inference_steps=2,
    )
    full_size()


main()
