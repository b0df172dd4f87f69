"""The extractors by name: what each is for, and how it is made from what a user gives. No torch until made.

A new extractor is one new file and a line in `EXTRACTORS`, or an entry point of another package.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_shift.registry import Registry

if TYPE_CHECKING:
    from latent_shift.evaluation.extractors.interface import Extractor
    from latent_shift.evaluation.extractors.resizing import View


@dataclass(frozen=True)
class Given:
    """What a user says of extractors. weights: a folder of published files. antialias: None for the usual."""

    weights: Path | None = None
    clip: str | None = None  # a folder or hub id; None for the default
    model: Path | None = None  # with the towers of Moving Shapes
    antialias: bool | None = None
    device: Any = "cpu"


def _inception(given: Given) -> Extractor:
    from latent_shift.evaluation.extractors import inception

    return inception.Inception(given.weights, view_of(inception.VIEW, given), given.device)


def _i3d(given: Given) -> Extractor:
    from latent_shift.evaluation.extractors import i3d

    return i3d.I3dLogits(given.weights, view_of(i3d.VIEW, given), given.device)


def _c3d(given: Given) -> Extractor:
    from latent_shift.evaluation.extractors import c3d

    return c3d.C3dClasses(given.weights, view_of(c3d.VIEW, given), given.device)


def _mobilenet(given: Given) -> Extractor:
    from latent_shift.evaluation.extractors import mobilenet

    return mobilenet.MobileNet(given.weights, view_of(mobilenet.VIEW, given), given.device)


def _clip(given: Given) -> Extractor:
    from latent_shift.evaluation.extractors import clip

    extractor = clip.Clip(given.clip or clip.DEFAULT, device=given.device)
    extractor.view = view_of(extractor.view, given)
    return extractor


_HERE = "latent_shift.evaluation.extractors.known"
EXTRACTORS = Registry(
    "extractor",
    "latent_shift.extractors",
    {
        "inception-v3": f"{_HERE}:_inception",  # FID
        "clip": f"{_HERE}:_clip",  # CLIP-FID, CLIPSIM
        "i3d": f"{_HERE}:_i3d",  # FVD
        "c3d": f"{_HERE}:_c3d",  # Inception Score of videos
        "mobilenet-v2": f"{_HERE}:_mobilenet",  # a distance on real image features, from a small free file
    },
)


def make_extractor(name: str, given: Given | None = None) -> Extractor:
    """An extractor of EXTRACTORS, ready. ValueError for another name, and for weights that are not there."""
    made: Extractor = EXTRACTORS[name](given or Given())
    return made


def view_of(usual: View, given: Given) -> View:
    """The usual preprocessing, with the antialiasing that was chosen, if any."""
    return usual if given.antialias is None else replace(usual, antialias=given.antialias)
