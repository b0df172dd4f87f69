"""`latent-shift evaluate moving-shapes` and `moving-shapes-report`: models of the generated world.

Stopped and started again with the same --cache-dir folder, both go on where they were; the report keeps the
clips of each model in a folder of their own there.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latent_shift import systems
from latent_shift.checkpoints import DEFAULT_MODEL
from latent_shift.cli import options as opt
from latent_shift.cli.output import write_report, write_scores
from latent_shift.cli.progress import progress_of_sets

if TYPE_CHECKING:
    from latent_shift.evaluation.evaluated_model import EvaluatedModel

_EXAMPLES = 6  # of each subset on the sheet or page


@opt.with_fields
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
        int | None, typer.Option(help="Number of frames of each clip: 16, 8 or 6; 1 evaluates images. [16]")
    ] = None,
    reference_only: Annotated[
        bool,
        typer.Option(
            "--reference-only",
            help="Evaluate real clips only; with --model their reconstruction by its autoencoder, too.",
        ),
    ] = False,
    output: opt.Output = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.md",
            parser=opt.page_path,
            help="Write the table into this page, in place of its former self.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            parser=opt.output_path,
            help="Write a sheet of clips with the scorer's verdicts.",
        ),
    ] = None,
    force: opt.Force = False,
    *,
    sampling: opt.Sampling,
) -> None:
    """Score colour, shape, motion and background of a model's clips against their prompts."""
    opt.check_files({".json": output, ".png": sheet}, overwrite=force)
    name = None if reference_only and model is None else model or DEFAULT_MODEL
    if name is not None:
        systems.inspect(name)
    from latent_shift.moving_shapes import protocol
    from latent_shift.moving_shapes.report import score_report, score_table

    chosen = protocol.choose_subsets(opt.split_names(subsets))
    frames = protocol.constants.FRAMES if frames is None else frames
    protocol.check_numbers(prompts, frames, sampling.batch)
    evaluated = None
    if name is not None:
        evaluated = _load(name, frames, sampling).with_cache(sampling.cache_dir, {}, seed=protocol.SEED)
    with progress_of_sets() as on_progress:
        report = score_report(
            evaluated,
            chosen,
            prompts=prompts,
            frames=frames,
            batch_size=sampling.batch,
            generate=not reference_only,
            examples=_EXAMPLES if sheet else 0,
            on_progress=on_progress,
        )
    block = f"moving-shapes: {evaluated.name if evaluated else 'the scorer'}, frames {frames}"
    if reference_only and evaluated is not None:
        block += ", real clips only"
    block = sampling.block_name(block, subsets, prompts)
    write_scores(
        report, score_table(report), block, output=output, markdown=markdown, sheet=sheet, force=force
    )


def _load(name: str, frames: int, sampling: opt.Sampling) -> EvaluatedModel:
    from latent_shift.moving_shapes.constants import SIZE

    model = sampling.load(name, SIZE)
    return replace(model, settings={**model.settings, "frames": frames, "batch": sampling.batch})


@opt.with_fields
def moving_shapes_report(
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help=f"Model to evaluate: a name or a folder; repeatable. [{DEFAULT_MODEL}]"),
    ] = None,
    subsets: Annotated[str, typer.Option(metavar="NAME,...", help="Prompt subsets.")] = "level-1-seen",
    prompts: Annotated[int, typer.Option(help="Number of prompts of each subset, one clip each.")] = 300,
    reference: Annotated[int, typer.Option(help="Number of real clips that distances are from.")] = 1000,
    frames: Annotated[int, typer.Option(help="Number of frames of each clip: 16, 8 or 6.")] = 16,
    extractor: opt.Extractors = "moving-shapes,moving-shapes-frames,moving-shapes-eyes",
    encoders: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Model with the encoders that features come from. [built-in]"),
    ] = None,
    weights: opt.Weights = None,
    resamples: opt.Resamples = 100,
    output: opt.Output = None,
    html: opt.Html = None,
    as_json: opt.AsJson = False,
    force: opt.Force = False,
    *,
    sampling: opt.Sampling,
) -> None:
    """Compute FVD, FID, CLIPSIM, IS and the exact scores of models, beside real clips against real clips."""
    opt.check_files({".json": output, ".html": html}, overwrite=force)
    names = opt.extractor_names(extractor)
    chosen = models or [DEFAULT_MODEL]
    if len(set(chosen)) < len(chosen):
        raise ValueError("--model: the same model is named twice")
    for name in chosen:
        systems.inspect(name)
    from latent_shift.evaluation.metrics.base import MetricOptions
    from latent_shift.moving_shapes import protocol
    from latent_shift.moving_shapes.report import moving_shapes_report as make_report

    wanted = protocol.choose_subsets(opt.split_names(subsets))
    protocol.check_numbers(prompts, frames, sampling.batch)
    opt.check_range(1, inf, reference=reference)
    extractors = opt.build_extractors(names, frames, weights=weights, model=encoders, device=sampling.device)
    evaluated = []
    for number, name in enumerate(chosen):
        loaded, cache = _load(name, frames, sampling), sampling.cache_dir
        place = None if cache is None else cache / f"{number}-{loaded.settings['weights']}"
        evaluated.append(loaded.with_cache(place, {}, seed=protocol.SEED))
    with progress_of_sets() as on_progress:
        report = make_report(
            evaluated,
            extractors,
            wanted,
            prompts=prompts,
            frames=frames,
            batch_size=sampling.batch,
            reference=reference,
            options=MetricOptions(resamples),
            examples=_EXAMPLES if html else 0,
            on_progress=on_progress,
        )
    write_report(report, output, html, as_json, force=force, command="evaluate moving-shapes-report")
