"""Clips in pixels for the stages, of a generated source, rendered item by item.

Index i of a generated source is the clip i modulo their number, worded by i, as in stored latents: systems in
pixels and in latents see the same scenes in the same words by the same indices.

Shapes: B clips, F frames, H x W pixels of the data, S x S of a stage.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, from_numpy
from torch.nn import functional
from torch.utils.data import Dataset

from latent_shift.autoencoder import to_model_range
from latent_shift.data.samplers import BatchSampler, ShuffledSampler
from latent_shift.data.sources.base import GeneratedSource
from latent_shift.rng import item_rng

# Streams of `item_rng`, far from those of samplers and sources.
_START_STREAM, _STRIDE_STREAM = 1 << 40, 1 << 41
_PEAK = 3.0  # the density of the relative frame rate x is 3 x^2 at first and x^(-2/3) / 3 in the end


class GeneratedClips(Dataset[dict[str, Any]]):
    """Items of a generated source: {"frames": uint8 (F, H, W, 3), "caption", "image_caption", "fps", "key"}.

    Args:
        source: gives the clips.
        stride: of the frames, F = ceil(native frames / stride).
        curriculum_steps: where given, the stride of each item is drawn from 1 to `stride`, in so many steps
            moving from small ones to large ones; F stays.
        first: the clip that the items begin with.
    """

    def __init__(
        self, source: GeneratedSource, stride: int, *, curriculum_steps: int | None = None, first: int = 0
    ) -> None:
        self.source, self.stride, self.first = source, stride, first
        self.curriculum_steps = curriculum_steps
        self.clips = source.captioned_clips()
        self.num_frames = len(range(0, source.shape.num_frames, stride))

    def __len__(self) -> int:
        return len(self.clips) - self.first

    def batch_sampler(self, batch_size: int, seed: int) -> BatchSampler:
        """All clips shuffled, with strides where there is a curriculum."""
        plain = ShuffledSampler(len(self), batch_size, seed)
        if self.curriculum_steps is None:
            return plain
        return StrideCurriculum(plain, self.stride, self.curriculum_steps, seed)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        index, stride = index if isinstance(index, tuple) else (index, self.stride)
        epoch, number = divmod(index, len(self))
        clip = self.first + number
        room = self.source.shape.num_frames - (self.num_frames - 1) * stride
        start = 0
        if stride < self.stride:
            start = int(item_rng(self.source.seed, index, _START_STREAM).random() * room)
        wording = epoch * len(self.clips) + clip
        frames = self.clips.frames([clip])[0, start::stride][: self.num_frames]
        return {
            "frames": from_numpy(frames.copy()),
            "caption": self.clips.paraphrase(wording),
            "image_caption": self.clips.paraphrase(wording, image=True),
            "fps": self.source.shape.fps / stride,
            "key": f"clip {clip}",
        }


class StrideCurriculum:
    """Batch sampler of pairs (index, stride): high frame rates first, then low ones.

    The relative frame rate is of a beta distribution (a, 1), a falling from 3 to 1/3 in `steps` steps; equal
    parts of it, from 0 to 1, stand for the strides, the largest first.
    """

    def __init__(self, sampler: BatchSampler, largest: int, steps: int, seed: int) -> None:
        self.sampler, self.largest, self.steps, self.seed = sampler, largest, steps, seed

    def indices(self, step: int) -> list[tuple[int, int]]:
        """The pairs of a step."""
        shape = _PEAK ** (1 - 2 * min(step / self.steps, 1.0))
        indices = self.sampler.indices(step)
        draws = item_rng(self.seed, step, _STRIDE_STREAM).random(len(indices))
        rates = draws ** (1 / shape)
        strides = (self.largest - (rates * self.largest).astype(int)).clip(1)
        return [(index, int(stride)) for index, stride in zip(indices, strides, strict=True)]


def to_pixels(frames: Tensor, size: int) -> Tensor:
    """Clips (B, F, 3, S, S) from -1 to 1 of frames uint8 (B, F, H, W, 3), by the mean of areas."""
    return resize(to_model_range(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]), size, "area")


def resize(clips: Tensor, size: int | tuple[int, int], mode: str) -> Tensor:
    """Clips (B, F, 3, S, S) in another size. mode: "area", or "bilinear" for larger ones."""
    wanted = (size, size) if isinstance(size, int) else size
    if tuple(clips.shape[-2:]) == wanted:
        return clips
    options = {} if mode == "area" else {"align_corners": False}
    return functional.interpolate(clips.flatten(0, 1), wanted, mode=mode, **options).unflatten(
        0, clips.shape[:2]
    )
