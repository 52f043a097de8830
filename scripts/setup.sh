#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Sets the machine up: Debian packages, Rust, libtorch in .venv, the crates. What is there already is left
# alone, so a second run takes a second and needs no network.
#
#   LIBTORCH=/path   use this libtorch and make no .venv
#   CUDA=1 / CUDA=0  with / without the libraries for NVIDIA GPUs (default: with, where there is a GPU)
set -eu
cd "$(dirname "$0")/.."

torch=$(sed -n 's/^torch==//p' scripts/requirements-cpu.txt)
rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# --- System packages

packages="build-essential ca-certificates make pkg-config python3-venv
    libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev gstreamer1.0-tools gstreamer1.0-plugins-base
    gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
    gstreamer1.0-rtsp python3-gi python3-numpy gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0
    gir1.2-gst-rtsp-server-1.0
    libgstrtspserver-1.0-dev glib-networking ffmpeg openssl"

missing_packages() {
    missing=
    for package in $packages; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
            missing="$missing $package"
    done
    missing=${missing# }
}

if [ -e /etc/debian_version ] && command -v apt-get >/dev/null; then
    missing_packages
    if [ -n "$missing" ]; then
        if [ "$(id -u)" != 0 ]; then
            say "packages are missing; as root, run this and start again:"
            printf '\n    apt-get update && apt-get install -y --no-install-recommends %s\n\n' "$missing" >&2
            exit 1
        fi
        say "installing $missing"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q
        # shellcheck disable=SC2086 # one word a package
        apt-get install -q -y --no-install-recommends $missing
    fi
fi

# The same on every system, and quick: what is needed is there, and new enough.
missing=
for program in c++ pkg-config python3 gst-inspect-1.0 gst-launch-1.0 ffmpeg openssl; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
for module in gstreamer-1.0 gstreamer-app-1.0 gstreamer-base-1.0 gstreamer-check-1.0 gstreamer-pbutils-1.0 \
    gstreamer-rtsp-server-1.0 gstreamer-video-1.0; do
    pkg-config --atleast-version=1.22 "$module" 2>/dev/null || missing="$missing $module>=1.22"
done
[ -z "$missing" ] || die "missing:$missing. Install them with their development files, and GStreamer's base, \
good, bad and ugly plugins, and its RTSP server; then start again."

# --- Rust

at_least() { # VERSION MINIMUM
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

if ! have=$(cargo --version 2>/dev/null) || ! have=$(echo "$have" | cut -d ' ' -f 2) || ! at_least "$have" "$rust"; then
    say "Rust $rust or newer is needed${have:+ and cargo is $have}; run this and start again:"
    if command -v rustup >/dev/null; then
        printf '\n    rustup toolchain install stable && rustup default stable\n\n' >&2
    else
        printf "\n    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y\n\n" >&2
    fi
    exit 1
fi
if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
    rustup component add rustfmt clippy >&2 || say "without rustfmt and clippy \`make test\` will stop at its first step"
fi

# --- libtorch

# The version that a libtorch folder says it is: libtorch archives have a file, Python's torch a module.
libtorch_version() { # FOLDER
    if [ -e "$1/build-version" ]; then
        cut -d + -f 1 "$1/build-version"
    elif [ -e "$1/version.py" ]; then
        sed -n "s/^__version__ = '\([^'+]*\).*/\1/p" "$1/version.py"
    fi
}

check_libtorch() { # FOLDER
    for file in lib/libtorch_cpu.so include/torch/csrc/api/include/torch/torch.h; do
        [ -e "$1/$file" ] || die "$1 is no libtorch: it has no $file"
    done
    have=$(libtorch_version "$1")
    [ "$have" = "$torch" ] || die "$1 is libtorch ${have:-of an unknown version}, and this needs $torch"
    lost=$(ldd "$1/lib/libtorch_cpu.so" | sed -n 's/^[[:space:]]*\(.*\) => not found.*/\1/p' | tr '\n' ' ')
    [ -z "$lost" ] || die "$1/lib/libtorch_cpu.so does not find $lost"
}

# A Python that torch has a build for and that can make a virtual environment.
find_python() {
    for python in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        "$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info < (3, 15))' \
            2>/dev/null && return
    done
    die "a Python of 3.10 to 3.14 with its venv module is needed"
}

install_libtorch() {
    set -- scripts/requirements-cpu.txt
    [ "$cuda" != 1 ] || set -- "$@" scripts/requirements-cuda.txt
    wanted=$(cat "$@")
    if [ "$(cat .venv/installed.txt 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
        return
    fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        find_python
        "$python" -m venv --clear .venv
    fi
    say "installing libtorch $torch in .venv"
    rm -f .venv/installed.txt
    .venv/bin/python -m pip install --disable-pip-version-check --no-deps --only-binary=:all: \
        -r "$1" ${2:+-r "$2"} >&2
    packages=$(.venv/bin/python -c 'import os, sys, sysconfig
print(os.path.relpath(sysconfig.get_path("purelib"), sys.prefix))')
    ln -sfn "$packages/torch" .venv/libtorch
    echo "$wanted" >.venv/installed.txt
}

if [ -n "${LIBTORCH:-}" ]; then
    case $LIBTORCH in
        /*) ;;
        *) die "LIBTORCH must be an absolute path, and is $LIBTORCH" ;;
    esac
    check_libtorch "$LIBTORCH"
else
    cuda=${CUDA:-}
    if [ -z "$cuda" ]; then
        # What was installed with CUDA=1 stays.
        if [ -e /dev/nvidiactl ] || nvidia-smi -L >/dev/null 2>&1 || grep -qs ^nvidia-cublas .venv/installed.txt; then
            cuda=1
        fi
    fi
    install_libtorch
    check_libtorch .venv/libtorch
fi

# --- Crates

host=$(rustc -vV | sed -n 's/^host: //p')
cargo fetch --quiet --offline --target "$host" 2>/dev/null || cargo fetch --target "$host"
