"""Modules that load at their first use, in a fresh process."""

import subprocess
import sys

PROGRAM = """
import sys
from latent_shift.checkpoints.later import import_later
import_later()
import scipy.stats, scipy.optimize
from scipy.optimize import linear_sum_assignment
{}
print("scipy.stats._stats_py" in sys.modules, "scipy.optimize._optimize" in sys.modules)
"""


USES = """
assert scipy.stats.norm.cdf(0) == 0.5
assert list(linear_sum_assignment([[2, 1], [1, 2]])[1]) == [1, 0]
from scipy.optimize import minimize
from scipy import stats
assert stats.norm and not hasattr(stats, "nothing")
"""


def loaded(lines):
    command = [sys.executable, "-c", PROGRAM.format(lines)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_they_are_not_loaded_by_an_import():
    assert loaded("") == ["False", "False"]


def test_they_are_whole_when_they_are_used():
    assert loaded(USES) == ["True", "True"]
