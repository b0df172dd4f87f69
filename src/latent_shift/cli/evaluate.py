"""`latent-shift evaluate`: the list of its commands."""

from __future__ import annotations

import typer

from latent_shift.cli import evaluate_folders, evaluate_moving_shapes, evaluate_prompts
from latent_shift.cli.evaluation_options import EvaluateCommand

app = typer.Typer(
    help="Evaluate a model on a protocol, or a folder of clips against another.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for name, command in (
    ("moving-shapes", evaluate_moving_shapes.moving_shapes),
    ("moving-shapes-report", evaluate_moving_shapes.moving_shapes_report),
    ("folders", evaluate_folders.folders),
    ("report", evaluate_folders.report),
    ("sensitivity", evaluate_folders.sensitivity),
    ("msr-vtt", evaluate_prompts.msr_vtt),
    ("ucf-101", evaluate_prompts.ucf_101),
):
    app.command(name, cls=EvaluateCommand)(command)
