"""The program itself: the list of commands. A new command is one file, imported and added here by a line.

Command files import torch and the rooms that need it only inside their functions, so that `latent-shift
--help` answers at once. `app` is what tests run (through `errors.run`), `main` what the program calls.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from latent_shift import __version__
from latent_shift.cli import data, errors, evaluate, generate, info, train

app = typer.Typer(
    help="Text to video from a text-to-image latent diffusion model, with not one parameter more.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("generate")(generate.generate)
app.command("info")(info.info)
app.command("train")(train.train)
app.add_typer(data.app, name="data")
app.add_typer(evaluate.app, name="evaluate")


def _print_version(asked: bool) -> None:
    if asked:
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
    """Run the program and exit with its status; a polite kill ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(errors.run(app))
