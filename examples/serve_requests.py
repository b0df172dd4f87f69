"""Make a clip with requests, showing its progress: `latent-shift serve` runs in another terminal.

python examples/serve_requests.py "a large pink heart moving left on a teal background" heart.mp4
"""

import os
import sys
import time

import requests

prompt, file = sys.argv[1:3]
url = os.environ.get("LATENT_SHIFT_URL", "http://127.0.0.1:8000") + "/v1/videos"
session = requests.Session()
if key := os.environ.get("LATENT_SHIFT_API_KEY"):
    session.headers["Authorization"] = f"Bearer {key}"

answer = session.post(url, json={"prompt": prompt, "seed": 5, "num_inference_steps": 4}, timeout=30)
if answer.status_code != 200:
    sys.exit(answer.json()["error"]["message"])
video = answer.json()
while video["status"] in ("queued", "in_progress"):
    time.sleep(0.2)
    video = session.get(f"{url}/{video['id']}", timeout=30).json()
    print(f"{video['status']} {video['progress']} %")
if video["status"] == "failed":
    sys.exit(video["error"]["message"])
with open(file, "wb") as clip:
    clip.write(session.get(f"{url}/{video['id']}/content", timeout=30).content)
print(f"{file}: seed {video['seed']}")
