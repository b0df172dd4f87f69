"""What the protocols need of a model: clips of prompts, and clips through its autoencoder.

`ClipMaker` is the interface, and all that a protocol knows of any model; `PipelineClips` gives it for every
folder in the Stable Diffusion layout.

Shape legend: B videos, F frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from latent_shift.pipeline import LatentShiftPipeline

Clips = NDArray[np.uint8]


class ClipMaker(Protocol):
    """A text-to-video model under test."""

    def reconstruct(self, clips: Clips) -> Clips:
        """Clips (B, F, H, W, 3) encoded and decoded again by the model's autoencoder."""
        ...

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], frames: int) -> Clips:
        """One clip a prompt (B, F, H, W, 3), each decided by its prompt and its own seed."""
        ...


class PipelineClips:
    """The clips of a `LatentShiftPipeline`, `side` pixels high and wide."""

    def __init__(self, pipeline: LatentShiftPipeline, *, side: int, steps: int, guidance: float) -> None:
        self.pipeline, self.side, self.steps, self.guidance = pipeline, side, steps, guidance
        pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def reconstruct(self, clips: Clips) -> Clips:
        """Clips (B, F, H, W, 3) through the autoencoder, a clip at a time, each latent at its mean."""
        vae: Any = self.pipeline.vae
        restored = np.empty_like(clips)
        for clip, place in zip(clips, restored, strict=True):
            pixels = torch.from_numpy(clip).permute(0, 3, 1, 2).to(vae.device, vae.dtype) / 127.5 - 1
            decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.float()
            place[:] = ((decoded + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        return restored

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], frames: int) -> Clips:
        """One clip a prompt (B, F, H, W, 3), its noise drawn on the CPU from its own seed."""
        result: Any = self.pipeline(
            list(prompts),
            num_frames=frames,
            height=self.side,
            width=self.side,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            output_type="np",
        )
        return (result.frames * 255).round().astype(np.uint8)
