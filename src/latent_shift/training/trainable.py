"""Which part of a U-Net a recipe trains: all of it, layers by their names, or low-rank layers beside it.

The low-rank layers are peft's. A finished model gets them merged, so that its folder is the stock one; the
layers alone are written beside it, as a LoRA file for the base model.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from latent_shift.training.recipe import Lora

FOLDER = "lora"  # within the finished model's
_MOST_NAMED = 12


def train_layers(unet: UNet2DConditionModel, parts: Sequence[str]) -> None:
    """Train the parameters that have one of `parts` in their names, and no other.

    Raises ValueError for a part that no name has, with what there is.
    """
    names = [name for name, _ in unet.named_parameters()]
    for part in parts:
        if not any(part in name for name in names):
            pieces = dict.fromkeys(
                piece for name in names for piece in name.split(".") if not piece.isdigit()
            )
            known = ", ".join(list(pieces)[:_MOST_NAMED])
            raise ValueError(
                f"layers: no parameter of the U-Net has {part!r} in its name; there are {known} ..."
            )
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(any(part in name for part in parts))


def add_lora(unet: UNet2DConditionModel, settings: Lora) -> None:
    """Put low-rank layers beside the named modules, and train them alone.

    Raises ValueError where no module has one of the names.
    """
    names = [name for name, _ in unet.named_modules()]
    for ending in settings.modules:
        if not any(f".{name}".endswith(f".{ending}") for name in names):
            raise ValueError(f"lora.modules: no module of the U-Net is called {ending!r}")
    unet.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules=list(settings.modules),
            init_lora_weights="gaussian",
        )
    )  # fmt: skip


def has_lora(unet: UNet2DConditionModel) -> bool:
    """Whether low-rank layers stand beside the U-Net's own."""
    return bool(getattr(unet, "peft_config", None))


def merged(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy of the U-Net with its low-rank layers added to its own weights."""
    copy = deepcopy(unet)
    copy.fuse_lora()
    copy.unload_lora()
    return copy


def write_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the low-rank layers alone, as stock tools and `generate --lora` read them."""
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=_lora_config(unet).to_dict(),  # rank and alpha
        safe_serialization=True,
    )


def _lora_config(unet: UNet2DConditionModel) -> LoraConfig:
    (config,) = unet.peft_config.values()
    return config
