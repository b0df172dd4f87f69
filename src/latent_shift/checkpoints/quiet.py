"""The libraries' own bars and log lines, switched off."""

from __future__ import annotations

import os

from latent_shift.checkpoints.later import import_later


def quiet_libraries() -> None:
    """Switch off the progress bars and log lines of diffusers and transformers; imports both."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when they are imported
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    import_later()
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
