"""A run's resumable state on disk: weights, their moving average, the optimizer and the step.

Only safetensors and JSON, never pickle. A checkpoint is a folder `step-00001000` that appears whole or not at
all: it is written under another name and renamed. `load` gives back exactly what `save` was given, so a
resumed run goes on as if never stopped.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_UNFINISHED = ".unfinished"


def save(
    run: Path, step: int, weights: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer, keep: int
) -> Path:
    """Write the checkpoint of `step` and remove all but the newest `keep`. Returns its folder."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    partial = folder.with_suffix(_UNFINISHED)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors, numbers = _flatten_optimizer(optimizer.state_dict())
    save_file(_trained(weights), partial / "weights.safetensors")
    save_file({str(i): p.contiguous() for i, p in enumerate(ema.shadow_params)}, partial / "ema.safetensors")
    save_file(tensors, partial / "optimizer.safetensors")
    state = {"step": step, "ema_step": ema.optimization_step, "optimizer": numbers}
    (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    for old in _checkpoints(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def load(run: Path, weights: nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer) -> int:
    """Restore the newest checkpoint of a run, in place. Returns its step, or 0 where there is none."""
    found = _checkpoints(run)
    if not found:
        return 0
    folder = found[-1]
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    _, unexpected = weights.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
    shadow = load_file(folder / "ema.safetensors")
    if unexpected or len(shadow) != len(ema.shadow_params):
        raise ValueError(f"checkpoint {folder} is of another model: train into another output folder")
    for i, parameter in enumerate(ema.shadow_params):
        parameter.data.copy_(shadow[str(i)])
    ema.optimization_step = state["ema_step"]
    groups = optimizer.state_dict()["param_groups"]
    tensors = load_file(folder / "optimizer.safetensors")
    optimizer.load_state_dict(_unflatten_optimizer(tensors, state["optimizer"], groups))
    return int(state["step"])


def _checkpoints(run: Path) -> list[Path]:
    folders = (run / "checkpoints").glob("step-*")
    return sorted(folder for folder in folders if folder.suffix != _UNFINISHED)


def _trained(weights: nn.Module) -> dict[str, Tensor]:
    wanted = {name for name, parameter in weights.named_parameters() if parameter.requires_grad}
    return {name: tensor.contiguous() for name, tensor in weights.state_dict().items() if name in wanted}


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
