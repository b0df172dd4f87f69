"""A run's resumable state: weights, their moving average, the optimizer and the step, on disk and off it.

Only safetensors and JSON, never pickle. A checkpoint is a folder `step-00001000` that appears whole or not at
all: it is written under another name and renamed. `load` gives back exactly what `save` was given, so a
resumed run goes on as if never stopped. It holds whole tensors, whoever shares them out, so a run may go on
with other processes than it was begun with.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latent_shift.training.optimization import Diverged, new_optimizer
from latent_shift.training.optimizer_state import read_optimizer, write_optimizer
from latent_shift.training.recipe import Run
from latent_shift.training.sharding import fill, gather, joined, own

_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class State:
    """What changes from step to step. scaler: of the gradients in fp16, else None."""

    objective: nn.Module
    trained: list[nn.Parameter]
    average: EMAModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None

    @classmethod
    def new(
        cls,
        objective: nn.Module,
        recipe: Run,
        scaler: torch.amp.GradScaler | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> State:
        """The state before the first step; all parameters that require gradients are trained.

        optimizer: theirs, where processes share it out already.
        """
        trained = trainable(objective)
        average = EMAModel(
            [own(parameter) for parameter in trained],
            decay=recipe.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.8, foreach=True,
        )  # fmt: skip
        return cls(objective, trained, average, optimizer or new_optimizer(trained, recipe.optimizer), scaler)

    def take_average(self) -> None:
        """Move the average towards the trained parameters, after a step of the optimizer."""
        self.average.step(self._own())

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the `with` block the trained parameters hold their moving average."""
        self.average.store(self._own())
        self.average.copy_to(self._own())
        try:
            yield
        finally:
            self.average.restore(self._own())

    def averages(self) -> Iterator[Tensor]:
        """The moving averages of the trained parameters, shared out as these are."""
        for part, parameter in zip(self.average.shadow_params, self.trained, strict=True):
            yield joined(part, parameter)

    def _own(self) -> list[Tensor]:
        return [own(parameter) for parameter in self.trained]


def trainable(objective: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients."""
    return [parameter for parameter in objective.parameters() if parameter.requires_grad]


def checkpoints(run: Path) -> list[Path]:
    """The folders of a run's whole checkpoints, the oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if path.suffix != _UNFINISHED)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(checkpoint.name.removeprefix("step-"))


def save(run: Path, step: int, state: State, keep: int, *, writes: bool = True) -> Path:
    """Write the checkpoint of `step` and remove all but the newest `keep`. Returns its folder.

    writes: false in the processes beside the main one, which only bring their parts.
    Raises Diverged, and writes nothing, where a weight is not finite; ValueError where the disk is full or
    cannot be written, with the checkpoints before it as they were.
    """
    folder = run / "checkpoints" / f"step-{step:08d}"
    weights = gather(_named(state.objective), keep=writes)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise Diverged(f"{name} is not finite at step {step}: lower learning_rate, or use fp32")
    with _whole_folder(folder) if writes else nullcontext(folder) as partial:
        if writes:
            save_file(weights, partial / "weights.safetensors")
        average = gather(((str(i), part) for i, part in enumerate(state.averages())), keep=writes)
        if writes:
            save_file(average, partial / "ema.safetensors")
        tensors, numbers = read_optimizer(state.optimizer, state.trained, keep=writes)
        if writes:
            save_file(tensors, partial / "optimizer.safetensors")
            rest = {"step": step, "ema_step": state.average.optimization_step, "optimizer": numbers}
            scaler = {} if state.scaler is None else {"scaler": state.scaler.state_dict()}
            (partial / "state.json").write_text(json.dumps({**rest, **scaler}), encoding="utf-8")
    for old in checkpoints(run)[:-keep] if writes else ():
        shutil.rmtree(old, ignore_errors=True)
    return folder


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Give another folder, renamed to `folder` at the end; removed, and told, where it cannot be written."""
    for stale in folder.parent.glob(f"step-*{_UNFINISHED}"):  # of a run that was killed
        shutil.rmtree(stale)
    partial = folder.with_suffix(_UNFINISHED)
    try:
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        kept = ", ".join(one.name for one in checkpoints(folder.parents[1])) or "none"
        raise ValueError(
            f"{folder}: cannot be written: {error}; the checkpoints before it are whole ({kept}):"
            " make room, and give the same command again"
        ) from error


def load(run: Path, state: State) -> int:
    """Restore the newest checkpoint of a run, in place. Returns its step, or 0 where there is none.

    Raises ValueError where the checkpoint is of a model with other trained parameters.
    """
    found = checkpoints(run)
    if not found:
        return 0
    folder = found[-1]
    named = dict(_named(state.objective))
    with safe_open(folder / "weights.safetensors", framework="pt") as weights:
        shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        if shapes != {name: tuple(parameter.shape) for name, parameter in named.items()}:
            raise ValueError(f"checkpoint {folder} is of another model: train into another output folder")
        for name, parameter in named.items():
            fill(parameter, weights.get_tensor(name))
    rest = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    with safe_open(folder / "ema.safetensors", framework="pt") as average:
        for i, part in enumerate(state.averages()):
            fill(part, average.get_tensor(str(i)))
    state.average.optimization_step = rest["ema_step"]
    tensors = load_file(folder / "optimizer.safetensors")
    write_optimizer(state.optimizer, state.trained, tensors, rest["optimizer"])
    if state.scaler is not None and "scaler" in rest:
        state.scaler.load_state_dict(rest["scaler"])
    return int(rest["step"])


def _named(objective: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The trained parameters by name."""
    return ((name, value) for name, value in objective.named_parameters() if value.requires_grad)
