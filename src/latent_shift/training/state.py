"""A run's resumable state: weights, their moving average, the optimizer and the step, on disk and off it.

Only safetensors and JSON, never pickle. A checkpoint is a folder `step-00001000` that appears whole or not at
all: it is written under another name and renamed. `load` gives back exactly what `save` was given, so a
resumed run goes on as if never stopped.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latent_shift.training.optimization import Diverged, adamw
from latent_shift.training.recipe import Run

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
    def new(cls, objective: nn.Module, recipe: Run, scaler: torch.amp.GradScaler | None = None) -> State:
        """The state before the first step; all parameters that require gradients are trained."""
        trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        average = EMAModel(
            trained, decay=recipe.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.8, foreach=True
        )
        return cls(objective, trained, average, adamw(trained, recipe.optimizer), scaler)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the `with` block the trained parameters hold their moving average."""
        self.average.store(self.trained)
        self.average.copy_to(self.trained)
        try:
            yield
        finally:
            self.average.restore(self.trained)


def checkpoints(run: Path) -> list[Path]:
    """The folders of a run's whole checkpoints, the oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if path.suffix != _UNFINISHED)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(checkpoint.name.removeprefix("step-"))


def save(run: Path, step: int, state: State, keep: int) -> Path:
    """Write the checkpoint of `step` and remove all but the newest `keep`. Returns its folder.

    Raises Diverged, and writes nothing, where a weight is not finite.
    """
    weights = _weights(state.objective)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise Diverged(f"{name} is not finite at step {step}: lower learning_rate, or use fp32")
    folder = run / "checkpoints" / f"step-{step:08d}"
    for stale in folder.parent.glob(f"step-*{_UNFINISHED}"):  # of a run that was killed
        shutil.rmtree(stale)
    partial = folder.with_suffix(_UNFINISHED)
    partial.mkdir(parents=True)
    tensors, numbers = _flatten_optimizer(state.optimizer.state_dict())
    save_file(weights, partial / "weights.safetensors")
    save_file(_numbered(state.average.shadow_params), partial / "ema.safetensors")
    save_file(tensors, partial / "optimizer.safetensors")
    rest: dict[str, Any] = {"step": step, "ema_step": state.average.optimization_step, "optimizer": numbers}
    if state.scaler is not None:
        rest["scaler"] = state.scaler.state_dict()
    (partial / "state.json").write_text(json.dumps(rest), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def load(run: Path, state: State) -> int:
    """Restore the newest checkpoint of a run, in place. Returns its step, or 0 where there is none.

    Raises ValueError where the checkpoint is of a model with other trained parameters.
    """
    found = checkpoints(run)
    if not found:
        return 0
    folder = found[-1]
    weights = load_file(folder / "weights.safetensors")
    if _shapes(weights) != _shapes(_weights(state.objective)):
        raise ValueError(f"checkpoint {folder} is of another model: train into another output folder")
    state.objective.load_state_dict(weights, strict=False)
    rest = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    average = load_file(folder / "ema.safetensors")
    for i, parameter in enumerate(state.average.shadow_params):
        parameter.data.copy_(average[str(i)])
    state.average.optimization_step = rest["ema_step"]
    groups = state.optimizer.state_dict()["param_groups"]
    tensors = load_file(folder / "optimizer.safetensors")
    state.optimizer.load_state_dict(_unflatten_optimizer(tensors, rest["optimizer"], groups))
    if state.scaler is not None and "scaler" in rest:
        state.scaler.load_state_dict(rest["scaler"])
    return int(rest["step"])


def _weights(objective: nn.Module) -> dict[str, Tensor]:
    """The trained parameters by name."""
    named = objective.named_parameters()
    return {name: value.detach().contiguous() for name, value in named if value.requires_grad}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _numbered(tensors: list[Tensor]) -> dict[str, Tensor]:
    return {str(i): tensor.contiguous() for i, tensor in enumerate(tensors)}


def _flatten_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The optimizer's per-parameter entries as "index.name": tensors, and plain numbers."""
    entries = {f"{i}.{name}": value for i, values in state["state"].items() for name, value in values.items()}
    tensors = {key: value.contiguous() for key, value in entries.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in entries.items() if not isinstance(value, Tensor)}


def _unflatten_optimizer(
    tensors: dict[str, Tensor], numbers: dict[str, float], groups: Any
) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *numbers.items()):
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": groups}
