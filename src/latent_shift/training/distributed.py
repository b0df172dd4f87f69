"""The processes of a training, as accelerate's configuration says: one, several (DDP), FSDP2, or DeepSpeed.

FSDP2 shares out parameters, gradients and the optimizer's states; DeepSpeed's ZeRO 1 and 2 the latter two.
Under both the numbers stay those of one process: parameters in float32, `precision` by autocast alone; so a
checkpoint fits every kind of run. What cannot work together is refused before anything is loaded.
"""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, ProjectConfiguration
from torch import nn

from latent_shift.training.recipe import Divisible, ImageRecipe, Run, VideoRecipe

_FSDP, _DEEPSPEED = "FSDP", "DeepSpeed"
_FSDP_SWITCHES = {  # that would change names or lose the weights of the parts that are not trained
    "CPU_RAM_EFFICIENT_LOADING": "", "ACTIVATION_CHECKPOINTING": "; the recipe has gradient_checkpointing",
}  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """An objective and its optimizer, as the processes use them.

    replica: in FSDP2's main process a whole copy of the objective, for samples and the finished model.
    """

    model: nn.Module
    optimizer: Any
    replica: nn.Module | None = None


def check_processes(recipe: Run) -> None:
    """Raise ValueError where the recipe asks for what the launched kind of processes cannot do."""
    kind = _asked_for()
    if kind is None:
        if recipe.precision == "fp16" and not (
            torch.cuda.is_available() or torch.backends.mps.is_available()
        ):
            raise ValueError("precision: fp16 needs a GPU; set precision to auto, bf16 or fp32")
        return
    if kind == _FSDP and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ValueError(
            "FSDP of version 1 is not supported: set fsdp_version: 2 in accelerate's configuration"
        )
    for switch, mend in _FSDP_SWITCHES.items():
        if kind == _FSDP and _on(f"FSDP_{switch}"):
            raise ValueError(f"fsdp_{switch.lower()}: set it to false in accelerate's configuration{mend}")
    if resolve_precision(recipe.precision) == "fp16":
        raise ValueError(f"precision: fp16 does not go with {kind}; set precision to bf16 or fp32")
    if recipe.compile:
        raise ValueError(f"compile: does not go with {kind}; set compile to false")
    if recipe.optimizer.kind != "adamw":
        raise ValueError(f"optimizer.kind: {recipe.optimizer.kind} does not go with {kind}; set it to adamw")
    if kind == _DEEPSPEED and isinstance(recipe, Divisible) and recipe.accumulate > 1:
        raise ValueError(
            f"accumulate: {recipe.accumulate} parts do not go with DeepSpeed, which shares out gradients"
            " after each; set it to 1, or use FSDP2"
        )
    if kind == _FSDP and _validates_buckets(recipe):
        raise ValueError(
            "validation: clips of several shapes (buckets) cannot be validated under FSDP, whose processes"
            " must take equal steps; leave validation out, or set height and width"
        )


def new_accelerator(recipe: Run) -> Accelerator:
    """Accelerate, as it was launched. Raises ValueError where it cannot share out as it was asked to."""
    kind, precision = _asked_for(), resolve_precision(recipe.precision)
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" or kind is not None else precision,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(recipe.output), logging_dir=str(recipe.output)),
    )
    if kind == _FSDP and not accelerator.is_fsdp2:
        AcceleratorState._reset_state()
        raise ValueError(
            "accelerate shares out parameters (FSDP) among several GPUs only, and there are not several here;"
            " use another configuration, as those in recipes/accelerate"
        )
    if kind == _DEEPSPEED:
        plugin = accelerator.state.deepspeed_plugin
        stage = None if plugin is None else plugin.zero_stage
        if stage not in (1, 2):
            AcceleratorState._reset_state()
            raise ValueError(f"zero_stage is {stage}: 1 and 2 are supported; FSDP2 does what 3 does")
    return accelerator


def prepare(
    accelerator: Accelerator, recipe: Run, objective: nn.Module, optimizer: torch.optim.Optimizer
) -> Prepared:
    """Share out the objective and its optimizer, in place, as accelerate was launched to."""
    if accelerator.is_fsdp2:
        replica = deepcopy(objective).cpu() if accelerator.is_main_process else None
        _compute_in_precision(objective, recipe, accelerator.device)
        accelerator.state.fsdp_plugin.ignored_modules = _fixed_parts(objective)
        model, prepared = accelerator.prepare(objective, optimizer)
        return Prepared(model, prepared, replica)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        _compute_in_precision(objective, recipe, accelerator.device)
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        settings["gradient_clipping"] = recipe.optimizer.clip_norm
        settings["train_micro_batch_size_per_gpu"] = recipe.batch_size // accelerator.num_processes
    return Prepared(*accelerator.prepare(objective, optimizer))


def resolve_precision(precision: str) -> str:
    """What "auto" stands for: bf16 where the machine computes in it, else fp32 (fp16 on an older GPU)."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "fp32"


def _asked_for() -> str | None:
    """What `accelerate launch` was configured to share parameters or optimizer out by, if anything."""
    for kind in (_FSDP, _DEEPSPEED):
        if _on(f"ACCELERATE_USE_{kind.upper()}"):
            return kind
    return None


def _on(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


def _validates_buckets(recipe: Run) -> bool:
    if not isinstance(recipe, ImageRecipe | VideoRecipe) or recipe.clips is None:
        return False
    return recipe.validation is not None and recipe.clips.frames.buckets is not None


def _compute_in_precision(objective: nn.Module, recipe: Run, device: torch.device) -> None:
    """Let the forward pass compute in the recipe's precision, as accelerate does for other kinds of runs."""
    if resolve_precision(recipe.precision) == "bf16":
        cast = torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
        objective.forward = cast(objective.forward)  # type: ignore[method-assign]


def _fixed_parts(objective: nn.Module) -> list[nn.Module]:
    """The parts of which nothing is trained: each process keeps them whole."""
    return [
        part for part in objective.children() if not any(value.requires_grad for value in part.parameters())
    ]
