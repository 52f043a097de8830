# SPDX-License-Identifier: MPL-2.0
"""The video network: its shape, and what is set in it before it is trained.

A camera pan fetches the keyframe's content from elsewhere: what is there times how far the pan has
gone, and a stack of convolutions knows no products. A group norm does: a group of two signals and one
companion that is larger, the same all over the frame, gives signals divided by the companion. So at
the largest level, channels come in threes:

  (s, -s, C): a signal, so that its mean is 0 in any group, and a constant beside which it is small;
  (d, d', H): inside a residual block, differences of neighbouring pixels and their companion, which
              says how much of them is wanted in this frame.

Each of the largest level's last three residual blocks moves the content by a third. What is to be fetched is decided at
the smaller levels, which see how the noise and the motion bucket go together, and reaches the largest
as planes, each with one value a frame. The last norm divides by companions that only know the
noise level, and so mixes the noisy clip and the answer to the scheduler's v:

  v = a * noisy - b * clean,  a = 1 / sigma,  b = (sigma^2 + 1)^0.5 / sigma
"""
import numpy as np
import torch
from diffusers import UNetSpatioTemporalConditionModel

import motion
from latent_code import CONTENT, FACTOR, LATENTS, MOTION, MOTION_GAIN

EMBEDDING = 64      # width of the image embedding, which is always zero (export.py)
WIDTHS = [96, 96, 96]
TIME = 128          # of the embedding's numbers, the first ones know the noise level only
# Where a norm is to leave signals as they are, its weight and bias must have the ratio of 2 ** 0.5, and in float16, too: 1393
# and 985 have. So what signals are beside is 3 * 985 times a power of two.
EXACT = 3 * 985.0
C = EXACT / 32      # the constant companion
BESIDE = EXACT      # what the numbers of `set_pairs` are beside, up to 100
CALM = EXACT / 16   # what the motion is beside, below 3
FIRST = 16.0        # the last norm's companion at a = 20 or b = 20
LEAST, MOST = 0.2, 20.0
EDGES = 3           # content channels whose edges the network can repeat beyond the frame
EDGE_SIZE = 1 / 4   # of them in norms, where they are not beside their negatives
THIRDS = 3          # residual blocks that move the content, each by a third
GATES = 30          # companions of what is moved, for each frame; the same in all three blocks
FAR = 30.0          # how far from 0 what is not at an edge is kept
LARGE = 200.0       # what companions are beside in those three blocks' first norms
GATE_SIZE = 1 / 20  # of them in the second and third block's norm, where they are not beside their negatives
SMALLEST = 1e4      # how much the mean motion is enlarged before its direction is taken
TOKEN = 100.0       # the constant beside which a layer norm leaves numbers as they are
TINY = 16 / EXACT   # numbers that are multiplied, beside companions of 1
REST = 0.2          # reach / FARTHEST + REST and
LEAD = 0.3          # frame / 13 + LEAD divide 1 for companions; what is too much is taken off again
SIGMA = slice(90, 96)  # hidden channels of the last block that know the noise level

# Groups of three at the largest level.
NOISY, KEY, EDGE = 0, LATENTS, LATENTS + CONTENT         # after conv_in; EDGE: two signals a group
CLEAN, PLANES = 0, LATENTS + 2 * EDGES                   # after the first block of the way up; its edges: from LATENTS on
NOISY_LAST = LATENTS                                     # after the third


def build():
    last = len(WIDTHS) - 1
    return UNetSpatioTemporalConditionModel(
        sample_size=128, in_channels=2 * LATENTS, out_channels=LATENTS, num_frames=motion.FRAMES,
        block_out_channels=WIDTHS, layers_per_block=[2] + [1] * last, transformer_layers_per_block=1,
        down_block_types=["DownBlockSpatioTemporal"] * last + ["CrossAttnDownBlockSpatioTemporal"],
        up_block_types=["CrossAttnUpBlockSpatioTemporal"] + ["UpBlockSpatioTemporal"] * last,
        num_attention_heads=[w // 32 for w in WIDTHS], cross_attention_dim=EMBEDDING,
        addition_time_embed_dim=EMBEDDING, projection_class_embeddings_input_dim=3 * EMBEDDING)


def signal(group):
    """The first channel of a group of three."""
    return 3 * group


def handed(gate):
    """Where the smaller levels hand up a gate's companion; its negative comes next. Before them is the pan, as two pairs."""
    return 6 + 6 * (gate // 2) + 2 * (gate % 2)


def pair_of(is_between, target):
    """The channels of a number and its negative at the second level: between its last two blocks, or after them (channel, sign)."""
    if is_between:  # (s, -s, K)
        first = signal(MOTION + target)
        return ((first, 1), (first + 1, -1))
    return ((MOTION + target, 1),)  # numbers as they are; the upsampler makes pairs of them


@torch.no_grad()
def set_pairs(unet):
    """Sets the last two blocks of the second level, and what spreads numbers from and to them, but not their weights.

    The third level hands up the pan in latent px in its first channels. In between there are threes (s, -s, K)
    and (after the second block) the pan and the companions as they are, which become pairs on the largest level.
    """
    blocks = [r.spatial_res_block for r in unet.up_blocks[-2].resnets]
    for block in blocks:
        for layer in (block.conv1, block.conv2, block.time_emb_proj, block.conv_shortcut):
            layer.weight.zero_()
            layer.bias.zero_()
        block.conv1.bias[2::3] = BESIDE
        norm_as_is(block.norm1, 192, 0, 1, BESIDE)
        norm_as_is(block.norm2, 96, 0, 1, BESIDE)
    below = unet.up_blocks[-3].upsamplers[0].conv
    below.weight.zero_()
    below.bias.zero_()
    below.bias[2::3] = BESIDE
    between, after = blocks[0].conv_shortcut, blocks[1].conv_shortcut
    between.bias[2::3] = BESIDE
    for k in range(MOTION):
        for off, sign in ((0, 1), (1, -1)):
            below.weight[signal(k) + off, k, 1, 1] = sign
            between.weight[signal(k) + off, signal(k) + off, 0, 0] = 1
        after.weight[k, signal(k), 0, 0] = 1
    up = unet.up_blocks[-2].upsamplers[0].conv
    up.weight.zero_()
    up.bias.zero_()
    for k in range(MOTION):
        up.weight[2 * k, k, 1, 1], up.weight[2 * k + 1, k, 1, 1] = 1, -1
    for gate in range(GATES):
        for off, sign in ((0, 1), (1, -1)):
            up.weight[handed(gate) + off, MOTION + gate, 1, 1] = sign
    up.bias[4::6], up.bias[5::6] = LARGE, -LARGE


def norm_as_is(norm, channels, first, size=1 / 8, constant=C):
    """Sets the affine part of a norm over (s, s', C) so that signals come out as s * size, and C as 1 or so."""
    for k in range(channels):
        if k % 3 == 2:
            norm.weight[first + k], norm.bias[first + k] = 0.5, 0.3
        else:
            norm.weight[first + k] = 1393 / EXACT * constant * size
            norm.bias[first + k] = constant / 3 * size


def wanted_gains(sigma):
    """a and b of v, as far as they are followed."""
    return (1 / sigma).clamp(LEAST, MOST), ((sigma ** 2 + 1) ** 0.5 / sigma).clamp(1, MOST)


@torch.no_grad()
def start(unet):
    """Sets everything of the largest level but what `train_fetch.py` trains. Calls for `fit_gains`."""
    # Nothing is added to anything, but where it is set below.
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out", "to_out.0", "net.2", "ff_in.net.2")):
            module.weight.zero_()
            module.bias.zero_()
    unet.add_embedding.linear_2.weight[:TIME] = 0
    unet.add_embedding.linear_2.bias[:TIME] = 0
    unet.time_embedding.linear_2.weight[TIME:] = 0
    unet.time_embedding.linear_2.bias[TIME:] = 0

    conv = unet.conv_in
    conv.weight.zero_()
    conv.bias.zero_()
    conv.bias[2::3] = C
    for k in range(LATENTS):
        size = 1.0 if k < CONTENT else 1 / MOTION_GAIN
        conv.weight[signal(NOISY + k), k, 1, 1], conv.weight[signal(NOISY + k) + 1, k, 1, 1] = size, -size
    for k in range(CONTENT):
        conv.weight[signal(KEY + k), LATENTS + k, 1, 1], conv.weight[signal(KEY + k) + 1, LATENTS + k, 1, 1] = 1, -1

    # Content at the frame's four edges, and nothing elsewhere: silu(c - B) - silu(-c - B) is 0 where B is large.
    block = unet.down_blocks[0].resnets[0].spatial_res_block
    norm_as_is(block.norm1, 96, 0)
    block.time_emb_proj.weight.zero_()
    block.time_emb_proj.bias.zero_()
    block.conv1.weight.zero_()
    block.conv1.bias.zero_()
    block.conv2.weight.zero_()
    block.conv2.bias.zero_()
    one = torch.nn.functional.silu(torch.tensor(0.5 * 2 ** 0.5 + 0.3)).item()  # what the constant is after norm and silu
    far = FAR
    # (c - B, -c - B, 2 B): the mean is 0 at the edges and elsewhere, whatever the frame's size.
    block.norm2.weight.fill_(2 ** 0.5 * far)
    block.norm2.bias.zero_()
    sides = [(1, 2), (1, 0), (2, 1), (0, 1)]  # taps that see beyond the edge: right, left, bottom, top
    for number in range(4 * EDGES):
        k, (row, column) = number // 4, sides[number % 4]
        for sign, hidden in ((1, signal(number)), (-1, signal(number) + 1)):
            block.conv1.weight[hidden, signal(KEY + k), 1, 1] = sign * 8
            block.conv1.weight[hidden, signal(KEY + k) + 1, 1, 1] = -sign * 8
            block.conv1.weight[hidden, signal(KEY + k) + 2, 1, 1] = far / one
            block.conv1.weight[hidden, signal(KEY + k) + 2, row, column] = -far / one
            block.conv1.bias[hidden] = -far
            block.conv2.weight[signal(EDGE + number // 2) + number % 2, hidden, 1, 1] = sign
        third = block.conv1.weight[signal(number) + 2, signal(KEY + k) + 2]
        third[1, 1], third[row, column] = -2 * far / one, 2 * far / one
        block.conv1.bias[signal(number) + 2] = 2 * far

    blocks = [r.spatial_res_block for r in unet.up_blocks[-1].resnets]
    for block in blocks:
        for layer in (block.conv1, block.conv2, block.time_emb_proj, block.conv_shortcut):
            layer.weight.zero_()
            layer.bias.zero_()
        # Signals are small beside their companions.
        block.norm2.weight.fill_(2 ** 0.5 / 3)
        block.norm2.bias.fill_(1 / 3)
        block.conv_shortcut.bias[2::3] = C
    first, middle, last = blocks
    skip = WIDTHS[1]
    first.norm1.weight[:skip], first.norm1.bias[:skip] = LARGE / 3 ** 0.5, 0  # (h, -h, h', -h', K, -K)
    norm_as_is(first.norm1, 96, skip, 1)
    norm_as_is(first.norm1, 6 * EDGES, skip + signal(EDGE), EDGE_SIZE)
    for block in (middle, last):
        norm_as_is(block.norm1, 192, 0, 1)
        norm_as_is(block.norm1, 6 * EDGES, signal(LATENTS), EDGE_SIZE)
        own = slice(signal(PLANES), 96)  # (h, h', K, h", h"', -K)
        block.norm1.weight[own], block.norm1.bias[own] = LARGE / 3 ** 0.5 * GATE_SIZE, 0
    shortcut = first.conv_shortcut.weight[:, :, 0, 0]
    for k in range(CONTENT):
        for off in (0, 1):
            shortcut[signal(CLEAN + k) + off, skip + signal(KEY + k) + off] = 1
    for k in range(MOTION):
        for off, sign in ((0, 1), (1, -1)):
            shortcut[signal(CLEAN + CONTENT + k) + off, 2 * k] = sign
    for number in range(4 * EDGES):
        place = signal(number // 2) + number % 2
        shortcut[signal(LATENTS) + place, skip + signal(EDGE) + place] = 1
    for gate in range(GATES):
        shortcut[signal(PLANES + gate // 2) + gate % 2, handed(gate)] = 1
    for channel in range(96):
        if channel % 3 < 2:
            middle.conv_shortcut.weight[channel, channel] = 1
    for block in (first, middle):
        block.conv_shortcut.bias[signal(PLANES) + 2::6], block.conv_shortcut.bias[signal(PLANES) + 5::6] = LARGE, -LARGE
    shortcut = last.conv_shortcut.weight[:, :, 0, 0]
    for k in range(LATENTS):
        for off in (0, 1):
            shortcut[signal(CLEAN + k) + off, signal(CLEAN + k) + off] = 1
            shortcut[signal(NOISY_LAST + k) + off, WIDTHS[0] + signal(NOISY + k) + off] = 1

    # The last norm: s * FIRST / H / 8, and v of it.
    norm, out = unet.conv_norm_out, unet.conv_out
    norm.weight.fill_(2 ** 0.5 / 3 * FIRST / 8)
    norm.bias.fill_(1 / 3 * FIRST / 8)
    norm.weight[2::3], norm.bias[2::3] = 0.5, 0.3
    out.weight.zero_()
    out.bias.zero_()
    for k in range(LATENTS):
        size = 8 * MOST if k < CONTENT else 8 * MOST * MOTION_GAIN
        for group, sign in ((CLEAN + k, -1), (NOISY_LAST + k, 1)):
            out.weight[k, signal(group), 1, 1], out.weight[k, signal(group) + 1, 1, 1] = sign * size, -sign * size


@torch.no_grad()
def set_pan(unet):
    """Sets the smaller levels: the direction of the noisy motion's mean, times how far the bucket, the rate and the frame say.

    The mean over the frame and over all frames is attention whose queries are 0; a group norm over (x, -x, y, -y) leaves the
    direction alone. Calls for `fit_reach`.
    """
    for level, block in enumerate(unet.down_blocks[:-1]):
        conv = block.downsamplers[0].conv
        conv.weight.zero_()
        conv.bias.zero_()
        conv.bias[2:12:3] = CALM
        for k in range(MOTION):
            source = signal(NOISY + CONTENT + k) if level == 0 else signal(k)
            for off in (0, 1):
                conv.weight[signal(k) + off, source + off, 1:, 1:] = 0.25
    mean = unet.down_blocks[-1].attentions[0]
    norm_as_is(mean.norm, 12, 0, 1, CALM)
    mean.proj_in.weight.zero_()
    mean.proj_in.bias.zero_()
    mean.proj_in.bias[-2], mean.proj_in.bias[-1] = TOKEN, -TOKEN
    for n, channel in enumerate((0, 1, 3, 4)):
        mean.proj_in.weight[n, channel] = 1
    width = len(mean.proj_in.bias)
    for block, source, target in ((mean.transformer_blocks[0], 0, 8), (mean.temporal_transformer_blocks[0], 8, 20)):
        attention = block.attn1
        for layer in (attention.to_q, attention.to_k, attention.to_v):
            layer.weight.zero_()
        for n in range(4):
            attention.to_v.weight[n, source + n] = 1
            attention.to_out[0].weight[target + n, n] = TOKEN * (2 / width) ** 0.5
    mean.time_mixer.mix_factor.fill_(-30)  # the temporal half alone
    for n in range(4):
        mean.proj_out.weight[12 + n, 20 + n] = SMALLEST
    mean.proj_out.weight[6, 16] = mean.proj_out.weight[7, 17] = 1

    turn, reach = (r.spatial_res_block for r in unet.up_blocks[0].resnets)
    for block in (turn, reach):
        for layer in (block.conv1, block.conv2, block.time_emb_proj, block.conv_shortcut):
            layer.weight.zero_()
            layer.bias.zero_()
        block.norm2.weight.fill_(2 ** 0.5 / 3 / TINY)
        block.norm2.bias.fill_(1 / 3 / TINY)
        block.conv1.bias[2::3] = 1
    turn.norm1.weight.fill_(3 ** -0.5)
    turn.norm1.bias.zero_()
    norm_as_is(reach.norm1, 12, 0, 1, CALM)
    turn.conv_shortcut.bias[2:12:3] = CALM
    turn.conv_shortcut.weight[6, 6] = turn.conv_shortcut.weight[7, 7] = 1
    turn.conv1.bias[[2, 5]] = 0  # of the companions that `fit_reach` sets
    reach.conv1.bias[[2, 5]] = 0
    for k in range(MOTION):
        for half in (0, 1):  # with a companion, and with 1
            for off, sign in ((0, 1), (1, -1)):
                hidden = 3 * (k + MOTION * half) + off
                turn.conv1.weight[hidden, 12 + 2 * k, 1, 1], turn.conv1.weight[hidden, 13 + 2 * k, 1, 1] = sign * TINY, -sign * TINY
                reach.conv1.weight[hidden, 3 * k, 1, 1], reach.conv1.weight[hidden, 3 * k + 1, 1, 1] = sign * TINY, -sign * TINY
                far = motion.FARTHEST / FACTOR
                share = sign * (far if half == 0 else -REST * far)
                turn.conv2.weight[3 * k, hidden, 1, 1], turn.conv2.weight[3 * k + 1, hidden, 1, 1] = share, -share
                reach.conv2.weight[k, hidden, 1, 1] = sign * (1 if half == 0 else -LEAD)
        reach.conv1.weight[3 * k + 2, 6, 1, 1], reach.conv1.weight[3 * k + 2, 7, 1, 1] = 1, -1


def fit(made, wanted, inputs, own, steps, rate):
    """Trains `own` so that `made(inputs())` is `wanted(inputs())` but for a part of it; gives that part, in the mean and at most."""
    optimiser = torch.optim.Adam(own, lr=rate, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = float(rate * min(1, (step + 1) / 100) * (0.5 * (1 + np.cos(np.pi * step / steps)) + 0.0005))
        x = inputs()
        off = made(x) / wanted(x) - 1
        loss = off.abs().mean() + ((off ** 2).mean() if step > steps / 2 else 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return off.abs().mean().item(), off.abs().max().item()


def fit_reach(unet, steps=3000):
    """Trains what the network makes of the motion bucket and the frame rate, and of a frame's number: two companions."""
    silu = torch.nn.functional.silu
    generator = torch.Generator().manual_seed(7)
    noise = lambda *shape: torch.randn(shape, generator=generator)
    ids, emb = unet.add_embedding, unet.add_embedding.linear_2
    own = [torch.nn.Parameter(t) for t in (
        0.2 * noise(*ids.linear_1.weight.shape), noise(len(ids.linear_1.bias)), 0.05 * noise(len(emb.bias) - TIME, emb.in_features),
        0.1 * noise(len(emb.bias) - TIME), 0.2 * noise(len(emb.bias) - TIME), torch.ones(1))]

    def some():
        fps = torch.randint(1, 31, (512,), generator=generator).float()
        bucket = torch.rand(512, generator=generator) * 255 + 0.5
        return torch.stack([fps - 1, torch.where(torch.rand(512, generator=generator) < 0.5, bucket, bucket.round()),
                            torch.rand(512, generator=generator) * 0.1], 1)

    def companion(x):
        return 1 / (torch.from_numpy(motion.reach(x[:, 1].numpy(), x[:, 0].numpy() + 1)) / motion.FARTHEST + REST)

    def made(x):
        w1, b1, w2, b2, w3, b3 = own
        return silu(silu(unet.add_time_proj(x.flatten()).view(len(x), -1) @ w1.T + b1) @ w2.T + b2) @ w3 + b3

    print("reach: off by %.4f in the mean, %.4f at most" % fit(made, companion, some, own, steps, 4e-3))
    turn = unet.up_blocks[0].resnets[0].spatial_res_block
    with torch.no_grad():
        ids.linear_1.weight.copy_(own[0])
        ids.linear_1.bias.copy_(own[1])
        emb.weight[TIME:], emb.bias[TIME:] = own[2], own[3]
        for k in range(MOTION):
            turn.time_emb_proj.weight[3 * k + 2, TIME:], turn.time_emb_proj.bias[3 * k + 2] = own[4], own[5][0]

    mean = unet.down_blocks[-1].attentions[0]
    frames = torch.arange(33).float()
    place = mean.time_pos_embed
    own_frames = [torch.nn.Parameter(t) for t in (0.3 * noise(*place.linear_1.weight.shape), noise(len(place.linear_1.bias)),
                                                  0.05 * noise(place.linear_2.in_features), torch.ones(1))]

    def made_frames(x):
        w1, b1, w2, b2 = own_frames
        return silu(mean.time_proj(x) @ w1.T + b1) @ w2 + b2

    wanted = lambda x: 1 / (x / (motion.FRAMES - 1) + LEAD)
    print("frames: off by %.4f in the mean, %.4f at most" % fit(made_frames, wanted, lambda: frames, own_frames, steps, 4e-3))
    with torch.no_grad():
        place.linear_1.weight.copy_(own_frames[0])
        place.linear_1.bias.copy_(own_frames[1])
        place.linear_2.weight.zero_()
        place.linear_2.bias.zero_()
        for dim, sign in ((16, 1), (17, -1)):
            place.linear_2.weight[dim], place.linear_2.bias[dim] = sign * own_frames[2], sign * own_frames[3][0]


def fit_gains(unet, steps=2500, rate=1e-2):
    """Trains what the last block makes of the noise level: the companions of the last norm. Takes half a minute."""
    silu = torch.nn.functional.silu
    generator = torch.Generator().manual_seed(6)
    noise = lambda *shape: torch.randn(shape, generator=generator)
    block, time = unet.up_blocks[-1].resnets[-1].spatial_res_block, unet.time_embedding
    width, hidden = unet.time_proj.num_channels, time.linear_1.out_features
    columns = [h for h in range(SIGMA.start, SIGMA.stop) if h % 3 < 2]
    size = torch.tensor([200.0, 40.0])
    own = [torch.nn.Parameter(t) for t in (
        0.3 * noise(hidden, width), noise(hidden), 0.05 * noise(TIME, hidden), 0.1 * noise(TIME),
        0.3 * noise(len(columns), TIME), torch.zeros(len(columns)), 0.3 * noise(2, len(columns)), torch.full((2,), 0.2))]
    w1, b1, w2, b2, w3, b3, mix, base = own
    optimiser = torch.optim.Adam(own, lr=rate, betas=(0.9, 0.99))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = float(rate * min(1, (step + 1) / 100) * (0.5 * (1 + np.cos(np.pi * step / steps)) + 0.0005))
        level = torch.exp(torch.rand(512, generator=generator) * np.log(800 / 0.002) + np.log(0.002))
        f = silu(silu(unet.time_proj(0.25 * level.log()) @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
        threes = torch.cat([f.view(-1, 2, 2), torch.ones(len(f), 2, 1)], 2)
        normed = (threes - threes.mean(2, keepdim=True)) / (threes.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
        made = (silu(4 * normed[:, :, :2].flatten(1) + 2) @ mix.T + base) * size
        a, b = wanted_gains(level)
        off = made * torch.stack([a, b], 1) / (FIRST * MOST) - 1
        loss = off.abs().mean() + ((off ** 2).mean() if step > steps / 2 else 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    print(f"gains: off by {100 * off.abs().mean():.2f} % in the mean")
    with torch.no_grad():
        for to, value in ((time.linear_1.weight, w1), (time.linear_1.bias, b1), (time.linear_2.weight[:TIME], w2),
                          (time.linear_2.bias[:TIME], b2)):
            to.copy_(value)
        block.time_emb_proj.weight[columns, :TIME], block.time_emb_proj.bias[columns] = w3, b3
        block.norm2.weight[SIGMA], block.norm2.bias[SIGMA] = 4.0, 2.0
        for k in range(LATENTS):
            for group, which in ((NOISY_LAST + k, 0), (CLEAN + k, 1)):
                block.conv2.weight[signal(group) + 2, columns, 1, 1] = mix[which] * size[which]
                block.conv2.bias[signal(group) + 2] = base[which] * size[which] - C
