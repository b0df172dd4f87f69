"""The noise of clips: a video's depends on its own seed only, whatever batch it is made in.

Training and sampling draw their noise here, from one generator a clip: the initial one, and that of each step
where a scheduler takes it from outside. Others draw theirs from `repeat_generator_per_frame`.
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
    shared_noise_ratio: float = 0.0,
    progressive_alpha: float = 0.0,
    *,
    circular: bool = False,
    reference: Tensor | None = None,
    num_candidates: int = 1,
) -> Tensor:
    """Draw Gaussian noise for clips, correlated between their frames.

    Args:
        shape: (B, F, C, h, w).
        generator: one a clip, so that a clip's noise depends on its own seed only; or one for all of them;
            None: torch's own. Noise is drawn on the generator's device, by default the CPU.
        shared_noise_ratio: share of the variance that the frames of a clip have in common, 0 to 1
            (`mixed_noise`).
        progressive_alpha: correlation between neighbouring frames of the rest, 0 to 1 (`progressive_noise`).
        circular: whether the last frame precedes the first one.
        reference: in training, a frame (B, C, h, w) for each clip, which its shared noise should resemble
            (`select_closest_noise`); without effect where shared_noise_ratio is 0.
        num_candidates: how many noises to select the shared one from, at least 1.

    Returns:
        float32 (B*F, C, h, w), clip after clip, of unit variance.
    """
    videos, *clip = shape
    generators = generator if isinstance(generator, Sequence) else [generator] * videos
    own, candidates = [], []
    for each in generators:
        device = "cpu" if each is None else each.device
        own.append(torch.randn(clip, generator=each, device=device))
        if shared_noise_ratio > 0:
            candidates.append(torch.randn([num_candidates, *clip[1:]], generator=each, device=device))
    noise = torch.stack(own)
    if progressive_alpha > 0:
        correlate = circular_noise if circular else progressive_noise
        noise = correlate(noise, progressive_alpha)
    if shared_noise_ratio > 0:
        shared = torch.stack(candidates)
        if reference is not None:
            shared = select_closest_noise(shared, reference.to(shared.device))
        noise = mixed_noise(noise, shared, shared_noise_ratio)
    return noise.flatten(0, 1)


def mixed_noise(own: Tensor, shared: Tensor, shared_noise_ratio: float) -> Tensor:
    """Mix noise of single frames with noise that all frames of a clip share (PYoCo, arXiv 2305.10474).

        noise[f] = sqrt(1 - ratio) * own[f] + sqrt(ratio) * shared

    own: (..., F, C, h, w), shared: (..., 1, C, h, w), both of unit variance, which the result keeps.
    """
    return math.sqrt(1 - shared_noise_ratio) * own + math.sqrt(shared_noise_ratio) * shared


def select_closest_noise(candidates: Tensor, reference: Tensor) -> Tensor:
    """Select, of each clip's candidates (B, K, C, h, w), the one closest to its reference frame (B, C, h, w).

    Returns (B, 1, C, h, w). Closest: the largest inner product with the reference less its mean colour.
    """
    # Why: from independent noise, all frames settle on one of the courses that a prompt leaves open only by
    # chance. Noise that hints at the reference lets the model learn to follow the hint. Pairing noise and
    # data keeps a deterministic sampler right as long as the noise stays Gaussian over all clips (arXiv
    # 2302.00482, section 3; arXiv 2406.12303), as it nearly does with few candidates. The mean colour is
    # left out because the prompt determines it.
    shown = reference - reference.mean(dim=(-2, -1), keepdim=True)
    best = (candidates * shown[:, None]).sum(dim=(2, 3, 4)).argmax(dim=1)  # (B,)
    return candidates[torch.arange(len(candidates), device=candidates.device), best][:, None]


def progressive_noise(fresh: Tensor, alpha: float) -> Tensor:
    """Noise that changes gradually from frame to frame (PYoCo, arXiv 2305.10474, progressive noise).

        noise[f] = alpha * noise[f - 1] + sqrt(1 - alpha^2) * fresh[f]

    fresh: (B, F, C, h, w), independent, of unit variance, which the result keeps. Frames n apart correlate by
    alpha ** n. (In the paper's notation this alpha is alpha / sqrt(1 + alpha^2).)
    """
    frames = [fresh[:, 0]]
    for each in fresh[:, 1:].unbind(1):
        frames.append(alpha * frames[-1] + math.sqrt(1 - alpha**2) * each)
    return torch.stack(frames, dim=1)


_FORGOTTEN = 2.0**-40  # part of a frame's noise that float32 does not show


def circular_noise(fresh: Tensor, alpha: float) -> Tensor:
    """Progressive noise of a clip that begins again where it ends: the first frame follows the last one.

    fresh, alpha: as in `progressive_noise`. Rolling `fresh` over frames rolls the noise, bit for bit. At
    alpha 1 all frames are equal. Frames n apart correlate by (alpha**n + alpha**(F - n)) / (1 + alpha**F).
    """
    weights = [weight for age in range(fresh.shape[1]) if (weight := alpha**age) > _FORGOTTEN]
    total = sum(
        (weight * fresh.roll(age, dims=1) for age, weight in enumerate(weights)), torch.zeros_like(fresh)
    )
    return total / math.sqrt(sum(weight**2 for weight in weights))


def repeat_generator_per_frame(generator: Any, frames: int) -> Any:
    """Repeat each clip's generator for its frames, for schedulers that add noise in every step.

    generator: a list, one a clip, to (B*F,) generators; anything else is returned unchanged.
    """
    return [one for one in generator for _ in range(frames)] if isinstance(generator, list) else generator
