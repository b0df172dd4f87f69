"""The README's commands and Python, run as they stand there, on the default model."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from latent_shift import media
from latent_shift.cli import errors
from latent_shift.cli.main import app
from tiny import tiny_pipeline_folder, tiny_unet

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
SHORTER = {  # the same command, less of it
    "evaluate": ("--prompts", "1"),
    "generate": ("--steps", "1"),
    "train": (
        "--set", "steps=1", "--set", "optimizer.warmup_steps=0", "--set", "sample_every=0",
        "--set", "num_workers=0", "--set", "clips.frames.height=32", "--set", "clips.frames.width=32",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with recipes, clips and a tiny image model, where one command may use what another made."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    tiny_pipeline_folder(folder / "models" / "stable-diffusion-v1-5", latent_shift=False)
    (folder / "clips").mkdir()
    for number in range(2):
        frames = np.random.default_rng(number).integers(0, 256, (20, 32, 32, 3), np.uint8)
        media.write_clip(folder / "clips" / f"{number}.mp4", frames, 8)
        (folder / "clips" / f"{number}.txt").write_text("a black circle moves left\n")
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
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        arguments = ["fp32" if one == "bf16" else one for one in arguments]  # which takes minutes there
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
