"""The training loop: any objective, on accelerate, resumable at every checkpoint.

It knows no task: an objective is a module whose forward(batch, draws) gives {"loss": ..., figures}, with a
dataset, samples to look at and a model to export. What a step sees and draws depends on (seed, step) alone,
so the same command again goes on from the last checkpoint with the numbers of a run never stopped.
Ctrl-C and SIGTERM finish the step, write a checkpoint and leave.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration
from torch import nn
from torch.utils.data import Dataset

from latent_shift.training.batches import loader
from latent_shift.training.interrupts import Interrupted, stop_requests
from latent_shift.training.log import Log, Progress
from latent_shift.training.model_card import write_card
from latent_shift.training.quiet import quiet_libraries
from latent_shift.training.recipe import Divisible, Run
from latent_shift.training.record import check_recipe, is_finished, write_recipe
from latent_shift.training.skipped import Skipped
from latent_shift.training.state import State, load, save
from latent_shift.training.stepping import take_step
from latent_shift.training.validation import FixedItems

Report = Callable[[Progress], None]


class Objective(Protocol):
    """What the loop trains; also an nn.Module, whose parameters that require gradients are trained."""

    def dataset(self, report: Report) -> Dataset[Any]:
        """What the steps see; long preparations tell `report` how far they are."""
        ...

    def validation(self, report: Report) -> Dataset[Any]:
        """The items of the recipe's validation, none of which the steps see."""
        ...

    def samples(self, folder: Path, step: int) -> None:
        """Write pictures of what the objective can do now into `folder`."""
        ...

    def export(self, folder: Path) -> None:
        """Write the trained model into `folder`."""
        ...


def train(recipe: Run, objective: nn.Module, report: Report) -> Path:
    """Train to the recipe's last step and export the averaged model. Returns the model's folder.

    A run that is finished is left as it is.
    Raises Interrupted after Ctrl-C or SIGTERM, with a checkpoint written; Diverged where too many steps
    had no finite gradient, or a weight is not finite, leaving the last good checkpoint; ValueError where the
    run was begun with another recipe.
    """
    check_recipe(recipe)
    if is_finished(recipe):
        return recipe.output / "model"
    accelerator = _accelerator(recipe)
    objective.to(accelerator.device)
    state = State.new(objective, recipe, accelerator.scaler)
    done = load(recipe.output, state)
    try:
        with quiet_libraries():
            if accelerator.is_main_process:
                write_recipe(recipe)
            if done < recipe.steps:
                _take_steps(recipe, state, done, accelerator, report)
            if accelerator.is_main_process:
                _export(recipe, state)
    finally:
        accelerator.end_training()
        AcceleratorState._reset_state()  # else the next run of this process must have the same precision
    return recipe.output / "model"


def resolve_precision(precision: str) -> str:
    """What "auto" stands for: bf16 where the machine computes in it, else fp32 (fp16 on an older GPU)."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"


def _accelerator(recipe: Run) -> Accelerator:
    precision = resolve_precision(recipe.precision)
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(recipe.output), logging_dir=str(recipe.output)),
    )


def _take_steps(recipe: Run, state: State, done: int, accelerator: Accelerator, report: Report) -> None:
    """All steps after `done`, with checkpoints, samples and the log."""
    model, optimizer = accelerator.prepare(state.objective, state.optimizer)
    with accelerator.main_process_first():
        data = _tasks(state).dataset(report)
    batches = loader(
        data, recipe.batch_size, recipe.seed, done,
        workers=recipe.workers, rank=accelerator.process_index, world_size=accelerator.num_processes,
    )  # fmt: skip
    log = Log(recipe, done, accelerator, report)
    skipped = Skipped(recipe, done, writes=accelerator.is_main_process)
    fixed = _fixed_items(recipe, state, accelerator, report)
    with stop_requests() as stop:
        for step, batch in zip(range(done + 1, recipe.steps + 1), log.timed(batches), strict=False):
            figures = take_step(recipe, model, optimizer, state, accelerator, step, batch)
            if figures is None:
                skipped.note(step, batch)
            elif fixed is not None and (step % fixed.every == 0 or step == recipe.steps):
                figures["validation_loss"] = fixed.loss(state, accelerator)
            log.step(step, figures or {})
            stops = stop.agreed(accelerator)
            if accelerator.is_main_process:
                _keep(recipe, state, step, ends=stops or step == recipe.steps)
            if stops and step < recipe.steps:
                raise Interrupted(f"stopped at step {step}")


def _fixed_items(recipe: Run, state: State, accelerator: Accelerator, report: Report) -> FixedItems | None:
    if not isinstance(recipe, Divisible) or recipe.validation is None:
        return None
    data = _tasks(state).validation(report)
    return FixedItems(data, recipe, accelerator)


def _keep(recipe: Run, state: State, step: int, *, ends: bool) -> None:
    """Write the checkpoint and the samples that are due."""
    if ends or step % recipe.checkpoint_every == 0:
        save(recipe.output, step, state, recipe.keep_checkpoints)
    if recipe.sample_every and step % recipe.sample_every == 0:
        with state.averaged():
            _tasks(state).samples(recipe.output / "samples", step)


def _export(recipe: Run, state: State) -> None:
    """Write the averaged model, whole or not at all."""
    folder, partial = recipe.output / "model", recipe.output / "model.unfinished"
    shutil.rmtree(partial, ignore_errors=True)
    with state.averaged():
        _tasks(state).export(partial)
    write_card(partial, recipe)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _tasks(state: State) -> Objective:
    return cast(Objective, state.objective)
