"""The benchmark of full size, on its tiny one: every job runs, and the counting counts right."""

import re
import subprocess
import sys

import pytest
import torch

from latent_shift.benchmark import full_size
from latent_shift.benchmark.memory import LiveBytes


@pytest.fixture(scope="module")
def benchmark():
    return full_size


@pytest.mark.parametrize("job", ["sampling", "lora", "full"])
def test_every_job_runs(benchmark, job):
    found = benchmark.measure(job, benchmark.SIZES["tiny"], "cpu", torch.float32)
    assert found["seconds"] > found["autoencoder"] > 0
    assert found["peak"] > 2**20


def test_a_training_step_changes_what_is_trained_and_nothing_else(benchmark):
    size = benchmark.SIZES["tiny"]
    for train, changed in ((benchmark.train_lora, "lora_B"), (benchmark.train_all, "conv_in.weight")):
        parts = benchmark.build(size, "cpu", torch.float32)
        before = {name: tensor.clone() for name, tensor in parts["unet"].state_dict().items()}
        train(parts, size, torch.bfloat16)
        after = parts["unet"].state_dict()
        moved = {name for name in after if name not in before or not torch.equal(after[name], before[name])}
        assert any(changed in name for name in moved)
        if changed == "lora_B":
            assert all("lora" in name or "base_layer" in name for name in moved)


@pytest.mark.slow
def test_the_computed_table_has_a_line_a_job(benchmark):
    size = benchmark.SIZES["tiny"]
    table = benchmark.computed_table(size)
    assert "Computed, not measured" in table
    assert len(re.findall(r"^\| .*( \| [\d.]+){6} \|$", table, re.M)) == 3
    parts = benchmark.build(size, "meta", torch.bfloat16)
    unet = sum(parameter.numel() for parameter in parts["unet"].parameters())
    every = sum(parameter.numel() for part in parts.values() for parameter in part.parameters())
    *kept, activations = benchmark.computed("full", size)
    assert kept == [4 * every + 2 * unet, 4 * unet, 8 * unet, 4 * unet]
    assert activations > 0


def test_live_bytes_are_those_of_tensors_that_live():
    with LiveBytes() as counted:
        first = torch.zeros(1000)  # 4,000 bytes
        view = first.view(10, 100)
        second = first + 1
        del first
        assert counted.now == 8000  # the view keeps the storage
        del view
        assert counted.now == 4000
        third = second * 2
        del second, third
    assert (counted.now, counted.peak) == (0, 8000)


def test_live_bytes_of_a_backward_pass_hold_what_autograd_saved():
    weight = torch.ones(100, requires_grad=True)
    with LiveBytes() as counted:
        result = (weight * 2).exp().sum()  # exp keeps its result, 400 bytes; the product is not kept
        assert counted.now == 404
        result.backward()


@pytest.mark.slow
def test_a_job_in_its_own_process():
    command = [sys.executable, "-m", "latent_shift.benchmark.full_size", "sampling", "tiny", "cpu", "fp32"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r'\{"seconds": [\d.]+, "autoencoder": [\d.]+, "peak": \d+\}', done.stdout.strip())
