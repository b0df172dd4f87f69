#!/bin/sh
# What each choice is worth: the first part of the video stage again (six frames, every third of a clip) at one
# equal, smaller budget, one choice changed at a time.
#   recipes/moving-shapes/ablations.sh [steps] [prompts]      resumable; needs the image model of default-model.sh
# Writes runs/moving-shapes/ablations/NAME/ and its scores beside it.
set -eu
cd "$(dirname "$0")/../.."
bin=.venv/bin steps=${1:-450} prompts=${2:-100} all=runs/moving-shapes/ablations
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000

ablation() { # NAME [--set key=value ...]
    name=$1; shift
    "$bin/latent-shift" train recipes/moving-shapes/4-video-thirds.yaml --set output="$all/$name" \
        --set steps="$steps" --set optimizer.cooldown_steps=$((steps / 4)) --set ema_decay=0.99 \
        --set compile=false --set sample_every=0 "$@"
    "$bin/latent-shift" evaluate moving-shapes --model "$all/$name/model" --cells level-1-seen --frames 6 \
        --prompts "$prompts" --dtype bf16 --batch 12 -o "$all/$name.json" --work "$all/$name/clips"
}

ablation default
ablation shift-off --set shift.enabled=false
ablation place-input --set shift.place=input
ablation fold-8 --set shift.fold=8
ablation no-images --set image_steps=0
ablation shared-noise --set diffusion.noise_correlation=0.5
