"""A model under evaluation: its system, the requests that it gets, and the cache of its clips.

    model = EvaluatedModel.load("moving-shapes", resolution=64, steps=20)
    model = model.with_cache(Path("clips"), frames=16, batch=8)

Shapes: B videos, F frames, H, W pixels, uint8 (B, F, H, W, 3).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from latent_shift import systems
from latent_shift.io import atomic_file, write_text
from latent_shift.systems.base import GenerationRequest, TextToVideoSystem

Clips = NDArray[np.uint8]
_SETTINGS = "settings.json"  # of a cache


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
        # A folder may be named as ".", which has no parts.
        parts = Path(model).parts or Path(model).resolve().parts  # of runs/fold-8/model, the last two
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


class ClipCache:
    """Generated clips on disk, so that a stopped evaluation goes on where it was: batches of clips by name.

    A folder holds the settings of its clips, and one safetensors file for each finished batch, which appears
    whole or not at all. Without a folder nothing is kept. Raises ValueError for a folder that holds clips of
    other settings.
    """

    def __init__(self, folder: Path | None, settings: dict[str, Any]) -> None:
        self.folder = folder
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _check_settings(folder / _SETTINGS, settings)
        except OSError as error:
            raise ValueError(f"{folder}: cannot keep clips there: {error.strerror}") from error

    def batch(self, name: str, make: Callable[[], tuple[Clips, float]]) -> tuple[Clips, float]:
        """Return clips (B, F, H, W, 3) and the seconds they took: kept under `name`, else made and kept."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            return _read(path)
        clips, seconds = make()
        with atomic_file(path) as partial:
            save_file({"frames": np.ascontiguousarray(clips)}, partial, {"seconds": repr(seconds)})
        return clips, seconds


def _read(path: Path) -> tuple[Clips, float]:
    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor("frames"), float((file.metadata() or {})["seconds"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path}: is damaged ({error}); remove it, and it is made again") from error


def _check_settings(file: Path, settings: dict[str, Any]) -> None:
    text = json.dumps(settings, indent=2, sort_keys=True)
    if not file.is_file():
        # Hidden files are those that another process, starting on its own shard, is about to finish.
        if any(not other.name.startswith(".") for other in file.parent.iterdir()):
            raise ValueError(f"{file.parent}: is not empty and holds no clips of an evaluation; name another")
        write_text(file, text)
        return
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: is not valid JSON; remove the folder to begin again") from error
    wanted = json.loads(text)
    if kept != wanted:
        names = sorted(name for name in {*kept, *wanted} if kept.get(name) != wanted.get(name))
        raise ValueError(f"{file.parent}: holds clips of other {', '.join(names)}; name another folder")
