"""`latent-shift evaluate folders`, `report`, `sensitivity`: clips against clips, reports side by side."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from pathlib import Path
from typing import Annotated, Any

import typer

from latent_shift.cli import options as opt
from latent_shift.cli.output import free_place, write_report
from latent_shift.cli.progress import progress_of_sets
from latent_shift.io import printable, write_text

EXAMPLES = 6  # of each folder on the page
BASELINE_NAME = "real, held out"


def folders(
    real: Annotated[
        Path, typer.Argument(metavar="REAL", help="Folder of real clips, or a file of saved features.")
    ],
    generated: Annotated[
        list[Path], typer.Argument(metavar="GENERATED...", help="Folders of clips to evaluate.")
    ],
    extractor: opt.Extractors = "mobilenet-v2",
    metrics: opt.Metrics = None,
    frames: Annotated[
        int, typer.Option(help="Number of frames read of each clip, from its beginning; 1 takes images.")
    ] = 16,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second at which clips are read. [each clip's own frames]")
    ] = None,
    fit: Annotated[
        str,
        typer.Option(
            help="exact requires clips of one size; crop takes the middle square; stretch whole frames."
        ),
    ] = "exact",
    clips: Annotated[
        int | None, typer.Option(help="Number of clips drawn from each generated folder. [all]")
    ] = None,
    baseline: Annotated[
        int, typer.Option(help="Number of real clips held out and compared with the others as a row.")
    ] = 0,
    is_splits: opt.IsSplits = 1,
    resamples: opt.Resamples = 100,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    batch: opt.Batch = 8,
    weights: opt.Weights = None,
    clip: opt.ClipModel = None,
    antialias: opt.Antialias = None,
    device: opt.Device = "auto",
    save_features: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=opt.folder_path,
            help="Save the features there; a file of them can stand for REAL.",
        ),
    ] = None,
    statistics_only: Annotated[
        bool,
        typer.Option(
            "--statistics-only", help="Keep statistics instead of features: no kernel distances, no CLIPSIM."
        ),
    ] = False,
    allow_unreadable: opt.AllowUnreadable = False,
    allow_short: opt.AllowShort = False,
    output: opt.Output = None,
    html: opt.Html = None,
    as_json: opt.AsJson = False,
    force: opt.Force = False,
) -> None:
    """Compare folders of clips with real clips: distances and scores; CLIPSIM where .txt files lie beside."""
    opt.check_range(1, inf, is_splits=is_splits, batch=batch)
    opt.check_range(0, inf, resamples=resamples, baseline=baseline, seed=seed)
    opt.check_files({".json": output, ".html": html}, overwrite=force)
    names, requested = opt.extractor_names(extractor), opt.metric_names(metrics)
    from latent_shift.evaluation.clip_files import ClipReadOptions
    from latent_shift.evaluation.features import SourceFeatures
    from latent_shift.evaluation.metrics.base import MetricOptions
    from latent_shift.evaluation.runner import evaluate, first_examples, reference_from_file
    from latent_shift.evaluation.sources import FolderClips, check_shapes

    read = ClipReadOptions(frames, fps, fit)  # type: ignore[arg-type]  # checked there
    extractors = opt.build_extractors(
        names, frames, weights=weights, clip=clip, antialias=antialias, device=device
    )
    allowed = {"allow_unreadable": allow_unreadable, "allow_short": allow_short}
    sources = [
        FolderClips(folder, read, count=clips, seed=seed, batch_size=batch, **allowed) for folder in generated
    ]
    examples = EXAMPLES if html else 0
    if real.is_file():
        if baseline:
            raise ValueError(f"{real}: is a file of features; only of a folder can clips be held out")
        reference: FolderClips | SourceFeatures = reference_from_file(real, extractors)
        shown = []
    else:
        reference = whole = FolderClips(real, read, batch_size=batch, **allowed)
        if whole.name in [source.name for source in sources]:  # as of real/clips and generated/clips
            whole.name += " (real)"
        shown = first_examples(whole, examples)
        if baseline:
            sources.insert(0, whole.hold_out(baseline, BASELINE_NAME, seed))
    check_shapes([*sources, *([reference] if isinstance(reference, FolderClips) else [])])
    with progress_of_sets() as on_progress:
        report = evaluate(
            sources,
            requested,
            reference,
            MetricOptions(resamples, is_splits, seed),
            extractors=extractors,
            strict=requested is not None,
            examples=examples,
            keep_rows=not statistics_only,
            features_dir=save_features,
            on_progress=on_progress,
        )
    report = report.model_copy(update={"examples": [*shown, *report.examples]})
    write_report(report, output, html, as_json, force=force, command="evaluate folders", seed=seed)


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULT.json...", help="Reports written by `evaluate ... -o`.")
    ],
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Results",
    output: opt.Output = None,
    html: opt.Html = None,
    as_json: opt.AsJson = False,
    force: opt.Force = False,
) -> None:
    """Join reports side by side; values of different settings get columns of their own."""
    opt.check_files({".json": output, ".html": html}, overwrite=force)
    from latent_shift.evaluation.report import join_reports, read_report

    joined = join_reports([read_report(file) for file in results], printable(title))
    write_report(joined, output, html, as_json, force=force)


def sensitivity(
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE.svg",
            parser=opt.output_path,
            help="File that the plot is written to.",
        ),
    ],
    clips: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Folder of clips. [rendered Moving Shapes]")
    ] = None,
    extractor: Annotated[
        str, typer.Option(metavar="NAME", help=f"One extractor of {opt.EXTRACTOR_NAMES}.")
    ] = "moving-shapes-eyes",
    count: Annotated[int, typer.Option(help="Number of rendered clips.")] = 200,
    frames: Annotated[int, typer.Option(help="Number of frames read of each clip of the folder.")] = 16,
    fit: Annotated[
        str, typer.Option(help="How the folder's clips are fitted: exact, crop or stretch.")
    ] = "exact",
    weights: opt.Weights = None,
    clip: opt.ClipModel = None,
    device: opt.Device = "auto",
    allow_unreadable: opt.AllowUnreadable = False,
    allow_short: opt.AllowShort = False,
    force: opt.Force = False,
) -> None:
    """Plot how a distance grows as clips get worse: by noise, blur, shuffled frames, frozen frames."""
    opt.check_range(1, inf, count=count)
    opt.check_files({".svg": output}, overwrite=force)
    names = opt.extractor_names(extractor)[:1]
    from latent_shift.evaluation.clip_files import ClipReadOptions
    from latent_shift.evaluation.plots import line_plot
    from latent_shift.evaluation.report import format_number
    from latent_shift.evaluation.sensitivity import sensitivity as measure
    from latent_shift.evaluation.sources import FolderClips
    from latent_shift.io import warn

    batches: Iterable[Any]
    folder: FolderClips | None = None
    if clips is None:
        from latent_shift.moving_shapes import draw_scenes, render

        # Batches so large that shares of them can be corrupted
        parts = (range(start, min(start + 40, count)) for start in range(0, count, 40))
        batches = (render(draw_scenes(0, part, level=1)) for part in parts)
    else:
        read = ClipReadOptions(frames, None, fit)  # type: ignore[arg-type]  # checked there
        folder = FolderClips(clips, read, allow_unreadable=allow_unreadable, allow_short=allow_short)
        batches = (batch.clips for batch in folder.batches())
    (loaded,) = opt.build_extractors(names, frames, weights=weights, clip=clip, device=device)
    lines = measure(batches, loaded)
    for note in folder.notes if folder is not None else ():
        warn(note)
    title = f"Fréchet distance on {loaded.info.name}"
    write_text(free_place(output, force), line_plot(title, "amount", "distance", lines) + "\n")
    for line in lines:
        values = ", ".join(f"{amount:g} {format_number(value)}" for amount, value in line.points)
        print(f"{line.name}: {values}")
