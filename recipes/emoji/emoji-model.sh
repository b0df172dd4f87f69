#!/bin/sh
# The emoji model from nothing: pictures, text encoder, eyes, autoencoder, images, clips, scores. Every stage resumes: stopped
# at any moment, the same command goes on.
#   recipes/emoji/emoji-model.sh popular [--set key=value ...]      forty-eight emoji in 3D style
#   recipes/emoji/emoji-model.sh all [--preset FILE] [--set key=value ...]      all 889 emoji in both styles
#   DATA=FOLDER names the folder with emoji.csv and noto-lottie.tar.xz (docs/emoji.md)
# Writes runs/emoji-popular/ or runs/emoji/, then src/latent_shift/assets/emoji/, and says how long that took, all calls together.
set -eu
cd "$(dirname "$0")/../.."
bin=.venv/bin here=recipes/emoji
world=${1:-}
case $world in
    popular) runs=runs/emoji-popular drawn="--names $here/popular.txt --styles fluent" eyes="--steps 1000" text="--length 24" ;;
    all) runs=runs/emoji drawn="" eyes="" text="" ;;
    *) echo "usage: $0 popular|all [options of train]" >&2; exit 2 ;;
esac
shift
[ "$world" = all ] || set -- --preset "$here/presets/$world.yaml" "$@"
# glibc gives large blocks back to the system after each use and pays page faults for them in the next step
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000
calls=$runs/seconds.txt started=$(date +%s)
mkdir -p "$runs"
trap 'echo $(( $(date +%s) - started )) >> "$calls"' EXIT  # of a call that was stopped, too
trap 'exit 130' INT TERM
# shellcheck disable=SC2086  # several words
"$bin/python" "$here/prepare.py" -o "$runs" --downloads runs/emoji/downloads --data "${DATA:-../shared/data/emoji}" $drawn
# shellcheck disable=SC2086
"$bin/python" "$here/text_encoder.py" --source "$runs/all-MiniLM-L6-v2" --pack "$runs/pack.safetensors" -o "$runs/text/model" $text
# shellcheck disable=SC2086
[ -f "$runs/eyes.safetensors" ] && [ ! -f "$runs/eyes.state.safetensors" ] ||
    "$bin/python" "$here/train_eyes.py" --pack "$runs/pack.safetensors" -o "$runs/eyes.safetensors" $eyes
for stage in 2-autoencoder-crops 2-autoencoder 3-image 4-video-thirds 4-video 5-decoder; do
    "$bin/latent-shift" train "$here/$stage.yaml" "$@"
done
cat "$here/card-$world.md" "$here/LICENSES.md" > "$runs/card.md"
"$bin/python" recipes/export_model.py "$runs/4-video/model" --autoencoder "$runs/5-decoder/model/vae" --card "$runs/card.md" \
    -o src/latent_shift/assets/emoji
"$bin/latent-shift" evaluate emoji --model emoji --pack "$runs/pack.safetensors" --eyes "$runs/eyes.safetensors" \
    --cache-dir "$runs/scored" --markdown "$runs/scores.md"
before=$(paste -sd+ "$calls" 2> /dev/null || true)
echo "made in $(( (${before:-0} + $(date +%s) - started) / 60 )) minutes"
