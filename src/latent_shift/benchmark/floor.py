"""The floor: the multiply-adds that a call must do, at the rate of the machine's matrix products.

The rate is that of one large matrix product. A profile says what kinds of operations the time above the floor
goes to: those that are no products move bytes and cost no arithmetic worth counting.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import BaseModel, ConfigDict
from torch.profiler import ProfilerActivity, profile

from latent_shift.benchmark.measure import Times, counted, take_turns, time_once

_SIDE = 2048  # of the matrices
KINDS = {  # operations by words in their names; the first that fits
    "convolutions": ("conv",),
    "attention": ("attention", "flash", "softmax", "bmm", "baddbmm"),
    "linear layers": ("mm", "linear"),
    "norms": ("norm",),
    "activations": ("silu", "gelu", "sigmoid", "gelu_", "mul"),
    "copies, layout": (
        "copy",
        "cat",
        "contiguous",
        "clone",
        "to_",
        "upsample",
        "pad",
        "expand",
        "fill",
        "zero",
    ),
    "additions, the shift": ("add", "sub", "div"),
}


class Floor(BaseModel):
    """A call and its floor.

    rate: 10^9 multiply-adds a second of the machine's matrix products. gmac: of the call. times: of the call.
    shares: of its time by kind of operation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: float
    gmac: float
    times: Times
    shares: dict[str, float]

    @property
    def floor(self) -> float:
        """Seconds of the multiply-adds at that rate."""
        return self.gmac / self.rate

    def above(self, *, cpu: bool) -> float:
        """Seconds of the call over the floor. cpu: of CPU seconds."""
        return self.times.seconds(cpu=cpu) / self.floor


def matrix_rate(device: str, dtype: torch.dtype, *, cpu: bool, repeats: int = 5) -> float:
    """10^9 multiply-adds a second of a product of two matrices of 2048 x 2048: the best of several.

    device, dtype: of the matrices. cpu: by CPU seconds. repeats: products.
    """
    first, second = (torch.randn(_SIDE, _SIDE, device=device, dtype=dtype) for _ in range(2))
    times = [time_once(lambda: first @ second, device) for _ in range(repeats + 1)][1:]
    return _SIDE**3 / 1e9 / min(one[cpu] for one in times)


def measure(call: Callable[[], object], device: str, dtype: torch.dtype, *, repeats: int) -> Floor:
    """The floor of a call, its seconds and what they go to.

    On a CPU all seconds are those of its threads, so that other work hardly counts. device, dtype: of the
    call, for the rate. repeats: calls that are timed.
    """
    cpu = device == "cpu"
    with counted() as counter:
        call()
    rate = matrix_rate(device, dtype, cpu=cpu)
    times = take_turns({"call": call}, warmups=0, repeats=repeats, device=device)["call"]
    activities = [ProfilerActivity.CPU, *([] if cpu else [ProfilerActivity.CUDA])]
    with profile(activities=activities) as profiler:
        call()
    spent: dict[str, float] = {}
    for event in profiler.key_averages():
        own = event.self_cpu_time_total if cpu else event.self_device_time_total
        if event.key.startswith("aten::") and own > 0:
            kind = kind_of(event.key)
            spent[kind] = spent.get(kind, 0.0) + own
    whole = sum(spent.values())
    shares = {kind: time / whole for kind, time in sorted(spent.items(), key=lambda one: -one[1])}
    return Floor(rate=rate, gmac=counter.total / 1e9, times=times, shares=shares)


def kind_of(operation: str) -> str:
    """The kind in `KINDS` of an operation of torch, such as "aten::silu"; else "other"."""
    name = operation.removeprefix("aten::")
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "other")
