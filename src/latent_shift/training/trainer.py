"""The trainer: one loop for every task, on accelerate, resumable at every checkpoint.

It knows no task but by its interface (`task.py`). What a step sees, and its random numbers, depend on (seed,
step) only, so the same command again goes on from the last checkpoint with the numbers of a run never
stopped. SIGINT and SIGTERM: finish the current step, save a checkpoint, exit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from latent_shift.data.samplers import items_of
from latent_shift.data.workers import errors_of_workers
from latent_shift.io import is_out_of_memory, only_process_in
from latent_shift.rng import StepRNG, step_seed
from latent_shift.training.checkpoint import State, copy_into, full_tensor, load, save, trained_parameters
from latent_shift.training.datasets import loader
from latent_shift.training.distributed import Interrupted, new_accelerator, prepare, reshard, stop_requests
from latent_shift.training.logging import (
    Report,
    SkippedSteps,
    TrainingLog,
    begin_logs_after,
    goes_on_without,
    show_samples,
)
from latent_shift.training.model_folder import MODEL, export_model, restore_model
from latent_shift.training.optim import learning_rate, new_optimizer
from latent_shift.training.recipe import Recipe
from latent_shift.training.run_config import is_finished, record_recipe
from latent_shift.training.task import Task

_LESS_MEMORY = (
    "gradient_checkpointing: true", "gradient_accumulation_steps: batch_size", "a smaller batch_size",
    "fewer or smaller frames (clips.frames)", "lora: {}", "optimizer.kind: adamw-8bit (on a GPU)",
    "FSDP2 on several GPUs (docs/training.md)"
)  # fmt: skip


def train(task: Task, report: Report) -> Path:
    """Train a task to its recipe's last step and export the averaged model. Returns the model's folder.

    A run that is finished is left as it is.
    Raises Interrupted after SIGINT or SIGTERM, with a checkpoint written; Diverged where too many steps
    had no finite gradient, or a weight is not finite, leaving the last good checkpoint; ValueError where the
    run was begun with another recipe or has taken more steps, and where another process trains into it.
    """
    if is_finished(task.recipe):
        return task.recipe.output / MODEL
    accelerator = new_accelerator(task.recipe)
    holds = accelerator.is_main_process
    try:
        with only_process_in(task.recipe.output, "trains into") if holds else nullcontext():
            return Trainer(task, accelerator, report).run()
    finally:
        with goes_on_without("the log for TensorBoard"):
            accelerator.end_training()
        AcceleratorState._reset_state()  # else the next run of this process must have the same precision


class Trainer:
    """One run: a task, shared out among the processes, and its state."""

    def __init__(self, task: Task, accelerator: Accelerator, report: Report) -> None:
        self.task, self.recipe, self.accelerator, self.report = task, task.recipe, accelerator, report
        if accelerator.num_processes > 1 and not self.recipe.loss_is_mean:
            raise ValueError(
                f"{accelerator.num_processes} processes: in this task each item of a batch is compared with"
                " all others, which are in one process only; train in one"
            )
        _check_finite(task)
        inputs = task.inputs()
        optimizer = new_optimizer(trained_parameters(task.to(accelerator.device)), self.recipe.optimizer)
        self.model, self.optimizer, self.replica = prepare(accelerator, self.recipe, task, optimizer)
        self.state = State.new(task, optimizer, accelerator.scaler, inputs)

    def run(self) -> Path:
        """Take all steps that are left, then export."""
        recipe, main = self.recipe, self.accelerator.is_main_process
        done = load(self.state)
        if main:
            restore_model(recipe.output)
            record_recipe(recipe)
            begin_logs_after(done, recipe)
        self.accelerator.wait_for_everyone()  # all read what was skipped
        if done < recipe.steps:
            self._take_steps(done)
        with self._ema_task() as task:
            if main:
                export_model(task)
        self.accelerator.wait_for_everyone()  # a process that ends while gloo frees its tensors may abort
        return recipe.output / MODEL

    def _take_steps(self, done: int) -> None:
        """Take the steps after `done`, with checkpoints, samples and the log."""
        recipe, accelerator = self.recipe, self.accelerator
        with accelerator.main_process_first():
            data = self.task.dataset(self.report)
        batches = loader(
            data, recipe.batch_size, recipe.seed, done,
            workers=recipe.num_workers, rank=accelerator.process_index, world_size=accelerator.num_processes,
            parts=recipe.gradient_accumulation_steps,
        )  # fmt: skip
        log = TrainingLog(recipe, done, accelerator, self.report)
        skipped = SkippedSteps(recipe, done, writes=accelerator.is_main_process)
        held_out = self.task.validation(self.report)
        validation = None if held_out is None else ValidationSet(held_out, recipe, accelerator)
        with stop_requests() as stop, errors_of_workers():
            for step, batch in zip(range(done + 1, recipe.steps + 1), log.timed(batches), strict=False):
                with _advice_on_memory():
                    metrics = self._step(step, batch)
                if metrics is None:
                    skipped.add(step, batch)
                elif validation is not None and (step % validation.every == 0 or step == recipe.steps):
                    metrics["validation_loss"] = validation.loss(self.state)
                log.step(step, metrics or {})
                stops = stop.agreed(accelerator)
                if stops or step == recipe.steps or step % recipe.checkpoint_every == 0:
                    save(self.state, step, writes=accelerator.is_main_process)
                if recipe.sample_every and step % recipe.sample_every == 0:
                    self._sample(step)
                if stops and step < recipe.steps:
                    accelerator.wait_for_everyone()
                    raise Interrupted(f"stopped at step {step}")

    def _step(self, step: int, batch: dict[str, Any]) -> dict[str, Tensor] | None:
        """Take one step of the optimizer and of the average. Returns its metrics, scalars.

        None where the gradient was not finite: such a step changes nothing.
        """
        recipe, accelerator = self.recipe, self.accelerator
        rate = learning_rate(recipe.optimizer, step, recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seed, rank = step_seed(recipe.seed, step), accelerator.process_index
        processes = accelerator.num_processes
        size = processes * items_of(batch, recipe.batch_size // processes)  # images may be more than clips
        rng = StepRNG.of(seed, size, rank, processes)
        torch.manual_seed(step_seed(seed, -1, rank))  # for dropout, where a model has some
        metrics = self._backward(_to_device(batch, accelerator.device), rng)
        norm = full_tensor(accelerator.clip_grad_norm_(self.state.trained, recipe.optimizer.max_grad_norm))
        finite = self._all_finite(metrics["loss"], norm)
        if finite or accelerator.scaler is not None:  # half precision's scaler skips such steps itself
            self.optimizer.step()
        self.optimizer.zero_grad()
        if not finite:
            return None
        self.state.update_ema()
        return {**metrics, "gradient_norm": norm, "learning_rate": torch.tensor(rate)}

    def _backward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """Compute the gradient of a batch, part by part. Returns the mean metrics of the parts."""
        count = self.recipe.gradient_accumulation_steps
        means: dict[str, Tensor] = {}
        for number, (part, part_rng) in enumerate(rng.microbatches(batch, count), 1):
            with nullcontext() if number == count else self.accelerator.no_sync(self.model):
                metrics = self.model(part, part_rng)
                self.accelerator.backward(metrics["loss"] / count)
            for name, value in metrics.items():
                means[name] = means.get(name, torch.zeros(())).to(value.device) + value.detach() / count
        return means

    def _all_finite(self, loss: Tensor, norm: Tensor) -> bool:
        """Whether loss and gradient are finite, in all processes.

        With a scaler only the loss: it seeks the largest scale with finite gradients, and goes too far at
        times.
        """
        finite = torch.isfinite(loss)
        if self.accelerator.scaler is None:
            finite = finite & torch.isfinite(norm)
        if self.accelerator.num_processes > 1:
            finite = self.accelerator.reduce(finite.float(), "mean") == 1
        return bool(finite)

    def _sample(self, step: int) -> None:
        with self._ema_task() as task:
            if self.accelerator.is_main_process:
                folder = self.recipe.output / "samples"
                with goes_on_without(f"the samples of step {step}"):
                    task.samples(folder, step)
                    show_samples(self.accelerator, folder, step)

    @contextmanager
    def _ema_task(self) -> Iterator[Task]:
        """The task with the averaged weights, whole in the main process. All processes take part."""
        if not self.accelerator.is_fsdp2:
            with self.state.ema_weights():
                yield self.task
            return
        targets: Sequence[nn.Parameter | None] = [None] * len(self.state.trained)
        if self.replica is not None:
            targets = trained_parameters(self.replica)
        for target, shadow in zip(targets, self.state.ema.shadow_params, strict=True):
            average = full_tensor(shadow)
            if target is not None:
                copy_into(target, average)
        if self.replica is None:
            yield self.task  # in another process than the main one, which does not use it
            return
        try:
            yield cast(Task, self.replica.to(self.accelerator.device))
        finally:
            self.replica.cpu()


class ValidationSet:
    """Items of a validation in this process, in batches, with noise that never changes.

    Raises ValueError where the processes cannot share the items evenly.
    """

    def __init__(self, data: Dataset[Any], recipe: Recipe, accelerator: Accelerator) -> None:
        assert recipe.validation is not None
        self.every, self.accelerator = recipe.validation.every, accelerator
        count, processes = len(data), accelerator.num_processes  # type: ignore[arg-type]
        if count % processes:
            raise ValueError(f"validation.items {count} cannot be shared by {processes} processes")
        rng = StepRNG.of(step_seed(recipe.seed, 0), count, accelerator.process_index, processes)
        same_shape: dict[tuple[int, ...], list[tuple[int, dict[str, Any]]]] = {}
        for index in rng.batch_indices:
            item = data[index]
            shape = tuple(item["frames" if "frames" in item else "latents"].shape)
            same_shape.setdefault(shape, []).append((index, item))
        size = max(recipe.batch_size // processes, 1)
        self.batches = [
            (
                default_collate([item for _, item in items[start : start + size]]),
                StepRNG(rng.seed, tuple(index for index, _ in items[start : start + size]), count),
            )
            for items in same_shape.values()
            for start in range(0, len(items), size)
        ]

    @torch.no_grad()
    def loss(self, state: State) -> Tensor:
        """The mean loss of the averaged weights over all items, a scalar."""
        accelerator, total = self.accelerator, torch.zeros((), device=self.accelerator.device)
        modes = [(module, module.training) for module in state.task.modules()]  # frozen parts do not train
        state.task.eval()
        with state.ema_weights(), accelerator.autocast():
            for batch, rng in self.batches:
                metrics = state.task(_to_device(batch, accelerator.device), rng)
                total += metrics["loss"] * len(rng.batch_indices)
            reshard(state.task)
        for module, is_training in modes:
            module.training = is_training
        total /= sum(len(rng.batch_indices) for _, rng in self.batches)
        return cast(Tensor, accelerator.reduce(total, "mean")) if accelerator.num_processes > 1 else total


def _check_finite(task: Task) -> None:
    """Raise ValueError where the weights that a run begins with are damaged, and no rate would help it."""
    for name, parameter in task.named_parameters():
        if not parameter.isfinite().all():
            raise ValueError(
                f"{name} is not finite before the first step: the model that the recipe begins with is"
                " damaged, or was saved in a precision that does not hold it"
            )


def _to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


@contextmanager
def _advice_on_memory() -> Iterator[None]:
    """Turn out-of-memory errors into a ValueError that says what takes less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = "; ".join(_LESS_MEMORY)
        raise ValueError(f"out of memory in a training step; what takes less: {advice}") from error
