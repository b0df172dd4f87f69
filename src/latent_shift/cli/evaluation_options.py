"""What the commands of `latent-shift evaluate` are asked alike, and the checks of it before any work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latent_shift.checkpoints import DEVICES
from latent_shift.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from latent_shift.evaluation.extractors import Given
    from latent_shift.evaluation.extractors.interface import Extractor

EXTRACTORS = (
    "inception-v3, clip, i3d, c3d, mobilenet-v2, moving-shapes, moving-shapes-frames, moving-shapes-eyes"
)

Names = Annotated[str, typer.Option("--extractor", metavar="NAME,...", help=f"One or more of {EXTRACTORS}.")]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Published weight files. [$LATENT_SHIFT_METRIC_WEIGHTS]"),
]
ClipModel = Annotated[
    str | None,
    typer.Option("--clip", metavar="DIR|HUB-ID", help="CLIP's. [openai/clip-vit-base-patch32]"),
]
Antialias = Annotated[
    bool | None,
    typer.Option("--antialias/--no-antialias", help="When resizing. [as the metric is published]"),
]
Device = Annotated[str, typer.Option(metavar="NAME", help=", ".join(DEVICES))]
Resamples = Annotated[int, typer.Option(help="Of the bootstrap; 0 for no intervals.")]
Json = Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE.json")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE.html", help="One page with everything.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]


def check_numbers(**numbers: int) -> None:
    """ValueError for a number below 1."""
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"--{name} {value}: give 1 or more")


def check_outputs(output: Path | None, html: Path | None, force: bool) -> None:
    """ValueError where a result could not be written."""
    from latent_shift.media import check_output

    for file, suffix in ((output, ".json"), (html, ".html")):
        if file is not None:
            check_output(file, overwrite=force, suffixes=[suffix])


def chosen_names(text: str) -> list[str]:
    """The extractors named in an option, each once. ValueError for none or an unknown one."""
    from latent_shift.evaluation.extractors import EXTRACTORS

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ValueError(f"--extractor {text!r}: name one or more of {EXTRACTORS}")
    for name in names:
        EXTRACTORS.check(name)
    return names


def made(names: Sequence[str], given: Given, frames: int) -> list[Extractor]:
    """The extractors, ready. ValueError for one that cannot take clips of so many frames."""
    quiet_libraries()
    from latent_shift.evaluation.extractors import make_extractor

    extractors = [make_extractor(name, given) for name in names]
    for facts in (extractor.facts for extractor in extractors):
        if facts.frames not in (None, frames):
            raise ValueError(f"--frames {frames}: {facts.name} takes clips of {facts.frames} frames")
    return extractors
