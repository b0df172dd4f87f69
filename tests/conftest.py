"""For all tests: "auto" is fp32 on every CPU, so that no result depends on the processor's instructions.

What a test starts as another process knows nothing of that: `precision_of_the_machine` makes both the same.

The files that take longest come first, so that none of them runs alone at the end beside an idle process.
"""

import pytest

from latent_shift import precision

LONGEST = (
    "cli/test_compare.py",
    "training/test_resume.py",
    "training/test_sharing.py",
    "server/test_serving.py",
    "benchmark/test_commands.py",
    "training/test_distributed.py",
)


_has_bf16_instructions = precision._has_bf16_instructions


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def full_precision_on_cpus():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_has_bf16_instructions", lambda: False)
        yield


@pytest.fixture
def precision_of_the_machine(monkeypatch):
    monkeypatch.setattr(precision, "_has_bf16_instructions", _has_bf16_instructions)
