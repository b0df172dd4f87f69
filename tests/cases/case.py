"""A case of ../shared/cases, and the checks of cases by name.

A check takes a `Case`, does what the case's README.md says in a copy of its folder, and returns in a few
words what happened; it raises AssertionError where that is not right, and Skip where it cannot run here.

    @check("zero-delay-gif")
    def zero_delay_gif(case):
        report = case.report("data", "check", "clips", "--json")
        assert report["clips"] == 1
        return "1 clip"
"""

import contextlib
import importlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from latent_shift.cli import errors
from latent_shift.cli.main import app

CASES = Path(__file__).parents[3] / "shared" / "cases"
CHECK_MODULES = ("cases.files", "cases.models", "cases.runs")  # a module for each group of cases
CHECKS = {}
SLOW = set()  # names of cases that start processes of their own, a few seconds each
ERROR = "latent-shift: error: "


class Skip(Exception):  # noqa: N818
    """A case that cannot be tried on this machine."""


class Result(NamedTuple):
    """What a command ended with and printed."""

    status: int
    out: str
    err: str

    @property
    def error(self):
        """The one line of an error; a traceback and several lines are failures of their own."""
        found = [line.removeprefix(ERROR) for line in self.err.splitlines() if line.startswith(ERROR)]
        assert self.status == 2, f"status {self.status}, not 2: {self.err[-500:]}"
        assert len(found) == 1, f"{len(found)} lines of errors: {self.err[-500:]}"
        return found[0]


def check(name, slow=False):
    """Register the check of a case."""

    def register(function):
        CHECKS[name] = function
        if slow:
            SLOW.add(name)
        return function

    return register


def load_checks():
    """All checks by the names of their cases."""
    for module in CHECK_MODULES:
        importlib.import_module(module)
    return CHECKS


@dataclass
class Case:
    """A copy of a case's folder, in which commands run."""

    name: str
    folder: Path

    @property
    def right(self):
        """The README's words on what is right."""
        text = (self.folder / "README.md").read_text(encoding="utf-8")
        found = re.search(r"^Right: (.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
        return " ".join(found[1].split()) if found else ""

    def run(self, *arguments):
        """Run `latent-shift` in the folder, in this process; an exception ends in a status of 1."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = errors.run(app, [str(argument) for argument in arguments])
            except Exception:
                status = 1
                err.write(traceback.format_exc())
        return Result(status, out.getvalue(), err.getvalue())

    def succeed(self, *arguments):
        """Run a command that has to succeed; gives its standard output."""
        result = self.run(*arguments)
        assert result.status == 0, f"latent-shift {' '.join(map(str, arguments))}: {result.err[-500:]}"
        return result.out

    def report(self, *arguments):
        """The JSON that a command prints."""
        return json.loads(self.succeed(*arguments))

    def make(self):
        """Run the folder's make.py, in this process: a new one would import torch and diffusers again."""
        tools = ("clips", "tiny_sd")  # modules in _tools; tests have others of one of these names
        kept = {name: sys.modules.pop(name) for name in tools if name in sys.modules}
        path, random_state = list(sys.path), torch.get_rng_state()
        try:
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()):
                runpy.run_path("make.py", run_name="__main__")
        finally:
            for name in tools:
                sys.modules.pop(name, None)
            sys.modules.update(kept)
            sys.path[:] = path
            torch.set_rng_state(random_state)

    def run_without_rights(self, *arguments):
        """Run `latent-shift` as somebody who may not read everything."""
        command = [sys.executable, "-m", "latent_shift", *map(str, arguments)]
        if os.geteuid() == 0:
            if shutil.which("setpriv") is None:
                raise Skip("root may read everything, and there is no setpriv")
            rights = "-dac_override,-dac_read_search"
            command = ["setpriv", "--bounding-set", rights, "--inh-caps", rights, *command]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        return Result(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def copy_of(name) -> Iterator[Case]:
    """Copy a case, and the tools that its make.py needs, into a temporary folder."""
    with tempfile.TemporaryDirectory() as place:
        for part in (name, "_tools"):
            shutil.copytree(CASES / part, Path(place) / part)
        for root, folders, files in os.walk(place):  # those of the original may be read-only
            for entry in (root, *(os.path.join(root, one) for one in (*folders, *files))):
                os.chmod(entry, os.stat(entry).st_mode | 0o200)
        yield Case(name, Path(place) / name)


def try_case(name):
    """(ok, what happened) of one case; ok is None where it cannot be tried here."""
    with copy_of(name) as case:
        try:
            return True, load_checks()[name](case)
        except Skip as reason:
            return None, str(reason)
        except Exception as error:
            return False, " ".join(f"{type(error).__name__}: {error}".split())
