"""The program, also as `python -m latent_shift` and `accelerate launch --module latent_shift train ...`."""

import sys


def main() -> None:
    """Run the program; Ctrl-C while its modules are imported ends it without a traceback, too."""
    try:
        from latent_shift.cli.main import main as run
    except KeyboardInterrupt:
        print("latent-shift: error: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
