#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Makes demo/clip.mp4 with the line of pipelines/keyframe-to-mp4.launch, and demo/contact-sheet.png from the clip.
set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}

fail() {
    rm -f demo/clip.part.mp4 demo/contact-sheet.part.png
    printf 'demo: %s failed\n' "$1" >&2
    exit 1
}
trap 'fail "it was interrupted and"' INT TERM

mkdir -p demo
rm -f demo/clip.mp4 demo/contact-sheet.png
line=$(grep -v '^#' pipelines/keyframe-to-mp4.launch | sed 's|location=clip.mp4|location=demo/clip.part.mp4|')
export GST_PLUGIN_PATH="$target/release${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"
printf '\nGST_PLUGIN_PATH="%s" %s\n\n' "$GST_PLUGIN_PATH" "$line"
sh -c "$line" || fail "making the clip"
mv demo/clip.part.mp4 demo/clip.mp4

cargo run --quiet --release --example contact_sheet -- demo/clip.mp4 demo/contact-sheet.part.png ||
    fail "making the contact sheet"
mv demo/contact-sheet.part.png demo/contact-sheet.png
printf '\ndemo/clip.mp4\ndemo/contact-sheet.png\n'
