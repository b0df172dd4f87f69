"""Clips of any length: a U-Net's pass over a clip in blocks of frames, equal to the pass over all of it.

    prediction = predict_in_blocks(unet, sample, timestep, text, num_frames=4096, block=16)

The shift is local in time: a ResNet block needs its neighbours' features a few frames beyond the block, and
nothing else in the network looks across frames. So a delay line stands at each shift. A block of frames goes
in at the top; at a shift with stride s the frames that come out are those of s frames earlier, for which the
features of s frames on both sides are known, and the last 2s frames wait for the next block. At the bottom
the frames are late by the sum of the strides. Skip connections, text and time embeddings wait in delay lines
as well, until the frames that they belong to arrive. Each frame passes each layer once: time by frame and
memory are constant, whatever the length. Under circular padding the clip is taken as periodic, and as many
frames as the strides add up to are computed again at both ends.

Shapes: B clips, F frames each, clip after clip; C channels, h x w latent pixels, L tokens of width D.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.dual_transformer_2d import DualTransformer2DModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from latent_shift.shift import ShiftOptions, check_count
from latent_shift.unet import (
    PartOfClip,
    ShiftedResnetBlock2D,
    mixes_frames,
    override_num_frames,
    override_part_of_clip,
    shift_options,
)

# Bytes that a pass takes at its peak for one frame, over those of one tensor of the first level's channels:
# 22 to 25 were measured with the built-in model, in float32 on a CPU.
_TENSORS_AT_PEAK = 32

FrameTexts = Callable[[list[int]], Tensor]
Depth = tuple[int, int]  # frames of the future, and of the past, that a layer's input has looked at


def block_size(
    unet: Any,
    latent_size: tuple[int, int],
    num_frames: int,
    native: int,
    halves: int,
    device: torch.device | None = None,
) -> int | None:
    """Frames of a clip that should pass a U-Net together: None for all of them.

    Blocks of `native` frames where the clip is more than twice as long, and of fewer where half of the free
    memory holds no more: longer blocks take more memory and hardly less time. None where frames meet in other
    layers than the shift.

    unet: its channels and precision matter. latent_size: height and width in latent pixels. num_frames: of
    the clip. halves: rows of a frame in the batch, 2 under guidance. device: where the pass will run; None:
    where the U-Net is, which under offloading is another place.
    """
    unet = getattr(unet, "_orig_mod", unet)
    if num_frames == 1 or mixes_frames(unet) is not None:
        return None
    channels, itemsize = unet.config.block_out_channels[0], unet.dtype.itemsize
    frame = halves * latent_size[0] * latent_size[1] * channels * itemsize * _TENSORS_AT_PEAK
    fitting = max(1, _free_memory(device or unet.device) // 2 // frame)
    return None if num_frames <= min(2 * native, fitting) else min(native, fitting)


def _free_memory(device: torch.device) -> int:
    """Bytes that a pass may still take."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return psutil.virtual_memory().available


def predict_in_blocks(
    unet: nn.Module,
    sample: Tensor,
    timestep: Tensor | float,
    text: Tensor | FrameTexts,
    *,
    num_frames: int,
    block: int,
    by_clip: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Tensor:
    """The prediction (B*F, C, h, w) of a `UNet2DConditionModel`, with or without the shift.

    Without gradients. Equal to a call of the U-Net with all frames, except for rounding: kernels may depend
    on the batch.

    Args:
        unet: a compiled one is called as it was before, as the sizes of batches differ.
        sample: (B*F, C, h, w).
        timestep: one for all.
        text: (B*F, L, D), or a function from the numbers of frames to their text (B*len, L, D), clip after
            clip, so that all of it is never in memory.
        num_frames: F.
        block: frames of a clip that enter together, at least 1.
        by_clip: keywords of the U-Net's call with tensors, or mappings or lists of them, of one row a clip.
        kwargs: its other keywords.

    Raises:
        ValueError: for a batch of broken clips, and a U-Net of blocks that have no delay lines here.
    """
    check_count("num_frames", num_frames)
    check_count("block", block)
    if len(sample) % num_frames:
        raise ValueError(f"a batch of {len(sample)} is no whole number of clips of {num_frames} frames")
    unet, clips = getattr(unet, "_orig_mod", unet), sample.unflatten(0, (-1, num_frames))
    stream = _FrameStream(unet, len(clips), num_frames)
    prediction: Tensor | None = None
    with stream.attached(), torch.no_grad():
        for start in stream.starts(block):
            frames = stream.enter(start, block)
            rows = [frame % num_frames for frame in frames]
            given = (
                text(rows) if callable(text) else text.unflatten(0, (-1, num_frames))[:, rows].flatten(0, 1)
            )
            out = unet(
                clips[:, rows].flatten(0, 1), timestep, encoder_hidden_states=given,
                return_dict=False, **_repeated(by_clip or {}, len(rows)), **kwargs,
            )[0]  # fmt: skip
            low, high = stream.leave()
            if prediction is None:
                prediction = out.new_empty(len(clips), num_frames, *out.shape[1:])
            if high > low:
                prediction[:, low:high] = out.unflatten(0, (len(clips), -1))
    assert prediction is not None
    return prediction.flatten(0, 1)


class _DelayLine:
    """Frames `start` and following of a tensor (B, frames, ...) that wait to be read."""

    def __init__(self) -> None:
        self.waiting: Tensor | None = None
        self.start = 0

    def append(self, frames: Tensor, low: int, high: int) -> None:
        """Append (B, rows, ...), the frames low..high - 1; where they are none, the row is a filler."""
        if self.waiting is None or self.waiting.shape[1] == 0:
            self.waiting, self.start = frames[:, : high - low], low
        elif high > low:
            self.waiting = torch.cat([self.waiting, frames], dim=1)

    def read(self, low: int, high: int) -> Tensor:
        """The frames low..high - 1, (B, high - low, ...)."""
        assert self.waiting is not None
        assert low == high or (self.start <= low and high <= self.start + self.waiting.shape[1])
        return self.waiting[:, max(low - self.start, 0) : high - self.start]

    def read_or_fill(self, low: int, high: int) -> Tensor:
        """As `read`, but a frame of zeros where there are none: no layer gets an empty batch."""
        if high > low:
            return self.read(low, high)
        assert self.waiting is not None
        return self.waiting.new_zeros(self.waiting.shape[0], 1, *self.waiting.shape[2:])

    def drop(self, before: int) -> None:
        """Forget the frames before this one."""
        if self.waiting is not None and before > self.start:
            self.waiting = self.waiting[:, before - self.start :].clone()  # a view would keep all of it
            self.start = before


class _FrameStream(PartOfClip):
    """The delay lines of one pass of a U-Net over clips, and the depth at which the pass stands."""

    def __init__(self, unet: Any, clips: int, num_frames: int) -> None:
        _check_layers(unet)
        self.unet, self.clips, self.num_frames = unet, clips, num_frames
        self.options = shift_options(unet)
        self.sites = [one for one in unet.modules() if isinstance(one, ShiftedResnetBlock2D)]
        self.total: Depth = (0, 0)
        for site in self.sites:
            self.total = self._after(self.total, site)
        self.periodic = self.options is not None and self.options.padding == "circular"
        self.lines: dict[Any, _DelayLine] = {}

    def starts(self, block: int) -> range:
        """The first frame of each block that enters; the last ones only push those before them out."""
        (future, past), last = self.total, self.num_frames + self.total[0]
        return range(-past, last + future, block) if self.periodic else range(0, last, block)

    def enter(self, start: int, block: int) -> list[int]:
        """Begin a block; returns the frames that enter: at least one, as a filler."""
        self.start, self.end = start, start + block
        self.depth: Depth = (0, 0)
        self.passed: list[Depth] = []
        self.produced: list[Depth] = [(0, 0)]  # of skip connections; the first follows the input convolution
        self.received: set[str] = set()
        low, high = self._interval(self.depth)
        return list(range(low, high)) if high > low else [self.num_frames - 1]

    def leave(self) -> tuple[int, int]:
        """The frames, from and to before, that have left the network with this block."""
        if self.depth != self.total or self.produced:
            raise ValueError("this U-Net's blocks do not follow each other as they stand: no pass in blocks")
        return self._interval(self.depth)

    def shift(
        self, skip: Tensor, hidden: Tensor, options: ShiftOptions, stride: int
    ) -> tuple[Tensor, Tensor]:
        """Skip and shifted `hidden` (B*rows, C, h, w each) of the frames that the delay line lets out."""
        here, low, high = len(self.passed), *self._interval(self.depth)
        skips, features = self._line("skip", here), self._line("hidden", here)
        skips.append(self._clips(skip), low, high)
        features.append(self._clips(hidden), low, high)
        self.depth = self._deeper(self.depth, options, stride)
        self.passed.append(self.depth)
        low, high = self._interval(self.depth)
        left = skips.read_or_fill(low, high)
        shifted = self._shifted(features, low, high, options, stride)
        skips.drop(high)
        features.drop(high - stride)
        return left.flatten(0, 1), shifted.flatten(0, 1)

    def time_embedding(self, embedding: Tensor) -> Tensor:
        """Of the frames at this depth, (B*rows, T)."""
        return self._follow("time", embedding)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within the `with` block the U-Net's calls go through the delay lines."""
        thread = threading.get_ident()

        def here(hook: Callable[..., Any]) -> Callable[..., Any]:
            """The hook for calls in this thread: another one's go through lines of its own, or none."""
            return lambda *args: hook(*args) if threading.get_ident() == thread else None

        hooks = [block.register_forward_hook(here(self._note_skips)) for block in self.unet.down_blocks]
        hooks += [
            block.register_forward_pre_hook(here(self._delay_skips), with_kwargs=True)
            for block in self.unet.up_blocks
        ]
        hooks += [
            module.register_forward_pre_hook(here(self._delay_text), with_kwargs=True)
            for module in self.unet.modules()
            if isinstance(module, Transformer2DModel)
        ]
        try:
            if self.options is None:
                yield
            else:
                with override_num_frames(self.unet, self.num_frames), override_part_of_clip(self.unet, self):
                    yield
        finally:
            for hook in hooks:
                hook.remove()

    def _note_skips(self, block: Any, inputs: Any, outputs: tuple[Tensor, tuple[Tensor, ...]]) -> None:
        """Note the depths of the skip connections that a block has produced, one after each ResNet block."""
        own = [site for site in block.modules() if isinstance(site, ShiftedResnetBlock2D)]
        depths = iter(self.passed[len(self.passed) - len(own) :])
        states = len(outputs[1])
        for resnet in block.resnets:
            self.produced.append(next(depths) if isinstance(resnet, ShiftedResnetBlock2D) else self.depth)
        self.produced += [self.depth] * (states - len(block.resnets))  # after resizing

    def _delay_skips(self, block: Any, inputs: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Give each ResNet block of an up block the skip connections of the frames that arrive there."""
        arriving, delayed = self.depth, []
        for resnet, state in zip(block.resnets, reversed(kwargs["res_hidden_states_tuple"]), strict=False):
            line = self._line("state", len(self.produced))
            line.append(self._clips(state), *self._interval(self.produced.pop()))
            low, high = self._interval(arriving)
            delayed.append(line.read_or_fill(low, high).flatten(0, 1))
            line.drop(high)
            arriving = self._after(arriving, resnet)
        return inputs, {**kwargs, "res_hidden_states_tuple": tuple(reversed(delayed))}

    def _delay_text(self, module: Any, inputs: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        text = kwargs.get("encoder_hidden_states")
        if isinstance(text, tuple):  # with the images of IP adapters
            images = [self._follow(f"image {index}", image) for index, image in enumerate(text[1])]
            text = (self._follow("text", text[0]), images)
        elif text is not None:
            text = self._follow("text", text)
        return inputs, {**kwargs, "encoder_hidden_states": text}

    def _follow(self, name: str, rows: Tensor) -> Tensor:
        """Rows (B*frames, ...) of the frames at this depth, of a condition that came in for the block."""
        line = self._line(name)
        if name not in self.received:  # the same rows come to each layer
            self.received.add(name)
            line.append(self._clips(rows), *self._interval((0, 0)))
            line.drop(self.start - self.total[0])
        return line.read_or_fill(*self._interval(self.depth)).flatten(0, 1)

    def _shifted(
        self, features: _DelayLine, low: int, high: int, options: ShiftOptions, stride: int
    ) -> Tensor:
        if high == low:
            return features.read_or_fill(low, high)
        here = features.read(low, high)
        out = here.clone()
        k = here.shape[2] // options.fold
        for band, offset in (
            (slice(0, k), -stride),
            (slice(here.shape[2] - k, None), stride if options.direction == "both" else -stride),
        ):
            first, last = low + offset, high + offset  # what the band reads
            if not self.periodic:
                first, last = (min(max(frame, 0), self.num_frames) for frame in (first, last))
            rows = slice(first - low - offset, last - low - offset)  # those with a neighbour
            out[:, rows, band] = features.read(first, last)[:, :, band]
            if options.padding == "zeros":
                out[:, : rows.start, band], out[:, rows.stop :, band] = 0, 0
        return out

    def _interval(self, depth: Depth) -> tuple[int, int]:
        """The frames of this block at a depth: from and to before; equal where there are none."""
        (future, past), low, high = depth, 0, self.num_frames
        if self.periodic:  # what later layers will look at
            low, high = past - self.total[1], high + self.total[0] - future
        first, last = (min(max(end - future, low), high) for end in (self.start, self.end))
        return first, last

    def _after(self, depth: Depth, resnet: Any) -> Depth:
        if self.options is None or not isinstance(resnet, ShiftedResnetBlock2D):
            return depth
        return self._deeper(depth, self.options, resnet.shift_state.stride(resnet.block_index))

    @staticmethod
    def _deeper(depth: Depth, options: ShiftOptions, stride: int) -> Depth:
        return depth[0] + (stride if options.direction == "both" else 0), depth[1] + stride

    def _clips(self, rows: Tensor) -> Tensor:
        return rows.unflatten(0, (self.clips, -1))

    def _line(self, *key: Any) -> _DelayLine:
        return self.lines.setdefault(key, _DelayLine())


def _check_layers(unet: nn.Module) -> None:
    """Raise ValueError for layers without delay lines: where frames meet, or that read text by themselves."""
    if (mixing := mixes_frames(unet)) is not None:
        raise ValueError(f"frames meet in {mixing}: let all frames of a clip pass together")
    known = {
        id(part) for one in unet.modules() if isinstance(one, Transformer2DModel) for part in one.modules()
    }
    for name, module in unet.named_modules():
        strange = isinstance(module, Attention) and module.is_cross_attention and id(module) not in known
        if strange or isinstance(module, DualTransformer2DModel):
            raise ValueError(
                f"{name}, a {type(module).__name__}, reads text in a way that blocks of frames do not allow:"
                " let all frames of a clip pass together"
            )


def _repeated(value: Any, frames: int) -> Any:
    """One row a frame in place of one a clip, in a tensor, or a mapping or list of them."""
    if isinstance(value, dict):
        return {name: _repeated(each, frames) for name, each in value.items()}
    if isinstance(value, list):
        return [_repeated(each, frames) for each in value]
    return value if value is None else value.repeat_interleave(frames, dim=0)
