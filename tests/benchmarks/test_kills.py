"""A training that is killed several times at random moments ends with the weights of one never stopped."""

import subprocess
import sys

import pytest

from benchmark_module import FOLDER


@pytest.mark.slow
def test_kills_change_nothing(tmp_path):
    """In a process of its own: it forks, which no process with threads should."""
    options = ["--kills", "6", "--steps", "6", "--seed", "1", "--out", str(tmp_path / "kills")]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "kills.py"), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    *events, last = done.stdout.splitlines()
    assert last.endswith(": equal")
    assert any("step-" in event or ".safetensors" in event or ".unfinished" in event for event in events), (
        events
    )
