#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Turns a Real-ESRGAN network in ncnn's form into safetensors with basicsr's tensor names.

    convert_ncnn.py NETWORK.param OUTPUT.safetensors [--origin TEXT]

The weights are read from NETWORK.bin beside the .param file. Their bytes are copied and never computed
with: what ncnn stores as half precision stays F16, and biases and PReLU slopes, which ncnn always keeps
in single precision, stay F32. Needs Python's standard library alone.

The .bin file is the concatenation of each layer's blobs, in the order of the .param file's lines:

    Convolution   weight [out, in, 3, 3]: a flag word (little-endian), then the values; then bias [out], F32
                  flag 0x01306B47: half precision, padded to a multiple of 4 bytes
                  flag 0: single precision
                  any other flag (int8, tables) is refused
    PReLU         slope [channels], F32, without a flag word
"""

import argparse
import json
import pathlib
import struct
import sys

PARAM_MAGIC = "7767517"
HALF = 0x01306B47
SINGLE = 0


class Layer:
    def __init__(self, line):
        words = line.split()
        self.kind, self.name = words[:2]
        inputs, outputs = int(words[2]), int(words[3])
        blobs, settings = words[4 : 4 + inputs + outputs], words[4 + inputs + outputs :]
        self.inputs, self.outputs = blobs[:inputs], blobs[inputs:]
        self.settings = {}
        for setting in settings:
            key, value = setting.split("=")
            key = int(key)
            if key <= -23300:  # an array: its length, then its items
                self.settings[-key - 23300] = [float(v) for v in value.split(",")[1:]]
            else:
                self.settings[key] = float(value)

    def get(self, key, default=0):
        return self.settings.get(key, default)


class Graph:
    """Checks the layers one by one, in file order, against the network they must spell, and names their tensors."""

    def __init__(self, param, weights):
        lines = param.read_text().splitlines()
        if not lines or lines[0].strip() != PARAM_MAGIC:
            raise ValueError(f"{param}: not an ncnn text .param file")
        layers = [Layer(line) for line in lines[2:] if line.strip()]
        if len(layers) != int(lines[1].split()[0]):
            raise ValueError(f"{param}: the layer count does not match the header")
        alias = {}
        self.layers = []
        for layer in layers:
            layer.inputs = [alias.get(blob, blob) for blob in layer.inputs]
            if layer.kind == "Split":
                alias.update((blob, layer.inputs[0]) for blob in layer.outputs)
            elif layer.kind == "Input":
                self.source = layer.outputs[0]
            else:
                self.layers.append(layer)
        self.next = 0
        self.bytes = weights.read_bytes()
        self.at = 0
        self.tensors = {}

    def peek(self):
        """The next layer's kind and whether an activation is fused into it; ("end", False) after the last one."""
        if self.next == len(self.layers):
            return "end", False
        layer = self.layers[self.next]
        return layer.kind, layer.kind == "Convolution" and layer.get(9) != 0

    def take(self, kind, inputs, **settings):
        if self.peek()[0] != kind or self.layers[self.next].inputs != inputs:
            raise ValueError(f"layer {self.next}: expected {kind} of {inputs}, found {self.peek()[0]}")
        layer = self.layers[self.next]
        for key, value in settings.items():
            if layer.get(int(key[1:])) != value:
                raise ValueError(f"{layer.name}: setting {key[1:]} is {layer.get(int(key[1:]))}, expected {value}")
        self.next += 1
        return layer

    def read(self, count):
        if self.at + count > len(self.bytes):
            raise ValueError("the .bin file is too short")
        self.at += count
        return self.bytes[self.at - count : self.at]

    def conv(self, name, blob, slope=None):
        """A 3x3 convolution with bias, padding 1 and, where a slope is given, a LeakyReLU fused into it."""
        activation = {"_9": 0} if slope is None else {"_9": 2, "_10": [slope]}
        layer = self.take("Convolution", [blob], _1=3, _4=1, _5=1, **activation)
        if layer.get(2, 1) != 1 or layer.get(3, 1) != 1 or layer.get(8) != 0:
            raise ValueError(f"{layer.name}: dilated, strided or quantised convolution")
        out, count = int(layer.get(0)), int(layer.get(6))
        if out <= 0 or count % (out * 9):
            raise ValueError(f"{layer.name}: {count} weights do not make {out} output channels")
        (flag,) = struct.unpack("<I", self.read(4))
        if flag == HALF:
            kind, data = "F16", self.read((2 * count + 3) // 4 * 4)[: 2 * count]
        elif flag == SINGLE:
            kind, data = "F32", self.read(4 * count)
        else:
            raise ValueError(f"{layer.name}: weight flag {flag:#010x} is not supported")
        self.tensors[f"{name}.weight"] = (kind, [out, count // (out * 9), 3, 3], data)
        self.tensors[f"{name}.bias"] = ("F32", [out], self.read(4 * out))
        return layer.outputs[0]

    def prelu(self, name, blob):
        layer = self.take("PReLU", [blob])
        count = int(layer.get(0))
        self.tensors[f"{name}.weight"] = ("F32", [count], self.read(4 * count))
        return layer.outputs[0]

    def end(self, blob):
        if blob != "output" or self.peek()[0] != "end":
            raise ValueError("the graph does not end where the network does")
        if self.at != len(self.bytes):
            raise ValueError(f"{len(self.bytes) - self.at} bytes of the .bin file are left over")


def srvgg(graph):
    """SRVGGNetCompact: convolutions and PReLUs in turn, a pixel shuffle, plus the input repeated."""
    blob, index = graph.source, 0
    while True:
        blob = graph.conv(f"body.{index}", blob)
        if graph.peek()[0] != "PReLU":
            break
        blob = graph.prelu(f"body.{index + 1}", blob)
        index += 2
    shuffle = graph.take("PixelShuffle", [blob], _1=0)
    scale = shuffle.get(0)
    base = graph.take("Interp", [graph.source], _0=1, _1=scale, _2=scale)
    total = graph.take("BinaryOp", [shuffle.outputs[0], base.outputs[0]], _0=0)
    blob = total.outputs[0]
    if graph.peek()[0] != "end":  # the x2 and x3 files shrink the x4 picture bicubically
        blob = graph.take("Interp", [blob], _0=3).outputs[0]
    graph.end(blob)
    return {
        "architecture": "SRVGGNetCompact",
        "scale": int(scale),
        "num_feat": graph.tensors["body.0.weight"][1][0],
        "num_conv": index // 2 - 1,
        "act_type": "prelu",
    }


def rrdbnet(graph):
    """RRDBNet x4: dense blocks with residuals scaled by 0.2, then two nearest doublings."""

    def weighted_add(branch, trunk):
        return graph.take("Eltwise", [branch, trunk], _0=1, _1=[0.2, 1.0]).outputs[0]

    first = blob = graph.conv("conv_first", graph.source)
    block = 0
    while graph.peek()[1]:  # the trunk's last convolution alone has no activation
        entry = blob
        for rdb in (1, 2, 3):
            parts = [blob]
            for conv in (1, 2, 3, 4, 5):
                joined = blob if conv == 1 else graph.take("Concat", parts, _0=0).outputs[0]
                name = f"body.{block}.rdb{rdb}.conv{conv}"
                parts.append(graph.conv(name, joined, 0.2 if conv < 5 else None))
            blob = weighted_add(parts[-1], blob)
        blob = weighted_add(blob, entry)
        block += 1
    body = graph.conv("conv_body", blob)
    blob = graph.take("BinaryOp", [first, body], _0=0).outputs[0]
    for name in ("conv_up1", "conv_up2"):
        blob = graph.take("Interp", [blob], _0=1, _1=2, _2=2).outputs[0]
        blob = graph.conv(name, blob, 0.2)
    blob = graph.conv("conv_hr", blob, 0.2)
    graph.end(graph.conv("conv_last", blob))
    return {
        "architecture": "RRDBNet",
        "scale": 4,
        "num_feat": graph.tensors["conv_first.weight"][1][0],
        "num_block": block,
        "num_grow_ch": graph.tensors["body.0.rdb1.conv1.weight"][1][0],
    }


def write_safetensors(path, tensors, metadata):
    """F32 first, then F16, each in network order, so that every tensor is aligned to its own type."""
    header, offset, order = {"__metadata__": metadata}, 0, []
    for wanted in ("F32", "F16"):
        for name, (kind, shape, data) in tensors.items():
            if kind == wanted:
                header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + len(data)]}
                offset += len(data)
                order.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *order]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("param", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--origin", help="a line of text for the file's metadata")
    arguments = parser.parse_args()
    graph = Graph(arguments.param, arguments.param.with_suffix(".bin"))
    compact = any(layer.kind == "PReLU" for layer in graph.layers)
    facts = srvgg(graph) if compact else rrdbnet(graph)
    metadata = {key: str(value) for key, value in facts.items()}
    metadata["license"] = "BSD-3-Clause, Copyright (c) 2021, Xintao Wang"
    if arguments.origin:
        metadata["origin"] = arguments.origin
    write_safetensors(arguments.output, graph.tensors, metadata)
    print(f"{arguments.output.name}: {len(graph.tensors)} tensors, {json.dumps(facts)}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"convert_ncnn.py: {error}")
