"""Make a clip with OpenAI's client: pip install openai, then `latent-shift serve` in another terminal.

python examples/serve_openai.py "a large pink heart moving left on a teal background" heart.mp4
"""

import os
import sys
import warnings

from openai import OpenAI

# The client calls its video methods deprecated, since the service that they were made for has ended.
warnings.simplefilter("ignore", DeprecationWarning)

prompt, file = sys.argv[1:3]
url = os.environ.get("LATENT_SHIFT_URL", "http://127.0.0.1:8000")
client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("LATENT_SHIFT_API_KEY", "none"))

# What the client does not know goes into extra_body.
video = client.videos.create_and_poll(prompt=prompt, extra_body={"seed": 5, "num_inference_steps": 4})
if video.status != "completed":
    sys.exit(f"{video.error.code}: {video.error.message}")
client.videos.download_content(video.id).write_to_file(file)
print(f"{file}: seed {video.seed}, {video.inference_time_s} s")
