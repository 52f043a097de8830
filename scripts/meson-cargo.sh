#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Builds the plugin for meson: meson-cargo.sh TARGET_DIR OUTPUT. TORCHVIDEO_DATADIR is compiled in.
set -eu
output=$(realpath "$2")
# .cargo/config.toml, with libtorch's place, is looked up from the current directory.
cd "$(dirname "$0")/.."
[ -n "${LIBTORCH:-}" ] || unset LIBTORCH
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$1}"
cargo build --release --locked --lib
built=$CARGO_TARGET_DIR/release/libgsttorchvideo.so
cmp -s "$built" "$output" || cp "$built" "$output"
