"""The README's commands and Python, run as they stand there, on the default model."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from latent_shift import media
from latent_shift.cli import errors
from latent_shift.cli.main import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [
    line.split("#")[0].strip()
    for block in blocks("sh")
    for line in block.splitlines()
    if line.startswith("latent-shift ")
]
SHORTER = {"evaluate": ("--prompts", "1"), "generate": ("--steps", "1")}  # the same command, less of it


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """An empty folder with the recipes in it, where one command may use what another made."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


def test_there_are_commands_and_python():
    assert len(COMMANDS) >= 6
    assert len(blocks("python")) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_it_says(command, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    arguments = [*shlex.split(command)[1:]]
    arguments += SHORTER.get(arguments[0], ())
    assert errors.run(app, arguments) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert out.strip()
    if "-o" in arguments:
        target = workplace / arguments[arguments.index("-o") + 1]
        files = [target] if target.is_file() else sorted(target.iterdir())
        count = int(arguments[arguments.index("--count") + 1]) if "--count" in arguments else 1
        assert len(files) == count
        for file in files:
            assert media.read_clip(file)[0].any()


@pytest.mark.slow
def test_the_python_runs(monkeypatch, tmp_path):
    from tiny import tiny_unet

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["readme"])
    load, shift = blocks("python")[:2]
    found = {}
    exec(compile(load, "README.md", "exec"), found)
    assert len(found["clip"]) == 16
    import torch

    unet = tiny_unet()
    size = unet.config.sample_size
    given = {
        "unet": unet,
        "sample": torch.randn(32, unet.config.in_channels, size, size),
        "timestep": 5,
        "text": torch.randn(32, 7, unet.config.cross_attention_dim),
    }
    before = unet.config.to_dict() if hasattr(unet.config, "to_dict") else dict(unet.config)
    exec(compile(shift, "README.md", "exec"), given)
    assert dict(unet.config) == before
