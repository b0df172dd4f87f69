"""The configurations of the models that recipes build: dictionaries whose keys the libraries know.

transformers takes any key and diffusers fails late on an unknown one; here it is an error of the recipe.
What an entry means, and its default, stand in the documentation of the class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from pydantic import AfterValidator, Field
from transformers import CLIPTextConfig, VivitConfig

from latent_shift.training.noise_schedule import CENTRE

Configuration = dict[str, Any]


def _known_to(model: type, *without: str, more: str = "") -> Callable[[Configuration], Configuration]:
    known = set(inspect.signature(model).parameters) - {"kwargs", *without}
    known |= {more} - {""}

    def check(configuration: Configuration) -> Configuration:
        unknown = sorted(set(configuration) - known)
        if unknown:
            raise ValueError(
                f"{model.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}"
            )
        return configuration

    return check


_FROM_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")

TextTower = Annotated[
    Configuration,
    AfterValidator(_known_to(CLIPTextConfig, *_FROM_TOKENIZER)),
    Field(description="transformers CLIPTextConfig"),
]
ClipTower = Annotated[
    Configuration, AfterValidator(_known_to(VivitConfig)), Field(description="transformers VivitConfig")
]
Autoencoder = Annotated[
    Configuration, AfterValidator(_known_to(AutoencoderKL)), Field(description="diffusers AutoencoderKL")
]
UNet = Annotated[
    Configuration,
    AfterValidator(_known_to(UNet2DConditionModel)),
    Field(description="diffusers UNet2DConditionModel"),
]
Scheduler = Annotated[
    Configuration,
    AfterValidator(_known_to(DDIMScheduler, more=CENTRE)),
    Field(description=f"diffusers DDIMScheduler; {CENTRE} in place of its betas"),
]
