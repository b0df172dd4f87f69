"""For all tests: "auto" is fp32 on every CPU, so that no result depends on the processor's instructions."""

import pytest

from latent_shift.checkpoints import precision


@pytest.fixture(scope="session", autouse=True)
def full_precision_on_cpus():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_has_bf16_instructions", lambda: False)
        yield
