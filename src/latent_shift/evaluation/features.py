"""Features of clips, their statistics, the settings that decide their values, and all of these as one file.

    write_features(Path("real.safetensors"), features)
    read_features(Path("real.safetensors")).settings.antialias

A file holds the rows (for the kernel distance, the Inception Score and the bootstrap) and their count, mean
and scatter (for the Fréchet distance, and for merging the parts that several processes made), with settings
and provenance in its header. Rows may be left out where only the Fréchet distance is wanted.

Shapes: B clips, F frames, H, W pixels; N rows (clips, or clips * F) of D numbers; C classes.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from latent_shift import __version__
from latent_shift.evaluation.clip_files import ClipReadOptions
from latent_shift.evaluation.extractors.base import Extractor
from latent_shift.io import atomic_file, one_line

Clips = NDArray[np.uint8]
Rows = NDArray[np.float32]
Array = NDArray[np.float64]
BLOCK = 256  # rows joined at a time
_HEADER, _FORMAT = "latent_shift_features", 1


class FeatureSettings(BaseModel):
    """Everything that decides a feature's value, given the clip.

    Sets of features may be compared only where every field is the same: antialiasing moves an FID by several
    points.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    extractor: str  # its name, such as "inception-v3"
    layer: str  # which of its outputs, such as "pool3, 2048 numbers a frame"
    weights: str  # the first 12 hexadecimal digits of their SHA-256
    per: str  # "frame" or "clip": what one row of features is of
    side: int  # pixels that the extractor sees, high and wide
    resize: str  # "bilinear", "bilinear-corners" or "bicubic"
    antialias: bool
    fit: str  # how a clip's frames are brought to a square, one of clip_files.FITS
    frames: int  # of each clip
    fps: str  # frames a second, or "own": the clip's own frames one after the other


class Provenance(BaseModel):
    """Origin of features; recorded, not compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str  # the name of a folder, or of a model
    clips: int
    stamp: str = ""  # a hash over the names and contents of the files, where they are files
    seed: int | None = None  # of the random choice of clips
    device: str = "cpu"
    versions: dict[str, str] = {}


@dataclass(frozen=True)
class Features:
    """Features of a set of clips by one extractor. clips: names, in order; each has as many rows."""

    settings: FeatureSettings
    provenance: Provenance
    clips: tuple[str, ...]
    moments: Moments
    rows: Rows | None  # (N, D)
    logits: Rows | None = None  # (N, C), of extractors that classify

    def need_rows(self, wanted_for: str) -> Rows:
        """Return the rows. Raises ValueError where they were left out."""
        if self.rows is None:
            raise ValueError(
                f"{self.provenance.source}: the file holds statistics alone, but {wanted_for} needs the"
                " features; measure again, keeping them"
            )
        return self.rows

    def rows_of(self, clips: NDArray[np.int64]) -> Rows:
        """Return the rows of clips, given by their numbers."""
        return self.need_rows("this")[frames_of(clips, self.rows_per_clip)]

    @property
    def rows_per_clip(self) -> int:
        """1 for features of clips, the number of frames for features of frames."""
        return self.moments.count // max(len(self.clips), 1)


@dataclass
class SourceFeatures:
    """Features of one source of clips, by the extractor's name.

    names, captions: of the clips, in order; a caption is None where a clip has none. text_features:
    embeddings (clips, D) of the captions, by the name of the extractor, where every clip has a caption.
    read_settings: of `ClipReadOptions`.
    """

    name: str
    read_settings: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Features] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    text_features: dict[str, Rows] = field(default_factory=dict)


def feature_settings(extractor: Extractor, read: ClipReadOptions) -> FeatureSettings:
    """Return the settings of the features of clips that are read with `read`."""
    info, preprocessing = extractor.info, extractor.preprocessing
    return FeatureSettings(
        extractor=info.name, layer=info.layer, weights=info.weights, per=info.per, side=preprocessing.side,
        resize=preprocessing.resize, antialias=preprocessing.antialias, **read.settings(),
    )  # fmt: skip


def check_same(first: FeatureSettings, second: FeatureSettings, names: str) -> None:
    """Raise ValueError where two sets of features, called `names`, may not be compared or merged."""
    one, other = first.model_dump(), second.model_dump()
    found = [f"{name} ({one[name]} and {other[name]})" for name in one if one[name] != other[name]]
    if found:
        raise ValueError(
            f"{names}: are of other settings and cannot be compared: {'; '.join(found)};"
            " measure both with the same ones"
        )


def write_features(file: Path, features: Features) -> None:
    """Write a file, whole or not at all; an old one is replaced."""
    tensors = {"mean": features.moments.mean, "scatter": features.moments.scatter}
    for name, rows in (("rows", features.rows), ("logits", features.logits)):
        if rows is not None:
            tensors[name] = np.ascontiguousarray(rows, dtype=np.float32)
    header = {
        "format": _FORMAT,
        "settings": features.settings.model_dump(),
        "provenance": features.provenance.model_dump(),
        "clips": list(features.clips),
        "count": features.moments.count,
    }
    with atomic_file(file) as partial:
        save_file(tensors, partial, {_HEADER: json.dumps(header, sort_keys=True)})


def read_features(file: Path) -> Features:
    """Read a file of `write_features`. Raises ValueError for one that is missing or damaged."""
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file of features")
    try:
        with safe_open(file, framework="numpy") as opened:
            header = json.loads((opened.metadata() or {})[_HEADER])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return Features(
            settings=FeatureSettings.model_validate(header["settings"]),
            provenance=Provenance.model_validate(header["provenance"]),
            clips=tuple(header["clips"]),
            moments=Moments.from_parts(header["count"], tensors["mean"], tensors["scatter"]),
            rows=tensors.get("rows"),
            logits=tensors.get("logits"),
        )
    except (SafetensorError, KeyError, ValidationError) as error:
        raise ValueError(f"{file}: is no file of features, or is damaged: {one_line(error)}") from error


def merge_features(parts: Sequence[Features]) -> Features:
    """Merge the parts of one set, in their order.

    Raises ValueError for no parts, for parts of different settings, and for a clip that is in two of them.
    """
    if not parts:
        raise ValueError("there are no parts to merge")
    first = parts[0]
    clips = tuple(name for part in parts for name in part.clips)
    if len(set(clips)) < len(clips):
        twice = next(name for name in clips if clips.count(name) > 1)
        raise ValueError(f"{twice}: is in more than one of the parts; each clip belongs to one")
    moments = Moments(first.moments.width)
    for part in parts:
        check_same(first.settings, part.settings, f"parts {first.clips[:1]} and {part.clips[:1]}")
        moments.merge(part.moments)
    provenance = first.provenance.model_copy(update={"clips": len(clips)})
    rows, logits = _joined([part.rows for part in parts]), _joined([part.logits for part in parts])
    return Features(first.settings, provenance, clips, moments, rows, logits)


def frames_of(clips: NDArray[np.int64], rows_per_clip: int) -> NDArray[np.int64]:
    """Return the rows of these clips, where each has `rows_per_clip` of them, one after the other."""
    rows: NDArray[np.int64] = (clips[:, None] * rows_per_clip + np.arange(rows_per_clip)).ravel()
    return rows


def versions() -> dict[str, str]:
    """Return the versions of the libraries that compute features."""
    return {
        "latent-shift": __version__, "torch": torch.__version__, "numpy": np.__version__,
        "python": platform.python_version(),
    }  # fmt: skip


def _joined(parts: Sequence[Rows | None]) -> Rows | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if len(present) == len(parts) else None


class Moments:
    """Count, mean (D,) and scatter (D, D) about the mean of rows, a batch at a time, in float64.

    Sums of squares lose digits where the mean is large; here each part keeps its own mean and its scatter
    about it, and parts are joined by the formula of Chan, Golub and LeVeque ("Updating formulae and a
    pairwise algorithm for computing sample variances", 1979). Rows are gathered into blocks of one size
    first, so that the result does not depend on how the rows were batched, to the last digit.

    moments = Moments(2048)
    moments.add(features)               # (N, 2048), as often as there are batches
    moments.mean, moments.covariance()
    """

    def __init__(self, width: int) -> None:
        self._count, self._mean, self._scatter = 0, np.zeros(width), np.zeros((width, width))
        self._waiting: list[NDArray[np.floating]] = []
        self._waiting_rows = 0

    @classmethod
    def of(cls, rows: NDArray[np.floating]) -> Moments:
        """Compute the moments of rows (N, D)."""
        moments = cls(rows.shape[1])
        moments.add(rows)
        return moments

    @classmethod
    def from_parts(cls, count: int, mean: Array, scatter: Array) -> Moments:
        """Restore saved moments. Raises ValueError where the parts do not fit together."""
        if count < 0 or scatter.shape != (mean.size, mean.size) or mean.ndim != 1:
            raise ValueError(
                f"moments of {count} rows with a mean {mean.shape} and a scatter {scatter.shape};"
                " expected (D,) and (D, D)"
            )
        moments = cls(mean.size)
        moments._join(count, mean.astype(np.float64), scatter.astype(np.float64))
        return moments

    @property
    def width(self) -> int:
        """Numbers a row."""
        return len(self._mean)

    @property
    def count(self) -> int:
        """Rows so far."""
        return self._count + self._waiting_rows

    @property
    def mean(self) -> Array:
        """Mean (D,) of all rows so far."""
        self._join_waiting(everything=True)
        return self._mean

    @property
    def scatter(self) -> Array:
        """Sum (D, D) over rows of their deviation from the mean, times itself."""
        self._join_waiting(everything=True)
        return self._scatter

    def covariance(self) -> Array:
        """Covariance (D, D), divided by the rows less one. Raises ValueError for fewer than two rows."""
        if self.count < 2:
            raise ValueError(f"a covariance of {self.count} rows; give at least 2")
        return self.scatter / (self.count - 1)

    def add(self, rows: NDArray[np.floating]) -> None:
        """Add rows (N, D). Raises ValueError for another width, and for values that are not finite."""
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(f"rows are {rows.shape}; expected (N, {self.width})")
        if not np.isfinite(rows).all():
            raise ValueError("features are not finite: the extractor made NaN or infinity; use float32")
        self._waiting.append(rows)
        self._waiting_rows += len(rows)
        if self._waiting_rows >= BLOCK:
            self._join_waiting(everything=False)

    def merge(self, other: Moments) -> None:
        """Add the rows of `other`, which does not change."""
        if other.width != self.width:
            raise ValueError(f"moments of width {other.width} cannot join those of width {self.width}")
        mean, scatter = other.mean, other.scatter
        self._join_waiting(everything=True)
        self._join(other.count, mean, scatter)

    def _join_waiting(self, *, everything: bool) -> None:
        if not self._waiting_rows:
            return
        rows = np.concatenate(self._waiting)
        whole = len(rows) if everything else len(rows) - len(rows) % BLOCK
        for start in range(0, whole, BLOCK):
            block = rows[start : min(start + BLOCK, whole)].astype(np.float64)
            mean = block.mean(axis=0)
            block -= mean
            self._join(len(block), mean, block.T @ block)
        self._waiting = [rows[whole:].copy()] if whole < len(rows) else []
        self._waiting_rows = len(rows) - whole

    def _join(self, count: int, mean: Array, scatter: Array) -> None:
        total = self._count + count
        if not count:
            return
        shift = mean - self._mean
        self._scatter += scatter
        self._scatter += np.outer(shift * (self._count * count / total), shift)
        self._mean = self._mean + shift * (count / total)
        self._count = total
