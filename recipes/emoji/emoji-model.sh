#!/bin/sh
# The emoji model from nothing: pictures, text encoder, eyes, autoencoder, images, clips, scores. Every stage resumes: stopped
# at any moment, the same command goes on.
#   recipes/emoji/emoji-model.sh all [--preset FILE] [--set key=value ...]      all 888 emoji in both styles
#   recipes/emoji/emoji-model.sh popular [--set key=value ...]      forty-eight emoji in 3D style
#   DATA=FOLDER names the folder with emoji.csv and noto-lottie.tar.xz (docs/emoji.md); PROCESSES=1 trains in one process, as with a GPU
# Writes runs/emoji/ or runs/emoji-popular/, then src/latent_shift/assets/emoji/, and says how long that took, all calls together.
set -eu
cd "$(dirname "$0")/../.."
bin=.venv/bin here=recipes/emoji
world=${1:-}
case $world in
    all) runs=runs/emoji drawn="" eyes="--steps 3000" ;;
    popular) runs=runs/emoji-popular drawn="--names $here/popular.txt --styles fluent" eyes="--steps 1000" ;;
    *) echo "usage: $0 all|popular [options of train]" >&2; exit 2 ;;
esac
shift
[ "$world" = all ] || set -- --preset "$here/presets/$world.yaml" "$@"
# glibc gives large blocks back to the system after each use and pays page faults for them in the next step
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
train() {  # two processes of one thread take two cores further than one of two
    if [ "${PROCESSES:-2}" = 1 ]; then "$bin/latent-shift" train "$@"; return; fi
    OMP_NUM_THREADS=1 "$bin/accelerate" launch --config_file recipes/accelerate/two-processes.yaml --module latent_shift train "$@"
}
calls=$runs/seconds.txt started=$(date +%s)
mkdir -p "$runs"
trap 'echo $(( $(date +%s) - started )) >> "$calls"' EXIT  # of a call that was stopped, too
trap 'exit 130' INT TERM
# shellcheck disable=SC2086  # several words
"$bin/python" "$here/prepare.py" -o "$runs" --downloads runs/emoji/downloads --data "${DATA:-../shared/data/emoji}" $drawn
"$bin/python" "$here/text_encoder.py" --source "$runs/all-MiniLM-L6-v2" --pack "$runs/pack.safetensors" -o "$runs/text/model"
# shellcheck disable=SC2086
[ -f "$runs/eyes.safetensors" ] && [ ! -f "$runs/eyes.state.safetensors" ] ||
    "$bin/python" "$here/train_eyes.py" --pack "$runs/pack.safetensors" -o "$runs/eyes.safetensors" $eyes
for stage in 2-autoencoder-crops 2-autoencoder 3-image 4-video-thirds 4-video 5-decoder; do
    train "$here/$stage.yaml" "$@"
done
cat "$here/card-$world.md" "$here/LICENSES.md" > "$runs/card.md"
"$bin/python" recipes/export_model.py "$runs/4-video/model" --autoencoder "$runs/5-decoder/model/vae" --card "$runs/card.md" \
    -o src/latent_shift/assets/emoji
weights=$(cat "$runs/4-video/model/unet/"*.safetensors "$runs/5-decoder/model/vae/"*.safetensors | sha256sum | cut -c1-12)
"$bin/latent-shift" evaluate emoji --model emoji --pack "$runs/pack.safetensors" --eyes "$runs/eyes.safetensors" \
    --cache-dir "$runs/scored-$weights" --markdown "$runs/scores.md"
before=$(paste -sd+ "$calls" 2> /dev/null || true)
echo "made in $(( (${before:-0} + $(date +%s) - started) / 60 )) minutes"
