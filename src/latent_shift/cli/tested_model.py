"""A model to be measured, loaded, with the settings that decide its clips: what the protocols share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_shift import systems
from latent_shift.cli.progress import quiet_libraries

if TYPE_CHECKING:
    from latent_shift.evaluation.clip_maker import SystemClips


@dataclass(frozen=True)
class TestedModel:
    """A loaded model, and the settings that decide its clips."""

    maker: SystemClips
    settings: dict[str, Any]


def load_tested(
    folder: Path,
    name: str,
    steps: int | None,
    guidance: float | None,
    *,
    side: int,
    device: str,
    dtype: str,
) -> TestedModel:
    """The model at a place that `checkpoints.resolve` gave; its clips are `side` pixels wide."""
    quiet_libraries()
    from latent_shift.evaluation.clip_maker import SystemClips

    system = systems.load(folder, device=device, dtype=dtype)
    info = system.info()
    how: dict[str, Any] = {
        "steps": info.defaults.steps if steps is None else steps,
        "guidance": info.defaults.guidance if guidance is None else guidance,
    }
    settings = {
        "model": name,
        "weights": info.weights,
        "video settings": info.config,
        **how,
        **info.settings,
        "dtype": info.dtype,
        "device": info.device,
    }
    return TestedModel(SystemClips(system, side=side, **how), settings)


def short_name(name: str) -> str:
    """A model's name in a table: of runs/ablations/fold-8/model, the last two parts."""
    parts = Path(name).parts
    return "/".join(parts[-2:]) if len(parts) > 1 and parts[-1] == "model" else parts[-1]
