"""The temporal shift in a diffusers `UNet2DConditionModel`: put in, and taken out again.

No layer is added and no key of the state dict changes: each ResNet block of the U-Net keeps its weights and
gets another forward, by exchanging its class. The autoencoder has blocks of the same class and is never
touched. Not a model of its own: what comes out is the image model, with the stock call and the stock files.

    enable_temporal_shift(unet, num_frames=16)   # called again, it changes the options
    unet(sample, timestep, text)                 # sample (B*F, C, H, W), text (B*F, L, D)
    with override_num_frames(unet, 1): ...       # the image model for a while
    disable_temporal_shift(unet)

Shapes: B videos, F frames, C channels, H x W latent pixels, L tokens of width D; the frames of one clip are
adjacent in the batch. A batch stacked for guidance, (2*B*F, C, H, W), holds whole clips as well.
Source: Latent-Shift (arXiv 2304.08477).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from types import MethodType
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from latent_shift.shift import PAPER, ShiftOptions, check_count, shifted_add, temporal_shift

_NO_SHIFT = "this U-Net has no shift: call enable_temporal_shift(unet, num_frames) first"


class PartOfClip(ABC):
    """Source of neighbouring frames for a batch that holds only a part of each clip."""

    @abstractmethod
    def shift(
        self, skip: Tensor, hidden: Tensor, options: ShiftOptions, stride: int
    ) -> tuple[Tensor, Tensor]:
        """The skip and the shifted features of a block, (B*rows, C, H, W) each.

        skip, hidden: of the frames that have come to the block, all its clips' in equal numbers; those that
        go on may be others. options, stride: of the shift at this block.
        """

    @abstractmethod
    def time_embedding(self, embedding: Tensor) -> Tensor:
        """Time embeddings (B*rows, T) of the frames that are at this block. embedding: of the batch."""


class ShiftState:
    """Shift state of all blocks of one U-Net: changed once, it changes for all; a deep copy has its own.

    num_frames: in every thread without an override; `override` has a `num_frames` in each thread that has,
    `options`, and a `part`, where a batch holds no whole clips.
    """

    def __init__(self, num_frames: int, options: ShiftOptions) -> None:
        self.num_frames = num_frames
        self.options = options
        self.override = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: overrides end with the call that they are for."""
        return {"num_frames": self.num_frames, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def current_frames(self) -> int:
        """Frames of a clip in the calling thread."""
        override = getattr(
            self.override, "num_frames", None
        )  # not a contextvar: torch.compile has to trace it
        return self.num_frames if override is None else override

    def current_part(self) -> PartOfClip | None:
        """The source of neighbours for batches of the calling thread; None: they hold whole clips."""
        return getattr(self.override, "part", None)

    def current_options(self) -> ShiftOptions:
        """Options of the shift in the calling thread."""
        override: ShiftOptions | None = getattr(self.override, "options", None)
        return self.options if override is None else override

    def stride(self, block_index: int) -> int:
        """Frames to the neighbours of a block, by its number among those of its U-Net."""
        return self.options.strides[block_index % len(self.options.strides)]


class ShiftedResnetBlock2D(ResnetBlock2D):
    """A diffusers ResNet block that shifts over frames; `enable_temporal_shift` makes it, no constructor."""

    shift_state: ShiftState
    block_index: int  # the block's number among those of its U-Net

    def forward(self, input_tensor: Tensor, temb: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """input_tensor (B*F, C, H, W), temb (B*F, T). A bypassed single frame takes the stock forward."""
        num_frames, options = self.shift_state.current_frames(), self.shift_state.current_options()
        if num_frames == 1 and options.single_frame == "bypass":
            return super().forward(input_tensor, temb, *args, **kwargs)
        stride, part = self.shift_state.stride(self.block_index), self.shift_state.current_part()
        skip, hidden = self._enter(input_tensor)
        if options.place == "input":
            if part is None:
                hidden = temporal_shift(hidden, num_frames, options, stride=stride)
            else:
                skip, hidden = part.shift(skip, hidden, options, stride)
        branch = self._convolve(hidden, temb if part is None else part.time_embedding(temb))
        if self.conv_shortcut is not None:
            skip = self.conv_shortcut(skip.contiguous() if self.training else skip)
        if options.place == "input":
            total = skip + branch
        elif part is None:
            total = shifted_add(skip, branch, num_frames, options, stride=stride)
        else:
            skip, shifted = part.shift(skip, branch, options, stride)
            total = skip + shifted
        return total if self.output_scale_factor == 1 else total / self.output_scale_factor

    def _enter(self, input_tensor: Tensor) -> tuple[Tensor, Tensor]:
        """The skip, and the normalised input of the first convolution; resized where the block resizes."""
        hidden = self.nonlinearity(self.norm1(input_tensor))
        if self.upsample is not None:
            if hidden.shape[0] >= 64:  # as in the stock block: large channels-last batches fail to upsample
                input_tensor, hidden = input_tensor.contiguous(), hidden.contiguous()
            return self.upsample(input_tensor), self.upsample(hidden)
        if self.downsample is not None:
            return self.downsample(input_tensor), self.downsample(hidden)
        return input_tensor, hidden

    def _convolve(self, hidden: Tensor, temb: Tensor | None) -> Tensor:
        """Both convolutions; between them the time embedding, added or as scale and offset of the norm."""
        hidden = self.conv1(hidden)
        if self.time_emb_proj is not None and temb is not None:
            temb = temb if self.skip_time_act else self.nonlinearity(temb)
            temb = self.time_emb_proj(temb)[:, :, None, None]
        if temb is not None and self.time_embedding_norm == "scale_shift":
            scale, offset = torch.chunk(temb, 2, dim=1)
            hidden = self.norm2(hidden) * (1 + scale) + offset
        else:
            hidden = self.norm2(hidden if temb is None else hidden + temb)
        return self.conv2(self.dropout(self.nonlinearity(hidden)))


def enable_temporal_shift(
    unet: UNet2DConditionModel, num_frames: int, options: ShiftOptions = PAPER, **changes: Any
) -> None:
    """Let every ResNet block of `unet` shift over clips of `num_frames` frames, in place.

    Called again, it changes frames and options. Adds no parameter, buffer, config entry or state-dict key.
    changes: fields of `options` that differ, such as place="input". Under gradient checkpointing the blocks
    run again in the backward pass, so `num_frames` must not change between a forward pass and its backward
    pass. Hooks of accelerate and diffusers on the blocks (offloading, device maps, layerwise casting) stay.
    Raises ValueError for an unknown value of an option, num_frames < 1, a model that is no
    `UNet2DConditionModel` or has no stock ResNet block, and blocks with a forward of another kind.
    """
    check_count("num_frames", num_frames)
    state, blocks = ShiftState(num_frames, replace(options, **changes)), _resnet_blocks(unet)
    if not blocks:
        raise ValueError("this UNet2DConditionModel has no ResnetBlock2D that could shift")
    for block in blocks:
        if "forward" in vars(block) and not _stock_forwards(block):
            raise ValueError(
                "a ResnetBlock2D of this U-Net has a forward of its own that would not shift: remove it first"
            )
    for index, block in enumerate(blocks):
        block.shift_state, block.block_index = state, index
        _exchange_class(block, ShiftedResnetBlock2D)


def disable_temporal_shift(unet: UNet2DConditionModel) -> None:
    """Give every ResNet block its stock class back, in place; nothing of the shift stays behind."""
    for block in _shifted_blocks(unet):
        _exchange_class(block, ResnetBlock2D)
        del block.shift_state, block.block_index


def mixes_frames(unet: Any) -> str | None:
    """The name of a layer beside the shift in which frames meet, or None."""
    processors = unet.attn_processors if hasattr(unet, "attn_processors") else {}
    mixing = [name for name, one in processors.items() if getattr(one, "mixes_frames", False)]
    mixing += [name for name, module in unet.named_modules() if name.endswith(".temporal")]
    return mixing[0] if mixing else None


def set_num_frames(unet: UNet2DConditionModel, num_frames: int) -> None:
    """Change the frames a clip, keeping the options. Raises ValueError where no shift is enabled."""
    check_count("num_frames", num_frames)
    state = _shift_state(unet)
    if state is None:
        raise ValueError(_NO_SHIFT)
    state.num_frames = num_frames


@contextmanager
def override_num_frames(unet: UNet2DConditionModel, num_frames: int) -> Iterator[None]:
    """Within the `with` block the U-Net shifts over `num_frames` frames in the calling thread.

    Other threads with the same U-Net are not affected, and blocks nest. A backward pass under gradient
    checkpointing has to end within the block; on a GPU it runs in threads of its own, and `set_num_frames`
    serves instead. Raises ValueError where no shift is enabled, and for that case.
    """
    check_count("num_frames", num_frames)
    state, model = _shift_state(unet), getattr(unet, "_orig_mod", unet)
    if state is None:
        raise ValueError(_NO_SHIFT)
    if torch.is_grad_enabled() and model.is_gradient_checkpointing and model.device.type != "cpu":
        raise ValueError(
            "override_num_frames under gradient checkpointing on a GPU: call set_num_frames instead"
        )
    before = getattr(state.override, "num_frames", None)
    state.override.num_frames = num_frames
    try:
        yield
    finally:
        state.override.num_frames = before


@contextmanager
def override_padding(unet: UNet2DConditionModel, padding: str) -> Iterator[None]:
    """Within the `with` block the U-Net's shift pads in another way in the calling thread.

    Raises ValueError where no shift is enabled, and for an unknown padding.
    """
    state = _shift_state(unet)
    if state is None:
        raise ValueError(_NO_SHIFT)
    before = getattr(state.override, "options", None)
    state.override.options = _padded(state.current_options(), padding)
    try:
        yield
    finally:
        state.override.options = before


@cache
def _padded(options: ShiftOptions, padding: str) -> ShiftOptions:
    """Options with another padding: the same object each time, for which `torch.compile` compiles once."""
    return replace(options, padding=padding)


@contextmanager
def override_part_of_clip(unet: UNet2DConditionModel, part: PartOfClip) -> Iterator[None]:
    """Within the `with` block, in the calling thread, batches hold a part of each clip, completed by `part`.

    Raises ValueError where no shift is enabled.
    """
    state = _shift_state(unet)
    if state is None:
        raise ValueError(_NO_SHIFT)
    before = state.current_part()
    state.override.part = part
    try:
        yield
    finally:
        state.override.part = before


def shift_options(unet: UNet2DConditionModel) -> ShiftOptions | None:
    """The options of the enabled shift in the calling thread, or None where there is none."""
    state = _shift_state(unet)
    return None if state is None else state.current_options()


def _shift_state(unet: UNet2DConditionModel) -> ShiftState | None:
    blocks = _shifted_blocks(unet)
    return blocks[0].shift_state if blocks else None


def _shifted_blocks(unet: Any) -> list[Any]:
    return [block for block in _resnet_blocks(unet) if isinstance(block, ShiftedResnetBlock2D)]


def _resnet_blocks(unet: Any) -> list[Any]:
    """Every ResNet block of the U-Net, stock or shifted; a compiled U-Net is looked into."""
    model: torch.nn.Module = getattr(unet, "_orig_mod", unet)
    if not issubclass(type(model), UNet2DConditionModel):
        raise ValueError(f"the shift goes into a UNet2DConditionModel, not into a {type(model).__name__}")
    return [module for module in model.modules() if type(module) in (ResnetBlock2D, ShiftedResnetBlock2D)]


def _exchange_class(block: Any, to: type[ResnetBlock2D]) -> None:
    """Exchange a block's class, and its forward wherever hooks keep it."""
    kept = _stock_forwards(block)
    block.__class__ = to
    for holder, name in kept:
        holder[name] = MethodType(to.forward, block)


def _stock_forwards(block: Any) -> list[tuple[dict[str, Any], str]]:
    """Attributes that hold the block's forward, stock or shifted: by holder's `vars` and by name.

    Hooks set a forward on the block and call the former one, which accelerate keeps as `_old_forward`, and
    diffusers in the references of its registry.
    """
    registry = getattr(block, "_diffusers_hook", None)
    holders = [vars(block), *(vars(reference) for reference in getattr(registry, "_fn_refs", ()))]
    forwards = (ResnetBlock2D.forward, ShiftedResnetBlock2D.forward)
    return [
        (holder, name)
        for holder in holders
        for name in ("forward", "_old_forward", "original_forward")
        if getattr(holder.get(name), "__func__", None) in forwards
    ]
