"""The results of an evaluation: as JSON with every setting that matters, and as a Markdown table.

A share is printed with its 95 % interval by Wilson (1927). What makes the numbers is `protocol.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scorer.protocol import CellResult, Source

COLUMNS = ("colour", "shape", "motion", "background", "all", "speed")
_KINDS = tuple(dict.fromkeys(constants.motion_kind(motion) for motion in constants.MOTIONS))
_TITLES = {"all": "all at once", "speed": "(speed word)"}
_SOURCES: dict[Source, str] = {
    "rendered": "real clips",
    "autoencoder": "real, through the autoencoder",
    "model": "the model",
}
_Z = 1.959964  # of 95 %


class Share(BaseModel):
    """`right` of `of`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    right: int
    of: int

    def __str__(self) -> str:
        return f"{self.right} of {self.of}"

    @property
    def value(self) -> float:
        """0 to 1."""
        return self.right / self.of

    def interval(self) -> tuple[float, float]:
        """The 95 % interval by Wilson."""
        n, p = self.of, self.value
        if self.right in (0, n):
            edge = n / (n + _Z**2)
            return (edge, 1.0) if self.right else (0.0, 1.0 - edge)
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n))
        return middle - half, middle + half


class Row(BaseModel):
    """One cell of one source. motions: the column "motion" again, by kind (`constants.motion_kind`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cell: str
    source: Source
    columns: dict[str, Share]
    motions: dict[str, Share] = {}
    seconds: float


class Results(BaseModel):
    """Everything that was measured, and what it was measured with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: str = "moving-shapes"
    settings: dict[str, Any]
    rows: list[Row]

    def markdown(self) -> str:
        """The table, a line a cell and source, the same by kind of motion, and a line of settings below."""
        shown = [name for name in COLUMNS if any(name in row.columns for row in self.rows)]
        lines = ["| prompts | clips | " + " | ".join(_TITLES.get(name, name) for name in shown) + " |"]
        lines.append("|---|---|" + "---|" * len(shown))
        for row in self.rows:
            cells = [_share(row.columns[name]) if name in row.columns else "" for name in shown]
            lines.append(f"| {row.cell.replace('-', ' ')} | {_SOURCES[row.source]} | {' | '.join(cells)} |")
        lines += self._by_motion()
        said = ", ".join(f"{name} {value}" for name, value in _flat(self.settings) if value is not None)
        return "\n".join([*lines, "", f"In brackets the 95 % interval. {said[:1].upper()}{said[1:]}.", ""])

    def _by_motion(self) -> list[str]:
        """How many motions were right of how many, a column a kind; nothing where none was scored."""
        kinds = [name for name in _KINDS if any(name in row.motions for row in self.rows)]
        if not kinds:
            return []
        lines = ["", f"| motions right | clips | {' | '.join(kinds)} |", "|---|---|" + "---|" * len(kinds)]
        for row in self.rows:
            cells = [str(row.motions[name]) if name in row.motions else "" for name in kinds]
            lines.append(f"| {row.cell.replace('-', ' ')} | {_SOURCES[row.source]} | {' | '.join(cells)} |")
        return lines


def to_row(result: CellResult) -> Row:
    """A cell's result as it is stored."""
    tally = result.tally
    columns = {name: _as_share(tally.columns[name]) for name in COLUMNS if name in tally.columns}
    motions = {name: _as_share(tally.kinds[name]) for name in _KINDS if name in tally.kinds}
    return Row(
        cell=result.cell,
        source=result.source,
        columns=columns,
        motions=motions,
        seconds=round(result.seconds, 2),
    )


def put_block(text: str, name: str, body: str) -> str:
    """A Markdown page with the part called `name` replaced by `body`, or put at its end where it has none."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n{body.rstrip()}\n{end}"
    before, found, rest = text.partition(begin)
    if found and end in rest:
        return before + block + rest.partition(end)[2]
    return f"{text.rstrip()}\n\n{block}\n".lstrip()


def _as_share(verdicts: Sequence[bool]) -> Share:
    return Share(right=sum(verdicts), of=len(verdicts))


def _share(share: Share) -> str:
    low, high = share.interval()
    return f"{share.value:.1%} ({100 * low:.1f}-{100 * high:.1f})".replace("%", " %")


def _flat(settings: dict[str, Any]) -> Sequence[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in settings.items():
        pairs += list(value.items()) if isinstance(value, dict) else [(name, value)]
    return pairs
