#!/bin/sh
# Ablations: the first part of the video stage again (six frames, every third of a clip) at one equal, smaller
# budget, one setting changed at a time.
#   recipes/moving-shapes/ablations.sh [steps [--set key=value ...]]     resumable; needs default-model.sh's image model
# Writes runs/moving-shapes/ablations/NAME/, prints the validation loss of each on the same 256 clips and noise,
# writes their scores into docs/results/moving-shapes.md, and all of it into one report.
set -eu
cd "$(dirname "$0")/../.."
bin=.venv/bin steps=${1:-800} all=runs/moving-shapes/ablations
[ $# -eq 0 ] || shift
given="$*"
names='default shift-off place-input fold-8 no-images'
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000

# shellcheck disable=SC2086  # words without spaces
ablation() { # NAME [--set key=value ...]
    name=$1; shift
    "$bin/latent-shift" train recipes/moving-shapes/4-video-thirds.yaml --set output="$all/$name" \
        --set steps="$steps" --set optimizer.cooldown_steps=$((steps / 3)) --set ema_decay=0.99 \
        --set validation.items=256 --set validation.every="$steps" --set sample_every=0 $given "$@"
}

ablation default
ablation shift-off --set shift=null
ablation place-input --set shift.place=input
ablation fold-8 --set shift.fold=8
ablation no-images --set image_batch_ratio=0
models=''
for name in $names; do
    printf '%s ' "$name"; grep -o '"validation_loss": [0-9.]*' "$all/$name/log.jsonl" | tail -n 1
    "$bin/latent-shift" evaluate moving-shapes --model "$all/$name/model" --frames 6 --subsets level-1-seen,level-1-held-out \
        --dtype bf16 --batch 32 --markdown docs/results/moving-shapes.md
    models="$models --model $all/$name/model"
done
# shellcheck disable=SC2086
"$bin/latent-shift" evaluate moving-shapes-report $models --frames 6 --dtype bf16 --batch 32 \
    -o "$all/report.json" --html "$all/report.html" --force
