"""Motion modules in a frozen image U-Net, as AnimateDiff has them (arXiv 2307.04725).

After every ResNet block of the down and up path, or the spatial transformer that follows it, and once in the
middle: a group norm over all frames, linear in, one transformer block of two self-attentions over the frames
of each pixel with sinusoidal positions and a GEGLU feed-forward, linear out, residual; about 22 C^2 a site.
These layers are diffusers' own (`TransformerTemporalModel`), with the linear layer out at zero, so the U-Net
begins as the image model's. Only they are trained: images stay the image model's, bit for bit. Not in here:
the paper's domain adapter and its LoRAs of camera motion.

Shapes: B clips, F frames, C channels, h x w latent pixels.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from diffusers import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from pydantic import Field
from torch import Tensor, nn

from latent_shift.systems.temporal_layers import Make
from latent_shift.systems.temporal_unet import (
    TEMPORAL,
    LayerSettings,
    TemporalUNet,
    TemporalUNetRecipe,
    TemporalUNetTask,
)
from latent_shift.training.model_setup import AttentionByLength


class MotionModule(TransformerTemporalModel):
    """diffusers' temporal transformer, the identity at the start.

    inner: its width, a multiple of `heads`. groups: of the group norm. max_frames: positions that it knows.
    """

    def __init__(self, channels: int, inner: int, heads: int, groups: int, max_frames: int) -> None:
        super().__init__(
            num_attention_heads=heads, attention_head_dim=inner // heads, in_channels=channels,
            norm_num_groups=groups, attention_bias=False, activation_fn="geglu", double_self_attention=True,
            positional_embeddings="sinusoidal", num_positional_embeddings=max_frames,
        )  # fmt: skip
        self.max_frames = max_frames
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, hidden: Tensor, num_frames: int) -> Tensor:  # type: ignore[override]
        """hidden (B*F, C, h, w), and so is the result. Raises ValueError for more than `max_frames`."""
        if num_frames > self.max_frames:
            raise ValueError(f"num_frames={num_frames}: this model knows positions of {self.max_frames}")
        out: Tensor = super().forward(hidden, num_frames=num_frames, return_dict=False)[0]
        return out


class MotionModuleLayers(LayerSettings):
    """The motion modules; see the head of this file."""

    heads: int = Field(8, ge=1)
    width: float = Field(1.0, gt=0.0, le=1.0, description="inner width, as a part of a site's channels")
    max_frames: int = Field(32, ge=2, le=1024, description="the longest clip")

    def layers(self, unet: Any) -> Make:
        """See `LayerSettings.layers`."""
        sites, groups = motion_sites(unet), unet.config.norm_num_groups

        def make(path: str, block: Any) -> nn.Module | None:
            if path not in sites:
                return None
            inner = int(block.out_channels * self.width)
            if inner < self.heads or inner % self.heads:
                raise ValueError(f"heads {self.heads}: the width {inner} at {path} is no multiple of it")
            if inner % 2:
                raise ValueError(
                    f"width {self.width}: gives {inner} at {path}; frame positions need an even one"
                )
            return MotionModule(block.out_channels, inner, self.heads, groups, self.max_frames)

        return make


def motion_sites(unet: Any) -> set[str]:
    """Paths of the blocks that motion modules follow."""
    sites = set()
    for path, blocks in (("down_blocks", unet.down_blocks), ("up_blocks", unet.up_blocks)):
        for level, block in enumerate(blocks):
            kind = "attentions" if _has_transformers(block) else "resnets"
            sites |= {f"{path}.{level}.{kind}.{number}" for number in range(len(block.resnets))}
    if unet.mid_block is not None:
        sites.add(f"mid_block.{'attentions' if _has_transformers(unet.mid_block) else 'resnets'}.0")
    return sites


def _has_transformers(block: Any) -> bool:
    """Whether a block has transformers; attention of other kinds, as AttnDownBlock2D's, is part of it."""
    return any(isinstance(one, Transformer2DModel) for one in getattr(block, "attentions", None) or ())


class MotionModules(TemporalUNet):
    """A loaded image model with motion modules."""

    name: ClassVar[str] = "motion_module"
    Layers = MotionModuleLayers
    base_is_trained = False


class MotionModuleRecipe(TemporalUNetRecipe):
    """Text-to-video: motion modules in a frozen image model, trained on clips."""

    task: Literal["motion_module"]  # type: ignore[assignment]
    trainable_modules: tuple[Literal["temporal"]] = (TEMPORAL,)  # type: ignore[assignment]
    image_batch_ratio: float = Field(0.0, ge=0.0, le=0.0, description="none: images skip the modules")
    temporal: MotionModuleLayers = MotionModuleLayers()


class MotionModuleTask(TemporalUNetTask):
    """The only stage of motion modules."""

    Config = MotionModuleRecipe
    summary = "a text-to-video model: a frozen text-to-image model with motion modules (arXiv 2307.04725)"
    system = MotionModules

    def __init__(self, recipe: MotionModuleRecipe) -> None:
        super().__init__(recipe)
        if not torch.cuda.is_available():
            self.unet.set_attn_processor(AttentionByLength())  # as before the modules were there
