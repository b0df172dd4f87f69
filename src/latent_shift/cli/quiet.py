"""The libraries' log lines and loading bars, left out: this program's own lines say what matters."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Before diffusers and transformers are imported for work; `--help` never gets here."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when they are imported
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
