"""The libraries imported quickly, and their own bars and log lines switched off."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from latent_shift.checkpoints.later import import_later


def quiet_libraries() -> None:
    """Switch off the progress bars and log lines of diffusers and transformers; imports both."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when they are imported
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # of torch's profiler, which tells when it begins and ends
    import_later()
    with _uncollected():
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Within the `with` block no garbage is collected, and what there is at its end is never looked through.

    Modules stay until the end: looking for garbage among them took a fifth of a command's start, and more at
    its end.
    """
    if "diffusers" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
