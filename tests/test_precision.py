"""Precision "auto": the same in training and sampling, bf16 on a CPU that has instructions for it."""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from latent_shift import checkpoints, precision
from latent_shift.training.distributed import new_accelerator, resolve_precision
from latent_shift.training.recipe import load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.mark.parametrize(("instructions", "expected"), [(True, "bf16"), (False, "fp32")])
def test_on_a_cpu(monkeypatch, instructions, expected):
    monkeypatch.setattr(precision, "_has_bf16_instructions", lambda: instructions)
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


def test_bf16_by_hand_warns_where_it_is_slow(monkeypatch, recwarn):
    monkeypatch.setattr(precision, "_has_bf16_instructions", lambda: True)
    assert checkpoints.choose_dtype("bf16", torch.device("cpu")) == torch.bfloat16
    assert not recwarn.list
    monkeypatch.setattr(precision, "_has_bf16_instructions", lambda: False)
    with pytest.warns(precision.SlowPrecisionWarning, match="no instructions for it"):
        assert checkpoints.choose_dtype("bf16", torch.device("cpu")) == torch.bfloat16


def test_bf16_in_training_warns_where_it_is_slow(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "_has_bf16_instructions", lambda: False)
    settings = [f"output={tmp_path / 'run'}", "mixed_precision=bf16"]
    recipe = load_recipe(RECIPES / "compare" / "latent-1-image.yaml", settings)
    try:
        with pytest.warns(precision.SlowPrecisionWarning, match="mixed_precision bf16: this processor"):
            new_accelerator(recipe)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
