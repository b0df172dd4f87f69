"""Neither bars nor log lines of diffusers and transformers while a model is loaded or saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def libraries_quiet() -> Iterator[None]:
    """Within the `with` block the libraries show errors only; what was set before comes back."""
    before = []
    for library in (diffusers_logging, transformers_logging):
        before.append((library, library.get_verbosity(), library.is_progress_bar_enabled()))
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity, has_bars in before:
            library.set_verbosity(verbosity)
            if has_bars:
                library.enable_progress_bar()
