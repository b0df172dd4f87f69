"""The processes of a run, as accelerate's configuration says: one, several (DDP), or several with FSDP2.

FSDP2 shards parameters, gradients and the optimizer's states. The numbers stay those of one process:
parameters in float32, `mixed_precision` by autocast only; so a checkpoint fits every kind of run. What cannot
work together is refused before anything is loaded.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from types import FrameType
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration
from torch import nn
from torch.distributed.fsdp import FSDPModule

from latent_shift.checkpoints import auto_dtype, choose_device
from latent_shift.precision import warn_of_slow
from latent_shift.training.recipe import Recipe

_PATIENCE = timedelta(days=1)  # of processes that wait for the first one, as while it encodes all clips
_FSDP_SWITCHES = {  # that would change names or lose the weights of the parts that are not trained
    "CPU_RAM_EFFICIENT_LOADING": "", "ACTIVATION_CHECKPOINTING": "; the recipe has gradient_checkpointing",
}  # fmt: skip


class Prepared(NamedTuple):
    """A task and its optimizer, as the processes use them.

    replica: in FSDP2's main process a copy of the task that is not sharded, for samples and the export.
    """

    model: nn.Module
    optimizer: Any
    replica: nn.Module | None = None


def check_processes(recipe: Recipe) -> None:
    """Raise ValueError where a recipe has settings that the launched kind of processes does not support."""
    if not _with_fsdp():
        if recipe.mixed_precision == "fp16" and not (
            torch.cuda.is_available() or torch.backends.mps.is_available()
        ):
            raise ValueError("mixed_precision: fp16 needs a GPU; set mixed_precision to auto, bf16 or fp32")
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError(
            "FSDP of version 1 is not supported: set fsdp_version: 2 in accelerate's configuration"
        )
    for switch, advice in _FSDP_SWITCHES.items():
        if _on(f"FSDP_{switch}"):
            raise ValueError(f"fsdp_{switch.lower()}: set it to false in accelerate's configuration{advice}")
    if resolve_precision(recipe.mixed_precision) == "fp16":
        raise ValueError("mixed_precision: fp16 does not go with FSDP; set mixed_precision to bf16 or fp32")
    if recipe.compile:
        raise ValueError("compile: does not go with FSDP; set compile to false")
    if recipe.optimizer.kind != "adamw":
        raise ValueError(f"optimizer.kind: {recipe.optimizer.kind} does not go with FSDP; set it to adamw")
    if recipe.validation is not None and recipe.validates_several_shapes:
        raise ValueError(
            "validation: clips of several shapes (buckets) cannot be validated under FSDP, whose processes"
            " must take equal steps; leave validation out, or set height and width"
        )


def new_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate, as it was launched. Raises ValueError where it cannot shard as configured.

    Warns (SlowPrecisionWarning) of bf16 on a processor without instructions for it.
    """
    precision = resolve_precision(recipe.mixed_precision)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else several processes on CPUs do not know of each other
        mixed_precision="no" if precision == "fp32" or _with_fsdp() else precision,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(recipe.output), logging_dir=str(recipe.output)),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )
    if _with_fsdp() and not accelerator.is_fsdp2:
        AcceleratorState._reset_state()
        raise ValueError(
            "accelerate shares out parameters (FSDP) among several GPUs only, and there are not several here;"
            " use another configuration, as those in recipes/accelerate"
        )
    if accelerator.is_main_process:
        warn_of_slow(f"mixed_precision {precision}", accelerator.device.type)
    return accelerator


def prepare(
    accelerator: Accelerator, recipe: Recipe, task: nn.Module, optimizer: torch.optim.Optimizer
) -> Prepared:
    """Wrap, or shard in place, a recipe's task and its optimizer, as the accelerator was launched to."""
    if not accelerator.is_fsdp2:
        return Prepared(*accelerator.prepare(task, optimizer))
    replica = deepcopy(task).cpu() if accelerator.is_main_process else None
    if resolve_precision(recipe.mixed_precision) == "bf16":  # accelerate's own would make parameters bf16
        autocast = torch.autocast(accelerator.device.type, torch.bfloat16, cache_enabled=False)
        task.forward = autocast(task.forward)  # type: ignore[method-assign]
    # The parts of which nothing is trained stay whole in each process.
    accelerator.state.fsdp_plugin.ignored_modules = [
        part for part in task.children() if not any(one.requires_grad for one in part.parameters())
    ]
    model, prepared = accelerator.prepare(task, optimizer)
    return Prepared(model, prepared, replica)


def reshard(task: nn.Module) -> None:
    """Let FSDP2 free what it gathered for a forward pass that no backward pass follows.

    Otherwise the next pass would use these parameters again, whatever has been written into them since.
    """
    if isinstance(task, FSDPModule):
        task.reshard()


def resolve_precision(precision: str) -> str:
    """Resolve "auto": the precision of sampling on this machine, but fp32 on Apple's GPUs."""
    if precision != "auto":
        return precision
    device = choose_device("auto").type
    return "fp32" if device == "mps" else auto_dtype(device)


def _with_fsdp() -> bool:
    """Whether `accelerate launch` was configured to shard parameters."""
    return _on("ACCELERATE_USE_FSDP")


def _on(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal, and its checkpoint is written."""


class StopRequest:
    """Whether this process, or one beside it, has received a signal to stop."""

    _received = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Note a signal; a second Ctrl-C does not wait for the step to end."""
        if self._received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = True

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process has received a signal: all of them must stop after the same step."""
        if accelerator.num_processes == 1:
            return self._received
        received = torch.tensor(float(self._received), device=accelerator.device)
        return bool(accelerator.reduce(received) > 0)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Handle SIGINT and SIGTERM: within the `with` block they only leave a request to stop."""
    stop = StopRequest()
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
