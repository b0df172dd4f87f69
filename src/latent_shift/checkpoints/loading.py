"""From the path of a model to its pipeline, on a device, with LoRA layers; and its scheduler.

torch and diffusers are imported inside the functions: the choices below are read by `--help`.
"""

from __future__ import annotations

import os
import shutil
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from latent_shift.checkpoints.lora import Lora, attach_loras, check_loras
from latent_shift.checkpoints.resolve import resolve, weight_files, weighted_parts
from latent_shift.checkpoints.single_file import detect_layout, load_single_file
from latent_shift.documents import read_json_mapping
from latent_shift.io import one_line
from latent_shift.limits import MAX_STEPS
from latent_shift.model_files import scheduler_problem, tokenizer_errors
from latent_shift.model_weights import check_weights, opened_files
from latent_shift.precision import auto_dtype, warn_of_slow

if TYPE_CHECKING:
    import torch

    from latent_shift.pipeline import LatentShiftPipeline, LatentShiftXLPipeline

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "fp32", "bf16", "fp16")
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def load(
    name: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    loras: Sequence[str | Lora] = (),
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
) -> LatentShiftPipeline | LatentShiftXLPipeline:
    """The pipeline of a model, on its device, ready to sample.

    Args:
        name, tokenizer, prediction_type: as in `resolve`.
        device: one of DEVICES; "auto" takes cuda, then mps, then the cpu.
        dtype: one of DTYPES; "auto" takes the fastest on the device (`precision.auto_dtype`).
        loras: LoRA files of the base model, "FILE" or "FILE:WEIGHT" each; their layers stay beside the
            model's own (`pipeline.fuse_lora` would merge them).

    Raises:
        ValueError: as `resolve` and `check_loras`, for a device that is not there, parts of a model that do
            not fit together, and LoRA layers that fit nothing in it.
    """
    path = resolve(name, tokenizer=tokenizer, prediction_type=prediction_type)
    checked = check_loras(loras)
    on = choose_device(device)
    precision = choose_dtype(dtype, on)
    if path.is_file():
        tokenizer_path = None if tokenizer is None else Path(tokenizer)
        pipeline = load_single_file(path, tokenizer_path, prediction_type, precision)
    else:
        pipeline = _load_folder(path, precision)
    attach_loras(pipeline, checked)
    return pipeline.to(on)


def _load_folder(folder: Path, dtype: torch.dtype) -> LatentShiftPipeline | LatentShiftXLPipeline:
    from latent_shift.pipeline import LatentShiftPipeline

    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    for part, (library, kind) in weighted_parts(folder).items():
        if library == "transformers":
            check_weights(folder / part, library, kind)
            text_encoder = _text_encoder(folder / part, kind, dtype)
            options |= {} if text_encoder is None else {part: text_encoder}
    if any(".fp16" in file.name for file in weight_files(folder)):  # some parts have no others
        options["variant"] = "fp16"
    try:
        with tokenizer_errors(folder):
            return LatentShiftPipeline.from_pretrained(str(folder), **options)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        if isinstance(error, ValueError) and str(error).startswith(str(folder)):
            raise
        raise ValueError(f"{folder}: cannot be loaded: {one_line(error)}") from error


def _text_encoder(part: Path, kind: str, dtype: torch.dtype) -> Any | None:
    """CLIP's text encoder in a model's folder; None for another, and for weights of earlier releases' names.

    transformers' own loader would first build its rules of renaming for all models that it knows, half a
    second of regular expressions, which weights of today's names do not need. part: checked by
    `check_weights`.
    """
    import torch
    import transformers
    from safetensors.torch import load_file

    if not kind.startswith("CLIPText"):  # others share weights, which assigning would leave without memory
        return None
    network: Any = getattr(transformers, kind)
    with torch.device("meta"):
        model = network(network.config_class.from_pretrained(part))
    held = {name: tensor for file in opened_files(part) for name, tensor in load_file(file).items()}
    positions = [name for name, _ in model.named_buffers()]  # not saved today; earlier releases saved them
    if {name for name, _ in model.named_parameters()} != set(held) - set(positions):
        return None
    for name in positions:
        module, _, buffer = name.rpartition(".")
        if buffer != "position_ids":
            return None
        length = model.config.max_position_embeddings
        model.get_submodule(module).position_ids = torch.arange(length).expand(1, -1)
        held.pop(name, None)
    model.load_state_dict(held, strict=False, assign=True)
    model.name_or_path = model.config.name_or_path = str(part)
    return model.to(dtype).eval()


def choose_device(name: str) -> torch.device:
    """The torch device of a name in DEVICES; ValueError for another name or a device that is not there."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, present in there.items() if present))
    if name not in there:
        raise ValueError(f"device {name!r}: expected one of {', '.join(DEVICES)}")
    if not there[name]:
        present = ", ".join(kind for kind, here in there.items() if here)
        raise ValueError(f"device {name}: torch finds none on this machine; there is {present}")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype of a name in DTYPES; "auto": the fastest on the device, as in training.

    Warns (SlowPrecisionWarning) of bf16 on a processor without instructions for it.
    """
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    warn_of_slow(f"dtype {name}", device.type)
    if name in kinds:
        return kinds[name]
    if name != "auto":
        raise ValueError(f"dtype {name!r}: expected one of {', '.join(DTYPES)}")
    return kinds[auto_dtype(device.type)]


def check_compiler(device: str) -> None:
    """Raise ValueError where torch would compile for the processor and there is no C++ compiler.

    device: one of DEVICES.
    """
    names = (os.environ.get("CXX", ""), "g++", "clang++", "cl")
    if choose_device(device).type == "cpu" and not any(map(shutil.which, filter(None, names))):
        raise ValueError("compiling needs a C++ compiler, and there is none: install g++, or leave it out")


def compile_unet(
    pipeline: LatentShiftPipeline | LatentShiftXLPipeline, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Compile the U-Net at its first call: once for all steps and sizes, again for other frames.

    backend: of `torch.compile`.
    """
    import torch

    pipeline.unet = torch.compile(pipeline.unet, dynamic=True, backend=backend)


def use_scheduler(pipeline: LatentShiftPipeline | LatentShiftXLPipeline, name: str) -> None:
    """Exchange the pipeline's scheduler for one of SCHEDULERS, keeping the noise schedule of its training."""
    pipeline.scheduler = _scheduler(pipeline.scheduler.config, name)


def max_steps(path: Path, scheduler: str | None = None) -> int:
    """The most denoising steps that a model's schedule has room for, at most MAX_STEPS; reads no weight.

    scheduler: one of SCHEDULERS; None: the model's own. Raises ValueError for a configuration that makes no
    noise schedule.
    """
    from latent_shift.pipeline.inputs import set_timesteps

    folder = detect_layout(path)[0].config_folder if path.is_file() else path
    file = folder / "scheduler" / "scheduler_config.json"
    config = read_json_mapping(file)
    if problem := scheduler_problem(config):
        raise ValueError(f"{file}: {problem}")
    try:
        made = _scheduler(config, scheduler)
        set_timesteps(made, 1)
        betas = getattr(made, "betas", None)
        if betas is not None and not bool(((betas >= 0) & (betas <= 1)).all()):
            raise ValueError("its betas are not all from 0 to 1")
    except Exception as error:  # their constructors check little, and fail in any way
        raise ValueError(f"{file}: gives no noise schedule: {one_line(error)}") from error

    def too_many(steps: int) -> bool:
        try:
            set_timesteps(made, steps)
        except ValueError:
            return True
        return False

    return bisect_left(range(1, MAX_STEPS + 1), True, key=too_many)


def _scheduler(config: Mapping[str, Any], name: str | None) -> Any:
    """A scheduler of a configuration: its own, or one of SCHEDULERS."""
    import diffusers

    if name is not None and name not in SCHEDULERS:
        raise ValueError(f"scheduler {name!r}: expected one of {', '.join(SCHEDULERS)}")
    kind: Any = getattr(diffusers, config["_class_name"] if name is None else SCHEDULERS[name])
    return kind.from_config(config)
