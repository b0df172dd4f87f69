"""The training loop: any objective, on accelerate, resumable at every checkpoint.

It knows no task: an objective is a module whose forward(batch, seed) gives {"loss": ..., figures}, with a
dataset, samples to look at and a model to export. What a step sees and draws depends on (seed, step) alone,
so the same command again goes on from the last checkpoint with the numbers of a run never stopped.
Ctrl-C and SIGTERM finish the step, write a checkpoint and leave.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from latent_shift.training import state
from latent_shift.training.batches import loader, step_seed
from latent_shift.training.recipe import Optimizer, Run


class Objective(Protocol):
    """What the loop trains; also an nn.Module, whose parameters that require gradients are trained."""

    def dataset(self) -> Any:
        """A torch dataset of what a step sees."""

    def samples(self, folder: Path, step: int) -> None:
        """Write pictures of what the objective can do now into `folder`."""

    def export(self, folder: Path) -> None:
        """Write the trained model into `folder`."""


@dataclass(frozen=True)
class Progress:
    """One report of a running training: told to `report` every `log_every` steps."""

    step: int
    steps: int
    figures: dict[str, float]


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and its checkpoint is written."""


def train(recipe: Run, objective: nn.Module, report: Callable[[Progress], None]) -> Path:
    """Train to the recipe's last step and export the averaged model. Returns the model's folder.

    Raises Interrupted after Ctrl-C or SIGTERM, with a checkpoint written; FloatingPointError where the loss
    is not finite, leaving the last good checkpoint.
    """
    tasks = cast(Objective, objective)
    accelerator = _accelerator(recipe)
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = _adamw(trained, recipe.optimizer)
    objective.to(accelerator.device)
    ema = EMAModel(
        trained, decay=recipe.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.8, foreach=True
    )
    ema.to(accelerator.device)
    first = state.load(recipe.output, objective, ema, optimizer)
    model, prepared = accelerator.prepare(objective, optimizer)
    batches = loader(
        tasks.dataset(), recipe.batch_size, recipe.seed, first,
        workers=recipe.workers, rank=accelerator.process_index, world_size=accelerator.num_processes,
    )  # fmt: skip
    with _stop_requests() as stop, _Log(recipe, accelerator, report) as log:
        for step, batch in zip(range(first + 1, recipe.steps + 1), log.timed(batches), strict=False):
            rate = learning_rate(recipe.optimizer, step, recipe.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            seed = step_seed(recipe.seed, step, accelerator.process_index)
            figures = model(_to_device(batch, accelerator.device), seed)
            accelerator.backward(figures["loss"])
            norm = accelerator.clip_grad_norm_(trained, recipe.optimizer.clip_norm)
            prepared.step()
            prepared.zero_grad()
            ema.step(trained)
            log.step(step, {**figures, "gradient_norm": norm, "learning_rate": torch.tensor(rate)})
            ends = step == recipe.steps or stop.is_set
            if accelerator.is_main_process and (ends or step % recipe.checkpoint_every == 0):
                state.save(recipe.output, step, objective, ema, optimizer, recipe.keep_checkpoints)
            if accelerator.is_main_process and recipe.sample_every and step % recipe.sample_every == 0:
                with averaged(ema, trained):
                    tasks.samples(recipe.output / "samples", step)
            if stop.is_set and step < recipe.steps:
                raise Interrupted(f"stopped at step {step}")
    if accelerator.is_main_process:
        with averaged(ema, trained):
            tasks.export(recipe.output / "model")
    accelerator.end_training()
    return recipe.output / "model"


def learning_rate(schedule: Optimizer, step: int, steps: int) -> float:
    """The rate at a step, counted from 1: linear warm-up, plateau, linear cool-down to nearly zero."""
    rise = step / schedule.warmup_steps if schedule.warmup_steps else 1.0
    fall = (steps - step + 1) / schedule.cooldown_steps if schedule.cooldown_steps else 1.0
    return schedule.learning_rate * min(1.0, rise, fall)


def resolve_precision(precision: str) -> str:
    """ "auto" is bf16 where the machine computes in it, else fp32."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"


@contextmanager
def averaged(ema: EMAModel, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Within the `with` block the parameters hold their moving average."""
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


def _accelerator(recipe: Run) -> Accelerator:
    precision = resolve_precision(recipe.precision)
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(recipe.output), logging_dir=str(recipe.output)),
    )


def _adamw(parameters: list[nn.Parameter], settings: Optimizer) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
    )


def _to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


class _Stop:
    """Whether the process was asked to stop."""

    is_set = False

    def ask(self, signum: int, frame: FrameType | None) -> None:
        self.is_set = True


@contextmanager
def _stop_requests() -> Iterator[_Stop]:
    """Within the `with` block SIGINT and SIGTERM only raise a flag."""
    stop = _Stop()
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Log:
    """Figures of the steps, averaged over `log_every`, to JSONL, TensorBoard and the caller."""

    def __init__(self, recipe: Run, accelerator: Accelerator, report: Callable[[Progress], None]) -> None:
        self.recipe, self.accelerator, self.report = recipe, accelerator, report
        self.waited, self.since, self.sums, self.count = 0.0, time.perf_counter(), {}, 0

    sums: dict[str, Tensor]

    def __enter__(self) -> _Log:
        self.recipe.output.mkdir(parents=True, exist_ok=True)
        self.accelerator.init_trackers("tensorboard")
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def timed(self, batches: Any) -> Iterator[Any]:
        """The batches, the seconds waited for them counted."""
        source = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(source)
            self.waited += time.perf_counter() - start
            yield batch

    def step(self, step: int, figures: dict[str, Tensor]) -> None:
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value.detach().float().cpu()
        self.count += 1
        if step % self.recipe.log_every == 0 or step == self.recipe.steps:
            self._write(step)

    def _write(self, step: int) -> None:
        means = {name: (total / self.count).item() for name, total in self.sums.items()}
        if not torch.isfinite(torch.tensor(means["loss"])):
            raise FloatingPointError(
                f"the loss is {means['loss']} by step {step}: lower learning_rate, or use fp32"
            )
        now = time.perf_counter()
        means["items_per_second"] = self.count * self.recipe.batch_size / (now - self.since)
        means["data_wait"] = self.waited / (now - self.since)
        self.waited, self.since, self.sums, self.count = 0.0, now, {}, 0
        self.accelerator.log(means, step=step)
        if self.accelerator.is_main_process:
            with (self.recipe.output / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "time": round(time.time(), 1), **means}) + "\n")
            self.report(Progress(step, self.recipe.steps, means))
