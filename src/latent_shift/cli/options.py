"""Options that several commands share, their checks before any work, and what is made of them.

from latent_shift.cli import options as opt
def command(steps: opt.Steps = None, ...): opt.check_sampling(steps=steps, ...)
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from latent_shift.checkpoints import DEVICES, DTYPES, choose_device
from latent_shift.checkpoints.quiet import quiet_libraries
from latent_shift.io import at_home, check_folder, check_no_address
from latent_shift.limits import MAX_GUIDANCE, MAX_STEPS

if TYPE_CHECKING:
    from latent_shift.evaluation.evaluated_model import EvaluatedModel
    from latent_shift.evaluation.extractors.base import Extractor


def output_path(typed: str | Path) -> Path:
    """The path of an output that was typed; ~/ begins in the user's folder also where no shell saw it.

    typed: or an option's default, a Path. Raises typer.BadParameter for no name, and for an address, of which
    a Path would make a folder called s3: or such.
    """
    text = str(typed)
    try:
        check_no_address(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not text.strip():
        raise typer.BadParameter("is empty; name a file or folder")
    return Path(at_home(text))


def folder_path(typed: str | Path) -> Path:
    """The path of an output folder. Raises typer.BadParameter as `output_path`, and where none can be made.

    typed: as of `output_path`.
    """
    folder = output_path(typed)
    try:
        check_folder(folder)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return folder


def page_path(typed: str | Path) -> Path:
    """The path of a Markdown page that a table goes into; where it cannot, that is an error before any work.

    typed: as of `output_path`. Raises typer.BadParameter as that, for another suffix, and for a page that is
    no UTF-8.
    """
    from latent_shift.cli.output import read_page
    from latent_shift.media import check_output

    page = output_path(typed)
    try:
        check_output(page, overwrite=True, suffixes=[".md"])
        check_folder(page.resolve().parent)  # a link stays one, to the changed page
        read_page(page, "")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return page


def settings_at_home(settings: Sequence[str] | None) -> list[str]:
    """The values typed for --set, with the user's folder for a ~/ after the =, which most shells leave."""
    pairs = [setting.partition("=") for setting in settings or []]
    return [f"{key}{equals}{at_home(value)}" for key, equals, value in pairs]


# Of every command
Steps = Annotated[int | None, typer.Option(help="Number of denoising steps. [the model's]")]
Guidance = Annotated[float | None, typer.Option(help="Classifier-free guidance scale. [the model's]")]
Device = Annotated[str, typer.Option(metavar="NAME", help=f"Device: {', '.join(DEVICES)}.")]
Dtype = Annotated[str, typer.Option(metavar="NAME", help=f"Precision: {', '.join(DTYPES)}.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]

# Of `evaluate`
EXTRACTOR_NAMES = (
    "inception-v3, clip, i3d, c3d, mobilenet-v2, moving-shapes, moving-shapes-frames, moving-shapes-eyes"
)
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
    typer.Option("--antialias/--no-antialias", help="Resize with or without antialiasing. [as published]"),
]
Batch = Annotated[int, typer.Option(help="Number of clips processed together.")]
IsSplits = Annotated[int, typer.Option(help="Number of splits of the Inception Score.")]
Resamples = Annotated[int, typer.Option(help="Number of bootstrap resamples; 0 computes no intervals.")]
AllowUnreadable = Annotated[bool, typer.Option("--allow-unreadable", help="Skip files that cannot be read.")]
AllowShort = Annotated[bool, typer.Option("--allow-short", help="Skip clips that are too short.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE.json", parser=output_path, help="Write the report as JSON."),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE.html", parser=output_path, help="Write the report as one page with clips."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of a table.")]

RENAMED = {  # earlier names of options of `evaluate`, accepted for one release
    "--floor": "--baseline",
    "--keep": "--save-features",
    "--work": "--cache-dir",
    "--side": "--resolution",
    "--splits": "--is-splits",
    "--part": "--shard",
    "--cells": "--subsets",
    "--towers": "--encoders",
}


class EvaluateCommand(TyperCommand):
    """A command that accepts the old names of its options, with a warning."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Parse arguments after renaming old options."""
        known = {name for parameter in self.params for name in parameter.opts}
        renamed = []
        for argument in args:
            name, equals, value = argument.partition("=")
            if RENAMED.get(name) in known and name not in known:
                warnings.warn(f"{name} is now {RENAMED[name]}; the old name will be removed", stacklevel=1)
                argument = RENAMED[name] + equals + value
            renamed.append(argument)
        return super().parse_args(ctx, renamed)


@dataclass(frozen=True)
class Sampling:
    """Options of commands that evaluate generated clips. Raises ValueError for one that is out of range."""

    steps: Steps = None
    guidance: Guidance = None
    batch: Batch = 8
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=folder_path,
            help="Keep generated clips in this folder; a stopped evaluation goes on there.",
        ),
    ] = None
    device: Device = "auto"
    dtype: Dtype = "auto"

    def __post_init__(self) -> None:
        check_range(1, MAX_STEPS, steps=self.steps)
        check_range(0, MAX_GUIDANCE, guidance=self.guidance)
        check_choice(DTYPES, dtype=self.dtype)
        check_choice(DEVICES, device=self.device)

    def load(self, model: str, resolution: int) -> EvaluatedModel:
        """Load a model, to make clips of this height and width in pixels."""
        quiet_libraries()
        from latent_shift.evaluation.evaluated_model import EvaluatedModel

        return EvaluatedModel.load(
            model, resolution=resolution, steps=self.steps, guidance=self.guidance,
            device=self.device, dtype=self.dtype,
        )  # fmt: skip

    def block_name(self, what: str, subsets: str, prompts: int) -> str:
        """Name of a table's block in a page: what was evaluated, and options that are not the usual ones.

        subsets, prompts: of the command's options of these names, of which 300 prompts are the usual.
        """
        told = [what, *split_names(subsets)]
        told += [] if prompts == 300 else [f"prompts {prompts}"]
        told += [] if self.steps is None else [f"steps {self.steps}"]
        told += [] if self.guidance is None else [f"guidance {self.guidance:g}"]
        return ", ".join(told if self.dtype == "auto" else [*told, self.dtype])


def with_fields(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of its last parameter, a dataclass such as `Sampling`."""
    *own, group = inspect.signature(command, eval_str=True).parameters.values()
    kind = group.annotation
    hints = get_type_hints(kind, include_extras=True)
    shared = [
        inspect.Parameter(field.name, group.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        for field in fields(kind)
    ]

    @wraps(command)
    def with_group(**given: Any) -> None:
        values = {one.name: given.pop(one.name) for one in shared}
        command(**given, **{group.name: kind(**values)})

    keyword_only = [parameter.replace(kind=group.KEYWORD_ONLY) for parameter in own]
    vars(with_group)["__signature__"] = inspect.Signature([*keyword_only, *shared])
    return with_group


def check_range(low: float, high: float, **numbers: float | None) -> None:
    """Raise ValueError naming an option that is out of range; None, one that is not given, passes."""
    wanted = f"{low:g} or more" if high == inf else f"{low:g} to {high:g}"
    for name, value in numbers.items():
        if value is not None and not low <= value <= high:
            raise ValueError(f"--{name.replace('_', '-')} {value}: give {wanted}")


def check_choice(known: Collection[str], **names: str | None) -> None:
    """Raise ValueError naming an option that is none of the known ones; None passes."""
    for option, value in names.items():
        if value is not None and value not in known:
            raise ValueError(f"--{option} {value}: expected one of {', '.join(known)}")


def parse_interval(text: str) -> tuple[float, float]:
    """Parse the noise levels of --guidance-interval, "LOW,HIGH". Raises ValueError for any other text."""
    low, _, high = text.partition(",")
    try:
        found = float(low), float(high)
    except ValueError:
        found = (1.0, 0.0)
    if not 0 <= found[0] <= found[1] <= 1:
        raise ValueError(f"--guidance-interval {text}: give two noise levels from 0 to 1, such as 0.2,0.8")
    return found


def check_files(files: dict[str, Path | None], *, overwrite: bool) -> None:
    """Raise ValueError where a file, by its suffix, could not be written."""
    from latent_shift.media import check_output

    for suffix, file in files.items():
        if file is not None:
            check_output(file, overwrite=overwrite, suffixes=[suffix])


def split_names(text: str) -> list[str]:
    """Split names at commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


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

    if text is None:
        return None
    if not split_names(text):
        raise ValueError(f"--metrics {text!r}: names none; known are {', '.join(METRICS.names())}")
    for name in split_names(text):
        METRICS.check(name.partition("@")[0])
    return split_names(text)


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
