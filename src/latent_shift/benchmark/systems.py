"""Whole systems side by side: seconds from text to uint8, multiply-adds, calls of networks, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from latent_shift import systems
from latent_shift.benchmark.measure import Times, counted, take_turns
from latent_shift.benchmark.memory import peak_memory
from latent_shift.systems.base import GenerationRequest, TextToVideoSystem


class SystemCost(BaseModel):
    """Cost of one system, for one batch of clips.

    parameters: in all. temporal: those that the image model does not have. gmac: 10^9 multiply-adds of a
    clip.
    calls: of networks for a clip. times: of a batch. peak: bytes of loading and making a clip, beyond the
    libraries'; None where it was not measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parameters: int
    temporal: int
    gmac: float
    calls: int
    times: Times
    peak: int | None = None


def compare(
    names: Sequence[str],
    requests: Sequence[GenerationRequest],
    *,
    device: str,
    dtype: str,
    warmups: int,
    repeats: int,
    memory: bool,
    on_round: Callable[[int, int], None],
    options: Mapping[str, Any],
) -> list[SystemCost]:
    """Cost of systems by their names or folders, all loaded in this process and taking turns.

    requests: a batch, the same for all. device, dtype, options: of `systems.load`. warmups, repeats,
    on_round: as of `measure.take_turns`. memory: whether the peak is measured, each in a fresh process.
    Raises ValueError for a model that cannot be loaded or a request that it cannot meet.
    """
    loaded = {name: systems.load(name, device=device, dtype=dtype, **options) for name in names}
    times = time_systems(loaded, requests, warmups=warmups, repeats=repeats, on_round=on_round)
    peaks: list[int] | None = None
    if memory:
        first = requests[0].model_dump(exclude_none=True)
        arguments = [(name, first, device, dtype, dict(options)) for name in names]
        modules = ["latent_shift.pipeline", *{systems.find(name).__module__ for name in names}]
        peaks = peak_memory(f"{__name__}:make_clip", arguments, modules)
    found = []
    for place, (name, system) in enumerate(loaded.items()):
        parameters, (gmac, calls) = system.parameters(), count_sampling(system, requests[:1])
        found.append(
            SystemCost(
                name=name, parameters=parameters.all, temporal=parameters.temporal, gmac=gmac, calls=calls,
                times=times[name], peak=None if peaks is None else peaks[place],
            )
        )  # fmt: skip
    return found


def time_systems(
    loaded: Mapping[str, TextToVideoSystem],
    requests: Sequence[GenerationRequest],
    *,
    warmups: int,
    repeats: int,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Times]:
    """Seconds of a batch, by system.

    loaded: by name. requests: a batch. warmups, repeats, on_round: as of `measure.take_turns`.
    """

    def call(system: TextToVideoSystem) -> Callable[[], object]:
        return lambda: system.generate(requests)

    calls = {name: call(system) for name, system in loaded.items()}
    return take_turns(calls, warmups=warmups, repeats=repeats, on_round=on_round)


def count_sampling(system: TextToVideoSystem, requests: Sequence[GenerationRequest]) -> tuple[float, int]:
    """Multiply-adds (10^9) of a batch, and how many networks are called for it, layers of layers not."""
    with counted() as counter, _calls() as calls:
        system.generate(requests)
    return counter.total / 1e9, calls[0]


def make_clip(name: str, request: dict[str, Any], device: str, dtype: str, options: dict[str, Any]) -> None:
    """Load a system and make a clip, for the measurement of its memory.

    name, device, dtype, options: of `systems.load`. request: the fields of a `GenerationRequest`.
    """
    system = systems.load(name, device=device, dtype=dtype, **options)
    system.generate([GenerationRequest(**request)])


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
