"""Modules that load at their first use, and imports without garbage collection, in a fresh process."""

import subprocess
import sys

PROGRAM = """
import sys
from latent_shift.checkpoints.later import import_later
import_later()
import scipy.stats, scipy.optimize
from scipy import integrate
from scipy.optimize import linear_sum_assignment
{}
print(*(name in sys.modules for name in (
    "scipy.stats._stats_py", "scipy.optimize._optimize", "scipy.integrate._quadpack_py"
)))
"""

USES = """
assert scipy.stats.norm.cdf(0) == 0.5
assert integrate.quad(lambda place: place, 0, 1)[0] == 0.5
assert list(linear_sum_assignment([[2, 1], [1, 2]])[1]) == [1, 0]
from scipy.optimize import minimize
from scipy import stats
assert stats.norm and not hasattr(stats, "nothing")
"""

IMPORTS = """
import gc
from latent_shift.checkpoints.quiet import quiet_libraries
quiet_libraries()
held = gc.get_freeze_count()
quiet_libraries()
print(gc.isenabled(), held > 100_000, gc.get_freeze_count() == held)
"""


def said(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_they_are_not_loaded_by_an_import():
    assert said(PROGRAM.format("")).split() == ["False", "False", "False"]


def test_they_are_whole_when_they_are_used():
    assert said(PROGRAM.format(USES)).split() == ["True", "True", "True"]


def test_only_what_imports_make_is_left_out_of_the_garbage_collection():
    assert said(IMPORTS).split() == ["True", "True", "True"]
