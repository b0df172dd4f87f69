"""Batches of requests: what all systems check of one, and say of one that is too large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from latent_shift.io import is_out_of_memory, warn
from latent_shift.systems.base import GenerationRequest, SettledRequest


def check_batch(requests: Sequence[GenerationRequest], *, loops: bool = False) -> None:
    """Raise ValueError for no requests, requests of several shapes, and loops where `loops` is not set."""
    if not requests:
        raise ValueError("a batch needs at least one request")
    if len({request.shape for request in requests}) > 1:
        raise ValueError("requests of one batch must be of one shape: frames, fps, steps, size ...")
    if requests[0].loop and not loops:
        raise ValueError("loop: this model makes no loops; a latent_shift model does")


def warn_of_negatives(requests: Sequence[SettledRequest]) -> None:
    """Warn (UserWarning) about negative prompts of a batch without guidance, which reads none."""
    if requests[0].guidance <= 1 and any(request.negative for request in requests):
        reason = f"guidance is {requests[0].guidance:g}: give more than 1 to make it count"
        warn(f"the negative prompt has no effect, for {reason}")


@contextmanager
def advice_on_memory(clips: int) -> Iterator[None]:
    """Turn a lack of memory, while so many clips are made, into a ValueError that says what takes less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        made = "this clip" if clips == 1 else f"a batch of {clips} clips"
        mends = "fewer frames, a smaller height and width, the dtype bf16, the device cpu"
        raise ValueError(f"the device's memory does not hold {made}; try {mends}") from error
