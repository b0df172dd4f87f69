"""Options that the commands of `latent-shift evaluate` share, and their checks before any work."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from latent_shift.checkpoints import DEVICES, DTYPES, choose_device
from latent_shift.cli.progress import quiet_libraries
from latent_shift.limits import MAX_GUIDANCE, MAX_STEPS

if TYPE_CHECKING:
    from latent_shift.evaluation.extractors.base import Extractor

EXTRACTOR_NAMES = (
    "inception-v3, clip, i3d, c3d, mobilenet-v2, moving-shapes, moving-shapes-frames, moving-shapes-eyes"
)
RENAMED = {  # earlier names of options, accepted for one release
    "--floor": "--baseline",
    "--keep": "--save-features",
    "--work": "--cache-dir",
    "--side": "--resolution",
    "--splits": "--is-splits",
    "--part": "--shard",
    "--cells": "--subsets",
    "--towers": "--encoders",
}

Extractors = Annotated[
    str, typer.Option("--extractor", metavar="NAME,...", help=f"One or more extractors of {EXTRACTOR_NAMES}.")
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...",
        help="Metrics: fid, kid, fvd, kvd, is, clipsim, flicker, motion; NAME@EXTRACTOR on one extractor."
        " [all that clips and extractors allow]",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of published weight files. [$LATENT_SHIFT_METRIC_WEIGHTS]"),
]
ClipModel = Annotated[
    str | None,
    typer.Option("--clip", metavar="DIR|HUB-ID", help="CLIP model. [openai/clip-vit-base-patch32]"),
]
Antialias = Annotated[
    bool | None,
    typer.Option(
        "--antialias/--no-antialias",
        help="Resize with or without antialiasing. [as published]",
    ),
]
Model = Annotated[str, typer.Option(help="Model to evaluate: a name, a folder, or a hub id (org/name).")]
Steps = Annotated[int | None, typer.Option(help="Number of denoising steps. [the model's]")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale. [the model's]")]
Batch = Annotated[int, typer.Option(help="Number of clips processed together.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Keep generated clips in this folder; a stopped evaluation goes on from there."
    ),
]
SaveFeatures = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Save features of real clips there, and use them again.")
]
IsSplits = Annotated[int, typer.Option(help="Number of splits of the Inception Score.")]
Resamples = Annotated[int, typer.Option(help="Number of bootstrap resamples; 0 computes no intervals.")]
Device = Annotated[str, typer.Option(metavar="NAME", help=f"Device: {', '.join(DEVICES)}.")]
Dtype = Annotated[str, typer.Option(metavar="NAME", help=f"Precision of the model: {', '.join(DTYPES)}.")]
AllowShort = Annotated[bool, typer.Option("--allow-short", help="Skip clips that are too short.")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE.json", help="Write the report as JSON.")
]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE.html", help="Write the report as one page with clips.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of a table.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]


class EvaluateCommand(TyperCommand):
    """A command that accepts the old names of its options, with a warning."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse arguments after renaming old options."""
        known = {name for parameter in self.params for name in parameter.opts}
        return super().parse_args(ctx, [self._renamed(argument, known) for argument in args])

    @staticmethod
    def _renamed(argument: str, known: set[str]) -> str:
        name, equals, value = argument.partition("=")
        if RENAMED.get(name) not in known or name in known:
            return argument
        warnings.warn(f"{name} is now {RENAMED[name]}; the old name will be removed", stacklevel=2)
        return RENAMED[name] + equals + value


def check_positive(**numbers: int) -> None:
    """Raise ValueError for a number below 1."""
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: give 1 or more")


def check_sampling(*, steps: int | None, guidance: float | None, dtype: str, device: str) -> None:
    """Raise ValueError naming the option that is out of range."""
    if steps is not None and not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"--steps {steps}: give 1 to {MAX_STEPS}")
    if guidance is not None and not 0 <= guidance <= MAX_GUIDANCE:
        raise ValueError(f"--guidance {guidance}: give 0 to {MAX_GUIDANCE:g}")
    for option, value, known in (("dtype", dtype, DTYPES), ("device", device, DEVICES)):
        if value not in known:
            raise ValueError(f"--{option} {value}: expected one of {', '.join(known)}")


def check_report_files(output: Path | None, html: Path | None, force: bool) -> None:
    """Raise ValueError where the report could not be written."""
    from latent_shift.media import check_output

    for file, suffix in ((output, ".json"), (html, ".html")):
        if file is not None:
            check_output(file, overwrite=force, suffixes=[suffix])


def extractor_names(text: str) -> list[str]:
    """Parse the extractors of an option, each once. ValueError for none or an unknown one."""
    from latent_shift.evaluation.extractors import EXTRACTORS

    names = split_names(text)
    if not names:
        raise ValueError(f"--extractor {text!r}: name one or more of {EXTRACTOR_NAMES}")
    for name in names:
        EXTRACTORS.check(name)
    return names


def metric_names(text: str | None) -> list[str] | None:
    """Parse the metrics of an option, each once; None for None. ValueError for an unknown one."""
    from latent_shift.evaluation.metrics import METRICS

    for name in split_names(text or ""):
        METRICS.check(name.partition("@")[0])
    return None if text is None else split_names(text)


def split_names(text: str) -> list[str]:
    """Split names at commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def build_extractors(
    names: Sequence[str],
    frames: int,
    *,
    weights: Path | None = None,
    clip: str | None = None,
    model: Path | None = None,
    antialias: bool | None = None,
    device: str = "auto",
) -> list[Extractor]:
    """Load extractors. ValueError for one that cannot take clips of so many frames."""
    quiet_libraries()
    from latent_shift.evaluation.extractors import ExtractorOptions, make_extractor

    options = ExtractorOptions(weights, clip, model, antialias, choose_device(device))
    extractors = [make_extractor(name, options) for name in names]
    for info in (extractor.info for extractor in extractors):
        if info.frames not in (None, frames):
            raise ValueError(f"--frames {frames}: {info.name} takes clips of {info.frames} frames")
    return extractors
