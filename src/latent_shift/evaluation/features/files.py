"""Features and their statistics as one safetensors file, with everything they were made with in its header.

    write_features(Path("real.safetensors"), features)
    read_features(Path("real.safetensors")).settings.antialias

A file holds the rows (for the kernel distance, the Inception Score and the bootstrap) and their count, mean
and scatter (for the Fréchet distance, and for merging the parts that several processes made). Rows may be
left out where only the Fréchet distance is wanted: the file stays small.
Shapes: N rows of D numbers; C classes.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from latent_shift.evaluation.features.moments import Moments
from latent_shift.evaluation.features.settings import FeatureSettings, Provenance, check_same

Rows = NDArray[np.float32]
_HEADER, _FORMAT = "latent_shift_features", 1


@dataclass(frozen=True)
class Features:
    """The features of some clips. clips: their names, in order; each has the same number of rows."""

    settings: FeatureSettings
    provenance: Provenance
    clips: tuple[str, ...]
    moments: Moments
    rows: Rows | None  # (N, D)
    logits: Rows | None = None  # (N, C), of extractors that classify

    def need_rows(self, wanted_for: str) -> Rows:
        """The rows. Raises ValueError where they were left out."""
        if self.rows is None:
            raise ValueError(
                f"{self.provenance.source}: the file holds statistics alone, but {wanted_for} needs the"
                " features; measure again, keeping them"
            )
        return self.rows

    @property
    def rows_per_clip(self) -> int:
        """1 for a clip feature, the frames of a clip for a frame feature."""
        return self.moments.count // max(len(self.clips), 1)


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
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        save_file(tensors, partial, {_HEADER: json.dumps(header, sort_keys=True)})
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def read_features(file: Path) -> Features:
    """What `write_features` wrote. Raises ValueError naming a file that is missing, damaged or another."""
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
        reason = " ".join(str(error).split())
        raise ValueError(f"{file}: is no file of features, or is damaged: {reason}") from error


def merge_features(parts: Sequence[Features]) -> Features:
    """The parts of one set, in their order, as one.

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


def _joined(parts: Sequence[Rows | None]) -> Rows | None:
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if len(present) == len(parts) else None
