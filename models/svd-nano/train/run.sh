#!/bin/sh
# SPDX-License-Identifier: MPL-2.0
# Data, autoencoder, video network, export, measurements. Usage: train/run.sh [DIR]
# DIR takes the downloads and checkpoints (default: ./svd-nano-work, about 1 GB).
set -e
here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-$PWD/svd-nano-work}
mkdir -p "$dir"
cd "$here"
python data.py "$dir"
python train_vae.py "$dir" "${VAE_MINUTES:-18}"
python train_unet.py "$dir" strips
python train_unet.py "$dir" train "${UNET_MINUTES:-35}"
python train_unet.py "$dir" finish "${FINISH_MINUTES:-15}"
python export.py "$dir" ..
python evaluate.py "$dir" ..
