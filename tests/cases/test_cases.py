"""Public bug reports of other tools, tried on this one: what was wrong once is right and stays so."""

import pytest

from cases.case import CASES, SLOW, load_checks, try_case

NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in sorted(load_checks())
]


@pytest.mark.skipif(not CASES.is_dir(), reason=f"the cases are not there: {CASES}")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("precision_of_the_machine")
def test_case(name):
    ok, happened = try_case(name)
    if ok is None:
        pytest.skip(happened)
    assert ok, happened
