"""The program, run within the test's own process."""

from latent_shift.cli import errors
from latent_shift.cli.main import app


def run_program(capsys, *arguments):
    """Run `latent-shift` on arguments. Returns (status, standard output, standard error)."""
    capsys.readouterr()  # what was said before
    status = errors.run(app, [str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err
