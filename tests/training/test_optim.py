"""The learning rate over a run."""

import pytest
import torch

from latent_shift.training.optim import learning_rate, new_optimizer
from latent_shift.training.recipe import OptimizerConfig


def rates(steps, **schedule):
    optimizer = OptimizerConfig(learning_rate=2.0, **schedule)
    return [learning_rate(optimizer, step, steps) for step in range(1, steps + 1)]


def test_it_rises_stays_and_falls_to_nearly_nothing():
    assert rates(10, warmup_steps=4, cooldown_steps=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5]


def test_warm_up_and_cool_down_can_be_left_out():
    assert rates(3, warmup_steps=0) == [2.0, 2.0, 2.0]
    assert rates(4, warmup_steps=2, cooldown_steps=2) == pytest.approx([1.0, 2.0, 2.0, 1.0])


def test_eight_bits_without_a_gpu_are_refused():
    settings = OptimizerConfig(kind="adamw-8bit", learning_rate=0.001)
    if torch.cuda.is_available():
        pytest.skip("a GPU is at hand: 8-bit AdamW may run")
    with pytest.raises(ValueError, match="optimizer.kind: adamw-8bit needs a CUDA GPU; use adamw"):
        new_optimizer([torch.nn.Parameter(torch.zeros(2))], settings)
