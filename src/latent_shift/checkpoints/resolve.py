"""From a name to the path of a model, a checked folder or file; reaches the network for hub ids only.

Resolving needs no torch. `loading` makes a pipeline of a path; settings for clips, pixels per latent pixel
and the hash are read here, from small files and headers. Headers are read and weights hashed once while a
file stays the same, so a model may be resolved again at no cost.
"""

from __future__ import annotations

import hashlib
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_shift.checkpoints.single_file import (
    EXPECTED,
    check_tokenizer,
    choose_prediction_type,
    detect_layout,
)
from latent_shift.documents import read_json_mapping
from latent_shift.hashes import remembered_sha256
from latent_shift.io import one_line, read_safetensors_header, warn
from latent_shift.model_files import INDEX, check_parts, library_and_class, model_of_run

if TYPE_CHECKING:
    from latent_shift.video_config import VideoConfig

DEFAULT_MODEL = "moving-shapes"
BUILT_IN = {  # and how each is made
    DEFAULT_MODEL: "make default-model",
    "moving-shapes-fast": "make default-model",
    "emoji": "make emoji-model",
}
WEIGHTED_PARTS = ("unet", "vae", "text_encoder")
PARTS = (*WEIGHTED_PARTS, "tokenizer", "scheduler")
XL_PARTS = ("text_encoder_2", "tokenizer_2")
LAYOUT = (
    f"a folder in the Stable Diffusion layout ({INDEX}, {', '.join(f'{part}/' for part in PARTS)}) or SDXL's"
)
_KNOWN_PARTS = (*PARTS, *XL_PARTS, "safety_checker", "feature_extractor", "image_encoder")
_OTHER_PARTS = ("transformer", "text_encoder_3", "prior", "controlnet")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(
    name: str | Path, *, tokenizer: str | Path | None = None, prediction_type: str | None = None
) -> Path:
    """The checked folder or file of a model; downloads (or finds in the cache) a hub id.

    Args:
        name: a built-in model, a folder (of a model, or of the run that made it), a `.safetensors` file or a
            hub id (org/name).
        tokenizer: for a single file, a folder with CLIP's tokenizer, or its vocabulary file.
        prediction_type: for a single file that does not name it, "epsilon" or "v_prediction".

    Raises:
        ValueError: for an unknown name, a folder or file that is no model, a missing part, a damaged file
            (named), and a tokenizer or prediction type that is missing, wrong, or not for this model.
    """
    path = Path(name)
    if path.is_file():
        choose_prediction_type(path, *detect_layout(path), prediction_type)
        check_tokenizer(None if tokenizer is None else Path(tokenizer), path)
        return path
    for option, value in (("tokenizer", tokenizer), ("prediction-type", prediction_type)):
        if value is not None:
            raise ValueError(f"--{option} {value}: is for single files; other models have their own")
    if str(name) in BUILT_IN:
        folder = built_in(str(name))
        if not folder.is_dir():
            raise ValueError(f"{name}: the built-in model is not installed; make it: {BUILT_IN[str(name)]}")
    elif str(name) and path.is_dir():
        folder = model_of_run(path)
    elif _HUB_ID.fullmatch(str(name)):
        folder = _download(str(name))
    else:
        installed = ", ".join(map(repr, installed_models()))
        known = f"{installed}, {LAYOUT}, a .safetensors file ({EXPECTED}), a hub id (org/name)"
        raise ValueError(f"{str(name)!r}: unknown model; known are {known}")
    check_folder(folder)
    return folder


def installed_models() -> list[str]:
    """Names of the built-in models that are there, the default one first."""
    return [name for name in BUILT_IN if built_in(name).is_dir()]


def built_in(name: str) -> Path:
    """The folder of a built-in model, or where it would be."""
    return Path(str(files("latent_shift"))) / "assets" / name


def check_folder(folder: Path) -> None:
    """Raise ValueError where a folder is no model of a known layout, or a part is missing or unfit."""
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder}: is no model: it has no {INDEX}; expected {LAYOUT}")
    index = read_json_mapping(folder / INDEX)
    if not isinstance(index.get("_class_name"), str):
        raise ValueError(
            f"{folder / INDEX}: has no _class_name, as of StableDiffusionPipeline; fetch it again"
        )
    if any(part in index for part in _OTHER_PARTS):
        raise ValueError(
            f"{folder}: is a {index.get('_class_name')}, which has other parts; expected {LAYOUT}"
        )
    for part in (*PARTS, *(XL_PARTS if "text_encoder_2" in index else ())):
        if not (folder / part).is_dir() or index.get(part) in (None, [None, None]):
            raise ValueError(f"{folder}: the model's {part} is missing; expected {LAYOUT}")
    for part, entry in index.items():
        if isinstance(entry, list) and any(entry) and part not in _KNOWN_PARTS:
            warn(
                f"{folder / INDEX}: names the part {part}, which has no place in this layout; it is left out"
            )
        elif isinstance(entry, list) and any(entry) and not (folder / part).is_dir():
            raise ValueError(
                f"{folder / INDEX}: names the part {part}, and there is no such folder; fetch it, or write"
                f' "{part}": [null, null] to go without'
            )
    for file in weight_files(folder):
        read_json_mapping(file.parent / "config.json")
        read_safetensors_header(file)
    check_parts(folder)


def weighted_parts(folder: Path) -> dict[str, tuple[str, str]]:
    """The parts of a model that have weights, and the library and class of each."""
    index = read_json_mapping(folder / INDEX)
    parts = (*WEIGHTED_PARTS, *(("text_encoder_2",) if "text_encoder_2" in index else ()))
    return {part: library_and_class(folder, index, part) for part in parts}


def weight_files(folder: Path) -> list[Path]:
    """Safetensors files of a model's parts, without half-precision copies of files in full precision."""
    found: list[Path] = []
    for part in weighted_parts(folder):
        every = sorted((folder / part).glob("*.safetensors"))
        full = [file for file in every if ".fp16" not in file.name]
        if not every:
            pickled = any((folder / part).glob("*.bin"))
            hint = "its pickled .bin weights are never read; convert them" if pickled else "expected it"
            raise ValueError(f"{folder / part}: has no .safetensors file; {hint}")
        found += full or every
    return found


def video_config(path: Path) -> VideoConfig:
    """Defaults of a model in sampling; those of an image model where it was never tuned on clips."""
    from latent_shift.video_config import FILE_NAME, UNTUNED, UNTUNED_XL, read_video_config  # imports torch

    file = path / FILE_NAME
    if os.path.lexists(file):  # a dangling link is one that is missing
        return read_video_config(file)
    folder = detect_layout(path)[0].config_folder if path.is_file() else path
    return UNTUNED_XL if (folder / "text_encoder_2").is_dir() else UNTUNED


def pixel_multiple(path: Path) -> int:
    """Pixels per latent pixel, by the autoencoder's config; frames have sides that are multiples of it."""
    folder = detect_layout(path)[0].config_folder if path.is_file() else path
    return 2 ** (len(read_json_mapping(folder / "vae" / "config.json").get("block_out_channels", [0])) - 1)


def native_size(path: Path, prediction_type: str | None = None) -> tuple[int, int]:
    """Height and width in pixels that a model makes by default. prediction_type: as in `resolve`."""
    if path.is_file():
        layout, header = detect_layout(path)
        latent: Any = layout.sample_size(choose_prediction_type(path, layout, header, prediction_type))
    else:
        latent = read_json_mapping(path / "unet" / "config.json").get("sample_size")
    config, scale = video_config(path), pixel_multiple(path)
    sides = [latent, latent] if isinstance(latent, int) else latent
    if config.height is not None and config.width is not None:
        return config.height, config.width
    if not isinstance(sides, list | tuple) or [type(side) for side in sides] != [int, int]:
        file = path / "unet" / "config.json"
        raise ValueError(f"{file}: sample_size is {latent}; expected a number of latent pixels, or two")
    height, width = sides
    return config.height or height * scale, config.width or width * scale


def weights_hash(path: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 over a model's file, or all weight files of a folder."""
    if path.is_file():
        return remembered_sha256(path)[:12]
    digest = hashlib.sha256()
    for file in weight_files(path):
        digest.update(file.relative_to(path).as_posix().encode())
        digest.update(bytes.fromhex(remembered_sha256(file)))
    return digest.hexdigest()[:12]


def _download(name: str) -> Path:
    from diffusers import DiffusionPipeline

    from latent_shift.video_config import fetch_video_config

    try:
        folder = Path(DiffusionPipeline.download(name, use_safetensors=True))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name}: there is no such folder, and the hub did not give it: {one_line(error)}"
        ) from error
    fetch_video_config(name)  # lands beside model_index.json; an image model has none, and its pipeline warns
    return folder
