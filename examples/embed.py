#!/usr/bin/env python3
# SPDX-License-Identifier: MPL-2.0
"""Clips in a Python program: NumPy pictures in, NumPy frames out.

    GST_PLUGIN_PATH=/path/to/target/release python3 embed.py PICTURE OUTPUT.npy [PROPERTY=VALUE ...]

Makes two clips, the second from the last frame of the first, and saves both as one array (frames, height, width, 3).
This needs Debian's python3-gi, python3-numpy, gir1.2-gstreamer-1.0 and gir1.2-gst-plugins-base-1.0.
"""

import sys
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GLib, Gst, GstVideo  # noqa: E402
import numpy as np  # noqa: E402

Gst.init(None)


def picture(path):
    """The bytes of a PNG, JPEG or WebP file as a keyframe: svdsrc decodes them, and turns them upright."""
    suffix = Path(path).suffix[1:].lower().replace("jpg", "jpeg")
    return Gst.Sample.new(Gst.Buffer.new_wrapped(Path(path).read_bytes()), Gst.Caps.from_string(f"image/{suffix}"), None, None)


def keyframe(pixels):
    """An array (height, width, 3) of uint8 as a keyframe."""
    height, width, _ = pixels.shape
    # GStreamer's rows of RGB begin at multiples of four bytes.
    rows = np.pad(pixels.reshape(height, 3 * width), ((0, 0), (0, -3 * width % 4)))
    caps = Gst.Caps.from_string(f"video/x-raw,format=RGB,width={width},height={height},framerate=0/1")
    return Gst.Sample.new(Gst.Buffer.new_wrapped(rows.tobytes()), caps, None, None)


def array(buffer, caps):
    """A frame as an array (height, width, 3) of uint8."""
    info = GstVideo.VideoInfo.new_from_caps(caps)
    rows = np.frombuffer(buffer.extract_dup(0, buffer.get_size()), np.uint8).reshape(info.height, info.stride[0])
    return rows[:, : 3 * info.width].reshape(info.height, info.width, 3)


def source(sample, properties):
    """svdsrc for a keyframe."""
    src = Gst.ElementFactory.make("svdsrc")
    if src is None:
        sys.exit("there is no svdsrc: does GST_PLUGIN_PATH name the folder with libgsttorchvideo.so?")
    src.set_property("keyframe", sample)
    for name, value in properties:
        if src.find_property(name) is None:
            sys.exit(f"svdsrc has no property {name}")
        Gst.util_set_object_arg(src, name, value)
    return src


def pipeline_of(src, sink):
    """A pipeline of these two, with frames of RGB between them."""
    pipeline = Gst.Pipeline()
    pipeline.add(src)
    pipeline.add(sink)
    src.link_filtered(sink, Gst.Caps.from_string("video/x-raw,format=RGB"))
    return pipeline


def report(message):
    """Tells of progress; raises what went wrong, with svdsrc's own words."""
    if message.type == Gst.MessageType.ERROR:
        raise RuntimeError(message.parse_error()[0].message)
    if message.type == Gst.MessageType.PROGRESS:
        _, code, text = message.parse_progress()
        print(f"{code}: {text}", flush=True)
    elif message.type == Gst.MessageType.ELEMENT and message.get_structure().get_name() == "svdsrc-clip":
        print("provenance:", message.get_structure().get_string("provenance"), flush=True)


def frames(sample, properties):
    """The frames of a clip, one by one, pulled from an appsink by this thread."""
    sink = Gst.ElementFactory.make("appsink")
    sink.set_property("sync", False)
    sink.set_property("max-buffers", 4)
    pipeline = pipeline_of(source(sample, properties), sink)
    bus = pipeline.get_bus()
    try:
        pipeline.set_state(Gst.State.PLAYING)  # where this fails, the bus says why
        while True:
            frame = sink.emit("try-pull-sample", 100 * Gst.MSECOND)
            while message := bus.pop():
                report(message)
            if frame is not None:
                yield array(frame.get_buffer(), frame.get_caps())
            elif sink.get_property("eos"):
                return
    finally:  # also where the caller stops in the middle: it comes back at once
        pipeline.set_state(Gst.State.NULL)


def frames_by_handoff(sample, properties):
    """The same without an appsink, in a main loop: any element's signal, or a pad's probe, gives frames as well."""
    sink = Gst.ElementFactory.make("fakesink")
    sink.set_property("signal-handoffs", True)
    clip, loop, failed = [], GLib.MainLoop(), []
    # On the streaming thread: what takes long here holds the pipeline up.
    sink.connect("handoff", lambda _sink, buffer, pad: clip.append(array(buffer, pad.get_current_caps())))
    pipeline = pipeline_of(source(sample, properties), sink)

    def told(_bus, message):
        try:
            report(message)
        except RuntimeError as error:
            failed.append(error)
        if failed or message.type == Gst.MessageType.EOS:
            loop.quit()

    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message", told)
    pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    pipeline.set_state(Gst.State.NULL)
    bus.remove_signal_watch()
    if failed:
        raise failed[0]
    return clip


def main():
    if len(sys.argv) < 3 or not all("=" in arg for arg in sys.argv[3:]):
        sys.exit(__doc__)
    properties = [arg.split("=", 1) for arg in sys.argv[3:]]
    try:
        first = list(frames(picture(sys.argv[1]), properties))
        second = frames_by_handoff(keyframe(first[-1]), properties)
    except (RuntimeError, OSError) as error:
        sys.exit(str(error))
    np.save(sys.argv[2], np.stack(first + second))
    print(f"{len(first)} and {len(second)} frames of {first[0].shape[1]}x{first[0].shape[0]}")


if __name__ == "__main__":
    main()
