"""Cost of sampling and training: seconds, multiply-adds, calls of networks, memory, parameters.

Seconds are from text to uint8, the decoder's in, all systems in one process and taking turns, so that other
work on the machine meets all of them. Multiply-adds are counted, not estimated: those of every convolution
and matrix product that runs. Memory is measured in a process of its own for each system.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from latent_shift import systems
from latent_shift.benchmark import systems as measured
from latent_shift.benchmark.measure import counted as counting
from latent_shift.compare.memory import peak_memory
from latent_shift.compare.plan import Comparison
from latent_shift.compare.preset import Preset
from latent_shift.compare.run import Run
from latent_shift.documents import read_model
from latent_shift.evaluation.runner import environment
from latent_shift.io import only_process_in, write_text
from latent_shift.moving_shapes.constants import SIZE
from latent_shift.rng import StepRNG, step_seed
from latent_shift.systems.base import GenerationRequest, TextToVideoSystem
from latent_shift.training.datasets import loader
from latent_shift.training.recipe import Recipe
from latent_shift.training.task import build_task

FILE = "cost.json"
_PROMPT = "a red circle moving right on a navy background"
_BATCH = 4  # items of the batch on which a training step is counted


class Cost(BaseModel):
    """Cost of one system.

    Attributes:
        parameters: by part. trained, temporal: as in `systems.base.Parameters`.
        seconds: of a clip by itself; batch_seconds: of a clip in a batch.
        gmac: 10^9 multiply-adds of a clip. calls: of networks for a clip.
        memory: bytes at the peak beyond what was there after import.
        training_gmac: of a clip in training, forward and backward, by stage on clips.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: dict[str, int]
    trained: int
    temporal: int
    seconds: float
    batch_seconds: float
    gmac: float
    calls: int
    memory: int
    training_gmac: dict[str, float]


class Costs(BaseModel):
    """Costs by row, measured together.

    Attributes:
        rows: by name.
        batch: clips of `batch_seconds`.
        machine: with versions and date.
        models: hashes of what each row's model was made of, which another training changes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: dict[str, Cost]
    batch: int
    machine: dict[str, Any]
    models: dict[str, str] = {}

    def of(self, run: Run) -> Cost | None:
        """The cost of a row by its first run, None where it was not measured, or trained again since."""
        is_known = run.row in self.models and run.model.is_dir()
        return None if is_known and self.models[run.row] != run.model_hash() else self.rows.get(run.row)


def read_costs(folder: Path) -> Costs | None:
    """Read the costs of a comparison; None where they are not measured yet."""
    file = folder / FILE
    return read_model(Costs, file) if file.is_file() else None


def measure(comparison: Comparison, on_progress: Callable[[str, int, int], None]) -> None:
    """Measure the first run of every row, all in one go, where one of them is not measured yet.

    on_progress: as in `evaluation.runner.evaluate`, for rounds of clips. Raises ValueError for a row that is
    not trained yet, and while another process measures.
    """
    known = read_costs(comparison.folder)
    if known is not None and all(known.of(run) for run in comparison.first_runs()):
        return
    runs = runs_together(comparison, set() if known is None else set(known.rows))
    for run in runs.values():
        if not run.model.is_dir():
            raise ValueError(f"{run.name}: is not trained yet; leave --only out, or begin with --only train")
    with only_process_in(comparison.folder / "costs", "measures costs by"):
        _measure(comparison.preset, comparison.folder, runs, on_progress)


def _measure(
    preset: Preset, folder: Path, runs: Mapping[str, Run], on_progress: Callable[[str, int, int], None]
) -> None:
    loaded = {row: systems.load(str(run.model), dtype=preset.dtype) for row, run in runs.items()}

    def seconds(batch: int) -> dict[str, float]:
        return _seconds(loaded, preset.frames, batch, preset.unmeasured, preset.repeats, on_progress)

    single, together = seconds(1), seconds(preset.cost_batch)
    peaks = peak_memory([run.model for run in runs.values()], preset.frames, preset.dtype)
    memory = dict(zip(runs, peaks, strict=True))
    rows = {}
    for row, system in loaded.items():
        counted, (gmac, calls) = system.parameters(), count_sampling(system, preset.frames)
        rows[row] = Cost(
            parameters=dict(counted.parts), trained=counted.trained, temporal=counted.temporal,
            seconds=single[row], batch_seconds=together[row], gmac=gmac, calls=calls, memory=memory[row],
            training_gmac={
                one.stage.name: count_training(recipe)
                for one in runs[row].on_clips
                if (recipe := one.recorded()) is not None
            },
        )  # fmt: skip
    costs = Costs(
        rows=rows, batch=preset.cost_batch, machine={**environment(), "threads": torch.get_num_threads()},
        models={row: run.model_hash() for row, run in runs.items()},
    )  # fmt: skip
    write_text(folder / FILE, costs.model_dump_json(indent=2) + "\n")


def runs_together(comparison: Comparison, known: Set[str]) -> dict[str, Run]:
    """The first run of every row that is wanted, and of rows measured before: figures of one measurement.

    known: those measured before, which are left out where their models are not there any more.
    """
    preset = comparison.preset
    rows = {name: row for name, row in preset.rows.items() if name in known or name in comparison.rows}
    rows |= comparison.rows  # with systems that have no row in the preset
    runs = {run.row: run for run in replace(comparison, rows=rows).first_runs()}
    return {row: run for row, run in runs.items() if row in comparison.rows or run.model.is_dir()}


def _requests(frames: int, count: int) -> list[GenerationRequest]:
    first = GenerationRequest(prompt=_PROMPT, frames=frames, height=SIZE, width=SIZE)
    return [first.model_copy(update={"seed": seed}) for seed in range(count)]


def _seconds(
    loaded: Mapping[str, TextToVideoSystem],
    frames: int,
    batch: int,
    before: int,
    repeats: int,
    on_progress: Callable[[str, int, int], None],
) -> dict[str, float]:
    """Median seconds of a clip, by row; in each round every system makes one batch."""
    name = f"seconds in batches of {batch}"
    times = measured.time_systems(
        loaded, _requests(frames, batch), warmups=before, repeats=repeats,
        on_round=lambda done, total: on_progress(name, done, total),
    )  # fmt: skip
    return {row: one.seconds(cpu=False) / batch for row, one in times.items()}


def count_sampling(system: TextToVideoSystem, frames: int) -> tuple[float, int]:
    """Multiply-adds (10^9) of one clip, and how many networks are called for it, layers of layers not."""
    return measured.count_sampling(system, _requests(frames, 1))


def count_training(recipe: Recipe) -> float:
    """Multiply-adds (10^9) of an item in a training step of a recipe, forward and backward."""
    size = min(_BATCH, recipe.batch_size)
    task = build_task(recipe)
    data = task.dataset(lambda progress: None)
    batches = loader(data, size, recipe.seed, 0, workers=0, rank=0, world_size=1)
    with counting() as counter:
        task(next(iter(batches)), StepRNG.of(step_seed(recipe.seed, 1), size))["loss"].backward()
    return counter.total / 1e9 / size


def machine_line(machine: Mapping[str, Any]) -> str:
    """A machine in a line, with versions and date."""
    versions: Mapping[str, str] = machine["versions"]
    parts: Sequence[str] = (
        str(machine["machine"]), f"{machine['threads']} threads", platform.system(), str(machine["date"]),
        *(f"{name} {version}" for name, version in versions.items()),
    )  # fmt: skip
    return ", ".join(parts)
