"""`latent-shift evaluate moving-shapes-report`: all there is to say of models of Moving Shapes, on one page.

Stopped and started again with the same --work folder, it goes on where it was; the clips of each model are
kept in a folder of their own there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latent_shift import checkpoints
from latent_shift.checkpoints import DEFAULT_MODEL, DTYPES, choose_device
from latent_shift.cli.evaluation_options import (
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
from latent_shift.cli.tested_model import check_choices, load_tested, short_name

_EXAMPLES = 6  # of each cell on the page


def moving_shapes_report(
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help=f"A name or a folder; repeatable, a line each. [{DEFAULT_MODEL}]"),
    ] = None,
    cells: Annotated[str, typer.Option(help="Of the protocol, separated by commas.")] = "level-1-seen",
    prompts: Annotated[int, typer.Option(help="Prompts a cell, one clip each.")] = 300,
    reference: Annotated[int, typer.Option(help="Real clips to measure distances from.")] = 1000,
    frames: Annotated[int, typer.Option(help="Frames a clip: 16, 8 or 6.")] = 16,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. [each model's]")] = None,
    guidance: Annotated[float | None, typer.Option(help="[each model's]")] = None,
    batch: Annotated[int, typer.Option(help="Clips made together.")] = 8,
    extractor: Names = "moving-shapes,moving-shapes-frames,moving-shapes-eyes",
    towers: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The model whose towers judge. [the built-in one]")
    ] = None,
    weights: Weights = None,
    resamples: Resamples = 100,
    work: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep finished clips there.")] = None,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(metavar="NAME", help=", ".join(DTYPES))] = "auto",
    output: Json = None,
    html: Html = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, no table.")] = False,
    force: Force = False,
) -> None:
    """FVD, FID, CLIPSIM, IS and the exact scores of models, beside real clips against other real clips."""
    check_choices(steps=steps, guidance=guidance, dtype=dtype, device=device)
    check_outputs(output, html, force)
    names = chosen_names(extractor)
    chosen = models or [DEFAULT_MODEL]
    if len(set(chosen)) < len(chosen):
        raise ValueError("--model: the same model is named twice")
    places = [checkpoints.resolve(name) for name in chosen]
    from latent_shift.evaluation.extractors import Given
    from latent_shift.evaluation.report.figures import Choices
    from latent_shift.evaluation.shards import ClipStore
    from latent_shift.moving_shapes.scorer import protocol
    from latent_shift.moving_shapes.scorer.report import Asked, Tested
    from latent_shift.moving_shapes.scorer.report import moving_shapes_report as make_report

    wanted = protocol.choose_cells([name.strip() for name in cells.split(",") if name.strip()])
    protocol.check_numbers(prompts, frames, batch)
    check_numbers(reference=reference)
    asked = Asked(wanted, prompts, frames, batch, Choices(resamples), reference, _EXAMPLES if html else 0)
    extractors = made(names, Given(weights=weights, model=towers, device=choose_device(device)), frames)
    tested = []
    for number, (name, place) in enumerate(zip(chosen, places, strict=True)):
        one = load_tested(
            place, name, steps, guidance, side=protocol.constants.SIZE, device=device, dtype=dtype
        )
        kept_with = {"frames": frames, "batch": batch, "seed": protocol.SEED}
        folder = None if work is None else work / f"{number}-{one.settings['weights']}"
        store = ClipStore(folder, {**one.settings, **kept_with})
        tested.append(Tested(short_name(name), one.maker, store, {**one.settings, "frames": frames}))
    with progress_of_sets() as show:
        report, shown = make_report(tested, extractors, asked, show)
    report = with_circumstances(report, command="evaluate moving-shapes-report")
    give(
        report,
        output,
        html,
        as_json,
        shown=shown,
        fps=protocol.constants.FPS * frames / protocol.constants.FRAMES,
    )
