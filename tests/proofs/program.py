"""The program as the proofs run it: the one place here that imports the package.

Everything else in this folder goes through the command line and the files that it leaves, so that a
renovation of the inside needs no change here. Where the program's entry moves, it is this file that follows.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from latent_shift.cli import errors
from latent_shift.cli.main import app

ERROR = "latent-shift: error: "


class Result(NamedTuple):
    """What a command ended with and printed."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The messages of its errors; warnings, progress and the like are left out."""
        return [line.removeprefix(ERROR) for line in self.err.splitlines() if line.startswith(ERROR)]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: sums come in the same order however many cores there are, and on busy ones
    tiny tensors do not wait for threads that are not scheduled, which is a hundred times slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run(folder: Path, *arguments: object) -> Result:
    """Run `latent-shift` on arguments in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with (
        one_thread(),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = errors.run(app, [str(argument) for argument in arguments])
    return Result(status, out.getvalue(), err.getvalue())


def succeed(folder: Path, *arguments: object) -> str:
    """Run a command that has to succeed; gives its standard output."""
    result = run(folder, *arguments)
    assert result.status == 0, f"latent-shift {' '.join(map(str, arguments))}: {result.err}"
    return result.out
