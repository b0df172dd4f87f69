"""From a name to a model: the built-in default, a folder in the Stable Diffusion layout, or a hub id.

`resolve` turns a name into a checked folder without importing torch, so that a wrong name or a damaged file
is told at once; `load` makes the pipeline of it. Not the place that knows what is inside a model (that is
`pipeline`), and the only one that may reach the network, for hub ids alone. Weights are read from
safetensors, never from pickles.

    pipeline = load("moving-shapes")
    pipeline = load("/models/stable-diffusion-v1-5", device="cuda", dtype="fp16")
    weights_hash(resolve("moving-shapes"))   # "3f9a01c2b7de", kept in every clip made
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from latent_shift.video_settings import FILE_NAME, VideoSettings, read_video_settings

if TYPE_CHECKING:
    import torch

    from latent_shift.pipeline import LatentShiftPipeline

DEFAULT_MODEL = "moving-shapes"
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
WEIGHTED_PARTS = ("unet", "vae", "text_encoder")
PARTS = (*WEIGHTED_PARTS, "tokenizer", "scheduler")
LAYOUT = f"a folder in the Stable Diffusion layout (model_index.json, {', '.join(f'{p}/' for p in PARTS)})"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(name: str) -> Path:
    """The checked folder behind a model's name; downloads (or finds in the cache) a hub id.

    Raises ValueError for an unknown name, a folder that is no model, a missing part, a damaged file (named).
    """
    path = Path(name)
    if name == DEFAULT_MODEL:
        folder = Path(str(files("latent_shift"))) / "assets" / DEFAULT_MODEL
        if not folder.is_dir():
            raise ValueError(f"{name}: the built-in model is not installed; make it: make default-model")
    elif name and path.is_dir():
        folder = path
    elif path.is_file():
        raise ValueError(f"{name}: is a single file, which cannot be loaded yet; expected {LAYOUT}")
    elif _HUB_ID.fullmatch(name):
        folder = _fetch(name)
    else:
        known = f"{DEFAULT_MODEL!r}, {LAYOUT}, a hub id (org/name)"
        raise ValueError(f"{name!r}: unknown model; known are {known}")
    check_folder(folder)
    return folder


def load(name: str | Path, *, device: str = "auto", dtype: str = "auto") -> LatentShiftPipeline:
    """The pipeline of a model, on its device, ready to sample.

    `device` is one of DEVICES, `dtype` of DTYPES; "auto" takes cuda, then mps, then the cpu, and half
    precision everywhere but on the cpu. Raises ValueError as `resolve` does, for a device that is not there,
    and for a folder whose parts do not fit together.
    """
    folder = resolve(str(name))
    on = choose_device(device)
    options: dict[str, Any] = {"variant": "fp16"} if _only_fp16(folder) else {}
    options |= {"dtype": choose_dtype(dtype, on), "use_safetensors": True}
    from latent_shift.pipeline import LatentShiftPipeline

    try:
        pipeline = LatentShiftPipeline.from_pretrained(str(folder), **options)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise ValueError(f"{name}: cannot be loaded: {' '.join(str(error).split())}") from error
    return pipeline.to(on)


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
    """The torch dtype of a name in DTYPES: "auto": fp32 on a cpu, else bf16 if it can, else fp16."""
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name in kinds:
        return kinds[name]
    if name != "auto":
        raise ValueError(f"dtype {name!r}: expected one of {', '.join(DTYPES)}")
    if device.type == "cpu":
        return torch.float32
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_bf16 else torch.float16


def use_scheduler(pipeline: LatentShiftPipeline, name: str) -> None:
    """Exchange the pipeline's scheduler for one of SCHEDULERS, keeping the noise schedule of its training."""
    import diffusers

    if name not in SCHEDULERS:
        raise ValueError(f"scheduler {name!r}: expected one of {', '.join(SCHEDULERS)}")
    pipeline.scheduler = getattr(diffusers, SCHEDULERS[name]).from_config(pipeline.scheduler.config)


def video_settings(folder: Path) -> VideoSettings:
    """What a model is sampled with by default; those of an image model where it was never tuned on clips."""
    file = folder / FILE_NAME
    return read_video_settings(file) if file.is_file() else VideoSettings()


def pixel_multiple(folder: Path) -> int:
    """Height and width of a model's frames are multiples of this: the autoencoder's scale, by its config."""
    return 2 ** (len(_read_json(folder / "vae" / "config.json").get("block_out_channels", [0])) - 1)


def weights_hash(folder: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 over a model's weight files, in a fixed order."""
    digest = hashlib.sha256()
    for file in _weight_files(folder):
        digest.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def check_folder(folder: Path) -> None:
    """ValueError if `folder` is no model in the Stable Diffusion layout, or a file is missing or damaged."""
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"{folder}: is no model: it has no model_index.json; expected {LAYOUT}")
    index = _read_json(folder / "model_index.json")
    if "text_encoder_2" in index or "transformer" in index:
        kind = index.get("_class_name")
        raise ValueError(f"{folder}: is a {kind}, which has other parts; expected {LAYOUT}")
    for part in PARTS:
        if not (folder / part).is_dir() or index.get(part) in (None, [None, None]):
            raise ValueError(f"{folder}: the model's {part} is missing; expected {LAYOUT}")
    for part in WEIGHTED_PARTS:
        _read_json(folder / part / "config.json")
    for file in _weight_files(folder):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file}: is truncated or damaged ({error}); fetch it again") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{file}: is missing") from error
    except ValueError as error:
        raise ValueError(f"{file}: is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file}: expected a JSON object")
    return value


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's parts, half-precision copies left out where full ones are there."""
    found: list[Path] = []
    for part in WEIGHTED_PARTS:
        every = sorted((folder / part).glob("*.safetensors"))
        plain = [file for file in every if ".fp16" not in file.name]
        if not every:
            pickled = any((folder / part).glob("*.bin"))
            hint = "its pickled .bin weights are never read; convert them" if pickled else "expected it"
            raise ValueError(f"{folder / part}: has no .safetensors file; {hint}")
        found += plain or every
    return found


def _only_fp16(folder: Path) -> bool:
    return all(".fp16" in file.name for file in _weight_files(folder))


def _fetch(name: str) -> Path:
    from diffusers import StableDiffusionPipeline
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        folder = Path(StableDiffusionPipeline.download(name, use_safetensors=True))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: there is no such folder, and the hub did not give it: {reason}") from error
    with suppress(EntryNotFoundError, OSError):  # an image model has none; its pipeline warns
        hf_hub_download(name, FILE_NAME)  # lands beside model_index.json
    return folder
