"""LoRA files of the base model: read, checked key by key, and attached beside a pipeline's own layers.

diffusers converts the layouts of kohya's trainer, of diffusers and of peft, and peft runs the layers. Both
drop keys that fit nothing in the model, with no error; so every key is traced here first.
The temporal shift is not touched: its blocks call the LoRA layers as they call their own convolutions.

    wanted = check_loras(["style.safetensors:0.8", "line-art.safetensors"])   # needs no torch
    attach_loras(pipeline, wanted)
    lora_facts(wanted)    # names, hashes and weights, kept in every clip made
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_shift.checkpoints.files import file_hash, read_header

if TYPE_CHECKING:
    from torch import Tensor, nn

    from latent_shift.pipeline import LatentShiftPipeline, LatentShiftXLPipeline

    AnyPipeline = LatentShiftPipeline | LatentShiftXLPipeline

Place = tuple[str, str]  # a part of the pipeline, and the path of a layer in it

_NAMED = 8  # keys that an error lists; it counts the rest
_KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")


@dataclass(frozen=True)
class Lora:
    """A LoRA file and how much of it is added: 0 nothing, 1 as it was trained."""

    file: Path
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Lora:
        """A LoRA from "FILE" or "FILE:WEIGHT". Raises ValueError for a weight that is not finite."""
        name, colon, weight = text.rpartition(":")
        if not colon or not name or Path(text).is_file():
            return cls(Path(text))
        try:
            value = float(weight)
        except ValueError:
            return cls(Path(text))  # the colon belongs to the file's name
        if not math.isfinite(value):
            raise ValueError(f"{text}: the weight {weight} must be a finite number, as in {name}:0.8")
        return cls(Path(name), value)


def check_loras(loras: Iterable[str | Lora]) -> list[Lora]:
    """The LoRA files, all there, whole and holding LoRA layers. Raises ValueError naming one that is not."""
    wanted = [lora if isinstance(lora, Lora) else Lora.parse(lora) for lora in loras]
    for lora in wanted:
        if lora.file.is_file() and lora.file.suffix != ".safetensors":
            raise ValueError(
                f"{lora.file}: a LoRA file must end in .safetensors; pickled ones are never read"
            )
        keys = list(read_header(lora.file).shapes)
        if not any("lora" in key for key in keys):
            some = f"its keys begin with {keys[0]}" if keys else "it has no keys at all"
            raise ValueError(f"{lora.file}: holds no LoRA layers: {some}")
    return wanted


def lora_facts(loras: Iterable[Lora]) -> list[dict[str, Any]]:
    """Name, hash and weight of each file, for the settings of a clip."""
    return [{"file": lora.file.name, "sha256": file_hash(lora.file), "weight": lora.weight} for lora in loras]


def attach_loras(pipeline: AnyPipeline, loras: Sequence[Lora]) -> None:
    """Attach checked LoRA files to a pipeline's U-Net and text models, each with its weight.

    Raises ValueError for keys that fit nothing in this model, listing them, and loads none of the files then.
    """
    from safetensors.torch import load_file

    read = [(lora, load_file(lora.file)) for lora in loras]
    places = [_places(pipeline, lora.file, tensors) for lora, tensors in read]
    for (lora, tensors), found in zip(read, places, strict=True):
        _check_keys(lora.file, tensors, found)
    names = [f"lora_{number}" for number in range(len(loras))]
    for name, (lora, tensors), found in zip(names, read, places, strict=True):
        # By the folder and the name, for then the file's own metadata (ranks, alphas) is read as well.
        pipeline.load_lora_weights(
            str(lora.file.parent), weight_name=lora.file.name, adapter_name=name, local_files_only=True
        )
        _set_alphas(pipeline, name, tensors, found)
    if names:
        pipeline.set_adapters(names, adapter_weights=[lora.weight for lora in loras])


def _check_keys(file: Path, tensors: dict[str, Tensor], places: dict[str, Place]) -> None:
    layers = {_layer(key) for key in places}
    alphas = {key for key in tensors if key.startswith(_KOHYA) and key == f"{_layer(key)}.alpha"}
    lost = [k for k in tensors if k not in places and not (k in alphas and _layer(k) in layers)]
    if lost:
        named = ", ".join(lost[:_NAMED]) + (f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else "")
        raise ValueError(
            f"{file}: {len(lost)} of its {len(tensors)} keys fit nothing in this model: {named}; "
            "is it a LoRA of another base model, or of a kind that diffusers does not read?"
        )


def _set_alphas(
    pipeline: AnyPipeline, name: str, tensors: dict[str, Tensor], places: dict[str, Place]
) -> None:
    """Give the layers of a file in kohya's layout their own alphas (without one: their rank).

    diffusers 0.42 mixes up those of a text model as soon as they differ from layer to layer.
    """
    for key, (part, path) in places.items():
        if key.endswith(".lora_down.weight") and key.startswith(_KOHYA):
            alpha = tensors.get(f"{_layer(key)}.alpha")
            rank = float(len(tensors[key]))
            layer = getattr(pipeline, part).get_submodule(path)
            layer.lora_alpha[name] = rank if alpha is None else float(alpha)


def _places(pipeline: AnyPipeline, file: Path, tensors: dict[str, Tensor]) -> dict[str, Place]:
    """Where the tensors find a layer of their shape, under the names that diffusers gives them, by key."""
    parts = {name: getattr(pipeline, name) for name in pipeline._lora_loadable_modules}
    # As its load_lora_weights does: SDXL alone has LoRA files that count the blocks of the U-Net otherwise.
    options = {"unet_config": pipeline.unet.config} if "text_encoder_2" in parts else {}
    known = _without_halves(tensors)
    try:
        converted = pipeline.lora_state_dict(dict(known), **options)[0]
        landed = {
            id(tensor): (name, path)
            for name, part in parts.items()
            for path, tensor in _landed(name, part, converted)
        }
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{file}: its keys cannot be read: {' '.join(str(error).split())}") from error
    return {key: landed[id(tensor)] for key, tensor in known.items() if id(tensor) in landed}


def _without_halves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """In kohya's layout, the keys that make whole pairs, and their alphas; in another layout, all keys."""
    if not all(key.startswith(_KOHYA) for key in tensors):
        return tensors
    ends = ("lora_down.weight", "lora_up.weight")
    whole = {_layer(key) for key in tensors if all(f"{_layer(key)}.{end}" in tensors for end in ends)}
    return {
        key: tensor
        for key, tensor in tensors.items()
        if _layer(key) in whole and key.removeprefix(_layer(key))[1:] in (*ends, "alpha")
    }


def _layer(key: str) -> str:
    """The layer that a key of kohya's layout belongs to."""
    return key.partition(".")[0]


def _landed(part: str, model: nn.Module, converted: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one part of the pipeline that find a layer of their shape in it, with its path."""
    from diffusers.utils.state_dict_utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    own = {
        key.removeprefix(f"{part}."): tensor
        for key, tensor in converted.items()
        if key.startswith(f"{part}.")
    }
    if part == "unet":
        named = own if "lora_A" in next(iter(own), "") else convert_unet_state_dict_to_peft(own)
    elif own:
        named = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
        if not hasattr(model, "text_model"):  # newer releases of transformers have no such level
            named = {key.removeprefix("text_model."): tensor for key, tensor in named.items()}
    else:
        named = {}
    layers = dict(model.named_modules())
    for key, tensor in named.items():
        path, _, side = key.partition(".lora_")
        if _fits(side, tensor, getattr(layers.get(path), "weight", None)):
            yield path, tensor


def _fits(side: str, tensor: Tensor, weight: Tensor | None) -> bool:
    """Whether a tensor can be that side of the LoRA of a layer with this weight, (out, in, ...)."""
    if weight is None or weight.ndim not in (2, 4):
        return False
    if side == "A.weight":  # (rank, in, ...)
        return tensor.shape[1:] == weight.shape[1:]
    if side == "B.weight":  # (out, rank, 1 ...)
        return tensor.ndim == weight.ndim and len(tensor) == len(weight)
    return side == "B.bias" and len(tensor) == len(weight)
