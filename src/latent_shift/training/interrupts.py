"""Ctrl-C and SIGTERM as a wish that the loop grants between two steps, where a checkpoint can be written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and its checkpoint is written."""


class StopRequest:
    """Whether this process, or one beside it, was asked to stop."""

    _asked = False

    def ask(self, signum: int, frame: FrameType | None) -> None:
        """Take a signal: note it; a second Ctrl-C does not wait for the step to end."""
        if self._asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked: all of them must leave the loop after the same step."""
        if accelerator.num_processes == 1:
            return self._asked
        asked = torch.tensor(float(self._asked), device=accelerator.device)
        return bool(accelerator.reduce(asked) > 0)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the `with` block SIGINT and SIGTERM only leave a request."""
    stop = StopRequest()
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
