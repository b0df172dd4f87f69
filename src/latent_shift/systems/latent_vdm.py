"""Latent-VDM: temporal convolution and temporal attention in the U-Net of a latent image model.

The baseline that Latent-Shift was compared with (arXiv 2304.08477). No source describes its layers, so both
kinds that prior work adds are here, and each can be left out:

    convolution, after every ResNet block:       x + Conv1d_t(SiLU(GroupNorm(x)))            3 C^2 + C
    attention, after every spatial transformer:  x + W_o MHA(LN(x) + e), over frames         4 C^2

Both have a zero output at the start, so the U-Net begins as the image model's. All of it is trained on clips,
with the loss, image share and conditions of Latent-Shift. Not in here: relative positions, a feed-forward
beside the attention, and a norm over all frames (but in `convolution: modelscope`).

Shapes: B clips, F frames, C channels, h x w latent pixels.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from latent_shift.systems.temporal_layers import FrameConv, Make, TemporalAttention, attention_sites
from latent_shift.systems.temporal_unet import (
    LayerSettings,
    TemporalUNet,
    TemporalUNetRecipe,
    TemporalUNetTask,
)


class ThinConvolution(nn.Module):
    """Normalised, activated and convolved over the frames, residual, zero at the start: 3 C^2 + C and a norm.

    groups, eps: of the group norm, which is over each frame by itself, as in a ResNet block.
    """

    def __init__(self, channels: int, groups: int, eps: float, *, causal: bool = False) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=eps)
        self.conv = FrameConv(channels, causal=causal)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor, num_frames: int) -> Tensor:
        """hidden (B*F, C, h, w), and so is the result."""
        out: Tensor = self.conv(functional.silu(self.norm(hidden)), num_frames)
        return hidden + out


class ConvolutionThenAttention(nn.Module):
    """The temporal layers of one block, one after the other; either may be None."""

    def __init__(self, convolution: nn.Module | None, attention: nn.Module | None) -> None:
        super().__init__()
        self.convolution, self.attention = convolution, attention

    def forward(self, hidden: Tensor, num_frames: int) -> Tensor:
        """hidden (B*F, C, h, w), and so is the result."""
        for layer in self.children():
            hidden = layer(hidden, num_frames)
        return hidden


class LatentVDMLayers(LayerSettings):
    """The temporal layers; see the head of this file."""

    convolution: Literal["thin", "modelscope", "none"] = Field(
        "thin", description="modelscope: four convolutions, 12 C^2, with norms over all frames"
    )
    attention: bool = True
    head_width: int = Field(64, ge=1, description="channels of a head; divides those of every level")
    attention_positions: bool = Field(True, description="sinusoids of the frame's number")
    causal: bool = Field(False, description="no frame reads a later one")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.convolution == "none" and not self.attention:
            raise ValueError("convolution none and attention false: this would be no temporal layer at all")
        if self.causal and self.convolution == "modelscope":
            raise ValueError("causal: not with convolution modelscope, which normalises over all frames")
        return self

    def layers(self, unet: nn.Module) -> Make:
        """See `LayerSettings.layers`."""
        attended = attention_sites(unet) if self.attention else set()
        how = {"positions": self.attention_positions, "causal": self.causal}

        def make(path: str, block: Any) -> nn.Module | None:
            convolution = self._convolution(block) if type(block) is ResnetBlock2D else None
            attention = None
            if path in attended:
                attention = TemporalAttention(block.out_channels, self.head_width, **how)
            if convolution is None and attention is None:
                return None
            return ConvolutionThenAttention(convolution, attention)

        return make

    def _convolution(self, block: ResnetBlock2D) -> nn.Module | None:
        channels, norm = block.out_channels, block.norm2
        if self.convolution == "thin":
            return ThinConvolution(channels, norm.num_groups, norm.eps, causal=self.causal)
        if self.convolution == "modelscope":
            return TemporalConvLayer(channels, norm_num_groups=norm.num_groups)
        return None


class LatentVDM(TemporalUNet):
    """A loaded Latent-VDM."""

    name: ClassVar[str] = "latent_vdm"
    Layers = LatentVDMLayers


class LatentVDMRecipe(TemporalUNetRecipe):
    """Text-to-video: an image model with temporal convolution and attention, trained on clips."""

    task: Literal["latent_vdm"]  # type: ignore[assignment]
    temporal: LatentVDMLayers = LatentVDMLayers()


class LatentVDMTask(TemporalUNetTask):
    """The only stage of Latent-VDM; `trainable_modules: [temporal]` keeps the image model as it is."""

    Config = LatentVDMRecipe
    summary = "a text-to-video model: a text-to-image model with temporal convolution and attention"
    system = LatentVDM
