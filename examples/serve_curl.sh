#!/usr/bin/env bash
# Make a clip with curl: the answer is the file, when it is done. `latent-shift serve` runs in another terminal.
#
#     examples/serve_curl.sh "a large pink heart moving left on a teal background" heart.mp4
set -euo pipefail

prompt=$1 file=$2
url=${LATENT_SHIFT_URL:-http://127.0.0.1:8000}

curl --silent --show-error --fail-with-body "$url/v1/videos/sync" \
  --header "Authorization: Bearer ${LATENT_SHIFT_API_KEY:-none}" \
  --form "prompt=$prompt" --form seed=5 --form num_inference_steps=4 \
  --output "$file"
echo "$file"
