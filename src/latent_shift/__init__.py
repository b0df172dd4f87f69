"""Latent-Shift: text to video from a text-to-image latent diffusion model, with not one parameter more.

The public names load on first use, so that `import latent_shift` imports neither torch nor diffusers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latent_shift.pipeline import LatentShiftPipeline
    from latent_shift.shift import temporal_shift
    from latent_shift.unet import disable_temporal_shift, enable_temporal_shift

__version__ = "0.1.0"

__all__ = [
    "LatentShiftPipeline",
    "__version__",
    "disable_temporal_shift",
    "enable_temporal_shift",
    "temporal_shift",
]

_ROOMS = {
    "LatentShiftPipeline": "pipeline",
    "temporal_shift": "shift",
    "enable_temporal_shift": "unet",
    "disable_temporal_shift": "unet",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
