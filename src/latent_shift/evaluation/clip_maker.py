"""What the protocols need of a model: clips of prompts, and clips through its autoencoder.

`ClipMaker` is the interface, and all that a protocol knows of any model; `SystemClips` gives it for every
text-to-video system.

Shape legend: B videos, F frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latent_shift.systems.base import GenerationRequest, TextToVideoSystem

Clips = NDArray[np.uint8]


class ClipMaker(Protocol):
    """A text-to-video model under test."""

    def reconstruct(self, clips: Clips) -> Clips:
        """Clips (B, F, H, W, 3) encoded and decoded again by the model's autoencoder."""
        ...

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], frames: int) -> Clips:
        """One clip a prompt (B, F, H, W, 3), each decided by its prompt and its own seed."""
        ...


class SystemClips:
    """The clips of a text-to-video system, `side` pixels high and wide."""

    def __init__(self, system: TextToVideoSystem, *, side: int, steps: int, guidance: float) -> None:
        self.system, self.side, self.steps, self.guidance = system, side, steps, guidance

    def reconstruct(self, clips: Clips) -> Clips:
        """Clips (B, F, H, W, 3) encoded and decoded. Raises ValueError for a system that cannot."""
        restored = self.system.reconstruct(clips)
        if restored is None:
            raise ValueError(f"the system {self.system.name} does not reconstruct clips")
        return restored

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], frames: int) -> Clips:
        """One clip a prompt (B, F, H, W, 3), its noise drawn on the CPU from its own seed."""
        how: dict[str, Any] = {
            "frames": frames,
            "steps": self.steps,
            "guidance": self.guidance,
            "height": self.side,
            "width": self.side,
        }
        return self.system.generate(
            [
                GenerationRequest(prompt=prompt, seed=seed, **how)
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
        )
