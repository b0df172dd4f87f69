"""Train the stages of runs, put them together, and export the models of a run's parts.

A stage that is trained is left as it is; one that was stopped goes on. The steps of a stage are decided once:
its resolved recipe keeps them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from latent_shift.compare.budget import SPENT, Meter, Timing, read_spent, time_steps
from latent_shift.compare.plan import Comparison
from latent_shift.compare.run import Run, StageRun
from latent_shift.documents import read_json_mapping
from latent_shift.io import only_process_in, write_json
from latent_shift.systems.base import link_or_copy
from latent_shift.training.checkpoint import checkpoints, step_of
from latent_shift.training.logging import Report
from latent_shift.training.recipe import Recipe
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train
from latent_shift.video_config import FILE_NAME, read_video_config, write_video_config

BEFORE = "before"  # folder of a row's model before its stages on clips, in that of its first run
EIGHTHS = 8
StageReport = Callable[[str, int], AbstractContextManager[Report]]  # label and steps of a stage


def train_run(comparison: Comparison, run: Run, show: StageReport) -> None:
    """Train a run's stages that are not trained, and put its parts and the whole system together."""
    for one in run.stages:
        if not one.finished:
            _train_stage(comparison, run, one, show)
    own = () if run.of else run.on_clips
    if run.seed == 0 and own:
        for eighths in comparison.preset.curve:
            _export_part(run, eighths)
        if not (run.folder / BEFORE / "model").is_dir():
            assemble(run, {one.stage.name: one.model for one in run.stills}, run.folder / BEFORE / "model")
    for one in own:
        for old in checkpoints(one.folder)[:-1]:  # of the parts, which are exported
            shutil.rmtree(old)
    if not run.model.is_dir():
        run.record_stages()
        assemble(run, {one.stage.name: one.model for one in run.stages}, run.model)


def _train_stage(comparison: Comparison, run: Run, one: StageRun, show: StageReport) -> None:
    # Until its steps are recorded a stage is one command's: another would time it, too, and record others.
    with only_process_in(comparison.folder / "timings" / _file_name(one), "prepares a stage by"):
        recipe = comparison.check_begun(run, one)
        if recipe is None:
            steps, preparation = _steps(comparison, run, one)
            recipe = comparison.resolve(run, one, steps)
            one.record(recipe)
            write_json(one.folder / SPENT, {**read_spent(one.folder / SPENT), "preparation": preparation})
    every = max(1, recipe.steps // EIGHTHS)
    parts = run.seed == 0 and one.on_clips and bool(comparison.preset.curve)
    # Neither changes a number.
    changes = {"checkpoint_every": every, "checkpoints_total_limit": recipe.steps if parts else 1}
    recipe = recipe.model_copy(update={**changes, "log_every": min(recipe.log_every, every)})
    with show(f"{one.stage.name}, {run.name}" if one.on_clips else one.stage.name, recipe.steps) as report:
        train(build_task(recipe), Meter(one.folder / SPENT, report))


def _steps(comparison: Comparison, run: Run, one: StageRun) -> tuple[int, float]:
    """The steps of a stage's budget, and the seconds of preparing its data where steps have to be timed."""
    preset, preparation = comparison.preset, 0.0
    trial = comparison.resolve(run, one, preset.timed_after + preset.timed_steps)
    if one.budget.unit != "core-seconds":
        return one.budget.steps(trial, 0.0), preparation
    timing = stored_timing(comparison, run, one)
    if timing is None:
        timing = time_steps(trial, preset.timed_after, preset.timed_steps)
        preparation = timing.preparation
        measured = {"step": timing.step, "preparation": timing.preparation, "of": _timed(trial)}
        write_json(_timing_file(comparison, one), measured)
    return one.budget.steps(trial, timing.step), preparation


def stored_timing(comparison: Comparison, run: Run, one: StageRun) -> Timing | None:
    """The seconds of a stage's step, where they were measured with its recipe and as many threads."""
    file, preset = _timing_file(comparison, one), comparison.preset
    if not file.is_file():
        return None
    found = read_json_mapping(file)
    trial = comparison.resolve(run, one, preset.timed_after + preset.timed_steps)
    same = found.get("of") == _timed(trial)
    return Timing(found["step"], found["preparation"]) if same else None


def _timed(trial: Recipe) -> str:
    """A hash of all that decides the seconds of a step."""
    content = trial.model_dump(mode="json", exclude={"output"}) | {"threads": torch.get_num_threads()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _timing_file(comparison: Comparison, one: StageRun) -> Path:
    """Seconds of a stage's step: a file each, since rows may be trained side by side."""
    return comparison.folder / "timings" / f"{_file_name(one)}.json"


def _file_name(one: StageRun) -> str:
    return one.label.replace(": ", "-")


def part_folder(run: Run, eighths: int) -> Path:
    """The folder of a run's model after so many eighths of its stages on clips."""
    return run.folder / "curve" / str(eighths)


def _export_part(run: Run, eighths: int) -> None:
    """Export the averaged weights of each stage's checkpoint at a part of its steps, as one system."""
    folder = part_folder(run, eighths)
    if (folder / "model").is_dir():
        return
    models = {one.stage.name: one.model for one in run.stills}
    for one in run.on_clips:
        recipe = one.recorded()
        assert recipe is not None  # it is trained
        step = max(1, recipe.steps // EIGHTHS) * eighths
        found = {step_of(path): path for path in checkpoints(one.folder)}
        if step not in found:
            return  # the run was begun without a curve, or is too short for one
        models[one.stage.name] = _export_checkpoint(recipe, found[step], folder / one.stage.name)
    assemble(run, models, folder / "model")
    for one in run.on_clips:
        shutil.rmtree(folder / one.stage.name)


def _export_checkpoint(recipe: Recipe, checkpoint: Path, folder: Path) -> Path:
    """Export a checkpoint: a run of as many steps, all of them taken, ends with its export."""
    place = folder / "checkpoints" / checkpoint.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoint, place, copy_function=link_or_copy)
    content = recipe.model_dump(mode="json")
    changes = {
        "output": str(folder), "steps": step_of(checkpoint), "validation": None,
        "optimizer": {**content["optimizer"], "warmup_steps": 0, "cooldown_steps": 0},
    }  # fmt: skip
    model = train(build_task(type(recipe).model_validate({**content, **changes})), lambda progress: None)
    shutil.rmtree(place)
    return model


def assemble(run: Run, models: Mapping[str, Path], folder: Path) -> None:
    """Put the models of stages together into one folder, whole or not at all."""
    partial = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    run.system.assemble(models, partial)
    if run.steps is not None:
        file = partial / FILE_NAME
        write_video_config(file, read_video_config(file).overlaid(num_inference_steps=run.steps))
    os.replace(partial, folder)
