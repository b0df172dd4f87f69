"""The initial noise of clips: a video's depends on its own seed alone, whatever batch it is made in.

Training rng its noise here, too, one generator a clip. Not the noise of schedulers which add some in
every step (`one_a_frame` serves those).
Shapes: B videos, F frames, C latent channels, h x w latent pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor


def draw_noise(
    shape: tuple[int, ...],
    generator: Generator | Sequence[Generator] | None,
    correlation: float = 0.0,
    persistence: float = 0.0,
    *,
    likeness: Tensor | None = None,
    choices: int = 1,
) -> Tensor:
    """Gaussian noise (B*F, C, h, w) in float32 for clips of `shape` (B, F, C, h, w), clip after clip.

    generator: one a clip, whose noise then depends on that seed alone; or one for all (None: torch's own).
    correlation: the share a of the variance that the frames of a clip have in common, from 0 to 1:
    noise[f] = sqrt(1 - a) * own[f] + sqrt(a) * shared. persistence: how alike the own noise of neighbouring
    frames is, from 0 to 1 (`persist`). likeness: in training, a frame (B, C, h, w) for each clip, which its
    shared noise shall resemble: it is the most alike of `choices` rng (`most_alike`). Drawn on the
    generator's device, by default the CPU.
    """
    videos, *clip = shape
    generators = generator if isinstance(generator, Sequence) else [generator] * videos
    own, shared = [], []
    for each in generators:
        device = "cpu" if each is None else each.device
        own.append(torch.randn(clip, generator=each, device=device))
        if correlation > 0:
            shared.append(torch.randn([choices, *clip[1:]], generator=each, device=device))
    noise = torch.stack(own)
    if persistence > 0:
        noise = progressive_noise(noise, persistence)
    if correlation > 0:
        drawn = torch.stack(shared)
        common = drawn if likeness is None else select_closest_noise(drawn, likeness.to(drawn.device))
        noise = mixed_noise(noise, common, correlation)
    return noise.flatten(0, 1)


def mixed_noise(own: Tensor, shared: Tensor, correlation: float) -> Tensor:
    """Noise of unit variance, of which `correlation` comes from `shared` (arXiv 2305.10474, mixed noise).

    own: (..., F, C, h, w), unit variance; shared: (..., 1, C, h, w), for all frames of a clip.
    """
    return math.sqrt(1 - correlation) * own + math.sqrt(correlation) * shared


def select_closest_noise(noises: Tensor, frames: Tensor) -> Tensor:
    """Of a clip's noises (B, K, C, h, w) the one most like its frame (B, C, h, w), as (B, 1, C, h, w).

    So the noise that all frames of a clip share hints at that frame, and a model learns to take the hint:
    from noise alone all frames settle on the same one of the courses that the words leave open. Pairing noise
    and data leaves a deterministic sampler right, as long as the noise stays Gaussian over all clips (arXiv
    2302.00482, section 3; arXiv 2406.12303), which few choices nearly do.
    The frame's mean colour counts for nothing: the words tell it.
    """
    shown = frames - frames.mean(dim=(-2, -1), keepdim=True)
    best = (noises * shown[:, None]).sum(dim=(2, 3, 4)).argmax(dim=1)  # (B,)
    return noises[torch.arange(len(noises), device=noises.device), best][:, None]


def progressive_noise(fresh: Tensor, persistence: float) -> Tensor:
    """Noise of unit variance that changes gradually from frame to frame, as the content of clips does.

    fresh: (B, F, C, h, w), unit variance, independent. Frames n apart correlate by persistence ** n, whatever
    their number (arXiv 2305.10474, progressive noise: noise[f] = p * noise[f-1] + sqrt(1 - p^2) * fresh[f]).
    """
    frames = [fresh[:, 0]]
    for each in fresh[:, 1:].unbind(1):
        frames.append(persistence * frames[-1] + math.sqrt(1 - persistence**2) * each)
    return torch.stack(frames, dim=1)


def repeat_generator_per_frame(generator: Any, frames: int) -> Any:
    """A clip's generator for each of its frames, as schedulers that add noise in every step want them."""
    return [one for one in generator for _ in range(frames)] if isinstance(generator, list) else generator
