"""The commands of docs/evaluation.md: each is one that the program understands, with options that it has."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from latent_shift.cli.main import app

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
TEXT = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
COMMANDS = [line.split("#")[0].strip() for line in TEXT.splitlines() if line.startswith("latent-shift ")]


def test_there_are_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command):
    program, arguments = get_command(app), shlex.split(command)[1:]
    context = program.make_context("latent-shift", arguments)
    while hasattr(program, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        _, program, arguments = program.resolve_command(context, rest)
        context = program.make_context(program.name, list(arguments), parent=context)
    assert not context.args
