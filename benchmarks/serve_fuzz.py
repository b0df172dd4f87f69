"""Requests fuzzed from a server's own document, valid and invalid ones, and chains of them (schemathesis).

    python benchmarks/serve_fuzz.py [--requests 10000] [--model tiny=FOLDER]

Starts a server with small limits, so that jobs are short, and repeats schemathesis with new seeds until
so many requests were sent. Fails where an answer is a 5xx, or its status, headers, type or content are not
as the document says; where invalid data is accepted or valid data refused (but for `schemathesis.toml`).
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_CONFIG = Path(__file__).with_name("schemathesis.toml")
SMALL = ("--max-frames", "8", "--max-pixels", "4096", "--max-steps", "2")
ENDLESS = ("--max-queued", "1000000", "--max-queued-per-key", "1000000")


def run(url: str, examples: int, phases: str, seed: int = 1) -> dict[str, Any]:
    """Fuzz a running server: exit status, number of requests, the report."""
    program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(_CONFIG), "run"]
    options = [
        f"{url}/openapi.json", "--phases", phases, "--mode", "all", "--max-examples", str(examples),
        "--seed", str(seed), "--continue-on-failure", "--workers", "2", "--no-color",
    ]  # fmt: skip
    done = subprocess.run([*program, *options], capture_output=True, text=True, check=False, env=os.environ)
    made = re.search(r"(\d+) generated", done.stdout)
    return {
        "status": done.returncode,
        "requests": int(made[1]) if made else 0,
        "report": done.stdout + done.stderr,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--model", default="moving-shapes")
    parser.add_argument("--examples", type=int, default=60)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from serving import running_server

    sent, seed, failed = 0, 0, 0
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), "--model", given.model, *SMALL, *ENDLESS) as server,
    ):
        while sent < given.requests and not failed:
            seed += 1
            phases = "examples,coverage,fuzzing,stateful"
            found = run(server.url, given.examples, phases, seed)
            sent, failed = sent + found["requests"], found["status"]
            print(f"seed {seed}: {found['requests']} requests, status {failed}", file=sys.stderr, flush=True)
            if failed:
                print(found["report"], file=sys.stderr)
    print(json.dumps({"requests": sent, "seeds": seed, "failed": bool(failed)}))
    return failed


if __name__ == "__main__":
    sys.exit(main())
