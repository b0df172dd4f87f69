"""`latent-shift evaluate folders`, `report`, `sensitivity`: clips against clips, results side by side.

Checks everything that was asked, then measures folder by folder in one pass each, prints the table, and
writes JSON and a page where they were asked.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latent_shift.checkpoints import DEVICES
from latent_shift.cli.progress import progress_bar
from latent_shift.cli.quiet import quiet_libraries
from latent_shift.cli.result_table import print_report
from latent_shift.cli.text_files import write_text_file

if TYPE_CHECKING:
    from latent_shift.evaluation.extractors import Given
    from latent_shift.evaluation.extractors.interface import Extractor
    from latent_shift.evaluation.report.model import Report
    from latent_shift.evaluation.report.page import Shown

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


def folders(
    real: Annotated[Path, typer.Argument(metavar="REAL", help="A folder, or a file of kept features.")],
    generated: Annotated[list[Path], typer.Argument(metavar="GENERATED...", help="Folders of clips.")],
    extractor: Names = "mobilenet-v2",
    frames: Annotated[int, typer.Option(help="Of each clip, from its beginning; 1 takes images.")] = 16,
    fps: Annotated[float | None, typer.Option(help="Frames a second. [each clip's own frames]")] = None,
    fit: Annotated[
        str, typer.Option(help="exact: one size; crop: the middle square; stretch: whole frames.")
    ] = "exact",
    clips: Annotated[
        int | None, typer.Option(help="Of each generated folder, drawn by the seed. [all]")
    ] = None,
    floor: Annotated[int, typer.Option(help="Real clips to hold out, as a line of their own.")] = 0,
    splits: Annotated[int, typer.Option(help="Of the Inception Score.")] = 1,
    resamples: Resamples = 100,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    batch: Annotated[int, typer.Option(help="Clips at a time.")] = 8,
    weights: Weights = None,
    clip: ClipModel = None,
    antialias: Antialias = None,
    device: Device = "auto",
    keep: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the features there, to use again as REAL.")
    ] = None,
    statistics_only: Annotated[
        bool, typer.Option("--statistics-only", help="Keep no rows: less memory; the Fréchet distance alone.")
    ] = False,
    allow_unreadable: Annotated[bool, typer.Option("--allow-unreadable", help="Leave such out.")] = False,
    allow_short: Annotated[bool, typer.Option("--allow-short", help="Leave such out.")] = False,
    output: Json = None,
    html: Html = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, no table.")] = False,
    force: Force = False,
) -> None:
    """Distances and scores of folders of clips against real ones; CLIPSIM where .txt lie beside."""
    check_numbers(splits=splits, batch=batch)
    check_outputs(output, html, force)
    names = chosen_names(extractor)
    from latent_shift.evaluation.extractors import Given
    from latent_shift.evaluation.features.reading import Reading
    from latent_shift.evaluation.folders import Request, compare_folders, examples
    from latent_shift.evaluation.report.figures import Choices

    request = Request(
        reading=Reading(frames, fps, fit),  # type: ignore[arg-type]  # checked there
        choices=Choices(resamples, splits, seed),
        clips=clips, floor=floor, batch=batch, keep=keep, keep_rows=not statistics_only,
        allow_unreadable=allow_unreadable, allow_short=allow_short,
    )  # fmt: skip
    given = Given(weights=weights, clip=clip, antialias=antialias, device=chosen_device(device))
    extractors = made(names, given, frames)
    with progress_of_sets() as show:
        report = compare_folders(real, generated, extractors, request, show)
    report = with_circumstances(report, command="evaluate folders", seed=seed)
    shown = examples([*([real] if real.is_dir() else []), *generated], request, 6) if html else []
    give(report, output, html, as_json, shown=shown, fps=fps or 8)


def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT.json...", help="Of evaluate's -o.")],
    title: Annotated[str, typer.Option(help="Of the page.")] = "Results",
    output: Json = None,
    html: Html = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, no table.")] = False,
    force: Force = False,
) -> None:
    """Several results side by side; figures of different settings get columns of their own."""
    check_outputs(output, html, force)
    from latent_shift.evaluation.report.model import join, read_report

    give(join([read_report(file) for file in results], title), output, html, as_json)


def sensitivity(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.svg")],
    clips: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Of clips. [rendered Moving Shapes]")
    ] = None,
    extractor: Annotated[
        str, typer.Option(metavar="NAME", help=f"One of {EXTRACTORS}.")
    ] = "moving-shapes-eyes",
    count: Annotated[int, typer.Option(help="Rendered clips.")] = 200,
    frames: Annotated[int, typer.Option(help="Of each clip of a folder.")] = 16,
    fit: Annotated[str, typer.Option(help="Of a folder's clips: exact, crop or stretch.")] = "exact",
    weights: Weights = None,
    clip: ClipModel = None,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Plot how a distance grows as clips get worse: by noise, blur, shuffled frames, frozen frames."""
    check_numbers(count=count)
    from latent_shift.media import check_output

    check_output(output, overwrite=force, suffixes=[".svg"])
    (name,) = chosen_names(extractor)[:1]
    from latent_shift.evaluation.extractors import Given
    from latent_shift.evaluation.features.reading import Reading, in_batches, survey
    from latent_shift.evaluation.report.sensitivity import sensitivity as measure
    from latent_shift.evaluation.report.sensitivity import sensitivity_plot
    from latent_shift.evaluation.report.tables import number

    batches: Iterable[Any]
    if clips is None:
        batches = _rendered(count)
    else:
        reading = Reading(frames, None, fit)  # type: ignore[arg-type]  # checked there
        batches = (some for _, some in in_batches(survey(clips, reading).clips, reading, 8))
    (made_one,) = made([name], Given(weights=weights, clip=clip, device=chosen_device(device)), frames)
    lines = measure(batches, made_one)
    write_text_file(output, sensitivity_plot(lines, made_one) + "\n")
    for line in lines:
        print(f"{line.name}: {', '.join(f'{amount:g} {number(value)}' for amount, value in line.points)}")


def _rendered(count: int) -> Iterator[Any]:
    """Clips of Moving Shapes, in batches that degrade by shares."""
    from latent_shift.data.moving_shapes import draw_scenes, render

    for start in range(0, count, 40):
        yield render(draw_scenes(0, range(start, min(start + 40, count)), level=1))


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
    from latent_shift.evaluation.extractors import check_name

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ValueError(f"--extractor {text!r}: name one or more of {EXTRACTORS}")
    for name in names:
        check_name(name)
    return names


def chosen_device(name: str) -> Any:
    """The torch device of an option. ValueError for another name."""
    from latent_shift.checkpoints import choose_device

    return choose_device(name)


def made(names: Sequence[str], given: Given, frames: int) -> list[Extractor]:
    """The extractors, ready. ValueError for one that cannot take clips of so many frames."""
    quiet_libraries()
    from latent_shift.evaluation.extractors import make_extractor

    extractors = [make_extractor(name, given) for name in names]
    for facts in (extractor.facts for extractor in extractors):
        if facts.frames not in (None, frames):
            raise ValueError(f"--frames {frames}: {facts.name} takes clips of {facts.frames} frames")
    return extractors


@contextmanager
def progress_of_sets() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each set of clips, one after the other."""
    with ExitStack() as stack:
        bars: dict[str, Callable[[int], None]] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in bars:
                stack.close()
                bars[name] = stack.enter_context(progress_bar(name, total))
            bars[name](done)

        yield show


def with_circumstances(report: Report, **more: Any) -> Report:
    """The report with versions, machine and date."""
    from latent_shift.evaluation.features.passing import versions

    told = {
        **more,
        "versions": versions(),
        "machine": f"{machine()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
    }
    return report.model_copy(update={"circumstances": told})


def machine() -> str:
    """The GPU's name, else the kind of processor."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()


def give(
    report: Report,
    output: Path | None,
    html: Path | None,
    as_json: bool,
    *,
    shown: Sequence[Shown] = (),
    fps: float = 8,
) -> None:
    """Print a report, and write it where it was asked."""
    text = report.model_dump_json(indent=2)
    if as_json:
        print(text)
    else:
        print_report(report)
    if output is not None:
        write_text_file(output, text + "\n")
    if html is not None:
        from latent_shift.evaluation.report.page import page

        write_text_file(html, page(report, shown, fps=fps))
