"""How the program ends: status 0 done, 2 the user's mistake, 130 interrupted; one line on standard error.

The rooms raise ValueError for a user's mistake and OSError comes from the file system: both become one line
without a traceback. Anything else is a fault of the program and keeps its traceback. Their warnings become
one line each, too. Used by `main` alone.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

DONE, MISTAKE, INTERRUPTED = 0, 2, 130


def run(app: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run the program on `arguments` (those of the process where None) and return its exit status."""
    try:
        with warnings_as_lines():
            status = app(args=arguments, prog_name="latent-shift", standalone_mode=False)
            sys.stdout.flush()
    except typer.TyperException as error:  # a wrong option or argument
        where = getattr(getattr(error, "ctx", None), "command_path", "latent-shift")
        return _say(f"{error.format_message()} (see: {where} --help)")
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:  # the reader of standard output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (ValueError, OSError) as error:
        return _say(str(error))
    if status == INTERRUPTED:  # typer, too, returns this
        _say("interrupted; finished files are kept")
    return status if isinstance(status, int) else DONE


def _say(message: str) -> int:
    print(f"latent-shift: error: {' '.join(message.split())}", file=sys.stderr)
    return MISTAKE


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print each warning once, as one line, and leave out those that libraries address to programmers."""
    said: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        line = " ".join(str(message).split())
        if line not in said:
            said.add(line)
            print(f"latent-shift: warning: {line}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module="latent_shift")
        warnings.showwarning = show
        yield
