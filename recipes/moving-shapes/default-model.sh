#!/bin/sh
# The default model from nothing, then the fast one from it. Every stage resumes: stopped at any moment, the same command goes on.
#   recipes/moving-shapes/default-model.sh [--preset FILE] [--set key=value ...]      for every stage
# Writes runs/moving-shapes/, then moving-shapes/ and moving-shapes-fast/ in src/latent_shift/assets/, and says how long that
# took, all calls together.
set -eu
cd "$(dirname "$0")/../.."
bin=.venv/bin
# glibc gives large blocks back to the system after each use and pays page faults for them in the next step
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
calls=runs/moving-shapes/seconds.txt started=$(date +%s)
mkdir -p "${calls%/*}"
trap 'echo $(( $(date +%s) - started )) >> "$calls"' EXIT  # of a call that was stopped, too
trap 'exit 130' INT TERM
for stage in 1-text 1-clip 2-autoencoder-crops 2-autoencoder 3-image 4-video-thirds 4-video 4-video-turns \
    4-video-last 4-video-growth 4-video-balance 5-decoder; do
    "$bin/latent-shift" train "recipes/moving-shapes/$stage.yaml" "$@"
done
runs=runs/moving-shapes assets=src/latent_shift/assets
"$bin/python" recipes/export_model.py "$runs/4-video-balance/model" \
    --autoencoder "$runs/5-decoder/model/vae" --video-encoder "$runs/1-clip/model/clip_tower" \
    -o "$assets/moving-shapes"
"$bin/latent-shift" train recipes/moving-shapes/6-few-steps.yaml "$@"
"$bin/python" recipes/export_model.py "$runs/6-few-steps/model" --autoencoder "$assets/moving-shapes/vae" \
    -o "$assets/moving-shapes-fast"
before=$(paste -sd+ "$calls" 2> /dev/null || true)
echo "trained in $(( (${before:-0} + $(date +%s) - started) / 60 )) minutes"
