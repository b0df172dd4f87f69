"""Reports on models of emoji: each cell for real clips, the same through the autoencoder, and the model's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from latent_shift.emoji.eyes import Eyes
from latent_shift.emoji.protocol import MEASURES, CellClips, EmojiScores, EmojiTruth
from latent_shift.evaluation.evaluated_model import EvaluatedModel
from latent_shift.evaluation.report import (
    GENERATED,
    REAL,
    RECONSTRUCTED,
    Report,
    format_result,
    format_settings,
)
from latent_shift.evaluation.runner import ProgressCallback, evaluate
from latent_shift.evaluation.sources import ClipSource, ReconstructedClips


def emoji_report(
    model: EvaluatedModel | None,
    truth: EmojiTruth,
    eyes: Eyes,
    cells: Sequence[str],
    *,
    prompts: int,
    batch_size: int,
    generate: bool = True,
    examples: int = 0,
    on_progress: ProgressCallback = lambda name, done, total: None,
) -> Report:
    """Score clips cell by cell.

    Args:
        model: None for real clips only.
        truth: the pack.
        eyes: see the clips.
        cells: in the order of the rows; those that the pack has no emoji for are left out, with a note.
        prompts: of each cell, one clip each.
        batch_size: clips in a batch.
        generate: False leaves out the clips that the model generates.
        examples: clips of each row to keep in the report.
        on_progress: as in `evaluate`.

    Raises:
        ValueError: for a number out of range, and a pack without emoji for any of the cells.
    """
    sources: list[ClipSource] = []
    there = [cell for cell in cells if not truth.missing(cell)]
    if not there:
        raise ValueError(f"{truth.pack.path}: has no emoji for the cells {', '.join(cells)}")
    clips = partial(CellClips, truth=truth, prompts=prompts, batch_size=batch_size)
    generated: list[CellClips] = []
    loops = model is not None and model.system.info().defaults.loops
    for cell in there:
        settings = {kind: {"cell": cell, "clips": kind} for kind in (REAL, RECONSTRUCTED, GENERATED)}
        real = clips(f"{cell}, {REAL}", cell, settings=settings[REAL])
        sources.append(real)
        if model is not None:
            row = {**model.settings, **settings[RECONSTRUCTED]}
            sources.append(ReconstructedClips(f"{cell}, {RECONSTRUCTED}", model, real, row))
        if model is not None and generate and (cell != "loop" or loops):
            generated.append(clips(f"{cell}, {GENERATED}", cell, model=model, settings=settings[GENERATED]))
            sources.append(generated[-1])
    title = "Emoji" if model is None else f"Emoji: {model.name}"
    report = evaluate(
        sources, [partial(EmojiScores, truth, eyes)], title=title, examples=examples, on_progress=on_progress
    )
    left_out = [f"cell {cell}: the pack has no emoji for it" for cell in cells if cell not in there]
    if "loop" in there and model is not None and not loops:
        left_out.append(f"cell loop: {model.name} makes no loops")
    environment = dict(report.environment)
    if generated:
        seconds = sum(source.seconds for source in generated) / sum(map(len, generated))
        environment = {"seconds a clip": round(seconds, 3), **environment}
    return report.model_copy(update={"environment": environment, "notes": [*report.notes, *left_out]})


def emoji_table(report: Report) -> str:
    """The scores of an `emoji_report` as Markdown: a row a cell and measure, a column a kind of clips."""
    infos = {info.name: info for info in report.metrics}
    found: dict[tuple[str, str], dict[str, str]] = {}
    kinds = [kind for kind in (REAL, RECONSTRUCTED, GENERATED)
             if any(row.settings["clips"] == kind for row in report.rows)]  # fmt: skip
    for row in report.rows:
        for measure in MEASURES[row.settings["cell"]]:
            info = infos[measure]
            values = found.setdefault((row.settings["cell"], measure), {})
            values[row.settings["clips"]] = format_result(info, row.results.get(info.key))
    lines = [f"| cell | measure | {' | '.join(kinds)} |", "|---|---|" + "---|" * len(kinds)]
    for (cell, measure), values in found.items():
        shown = [values.get(kind, "-") for kind in kinds]
        lines.append(f"| {cell.replace('-', ' ')} | {measure} | {' | '.join(shown)} |")
    settings = {**report.rows[-1].settings, **report.metrics[0].settings}
    for name, value in report.environment.items():
        settings |= value if isinstance(value, dict) else {name: value}
    text = format_settings({name: settings[name] for name in settings if name not in ("cell", "clips")})
    notes = [f"{note}." for note in report.notes]
    return "\n".join(
        [*lines, "", f"In brackets the 95 % interval. {text[:1].upper()}{text[1:]}.", *notes, ""]
    )
