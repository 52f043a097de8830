# SPDX-License-Identifier: MPL-2.0
"""An RTSP server that takes one stream of H.264 and passes it on: prints its port, then "frame" for each that it has decoded.

Debian's python3-gi and gir1.2-gst-rtsp-server-1.0."""

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
factory.set_launch("( rtph264depay name=depay0 ! h264parse ! openh264dec ! fakesink name=end signal-handoffs=true )")
factory.connect(
    "media-constructed",
    lambda _factory, media: media.get_element().get_by_name("end").connect(
        "handoff", lambda *_: print("frame", flush=True)
    ),
)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service("0")
server.get_mount_points().add_factory("/clip", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
