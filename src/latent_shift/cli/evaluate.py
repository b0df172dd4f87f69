"""`latent-shift evaluate`: the list of protocols, and `moving-shapes`: do clips show what their prompts say?

Checks everything that was asked, then measures cell by cell, prints the table and writes it where it was
asked. Stopped and started again with the same --work folder, it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latent_shift import checkpoints
from latent_shift.checkpoints import DEFAULT_MODEL, DEVICES, DTYPES
from latent_shift.cli import evaluate_folders, evaluate_protocols, evaluate_shapes_report
from latent_shift.cli.progress import progress_bar
from latent_shift.cli.results import circumstances
from latent_shift.cli.tested_model import TestedModel, check_choices, load_tested, short_name
from latent_shift.io import write_text

if TYPE_CHECKING:
    from latent_shift.moving_shapes.scorer.protocol import Cell, CellResult, Source

_EXAMPLES = 6  # of each cell on the sheet

app = typer.Typer(
    help="Measure a model on a protocol, or a folder of clips against another.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("folders")(evaluate_folders.folders)
app.command("report")(evaluate_folders.report)
app.command("sensitivity")(evaluate_folders.sensitivity)
app.command("msr-vtt")(evaluate_protocols.msr_vtt)
app.command("ucf-101")(evaluate_protocols.ucf_101)
app.command("moving-shapes-report")(evaluate_shapes_report.moving_shapes_report)


@app.command("moving-shapes")
def moving_shapes(
    model: Annotated[
        str | None, typer.Option(help=f"A name, a folder, or a hub id (org/name). [{DEFAULT_MODEL}]")
    ] = None,
    cells: Annotated[
        str, typer.Option(help="Lines of the table, separated by commas: level-1-seen, ... [all]")
    ] = "",
    prompts: Annotated[int, typer.Option(help="Prompts a cell, one clip each.")] = 300,
    frames: Annotated[int | None, typer.Option(help="Frames a clip; 1 measures images. [16]")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. [the model's]")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strongly the prompt steers. [the model's]")
    ] = None,
    batch: Annotated[int, typer.Option(help="Clips made together.")] = 8,
    reference_only: Annotated[
        bool,
        typer.Option("--reference-only", help="Real clips only; with --model through its autoencoder, too."),
    ] = False,
    work: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep finished batches there, to go on if stopped.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE.json")] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE.md", help="Put the table into this page, where it was."),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Some clips and their verdicts.")
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="NAME", help=", ".join(DTYPES))] = "auto",
    device: Annotated[str, typer.Option(metavar="NAME", help=", ".join(DEVICES))] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Colour, shape, motion and background of clips, against what their prompts say."""
    check_choices(steps=steps, guidance=guidance, dtype=dtype, device=device)
    _check_outputs(output, markdown, sheet, force)
    folder = None if reference_only and model is None else checkpoints.resolve(model or DEFAULT_MODEL)
    from latent_shift.moving_shapes.scorer import protocol

    chosen = protocol.choose_cells([name.strip() for name in cells.split(",") if name.strip()])
    frames = protocol.constants.FRAMES if frames is None else frames
    protocol.check_numbers(prompts, frames, batch)
    asked = {"frames": frames, "batch": batch, "prompts": prompts, "seed": protocol.SEED}
    tested = None
    if folder is not None:
        tested = load_tested(
            folder,
            model or DEFAULT_MODEL,
            steps,
            guidance,
            side=protocol.constants.SIZE,
            device=device,
            dtype=dtype,
        )
    sources: list[Source] = ["rendered"] if tested is None else ["rendered", "autoencoder"]
    if tested is not None and not reference_only:
        sources.append("model")
    found = _measure(chosen, sources, tested, asked, work, _EXAMPLES if sheet else 0)
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
    from latent_shift.evaluation.shards import ClipStore
    from latent_shift.moving_shapes.scorer.protocol import measure

    numbers = {"prompts": asked["prompts"], "frames": asked["frames"], "batch": asked["batch"]}
    kept_with = {"frames": asked["frames"], "batch": asked["batch"], "seed": asked["seed"]}
    store = None if tested is None else ClipStore(work, {**tested.settings, **kept_with})
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
    from latent_shift.moving_shapes.scorer.results import Results, put_block, to_row

    circumstance = {"seconds a clip": _seconds_a_clip(found), **circumstances()}
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
    """What a clip of the model took; None where it made none."""
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
