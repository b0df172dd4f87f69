"""Rulers: seconds of calls that take turns, wall and CPU; multiply-adds as they run.

Other work on a machine makes wall seconds longer and CPU seconds hardly, and it meets all calls that take
turns. CPU seconds are those of all threads, so with several threads they also hold the time that threads wait
for each other in a loop: where the machine is not quiet, one thread gives the truer figure.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Times(BaseModel):
    """Seconds of one call, a number a round: wall, and CPU of all threads of the process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wall: list[float]
    cpu: list[float]

    def seconds(self, *, cpu: bool) -> float:
        """The median over the rounds."""
        return statistics.median(self.cpu if cpu else self.wall)


class Spread(BaseModel):
    """A median, and the lowest and highest value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    median: float
    low: float
    high: float


def ratio(times: Times, base: Times, *, cpu: bool) -> Spread:
    """Seconds of a call over those of another in the same round. cpu: CPU seconds, not wall."""
    pairs = zip(*((one.cpu if cpu else one.wall) for one in (times, base)), strict=True)
    values = [first / second for first, second in pairs]
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    *,
    warmups: int,
    repeats: int,
    device: str = "cpu",
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Times]:
    """Time calls, each once a round.

    Args:
        calls: what is timed, by name.
        warmups: rounds before, which do not count: they compile, choose kernels and fill caches.
        repeats: rounds that count, at least 1.
        device: where the calls work: a GPU is waited for.
        on_round: called after each round with the rounds done and all rounds.

    Raises:
        ValueError: for fewer rounds than 1 that count, or than 0 before.
    """
    if warmups < 0 or repeats < 1:
        raise ValueError(f"warmups {warmups}, repeats {repeats}: give 0 or more, and 1 or more")
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in calls}
    for turn in range(warmups + repeats):
        for name, call in calls.items():
            wall, cpu = time_once(call, device)
            if turn >= warmups:
                found[name][0].append(wall)
                found[name][1].append(cpu)
        on_round(turn + 1, warmups + repeats)
    return {name: Times(wall=wall, cpu=cpu) for name, (wall, cpu) in found.items()}


def time_once(call: Callable[[], object], device: str) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def synchronize(device: str) -> None:
    """Wait for what a GPU still has to do."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


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
def counted() -> Iterator[MultiplyAdds]:
    """Count multiply-adds; attention as the matrix products that it is made of, on every device."""
    with sdpa_kernel(SDPBackend.MATH), MultiplyAdds() as counter:
        yield counter


def short_machine(machine: Mapping[str, Any], names: Sequence[str] = ("torch", "diffusers")) -> str:
    """A machine in a few words, with threads, versions and date."""
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in names)
    return f"{machine['machine']}, {machine['threads']} threads, {versions}, {machine['date']}"
