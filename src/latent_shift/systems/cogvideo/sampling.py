"""Tokens of frames, drawn one after the other with a cache of keys and values, all clips of a batch at once.

Guided by a second text: logits = u + scale * (c - u). Each clip has its own random numbers, so that it does
not depend on the others. Base's cache is cropped to the prefix at each new frame, as it sees no other frame.

Shapes: B clips, F frames, n tokens of a frame, K codes; T texts, 2 B under guidance, else B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Generator, Tensor
from transformers import DynamicCache, TemperatureLogitsWarper, TopKLogitsWarper

from latent_shift.systems.cogvideo.temporal_attention import Layout, TemporalChannel
from latent_shift.systems.cogvideo.transformer import ImageTransformer, Text
from latent_shift.training.recipe import Count, Strict


class SamplingConfig(Strict):
    """Settings by which tokens are drawn."""

    guidance_scale: float = Field(3.0, ge=0.0, description="1: without guidance")
    temperature: float = Field(0.7, gt=0.0)
    top_k: Count = Field(100, description="draw among so many of the most probable codes; 1: the best")


@dataclass(frozen=True)
class Guided:
    """Texts of B clips: conditional, and for guidance unconditional ones, scaled by `scale`."""

    text: Text
    scale: float = 1.0
    unconditional: Text | None = None

    @property
    def texts(self) -> Text:
        """All that the transformer reads, the unconditional ones first."""
        return self.text if self.unconditional is None else Text.cat(self.unconditional, self.text)

    def repeat_interleave(self, count: int) -> Guided:
        """Each clip `count` times."""
        other = self.unconditional
        return Guided(
            self.text.repeat_interleave(count), self.scale, other and other.repeat_interleave(count)
        )

    def expand(self, values: Tensor) -> Tensor:
        """Values of B clips (B, ...) for all texts (T, ...)."""
        return values if self.unconditional is None else torch.cat([values, values])

    def mix(self, logits: Tensor) -> Tensor:
        """Logits of all texts (T, K) to those of the clips (B, K), in float32."""
        logits = logits.float()
        if self.unconditional is None:
            return logits
        without, given = logits.chunk(2)
        return without + self.scale * (given - without)


def uniforms(generators: Sequence[Generator], *shape: int) -> Tensor:
    """Numbers from 0 to 1, (B, *shape), from one generator a clip."""
    return torch.stack([torch.rand(shape, generator=one, device=one.device) for one in generators])


def draw(logits: Tensor, numbers: Tensor, config: SamplingConfig) -> Tensor:
    """Tokens (B,) from logits (B, K), by numbers (B,) from 0 to 1: the inverse of the distribution."""
    ids = torch.empty(0)  # the warpers' first argument, which these two ignore
    logits = TopKLogitsWarper(config.top_k)(ids, TemperatureLogitsWarper(config.temperature)(ids, logits))
    summed = logits.double().softmax(dim=-1).cumsum(dim=-1)
    numbers = numbers.to(summed)[:, None] * summed[:, -1:]
    return torch.searchsorted(summed, numbers, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


class FrameWriter:
    """Tokens of frames after a prefix, written for all clips of a batch.

    order: numbers of the frames, in the order in which they are written. crop: whether base's cache keeps the
    frame at hand only, which changes no number.
    """

    def __init__(
        self,
        model: ImageTransformer,
        channel: TemporalChannel | None,
        guided: Guided,
        rates: Tensor | None,
        order: Sequence[int],
        *,
        crop: bool = True,
    ) -> None:
        self.model, self.channel, self.guided, self.crop = model, channel, guided, crop
        known = () if channel is None else channel.config.known
        texts = guided.texts
        self.layout = Layout.of(model.visible(texts), order, model.length, known)
        self.cache = DynamicCache()
        self._done = self._base_start = 0  # positions in plus's cache; the first in base's beyond the prefix
        self._advance(model.embed_prefix(texts, channel, None if rates is None else guided.expand(rates)))

    def read(self, tokens: Tensor) -> None:
        """Append whole frames of given tokens (B, f, n)."""
        self._begin_frame()
        self._append(self.model.with_start(tokens))

    def write(
        self, numbers: Tensor, config: SamplingConfig, on_token: Callable[[], None], *, last: bool
    ) -> Tensor:
        """Draw the next frame's tokens (B, n).

        Args:
            numbers: from 0 to 1, (B, n).
            config: how tokens are drawn.
            on_token: called after each.
            last: whether no frame follows, so that its last token need not be read.
        """
        self._begin_frame()
        tokens = numbers.new_full((len(numbers), 1), self.model.start, dtype=torch.long)
        for place in range(self.model.tokens):
            logits = self.guided.mix(self.model.logits(self._append(tokens[:, -1:])[:, -1]))
            tokens = torch.cat([tokens, draw(logits, numbers[:, place], config)[:, None]], dim=1)
            on_token()
        if not last:
            self._append(tokens[:, -1:])
        return tokens[:, 1:]

    def _append(self, ids: Tensor) -> Tensor:
        """States (T, Q, d) of start tokens and tokens (B, Q) at the next positions."""
        query = self.layout.take(slice(self._done, self._done + ids.shape[1]))
        return self._advance(self.model.embed_frames(self.guided.expand(ids), query, self.channel))

    def _advance(self, inputs: Tensor) -> Tensor:
        stop = self._done + inputs.shape[1]
        cached = torch.arange(stop, device=inputs.device)
        in_base = (cached < self.model.prefix) | (cached >= self._base_start)
        hidden = self.model.hidden(
            inputs, self.layout.take(slice(self._done, stop)), key=self.layout.take(slice(0, stop)),
            base_key=self.layout.take(cached[in_base]), channel=self.channel, cache=self.cache,
        )  # fmt: skip
        self._done = stop
        return hidden

    def _begin_frame(self) -> None:
        if not self.crop:
            return
        written = self._done - max(self._base_start, self.model.prefix)
        for layer in self.cache.layers[: self.model.config.num_hidden_layers]:
            layer.crop(-written)
        self._base_start = self._done


@torch.inference_mode()
def write_frames(
    model: ImageTransformer,
    channel: TemporalChannel | None,
    guided: Guided,
    rates: Tensor | None,
    numbers: Tensor,
    config: SamplingConfig,
    *,
    given: Tensor | None = None,
    on_token: Callable[[], None] = lambda: None,
    crop: bool = True,
) -> Tensor:
    """Tokens (B, F, n) of clips: given frames, and all others drawn.

    Args:
        model: the image transformer.
        channel: of the stage; None writes stills, by base only.
        guided: texts.
        rates: row of each clip's frame rate, (B,); None for stills.
        numbers: from 0 to 1, (B, frames to draw, n).
        config: how tokens are drawn.
        given: frames (B, f, n) that are not drawn: the known ones of a window, else the first ones.
        on_token: called after each token.
        crop: as of `FrameWriter`.
    """
    count = numbers.shape[1] + (0 if given is None else given.shape[1])
    first = list(channel.config.known) if channel is not None and channel.config.known else []
    order = [*first, *(frame for frame in range(count) if frame not in first)]
    writer = FrameWriter(model, channel, guided, rates, order, crop=crop)
    frames = []
    if given is not None:
        writer.read(given)
        frames += list(given.unbind(1))
    for index, part in enumerate(numbers.unbind(1), 1):
        frames.append(writer.write(part, config, on_token, last=index == numbers.shape[1]))
    in_order = sorted(zip(order, frames, strict=True), key=lambda pair: pair[0])
    return torch.stack([frame for _, frame in in_order], dim=1)


def interpolate(
    model: ImageTransformer,
    channel: TemporalChannel,
    guided: Guided,
    rates: Tensor,
    frames: Tensor,
    numbers: Tensor,
    config: SamplingConfig,
    *,
    on_token: Callable[[], None] = lambda: None,
) -> Tensor:
    """Fill in the frames between known ones: tokens (B, (f - 1) * spacing + 1, n) of (B, f, n).

    Windows of all clips are one batch; neighbouring windows share a known frame.

    Args:
        model: the image transformer.
        channel: of stage 2.
        guided: texts of B clips.
        rates: row of each clip's frame rate after it, (B,).
        frames: known frames, whole windows of them.
        numbers: from 0 to 1, (B, windows, unknown frames of a window, n).
        config: how tokens are drawn.
        on_token: called after each token of a window.
    """
    known, windows = len(channel.config.known), numbers.shape[1]
    given = frames.unfold(1, known, known - 1).movedim(-1, 2).flatten(0, 1)  # (B*windows, known, n)
    made = write_frames(
        model, channel, guided.repeat_interleave(windows), rates.repeat_interleave(windows),
        numbers.flatten(0, 1), config, given=given, on_token=on_token,
    ).unflatten(0, (-1, windows))  # fmt: skip
    return torch.cat([made[:, :, :-1].flatten(1, 2), made[:, -1, -1:]], dim=1)
