"""The training loop: any objective, on accelerate, resumable at every checkpoint.

It knows no task: an objective is a module whose forward(batch, rng) gives {"loss": ..., figures}, with a
dataset, samples to look at and a model to export. What a step sees and rng depends on (seed, step) alone,
so the same command again goes on from the last checkpoint with the numbers of a run never stopped.
Ctrl-C and SIGTERM finish the step, write a checkpoint and leave.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import Dataset

from latent_shift.training.batches import loader
from latent_shift.training.checkpoint import State, load, save, trainable
from latent_shift.training.distributed import Prepared, new_accelerator, prepare
from latent_shift.training.interrupts import Interrupted, stop_requests
from latent_shift.training.log import Log, Progress, show_samples
from latent_shift.training.model_card import write_card
from latent_shift.training.oom import memory_told
from latent_shift.training.optimization import new_optimizer
from latent_shift.training.quiet import quiet_libraries
from latent_shift.training.recipe import Divisible, Run
from latent_shift.training.run_config import check_recipe, is_finished, write_recipe
from latent_shift.training.sharding import fill, whole
from latent_shift.training.skipped import Skipped
from latent_shift.training.train_step import take_step
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
    accelerator = new_accelerator(recipe)
    try:
        with quiet_libraries():
            optimizer = new_optimizer(trainable(objective.to(accelerator.device)), recipe.optimizer)
            prepared = prepare(accelerator, recipe, objective, optimizer)
            state = State.new(objective, recipe, accelerator.scaler, optimizer)
            done = load(recipe.output, state)
            if accelerator.is_main_process:
                write_recipe(recipe)
            if done < recipe.steps:
                _take_steps(recipe, state, prepared, done, accelerator, report)
            with _shown(state, prepared, accelerator) as shown:
                if accelerator.is_main_process:
                    _export(recipe, shown)
            accelerator.wait_for_everyone()  # a process that ends while gloo frees its tensors may abort
    finally:
        accelerator.end_training()
        AcceleratorState._reset_state()  # else the next run of this process must have the same precision
    return recipe.output / "model"


def _take_steps(
    recipe: Run, state: State, prepared: Prepared, done: int, accelerator: Accelerator, report: Report
) -> None:
    """All steps after `done`, with checkpoints, samples and the log."""
    model, optimizer = prepared.model, prepared.optimizer
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
            with memory_told():
                figures = take_step(recipe, model, optimizer, state, accelerator, step, batch)
            if figures is None:
                skipped.note(step, batch)
            elif fixed is not None and (step % fixed.every == 0 or step == recipe.steps):
                figures["validation_loss"] = fixed.loss(state, accelerator)
            log.step(step, figures or {})
            stops = stop.agreed(accelerator)
            _keep(recipe, state, prepared, accelerator, step, ends=stops or step == recipe.steps)
            if stops and step < recipe.steps:
                accelerator.wait_for_everyone()
                raise Interrupted(f"stopped at step {step}")


def _fixed_items(recipe: Run, state: State, accelerator: Accelerator, report: Report) -> FixedItems | None:
    if not isinstance(recipe, Divisible) or recipe.validation is None:
        return None
    data = _tasks(state).validation(report)
    return FixedItems(data, recipe, accelerator)


def _keep(
    recipe: Run, state: State, prepared: Prepared, accelerator: Accelerator, step: int, *, ends: bool
) -> None:
    """Write the checkpoint and the samples that are due; the other processes bring their parts, if any."""
    if ends or step % recipe.checkpoint_every == 0:
        save(recipe.output, step, state, recipe.keep_checkpoints, writes=accelerator.is_main_process)
    if recipe.sample_every and step % recipe.sample_every == 0:
        with _shown(state, prepared, accelerator) as shown:
            if accelerator.is_main_process:
                shown.samples(recipe.output / "samples", step)
                show_samples(accelerator, recipe.output / "samples", step)


@contextmanager
def _shown(state: State, prepared: Prepared, accelerator: Accelerator) -> Iterator[Objective]:
    """The objective with the averaged weights, whole in the main process: a matter of all processes."""
    if not accelerator.is_fsdp2:
        with state.averaged():
            yield _tasks(state)
        return
    replica = prepared.replica
    targets = trainable(replica) if replica is not None else [None] * len(state.trained)
    for target, average in zip(targets, state.averages(), strict=True):
        tensor = whole(average)
        if target is not None:
            fill(target, tensor)
    if replica is None:
        yield _tasks(state)  # of another process than the main one, which does nothing with it
        return
    try:
        yield cast(Objective, replica.to(accelerator.device))
    finally:
        replica.cpu()


def _export(recipe: Run, objective: Objective) -> None:
    """Write the model, whole or not at all."""
    folder, partial = recipe.output / "model", recipe.output / "model.unfinished"
    shutil.rmtree(partial, ignore_errors=True)
    objective.export(partial)
    write_card(partial, recipe)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _tasks(state: State) -> Objective:
    return cast(Objective, state.objective)
