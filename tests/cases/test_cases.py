"""Public bug reports of other tools, tried on this one: what was wrong once is right and stays so."""

import pytest

from cases.case import CASES, load_checks, try_case


@pytest.mark.skipif(not CASES.is_dir(), reason=f"the cases are not there: {CASES}")
@pytest.mark.parametrize("name", sorted(load_checks()))
def test_case(name):
    ok, happened = try_case(name)
    if ok is None:
        pytest.skip(happened)
    assert ok, happened
