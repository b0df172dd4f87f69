"""Parts of the time of a training step of a recipe: data, encoding, forward, backward, optimizer.

The trainer itself takes the steps, with the recipe's task, data and precision; hooks on its parts read the
clock. Nothing is written but into a folder that is removed again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState
from pydantic import BaseModel, ConfigDict
from torch import nn

from latent_shift.benchmark.measure import synchronize
from latent_shift.data.samplers import items_of
from latent_shift.training.datasets import loader
from latent_shift.training.distributed import new_accelerator
from latent_shift.training.recipe import Recipe
from latent_shift.training.task import Task, build_task
from latent_shift.training.trainer import Trainer, _to_device

PARTS = {
    "data": "waiting for the batch",
    "encode": "frozen networks: text, frames to latents",
    "forward": "forward and loss, without the frozen networks",
    "backward": "backward, and clipping the gradient",
    "optimizer": "the optimizer's step",
    "rest": "the average of the weights, and all else",
}


class StepTimes(BaseModel):
    """Mean seconds of a step, in all and by `PARTS`, wall; and CPU seconds of all threads of this process.

    items: of a batch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int
    items: int
    wall: float
    cpu: float
    parts: dict[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Each part of the whole."""
        return {name: seconds / self.wall for name, seconds in self.parts.items()}


class _Clock:
    """Seconds by name; a name inside another one is taken out of it."""

    def __init__(self, device: str) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._open: list[tuple[str, float]] = []
        self._device = device

    def enter(self, name: str) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        if self._open:
            outer, since = self._open[-1]
            self.seconds[outer] += now - since
        self._open.append((name, now))

    def leave(self) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        name, since = self._open.pop()
        self.seconds[name] += now - since
        if self._open:
            self._open[-1] = (self._open[-1][0], now)

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        self.enter(name)
        try:
            yield
        finally:
            self.leave()


def time_steps(
    recipe: Recipe, folder: Path, *, warmups: int, steps: int, report: Callable[[Any], None]
) -> StepTimes:
    """Take training steps from a recipe's beginning and time them.

    Args:
        recipe: any; its output is not touched.
        folder: an empty one, for what a run writes.
        warmups: steps before those that count.
        steps: that count, at least 1.
        report: as of `training.trainer.train`.

    Raises:
        ValueError: for a recipe that cannot be trained.
    """
    recipe = recipe.model_copy(update={"output": folder, "steps": warmups + steps})
    task = build_task(recipe)
    accelerator = new_accelerator(recipe)
    try:
        trainer = Trainer(task, accelerator, report)
        device = accelerator.device.type
        data = task.dataset(report)
        batches = iter(loader(
            data, recipe.batch_size, recipe.seed, 0,
            workers=recipe.num_workers, rank=0, world_size=1, parts=recipe.gradient_accumulation_steps,
        ))  # fmt: skip
        clock = _Clock(device)
        items, began = 0, (0.0, 0.0)
        with _hooks(task, trainer, clock):
            for step in range(1, warmups + steps + 1):
                if step == warmups + 1:
                    clock.seconds, items = dict.fromkeys(PARTS, 0.0), 0
                    synchronize(device)
                    began = time.perf_counter(), time.process_time()
                with clock.during("data"):
                    batch = _to_device(next(batches), accelerator.device)
                items += items_of(batch, recipe.batch_size)
                with clock.during("rest"):
                    trainer._step(step, batch)
        synchronize(device)
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    finally:
        AcceleratorState._reset_state()
    parts = {name: seconds / steps for name, seconds in clock.seconds.items() if name != "rest"}
    parts["rest"] = wall / steps - sum(parts.values())
    return StepTimes(steps=steps, items=round(items / steps), wall=wall / steps, cpu=cpu / steps, parts=parts)


@contextmanager
def _hooks(task: Task, trainer: Trainer, clock: _Clock) -> Iterator[None]:
    """Read the clock where the trainer's parts begin and end."""
    hooks: list[Any] = []

    def timed(module: nn.Module, name: str) -> None:
        hooks.append(module.register_forward_pre_hook(lambda *_: clock.enter(name)))
        hooks.append(module.register_forward_hook(lambda *_: clock.leave(), always_call=True))

    timed(trainer.model, "forward")
    for module in _frozen_parts(task):
        timed(module, "encode")
    backward, step = trainer.accelerator.backward, trainer.optimizer.step
    clip = trainer.accelerator.clip_grad_norm_

    def wrapped(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*arguments: Any, **keywords: Any) -> Any:
            with clock.during(name):
                return call(*arguments, **keywords)

        return inside

    trainer.accelerator.backward = wrapped("backward", backward)
    trainer.accelerator.clip_grad_norm_ = wrapped("backward", clip)
    trainer.optimizer.step = wrapped("optimizer", step)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        trainer.accelerator.backward, trainer.accelerator.clip_grad_norm_ = backward, clip
        trainer.optimizer.step = step


def _frozen_parts(task: nn.Module) -> list[nn.Module]:
    """The task's own networks, such as text encoders, of which nothing is trained.

    Not the frozen layers of a network that is trained in part.
    """
    found: list[nn.Module] = []
    for child in task.children():
        for module in child if isinstance(child, nn.ModuleList) else (child,):
            parameters = list(module.parameters())
            if parameters and not any(one.requires_grad for one in parameters):
                # An autoencoder is called by encode and decode, which are no calls of the module itself.
                inner = [part for name, part in module.named_children() if name in ("encoder", "decoder")]
                found.extend(inner or [module])
    return found
