"""Precision "auto": the same in training and sampling, bf16 on a CPU that computes faster in it."""

import pytest
import torch

from latent_shift import checkpoints
from latent_shift.checkpoints import precision
from latent_shift.training.distributed import resolve_precision


@pytest.mark.parametrize(
    ("instructions", "faster", "expected"),
    [(True, True, "bf16"), (True, False, "fp32"), (False, True, "fp32")],
)
def test_on_a_cpu(monkeypatch, instructions, faster, expected):
    monkeypatch.setattr(precision, "_has_bf16_instructions", lambda: instructions)
    monkeypatch.setattr(precision, "_is_bf16_faster", lambda: faster)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    kinds = {"bf16": torch.bfloat16, "fp32": torch.float32}
    assert checkpoints.choose_dtype("auto", torch.device("cpu")) == kinds[expected]
    assert resolve_precision("auto") == expected


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp16")])
def test_on_a_gpu(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert checkpoints.auto_dtype("cuda") == resolve_precision("auto") == expected


def test_the_measurement_takes_the_better_time_and_draws_no_random_number(monkeypatch):
    before = torch.get_rng_state()
    precision._is_bf16_faster.cache_clear()
    ends = [0, 5, 5, 7, 7, 9, 9, 11, 20, 30, 30, 31, 31, 32, 32, 33]  # 2 seconds in fp32, 1 in bf16
    clock = iter(ends)
    monkeypatch.setattr(precision.time, "process_time", lambda: next(clock))
    assert precision._is_bf16_faster()
    assert torch.equal(torch.get_rng_state(), before)
    precision._is_bf16_faster.cache_clear()
