"""`latent-shift evaluate emoji`: models of animated emoji, cell by cell.

Stopped and started again with the same --cache-dir folder, it goes on where it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latent_shift import systems
from latent_shift.cli import options as opt
from latent_shift.cli.output import write_scores
from latent_shift.cli.progress import progress_of_sets

_EXAMPLES = 8  # of each cell on the sheet


@opt.with_fields
def emoji(
    model: Annotated[
        str | None, typer.Option(help="Model to evaluate: a name, a folder, or a hub id (org/name).")
    ] = None,
    cells: Annotated[
        str, typer.Option(metavar="NAME,...", help="Cells, such as names or composed-held-out. [all]")
    ] = "",
    prompts: Annotated[int, typer.Option(help="Number of prompts of each cell, one clip each.")] = 300,
    pack: Annotated[
        Path, typer.Option(metavar="FILE", help="Pack of pictures, made by recipes/emoji/prepare.py.")
    ] = Path("runs/emoji/pack.safetensors"),
    eyes: Annotated[
        Path, typer.Option(metavar="FILE", help="Classifier, made by recipes/emoji/train_eyes.py.")
    ] = Path("runs/emoji/eyes.safetensors"),
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
            metavar="FILE.png", parser=opt.output_path, help="Write a sheet of clips with the verdicts."
        ),
    ] = None,
    force: opt.Force = False,
    *,
    sampling: opt.Sampling,
) -> None:
    """Score names, words, styles, motions and grounds of a model's emoji against their prompts."""
    opt.check_files({".json": output, ".png": sheet}, overwrite=force)
    if model is None and not reference_only:
        raise ValueError("--model is missing; or evaluate real clips only with --reference-only")
    if model is not None:
        systems.inspect(model)
    from latent_shift.emoji import protocol
    from latent_shift.emoji.eyes import Eyes
    from latent_shift.emoji.pack import Pack
    from latent_shift.emoji.report import emoji_report, emoji_table

    chosen = protocol.choose_cells(opt.split_names(cells))
    truth, seen_by = protocol.EmojiTruth(Pack.open(pack)), Eyes.load(eyes)
    if unknown := truth.splits.emoji.keys() - set(seen_by.codes):
        raise ValueError(
            f"--eyes {eyes}: do not know {len(unknown)} of the {len(truth.splits.emoji)} emoji of {pack};"
            " train them on that pack (recipes/emoji/train_eyes.py)"
        )
    evaluated = None
    if model is not None:
        evaluated = sampling.load(model, truth.pack.size)
        settings = {"pack": truth.pack.digest, "side": truth.pack.size, "batch": sampling.batch}
        others = {"seed": protocol.SEED, "prompts": truth.prompts_digest}
        evaluated = evaluated.with_cache(sampling.cache_dir, settings, **others)
    with progress_of_sets() as on_progress:
        report = emoji_report(
            evaluated, truth, seen_by, chosen,
            prompts=prompts, batch_size=sampling.batch, generate=not reference_only,
            examples=_EXAMPLES if sheet else 0, on_progress=on_progress,
        )  # fmt: skip
    block = f"emoji: {evaluated.name if evaluated else 'real clips'}"
    block = sampling.block_name(block, cells, prompts)
    if evaluated and reference_only:
        block += ", real clips only"
    write_scores(
        report, emoji_table(report), block, output=output, markdown=markdown, sheet=sheet, force=force
    )
