"""Training on a GPU: the same loop, with noise drawn there."""

import json

import pytest
import torch

from latent_shift.training.task import build_task
from latent_shift.training.trainer import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.parametrize(
    "task", ["text_contrastive", "video_text_contrastive", "autoencoder", "image", "video"]
)
def test_every_task_trains(recipe, task):
    tiny = recipe(task, mixed_precision="bf16")
    train(build_task(tiny), lambda progress: None)
    lines = [json.loads(line) for line in (tiny.output / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, tiny.steps + 1))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_in_parts_a_batch_gives_the_same_losses(recipe, tmp_path, kind):
    losses = []
    for parts in (1, 2):
        optimizer = {"kind": kind, "learning_rate": 0.003, "warmup_steps": 0}
        tiny = recipe(
            "video", gradient_accumulation_steps=parts, output=str(tmp_path / str(parts)), optimizer=optimizer
        )
        train(build_task(tiny), lambda progress: None)
        lines = (tiny.output / "log.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)
