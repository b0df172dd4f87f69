"""Proofs that a renovation changes nothing: what the program did before it, frozen, and compared ever after.

    python -m pytest tests/proofs                    # compare with frozen.json
    PROOFS=freeze python -m pytest tests/proofs      # write it anew, where behaviour was meant to change
    PROOFS=freeze python -m pytest tests/proofs -k muon     # these values only

Freeze only what was meant to change, and name it in the commit. On another machine freezing starts anew.
`frozen.py` says what is compared there.
"""

from __future__ import annotations

import warnings

import pytest

from proofs.frozen import FREEZING, Frozen


@pytest.fixture(scope="session")
def frozen():
    """The frozen values."""
    values = Frozen()
    if not values.same_machine and not FREEZING:
        warnings.warn(
            f"proofs hold within tolerances, on another machine: {values.differences()}", stacklevel=1
        )
    yield values
    if FREEZING:
        values.write()
