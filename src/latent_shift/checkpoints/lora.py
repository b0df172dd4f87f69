"""LoRA files of the base model: read, checked key by key, and attached beside a pipeline's own layers.

diffusers converts the layouts of kohya's trainer, of diffusers and of peft, and peft runs the layers. Both
drop keys that fit nothing in the model, with no error; so every key is traced to its layer here first.
The temporal shift is not touched: its blocks call the LoRA layers as they call their own convolutions.

    loras = check_loras(["style.safetensors:0.8", "line-art.safetensors"])   # needs no torch
    attach_loras(pipeline, loras)
    lora_facts(loras)    # names, hashes and weights, kept in every clip made
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_shift.hashes import short_hash
from latent_shift.io import one_line, read_safetensors_header
from latent_shift.model_weights import check_floats

if TYPE_CHECKING:
    from torch import Tensor, nn

    from latent_shift.pipeline import LatentShiftPipeline, LatentShiftXLPipeline

    AnyPipeline = LatentShiftPipeline | LatentShiftXLPipeline

Layer = tuple[str, str]  # a part of the pipeline, and the path of a module in it

_MAX_LISTED = 8  # keys that an error lists; it counts the rest
_KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")


@dataclass(frozen=True)
class Lora:
    """A LoRA file and how much of it is added: 0 nothing, 1 as it was trained."""

    file: Path
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Lora:
        """A LoRA from "FILE" or "FILE:WEIGHT". Raises ValueError for a weight that is not finite."""
        if not text.strip():
            raise ValueError("the name of a LoRA file is empty; give FILE, or FILE:WEIGHT")
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
    checked = [lora if isinstance(lora, Lora) else Lora.parse(lora) for lora in loras]
    for lora in checked:
        if lora.file.is_file() and lora.file.suffix.lower() != ".safetensors":
            raise ValueError(
                f"{lora.file}: a LoRA file must end in .safetensors; pickled ones are never read"
            )
        if lora.file.is_dir():
            held = ", ".join(sorted(file.name for file in lora.file.glob("*.safetensors"))) or "none"
            raise ValueError(f"{lora.file}: is a folder; name a LoRA file in it (there is {held})")
        header = read_safetensors_header(lora.file)
        keys = list(header.dtypes)
        if not any("lora" in key for key in keys):
            some = f"its keys begin with {keys[0]}" if keys else "it has no keys at all"
            raise ValueError(f"{lora.file}: holds no LoRA layers: {some}")
        check_floats(lora.file, {key: dtype for key, dtype in header.dtypes.items() if "alpha" not in key})
    return checked


def lora_facts(loras: Iterable[Lora]) -> list[dict[str, Any]]:
    """Name, hash and weight of each file, for the settings of a clip."""
    return [
        {"file": lora.file.name, "sha256": short_hash(lora.file), "weight": lora.weight} for lora in loras
    ]


def attach_loras(pipeline: AnyPipeline, loras: Sequence[Lora]) -> None:
    """Attach checked LoRA files to a pipeline's U-Net and text encoders, each with its weight.

    Raises ValueError as `map_keys_to_layers` and for values that are not finite, and loads none then.
    """
    from safetensors.torch import load_file

    read = [(lora, load_file(lora.file)) for lora in loras]
    layers = [map_keys_to_layers(pipeline, lora.file, tensors) for lora, tensors in read]
    for lora, tensors in read:
        for key, tensor in tensors.items():
            if not tensor.float().isfinite().all():  # of 8 bits, too
                raise ValueError(f"{lora.file}: {key} is not finite; the file, or its training, is damaged")
    names = [f"lora_{number}" for number in range(len(loras))]
    for name, (lora, tensors), found in zip(names, read, layers, strict=True):
        # By the folder and the name, for then the file's own metadata (ranks, alphas) is read as well.
        pipeline.load_lora_weights(
            str(lora.file.parent), weight_name=lora.file.name, adapter_name=name, local_files_only=True
        )
        _set_alphas(pipeline, name, tensors, found)
    if names:
        pipeline.set_adapters(names, adapter_weights=[lora.weight for lora in loras])


def map_keys_to_layers(pipeline: AnyPipeline, file: Path, tensors: dict[str, Tensor]) -> dict[str, Layer]:
    """The layer that each tensor of a LoRA file fits, by its key; alphas, which belong to one, are left out.

    diffusers renames the keys, and the tensors are traced through that. Raises ValueError for keys that it
    cannot read, and for keys that fit nothing in this model, listing them.
    """
    parts = {name: getattr(pipeline, name) for name in pipeline._lora_loadable_modules}
    # As its load_lora_weights does: only SDXL has LoRA files that count the blocks of the U-Net otherwise.
    options = {"unet_config": pipeline.unet.config} if "text_encoder_2" in parts else {}
    known = complete_pairs(tensors)
    found: dict[int, Layer] = {}
    halves: dict[Layer, dict[str, Tensor]] = {}
    try:
        converted = pipeline.lora_state_dict(dict(known), **options)[0]
        for part, model in parts.items():
            modules = dict(model.named_modules())
            for key, tensor in _peft_names(part, model, converted).items():
                path, _, side = key.partition(".lora_")
                if _fits(side, tensor, getattr(modules.get(path), "weight", None)):
                    found[id(tensor)] = (part, path)
                    halves.setdefault((part, path), {})[side[0]] = tensor
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{file}: its keys cannot be read: {one_line(error)}") from error
    layers = {key: found[id(tensor)] for key, tensor in known.items() if id(tensor) in found}
    alphas = {f"{_prefix(key)}.alpha" for key in layers if key.startswith(_KOHYA)}
    if lost := [key for key in tensors if key not in layers and key not in alphas]:
        more = f" and {len(lost) - _MAX_LISTED} more" if len(lost) > _MAX_LISTED else ""
        raise ValueError(
            f"{file}: {len(lost)} of its {len(tensors)} keys fit nothing in this model: "
            f"{', '.join(lost[:_MAX_LISTED])}{more}; "
            "is it a LoRA of another base model, or of a kind that diffusers does not read?"
        )
    for (part, path), pair in halves.items():
        if pair.keys() != {"A", "B"}:
            held = "second" if "B" in pair else "first"
            raise ValueError(f"{file}: holds only the {held} half of the layer {part}.{path}")
        first, second = len(pair["A"]), pair["B"].shape[1]
        if first != second or first == 0:
            ranks = f"ranks {first} and {second}; expected one rank, 1 or more"
            raise ValueError(f"{file}: the halves of the layer {part}.{path} are of {ranks}")
    return layers


def complete_pairs(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """In kohya's layout, keys of layers with both halves, and their alphas; in another layout, all keys."""
    if not all(key.startswith(_KOHYA) for key in tensors):
        return tensors
    ends = ("lora_down.weight", "lora_up.weight")
    complete = {_prefix(key) for key in tensors if all(f"{_prefix(key)}.{end}" in tensors for end in ends)}
    return {
        key: tensor
        for key, tensor in tensors.items()
        if _prefix(key) in complete and key.removeprefix(_prefix(key))[1:] in (*ends, "alpha")
    }


def _set_alphas(
    pipeline: AnyPipeline, name: str, tensors: dict[str, Tensor], layers: dict[str, Layer]
) -> None:
    """Give the layers of a file in kohya's layout their own alphas (without one: their rank).

    diffusers 0.42 mixes up those of a text encoder as soon as they differ from layer to layer.
    """
    for key, (part, path) in layers.items():
        if key.endswith(".lora_down.weight") and key.startswith(_KOHYA):
            alpha = tensors.get(f"{_prefix(key)}.alpha")
            rank = float(len(tensors[key]))
            layer = getattr(pipeline, part).get_submodule(path)
            layer.lora_alpha[name] = rank if alpha is None else float(alpha)


def _prefix(key: str) -> str:
    """The layer that a key of kohya's layout belongs to."""
    return key.partition(".")[0]


def _peft_names(part: str, model: nn.Module, converted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of one part of the pipeline under the names of peft, as diffusers renames them."""
    from diffusers.utils.state_dict_utils import (
        convert_state_dict_to_diffusers,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    named = {key.partition(".")[::2]: tensor for key, tensor in converted.items()}
    own = {name: tensor for (owner, name), tensor in named.items() if owner == part}
    if not own:
        return {}
    if part == "unet":
        return own if "lora_A" in next(iter(own)) else convert_unet_state_dict_to_peft(own)
    own = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
    if hasattr(model, "text_model"):
        return own
    return {key.removeprefix("text_model."): tensor for key, tensor in own.items()}


def _fits(side: str, tensor: Tensor, weight: Tensor | None) -> bool:
    """Whether a tensor can be that side of the LoRA of a layer with this weight, (out, in, ...)."""
    if weight is None or weight.ndim not in (2, 4):
        return False
    if side == "A.weight":  # (rank, in, ...)
        return tensor.shape[1:] == weight.shape[1:]
    if side == "B.weight":  # (out, rank, 1 ...)
        return tensor.ndim == weight.ndim and len(tensor) == len(weight)
    return side == "B.bias" and len(tensor) == len(weight)
