"""Cost of the shift where it stands: the residual addition of one block, plain and shifted.

The forward pass is compared with `skip + branch`. The backward pass of a plain addition hands its gradient on
and costs nothing; that of the shift writes one tensor, and is compared with a copy. No model is around the
addition. On a CPU the ratio is of processor seconds, so that other work hardly counts.

Shapes: B videos, F frames, C channels, H x W latent pixels; (B*F, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from latent_shift.benchmark.measure import Spread, ratio, take_turns
from latent_shift.shift import shifted_add

FRAMES = 16
CASES = (
    ((32, 128, 16, 16), torch.float32),
    ((128, 320, 32, 32), torch.float32),
    ((128, 320, 32, 32), torch.bfloat16),
)
Case = tuple[tuple[int, int, int, int], torch.dtype]


@dataclass(frozen=True)
class Row:
    """One comparison: median seconds of the plain and of the shifted call, and how many times as long."""

    shape: tuple[int, ...]
    dtype: str
    layout: str
    direction: str
    plain: float
    shifted: float
    ratio: Spread


def measure(device: str, repeats: int, cases: tuple[Case, ...] = CASES) -> Iterator[Row]:
    """Compare in both layouts and both directions, a row as soon as it is there."""
    on_cpu = device == "cpu"
    for shape, dtype in cases:
        for layout in (torch.contiguous_format, torch.channels_last):
            for direction, calls in _passes(shape, dtype, layout, device).items():
                times = take_turns(calls, warmups=max(repeats // 6, 1), repeats=repeats, device=device)
                plain, shifted = times["plain"], times["shifted"]
                yield Row(
                    shape, _short(dtype), _short(layout), direction, plain.seconds(cpu=on_cpu),
                    shifted.seconds(cpu=on_cpu), ratio(shifted, plain, cpu=on_cpu),
                )  # fmt: skip


def _short(value: torch.dtype | torch.memory_format) -> str:
    return str(value).removeprefix("torch.")


def _passes(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, device: str
) -> dict[str, dict[str, Callable[[], object]]]:
    """The yardstick and the shifted call, forward and backward."""
    skip, branch, gradient = (
        torch.randn(shape, device=device, dtype=dtype).to(memory_format=layout) for _ in range(3)
    )
    inputs = skip.clone(), branch.clone().requires_grad_()
    total = shifted_add(*inputs, FRAMES)

    def backward() -> object:
        return torch.autograd.grad(total, inputs[1], gradient, retain_graph=True)

    return {
        "forward": {"plain": lambda: skip + branch, "shifted": lambda: shifted_add(skip, branch, FRAMES)},
        "backward": {"plain": lambda: gradient.clone(), "shifted": backward},
    }
