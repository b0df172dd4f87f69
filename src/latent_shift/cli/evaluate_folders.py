"""`latent-shift evaluate folders`, `report`, `sensitivity`: clips against clips, results side by side.

Checks everything that was asked, then measures folder by folder in one pass each, prints the table, and
writes JSON and a page where they were asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from latent_shift.checkpoints import choose_device
from latent_shift.cli.evaluation_options import (
    EXTRACTORS,
    Antialias,
    ClipModel,
    Device,
    Force,
    Html,
    Json,
    Names,
    Resamples,
    Weights,
    check_numbers,
    check_outputs,
    chosen_names,
    made,
)
from latent_shift.cli.progress import progress_of_sets
from latent_shift.cli.results import give, with_circumstances
from latent_shift.io import write_text


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
    given = Given(weights=weights, clip=clip, antialias=antialias, device=choose_device(device))
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
    (made_one,) = made([name], Given(weights=weights, clip=clip, device=choose_device(device)), frames)
    lines = measure(batches, made_one)
    write_text(output, sensitivity_plot(lines, made_one) + "\n")
    for line in lines:
        print(f"{line.name}: {', '.join(f'{amount:g} {number(value)}' for amount, value in line.points)}")


def _rendered(count: int) -> Iterator[Any]:
    """Clips of Moving Shapes, in batches that degrade by shares."""
    from latent_shift.moving_shapes import draw_scenes, render

    for start in range(0, count, 40):
        yield render(draw_scenes(0, range(start, min(start + 40, count)), level=1))
