"""A comparison as Markdown, as one HTML page with clips and curves, and as JSON lines."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import yaml

from latent_shift.compare.cost import Cost, machine_line
from latent_shift.compare.results import BY_WORD, SCORES, Results, RowResult, StageResult, share, verdicts_of
from latent_shift.compare.scoring import Scores, examples_of, real_clips
from latent_shift.compare.tables import METRICS, all_right, shared_stages, tables
from latent_shift.evaluation.page import render_page
from latent_shift.evaluation.plots import Line, line_plot
from latent_shift.evaluation.report import Table
from latent_shift.moving_shapes.constants import FPS, FRAMES
from latent_shift.moving_shapes.protocol import SUBSETS, prompt_of


def markdown(results: Results, command: str) -> str:
    """The page as Markdown, resolved recipes at its end. command: that made it."""
    lines = [f"Made by `{command}`. {_machine(results)}", "", *_introduction(results)]
    for table in tables(results):
        lines += ["", f"### {table.title}", "", table.markdown()]
        lines += ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    lines += ["", "### Resolved recipes", "", "Without keys that have their default; `recipe.yaml` in a"]
    lines += ["stage's folder has all of them, and `latent-shift train` repeats the stage from it."]
    for name, (_, stage) in shared_stages(results).items():
        text = yaml.safe_dump(stage.recipe, sort_keys=False, allow_unicode=True, width=110).rstrip()
        lines += ["", f"<details><summary>{name}</summary>", "", "```yaml", text, "```", "", "</details>"]
    return "\n".join([*lines, ""])


def html(results: Results, command: str) -> str:
    """The page as HTML: tables, plots, and clips of the first prompts side by side, real ones first."""
    preset = results.comparison.preset
    subset = SUBSETS[preset.subsets[0]]
    prompts = [prompt_of(scene, preset.frames) for scene in subset.scenes(preset.examples)]
    fps = FPS * preset.frames / FRAMES
    real, examples = real_clips(results.comparison), []
    if results.real is not None:
        examples += examples_of(real.scores.parent, results.real, prompts, real.name, fps)
    for run in results.comparison.first_runs():
        row = results.by_name[run.row]
        if 0 in row.runs:
            examples += examples_of(run.folder, row.runs[0], prompts, row.name, fps)
    title = f"Systems compared: {results.comparison.preset_name}"
    all_tables = [Table((), (), notes=_introduction(results)), *tables(results)]
    return render_page(title, all_tables, plots(results), examples, f"{command}; {_machine(results)}")


def json_lines(results: Results) -> Iterator[dict[str, Any]]:
    """A line a row: all that is known of it."""
    subsets = results.comparison.preset.subsets
    for row in results.rows:
        scores = {
            subset: {score: [one.model_dump() for one in row.shares(subset, score)] for score in SCORES}
            for subset in subsets
        }
        yield {
            "row": row.name,
            "system": row.config.system,
            "preset": results.comparison.preset_name,
            "seeds": sorted(row.runs),
            "scores": scores,
            "metrics": {name: row.metric(name) for name in METRICS},
            "images": {kind: all_right(images).model_dump() for kind, images in row.images.items()},
            "training": {**row.spent, "stages": {one.name: _facts(one) for one in row.stages.get(0, [])}},
            "cost": None if row.cost is None else row.cost.model_dump(),
            "paper": None if row.config.paper is None else row.config.paper.model_dump(),
        }


def _facts(stage: StageResult) -> dict[str, Any]:
    names = ("budget", "steps", "items", "epochs", "seconds", "preparation", "wall_seconds")
    return {name: getattr(stage, name) for name in names}


def plots(results: Results) -> list[str]:
    """Curves over the budget, and motion against parameters, multiply-adds and seconds."""
    found: list[str] = []
    for x_name, x in (("core-seconds", "seconds"), ("clips", "clips")):
        lines = [
            Line(
                row.name, [(float(getattr(point, x)), _motion(results, point.scores)) for point in row.points]
            )
            for row in results.rows
            if row.points
        ]
        if lines:
            found.append(line_plot(f"{BY_WORD} over {x_name}", x_name, "percent right", lines))
    for x_name in ("parameters, M", "GMAC a clip", "seconds a clip"):
        places = {row.name: (_cost_of(row.cost, x_name), _mean_motion(results, row))
                  for row in results.rows if row.cost is not None and row.runs}  # fmt: skip
        best = not_beaten(places)
        lines = [Line(f"{name} *" if name in best else name, [place]) for name, place in places.items()]
        if lines:
            found.append(line_plot(f"{BY_WORD}; *: no other beats it", x_name, "percent right", lines))
    return found


def _motion(results: Results, scores: Scores) -> float:
    verdicts = verdicts_of(scores, results.comparison.preset.subsets[0]).get(BY_WORD)
    return 0.0 if verdicts is None else 100 * share(verdicts).value


def _mean_motion(results: Results, row: RowResult) -> float:
    return statistics.mean(_motion(results, scores) for scores in row.runs.values())


def _cost_of(cost: Cost, name: str) -> float:
    whole = sum(cost.parameters.values()) / 1e6
    return {"parameters, M": whole, "GMAC a clip": cost.gmac, "seconds a clip": cost.seconds}[name]


def not_beaten(places: dict[str, tuple[float, float]]) -> set[str]:
    """Names of points (cost, quality) for which no other one is cheaper or better and not worse in both."""
    return {
        name
        for name, (cost, quality) in places.items()
        if not any(
            other <= cost and better >= quality and (other, better) != (cost, quality)
            for other, better in places.values()
        )
    }


def _introduction(results: Results) -> list[str]:
    comparison = results.comparison
    clips = str(comparison.budget or comparison.preset.budget(clips=True))
    unfinished = [row.name for row in results.rows if not row.runs or row.cost is None]
    texts = [
        f"Preset {comparison.preset_name}: {comparison.preset.frames} frames; budget of the stages on stills"
        f" {comparison.preset.stills} a system, on clips {clips} for each seed. Every row: the same world,"
        " text encoder, prompts and seeds, and a prefix of one sequence of clips for each seed."
    ]
    texts += comparison.preset.notes
    return texts + ([f"Not complete yet: {', '.join(unfinished)}."] if unfinished else [])


def _machine(results: Results) -> str:
    return "" if results.costs is None else f"Costs on {machine_line(results.costs.machine)}."
