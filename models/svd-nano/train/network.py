# SPDX-License-Identifier: MPL-2.0
"""The video network: its shape, and what is set in it before it is trained.

Numbers travel as pairs beside a constant, three channels to a group:

  (s, -s, C): its mean is known in any group norm, whatever s is, and its size hardly depends on s where C is large. So a norm leaves s as
              it is (`norm_as_is`), and behind it silu(s) - silu(-s) is s again: a convolution sees the numbers themselves.

What depends on what, from the bottom up:

  lowest level   the noisy motion's means over the frame and the clip, weighted from left to right and from top to bottom, have a direction in
                 four dimensions: the camera. It is multiplied by how far the motion bucket and the rate say, by the frame's share
                 of the clip, and by each place's distance from the middle: that is the motion. (Places come from the edges:
                 a convolution sees where the frame ends, and what it sees is handed on from pixel to pixel.)
  third, second  the motion is made smooth on its way up; small functions of it become PLANES numbers for each place.
  largest level  the last BLOCKS residual blocks move the content, each by a part of the way. Their hidden channels come in pairs, and
                 silu(g + d) - silu(g - d) is d times 2 silu'(g), where d is small: differences of neighbouring pixels, as much of them
                 as the place's numbers say. The last norm divides by companions that only know the noise level, and
                 so mixes the noisy clip and the answer to the scheduler's v:

  v = a * noisy - b * clean,  a = 1 / sigma,  b = (sigma^2 + 1)^0.5 / sigma
"""
import numpy as np
import torch
from diffusers import UNetSpatioTemporalConditionModel

import motion
from latent_code import CONTENT, FACTOR, LATENTS, MOTION, MOTION_GAIN
from motion import NUMBERS

EMBEDDING = 64      # width of the image embedding, which is always zero (export.py)
BLOCKS = 4          # residual blocks that move the content
WIDTHS = [96, 96, 96, 96]
TIME = 128          # of the embedding's numbers, the first ones know the noise level only
# Where a norm is to leave signals as they are, its weight and bias must have the ratio of 2 ** 0.5, and in float16, too: 1393
# and 985 have. So what signals are beside is 3 * 985 times a power of two.
EXACT = 3 * 985.0
C = EXACT / 32      # beside content
CALM = EXACT / 16   # beside the motion, below 5, and what the lowest level makes of it
BESIDE = EXACT      # beside numbers up to 100
ONE = torch.nn.functional.silu(torch.tensor(0.5 * 2 ** 0.5 + 0.3)).item()  # what a constant is behind norm and silu
FIRST = 16.0        # the last norm's companion at a = 20 or b = 20
LEAST, MOST = 0.2, 20.0
EDGES = 3           # content channels whose edges the network can repeat beyond the frame
EDGE_SIZE = 1 / 4   # of them in norms, where they are not beside their negatives
FAR = 30.0          # how far from 0 what is not at an edge is kept
GATES = 15          # in a block that moves content; of each, two differences, the second one's with its negative
PLANES = 16         # numbers for each place that gates are made of
SCALARS = 30        # between the two blocks of the second level
LOOK = 0.2          # means are weighted by exp(LOOK * x) and exp(-LOOK * x), where |(x, y)| is 1 in the root mean square
SMALLEST = 1e4      # how much the mean motion is enlarged before its direction is taken
STRAIGHT = 1 / 256  # of numbers that have no negatives, where silu is a straight line
TOKEN = 100.0       # the constant beside which a layer norm leaves numbers as they are
TINY = 16 / EXACT   # numbers that are multiplied, beside companions of 1
REST = 0.2          # reach / FARTHEST + REST divides 1 for a companion; what is too much is taken off again
LIFT = 6.0          # where gelu is a straight line
SHARP = 64.0        # how much a number is enlarged where gelu is to have a corner at 0
SIGMA = slice(90, 96)  # hidden channels of the last block that know the noise level

CENTRE, RIGHT, LEFT, BOTTOM, TOP = (1, 1), (1, 2), (1, 0), (2, 1), (0, 1)  # taps of a convolution
SIDES = (RIGHT, LEFT, BOTTOM, TOP)
OPPOSITE = {RIGHT: LEFT, LEFT: RIGHT, BOTTOM: TOP, TOP: BOTTOM}

# Groups of three at the largest level.
NOISY, KEY, EDGE = 0, LATENTS, LATENTS + CONTENT  # after conv_in; EDGE, two numbers a group without negatives, after the first block
CLEAN, MOVED = 0, CONTENT                         # on the way up: content (before the first block, nothing), the motion,
KEPT, PLANE = LATENTS, LATENTS + 2 * EDGES        # edges (before the first block, nothing), planes
NOISY_LAST = LATENTS                              # after the last block
LARGE = [3 * group + 2 for group in (*range(MOVED, KEPT), *range(PLANE, PLANE + PLANES))]  # constants beside the motion and planes
# At the lowest level.
SEEN, PLACE, MEANS = 2, 6, 8  # how far each side's edge has been seen; (x, 0, 0) and (y, 0, 0); the motion's means, six channels
SIZES, ASPECT = 10, 12        # 1 / width and 1 / height, times a number; width and height as parts of the diagonal
SHARE = 14                    # the number of a token that is the frame's share of the clip
# At the two levels in between: the motion in groups 0 and 1, then what it is at the four edges.
AT_EDGE = 2


def build():
    last = len(WIDTHS) - 1
    return UNetSpatioTemporalConditionModel(
        sample_size=128, in_channels=2 * LATENTS, out_channels=LATENTS, num_frames=motion.FRAMES,
        block_out_channels=WIDTHS, layers_per_block=[BLOCKS - 1] + [1] * last, transformer_layers_per_block=1,
        down_block_types=["DownBlockSpatioTemporal"] * last + ["CrossAttnDownBlockSpatioTemporal"],
        up_block_types=["CrossAttnUpBlockSpatioTemporal"] + ["UpBlockSpatioTemporal"] * last,
        num_attention_heads=[w // 16 for w in WIDTHS], cross_attention_dim=EMBEDDING,
        addition_time_embed_dim=EMBEDDING, projection_class_embeddings_input_dim=3 * EMBEDDING)


def signal(group):
    """The first channel of a group of three."""
    return 3 * group


def clear(*layers):
    for layer in layers:
        layer.weight.zero_()
        layer.bias.zero_()


def wire(layer, to, source, weight, tap=CENTRE, pair=True):
    """Adds a number's pair of channels `source`, times `weight`, to the pair `to`, or to the channel `to` alone."""
    tap = tap if layer.weight.shape[-1] == 3 else (0, 0)
    for off, sign in ((0, 1), (1, -1))[:1 + pair]:
        layer.weight[(to + off, source, *tap)] += sign * weight
        layer.weight[(to + off, source + 1, *tap)] -= sign * weight


def spatial(block):
    return [r.spatial_res_block for r in block.resnets]


def empty(block, constant):
    """Clears a residual block; its hidden channels become numbers beside `constant`."""
    clear(block.conv1, block.conv2, block.time_emb_proj)
    if block.conv_shortcut is not None:
        clear(block.conv_shortcut)
    block.conv1.bias[2::3] = constant
    norm_as_is(block.norm2, 0, len(block.norm2.weight), constant)


def norm_as_is(norm, first, channels, constant, size=1.0):
    """Sets the affine part of a norm over (s, -s, constant) so that numbers come out as s * size, and constants as 1 or so."""
    for k in range(first, first + channels):
        if (k - first) % 3 == 2:
            norm.weight[k], norm.bias[k] = 0.5, 0.3
        else:
            norm.weight[k], norm.bias[k] = 1393 / EXACT * constant * size, constant / 3 * size


def find_edges(block, first, sources, size):
    """Hidden groups from `first` on: four for each pair of channels in `sources`, which comes as `size` of itself.

    silu(s - B) - silu(-s - B) is s at the frame's right, left, bottom or top edge, and 0 elsewhere, where B is large. (s - B, -s - B, 2 B):
    the mean is 0 at the edges and elsewhere, whatever the frame's size.
    """
    for number, source in enumerate(sources):
        for place, beyond in enumerate(SIDES):
            hidden = signal(first + 4 * number + place)
            block.conv1.bias[hidden + 2] = 0
            wire(block.conv1, hidden, source, 1 / size)
            for channel, sign in ((hidden, 1), (hidden + 1, 1), (hidden + 2, -2)):
                block.conv1.weight[(channel, source + 2, *CENTRE)] += sign * FAR / ONE
                block.conv1.weight[(channel, source + 2, *beyond)] -= sign * FAR / ONE
                block.conv1.bias[channel] -= sign * FAR
            block.norm2.weight[hidden:hidden + 3], block.norm2.bias[hidden:hidden + 3] = 2 ** 0.5 * FAR, 0


def wanted_gains(sigma):
    """a and b of v, as far as they are followed."""
    return (1 / sigma).clamp(LEAST, MOST), ((sigma ** 2 + 1) ** 0.5 / sigma).clamp(1, MOST)


@torch.no_grad()
def start(unet):
    """Sets the largest level, but for what `train_fetch.py` trains. Calls for `fit_gains`."""
    # Nothing is added to anything, but where it is set below.
    for name, module in unet.named_modules():
        if name.endswith(("conv2", "proj_out", "to_out.0", "net.2", "ff_in.net.2")):
            clear(module)
    unet.add_embedding.linear_2.weight[:TIME] = 0
    unet.add_embedding.linear_2.bias[:TIME] = 0
    unet.time_embedding.linear_2.weight[TIME:] = 0
    unet.time_embedding.linear_2.bias[TIME:] = 0

    conv = unet.conv_in
    clear(conv)
    conv.bias[2::3] = C
    for k in range(LATENTS):
        for off, sign in ((0, 1), (1, -1)):
            conv.weight[signal(NOISY + k) + off, k, 1, 1] = sign * (1 if k < CONTENT else 1 / MOTION_GAIN)
            if k < CONTENT:
                conv.weight[signal(KEY + k) + off, LATENTS + k, 1, 1] = sign
    block = spatial(unet.down_blocks[0])[0]
    empty(block, C)
    norm_as_is(block.norm1, 0, WIDTHS[0], C, 1 / 8)
    find_edges(block, 0, [signal(KEY + k) for k in range(EDGES)], 1 / 8)
    for number in range(4 * EDGES):
        wire(block.conv2, signal(EDGE + number // 2) + number % 2, signal(number), 1, pair=False)

    blocks, skip = spatial(unet.up_blocks[-1]), WIDTHS[0]
    for place, block in enumerate(blocks):
        empty(block, C)
        norm_as_is(block.norm1, 0, 2 * skip, C)
        for first, channels in ((signal(MOVED), 3 * MOTION), (signal(PLANE), 3 * PLANES)):
            norm_as_is(block.norm1, first, channels, BESIDE)
        for first in (signal(KEPT), skip + signal(EDGE)):
            norm_as_is(block.norm1, first, 6 * EDGES, C, EDGE_SIZE)
        block.conv_shortcut.bias[2::3] = C
        key, edges = (skip + signal(KEY), skip + signal(EDGE)) if place == 0 else (signal(CLEAN), signal(KEPT))
        for k in range(CONTENT):
            wire(block.conv_shortcut, signal(CLEAN + k), key + signal(k), 0.5)
        for k in range(MOTION):
            wire(block.conv_shortcut, signal(MOVED + k), signal(MOVED + k), 0.5)
        if block is not blocks[-1]:
            block.conv_shortcut.bias[LARGE] = BESIDE
            for plane in range(PLANES):
                wire(block.conv_shortcut, signal(PLANE + plane), signal(PLANE + plane), 0.5)
            for number in range(4 * EDGES):
                channel = signal(number // 2) + number % 2
                block.conv_shortcut.weight[signal(KEPT) + channel, edges + channel] = 1
    for k in range(LATENTS):
        wire(blocks[-1].conv_shortcut, signal(NOISY_LAST + k), skip + signal(NOISY + k), 0.5)

    # The last norm: s * FIRST / H / 8, and v of it.
    norm, out = unet.conv_norm_out, unet.conv_out
    norm.weight.fill_(2 ** 0.5 / 3 * FIRST / 8)
    norm.bias.fill_(1 / 3 * FIRST / 8)
    norm.weight[2::3], norm.bias[2::3] = 0.5, 0.3
    clear(out)
    for k in range(LATENTS):
        size = 8 * MOST if k < CONTENT else 8 * MOST * MOTION_GAIN
        wire(out, k, signal(CLEAN + k), -size, pair=False)
        wire(out, k, signal(NOISY_LAST + k), size, pair=False)


def embedded():
    """Four numbers as six whose sum is 0, and the sum of whose squares is theirs: (6, 4)."""
    matrix = torch.zeros(6, NUMBERS)
    for k in range(3):
        matrix[2 * k, k], matrix[2 * k + 1, k] = 0.5 ** 0.5, -0.5 ** 0.5
    matrix[:, 3] = torch.tensor([2.0, 2.0, -1.0, -1.0, -1.0, -1.0]) / 12 ** 0.5
    return matrix


@torch.no_grad()
def set_camera(unet):
    """Sets the lowest level: from the noisy motion to the motion. Calls for `fit_reach` and `fit_frames`."""
    for level, block in enumerate(unet.down_blocks[:-1]):
        conv = block.downsamplers[0].conv
        clear(conv)
        conv.bias[2::3] = CALM
        for k in range(MOTION):
            source = signal(NOISY + CONTENT + k) if level == 0 else signal(k)
            for off in (0, 1):
                conv.weight[signal(k) + off, source + off, 1:, 1:] = 0.25
    conv.bias[signal(PLACE):signal(SIZES)] = 0
    for k in range(4):
        conv.bias[signal(SEEN + k)], conv.bias[signal(SEEN + k) + 1] = 1, -1
    up = spatial(unet.up_blocks[0])
    steps = [*spatial(unet.down_blocks[-1]), *spatial(unet.mid_block), up[0]]
    for block in (*steps, up[1]):
        empty(block, CALM)
        norm_as_is(block.norm1, 0, len(block.norm1.weight), CALM)
    for block in up:
        block.conv_shortcut.bias[2::3] = CALM
        block.conv_shortcut.bias[signal(PLACE):signal(SIZES)] = 0
        for k in range(MOTION):
            block.conv_shortcut.weight[signal(PLACE + k), signal(PLACE + k)] = 1
            wire(block.conv_shortcut, signal(ASPECT + k), signal(ASPECT + k), 0.5)
    for k in range(MOTION):
        wire(up[0].conv_shortcut, signal(k), signal(k), 0.5)
    for block in steps:
        step_from_edges(block, block is up[0])
    turn(up[1])

    tokens = [Tokens(block) for block in (unet.down_blocks[-1].attentions[0], unet.mid_block.attentions[0], *unet.up_blocks[0].attentions)]
    sizes, aspect, means, fields = tokens
    find_aspect(sizes, aspect)
    for block in (means, fields):
        for k in range(MOTION):
            block.block.proj_in.weight[MOTION + k, signal(PLACE + k)] = 1
            block.read(2 * MOTION + k, signal(ASPECT + k))
    find_means(means)
    make_motion(fields)
    for block in tokens:
        block.mirror()


def step_from_edges(block, is_last):
    """A plane of ones moves away from an edge by a pixel in each convolution; the sum of all such planes is how far it is to that edge."""
    for k, tap in enumerate((LEFT, RIGHT, TOP, BOTTOM)):
        seen, before, after = signal(SEEN + k), signal(2 * k), signal(2 * k + 1)
        wire(block.conv1, before, seen, 1)
        wire(block.conv1, after, seen, 1, tap)
        if not is_last:
            wire(block.conv2, seen, after, 1, tap)
            wire(block.conv2, seen, before, -1)
        place, sign = signal(PLACE + k // 2), 1 - 2 * (k % 2)
        wire(block.conv2, place, after, sign, pair=False)
        wire(block.conv2, place, after, sign * (0.5 if is_last else 1), tap, pair=False)  # so that 16 pixels make a straight line, too


class Tokens:
    """An attention block whose tokens hold numbers, and their negatives in the second half: a layer norm takes a token's mean away.

    Beside TOKEN and -TOKEN, numbers come out of layer norms as `size` of themselves. Both attentions have queries of 0, and give nothing.
    """

    def __init__(self, block):
        self.block, self.half = block, len(block.proj_in.bias) // 2
        self.within, self.over_time = block.transformer_blocks[0], block.temporal_transformer_blocks[0]
        self.straight = self.half ** 0.5  # what a layer norm makes of TOKEN
        self.size = self.straight / TOKEN
        norm_as_is(block.norm, 0, len(block.norm.weight), CALM)
        own = slice(signal(PLACE), signal(PLACE + MOTION))
        block.norm.weight[own], block.norm.bias[own] = 3 ** -0.5, 0  # x^2 and y^2 are 1 in the mean
        clear(block.proj_in, block.time_pos_embed.linear_2)
        block.proj_in.bias[-2], block.proj_in.bias[-1] = TOKEN, -TOKEN
        block.time_mixer.mix_factor.fill_(-30)  # the temporal half alone, which begins with what the spatial one gives
        for attention in (self.within.attn1, self.over_time.attn1):
            for layer in (attention.to_q, attention.to_k, attention.to_v):
                layer.weight.zero_()

    def read(self, to, source, weight=1.0):
        """A pair of channels, times `weight`, becomes number `to`."""
        self.block.proj_in.weight[to, source], self.block.proj_in.weight[to, source + 1] = weight / 2, -weight / 2

    def write(self, to, source, weight=1.0):
        """Number `source`, times `weight`, is added to a pair of channels."""
        self.block.proj_out.weight[to, source], self.block.proj_out.weight[to + 1, source] = weight, -weight

    def multiply(self, ff, products):
        """Makes `ff` add products of numbers, (a, b, to, weight): a * gelu(LIFT + b) - a * gelu(LIFT)."""
        inner, outer = ff.net[0].proj, ff.net[2]
        half = len(inner.bias) // 2
        clear(inner)
        inner.bias[half:] = LIFT
        for number, (a, b, to, weight) in enumerate(products):
            for hidden, sign in ((2 * number, 1), (2 * number + 1, -1)):
                inner.weight[hidden, a] = 1 / self.size
                outer.weight[to, hidden] = sign * weight
            inner.weight[half + 2 * number, b] = 1 / self.size

    def make_negative(self, ff, number):
        """Makes `ff`, whose hidden channels are not all used, turn a number round if it is positive: n - 2 gelu(SHARP n) / SHARP."""
        inner, outer = ff.net[0].proj, ff.net[2]
        half = len(inner.bias) // 2
        inner.bias[half - 1], inner.bias[-1] = 1, 0
        inner.weight[-1, number] = SHARP / self.size
        outer.weight[number, -1] = -2 / SHARP

    def mirror(self):
        """Gives everything that is written into tokens its negative."""
        for linear in (self.block.proj_in, self.within.attn1.to_out[0], self.within.ff.net[2], self.over_time.ff_in.net[2],
                       self.over_time.attn1.to_out[0], self.over_time.ff.net[2]):
            linear.weight[self.half:] -= linear.weight[:self.half]
            linear.bias[self.half:] -= linear.bias[:self.half]


def find_aspect(sizes, aspect):
    """How much of the frame is an edge is 1 / width and 1 / height; their direction is height and width as parts of the diagonal."""
    aspect.block.proj_in.bias.zero_()  # nothing is beside these numbers, so that a layer norm leaves their direction
    for k in range(MOTION):
        sizes.read(k, signal(SEEN + 2 * k), -1)
        sizes.block.proj_in.bias[k] = 1
        sizes.within.attn1.to_v.weight[k, k] = 1
        sizes.within.attn1.to_out[0].weight[2 + k, k] = 1 / sizes.size
        sizes.write(signal(SIZES + k), 2 + k)
        aspect.read(k, signal(SIZES + k), 100)
        aspect.within.attn1.to_v.weight[k, 1 - k] = 1
        aspect.within.attn1.to_out[0].weight[2 + k, k] = 1 / aspect.straight
        aspect.write(signal(ASPECT + k), 2 + k)


def find_means(means):
    """The noisy motion's means: of the whole frame (head 0), and weighted towards the right, the left, the bottom, the top; over all frames.

    Queries know the frame's shape and keys places, so that their products are r (see `motion.py`).
    """
    within, over_time = means.within.attn1, means.over_time.attn1
    head = 2 * means.half // within.heads
    share = 1 / (2 * LOOK * motion.ZOOM)  # so that a zoom and a roll are found as large as they are
    out = within.to_out[0].weight
    for k in range(MOTION):
        means.read(k, signal(k))
        out[8 + k, k] = 1 / means.size
    for number, (axis, sign) in enumerate(((0, 0), (0, 1), (0, -1), (1, 1), (1, -1))):
        first = head * number
        within.to_v.weight[first, 0] = within.to_v.weight[first + 1, 1] = 1
        within.to_q.weight[first, 2 * MOTION + axis] = abs(sign) / means.size
        within.to_k.weight[first, MOTION + axis] = sign * LOOK * head ** 0.5 / means.size
        out[10, first + axis] = sign * share / means.size
        out[11, first + 1 - axis] = sign * (1 - 2 * axis) * share / means.size
    for k in range(NUMBERS):
        over_time.to_v.weight[k, 8 + k] = 1
        over_time.to_out[0].weight[12 + k, k] = 1 / means.size
    means.block.proj_out.weight[signal(MEANS):signal(MEANS) + 6, 12:12 + NUMBERS] = SMALLEST * embedded()


def turn(block):
    """The means' direction, times reach: (d, -d, H), where H is 1 / (reach / FARTHEST + REST), see `fit_reach`, or 1."""
    own = slice(signal(MEANS), signal(MEANS) + 6)
    block.norm1.weight[own], block.norm1.bias[own] = STRAIGHT, 0
    block.norm2.weight.fill_(2 ** 0.5 / 3 / TINY)
    block.norm2.bias.fill_(1 / 3 / TINY)
    block.conv1.bias[2::3] = 1
    far = motion.FARTHEST / FACTOR
    for k in range(NUMBERS):
        block.conv1.bias[signal(k) + 2] = 0
        for hidden, weight in ((signal(k), far), (signal(k + NUMBERS), -REST * far)):
            for off, sign in ((0, 1), (1, -1)):
                block.conv1.weight[(hidden + off, own, *CENTRE)] = sign * TINY * 2 / STRAIGHT / 6 ** 0.5 * embedded()[:, k]
            wire(block.conv2, signal(k), hidden, weight)


def make_motion(fields):
    """r from places and the frame's shape, and no zoom but inwards; |r|^2, and the camera times the frame's share of the clip; then all
    of it together."""
    for k in range(NUMBERS):
        fields.read(8 + k, signal(k))
    fields.multiply(fields.within.ff, [(MOTION + k, 2 * MOTION + k, 6 + k, 1) for k in range(MOTION)])
    fields.make_negative(fields.within.ff, 8 + 2)
    fields.multiply(fields.over_time.ff_in, [(8 + k, SHARE, 16 + k, 1) for k in range(NUMBERS)] + [(6 + k, 6 + k, 20, 1) for k in range(MOTION)])
    products = []
    for k in range(MOTION):
        products += [(16 + k, 20, 22 + k, -motion.PARALLAX), (18, 6 + k, 22 + k, motion.ZOOM), (19, 7 - k, 22 + k, motion.ZOOM * (2 * k - 1))]
        fields.write(signal(4 + k), 22 + k)
        fields.write(signal(4 + k), 16 + k, 1 + motion.PARALLAX)
    fields.multiply(fields.over_time.ff, products)


@torch.no_grad()
def set_between(unet):
    """Sets the two levels between: the motion is made smooth on its way up, as if the frame went on beyond its edges."""
    conv = unet.up_blocks[0].upsamplers[0].conv
    clear(conv)
    conv.bias[2::3] = CALM
    for k in range(MOTION):
        wire(conv, signal(k), signal(4 + k), 0.5)
    smooth, find = spatial(unet.up_blocks[1])
    for block in (smooth, find):
        empty(block, CALM)
        norm_as_is(block.norm1, 0, len(block.norm1.weight), CALM)
        block.conv_shortcut.bias[2::3] = CALM
        for k in range(MOTION):
            wire(block.conv_shortcut, signal(k), signal(k), 0.5)
    numbers = [signal(k) for k in range(MOTION)]
    find_edges(smooth, AT_EDGE, numbers, 1)
    find_edges(find, 0, numbers, 1)
    for k in range(MOTION):
        wire(smooth.conv1, signal(k), signal(k), 1)
        wire(smooth.conv2, signal(k), signal(k), -1)
        for place, tap in enumerate(SIDES):
            wire(smooth.conv2, signal(k), signal(k), 0.25, tap)
            wire(smooth.conv2, signal(k), signal(AT_EDGE + 4 * k + place), 0.25)
            wire(find.conv2, signal(AT_EDGE + 4 * k + place), signal(4 * k + place), 1)
    conv = unet.up_blocks[1].upsamplers[0].conv
    clear(conv)
    conv.bias[2::3] = BESIDE
    for group in range(AT_EDGE + 4 * MOTION):
        wire(conv, signal(group), signal(group), 0.5)
    for block in spatial(unet.up_blocks[2]):
        empty(block, BESIDE)
        norm_as_is(block.norm1, 0, len(block.norm1.weight), BESIDE)
        block.conv_shortcut.bias[2::3] = BESIDE
    for k in range(MOTION):
        wire(block.conv_shortcut, signal(k), signal(k), 0.5)
    conv = unet.up_blocks[2].upsamplers[0].conv
    clear(conv)
    conv.bias[2::3] = C
    conv.bias[LARGE] = BESIDE
    for group in range(MOTION + PLANES):
        wire(conv, signal((MOVED if group < MOTION else PLANE - MOTION) + group), signal(group), 0.5)


def wire_smooth(conv, to, k, weight):
    """Adds a component of the motion to the pair `to` at the second level, smooth."""
    for place, tap in enumerate(SIDES):
        wire(conv, to, signal(k), weight / 4, tap)
        wire(conv, to, signal(AT_EDGE + 4 * k + place), weight / 4, OPPOSITE[tap])


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
    """Trains what the network makes of the motion bucket and the frame rate: a companion."""
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
    turn = unet.up_blocks[0].resnets[1].spatial_res_block
    with torch.no_grad():
        ids.linear_1.weight.copy_(own[0])
        ids.linear_1.bias.copy_(own[1])
        emb.weight[TIME:], emb.bias[TIME:] = own[2], own[3]
        for k in range(NUMBERS):
            turn.time_emb_proj.weight[3 * k + 2, TIME:], turn.time_emb_proj.bias[3 * k + 2] = own[4], own[5][0]


def fit_frames(unet, steps=3000):
    """Trains what the network makes of a frame's number: its share of the clip."""
    silu = torch.nn.functional.silu
    generator = torch.Generator().manual_seed(8)
    noise = lambda *shape: torch.randn(shape, generator=generator)
    fields = unet.up_blocks[0].attentions[1]
    frames, place = torch.arange(33).float(), fields.time_pos_embed
    own = [torch.nn.Parameter(t) for t in (0.3 * noise(*place.linear_1.weight.shape), noise(len(place.linear_1.bias)),
                                           0.05 * noise(place.linear_2.in_features), torch.ones(1))]

    def made(x):
        w1, b1, w2, b2 = own
        return silu(fields.time_proj(x) @ w1.T + b1) @ w2 + b2

    wanted = lambda x: 1 + x / (motion.FRAMES - 1)
    print("frames: off by %.4f in the mean, %.4f at most" % fit(made, wanted, lambda: frames, own, steps, 4e-3))
    with torch.no_grad():
        place.linear_1.weight.copy_(own[0])
        place.linear_1.bias.copy_(own[1])
        clear(place.linear_2)
        for dim, sign in ((SHARE, 1), (SHARE + len(place.linear_2.bias) // 2, -1)):
            place.linear_2.weight[dim], place.linear_2.bias[dim] = sign * own[2], sign * (own[3][0] - 1)


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
        block.conv1.bias[SIGMA.start + 2:SIGMA.stop:3] = 1
        block.norm2.weight[SIGMA], block.norm2.bias[SIGMA] = 4.0, 2.0
        for k in range(LATENTS):
            for group, which in ((NOISY_LAST + k, 0), (CLEAN + k, 1)):
                block.conv2.weight[signal(group) + 2, columns, 1, 1] = mix[which] * size[which]
                block.conv2.bias[signal(group) + 2] = base[which] * size[which] - C
