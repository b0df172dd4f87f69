"""U-Nets measured one after the other: each figure a file of a folder, so that a stopped run goes on.

A cell is one network with one clip, in sampling ("pass") or training ("step": forward and backward, with
gradient checkpointing where the network has it). It takes turns with the image model, so each cell has its
own ratio, and the image model measured against itself gives the noise of the measurement. What needs more
memory than there is is not tried, and says so.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from latent_shift.benchmark.measure import Times, take_turns
from latent_shift.benchmark.memory import available_memory, peak_memory
from latent_shift.benchmark.networks import IMAGE, NETWORKS, PIXELS, SHIFT, SIZES, Bench, count
from latent_shift.documents import read_model
from latent_shift.evaluation.runner import environment
from latent_shift.io import write_text

MODES = {"pass": "one pass", "step": "one training step"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_GIB = 2**30
_MARGIN = 1.15  # of what is counted: the allocator's losses and the convolutions' own copies


@dataclass(frozen=True)
class Plan:
    """Cells to be measured: every network with every clip in every mode.

    size: one of `networks.SIZES`. frames: of the clips. resolutions: pixels of a side. modes: of `MODES`.
    warmups, repeats: rounds before and of the measurement. memory: whether the peak is measured, each in a
    fresh process.
    """

    networks: Sequence[str]
    size: str
    frames: Sequence[int]
    resolutions: Sequence[int]
    modes: Sequence[str]
    device: str
    dtype: str
    warmups: int = 1
    repeats: int = 3
    memory: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown name, a network of other sizes, pixels that latents cannot have."""
        for kind, names, known in (
            ("network", self.networks, NETWORKS), ("size", (self.size,), SIZES),
            ("mode", self.modes, MODES), ("dtype", (self.dtype,), DTYPES),
        ):  # fmt: skip
            for name in names:
                if name not in known:
                    raise ValueError(f"{kind} {name!r}: expected one of {', '.join(known)}")
        fitting = [name for name, network in NETWORKS.items() if self.size in network.sizes]
        for name in self.networks:
            if name not in fitting:
                raise ValueError(f"network {name!r}: size {self.size} has {', '.join(fitting)}")
        multiple = PIXELS * 8
        for pixels in self.resolutions:
            if pixels < multiple or pixels % multiple:
                raise ValueError(f"resolution {pixels}: give a multiple of {multiple}")
        for number in (*self.frames, self.repeats):
            if number < 1:
                raise ValueError(f"{number} frames or repeats: give 1 or more")
        if self.warmups < 0:
            raise ValueError(f"{self.warmups} warmups: give 0 or more")


class Cell(BaseModel):
    """One network with one clip.

    gmac: 10^9 multiply-adds. needs: bytes of weights and of the tensors that live at once, counted. times,
    image: of the network and of the image model in the same rounds; None where they were not taken. peak:
    bytes of memory beyond the libraries', None where it was not measured. left_out: why there is no time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: str
    size: str
    frames: int
    resolution: int
    mode: str
    dtype: str
    device: str
    parameters: int
    gmac: float
    needs: int
    times: Times | None = None
    image: Times | None = None
    peak: int | None = None
    left_out: str | None = None
    machine: dict[str, Any]


def read_cells(folder: Path) -> list[Cell]:
    """The measured cells of a folder."""
    files = sorted((folder / "cells").glob("*.json"))
    return [read_model(Cell, file) for file in files]


def measure(plan: Plan, folder: Path, on_progress: Callable[[str, int, int], None]) -> None:
    """Measure the cells that the folder does not have yet, and write each as soon as it is there.

    on_progress: called with a cell's name, the rounds done and all rounds. A cell that was left out for lack
    of memory is tried again.
    """
    for mode in plan.modes:
        for resolution in plan.resolutions:
            for frames in plan.frames:
                missing = [
                    name
                    for name in plan.networks
                    if not _is_measured(_file(folder, plan, name, frames, resolution, mode), plan)
                ]
                for cell in _measured(plan, missing, frames, resolution, mode, on_progress):
                    file = _file(folder, plan, cell.network, frames, resolution, mode)
                    write_text(file, cell.model_dump_json(indent=1) + "\n")


def _file(folder: Path, plan: Plan, name: str, frames: int, resolution: int, mode: str) -> Path:
    stem = f"{plan.size}-{mode}-{plan.device}-{plan.dtype}-{frames}x{resolution}-{name}"
    return folder / "cells" / f"{stem}.json"


def _is_measured(file: Path, plan: Plan) -> bool:
    if not file.is_file():
        return False
    cell = read_model(Cell, file)
    enough = cell.times is not None and len(cell.times.wall) >= plan.repeats
    threads = cell.machine.get("threads")
    same = plan.device != "cpu" or threads == torch.get_num_threads()  # else a table would mix both
    return enough and same and (cell.peak is not None or not plan.memory)


def _measured(
    plan: Plan,
    names: Sequence[str],
    frames: int,
    resolution: int,
    mode: str,
    on_progress: Callable[[str, int, int], None],
) -> Iterator[Cell]:
    """The cells of several networks with one clip; the image model stays for all of them."""
    if not names:
        return
    clip = (plan.size, frames, resolution)
    image_needs = count(IMAGE, *clip, DTYPES[plan.dtype], mode).live_bytes
    image: Bench | None = None
    for name in names:
        label = f"{name} {mode} {frames}x{resolution}"
        counts = count(name, *clip, DTYPES[plan.dtype], mode)
        facts: dict[str, Any] = {
            "network": name, "size": plan.size, "frames": frames, "resolution": resolution, "mode": mode,
            "dtype": plan.dtype, "device": plan.device, "parameters": counts.parameters, "gmac": counts.gmac,
            "needs": counts.live_bytes,
            "machine": {**environment(plan.device), "threads": torch.get_num_threads()},
        }  # fmt: skip
        own = 0 if name in (IMAGE, SHIFT) else counts.live_bytes
        needs, free = int(_MARGIN * max(own, counts.live_bytes)), available_memory(plan.device)
        if needs + (0 if image else image_needs * (own > 0)) > free:
            reason = f"needs {needs / _GIB:.1f} GiB, and {free / _GIB:.1f} are free"
            on_progress(f"{label}: {reason}", 1, 1)
            yield Cell(**facts, left_out=reason)
            continue
        image = image or Bench(IMAGE, *clip, plan.device, DTYPES[plan.dtype])

        def on_round(done: int, total: int, label: str = label) -> None:
            on_progress(label, done, total)

        times = _in_turns(plan, image, name, mode, on_round)
        peak = None
        if plan.memory:
            call = f"{__name__}:run_once"
            (peak,) = peak_memory(call, [[name, *clip, mode, plan.device, plan.dtype]], [__name__])
        yield Cell(**facts, times=times[name], image=times[f"{IMAGE} again"], peak=peak)


def _in_turns(
    plan: Plan, image: Bench, name: str, mode: str, on_round: Callable[[int, int], None]
) -> dict[str, Times]:
    """Seconds of a network, and of the image model beside it."""
    other = image
    if name not in (IMAGE, SHIFT):
        other = Bench(name, plan.size, image.frames, image.side * PIXELS, plan.device, image.dtype)
    plain, own = image.passes(mode), other.passes(mode)

    def base() -> None:
        image.shifted(False)
        plain()

    def measured() -> None:
        if other is image:
            image.shifted(name == SHIFT)
        own()

    calls = {f"{IMAGE} again": base, name: measured}
    times = take_turns(
        calls, warmups=plan.warmups, repeats=plan.repeats, device=plan.device, on_round=on_round
    )
    gc.collect()
    return times


def run_once(name: str, size: str, frames: int, resolution: int, mode: str, device: str, dtype: str) -> None:
    """Call a network once, for the measurement of its memory.

    name, size, frames, resolution, mode, device, dtype: as the fields of `Cell`.
    """
    bench = Bench(IMAGE if name == SHIFT else name, size, frames, resolution, device, DTYPES[dtype])
    if name == SHIFT:
        bench.shifted(True)
    bench.passes(mode)()
