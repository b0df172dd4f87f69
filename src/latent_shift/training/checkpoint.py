"""A run's resumable state: weights, their moving average, the optimizer and the step, in memory and on disk.

Only safetensors and JSON, never pickle. A checkpoint is a folder `step-00001000` that appears whole or not at
all: it is written under another name and renamed. `load` restores exactly what `save` was given, so that a
resumed run goes on as if never stopped. Under FSDP2 the tensors are sharded (DTensor) in memory and full on
disk, so a run may go on with other processes than it was begun with. Reading and writing then take part in
all processes, for the same tensors in the same order.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from latent_shift.documents import read_json_mapping
from latent_shift.hashes import file_crc32
from latent_shift.io import one_line, read_safetensors_header, warn
from latent_shift.training.logging import Diverged
from latent_shift.training.optim import new_optimizer
from latent_shift.training.task import Task

_NAME = re.compile(r"step-[0-9]+")  # of a complete one
_UNFINISHED = ".unfinished"
_FILES = ("weights", "ema", "optimizer")
_STATE = {"step": int, "ema_step": int, "optimizer": dict, "inputs": dict, "made_by": dict}  # in state.json


@dataclass(frozen=True)
class State:
    """All that a step changes. scaler: of the gradients in fp16, else None. inputs: `Task.inputs`."""

    task: Task
    trained: list[nn.Parameter]
    ema: EMAModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def new(
        cls,
        task: Task,
        optimizer: torch.optim.Optimizer | None = None,
        scaler: torch.amp.GradScaler | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> State:
        """The state before the first step. optimizer: of the task's parameters, where they are sharded.

        scaler, inputs: as in the class.
        """
        trained = trained_parameters(task)
        ema = EMAModel(
            trained, decay=task.recipe.ema_decay, use_ema_warmup=True, inv_gamma=1.0, power=0.8, foreach=True
        )
        optimizer = optimizer or new_optimizer(trained, task.recipe.optimizer)
        return cls(task, trained, ema, optimizer, scaler, inputs or {})

    def update_ema(self) -> None:
        """Move the average toward the trained parameters, after a step of the optimizer."""
        self.ema.step(self.trained)

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Within the `with` block the trained parameters hold their moving average."""
        self._swap_with_ema()
        try:
            yield
        finally:
            self._swap_with_ema()

    @torch.no_grad()
    def _swap_with_ema(self) -> None:
        for parameter, average in zip(self.trained, self.ema.shadow_params, strict=True):
            current = parameter.clone()
            parameter.copy_(average)
            average.copy_(current)


def trained_parameters(task: nn.Module) -> list[nn.Parameter]:
    """The parameters that require gradients."""
    return [parameter for parameter in task.parameters() if parameter.requires_grad]


def checkpoints(run: Path) -> list[Path]:
    """The folders of a run's complete checkpoints, the oldest first; all other names are passed over.

    Raises ValueError where they lie behind a link to nothing, as to a disk that is not mounted.
    """
    folder = run / "checkpoints"
    if folder.is_symlink() and not folder.exists():
        raise ValueError(
            f"{folder}: is a link to {os.readlink(folder)}, which is not there: mount or restore it, or"
            " remove the link to begin anew"
        )
    found = folder.glob("step-*")
    return sorted((path for path in found if _NAME.fullmatch(path.name) and path.is_dir()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(checkpoint.name.removeprefix("step-"))


def save(state: State, step: int, *, writes: bool = True) -> Path:
    """Write the checkpoint of a step; remove the oldest beyond the recipe's limit, and damaged later ones.

    Returns its folder.

    writes: false in all processes but the main one; these help to gather the tensors.
    Raises Diverged, and writes nothing, where a weight is not finite; ValueError where the disk is full or
    cannot be written, with the checkpoints before it as they were.
    """
    recipe = state.task.recipe
    folder = recipe.output / "checkpoints" / f"step-{step:08d}"
    weights = _gather(_named(state.task), keep=writes)
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise Diverged(f"{name} is not finite at step {step}: lower learning_rate, or use fp32")
    entries, numbers = read_optimizer(state.optimizer)
    averages = {str(i): average for i, average in enumerate(state.ema.shadow_params)}
    with _atomic_folder(folder) if writes else nullcontext(folder) as partial:
        for name, tensors in zip(_FILES, (weights, averages, entries), strict=True):
            gathered = _gather(tensors.items(), keep=writes)
            if writes:
                save_file(gathered, partial / f"{name}.safetensors")
        if writes:
            rest = {"step": step, "ema_step": state.ema.optimization_step, "optimizer": numbers}
            rest["inputs"] = dict(state.inputs)
            rest["made_by"] = _maker(state)
            rest["crc32"] = {name: file_crc32(partial / f"{name}.safetensors") for name in _FILES}
            scaler = {} if state.scaler is None else {"scaler": state.scaler.state_dict()}
            (partial / "state.json").write_text(json.dumps({**rest, **scaler}), encoding="utf-8")
            for name in _FILES:  # which their library lets the owner read only
                with suppress(PermissionError):  # file systems without permissions of each file
                    shutil.copymode(partial / "state.json", partial / f"{name}.safetensors")
    if writes:
        found = checkpoints(recipe.output)
        later = [one for one in found if step_of(one) > step]  # were damaged, for `load` passed over them
        earlier = [one for one in found if step_of(one) <= step]
        for old in (*later, *earlier[: -recipe.checkpoints_total_limit]):
            shutil.rmtree(old, ignore_errors=True)
    return folder


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield another folder, renamed to `folder` at the end; removed where it cannot be written."""
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


def load(state: State) -> int:
    """Restore the newest whole checkpoint of a run, in place. Returns its step, or 0 where there is none.

    Warns (UserWarning) about newer ones that are damaged, and where the clips are others than before. Raises
    ValueError where all are damaged, and where the checkpoint is of a model with other trained parameters or
    buffers, of another task or optimizer, or beside other weights that are not trained.
    """
    found = checkpoints(state.task.recipe.output)
    if not found:
        return 0
    damaged = []
    while found and (problem := damage(found[-1])) is not None:
        damaged.append(f"{found.pop()} is damaged ({problem})")
    if not found:
        raise ValueError(f"{'; '.join(damaged)}: no checkpoint is whole; remove them to begin anew")
    folder = found[-1]
    if damaged:
        warn(f"{'; '.join(damaged)}: the run goes on from {folder.name}, which is whole")
    named = dict(_named(state.task))
    with safe_open(folder / "weights.safetensors", framework="pt") as weights:
        shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        if shapes != {name: tuple(parameter.shape) for name, parameter in named.items()}:
            raise ValueError(f"checkpoint {folder} is of another model: train into another output folder")
        for name, parameter in named.items():
            copy_into(parameter, weights.get_tensor(name))
    rest = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    _check_maker(rest.get("made_by", {}), state, folder)
    _check_inputs(rest.get("inputs", {}), state)
    with safe_open(folder / "ema.safetensors", framework="pt") as average:
        for i, shadow in enumerate(state.ema.shadow_params):
            copy_into(shadow, average.get_tensor(str(i)))
    state.ema.optimization_step = rest["ema_step"]
    tensors = load_file(folder / "optimizer.safetensors")
    write_optimizer(state.optimizer, state.trained, tensors, rest["optimizer"])
    if state.scaler is not None and "scaler" in rest:
        state.scaler.load_state_dict(rest["scaler"])
    return int(rest["step"])


def _maker(state: State) -> dict[str, str]:
    """The maker of a checkpoint's tensors, which these do not tell."""
    recipe = state.task.recipe
    return {"task": recipe.task, "optimizer.kind": recipe.optimizer.kind}


def _check_maker(before: Mapping[str, str], state: State, folder: Path) -> None:
    """Raise ValueError where another task or optimizer made a checkpoint, as its run's recipe would tell."""
    for key, value in _maker(state).items():
        if (made := before.get(key, value)) != value:
            raise ValueError(
                f"checkpoint {folder} was made with {key}: {made}, and the recipe has {value}: set it back,"
                " or train into another output folder"
            )


def _check_inputs(before: Mapping[str, str], state: State) -> None:
    changed = {key for key, value in state.inputs.items() if before.get(key, value) != value}
    output = state.task.recipe.output
    if "frozen" in changed:
        raise ValueError(
            f"{output}: what its checkpoints were trained on has changed: the weights that this run does not"
            " train are others now; put the models that the recipe names back, or train into another folder"
        )
    if changed & {"clips", "files"}:
        warn(
            f"{output}: its clips or captions are others than when it was begun: the steps from here on see"
            " these, and the result is not that of either set alone"
        )


def damage(folder: Path, *, contents: bool = True) -> str | None:
    """Return why a checkpoint cannot be read; None where it is whole. contents: look at every byte."""
    file = folder / "state.json"
    try:
        headers = {name: read_safetensors_header(folder / f"{name}.safetensors") for name in _FILES}
        rest = read_json_mapping(file)
        sums = dict(rest.get("crc32") or {}) if contents else {}
        changed = [name for name in sums if file_crc32(folder / f"{name}.safetensors") != sums[name]]
    except (ValueError, TypeError, OSError) as error:
        return one_line(error)
    if missing := {"step", "ema_step", "optimizer"} - rest.keys():
        return f"{file} has no {', '.join(sorted(missing))}"
    if wrong := [key for key, kind in _STATE.items() if not isinstance(rest.get(key, kind()), kind)]:
        return f"{file}: {wrong[0]} is {str(rest[wrong[0]])[:40]!r}"
    if rest["step"] != step_of(folder):
        return f"{file} is of step {rest['step']}"
    if not changed and not all(key.isdigit() for key in headers["ema"].shapes):
        changed = ["ema"]
    if changed:
        return f"{folder / changed[0]}.safetensors: is not what was written"
    return None


def read_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, float]]:
    """An optimizer's state, which may be sharded: tensors, and plain numbers.

    "3.exp_avg" is the entry `exp_avg` of the trained parameter 3, counted from 0.
    """
    # Not by torch.distributed.checkpoint.state_dict: it gives an optimizer that took no step yet, all having
    # been skipped, a state by a step of zero gradients, which then counts in AdamW's bias correction.
    state = optimizer.state_dict()["state"]
    entries = {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in entries.items() if key not in tensors}


def write_optimizer(
    optimizer: torch.optim.Optimizer,
    trained: list[nn.Parameter],
    tensors: Mapping[str, Tensor],
    numbers: Mapping[str, float],
) -> None:
    """Give an optimizer of the trained parameters the tensors and numbers that `read_optimizer` read."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *numbers.items()):
        index, name = key.split(".", 1)
        like = trained[int(index)]
        if isinstance(value, Tensor) and value.shape == like.shape:
            value = _shard_like(value, like)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor, detached. If it is sharded, all processes have to call this."""
    detached: Any = tensor.detach()
    return detached.full_tensor() if isinstance(tensor, DTensor) else detached


@torch.no_grad()
def copy_into(parameter: Tensor, tensor: Tensor) -> None:
    """Write a full tensor, the same in all processes, into a parameter, which may be sharded."""
    parameter.copy_(_shard_like(tensor.to(parameter.dtype), parameter))


def _shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A full tensor, sharded as `like` is. No data is exchanged: each process must have the same."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _gather(named: Iterable[tuple[str, Tensor]], *, keep: bool) -> dict[str, Tensor]:
    """Full tensors by name, on the CPU; with `keep` false none, in processes that only help."""
    kept = {}
    for name, tensor in named:
        full = full_tensor(tensor)
        if keep:
            kept[name] = full.cpu().contiguous()
    return kept


def _named(task: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The trained parameters by name, and the buffers of modules' states, which a step may change."""
    yield from ((name, value) for name, value in task.named_parameters() if value.requires_grad)
    kept = task.state_dict().keys()
    yield from ((name, value) for name, value in task.named_buffers() if name in kept)
