"""The commands of docs/training.md, run as they stand there, on tiny clips and models, a few steps long."""

import re
import shlex
from pathlib import Path

import pytest

from clips import write_video
from latent_shift import media
from latent_shift.checkpoints import video_config
from latent_shift.cli import errors
from latent_shift.cli.main import app
from tiny import tiny_pipeline_folder

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
CLIPS = {"height": 32, "width": 32, "num_frames": 4}
CHANGES = {
    "steps": 2,
    "optimizer.warmup_steps": 1,
    "num_workers": 0,
    "sample_every": 2,
    **{f"clips.frames.{name}": value for name, value in CLIPS.items()},
}
SMALL = [part for name, value in CHANGES.items() for part in ("--set", f"{name}={value}")]


@pytest.mark.slow
def test_the_commands_of_the_page_lead_to_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    tiny_pipeline_folder(tmp_path / "models" / "stable-diffusion-v1-5")
    (tmp_path / "clips").mkdir()
    for number in range(3):
        write_video(tmp_path / "clips" / f"{number}.mp4", count=24)
        (tmp_path / "clips" / f"{number}.txt").write_text("a red circle moves left")
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    commands = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    # other processes: test_distributed.py; half an hour of real video: not in a test
    commands = [command for command in commands if not command.startswith(("accelerate ", "recipes/"))]
    assert len(commands) == 4
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "latent-shift"
        more = SMALL if arguments[0] == "train" else []
        assert errors.run(app, [*arguments, *more]) == 0, capsys.readouterr().err
    assert media.read_clip(tmp_path / "preview.png")[0].any()
    assert video_config(tmp_path / "runs" / "own-clips" / "model").num_frames == 4
    assert list((tmp_path / "runs" / "own-clips" / "samples").glob("*.png"))
