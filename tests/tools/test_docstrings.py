"""The check of docstrings: what it finds, and what it lets pass."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "docstrings.py"


def check(folder):
    """Exit status and lines of the tool."""
    command = [sys.executable, TOOL, "src"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.fixture
def module(tmp_path):
    def write(text, path="src/module.py"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ('"""What a clip is."""', '1: begins with "What"'),
        ('"""Puts a shift in."""', '1: begins with "Puts"'),
        ('"""Good.\n\nThe user is told."""', '3: "told"'),
        ('class A:\n    """Settings, as they are."""', '2: "as they are"'),
        ('def f():\n    """Read a file whose name is known."""', '2: "whose"'),
        ('field(description="asked for by the user")', '1: "asked"'),
        ('def f(a, b, *, c, **d):\n    """Add a, b and d."""', "1: f: the docstring does not describe c"),
        ('class A:\n    def f(self, a, b, c, d):\n        """Add a, b, c."""', "2: f: the docstring"),
    ],
)
def test_findings(module, text, finding):
    status, lines = check(module(text))
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"src/module.py:{finding}")


@pytest.mark.parametrize(
    "text",
    [
        '"""Decode latents in chunks.\n\nThe last one may be shorter, whatever it holds."""',
        'def f(a, b, c, d):\n    """Add a, b, c and d."""',
        'def f(a, b, c):\n    """Add."""',
        'def _f(a, b, c, d):\n    """Add."""',
        'class _A:\n    def f(self, a, b, c, d):\n        """Add."""',
        'raise ValueError("no seed was asked for")',
    ],
)
def test_plain_docstrings_pass(module, text):
    assert check(module(text)) == (0, [])


def test_the_options_of_commands_describe_themselves(module):
    assert check(module('def f(a, b, c, d):\n    """Add."""', "src/cli/add.py")) == (0, [])
