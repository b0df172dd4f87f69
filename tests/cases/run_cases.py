"""Runs the cases of ../shared/cases and prints a table: case, what is right, what happened, ok.

    PYTHONPATH=tests python tests/cases/run_cases.py                  # all
    PYTHONPATH=tests python tests/cases/run_cases.py zero-delay-gif   # some

Ends with status 1 where one is not right. Cases without a check are listed as such.
"""

import sys
import time

from cases.case import CASES, Case, load_checks, try_case

SIGNS = {True: "yes", False: "NO", None: "not tried"}


def main(names):
    """Run and print the cases; returns the exit status."""
    if not CASES.is_dir():
        print(f"no cases: {CASES} is not there", file=sys.stderr)
        return 2
    checks, failed = load_checks(), 0
    print("| case | what is right | what happened | ok |\n|---|---|---|---|")
    for name in names or sorted(path.parent.name for path in CASES.glob("*/README.md")):
        began = time.perf_counter()
        ok, happened = try_case(name) if name in checks else (None, "no check yet")
        failed += ok is False
        right = Case(name, CASES / name).right.replace("|", "/")
        print(f"| {name} | {right} | {happened.replace('|', '/')[:300]} | {SIGNS[ok]} |", flush=True)
        print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
