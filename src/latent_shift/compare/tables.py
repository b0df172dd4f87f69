"""The tables of a comparison: scores, distances, images, cost, training, differences, parts of the budget."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from latent_shift.compare.preset import PaperResult, Question
from latent_shift.compare.results import (
    ALL,
    BY_PHASE,
    BY_WORD,
    SCORES,
    Difference,
    Results,
    RowResult,
    StageResult,
    share,
    verdicts_of,
)
from latent_shift.compare.scoring import Scores
from latent_shift.compare.training import BEFORE
from latent_shift.evaluation.report import Proportion, Table, format_number

METRICS = {"FVD": "FVD ↓", "KVD": "KVD ↓", "FID": "FID ↓", "KID": "KID ↓", "CLIPSIM": "CLIPSIM ↑",
            "flicker": "flicker", "motion": "motion"}  # fmt: skip
EACH_RUN = "Each run"  # title of the table with a line for every run
_PAPER = "the paper's, MSR-VTT: other data, other sizes, not comparable"


def tables(results: Results) -> list[Table]:
    """All tables that have rows, in the order of the page."""
    subsets = results.comparison.preset.subsets
    found = [
        *(_scores_table(results, subset) for subset in subsets),
        _distances_table(results),
        _images_table(results),
        _parameters_table(results),
        _sampling_table(results),
        _training_table(results),
        _runs_table(results),
        *_question_tables(results),
        _parts_table(results),
    ]
    return [table for table in found if table.rows]


def _scores_table(results: Results, subset: str) -> Table:
    rows = []
    if results.real is not None:
        rows.append(["real clips", "", *_share_cells([results.real], subset)])
    for row in results.rows:
        if row.runs:
            rows.append([row.name, str(len(row.runs)), *_share_cells(list(row.runs.values()), subset)])
    ceilings: dict[tuple[str, ...], list[str]] = {}  # names of rows by their cells: many share a decoder
    for row in results.rows:
        if row.reconstruction is not None and row.reconstruction.verdicts:
            ceilings.setdefault((*_share_cells([row.reconstruction], subset),), []).append(row.name)
    rows += [[f"real, through {', '.join(names)}", "", *cells] for cells, names in ceilings.items()]
    frames = results.comparison.preset.frames
    prompts = _prompts_of(results, subset)
    notes = [
        f"{prompts}, {frames} frames; (95 % interval) of a single run, [range] of the seeds of several.",
        "Real clips are the ceiling of every system; through a system's decoder, that of the system.",
    ]
    return Table(["clips", "seeds", *SCORES], rows, f"Scores, {subset.replace('-', ' ')}", notes=notes)


def _prompts_of(results: Results, subset: str) -> str:
    counted = {} if results.real is None else verdicts_of(results.real, subset)
    word, phase = len(counted.get(BY_WORD, ())), len(counted.get(BY_PHASE, ()))
    prompts = results.comparison.preset.prompts
    return f"{prompts} prompts, {word} of a motion by word and place and {phase} of one by phase"


def _share_cells(runs: Sequence[Scores], subset: str) -> list[str]:
    found = [verdicts_of(scores, subset) for scores in runs]
    return [_shares([share(one[score]) for one in found if score in one]) for score in SCORES]


def _shares(shares: Sequence[Proportion]) -> str:
    """A cell: the share with its interval, or the mean of several with their range."""
    if not shares:
        return ""
    values = [100 * one.value for one in shares]
    if len(values) == 1:
        low, high = (100 * (edge or 0) for edge in (shares[0].low, shares[0].high))
        return f"{values[0]:.1f} % ({low:.1f}-{high:.1f})"
    return f"{statistics.mean(values):.1f} % [{min(values):.1f}-{max(values):.1f}]"


def _numbers(values: Sequence[float]) -> str:
    """A cell: a number, or the mean of several with their range."""
    if not values:
        return ""
    mean = format_number(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} [{format_number(min(values))}-{format_number(max(values))}]"


def _distances_table(results: Results) -> Table:
    rows = []
    if results.real is not None:
        real = RowResult("real clips", results.rows[0].config, {0: results.real})
        rows.append([real.name, *(_numbers(real.metric(name)) for name in METRICS), "", "", ""])
    for row in (row for row in results.rows if row.runs):
        paper = row.config.paper or PaperResult()
        figures = (paper.fid, paper.clipsim, paper.parameters)
        rows.append(
            [
                row.name,
                *(_numbers(row.metric(name)) for name in METRICS),
                *("" if one is None else str(one) for one in figures),
            ]
        )
    headers = ["clips", *METRICS.values(), "FID, paper", "CLIPSIM, paper", "parameters, paper"]
    preset = results.comparison.preset
    count = preset.prompts * len(preset.subsets)
    notes = [
        "FVD and KVD on features of moving-shapes-eyes, FID and KID of moving-shapes-frames, CLIPSIM of"
        f" moving-shapes; {count} clips against {preset.reference} other real ones. FVD of so few clips is"
        " too large for all alike: see KVD.",
        f"Columns called paper: {_PAPER}.",
    ]
    return Table(headers, rows, "Distances", notes=notes)


def all_right(scores: Scores) -> Proportion:
    """The share of images of which all is right."""
    (subset,) = scores.verdicts
    return share(verdicts_of(scores, subset)[ALL])


def _images_table(results: Results) -> Table:
    rows = []
    for row in (row for row in results.rows if row.images):
        found = {kind: all_right(scores) for kind, scores in row.images.items()}
        rows.append([row.name, *(_shares([found[k]]) if k in found else "" for k in (BEFORE, "after"))])
    note = f"{results.comparison.preset.images} single frames of seen prompts; before and after the clips."
    return Table(["system", "before", "after"], rows, "Images all right", notes=[note])


def _parameters_table(results: Results) -> Table:
    rows = []
    for row in results.rows:
        if row.cost is not None:
            parts = ", ".join(f"{name} {_millions(count)}" for name, count in row.cost.parameters.items())
            whole = _millions(sum(row.cost.parameters.values()))
            rows.append([row.name, whole, _millions(row.cost.temporal), _millions(row.cost.trained), parts])
    headers = ["system", "sampled with, M", "temporal, M", "trained on clips, M", "parts, M"]
    return Table(headers, rows, "Parameters", notes=["Temporal: those that the image model does not have."])


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f}"


def _sampling_table(results: Results) -> Table:
    rows = []
    for row in results.rows:
        cost = row.cost
        if cost is not None:
            numbers = (cost.seconds, cost.batch_seconds, cost.gmac)
            memory = f"{cost.memory / 2**20:.0f}"
            rows.append([row.name, *map(format_number, numbers), str(cost.calls), memory])
    batch = results.comparison.preset.cost_batch
    headers = ["system", "s a clip", f"s a clip in {batch}", "GMAC", "network calls", "peak MiB"]
    notes = [
        f"A clip of {results.comparison.preset.frames} frames from text to uint8, the decoder in. Medians;"
        " all systems in one process, taking turns. Memory beyond that after import, each in a fresh process."
    ]
    return Table(headers, rows, "Sampling", notes=notes)


def _training_table(results: Results) -> Table:
    rows = []
    for name, (row, stage) in shared_stages(results).items():
        seconds = max(stage.seconds, 1e-9)
        gmac = None if row.cost is None else row.cost.training_gmac.get(stage.name)
        rows.append([
            name, stage.trained_on, stage.budget, str(stage.steps), f"{stage.items:,}",
            "" if stage.epochs is None else f"{stage.epochs:.2f}", f"{stage.seconds:,.0f}",
            f"{stage.preparation:,.0f}", f"{stage.wall_seconds:,.0f}", f"{stage.items / seconds:.1f}",
            "" if gmac is None else format_number(gmac),
        ])  # fmt: skip
    headers = [
        "stage", "on", "budget", "steps", "items seen", "epochs", "core-s", "core-s of data", "wall s",
        "items a core-s", "GMAC an item",
    ]  # fmt: skip
    notes = [
        "Stages of the first seed, and stills, which rows share. Core-seconds: CPU time of the process and"
        " its children (on a GPU, seconds); those of data, such as encoding it once, count as stills. Items:"
        " clips or images; of a stage on clips a part of the batches are their frames as single images.",
        "GMAC: 10^9 multiply-adds, forward and backward, counted.",
        f"Core-hours of all stages of all seeds, with those of data: {_core_hours(results):.2f}.",
    ]
    return Table(headers, rows, "Training", notes=notes)


def _core_hours(results: Results) -> float:
    """Core-hours of all that is trained; a stage that rows or seeds share counts once."""
    spent: dict[Path, float] = {}
    for run in results.comparison.runs:
        folders = {one.stage.name: one.folder for one in run.stages}
        for stage in results.by_name[run.row].stages.get(run.seed, []):
            spent[folders[stage.name]] = stage.seconds + stage.preparation
    return sum(spent.values()) / 3600


def shared_stages(results: Results) -> dict[str, tuple[RowResult, StageResult]]:
    """The stages of first seeds by label, shared ones once."""
    found: dict[str, tuple[RowResult, StageResult]] = {}
    for run in results.comparison.first_runs():
        row = results.by_name[run.row]
        labels = {one.stage.name: one.label for one in run.stages}
        for stage in row.stages.get(0, []):
            found.setdefault(labels[stage.name], (row, stage))
    return found


def _runs_table(results: Results) -> Table:
    subsets, rows = results.comparison.preset.subsets, []
    for row in results.rows:
        for seed, scores in row.runs.items():
            cells = []
            for subset in subsets:
                found = verdicts_of(scores, subset)
                cells += [_shares([share(found[s])]) if s in found else "" for s in (BY_WORD, BY_PHASE, ALL)]
            rows.append([row.name, str(seed), *cells])
    names = [
        f"{score}, {subset.removeprefix('level-1-')}"
        for subset in subsets
        for score in (BY_WORD, BY_PHASE, ALL)
    ]
    return Table(["system", "seed", *names], rows, EACH_RUN, notes=["In brackets Wilson's 95 % interval."])


def _question_tables(results: Results) -> Iterator[Table]:
    subsets, scores = results.comparison.preset.subsets, (BY_WORD, BY_PHASE, ALL)
    close = results.comparison.preset.comparable
    for number, question in enumerate(results.comparison.preset.questions, 1):
        rows = []
        for other in question.against:
            for score in scores:
                found = [results.difference(question.row, other, subset, score) for subset in subsets]
                cells = [_difference(one, close.get("points", 0.0)) for one in found]
                if any(cells):
                    rows.append([f"{question.row} minus {other}", score, *cells])
            if cell := _ratio(results, question.row, other, close.get("distance", 0.0)):
                rows.append(
                    [f"{question.row} against {other}", "FVD, all prompts", cell, *[""] * (len(subsets) - 1)]
                )
        headers = ["difference", "of", *(subset.replace("-", " ") for subset in subsets)]
        notes = [
            "Points, 95 % interval over prompts, range over seeds; equal prompts, and the seeds that both"
            f" rows have ({_common_seeds(results, question)}). Comparable, by a rule written down before the"
            f" runs: within {close.get('points', 0):g} points, and"
            f" {100 * close.get('distance', 0):g} % of FVD."
        ]
        if rows:
            yield Table(headers, rows, f"Question {number}: {question.text}", notes=notes)


def _difference(found: Difference | None, close: float) -> str:
    if found is None:
        return ""
    value, low, high = (100 * number for number in (found.value, found.low, found.high))
    least, most = (100 * number for number in found.seeds)
    seeds = "" if least == most else f" [{least:+.1f}, {most:+.1f}]"
    verdict = "no difference shown" if not found.shown else "more" if value > 0 else "less"
    comparable = ", comparable" if abs(value) <= close else ""
    return f"{value:+.1f} ({low:+.1f}, {high:+.1f}){seeds}: {verdict}{comparable}"


def _common_seeds(results: Results, question: Question) -> str:
    """Numbers of seeds that a question's rows have in common, as "latent_vdm 3, shift_off 1"."""
    counts = {other: len(results.common_seeds(question.row, other)) for other in question.against}
    return ", ".join(f"{other} {count}" for other, count in counts.items() if count)


def _ratio(results: Results, row: str, other: str, close: float) -> str:
    """A cell: the ratio of the FVD of two rows, less 1, of means over the seeds that both have."""
    seeds = results.common_seeds(row, other)
    found = [[results.by_name[name].distance(seed) for seed in seeds] for name in (row, other)]
    ours, theirs = ([value for value in values if value is not None] for values in found)
    if not seeds or len(ours) != len(seeds) or len(theirs) != len(seeds):
        return ""
    ratio = statistics.mean(ours) / statistics.mean(theirs) - 1
    return f"{100 * ratio:+.0f} %{', comparable' if abs(ratio) <= close else ''}"


def _parts_table(results: Results) -> Table:
    subset, rows = results.comparison.preset.subsets[0], []
    for row in results.rows:
        for point in row.points:
            found = verdicts_of(point.scores, subset)
            cells = [_shares([share(found[s])]) if s in found else "" for s in (BY_WORD, BY_PHASE, ALL)]
            rows.append([row.name, f"{point.seconds:,.0f}", f"{point.clips:,}", *cells])
    headers = ["system", "core-s", "clips", BY_WORD, BY_PHASE, ALL]
    note = (
        "Averaged weights at parts of the first seed's stages on clips, whose rate has not cooled down yet."
    )
    return Table(headers, rows, f"Over the budget, {subset.replace('-', ' ')}", notes=[note])
