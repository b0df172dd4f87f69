"""Exit status and messages: 0 done, 2 the user's mistake, 130 interrupted; one line on standard error.

Rooms raise ValueError for a user's mistake, and the file system raises OSError: both become one line without
a traceback. Any other exception is a fault of the program and keeps its traceback. Warnings of this package
become one line each.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from latent_shift.io import is_out_of_memory, printable

DONE, MISTAKE, INTERRUPTED = 0, 2, 130


def run(app: typer.Typer, arguments: list[str] | None = None) -> int:
    """Run the program on `arguments` (those of the process where None) and return its exit status."""
    os.environ["MPLBACKEND"] = "agg"  # plots go into files; a notebook's window may not be installed here
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as for a service: what is printed goes nowhere
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no text, and a terminal no UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings_as_lines():
            status = app(args=arguments, prog_name="latent-shift", standalone_mode=False)
            sys.stdout.flush()
    except typer.TyperException as error:  # a wrong option or argument
        command = getattr(getattr(error, "ctx", None), "command_path", "latent-shift")
        return _print_error(f"{error.format_message()} (see: {command} --help)")
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except SystemExit as ended:  # of typer, where the reader of standard output has gone
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        return DONE
    except BrokenPipeError:  # the reader of standard output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        named = error.filename is not None or _can_print()
        return _print_error(str(error) if named else f"standard output: {error.strerror}")
    except ValueError as error:
        return _print_error(str(error))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return _print_error(f"the memory does not hold this: try fewer or smaller clips ({error})")
    if status == INTERRUPTED:  # typer returns this, too
        _print_error("interrupted; finished files are kept")
    return status if isinstance(status, int) else DONE


def _can_print() -> bool:
    """Whether standard output takes what was printed: its own errors have no name of a file."""
    try:
        print(end="", flush=True)  # what could not be written is still in its buffer
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left in its buffer
        return False
    return True


def say(line: str) -> None:
    """Print a line on standard error, or nowhere: one that cannot be written ends no work."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _print_error(message: str) -> int:
    say(f"latent-shift: error: {_one_line(message)}")
    return MISTAKE


def _one_line(message: str) -> str:
    """A message without ends of lines, and without the control characters of names, which move a cursor."""
    return printable(re.sub(r"\s*\n\s*", " ", message.strip()))


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print each warning of this package once, as one line; ignore those of other packages."""
    printed: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        line = _one_line(str(message))
        if line not in printed:
            printed.add(line)
            say(f"latent-shift: warning: {line}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module="latent_shift")
        warnings.showwarning = show
        yield
