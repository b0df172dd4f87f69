"""The three examples, run as their first lines say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from latent_shift.media import read_settings

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", ["serve_openai.py", "serve_requests.py", "serve_curl.sh"])
def test_an_example_makes_its_clip(server, name, tmp_path):
    if name.endswith(".sh") and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    program = [sys.executable] if name.endswith(".py") else []
    file = tmp_path / "clip.mp4"
    command = [*program, str(EXAMPLES / name), "a red circle", str(file)]
    environment = {**os.environ, "LATENT_SHIFT_URL": server.url}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    assert str(file) in done.stdout
    settings = read_settings(file)
    assert (settings["prompt"], settings["seed"], settings["steps"]) == ("a red circle", 5, 4)
