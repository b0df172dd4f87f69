"""One step of a training: the gradient, in parts where the recipe says so, and what is done with it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from latent_shift.rng import StepRNG, step_seed
from latent_shift.training.checkpoint import State
from latent_shift.training.optimization import Diverged, learning_rate
from latent_shift.training.recipe import Divisible, Run
from latent_shift.training.sharding import whole


def take_step(
    recipe: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: State,
    accelerator: Accelerator,
    step: int,
    batch: dict[str, Any],
) -> dict[str, Tensor] | None:
    """One step of the optimizer and of the average. Returns the step's figures, scalars.

    model, optimizer: as prepared by the accelerator. None where the gradient was not finite: such a step
    changes nothing. Raises Diverged where DeepSpeed, whose step cannot be left out any more, met one.
    """
    rate = learning_rate(recipe.optimizer, step, recipe.steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    rng = StepRNG.of(
        step_seed(recipe.seed, step), recipe.batch_size, accelerator.process_index, accelerator.num_processes
    )
    torch.manual_seed(step_seed(rng.seed, -1, accelerator.process_index))  # for dropout, where there is some
    batch = to_device(batch, accelerator.device)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        figures = model(batch, rng)
        if not _all_finite(figures["loss"], torch.zeros(()), accelerator):
            return None
        accelerator.backward(figures["loss"])  # which takes the step as well
        norm = torch.as_tensor(accelerator.clip_grad_norm_(state.trained, recipe.optimizer.clip_norm))
        if not norm.isfinite():
            raise Diverged(f"the gradient is not finite at step {step}: lower learning_rate, or use fp32")
    else:
        figures = _gradients(recipe, model, accelerator, rng, batch)
        norm = whole(accelerator.clip_grad_norm_(state.trained, recipe.optimizer.clip_norm))
        finite = _all_finite(figures["loss"], norm, accelerator)
        if finite or accelerator.scaler is not None:  # half precision's scaler leaves such steps out itself
            optimizer.step()
        optimizer.zero_grad()
        if not finite:
            return None
    state.take_average()
    return {**figures, "gradient_norm": norm, "learning_rate": torch.tensor(rate)}


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on `device`."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


def _gradients(
    recipe: Run, model: nn.Module, accelerator: Accelerator, rng: StepRNG, batch: dict[str, Any]
) -> dict[str, Tensor]:
    """Add the gradient of the batch to the parameters' own. Returns the mean figures of its parts."""
    count = recipe.accumulate if isinstance(recipe, Divisible) else 1
    means: dict[str, Tensor] = {}
    for number, (part, own) in enumerate(rng.microbatches(batch, count), 1):
        with nullcontext() if number == count else accelerator.no_sync(model):
            figures = model(part, own)
            accelerator.backward(figures["loss"] / count)
        for name, value in figures.items():
            means[name] = means.get(name, torch.zeros(())).to(value.device) + value.detach() / count
    return means


def _all_finite(loss: Tensor, norm: Tensor, accelerator: Accelerator) -> bool:
    """Whether loss and gradient are finite, in all processes; with a scaler, the loss alone: it seeks the
    largest scale whose gradients are finite, and goes too far at times."""
    finite = torch.isfinite(loss)
    if accelerator.scaler is None:
        finite = finite & torch.isfinite(norm)
    if accelerator.num_processes > 1:
        finite = accelerator.reduce(finite.float(), "mean") == 1
    return bool(finite)
