#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Runs the tests; the plugin has been built. GStreamer's warnings end a test.
set -eu
cd "$(dirname "$0")/.."
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)

# The plugin loads in any directory with an empty environment.
for element in svdsrc svdanimate realesrganscale frameratetune; do
    printf 'test: gst-inspect-1.0 %s\n' "$element"
    (
        cd /
        env -i PATH=/usr/local/bin:/usr/bin:/bin GST_PLUGIN_PATH="$target/release" \
            GST_REGISTRY="$target/registry-clean.bin" gst-inspect-1.0 "$element"
    ) >"$target/inspect.txt" 2>&1 || {
        cat "$target/inspect.txt"
        exit 1
    }
done

# The tests register the elements themselves: no other build of the plugin may be around.
unset GST_PLUGIN_PATH GST_PLUGIN_PATH_1_0
export GST_REGISTRY="$target/registry-test.bin"
gst-inspect-1.0 --exists fakesink # makes the registry, where other people's plugins may warn
G_DEBUG=fatal-warnings cargo test --release --locked "$@"
