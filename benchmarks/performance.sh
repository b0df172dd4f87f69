#!/usr/bin/env bash
# The marked tables of docs/performance.md, measured and written into it, and the start: about a quarter of an hour on two quiet cores, 10 GiB.
# What runs/benchmark holds already is not measured again.
#   PATH=.venv/bin:$PATH bash benchmarks/performance.sh
set -euo pipefail
cd "$(dirname "$0")/.."
page=docs/performance.md
prompt="a red circle moving left on a black background"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

started() { # name, command...: wall and CPU seconds of three starts
  for _ in 1 2 3; do
    python - "$@" <<'PYTHON'
import resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[2:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"{sys.argv[1]}: {time.perf_counter() - began:.2f} s wall, {used.ru_utime + used.ru_stime:.2f} s CPU")
PYTHON
  done
}

started "import torch, diffusers" python -c "import torch, diffusers"
started "--help" latent-shift --help
for dtype in fp32 auto; do
  started "generate, $dtype" latent-shift generate "$prompt" --seed 1 --dtype $dtype -o "$work/clip.mp4" --force
  latent-shift generate "$prompt" --seed 1 --dtype $dtype -o "$work/clip.mp4" --force --json | grep -o '"seconds.*'
done
for number in $(seq 100); do echo "$prompt"; done > "$work/prompts.txt"
started "100 prompts, auto" latent-shift generate --prompts "$work/prompts.txt" --seed 1 -o "$work" --force

latent-shift benchmark networks --networks shift,unet-motion,unet3d,latent-vdm,make-a-video --no-memory \
  --repeats 2 --markdown $page
latent-shift benchmark networks --networks shift --modes step --frames 4 --markdown $page
latent-shift benchmark networks --networks shift,unet-motion,unet3d --frames 8 --repeats 2 --markdown $page
latent-shift benchmark floor --repeats 2 --markdown $page
latent-shift benchmark floor --model moving-shapes --markdown $page
latent-shift benchmark systems --model moving-shapes --batch 8 --dtype bf16 --markdown $page
model=src/latent_shift/assets/moving-shapes
for images in 0.0 1.0; do # clips, and the same U-Net on as many images
  latent-shift benchmark step recipes/moving-shapes/4-video.yaml --set pretrained_model=$model --set init_from=$model \
    --set latents.source.clips=64 --set latents.folder="$work/latents" --set image_batch_ratio=$images --steps 3
done
