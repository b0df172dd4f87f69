"""Several processes: the same global batch gives the losses, and the model, of one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from latent_shift.training.checkpoint import checkpoints
from latent_shift.training.task import build_task
from latent_shift.training.trainer import Trainer, train

SETTINGS = {"batch_size": 4, "steps": 4, "checkpoint_every": 2, "validation": {"items": 4, "every": 2}}


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def launch(*arguments):
    """Run the program in two CPU processes, by the configuration that docs/training.md names."""
    return launch_module("latent_shift", *arguments)


def launch_module(module, *arguments):
    configuration = Path(__file__).parents[2] / "recipes" / "accelerate" / "two-processes.yaml"
    options = ["--config_file", str(configuration), "--main_process_port", str(free_port())]
    program = [sys.executable, "-m", "accelerate.commands.launch", *options, "--module", module]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def log(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_configuration_starts_two_processes(tmp_path, monkeypatch):
    (tmp_path / "count.py").write_text(
        "import sys\nfrom accelerate import PartialState\n"
        "sys.stdout.write(f'of {PartialState(cpu=True).num_processes}\\n')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    done = launch_module("count")
    assert done.stdout == "of 2\nof 2\n", done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(recipe, recipe_file, with_images, tmp_path):
    settings = {**SETTINGS, **with_images, "image_batch_size": 8}
    alone = recipe("video", **settings)
    train(build_task(alone), lambda progress: None)
    shared = tmp_path / "shared"
    done = launch("train", recipe_file("video", **settings), "--set", f"output={shared}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"image_loss", "clip_loss"} <= {name for line in log(shared) for name in line}
    for one, other in zip(log(alone.output), log(shared), strict=True):
        assert one["step"] == other["step"]
        for name in {"loss", "gradient_norm", "validation_loss"} & one.keys():
            assert other[name] == pytest.approx(one[name], rel=2e-3), name
    assert [folder.name for folder in checkpoints(shared)] == ["step-00000002", "step-00000004"]
    first, second = (load_file(checkpoints(o)[-1] / "weights.safetensors") for o in (alone.output, shared))
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-3), name


def test_items_that_are_compared_with_each_other_are_not_shared_out(recipe):
    several = SimpleNamespace(num_processes=2)
    with pytest.raises(ValueError, match="2 processes: in this task each item of a batch is compared"):
        Trainer(build_task(recipe("text_contrastive")), several, lambda progress: None)
