"""Model folders in the Stable Diffusion and SDXL layouts: whether all parts are there and whole.

Reads configs and headers, not weights, and needs no torch. A folder is checked part by part, so that what is
missing or damaged is named before any work is done.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from latent_shift.checkpoints.files import read_header

INDEX = "model_index.json"
WEIGHTED_PARTS = ("unet", "vae", "text_encoder")
PARTS = (*WEIGHTED_PARTS, "tokenizer", "scheduler")
XL_WEIGHTED_PARTS = (*WEIGHTED_PARTS, "text_encoder_2")
XL_PARTS = (*XL_WEIGHTED_PARTS, "tokenizer", "tokenizer_2", "scheduler")
LAYOUT = (
    f"a folder in the Stable Diffusion layout ({INDEX}, {', '.join(f'{part}/' for part in PARTS)}) or SDXL's"
)
_OTHER_PARTS = ("transformer", "text_encoder_3", "prior", "controlnet")


def check_folder(folder: Path) -> None:
    """ValueError if `folder` is no model in a known layout, or a file is missing or damaged."""
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder}: is no model: it has no {INDEX}; expected {LAYOUT}")
    index = read_json(folder / INDEX)
    if any(part in index for part in _OTHER_PARTS):
        raise ValueError(
            f"{folder}: is a {index.get('_class_name')}, which has other parts; expected {LAYOUT}"
        )
    for part in XL_PARTS if is_xl(folder) else PARTS:
        if not (folder / part).is_dir() or index.get(part) in (None, [None, None]):
            raise ValueError(f"{folder}: the model's {part} is missing; expected {LAYOUT}")
    for part in _weighted_parts(folder):
        read_json(folder / part / "config.json")
    for file in weight_files(folder):
        read_header(file)


def is_xl(folder: Path) -> bool:
    """Whether a model folder has SDXL's two text encoders."""
    return "text_encoder_2" in read_json(folder / INDEX)


def only_half_precision(folder: Path) -> bool:
    """Whether a model folder holds its weights as `.fp16.safetensors` alone."""
    return all(".fp16" in file.name for file in weight_files(folder))


def folder_hash(folder: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 over a model's weight files, in a fixed order."""
    digest = hashlib.sha256()
    for file in weight_files(folder):
        digest.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model's parts, half-precision copies left out where full ones are there."""
    found: list[Path] = []
    for part in _weighted_parts(folder):
        every = sorted((folder / part).glob("*.safetensors"))
        plain = [file for file in every if ".fp16" not in file.name]
        if not every:
            pickled = any((folder / part).glob("*.bin"))
            hint = "its pickled .bin weights are never read; convert them" if pickled else "expected it"
            raise ValueError(f"{folder / part}: has no .safetensors file; {hint}")
        found += plain or every
    return found


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ValueError naming a file that is missing or holds none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{file}: is missing") from error
    except ValueError as error:
        raise ValueError(f"{file}: is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file}: expected a JSON object")
    return value


def _weighted_parts(folder: Path) -> tuple[str, ...]:
    return XL_WEIGHTED_PARTS if is_xl(folder) else WEIGHTED_PARTS
