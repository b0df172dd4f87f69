"""Cost of sampling and training: seconds, multiply-adds, calls of networks, memory, parameters.

Seconds are from text to uint8, the decoder's in, all systems in one process and taking turns, so that other
work on the machine meets all of them. Multiply-adds are counted, not estimated: those of every convolution
and matrix product that runs. Memory is measured in a process of its own for each system.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from latent_shift import systems
from latent_shift.compare.memory import peak_memory
from latent_shift.compare.plan import Comparison
from latent_shift.evaluation.runner import environment
from latent_shift.io import write_text
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
    """Costs by row, measured together. batch: clips of `batch_seconds`. machine: with versions and date."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: dict[str, Cost]
    batch: int
    machine: dict[str, Any]


def read_costs(folder: Path) -> Costs | None:
    """Read the costs of a comparison; None where they are not measured yet."""
    file = folder / FILE
    return Costs.model_validate_json(file.read_text("utf-8")) if file.is_file() else None


def measure(comparison: Comparison, on_progress: Callable[[str, int, int], None]) -> None:
    """Measure the first run of every row, all in one go, where one of them is not measured yet.

    on_progress: as in `evaluation.runner.evaluate`, for rounds of clips. Raises ValueError for a row that is
    not trained yet.
    """
    preset, runs = comparison.preset, {run.row: run for run in comparison.first_runs()}
    known = read_costs(comparison.folder)
    if known is not None and set(runs) <= set(known.rows):
        return
    for run in runs.values():
        if not run.model.is_dir():
            raise ValueError(f"{run.name}: is not trained yet; leave --only out, or begin with --only train")
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
        rows=rows, batch=preset.cost_batch, machine={**environment(), "threads": torch.get_num_threads()}
    )
    write_text(comparison.folder / FILE, costs.model_dump_json(indent=2) + "\n")


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
    taken: dict[str, list[float]] = {row: [] for row in loaded}
    for turn in range(before + repeats):
        for row, system in loaded.items():
            began = time.perf_counter()
            system.generate(_requests(frames, batch))
            taken[row].append((time.perf_counter() - began) / batch)
        on_progress(f"seconds in batches of {batch}", turn + 1, before + repeats)
    return {row: statistics.median(seconds[before:]) for row, seconds in taken.items()}


def count_sampling(system: TextToVideoSystem, frames: int) -> tuple[float, int]:
    """Multiply-adds (10^9) of one clip, and how many networks are called for it, layers of layers not."""
    with _counted() as counter, _calls() as calls:
        system.generate(_requests(frames, 1))
    return counter.total / 1e9, calls[0]


def count_training(recipe: Recipe) -> float:
    """Multiply-adds (10^9) of an item in a training step of a recipe, forward and backward."""
    size = min(_BATCH, recipe.batch_size)
    task = build_task(recipe)
    data = task.dataset(lambda progress: None)
    batches = loader(data, size, recipe.seed, 0, workers=0, rank=0, world_size=1)
    with _counted() as counter:
        task(next(iter(batches)), StepRNG.of(step_seed(recipe.seed, 1), size))["loss"].backward()
    return counter.total / 1e9 / size


class MultiplyAdds(TorchDispatchMode):
    """Counts the multiply-adds of convolutions and matrix products, forward and backward, as they run.

    As torch's FlopCounterMode, without its list of modules, which takes longer than many small operations.
    total: so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._whole: set[Any] = set()  # operations that are made of no others

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and add what it takes; in inference mode, those that it is made of."""
        formula, kwargs = flop_registry.get(func.overloadpacket), kwargs or {}
        if formula is None and func not in self._whole:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
            self._whole.add(func)
        out = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out) // 2
        return out


@contextmanager
def _counted() -> Iterator[MultiplyAdds]:
    """Count multiply-adds; attention as the matrix products that it is made of, on every device."""
    with sdpa_kernel(SDPBackend.MATH), MultiplyAdds() as counter:
        yield counter


@contextmanager
def _calls() -> Iterator[list[int]]:
    """Count calls of modules with parts that no other module makes."""
    count, depth = [0], [0]

    def entered(module: nn.Module, *_: Any) -> None:
        if depth[0] == 0 and next(module.children(), None) is not None:
            count[0] += 1
        depth[0] += 1

    def left(*_: Any) -> None:
        depth[0] -= 1

    hooks = register_module_forward_pre_hook(entered), register_module_forward_hook(left, always_call=True)
    try:
        yield count
    finally:
        for hook in hooks:
            hook.remove()


def machine_line(machine: Mapping[str, Any]) -> str:
    """A machine in a line, with versions and date."""
    versions: Mapping[str, str] = machine["versions"]
    parts: Sequence[str] = (
        str(machine["machine"]), f"{machine['threads']} threads", platform.system(), str(machine["date"]),
        *(f"{name} {version}" for name, version in versions.items()),
    )  # fmt: skip
    return ", ".join(parts)
