"""Optimizers and the learning rate over a run; Muon for matrices.

Muon (K. Jordan and others, 2024, kellerjordan.github.io/posts/muon) orthogonalizes the running mean of a
matrix's gradients before it steps, so that rare directions are learned as fast as common ones. Its steps are
as long as AdamW's would be (arXiv 2502.16982, section 2.2), so a recipe's learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as adamw_step

from latent_shift.training.recipe import OptimizerConfig

_MIN_SIDE = 64  # of a matrix for Muon: the first and the last layer have too few directions
_MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)  # of the post: steep at zero, so that five rounds are enough
_ROUNDS = 5
_RMS_OF_ADAMW = 0.2  # root mean square of AdamW's step at a learning rate of 1
_EPSILON = 1e-7


def new_optimizer(parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build torch's AdamW, bitsandbytes' AdamW with an 8-bit state, or Muon.

    Raises ValueError for 8 bits without a CUDA GPU or without bitsandbytes.
    """
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
    }
    if config.kind == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    if config.kind == "muon":
        return Muon(parameters, **options)
    if not torch.cuda.is_available():
        raise ValueError("optimizer.kind: adamw-8bit needs a CUDA GPU; use adamw")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ValueError("optimizer.kind: adamw-8bit needs pip install 'latent-shift[gpu]'") from error
    return AdamW8bit(parameters, **options)


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate at a step, counted from 1: linear warm-up, plateau, linear cool-down to nearly zero."""
    rise = step / config.warmup_steps if config.warmup_steps else 1.0
    fall = (steps - step + 1) / config.cooldown_steps if config.cooldown_steps else 1.0
    return config.learning_rate * min(1.0, rise, fall)


class Muon(torch.optim.Optimizer):
    """Muon for matrices (`is_matrix`), AdamW for all other parameters, as one optimizer.

    torch.optim.Muon takes two-dimensional parameters only and steps them one by one: kernels of convolutions
    would need views as parameters of their own, with a state that a checkpoint has to map back, and a GPU
    would wait for the launches. Here matrices of one size step together on a GPU.
    """

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
        """Step every parameter that has a gradient. A closure is refused with ValueError."""
        if closure is not None:
            raise ValueError("Muon takes no closure: compute the gradients before the step")
        for group in self.param_groups:
            with_gradient = [parameter for parameter in group["params"] if parameter.grad is not None]
            for same_shape in group_by_shape([one for one in with_gradient if is_matrix(one)]):
                self._step_matrices(same_shape, group)
            self._step_others([one for one in with_gradient if not is_matrix(one)], group)

    def _step_matrices(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        updates = torch._foreach_lerp(gradients, momenta, _MOMENTUM)  # Nesterov's
        directions = orthogonalize(torch.stack([update.flatten(1) for update in updates]))
        length = _RMS_OF_ADAMW * sqrt(max(directions.shape[1:]))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        for parameter, direction in zip(parameters, directions, strict=True):
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
    """Whether Muon steps a parameter: the weight of a linear layer, or of a convolution with one row for each
    output channel, no side below 64.
    """
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= _MIN_SIDE


def group_by_shape(matrices: list[Tensor]) -> list[list[Tensor]]:
    """Group matrices of one size, for few launches on a GPU; on a CPU none, as its cache holds one."""
    groups: dict[Any, list[Tensor]] = {}
    for number, matrix in enumerate(matrices):
        key = (len(matrix), matrix[0].numel()) if matrix.is_cuda else number
        groups.setdefault(key, []).append(matrix)
    return list(groups.values())


def orthogonalize(matrices: Tensor) -> Tensor:
    """Set all singular values of matrices (N, rows, columns) to about 1 (0.7 to 1.2), in bfloat16.

    Five rounds of a Newton-Schulz iteration, which needs products of matrices only.
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
