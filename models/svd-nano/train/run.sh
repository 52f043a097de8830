#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Data, autoencoder, video network, its decoder, export, measurements, pictures. Usage: train/run.sh [DIR]
# DIR takes the downloads and checkpoints (default: ./svd-nano-work, about 1 GB). Run it again
# after an interruption: the trainings go on from their checkpoints in DIR.
# On a GPU: VAE_MINUTES=6 FIT_MINUTES=4 FETCH_MINUTES=8 DECODER_MINUTES=6; the values for a CPU are below.
set -e
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$PWD/svd-nano-work}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
cd "$here"
python -c "import perceptual; perceptual.Lpips()"  # `evaluate.py` needs it in the end
[ -f "$dir/fetched" ] || { python data.py "$dir"; touch "$dir/fetched"; }
python train_vae.py "$dir" "${VAE_MINUTES:-18}"
python fit_fetch.py "$dir" "${FIT_MINUTES:-30}"
python train_fetch.py "$dir" "${FETCH_MINUTES:-22}"
python train_decoder.py "$dir" "${DECODER_MINUTES:-110}"
python export.py "$dir" ..
python evaluate.py "$dir" ..
python show.py "$dir" ..
