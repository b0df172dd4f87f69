"""From a name to the place of a model, a checked folder or file. Alone it may reach the network.

Needs no torch. A place is a path that `loading` makes a pipeline of; what is asked of one here (its settings
for clips, the size of its latent pixels, its hash) is read from small files and headers.
"""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from latent_shift.checkpoints.files import file_hash
from latent_shift.checkpoints.folders import LAYOUT, check_folder, folder_hash, read_json
from latent_shift.checkpoints.single_file import EXPECTED, check_single_file, configs_of, recognise
from latent_shift.video_config import FILE_NAME, VideoConfig, read_video_config

DEFAULT_MODEL = "moving-shapes"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(name: str | Path, *, tokenizer: str | Path | None = None, prediction: str | None = None) -> Path:
    """The checked folder or file behind a model's name; downloads (or finds in the cache) a hub id.

    tokenizer: for a single file, a folder with CLIP's tokenizer, or its vocabulary file. prediction: for a
    single file that does not say so itself, "epsilon" or "v_prediction". A folder has both of its own.
    Raises ValueError for an unknown name, a folder or file that is no model, a missing part, a damaged file
    (named), a tokenizer or prediction that is missing, wrong, or not for this model.
    """
    path = Path(name)
    if path.is_file():
        check_single_file(path, None if tokenizer is None else Path(tokenizer), prediction)
        return path
    for option, value in (("tokenizer", tokenizer), ("prediction", prediction)):
        if value is not None:
            raise ValueError(f"--{option} {value}: is for single files; other models have their own")
    if str(name) == DEFAULT_MODEL:
        folder = Path(str(files("latent_shift"))) / "assets" / DEFAULT_MODEL
        if not folder.is_dir():
            raise ValueError(f"{name}: the built-in model is not installed; make it: make default-model")
    elif str(name) and path.is_dir():
        folder = path
    elif _HUB_ID.fullmatch(str(name)):
        folder = _fetch(str(name))
    else:
        known = f"{DEFAULT_MODEL!r}, {LAYOUT}, a .safetensors file ({EXPECTED}), a hub id (org/name)"
        raise ValueError(f"{str(name)!r}: unknown model; known are {known}")
    check_folder(folder)
    return folder


def video_config(place: Path) -> VideoConfig:
    """What a model is sampled with by default; those of an image model where it was never tuned on clips."""
    file = place / FILE_NAME
    return read_video_config(file) if file.is_file() else VideoConfig()


def pixel_multiple(place: Path) -> int:
    """Height and width of a model's frames are multiples of this: the autoencoder's scale, by its config."""
    folder = configs_of(recognise(place)[0]) if place.is_file() else place
    return 2 ** (len(read_json(folder / "vae" / "config.json").get("block_out_channels", [0])) - 1)


def weights_hash(place: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 over a model's file, or all weight files of a folder."""
    return file_hash(place) if place.is_file() else folder_hash(place)


def _fetch(name: str) -> Path:
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        folder = Path(DiffusionPipeline.download(name, use_safetensors=True))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: there is no such folder, and the hub did not give it: {reason}") from error
    with suppress(EntryNotFoundError, OSError):  # an image model has none; its pipeline warns
        hf_hub_download(name, FILE_NAME)  # lands beside model_index.json
    return folder
