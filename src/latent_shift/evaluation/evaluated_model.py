"""A model under evaluation: its system, the requests that it gets, and the cache of its clips.

    model = EvaluatedModel.load("moving-shapes", resolution=64, steps=20)
    model = model.with_cache(Path("clips"), frames=16, batch=8)

Shapes: B videos, F frames, H, W pixels, uint8 (B, F, H, W, 3).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from latent_shift import systems
from latent_shift.evaluation.clip_cache import ClipCache
from latent_shift.systems.base import GenerationRequest, TextToVideoSystem

Clips = NDArray[np.uint8]


@dataclass(frozen=True)
class EvaluatedModel:
    """A text-to-video system under a name.

    options: values of every request beside prompt, seed and frames. settings: all that decides the clips, as
    results record them. cache: of the generated clips.
    """

    name: str
    system: TextToVideoSystem
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    cache: ClipCache = field(default_factory=lambda: ClipCache(None, {}))

    @classmethod
    def load(
        cls,
        model: str,
        *,
        resolution: int,
        steps: int | None = None,
        guidance: float | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> Self:
        """Load a model. Raises ValueError as `systems.load`.

        Args:
            model: as in `systems.load`.
            resolution: height and width of its clips in pixels.
            steps: denoising steps; None: the model's own.
            guidance: scale; None: the model's own.
            device: one of `checkpoints.DEVICES`.
            dtype: one of `checkpoints.DTYPES`.
        """
        system = systems.load(model, device=device, dtype=dtype)
        info = system.info()
        sampling = {
            "steps": info.defaults.steps if steps is None else steps,
            "guidance": info.defaults.guidance if guidance is None else guidance,
        }
        settings = {
            "model": model, "weights": info.weights, "video settings": info.config, **sampling,
            **info.settings, "dtype": info.dtype, "device": info.device,
        }  # fmt: skip
        parts = Path(model).parts  # of runs/fold-8/model, the last two
        name = "/".join(parts[-2:]) if len(parts) > 1 and parts[-1] == "model" else parts[-1]
        return cls(name, system, {**sampling, "height": resolution, "width": resolution}, settings)

    def with_cache(self, folder: Path | None, settings: dict[str, Any], **others: Any) -> Self:
        """Keep clips in a folder; None keeps none. Raises ValueError for a folder of other clips.

        settings: that decide the clips, beside the model's. others: that decide them and are not recorded.
        """
        settings = {**self.settings, **settings}
        return replace(self, settings=settings, cache=ClipCache(folder, {**settings, **others}))

    def generate(
        self, batch: str, prompts: Sequence[str], seeds: Sequence[int], frames: int
    ) -> tuple[Clips, float]:
        """Return clips (B, F, H, W, 3), one a prompt, and the seconds they took: cached, or made and cached.

        batch: their name in the cache. seeds: of the prompts. frames: of each clip.
        """

        def make() -> tuple[Clips, float]:
            requests = [
                GenerationRequest(prompt=prompt, seed=seed, frames=frames, **self.options)
                for prompt, seed in zip(prompts, seeds, strict=True)
            ]
            began = time.perf_counter()
            return self.system.generate(requests), time.perf_counter() - began

        return self.cache.batch(batch, make)

    def reconstruct(self, clips: Clips) -> Clips:
        """Return clips encoded and decoded by the system. Raises ValueError for one that cannot."""
        reconstructed = self.system.reconstruct(clips)
        if reconstructed is None:
            raise ValueError(f"the system {self.system.name} does not reconstruct clips")
        return reconstructed
