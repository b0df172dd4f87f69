"""Optimizers and the learning rate over a run; Muon for matrices.

Muon (K. Jordan and others, 2024, kellerjordan.github.io/posts/muon) orthogonalizes the running mean of a
matrix's gradients before it steps, so that rare directions are learned as fast as common ones. Its steps are
as long as AdamW's would be (arXiv 2502.16982, section 2.2), so a recipe's learning rate serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from latent_shift.precision import auto_dtype
from latent_shift.training.recipe import OptimizerConfig

MIN_SIDE = 64  # of a matrix for Muon: the first and the last layer have too few directions
_MOMENTUM = 0.95


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
    """torch's Muon for matrices (`is_matrix`), its AdamW for all other parameters, as one optimizer.

    torch's Muon takes two-dimensional parameters only, so it steps views of the kernels of convolutions, in
    which all that one output channel reads is a row.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})
        trained: list[nn.Parameter] = self.param_groups[0]["params"]
        self._views = {one: one.detach().view(len(one), -1) for one in trained if is_matrix(one)}
        others = [one for one in trained if one not in self._views]
        self._parts: list[tuple[list[int], torch.optim.Optimizer]] = []  # with the numbers of its parameters
        if self._views:
            muon = _SharedMuon(
                self._views.values(), lr, weight_decay, _MOMENTUM, adjust_lr_fn="match_rms_adamw"
            )
            self._parts.append(([i for i, one in enumerate(trained) if one in self._views], muon))
        if others:
            adamw = torch.optim.AdamW(others, lr, betas, weight_decay=weight_decay, fused=True)
            self._parts.append(([i for i, one in enumerate(trained) if one not in self._views], adamw))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step every parameter that has a gradient. A closure is refused with ValueError."""
        if closure is not None:
            raise ValueError("Muon takes no closure: compute the gradients before the step")
        for parameter, view in self._views.items():
            view.data = parameter.detach().view(view.shape)  # DDP has given the parameter other memory
            view.grad = None if parameter.grad is None else parameter.grad.reshape(view.shape)
        for _, part in self._parts:
            part.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            part.step()
        for view in self._views.values():
            view.grad = None  # else it would keep the gradient's memory

    def state_dict(self) -> dict[str, Any]:
        """State by the number of the parameter; that of a kernel in the shape of its view."""
        parts = [(numbers, part.state_dict()["state"]) for numbers, part in self._parts]
        state = {numbers[index]: entries for numbers, own in parts for index, entries in own.items()}
        return {"state": state, "param_groups": super().state_dict()["param_groups"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of `state_dict`; that of a kernel in any shape."""
        state = state_dict["state"]
        for numbers, part in self._parts:
            own = {index: state[number] for index, number in enumerate(numbers) if number in state}
            if isinstance(part, _SharedMuon):
                own = {index: {key: one.flatten(1) for key, one in own[index].items()} for index in own}
            part.load_state_dict({"state": own, "param_groups": part.state_dict()["param_groups"]})


class _SharedMuon(torch.optim.Muon):
    """torch's Muon, its steps bit for bit, with each matrix's iteration in one process of several only.

    The processes of a run hold equal parameters, gradients and momenta, and iterating is most of a step's
    time, so each process does its share and sends what it found. Where the processor has no instructions for
    bfloat16, the iteration is in float32: such processors multiply bfloat16 at a fiftieth of their rate.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step as torch's Muon does, with Nesterov's momentum and steps as long as AdamW's."""
        for group in self.param_groups:
            stepped = [one for one in group["params"] if one.grad is not None]
            updates = []
            for parameter in stepped:
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                mean = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                updates.append(parameter.grad.lerp(mean, group["momentum"]))
            iteration = partial(
                _orthogonal, coefficients=group["ns_coefficients"], steps=group["ns_steps"], eps=group["eps"]
            )
            for parameter, update in zip(stepped, _shared_out(iteration, updates), strict=True):
                length = 0.2 * max(parameter.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * length)


def _shared_out(iteration: Callable[[Tensor], Tensor], matrices: list[Tensor]) -> list[Tensor]:
    """The results of an iteration on matrices, each made by one process and sent to all others."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [iteration(matrix) for matrix in matrices]
    work = [0] * dist.get_world_size()  # multiplications of each process, nearly equal at the end
    owner = {}
    for index in sorted(range(len(matrices)), key=lambda index: -_multiplications(matrices[index])):
        owner[index] = work.index(min(work))
        work[owner[index]] += _multiplications(matrices[index])
    found = {index: iteration(matrices[index]) for index in owner if owner[index] == dist.get_rank()}
    for sender in sorted(set(owner.values())):
        own = [index for index in range(len(matrices)) if owner[index] == sender]
        sizes = [matrices[index].numel() for index in own]
        if sender == dist.get_rank():
            sent = torch.cat([found[index].flatten() for index in own])
        else:
            sent = matrices[0].new_empty(sum(sizes), dtype=_iteration_dtype(matrices[0].device))
        dist.broadcast(sent, src=sender)
        for index, flat in zip(own, sent.split(sizes), strict=True):
            found[index] = flat.view_as(matrices[index])
    return [found[index] for index in range(len(matrices))]


def _multiplications(matrix: Tensor) -> int:
    """Multiplications of one round of `_orthogonal`, about."""
    return min(matrix.shape) ** 2 * max(matrix.shape)


def _iteration_dtype(device: torch.device) -> torch.dtype:
    slow = device.type == "cpu" and auto_dtype("cpu") == "fp32"
    return torch.float32 if slow else torch.bfloat16


def _orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The nearest matrix (M, N) with singular values near 1, by Newton and Schulz's iteration."""
    first, second, third = coefficients
    found = matrix.to(_iteration_dtype(matrix.device))
    tall = len(matrix) > matrix.shape[1]
    if tall:
        found = found.T
    found = found / found.norm().clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=second, alpha=third), found, beta=first)
    return found.T if tall else found


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon steps a parameter: the weight of a linear layer or a convolution, no side below 64."""
    return parameter.ndim >= 2 and min(len(parameter), parameter[0].numel()) >= MIN_SIDE
