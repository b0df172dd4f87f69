"""The extractors by name: what each is for, and how it is made from what a user gives. No torch until made.

A new extractor is one new file and an entry in `KNOWN`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    return inception.Inception(given.weights, _view(inception.VIEW, given), given.device)


def _i3d(given: Given) -> Extractor:
    from latent_shift.evaluation.extractors import i3d

    return i3d.I3dLogits(given.weights, _view(i3d.VIEW, given), given.device)


def _c3d(given: Given) -> Extractor:
    from latent_shift.evaluation.extractors import c3d

    return c3d.C3dClasses(given.weights, _view(c3d.VIEW, given), given.device)


def _mobilenet(given: Given) -> Extractor:
    from latent_shift.evaluation.extractors import mobilenet

    return mobilenet.MobileNet(given.weights, _view(mobilenet.VIEW, given), given.device)


def _clip(given: Given) -> Extractor:
    from latent_shift.evaluation.extractors import clip

    extractor = clip.Clip(given.clip or clip.DEFAULT, device=given.device)
    extractor.view = _view(extractor.view, given)
    return extractor


def _clips_of_shapes(given: Given) -> Extractor:
    from latent_shift.evaluation.extractors import moving_shapes as own

    return own.Towers(_towers(given), "clip", _view(own.VIEW, given), given.device)


def _frames_of_shapes(given: Given) -> Extractor:
    from latent_shift.evaluation.extractors import moving_shapes as own

    return own.Towers(_towers(given), "frame", _view(own.VIEW, given), given.device)


def _eyes_for_shapes(given: Given) -> Extractor:
    from latent_shift.evaluation.extractors import moving_shapes_eyes as eyes

    return eyes.Eyes(_view(eyes.VIEW, given))


KNOWN: dict[str, Callable[[Given], Extractor]] = {
    "inception-v3": _inception,  # FID
    "clip": _clip,  # CLIP-FID, CLIPSIM
    "i3d": _i3d,  # FVD
    "c3d": _c3d,  # Inception Score of videos
    "mobilenet-v2": _mobilenet,  # a distance on real image features, from a small free file
    "moving-shapes": _clips_of_shapes,  # clips and CLIPSIM of the generated world
    "moving-shapes-frames": _frames_of_shapes,  # its single frames
    "moving-shapes-eyes": _eyes_for_shapes,  # its shapes and motions as measured, and its classes
}


def check_name(name: str) -> None:
    """ValueError for a name that is none of KNOWN."""
    if name not in KNOWN:
        raise ValueError(f"extractor {name!r}: expected one of {', '.join(KNOWN)}")


def make_extractor(name: str, given: Given | None = None) -> Extractor:
    """An extractor of KNOWN, ready. ValueError for another name, and for weights that are not there."""
    check_name(name)
    return KNOWN[name](given or Given())


def _view(usual: View, given: Given) -> View:
    return usual if given.antialias is None else replace(usual, antialias=given.antialias)


def _towers(given: Given) -> Path:
    from latent_shift.checkpoints import DEFAULT_MODEL, resolve

    return given.model or resolve(DEFAULT_MODEL)
