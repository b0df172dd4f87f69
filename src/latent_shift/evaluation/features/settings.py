"""What a feature's value depends on, and what else a file of features tells of itself.

Two sets of features may be compared only where every field of `FeatureSettings` is the same: a resize without
antialiasing alone moves an FID by several points. `Provenance` is told, not compared.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FeatureSettings(BaseModel):
    """Everything that decides a feature's value, given the clip."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    extractor: str  # its name, such as "inception-v3"
    layer: str  # which of its outputs, such as "pool3, 2048 numbers a frame"
    weights: str  # the first 12 hexadecimal digits of their SHA-256
    per: str  # "frame" or "clip": what one row of features is of
    side: int  # pixels that the extractor sees, high and wide
    resize: str  # "bilinear" or "bicubic"
    antialias: bool
    fit: str  # how a clip's frames are brought to a square, one of reading.FITS
    frames: int  # of each clip
    fps: str  # frames a second, or "own": the clip's own frames one after the other


class Provenance(BaseModel):
    """Where features come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str  # the name of a folder, or what was sampled
    clips: int
    stamp: str = ""  # a hash over the names and sizes of the files, where they are files
    seed: int | None = None  # of what chose the clips, where chance did
    device: str = "cpu"
    versions: dict[str, str] = {}


def differences(first: FeatureSettings, second: FeatureSettings) -> list[str]:
    """The fields that differ, each with both values, in words."""
    one, other = first.model_dump(), second.model_dump()
    return [f"{name} ({one[name]} and {other[name]})" for name in one if one[name] != other[name]]


def check_same(first: FeatureSettings, second: FeatureSettings, names: str) -> None:
    """ValueError where two sets of features, called `names`, may not be compared or merged."""
    found = differences(first, second)
    if found:
        raise ValueError(
            f"{names}: are of other settings and cannot be compared: {'; '.join(found)};"
            " measure both with the same ones"
        )
