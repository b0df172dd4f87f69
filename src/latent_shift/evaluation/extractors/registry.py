"""Extractors by name, imported when they are first used.

A new extractor is one new file and a line in `EXTRACTORS`, or an entry point of another package: a function
or class that takes `ExtractorOptions` and returns an `Extractor`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_shift.registry import Registry

if TYPE_CHECKING:
    from latent_shift.evaluation.extractors.base import Extractor

_HERE = "latent_shift.evaluation.extractors"
EXTRACTORS = Registry(
    "extractor",
    "latent_shift.extractors",
    {
        "inception-v3": f"{_HERE}.inception:Inception",  # FID
        "clip": f"{_HERE}.clip:Clip",  # FID on CLIP features, CLIPSIM
        "i3d": f"{_HERE}.i3d:I3D",  # FVD
        "c3d": f"{_HERE}.c3d:C3D",  # Inception Score of videos
        "mobilenet-v2": f"{_HERE}.mobilenet:MobileNet",  # FID on real image features, from a small free file
    },
)


@dataclass(frozen=True)
class ExtractorOptions:
    """Options of extractors; each takes what it needs.

    weights: a folder of published weight files. clip: a folder or hub id of CLIP. model: a folder with the
    encoders of Moving Shapes. antialias: None for the published way of resizing.
    """

    weights: Path | None = None
    clip: str | None = None
    model: Path | None = None
    antialias: bool | None = None
    device: Any = "cpu"


def make_extractor(name: str, options: ExtractorOptions | None = None) -> Extractor:
    """Load an extractor of EXTRACTORS. ValueError for another name, and for weights that are not there."""
    extractor: Extractor = EXTRACTORS[name](options or ExtractorOptions())
    return extractor
