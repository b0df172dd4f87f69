"""docs/serving.md: its commands are understood, its Python and its curl run as they stand there."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from latent_shift.cli.main import app
from latent_shift.media import read_settings

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
LINES = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)).splitlines()
COMMANDS = [line.split("#")[0].split("latent-shift ", 1)[1] for line in LINES if "latent-shift serve" in line]
HERE = "http://127.0.0.1:8000"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command):
    group = get_command(app)
    context = group.make_context("latent-shift", shlex.split(command))
    _, program, arguments = group.resolve_command(context, [*context._protected_args, *context.args])
    assert program.make_context("serve", list(arguments)).params["max_queued"] >= 1


def test_the_python_makes_a_clip(server, tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(DeprecationWarning, match="Sora"):
        exec(code.replace(HERE, server.url), {})
    assert read_settings(tmp_path / "triangle.mp4")["seed"] == 5


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_makes_clips(server, tmp_path):
    calls = [line.split("  #")[0].replace(HERE, server.url) for line in LINES if line.startswith("curl ")]
    assert len(calls) == 4
    id = "VIDEO_ID"
    for call in calls:
        command = ["curl", "--fail", *shlex.split(call.replace("VIDEO_ID", id))[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        if id == "VIDEO_ID":
            id = re.search(r"video_[0-9a-f]{32}", done.stdout)[0]
            server.wait(id)
    assert {path.name for path in tmp_path.iterdir()} == {"ring.mp4", "heart.mp4"}
