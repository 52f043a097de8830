#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
#
# Runs each element's pipelines, with tiny models, under valgrind: to the end, stopped, flushed, with an error, with pads that
# lose one another, and with previews. An error that scripts/valgrind.supp does not name fails. Arguments choose elements, by
# their names in tests/common/behaviour.rs.
set -eu
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "memcheck: valgrind is missing: apt-get install valgrind" >&2; exit 1; }

# Valgrind knows no AVX-512, and libtorch's threads would take turns on one processor.
export ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=1 G_SLICE=always-malloc
export TORCHVIDEO_PATIENCE=1800
runner="valgrind --quiet --num-callers=40 --error-exitcode=9 --suppressions=$PWD/scripts/valgrind.supp"
host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')

[ $# -gt 0 ] || set -- svdsrc 'svdsrc, live' svdanimate realesrganscale 'frameratetune, retime' 'frameratetune, RIFE'
for element in "$@"; do
    printf 'memcheck: %s\n' "$element"
    env "CARGO_TARGET_${host}_RUNNER=$runner" TORCHVIDEO_RUN="$element" \
        cargo test --release --locked --test behaviour_runs -- --exact process --ignored
done
