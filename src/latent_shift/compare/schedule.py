"""The work that a comparison has before it: a row for each piece, with its minutes."""

from __future__ import annotations

import torch

from latent_shift.compare.budget import SPENT, read_spent
from latent_shift.compare.cost import read_costs
from latent_shift.compare.plan import Comparison
from latent_shift.compare.results import state_of
from latent_shift.compare.run import Run, StageRun
from latent_shift.compare.scoring import made_by
from latent_shift.compare.training import stored_timing
from latent_shift.evaluation.report import Table


def plan_table(comparison: Comparison) -> Table:
    """Rows, stages, their state, steps, and minutes of what is left, those of measuring costs aside.

    Minutes are those of the budget where it is one of seconds, less those spent, else by timings that are
    stored; unknown ones are left open.
    """
    rows, seen, total, unknown = [], set[str](), 0.0, False
    for run in comparison.runs:
        for one in run.stages:
            where = str(one.folder)
            if where in seen:
                continue
            seen.add(where)
            recipe = one.recorded()
            steps = "" if recipe is None else str(recipe.steps)
            minutes = 0.0 if one.finished else _minutes(comparison, run, one)
            total, unknown = total + (minutes or 0.0), unknown or minutes is None
            name = run.name if one.on_clips else "stills"
            rows.append([name, one.stage.name, str(one.budget), steps, state_of(one), _cell(minutes)])
        costs = read_costs(comparison.folder)
        for made in made_by(comparison, run):
            clips = comparison.preset.images if made.images else comparison.preset.prompts
            count = clips * (1 if made.few else len(comparison.preset.subsets))
            cost = None if costs is None else costs.rows.get(run.row)
            minutes = 0.0 if made.sampled else None if cost is None else count * cost.batch_seconds / 60
            total, unknown = total + (minutes or 0.0), unknown or minutes is None
            state = "scored" if made.scores.is_file() else "made" if made.sampled else "to do"
            rows.append([made.name, "sample and score", f"{count} clips", "", state, _cell(minutes)])
    rows.append(
        ["all that is left", "", "", "", "", f"{total:.0f}{' and those not known' if unknown else ''}"]
    )
    return Table(["run", "stage", "budget", "steps", "state", "minutes left"], rows)


def _minutes(comparison: Comparison, run: Run, one: StageRun) -> float | None:
    threads = 1 if torch.cuda.is_available() else torch.get_num_threads()
    spent = read_spent(one.folder / SPENT)["seconds"]
    if one.budget.unit == "core-seconds":
        return max(0.0, one.budget.amount - spent) / threads / 60
    timing, recipe = stored_timing(comparison, run, one), one.recorded()
    if timing is None or recipe is None:
        return None
    return max(0.0, recipe.steps * timing.step - spent) / threads / 60


def _cell(minutes: float | None) -> str:
    return "?" if minutes is None else f"{minutes:.1f}"
