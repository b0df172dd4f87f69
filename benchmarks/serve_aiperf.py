"""NVIDIA's AIPerf against a server: its video endpoint, 32 requests at once, every answer of a poll counted.

    python3 -m venv ../aiperf && ../aiperf/bin/pip install aiperf==0.13.0
    python benchmarks/serve_aiperf.py --aiperf ../aiperf/bin/aiperf [--concurrency 32] [--requests 64]

It needs an environment of its own, for its dependencies and ours exclude each other.
AIPerf polls each job every 0.1 s and gives a request up at any answer that is not 2xx. Prints its figures and
the answers that the server gave, by status, as one JSON object; exit status 1 where a request failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from serving import running_server

# AIPerf counts the words of prompts by a tokenizer; its own one would be downloaded.
TOKENIZER = Path(__file__).parents[1] / "src" / "latent_shift" / "assets" / "moving-shapes" / "tokenizer"
PROMPTS = ("a red circle", "a small blue star moving left", "a white heart on a teal background")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--aiperf", type=Path, required=True)
    parser.add_argument("--model", default="moving-shapes")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2)
    given = parser.parse_args()
    if not given.aiperf.is_file():
        parser.error(f"--aiperf {given.aiperf}: there is no such program; see the first lines of this file")
    id = given.model.partition("=")[0]
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.jsonl"
        prompts.write_text("".join(json.dumps({"text": text}) + "\n" for text in PROMPTS))
        with running_server(Path(folder) / "data", "--model", given.model) as server:
            command = [
                given.aiperf.absolute(), "profile", "--model", id, "--url", server.url,
                "--tokenizer", TOKENIZER, "--endpoint-type", "video_generation", "--download-video-content",
                "--concurrency", given.concurrency, "--request-count", given.requests,
                "--extra-inputs", f"num_inference_steps:{given.steps}", "--input-file", prompts,
                "--custom-dataset-type", "single_turn", "--ui", "none",
                "--output-artifact-dir", Path(folder) / "out",
            ]  # fmt: skip
            done = subprocess.run(
                [*map(str, command)], capture_output=True, text=True, check=False, cwd=folder
            )
            finished = server.get_metrics("latent_shift_requests_total")
        exports = [*(Path(folder) / "out").rglob("profile_export_aiperf.json")]
        if done.returncode or not exports:
            print(done.stdout[-3000:] + done.stderr[-3000:], file=sys.stderr)
            return 1
        report = json.loads(exports[0].read_text())
    names = ("request_count", "error_request_count", "request_throughput", "request_latency")
    figures = {name: report[name] for name in names if name in report}
    print(json.dumps({"aiperf": figures, "server": finished}))
    return 1 if (report.get("error_request_count") or {}).get("avg") else 0


if __name__ == "__main__":
    sys.exit(main())
