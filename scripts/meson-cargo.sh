#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Builds the plugin and the program for meson: meson-cargo.sh TARGET_DIR PLUGIN PROGRAM. TORCHVIDEO_DATADIR is compiled in.
set -eu
plugin=$(realpath "$2")
program=$(realpath "$3")
# .cargo/config.toml, with libtorch's place, is looked up from the current directory.
cd "$(dirname "$0")/.."
[ -n "${LIBTORCH:-}" ] || unset LIBTORCH
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$1}"
cargo build --release --locked --lib --bin torchvideo
put() {
    cmp -s "$CARGO_TARGET_DIR/release/$1" "$2" || cp "$CARGO_TARGET_DIR/release/$1" "$2"
}
put libgsttorchvideo.so "$plugin"
put torchvideo "$program"
