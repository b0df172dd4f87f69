"""Peak memory of systems, each in a fresh process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latent_shift import systems
from latent_shift.benchmark import memory
from latent_shift.moving_shapes.constants import SIZE


def peak_memory(models: Sequence[Path], frames: int, dtype: str) -> list[int]:
    """Bytes at the peak of loading each model and making one clip, beyond those of the process before.

    On a GPU the bytes that torch had allocated there. Raises ValueError where a model cannot be measured.
    """
    request = {"prompt": "a red circle", "seed": 0, "frames": frames, "height": SIZE, "width": SIZE}
    arguments: list[tuple[Any, ...]] = [(str(model), request, "auto", dtype, {}) for model in models]
    modules = ["latent_shift.pipeline", *{systems.find(model).__module__ for model in models}]
    try:
        return memory.peak_memory("latent_shift.benchmark.systems:make_clip", arguments, modules)
    except ValueError as error:
        raise ValueError(
            f"the memory of {', '.join(map(str, models))} cannot be measured: {error}"
        ) from error
