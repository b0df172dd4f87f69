"""Whether the files of a network hold all of its weights, by their headers.

A library that loads a part draws the weights that are missing at random, at most with a line in a log, and a
network of whole numbers makes noise. `check_weights` compares a part's files with the parameters of its
network, which is built without memory; `load_whole` loads a network of transformers where files may name the
weights otherwise, and takes the library's word for what was missing.

    check_weights(folder / "unet", "diffusers", "UNet2DConditionModel")
    tower = load_whole(VivitModel, folder / "clip_tower")
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latent_shift.documents import read_json_mapping
from latent_shift.io import one_line, read_safetensors_header, warn, zeros_at_end

_FORMER_BUFFER = "position_ids"  # counts only; earlier releases saved it
_LEAST_TAIL = 4096  # bytes of zeros that no trained weights end in
_STEMS = ("diffusion_pytorch_model", "model")  # of the files that diffusers and transformers open
_FORMER_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def check_weights(part: Path, library: str, kind: str, variant: str | None = None) -> None:
    """Raise ValueError, naming file and weight, where weights are missing, whole numbers or of another shape.

    Warns (UserWarning) of weights that the network has no place for.
    part: folder with `config.json` and safetensors files. library, kind: of its class, as in the index.
    variant: of the files.
    """
    read_json_mapping(part / "config.json")  # without it the libraries build their defaults
    dtypes: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    files = opened_files(part, variant)
    for file in files:
        header = read_safetensors_header(file)
        with file.open("rb") as opened:
            if zeros_at_end(opened) >= _LEAST_TAIL:
                raise ValueError(f"{file}: ends in zeros: it was not fetched to its end; fetch it again")
        dtypes, shapes = dtypes | header.dtypes, shapes | header.shapes
    for listing in part.glob("*.safetensors.index.json"):
        content = read_json_mapping(listing)
        pieces = content.get("weight_map")
        if (
            not isinstance(content.get("metadata"), dict) or not isinstance(pieces, dict)
            or not all(isinstance(name, str) for name in pieces.values())
        ):  # fmt: skip
            raise ValueError(f"{listing}: lacks metadata, or a weight_map of weights to files")
        lost = sorted({part / name for name in pieces.values()} - set(files))
        if lost and part / listing.name.removesuffix(".index.json") not in files:
            raise ValueError(f"{lost[0]}: is missing, one of the pieces that {listing.name} lists")
    expected, buffers = _parameter_shapes(part, library, kind)
    names = {_canonical(key): key for key in dtypes}
    where = files[0] if len(files) == 1 else part
    missing = [key for key in expected if _canonical(key) not in names]
    if missing:
        raise ValueError(
            f"{where}: lacks {len(missing)} of the {len(expected)} weights of a {kind},"
            f" the first {missing[0]}; fetch or save it again"
        )
    for key, shape in expected.items():
        held = shapes[names[_canonical(key)]]
        if [side for side in held if side != 1] != [side for side in shape if side != 1]:
            raise ValueError(
                f"{where}: its {key} is of shape {held}, by {part / 'config.json'} it is {shape}"
            )
    known = {_canonical(key) for key in (*expected, *buffers)}
    if extra := [names[key] for key in names if key not in known and not key.endswith(_FORMER_BUFFER)]:
        warn(
            f"{where}: {len(extra)} of its {len(names)} weights have no place in a {kind} of"
            f" {part / 'config.json'} and are left out, the first {extra[0]}"
        )
    check_floats(where, {names[_canonical(key)]: dtypes[names[_canonical(key)]] for key in expected})


def check_floats(file: Path, dtypes: dict[str, str]) -> None:
    """Raise ValueError for weights, by key, of a type that is no floating-point one."""
    other = [key for key, dtype in dtypes.items() if "F" not in dtype]
    if other:
        kind = dtypes[other[0]]
        what = "whole numbers without their scales, " if kind[0] in "IU" else ""
        raise ValueError(
            f"{file}: {len(other)} of its {len(dtypes)} weights are {kind}, {what}the first {other[0]};"
            " expected floating-point numbers"
        )


def load_whole(network: Any, part: Path, **options: Any) -> Any:
    """Load a network of transformers from a folder that must hold all of its weights.

    network: its class. options: of its `from_pretrained`. Raises ValueError for weights that are missing or
    whole numbers, and for a folder that the library cannot load.
    """
    read_json_mapping(part / "config.json")  # without it the library builds its default, of any size
    for file in opened_files(part, options.get("variant")):
        check_floats(file, read_safetensors_header(file).dtypes)
    try:
        model, found = network.from_pretrained(
            part, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, ImportError) as error:
        shapes = "weights are of other shapes than its config.json says"
        reason = shapes if "ignore_mismatched_sizes" in str(error) else one_line(error)
        raise ValueError(f"{part}: cannot be loaded: {reason}") from error
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"{part}: lacks {len(missing)} of the weights of a {network.__name__}, the first {missing[0]};"
            " fetch or save it again"
        )
    return model


def opened_files(part: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files of a part that a library would open: a whole one, or else all pieces."""
    every = sorted(part.glob("*.safetensors"))
    variants = [f".{variant}"] if variant else ["", ".fp16"]
    whole = [part / f"{stem}{each}.safetensors" for each in variants for stem in _STEMS]
    return next(([file] for file in whole if file in every), every)


def _parameter_shapes(part: Path, library: str, kind: str) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Shapes of the parameters of a part's network, by its config, and the names of all that it stores.

    It is built without memory.

    Raises ValueError where the libraries cannot build it, for whatever reason.
    """
    import diffusers
    import torch
    import transformers

    libraries: dict[str, Any] = {
        "diffusers": diffusers, "transformers": transformers,
        "stable_diffusion": diffusers.pipelines.stable_diffusion,
    }  # fmt: skip
    network = getattr(libraries.get(library), kind, None)
    if network is None:
        raise ValueError(f"{part}: is of the class {library}.{kind}; there is none in {', '.join(libraries)}")
    try:
        with torch.device("meta"):
            if library == "diffusers":
                model = network.from_config(network.load_config(part))
            else:
                model = network(network.config_class.from_pretrained(part))
    except Exception as error:  # their constructors check little, and fail in any way
        raise ValueError(
            f"{part}: cannot be loaded: its config makes no {kind} of {library} ({one_line(error)})"
        ) from error
    return {name: tuple(one.shape) for name, one in model.named_parameters()}, set(model.state_dict())


def _canonical(key: str) -> str:
    """A key as today's libraries name it: old releases named attention and text models otherwise."""
    for former, name in _FORMER_ATTENTION.items():
        key = key.replace(former, name)
    return key.removeprefix("text_model.")
