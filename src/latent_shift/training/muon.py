"""Muon for matrices, AdamW for all else, as one optimizer.

Muon (K. Jordan and others, 2024, kellerjordan.github.io/posts/muon) takes the running mean of a matrix's
gradients and makes its singular values alike before it steps, so that rare directions are learned as fast as
common ones. The step is as long as AdamW's would be (arXiv 2502.16982, section 2.2), so a recipe's learning
rate serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as adamw_step

_LEAST_SIDE = 64  # narrower ones, as the first and the last layer's, have too few directions to even out
_MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)  # of the post: steep at zero, so five rounds do
_ROUNDS = 5
_RMS_OF_ADAMW = 0.2  # root mean square of AdamW's step at a learning rate of 1
_EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Which of the two a parameter gets is told by its shape (`is_matrix`)."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient. A closure is refused with ValueError."""
        if closure is not None:
            raise ValueError("Muon takes no closure: compute the gradients before the step")
        for group in self.param_groups:
            due = [parameter for parameter in group["params"] if parameter.grad is not None]
            for alike in _together([parameter for parameter in due if is_matrix(parameter)]):
                self._step_matrices(alike, group)
            self._step_others([parameter for parameter in due if not is_matrix(parameter)], group)

    def _step_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Step matrices of one size."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
        means = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - _MOMENTUM)
        ahead = torch._foreach_lerp(gradients, means, _MOMENTUM)  # Nesterov's
        even = evened(torch.stack([each.reshape(len(each), -1) for each in ahead]))
        length = _RMS_OF_ADAMW * sqrt(max(even.shape[1:]))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        for parameter, direction in zip(parameters, even, strict=True):
            parameter.add_(direction.view_as(parameter), alpha=-group["lr"] * length)

    def _step_others(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(
                    step=torch.tensor(0.0, device=parameter.device),
                    exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter),
                )  # fmt: skip
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw_step(
            parameters, [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states],
            [], [state["step"] for state in states], fused=True, amsgrad=False, beta1=beta1, beta2=beta2,
            lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon steps it: a linear layer's weight, or a convolution's with all that one output reads as a
    row, no side below 64."""
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= _LEAST_SIDE


def _together(matrices: list[Tensor]) -> list[list[Tensor]]:
    """Those of one size, which a GPU steps in a few calls; on a CPU each alone, which its cache holds."""
    found: dict[Any, list[Tensor]] = {}
    for number, each in enumerate(matrices):
        size = (len(each), each[0].numel()) if each.is_cuda else number
        found.setdefault(size, []).append(each)
    return list(found.values())


def evened(matrices: Tensor) -> Tensor:
    """(N, rows, columns): the same singular vectors, all singular values about 1 (0.7 to 1.2), in bfloat16.

    By five rounds of a Newton-Schulz iteration, whose products alone are computed.
    """
    a, b, c = _QUINTIC
    wide = matrices.bfloat16()
    tall = wide.shape[1] > wide.shape[2]
    if tall:
        wide = wide.mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=_EPSILON)
    for _ in range(_ROUNDS):
        square = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide.mT if tall else wide
