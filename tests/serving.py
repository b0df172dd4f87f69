"""A tiny model with an open vocabulary, and `latent-shift serve` as a process, for tests and benchmarks.

with running_server(folder, "--model", f"tiny={model}") as server:
    requests.get(server.url + "/v1/models")
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from diffusers import StableDiffusionPipeline

from tiny import VIDEO_CONFIG, open_components

STARTING = 120.0  # seconds


def open_model(folder: Path, **settings: Any) -> Path:
    """Save a tiny video-tuned model that reads any text; clips of 4 frames, 32 x 32 pixels, 1 step."""
    StableDiffusionPipeline(**open_components()).save_pretrained(folder)
    config = {**VIDEO_CONFIG, "num_inference_steps": 1, **settings}
    (folder / "latent_shift.json").write_text(json.dumps(config))
    return folder


@dataclass
class Server:
    """A running server."""

    url: str
    process: subprocess.Popen[str]

    def stop(self, within: float = 30.0) -> float:
        """End it by SIGTERM; the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(within)
        return time.monotonic() - began

    def create(self, **fields: Any) -> dict[str, Any]:
        """Put a clip into the queue; the video."""
        answer = requests.post(f"{self.url}/v1/videos", json=fields, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, id: str) -> dict[str, Any]:
        """A video."""
        answer = requests.get(f"{self.url}/v1/videos/{id}", timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get_metrics(self, name: str) -> dict[str, float]:
        """Values of a metric by its labels as they are written."""
        lines = requests.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        found = [line.removeprefix(name).rpartition(" ") for line in lines if line.startswith(name)]
        return {labels: float(value) for labels, _, value in found}

    def wait(self, id: str, within: float = 300.0) -> dict[str, Any]:
        """A video when it is finished."""
        end = time.monotonic() + within
        while (video := self.get(id))["status"] in ("queued", "in_progress"):
            assert time.monotonic() < end, video
            time.sleep(0.05)
        return video


def start_server(data: Path, *options: str, env: dict[str, str] | None = None, ready: bool = True) -> Server:
    """Start a server on a free port; wait until it has loaded its model where `ready`."""
    command = [sys.executable, "-m", "latent_shift", "serve", "--port", "0", "--dtype", "fp32"]
    command += ["--data", str(data), *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}, start_new_session=True
    )
    assert select.select([process.stdout], [], [], STARTING)[0], "the server does not start"
    line = process.stdout.readline()
    assert line.startswith("serving http://"), line
    server = Server(line.split()[1], process)
    end = time.monotonic() + STARTING
    while True:
        try:
            status = requests.get(f"{server.url}/{'health' if ready else 'livez'}", timeout=30).status_code
        except requests.ConnectionError:
            status = 0
        if status == 200:
            return server
        assert time.monotonic() < end, "the server does not become ready"
        assert process.poll() is None, "the server has ended"
        time.sleep(0.05)


@contextmanager
def running_server(data: Path, *options: str, **how: Any) -> Iterator[Server]:
    """A server that ends with the block."""
    server = start_server(data, *options, **how)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
        server.process.stdout.close()
