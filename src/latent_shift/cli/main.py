"""The program's list of commands. A new command is one file here, imported and added by a line.

Files of commands import torch, and rooms that need it, inside their functions only, so that `latent-shift
--help` answers at once. Tests run `app` (through `errors.run`), the installed program `main`.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from latent_shift import __version__
from latent_shift.cli import data, errors, evaluate, generate, info, train

app = typer.Typer(
    help="Text to video from a text-to-image latent diffusion model, without new parameters.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("generate")(generate.generate)
app.command("info")(info.info)
app.command("train")(train.train)
app.add_typer(data.app, name="data")
app.add_typer(evaluate.app, name="evaluate")


def _print_version(requested: bool) -> None:
    if requested:
        print(__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the program and exit with its status; SIGTERM ends it like Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(errors.run(app))
