"""Training on emoji with a text encoder of another kind, from autoencoder to scores."""

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from latent_shift import checkpoints
from latent_shift.cli import errors
from latent_shift.cli.main import app
from latent_shift.emoji.constants import GROUNDS
from latent_shift.emoji.eyes import EyesNetwork
from latent_shift.emoji.pack import Pack, write_pack
from latent_shift.emoji.protocol import EmojiTruth
from latent_shift.evaluation.report import read_report
from latent_shift.training.recipe import load_recipe
from latent_shift.training.task import build_task
from tiny import tiny_scheduler
from tiny_emoji import tiny_clips, tiny_pack
from tiny_text import tiny_bert

RECIPES = Path(__file__).parents[2] / "recipes" / "emoji"
SCHEDULER = (
    "beta_schedule",
    "prediction_type",
    "rescale_betas_zero_snr",
    "timestep_spacing",
    "clip_sample",
    "steps_offset",
)
BASICS = {
    "batch_size": 2, "mixed_precision": "fp32", "log_every": 1, "sample_every": 100,
    "optimizer": {"learning_rate": 0.003, "warmup_steps": 0},
}  # fmt: skip
UNET = {
    "sample_size": 8, "in_channels": 4, "out_channels": 4,
    "layers_per_block": 1, "block_out_channels": [12, 24],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 4, "cross_attention_dim": 16,
    "attention_head_dim": 4,
}  # fmt: skip
AUTOENCODER = {
    "sample_size": 32, "latent_channels": 4, "block_out_channels": [8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1, "norm_num_groups": 4, "mid_block_add_attention": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return tiny_pack(tmp_path_factory.mktemp("pack") / "pack.safetensors")


@pytest.fixture(scope="module")
def trained(pack, tmp_path_factory):
    """The folder of three finished runs: autoencoder, image, video."""
    folder = tmp_path_factory.mktemp("runs")
    parts = tiny_bert(length=48)
    parts["tokenizer"].save_pretrained(folder / "text" / "tokenizer")
    parts["text_encoder"].save_pretrained(folder / "text" / "text_encoder")
    source = {"format": "emoji", "pack": str(pack), "clips": 4}
    stills = {**source, "stills": 0.5, "styles": ["fluent", "noto", "twemoji"]}
    recipes = {
        "autoencoder": {"steps": 2, "source": stills, "autoencoder": AUTOENCODER, "crop": 16},
        "image": {
            "steps": 2, "text_encoder_from": f"{folder}/text", "autoencoder": f"{folder}/autoencoder/model",
            "latents": {"folder": f"{folder}/stills", "source": stills}, "unet": UNET,
            "scheduler": {key: tiny_scheduler().config[key] for key in SCHEDULER},
            "sampling": {"num_inference_steps": 2},
        },
        "video": {
            "steps": 2, "pretrained_model": f"{folder}/image/model",
            "latents": {
                "folder": f"{folder}/clips", "source": source, "wordings": 2,
                "images": {"folder": f"{folder}/images", "source": {**stills, "centred": True}},
            },
            "image_batch_ratio": 0.5, "image_batch_size": 4,
            "sampling": {"num_inference_steps": 2}, "experimental": {"frame_position_embedding": True},
        },
    }  # fmt: skip
    for task, recipe in recipes.items():
        file = folder / f"{task}.yaml"
        file.write_text(yaml.safe_dump({"task": task, "output": f"{folder}/{task}", **BASICS, **recipe}))
        assert errors.run(app, ["train", str(file)]) == 0
    return folder


@pytest.fixture(scope="module")
def eyes(pack, tmp_path_factory):
    """Eyes that have learned nothing."""
    codes = list(EmojiTruth(Pack.open(pack)).splits.emoji)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("eyes") / "eyes.safetensors"
    save_file(EyesNetwork(len(codes)).state_dict(), path, {"codes": json.dumps(codes)})
    return path


def test_the_text_encoder_is_that_of_the_recipe_unchanged(trained):
    before = checkpoints.load(trained / "image" / "model").text_encoder.state_dict()
    after = checkpoints.load(trained / "video" / "model").text_encoder.state_dict()
    own = tiny_bert(length=48)["text_encoder"].state_dict()
    assert before.keys() == own.keys()
    for name, tensor in own.items():
        assert (before[name] == tensor).all()
        assert (after[name] == tensor).all()


def test_dropout_of_a_frozen_encoder_is_off_in_training(trained, pack):
    task = build_task(load_recipe(trained / "image.yaml"))
    task.train()
    assert task.unet.training
    assert not any(module.training for module in task.pipeline.text_encoder.modules())
    assert not task.vae.training


def test_a_prompt_becomes_a_transparent_clip(trained, tmp_path, capsys):
    file = tmp_path / "out"
    options = ["--model", str(trained / "video" / "model"), "--seed", "1", "--frames", "3", "-o", str(file)]
    assert errors.run(app, ["generate", "🚀", *options, "--background", "transparent"]) == 0
    (made,) = file.iterdir()
    assert made.suffix == ".webp"


def test_all_cells_are_scored(trained, pack, eyes, tmp_path, capsys):
    report, sheet = tmp_path / "report.json", tmp_path / "sheet.png"
    command = [
        "evaluate", "emoji", "--model", str(trained / "video" / "model"),
        "--pack", str(pack), "--eyes", str(eyes),
        "--prompts", "2", "--steps", "1", "-o", str(report), "--sheet", str(sheet),
        "--markdown", str(tmp_path / "page.md"), "--cache-dir", str(tmp_path / "cache"),
    ]  # fmt: skip
    assert errors.run(app, command) == 0
    table, told = capsys.readouterr()
    assert "Expected types" not in told
    for cell in ("names", "composed seen", "composed held out", "words held out", "styles", "moves", "loop"):
        assert f"| {cell} |" in table
    assert "real, through the autoencoder" in table
    rows = read_report(report).rows
    assert len(rows) == 8 * 3
    assert sheet.is_file()
    assert table.strip() in (tmp_path / "page.md").read_text()
    # cached: the same again, without the model's sampling
    assert errors.run(app, [*command, "--force"]) == 0
    assert capsys.readouterr().out.split("In brackets")[0] == table.split("In brackets")[0]


def test_clips_of_another_packs_prompts_are_refused(trained, pack, eyes, tmp_path, capsys):
    command = [
        "evaluate", "emoji", "--model", str(trained / "video" / "model"), "--eyes", str(eyes),
        "--cells", "names", "--prompts", "2", "--steps", "1", "--cache-dir", str(tmp_path / "cache"),
    ]  # fmt: skip
    other = tiny_pack(tmp_path / "other.safetensors", count=12, digest="other")
    assert errors.run(app, [*command, "--pack", str(other)]) == 0
    capsys.readouterr()
    assert errors.run(app, [*command, "--pack", str(pack)]) == 2
    assert "holds clips of other pack, prompts; name another folder" in capsys.readouterr().err
    larger = tiny_pack(tmp_path / "larger.safetensors", count=12, digest="other", size=64)
    assert errors.run(app, [*command, "--pack", str(larger)]) == 2
    assert "holds clips of other side; name another folder" in capsys.readouterr().err


def test_eyes_that_do_not_know_the_pack_are_refused(eyes, tmp_path, capsys):
    listed = [(replace(clip, code=f"{clip.code}0"), one) for clip, one in tiny_clips(2)]
    write_pack(tmp_path / "pack", listed, fps=8, digest="other")
    options = ["--reference-only", "--pack", str(tmp_path / "pack"), "--eyes", str(eyes)]
    assert errors.run(app, ["evaluate", "emoji", *options]) == 2
    assert "do not know 2 of the 2 emoji of" in capsys.readouterr().err


def test_mistakes_are_one_line(pack, eyes, tmp_path, capsys):
    mistakes = {
        "--model is missing": [],
        "no such file; make it: python recipes/emoji/train_eyes.py": ["--reference-only", "--eyes", "none"],
        "cell 'nams' is unknown": ["--reference-only", "--cells", "nams", "--eyes", str(eyes)],
        "prompts is 0": ["--reference-only", "--prompts", "0", "--eyes", str(eyes)],
        "eyes .* are damaged": ["--reference-only", "--eyes", str(pack)],
    }
    for message, options in mistakes.items():
        assert errors.run(app, ["evaluate", "emoji", "--pack", str(pack), *options]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert re.search(message, line)


@pytest.mark.long
def test_scores_against_training(trained, pack, eyes, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("curve", RECIPES / "curve.py")
    curve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(curve)
    image, video = trained / "image", trained / "video"
    given = ["--pack", pack, "--eyes", eyes, "--prompts", 2]
    monkeypatch.setattr(sys, "argv", [str(one) for one in ("curve.py", image, video, *given)])
    curve.main()
    found = json.loads((video / "curve.json").read_text())
    rows = {(row["run"], row["step"]): row for row in found["checkpoints"]}
    assert rows["image", 2]["frames"] == 2 * 2
    assert rows["video", 2]["frames"] == 2 * 2 + 2 * (2 * 16 + 4) / 2  # half of the steps have four images
    assert rows["image", 2]["scores"].keys() == {"names, name top 1"}
    assert rows["video", 2]["scores"].keys() == {
        "names, name top 1", "composed-seen, name top 1", "composed-seen, motion"
    }  # fmt: skip
    assert (video / "curve.png").is_file()
    monkeypatch.setattr(curve, "scored", None)  # what is in the table is not scored again
    curve.main()
    assert json.loads((video / "curve.json").read_text()) == found
    (video / "curve.json").unlink()
    (video / "curve.png").unlink()
    # The last checkpoint's weights are the model's.
    curve.averaged_model(video, sorted((video / "checkpoints").iterdir())[-1], tmp_path / "model")
    for name, weights in checkpoints.load(video / "model").unet.state_dict().items():
        assert torch.equal(checkpoints.load(tmp_path / "model").unet.state_dict()[name], weights)


def test_the_packages_model_is_of_the_recipes():
    read = [
        yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
        for name in ("2-autoencoder", "3-image", "5-decoder")
    ]
    model = checkpoints.load("emoji", dtype="fp32")
    assert read[0]["autoencoder"] == read[2]["autoencoder"]
    for part, wanted in ((model.vae, read[0]["autoencoder"]), (model.unet, read[1]["unet"])):
        assert {key: _plain(part.config[key]) for key in wanted} == wanted
    ground = torch.tensor(GROUNDS["navy"]).float()[:, None, None].expand(1, 3, 64, 64) / 127.5 - 1
    with torch.no_grad():
        latents = model.vae.encode(ground).latent_dist.mode()
        error = model.vae.decode(latents).sample - ground
    assert latents.shape[-1] == read[1]["unet"]["sample_size"]
    assert error.abs().mean() < 0.02  # of 2


def _plain(value):
    return list(value) if isinstance(value, tuple) else value
