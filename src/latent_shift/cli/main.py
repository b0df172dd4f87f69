"""The program's list of commands. A new command is one file here, imported and added by a line.

Files of commands import torch, and rooms that need it, inside their functions only, so that `latent-shift
--help` answers at once. Tests run `app` (through `errors.run`), the installed program `main`.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from latent_shift import __version__
from latent_shift.cli import benchmark, data, errors, generate, study, train
from latent_shift.cli.compare import compare
from latent_shift.cli.evaluate_emoji import emoji
from latent_shift.cli.evaluate_folders import folders, report, sensitivity
from latent_shift.cli.evaluate_moving_shapes import moving_shapes, moving_shapes_report
from latent_shift.cli.evaluate_prompts import msr_vtt, ucf_101
from latent_shift.cli.options import EvaluateCommand
from latent_shift.cli.serve import serve

app = typer.Typer(
    help="Text to video from a text-to-image latent diffusion model, without new parameters.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("generate")(generate.generate)
app.command("info")(generate.info)
app.command("train")(train.train)
app.command("compare")(compare)
app.command("serve")(serve)
app.add_typer(data.app, name="data")
app.add_typer(study.app, name="study")
app.add_typer(benchmark.app, name="benchmark")
evaluate = typer.Typer(
    help="Evaluate a model on a protocol, or a folder of clips against another.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip
app.add_typer(evaluate, name="evaluate")
for command in (moving_shapes, moving_shapes_report, emoji, folders, report, sensitivity, msr_vtt, ucf_101):
    evaluate.command(cls=EvaluateCommand)(command)


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
    """Run the program and exit with its status; SIGTERM and a closed terminal end it like Ctrl-C."""
    try:
        os.getcwd()  # libraries that are loaded later would blame files of their own
    except FileNotFoundError:
        print("latent-shift: error: the current folder has been removed; cd to another one", file=sys.stderr)
        sys.exit(errors.MISTAKE)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:  # as under nohup
        shown = [stream for stream in (1, 2) if os.isatty(stream)]

        def end(signum: int, frame: FrameType | None) -> None:
            for stream in shown:  # a line to a terminal that is gone is no reason to lose work
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(hang_up, end)
    sys.exit(errors.run(app))
