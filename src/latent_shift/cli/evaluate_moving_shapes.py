"""`latent-shift evaluate moving-shapes` and `moving-shapes-report`: models of the generated world.

Stopped and started again with the same --cache-dir folder, both go on where they were; the report keeps the
clips of each model in a folder of their own there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latent_shift import checkpoints
from latent_shift.checkpoints import DEFAULT_MODEL
from latent_shift.cli.evaluation_options import (
    AsJson,
    Batch,
    CacheDir,
    Device,
    Dtype,
    Extractors,
    Force,
    Guidance,
    Html,
    Output,
    Resamples,
    Steps,
    Weights,
    build_extractors,
    check_positive,
    check_report_files,
    check_sampling,
    extractor_names,
    split_names,
)
from latent_shift.cli.output import write_report
from latent_shift.cli.progress import progress_bar, progress_of_sets
from latent_shift.cli.tested_model import TestedModel, load_tested, short_name
from latent_shift.io import write_text

if TYPE_CHECKING:
    from latent_shift.moving_shapes.scorer.protocol import Cell, CellResult, Source

_EXAMPLES = 6  # of each subset on the sheet or page


def moving_shapes(
    model: Annotated[
        str | None,
        typer.Option(help=f"Model to evaluate: a name, a folder, or a hub id (org/name). [{DEFAULT_MODEL}]"),
    ] = None,
    subsets: Annotated[
        str, typer.Option(metavar="NAME,...", help="Prompt subsets, such as level-1-seen. [all]")
    ] = "",
    prompts: Annotated[int, typer.Option(help="Number of prompts of each subset, one clip each.")] = 300,
    frames: Annotated[
        int | None, typer.Option(help="Number of frames of each clip; 1 evaluates images. [16]")
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    batch: Batch = 8,
    reference_only: Annotated[
        bool,
        typer.Option(
            "--reference-only",
            help="Evaluate real clips only; with --model their reconstruction by its autoencoder, too.",
        ),
    ] = False,
    cache_dir: CacheDir = None,
    output: Output = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE.md", help="Write the table into this page, in place of its former self."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Write a sheet of clips with the scorer's verdicts."),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Score colour, shape, motion and background of a model's clips against their prompts."""
    check_sampling(steps=steps, guidance=guidance, dtype=dtype, device=device)
    _check_outputs(output, markdown, sheet, force)
    folder = None if reference_only and model is None else checkpoints.resolve(model or DEFAULT_MODEL)
    from latent_shift.moving_shapes.scorer import protocol

    chosen = protocol.choose_cells(split_names(subsets))
    frames = protocol.constants.FRAMES if frames is None else frames
    protocol.check_numbers(prompts, frames, batch)
    asked = {"frames": frames, "batch": batch, "prompts": prompts, "seed": protocol.SEED}
    tested = None
    if folder is not None:
        name, side = model or DEFAULT_MODEL, protocol.constants.SIZE
        tested = load_tested(folder, name, steps, guidance, side=side, device=device, dtype=dtype)
    sources: list[Source] = ["rendered"] if tested is None else ["rendered", "autoencoder"]
    if tested is not None and not reference_only:
        sources.append("model")
    found = _measure(chosen, sources, tested, asked, cache_dir, _EXAMPLES if sheet else 0)
    _report(found, asked, tested, output, markdown)
    if sheet is not None:
        _write_sheet(sheet, [result for result in found if result.source == sources[-1]])


def _check_outputs(output: Path | None, markdown: Path | None, sheet: Path | None, force: bool) -> None:
    from latent_shift.media import check_output

    wanted = ((output, ".json", force), (markdown, ".md", True), (sheet, ".png", force))
    for file, suffix, overwrite in wanted:
        if file is not None:
            check_output(file, overwrite=overwrite, suffixes=[suffix])


def _measure(
    cells: Sequence[Cell],
    sources: Sequence[Source],
    tested: TestedModel | None,
    asked: dict[str, int],
    work: Path | None,
    examples: int,
) -> list[CellResult]:
    """Every cell of every source, under one progress bar."""
    from latent_shift.evaluation.clip_cache import ClipCache
    from latent_shift.moving_shapes.scorer.protocol import measure

    numbers = {"prompts": asked["prompts"], "frames": asked["frames"], "batch": asked["batch"]}
    kept_with = {"frames": asked["frames"], "batch": asked["batch"], "seed": asked["seed"]}
    store = None if tested is None else ClipCache(work, {**tested.settings, **kept_with})
    maker = None if tested is None else tested.maker
    found: list[CellResult] = []
    with progress_bar("clips", len(cells) * len(sources) * asked["prompts"]) as show_done:
        for cell in cells:
            for source in sources:
                before = len(found) * asked["prompts"]
                show = partial(_show_done, show_done, before)
                found.append(
                    measure(
                        cell, source, **numbers, maker=maker, store=store, examples=examples, show_done=show
                    )
                )
    return found


def _show_done(show: Callable[[int], None], before: int, done: int) -> None:
    show(before + done)


def _report(
    found: Sequence[CellResult],
    asked: dict[str, int],
    tested: TestedModel | None,
    output: Path | None,
    markdown: Path | None,
) -> None:
    from latent_shift.evaluation.runner import environment
    from latent_shift.moving_shapes.scorer.results import Results, put_block, to_row

    circumstance = {"seconds a clip": _seconds_a_clip(found), **environment()}
    settings = {**(tested.settings if tested else {}), **asked, **circumstance}
    results = Results(settings=settings, rows=[to_row(result) for result in found])
    print(results.markdown())
    if output is not None:
        write_text(output, results.model_dump_json(indent=2) + "\n")
    if markdown is not None:
        page = markdown.read_text(encoding="utf-8") if markdown.is_file() else "# Results\n"
        subject = tested.settings["model"] if tested else "the scorer"
        name = f"moving-shapes: {short_name(subject)}, frames {asked['frames']}"
        write_text(markdown, put_block(page, name, f"### {name}\n\n{results.markdown()}"))


def _seconds_a_clip(found: Sequence[CellResult]) -> float | None:
    """Mean seconds for a clip of the model; None where it made none."""
    made = [result for result in found if result.source == "model"]
    clips = sum(len(result.tally.columns["all"]) for result in made)
    return round(sum(result.seconds for result in made) / clips, 3) if clips else None


def _write_sheet(file: Path, found: Sequence[CellResult]) -> None:
    from latent_shift.media import contact_sheet, write_image

    shown = [example for result in found for example in result.examples]
    captions = [f"{example.prompt}: {example.verdict()}" for example in shown]
    columns = None if len(shown[0].clip) > 1 else 1
    write_image(
        file, contact_sheet([example.clip for example in shown], captions, columns=columns), overwrite=True
    )


def moving_shapes_report(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help=f"Model to evaluate: a name or a folder; repeatable. [{DEFAULT_MODEL}]",
        ),
    ] = None,
    subsets: Annotated[str, typer.Option(metavar="NAME,...", help="Prompt subsets.")] = "level-1-seen",
    prompts: Annotated[int, typer.Option(help="Number of prompts of each subset, one clip each.")] = 300,
    reference: Annotated[int, typer.Option(help="Number of real clips that distances are from.")] = 1000,
    frames: Annotated[int, typer.Option(help="Number of frames of each clip: 16, 8 or 6.")] = 16,
    steps: Steps = None,
    guidance: Guidance = None,
    batch: Batch = 8,
    extractor: Extractors = "moving-shapes,moving-shapes-frames,moving-shapes-eyes",
    towers: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Model with the encoders that features come from. [built-in]"),
    ] = None,
    weights: Weights = None,
    resamples: Resamples = 100,
    cache_dir: CacheDir = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    output: Output = None,
    html: Html = None,
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Compute FVD, FID, CLIPSIM, IS and the exact scores of models, beside real clips against real clips."""
    check_sampling(steps=steps, guidance=guidance, dtype=dtype, device=device)
    check_report_files(output, html, force)
    names = extractor_names(extractor)
    chosen = models or [DEFAULT_MODEL]
    if len(set(chosen)) < len(chosen):
        raise ValueError("--model: the same model is named twice")
    folders = [checkpoints.resolve(name) for name in chosen]
    from latent_shift.evaluation.clip_cache import ClipCache
    from latent_shift.evaluation.metrics.base import MetricOptions
    from latent_shift.moving_shapes.scorer import protocol
    from latent_shift.moving_shapes.scorer.report import Asked, Tested
    from latent_shift.moving_shapes.scorer.report import moving_shapes_report as make_report

    wanted = protocol.choose_cells(split_names(subsets))
    protocol.check_numbers(prompts, frames, batch)
    check_positive(reference=reference)
    examples = _EXAMPLES if html else 0
    asked = Asked(wanted, prompts, frames, batch, MetricOptions(resamples), reference, examples)
    extractors = build_extractors(names, frames, weights=weights, model=towers, device=device)
    tested = []
    for number, (name, folder) in enumerate(zip(chosen, folders, strict=True)):
        side = protocol.constants.SIZE
        one = load_tested(folder, name, steps, guidance, side=side, device=device, dtype=dtype)
        kept_with = {"frames": frames, "batch": batch, "seed": protocol.SEED}
        place = None if cache_dir is None else cache_dir / f"{number}-{one.settings['weights']}"
        cache = ClipCache(place, {**one.settings, **kept_with})
        tested.append(Tested(short_name(name), one.maker, cache, {**one.settings, "frames": frames}))
    with progress_of_sets() as on_progress:
        report = make_report(tested, extractors, asked, on_progress)
    write_report(report, output, html, as_json, command="evaluate moving-shapes-report")
