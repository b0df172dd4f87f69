"""recipes/one-clip.yaml as it stands, on a real mp4, a tiny model and for a few steps."""

import json
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from clips import REAL, needs_real_clips
from latent_shift import media
from latent_shift.cli import errors
from latent_shift.cli.main import app
from tiny import open_components

RECIPE = Path(__file__).parents[2] / "recipes" / "one-clip.yaml"
SMALL = {
    "steps": 4, "optimizer.warmup_steps": 1, "sample_every": 4, "log_every": 1,
    "sampling.num_inference_steps": 2, "clips.frames.height": 64, "clips.frames.width": 64,
}  # fmt: skip


@pytest.mark.slow
@needs_real_clips
def test_one_real_clip_tunes_a_model_that_makes_clips(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "clip.mp4").symlink_to(REAL / "real_clips" / "man-skiing.mp4")
    (folder / "clip.txt").write_text("a man is skiing")
    StableDiffusionPipeline(**open_components()).save_pretrained(tmp_path / "base")
    changes = {"pretrained_model": tmp_path / "base", **SMALL}
    command = ["train", str(RECIPE), *(f"--set={name}={value}" for name, value in changes.items())]
    assert errors.run(app, command) == 0, capsys.readouterr().err
    run = tmp_path / "runs" / "one-clip"
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all("clip_loss" in line for line in lines)  # no single frames
    assert not (run / "bad-clips.jsonl").exists()
    unet = "unet/diffusion_pytorch_model.safetensors"
    assert load_file(run / "model" / unet).keys() == load_file(tmp_path / "base" / unet).keys()
    assert (run / "samples" / "step-00000004.png").is_file()
    (layers,) = (run / "model" / "lora").glob("*.safetensors")
    for more in (["--model", str(run / "model")], ["--model", "base", "--lora", str(layers)]):
        made = ["generate", "a bear is skiing", "--frames", "4", "--steps", "1", "-o", "out.mp4", "--force"]
        size = ["--height", "64", "--width", "64"]
        assert errors.run(app, [*made, *size, *more]) == 0, capsys.readouterr().err
        assert media.read_clip(tmp_path / "out.mp4")[0].shape == (4, 64, 64, 3)
