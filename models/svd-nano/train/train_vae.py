# SPDX-License-Identifier: MPL-2.0
"""Writes the autoencoder's encoder and trains its decoder: `python train_vae.py DIR [MINUTES]`.

The encoder is not trained: it is set to compute the linear latent code (`latent_code.py`). The
decoder learns to draw pictures from it, with a little noise on the latents as the video network
leaves some. Its temporal half is an exact identity (the last convolutions are zero), so a clip is
decoded frame by frame and that half need not be computed here.
Reads DIR/train, writes DIR/code.pt, DIR/vae (diffusers folder, fp32), DIR/vae.log and
DIR/vae.pt, from which an interrupted training goes on.
"""
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder

import data
import device
import latent_code
from latent_code import CONTENT, LATENTS

WIDTHS = [96, 32, 96]
STEADY = 20.0  # the constants beside the encoder's signals
COLOURS = 3.0  # the constants beside the decoder's


def build(code):
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=["DownEncoderBlock2D"] * len(WIDTHS), block_out_channels=WIDTHS,
        layers_per_block=1, latent_channels=LATENTS, sample_size=512, scaling_factor=1.0)
    with torch.no_grad():
        for name, module in vae.named_modules():
            if name.endswith("temporal_res_block"):
                module.conv2.weight.zero_()
                module.conv2.bias.zero_()
        out = vae.decoder.time_conv_out
        out.weight.zero_()
        out.bias.zero_()
        for channel in range(3):
            out.weight[channel, channel, 1] = 1
        write_encoder(vae, code)
        start_decoder(vae.decoder, code)
    return vae


def clear(conv):
    conv.weight.zero_()
    if conv.bias is not None:
        conv.bias.zero_()


def write_encoder(vae, code):
    """Sets the encoder to the linear code, exactly but for about 0.1 %.

    Residual branches are zero. The colours go in as they are, the two strided convolutions take
    2x2 pixels apart and then 4x4 pixels together. The last group norm has groups of three
    channels; each holds a signal S and constants K and -K, so that its output is linear in S:
    the constants' mean tells the mean it takes away, and its scale hardly depends on S. Its own
    bias of 12 keeps silu in its straight part.
    """
    encoder = vae.encoder
    for name, module in encoder.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            clear(module)
        elif name.endswith("conv1"):
            clear(module)
    clear(encoder.conv_in)
    for colour in range(3):
        encoder.conv_in.weight[colour, colour, 1, 1] = 1
    first, second = (encoder.down_blocks[i].downsamplers[0].conv for i in (0, 1))
    clear(first)
    clear(second)
    # second's input 4 * colour + 2 * y + x; the code's columns are 16 * colour + 4 * (2Y + y) + 2X + x
    matrix = code["encode"].view(CONTENT, 3, 2, 2, 2, 2)  # signal, colour, Y, y, X, x
    for y in (0, 1):
        for x in (0, 1):
            for colour in range(3):
                first.weight[4 * colour + 2 * y + x, colour, y, x] = 1
            second.weight[:CONTENT, :12, y, x] = matrix[:, :, y, :, x, :].reshape(CONTENT, 12)
    second.bias[:CONTENT] = -code["encode"] @ code["middle"]
    thin, wide = (encoder.down_blocks[i].resnets[0].conv_shortcut for i in (1, 2))
    clear(thin)
    clear(wide)
    for i in range(12):
        thin.weight[i, i] = 1
    for i in range(CONTENT):
        wide.weight[3 * i, i] = 1
    wide.bias[1::3], wide.bias[2::3] = STEADY, -STEADY
    encoder.conv_norm_out.weight.fill_(1)
    encoder.conv_norm_out.bias.fill_(12)
    clear(encoder.conv_out)
    scale = STEADY * (2 / 3) ** 0.5
    for i in range(CONTENT):
        for channel, weight in ((3 * i, 1.0), (3 * i + 1, -0.5), (3 * i + 2, -0.5)):
            encoder.conv_out.weight[i, channel, 1, 1] = weight * scale
    encoder.conv_out.bias[LATENTS:] = -15.0  # a posterior of hardly any noise
    vae.quant_conv.weight.copy_(torch.eye(2 * LATENTS)[:, :, None, None])
    vae.quant_conv.bias.zero_()


def start_decoder(decoder, code):
    """Starts the decoder as one that paints each 4x4 block in its mean colour.

    The first three channels carry the colours all the way, the next ones the latents; residual
    branches start small. The last group norm has groups of three channels, a signal S beside
    constants K and -K, every other group with -S: so that means and sizes survive it
    (see `write_encoder`), and as silu(a) - silu(-a) is a, all is linear at the start.
    """
    for name, module in decoder.named_modules():
        if "temporal" in name:
            continue
        if name.endswith("conv2"):
            module.weight.mul_(0.3)
            module.weight[:3] = 0
            module.bias.zero_()
        elif name.endswith("upsamplers.0.conv"):
            module.weight.mul_(0.3)
            module.weight[:3] = 0
            module.bias.zero_()
            module.weight[:, :, 1, 1] += torch.eye(module.weight.shape[0])
        elif name.endswith("conv_shortcut"):
            module.weight.mul_(0.5)
            module.weight[:CONTENT + 3] = 0
            module.bias.zero_()
            for i in range(CONTENT + 3):
                module.weight[i, i] = 1
    mean = code["decode"].view(3, 16, CONTENT).mean(1)  # colour of a block from its latents
    decoder.conv_in.weight[:CONTENT + 3] = 0
    decoder.conv_in.bias.zero_()
    decoder.conv_in.weight[:3, :CONTENT, 1, 1] = mean
    decoder.conv_in.bias[:3] = code["middle"].view(3, 16).mean(1)
    for i in range(CONTENT):
        decoder.conv_in.weight[3 + i, i, 1, 1] = 1
    decoder.conv_in.weight[:, CONTENT:] = 0  # blind to the motion, which train_decoder.py shows it
    last = decoder.up_blocks[-1].resnets[0].spatial_res_block.conv_shortcut
    signals = last.weight[:16].clone()
    signals[11:] = torch.randn_like(signals[11:]) * signals.shape[1] ** -0.5
    last.weight.zero_()
    last.bias.zero_()
    last.weight[0::6], last.weight[3::6] = signals, -signals
    last.bias[1::3], last.bias[2::3] = COLOURS, -COLOURS
    decoder.conv_out.weight.mul_(0.3)
    decoder.conv_out.weight[:, :18] = 0
    decoder.conv_out.bias.zero_()
    scale = COLOURS * (2 / 3) ** 0.5
    for colour in range(3):
        for channel, weight in ((0, 1.0), (3, -1.0), (1, -0.5), (5, 0.5), (2, -0.5), (4, 0.5)):
            decoder.conv_out.weight[colour, 6 * colour + channel, 1, 1] = weight * scale


def decode_frames(decoder, z):
    """The decoder without its temporal half."""
    h = decoder.conv_in(z)
    blocks = [decoder.mid_block] + list(decoder.up_blocks)
    for block in blocks:
        for resnet in block.resnets:
            h = resnet.spatial_res_block(h, None)
        for upsampler in getattr(block, "upsamplers", None) or []:
            h = upsampler(h)
    return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(h)))


def crops(pyramids, rng, count, size):
    out = np.empty((count, size, size, 3), np.uint8)
    for i in range(count):
        levels = pyramids[rng.integers(len(pyramids))]
        picture = levels[-1 - min(rng.geometric(0.4) - 1, len(levels) - 1)]  # small ones more often
        y = rng.integers(picture.shape[0] - size + 1)
        x = rng.integers(picture.shape[1] - size + 1)
        crop = picture[y:y + size, x:x + size]
        out[i] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return torch.from_numpy(out).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def edges(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def psnr(vae, code, pictures, run):
    """PSNR of the reconstruction of test pictures at 512x288."""
    values = []
    with torch.inference_mode(), run.autocast():
        for picture in pictures:
            x = data.keyframe(picture).to(run.name)
            z = F.pad(latent_code.encode(code, x), (0, 0, 0, 0, 0, LATENTS - CONTENT))
            y = decode_frames(vae.decoder, z).float().clamp(-1, 1)
            values.append(10 * np.log10(4 / F.mse_loss(y, x).item()))
    return values


def main(root, minutes):
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    run = device.Device()
    code = latent_code.build(root)
    pyramids = [data.pyramid(p) for p in data.load(os.path.join(root, "train")).values()]
    test = list(data.load(os.path.join(root, "test")).values())
    vae = build(code).to(run.name)
    code = {k: v.to(run.name) for k, v in code.items()}
    with torch.inference_mode():  # the encoder as written against the code as meant
        x = data.keyframe(test[0]).to(run.name)
        meant = latent_code.encode(code, x)
        error = (vae.encode(x).latent_dist.mode()[:, :CONTENT] - meant).abs()
    log = open(os.path.join(root, "vae.log"), "a", buffering=1)
    print(f"encoder: largest error {error.max():.4f}, mean {error.mean():.5f}", file=log)
    for module in vae.decoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    # The temporal half is fixed; the middle's attention is in the file, but is never run.
    for name, p in vae.named_parameters():
        p.requires_grad_(name.startswith("decoder") and "temporal" not in name and "time_" not in name
                         and "mid_block.attentions" not in name)
    params = [p for p in vae.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=1e-3, betas=(0.9, 0.98), weight_decay=1e-4)
    ema = [p.detach().clone() for p in params]
    step, spent, mean, kept = 0, 0.0, None, os.path.join(root, "vae.pt")
    if os.path.exists(kept):
        state = torch.load(kept, map_location=run.name)
        step, spent, ema = state["step"], state["spent"], state["ema"]
        optimiser.load_state_dict(state["optimiser"])
        vae.load_state_dict(state["vae"])
        rng = np.random.default_rng([1, step])
    before = time.time() - spent
    budget, next_test = minutes * 60, spent + 120

    def save():
        torch.save({"step": step, "spent": spent, "ema": ema, "optimiser": optimiser.state_dict(), "vae": vae.state_dict()}, kept)
        report(vae, code, test, run, params, ema, root, log)

    while (spent := time.time() - before) < budget:
        part = spent / budget
        lr = 8e-4 * min(1, (step + 1) / 60) * (0.5 * (1 + np.cos(np.pi * part)) + 0.01)
        for group in optimiser.param_groups:
            group["lr"] = float(lr)
        size, count = (96, 4 * run.scale) if part < 0.8 else (160, 2 * run.scale)
        x = crops(pyramids, rng, count, size).to(run.name)
        z = latent_code.encode(code, x)
        z = z + torch.randn_like(z) * torch.rand(count, 1, 1, 1, device=z.device) * 0.06
        z = F.pad(z, (0, 0, 0, 0, 0, LATENTS - CONTENT)).contiguous(memory_format=torch.channels_last)
        with run.autocast():
            y = decode_frames(vae.decoder, z).float()
        grad = sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x)))
        loss = F.l1_loss(y, x) + 4 * F.mse_loss(y, x) + 0.5 * grad
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, 0.5)
        optimiser.step()
        step += 1
        decay = min(0.98, step / (step + 10))
        with torch.no_grad():
            torch._foreach_mul_(ema, decay)
            torch._foreach_add_(ema, params, alpha=1 - decay)
        mse = F.mse_loss(y.detach(), x).item()
        mean = mse if mean is None else 0.98 * mean + 0.02 * mse
        if step % 10 == 0:
            print(f"{spent:6.0f}s step {step} lr {lr:.1e} loss {loss.item():.4f} "
                  f"grad {norm:.2f} psnr {10 * np.log10(4 / mean):.2f}", file=log)
        if spent > next_test:
            save()
            next_test += 180
    save()


def report(vae, code, test, run, params, ema, root, log):
    """Writes the averaged weights and their PSNR on the test pictures."""
    own = [p.detach().clone() for p in params]
    with torch.no_grad():
        for p, w in zip(params, ema):
            p.copy_(w)
        values = psnr(vae, code, test, run)
        print("test " + " ".join(f"{v:.2f}" for v in values) + f" mean {np.mean(values):.2f}", file=log)
        vae.save_pretrained(os.path.join(root, "vae"))
        for p, w in zip(params, own):
            p.copy_(w)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 15)
