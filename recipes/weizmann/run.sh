#!/bin/sh
# All of it, from film strips to a scored model; stopped at any moment, the same command goes on.
#   recipes/weizmann/run.sh STRIPS
# About 25 minutes on two CPU cores, added up from a run in pieces (docs/training.md).
set -eu
cd "$(dirname "$0")/../.."
bin=.venv/bin here=recipes/weizmann runs=runs/weizmann
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
pack() { # FOLDER FPS
    "$bin/latent-shift" data pack "$runs/clips/train" -o "$1" --latents-of "$runs/3-image/model" --fps "$2" \
        --height 64 --width 64 --workers 1
}
"$bin/python" "$here/prepare.py" "$1" -o "$runs/clips"
for stage in 1-text 2-autoencoder 3-image; do "$bin/latent-shift" train "$here/$stage.yaml"; done
pack "$runs/shards" 12.5
pack "$runs/shards-thirds" 4.1667
for stage in 4-video-thirds 5-video; do "$bin/latent-shift" train "$here/$stage.yaml"; done
"$bin/python" "$here/score.py" --clips "$runs/clips" --model "$runs/5-video/model" -o "$runs/score"
