"""FSDP2: sharded, a model gives the losses and the weights of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from latent_shift.training.checkpoint import checkpoints
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train

RECIPES = Path(__file__).parents[2] / "recipes" / "accelerate"
PROGRAM = Path(__file__).with_name("sharing.py")
SETTINGS = {
    "batch_size": 4, "steps": 4, "checkpoint_every": 2, "sample_every": 4,
    "validation": {"items": 4, "every": 2},
}  # fmt: skip


def ignore(progress):
    pass


def variables(name, monkeypatch):
    """What `accelerate launch` tells its processes by a configuration of ours."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    arguments = ["--config_file", str(RECIPES / f"{name}.yaml"), "program.py"]
    chosen, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    told = prepare_multi_gpu_env(chosen)
    return {key: value for key, value in told.items() if key.startswith(("ACCELERATE_", "FSDP_"))}


def shared(environment, *arguments, processes=2):
    """Run the program with parameters shared out among CPU processes."""
    options = ["--standalone", "--nproc_per_node", str(processes), str(PROGRAM)]
    command = [sys.executable, "-m", "torch.distributed.run", *options, *map(str, arguments)]
    on_cpu = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    own = {**os.environ, **environment, **on_cpu}
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=240)


def log(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def tensors(folder):
    return {
        (file.name, key): value
        for file in sorted(folder.glob("*.safetensors"))
        for key, value in load_file(file).items()
    }


@pytest.mark.slow
def test_it_gives_the_losses_of_one_process_and_resumes(recipe, recipe_file, tmp_path, monkeypatch):
    environment = variables("fsdp2", monkeypatch)
    settings = {**SETTINGS, "gradient_accumulation_steps": 2}
    alone = recipe("video", **settings)
    model = train(build_task(alone), ignore)
    output = tmp_path / "shared"
    file = recipe_file("video", **settings)
    for steps in (2, 4):  # the second command goes on where the first ended
        done = shared(environment, "train", file, "--set", f"output={output}", "--set", f"steps={steps}")
        assert done.returncode == 0, done.stderr[-3000:]
    for one, other in zip(log(alone.output), log(output), strict=True):
        assert one["step"] == other["step"]
        for name in {"loss", "gradient_norm", "validation_loss"} & one.keys():
            assert other[name] == pytest.approx(one[name], rel=2e-3), name
    first, second = (tensors(checkpoints(folder)[-1]) for folder in (alone.output, output))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.shape == second[name].shape, name
        assert torch.allclose(value, second[name], atol=1e-3), name
    exported = load_file(output / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in load_file(model / "unet" / "diffusion_pytorch_model.safetensors").items():
        assert torch.allclose(value, exported[name], atol=1e-3), name
    assert (output / "samples" / "step-00000004.png").is_file()


BUCKETS = {"source": {"format": "folder", "path": "clips"}, "frames": {"buckets": {"pixels": 4096}}}


@pytest.mark.parametrize(
    ("told", "changes", "error"),
    [
        ({"FSDP_VERSION": "1"}, {}, "FSDP of version 1 is not supported: set fsdp_version: 2"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, {}, "fsdp_cpu_ram_efficient_loading: set it to false"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}, "the recipe has gradient_checkpointing"),
        (
            {},
            {"mixed_precision": "fp16"},
            "mixed_precision: fp16 does not go with FSDP; set mixed_precision to bf16 or fp32",
        ),
        ({}, {"compile": True}, "compile: does not go with FSDP; set compile to false"),
        (
            {},
            {"optimizer": {"kind": "adamw-8bit", "learning_rate": 0.1, "warmup_steps": 0}},
            "optimizer.kind: adamw-8bit does not go with FSDP",
        ),
        (
            {},
            {"latents": None, "clips": BUCKETS, "validation": {}},
            "buckets.* cannot be validated under FSDP",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_told_before_any_work(recipe, monkeypatch, told, changes, error):
    for name, value in {**variables("fsdp2", monkeypatch), **told}.items():
        monkeypatch.setenv(name, value)
    wanted = recipe("video", **changes)
    with pytest.raises(ValueError, match=error):
        train(build_task(wanted), ignore)
    assert not wanted.output.exists()


def test_half_precision_needs_a_gpu(recipe):
    with pytest.raises(
        ValueError, match="mixed_precision: fp16 needs a GPU; set mixed_precision to auto, bf16 or fp32"
    ):
        train(build_task(recipe("video", mixed_precision="fp16")), ignore)


def test_accelerates_own_classes_take_the_configurations(monkeypatch):
    for name, value in variables("fsdp2", monkeypatch).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert "UNetMidBlock2DCrossAttn" in plugin.transformer_cls_names_to_wrap


def test_without_gpus_accelerate_does_not_share_out_and_that_is_told(recipe, monkeypatch):
    for name, value in variables("fsdp2", monkeypatch).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"shares out parameters \(FSDP\) among several GPUs only"):
        train(build_task(recipe("video")), ignore)
