# SPDX-License-Identifier: MPL-2.0
"""Trains the autoencoder on random crops: `python train_vae.py DIR [MINUTES]`.

Only the spatial half is trained. The temporal half of the decoder is set to an
exact identity (its last convolutions are zero), so a clip is decoded frame by
frame and the temporal half need not be computed here.
Reads DIR/train, writes DIR/vae (diffusers folder, fp32) and DIR/vae.log.
"""
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder

import data

WIDTHS = [64, 32, 96, 128]
LATENTS = 16


def build():
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=["DownEncoderBlock2D"] * 4, block_out_channels=WIDTHS,
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
        plain_start(vae)
        vae.quant_conv.bias[LATENTS:] = -5.0  # a posterior of little noise
    return vae


def plain_start(vae):
    """Starts the autoencoder as one that keeps the mean colour of each 8x8 block.

    The first three channels carry the colour all the way through; the others are random.

    The last group norms remove the mean of every group of channels and scale it to
    one. Channels that come in pairs (a, -a) keep their mean, and beside a constant
    pair (1, -1) they keep their size too; silu(a) - silu(-a) is a again. Without such
    a start the network takes very long to find out how bright a picture is.
    """
    def orthogonal(conv):
        conv.weight.zero_()
        middle = conv.kernel_size[0] // 2
        torch.nn.init.orthogonal_(matrix := torch.empty(conv.weight.shape[:2]))
        matrix[:3], matrix[:, :3] = 0, 0
        matrix[:3, :3] = torch.eye(3)
        conv.weight[:, :, middle, middle] = matrix
        conv.bias.zero_()

    for name, module in vae.named_modules():
        if "temporal" in name:
            continue
        if name.endswith(("conv2", "to_out.0")):
            module.weight.mul_(0.1)  # residual branches start small
            colours = 12 if name.startswith(("encoder.mid", "encoder.down_blocks.3")) else 3
            module.weight[:colours] = 0
            module.bias[:colours] = 0
        elif name.endswith("conv_shortcut"):
            orthogonal(module)
        elif name.endswith("downsamplers.0.conv"):  # mean of 2 x 2
            module.weight.mul_(0.3)
            module.weight[:3] = 0
            module.bias[:3] = 0
            for y in (0, 1):
                for x in (0, 1):
                    module.weight[:, :, y, x] += 0.25 * torch.eye(module.weight.shape[0])
        elif name.endswith("upsamplers.0.conv"):
            module.weight.mul_(0.3)
            module.weight[:3] = 0
            module.bias[:3] = 0
            module.weight[:, :, 1, 1] += torch.eye(module.weight.shape[0])
    for conv in (vae.encoder.conv_in, vae.decoder.conv_in):
        conv.weight[:3] = 0
        conv.bias[:3] = 0
        conv.weight[:3, :3, 1, 1] = torch.eye(3)
    last = vae.encoder.down_blocks[-1].resnets[0].conv_shortcut  # groups (a, -a, 1, -1)
    rows = last.weight[:32].clone()
    last.weight.zero_()
    last.weight[0::4], last.weight[1::4] = rows, -rows
    last.bias[2::4], last.bias[3::4] = 1.0, -1.0
    out = vae.encoder.conv_out
    out.weight.mul_(2)
    out.weight[:3] = 0
    out.bias[:3] = 0
    for k in range(3):
        out.weight[k, 4 * k, 1, 1], out.weight[k, 4 * k + 1, 1, 1] = 0.8, -0.8
    vae.quant_conv.weight.copy_(torch.eye(2 * LATENTS)[:, :, None, None])
    vae.quant_conv.bias.zero_()
    keep_size(vae.decoder)


def keep_size(decoder, strength=3.0):
    """Lets brightness pass the decoder's last group norm, which has groups of two channels.

    A pair (a, -a) comes out of it divided by its own size, which no later layer can know.
    So every pair gets the same strong signal added, whose size is fixed, and the last
    convolution takes it away again. The signal is a spike at the picture's corners, made
    from the zero padding: the rest of the picture is untouched.
      first resnet:  constant -> its 3x3 sum differs at edges and corners -> (second
                     difference) spikes at the corners only -> channels 62 and 63
      second resnet: its norm scales the spikes to size 1; they are added to every pair
    """
    first, second = (r.spatial_res_block for r in decoder.up_blocks[-1].resnets)
    # The first 31 pairs carry the 32-channel stream (its last channel is left out).
    rows = torch.eye(32)[:, :, None, None].clone()
    rows[31] = 0
    first.conv_shortcut.weight[0::2], first.conv_shortcut.weight[1::2] = rows, -rows
    first.conv_shortcut.bias.zero_()
    first.norm1.weight[31], first.norm1.bias[31] = 0.0, 1.0
    constant = F.silu(torch.tensor(1.0))
    corner = torch.tensor([[1.0, -1, 0], [-1, 1, 0], [0, 0, 0]])
    for channel, sign in ((62, 1.0), (63, -1.0)):
        first.conv1.weight[channel] = 0
        first.conv1.weight[channel, 31] = -sign
        first.conv1.bias[channel] = 9 * sign * constant
        first.conv2.weight[channel] = 0
        first.conv2.weight[channel, 62] = sign * corner
        first.conv2.weight[channel, 63] = -sign * corner
        first.conv2.bias[channel] = 0
        second.conv1.weight[channel] = 0
        second.conv1.weight[channel, channel, 1, 1] = 1
        second.conv1.bias[channel] = 0
    for conv in (first.conv2, second.conv2):
        conv.weight[:62, 62:] = 0
    second.conv2.weight[62:] = 0
    second.conv2.bias.zero_()
    for sign, channels in ((1.0, slice(0, 64, 2)), (-1.0, slice(1, 64, 2))):
        second.conv2.weight[channels, 62, 1, 1] = sign * strength
        second.conv2.weight[channels, 63, 1, 1] = -sign * strength
    out = decoder.conv_out.weight
    out.mul_(0.5)
    for k in range(3):
        out[k, 2 * k, 1, 1] += 1.75 * strength  # about unit gain from end to end
    out[:, 62] = -out[:, 0:62:2].sum(1)
    out[:, 1::2] = -out[:, 0::2]


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
    batch = torch.from_numpy(out).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    return batch.contiguous(memory_format=torch.channels_last)


def corners(size, reach=4):
    """The few pixels under the decoder's spikes (see keep_size), which the loss leaves out."""
    border = torch.zeros(size, dtype=torch.bool)
    border[:reach] = border[-reach:] = True
    return border[:, None] & border[None, :]


def edges(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def psnr(vae, pictures):
    """PSNR of the reconstruction of test pictures at 512x288, in bfloat16."""
    values = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for picture in pictures:
            x = data.keyframe(picture)
            y = decode_frames(vae.decoder, vae.encode(x).latent_dist.mode()).float().clamp(-1, 1)
            values.append(10 * np.log10(4 / F.mse_loss(y, x).item()))
    return values


def main(root, minutes):
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    torch.set_num_threads(2)
    pyramids = [data.pyramid(p) for p in data.load(os.path.join(root, "train")).values()]
    test = list(data.load(os.path.join(root, "test")).values())
    vae = build()
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    temporal = [p for n, p in vae.named_parameters() if "temporal_res_block" in n or "time_" in n]
    for p in temporal:
        p.requires_grad_(False)
    # One resnet in the decoder's middle: its attention is in the file, but is never run.
    for p in vae.decoder.mid_block.attentions.parameters():
        p.requires_grad_(False)
    params = [p for p in vae.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(params, lr=1e-3, betas=(0.9, 0.98), weight_decay=1e-4)
    log = open(os.path.join(root, "vae.log"), "a", buffering=1)
    start, step, mean = time.time(), 0, None
    budget = minutes * 60
    next_test = 120
    while (spent := time.time() - start) < budget:
        part = spent / budget
        lr = 2e-4 * min(1, (step + 1) / 60) * (0.5 * (1 + np.cos(np.pi * part)) + 0.01)
        for group in optimiser.param_groups:
            group["lr"] = lr
        size, count = (96, 4) if part < 0.75 else (160, 2)
        x = crops(pyramids, rng, count, size)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            mu, logvar = posterior.mean.float(), posterior.logvar.float()
            z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
            y = decode_frames(vae.decoder, z).float()
        y = torch.where(corners(size), x, y)
        kl = 0.5 * (mu ** 2 + logvar.exp() - 1 - logvar).mean()
        grad = sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x)))
        loss = F.l1_loss(y, x) + 2 * F.mse_loss(y, x) + 0.5 * grad + 2e-4 * kl
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        mse = F.mse_loss(y.detach(), x).item()
        mean = mse if mean is None else 0.98 * mean + 0.02 * mse
        step += 1
        if step % 10 == 0:
            print(f"{time.time() - start:6.0f}s step {step} lr {lr:.1e} loss {loss.item():.4f} "
                  f"kl {kl.item():.2f} grad {norm:.2f} psnr {10 * np.log10(4 / mean):.2f}", file=log)
        if time.time() - start > next_test:
            values = psnr(vae, test)
            print("test " + " ".join(f"{v:.2f}" for v in values) + f" mean {np.mean(values):.2f}", file=log)
            vae.save_pretrained(os.path.join(root, "vae"))
            next_test += 300
    # Scale: the latents' standard deviation over whole pictures becomes 1.
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        square = [vae.encode(data.keyframe(levels[0])).latent_dist.mode().float().pow(2).mean().item()
                  for levels in pyramids]
    vae.register_to_config(scaling_factor=round(float(1 / np.sqrt(np.mean(square))), 4))
    values = psnr(vae, test)
    print("final test " + " ".join(f"{v:.2f}" for v in values) + f" mean {np.mean(values):.2f} "
          f"scaling_factor {vae.config.scaling_factor}", file=log)
    vae.save_pretrained(os.path.join(root, "vae"))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 30)
