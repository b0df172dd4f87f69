"""The names that others build on, and what importing the package costs."""

import subprocess
import sys

import pytest

import latent_shift


def test_the_public_names():
    assert sorted(latent_shift.__all__) == [
        "LatentShiftPipeline",
        "__version__",
        "disable_temporal_shift",
        "enable_temporal_shift",
        "temporal_shift",
    ]
    assert all(getattr(latent_shift, name) is not None for name in latent_shift.__all__)
    assert dir(latent_shift) == sorted(latent_shift.__all__)


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="latent_shft"):
        latent_shift.latent_shft  # noqa: B018


def test_importing_the_package_imports_no_torch():
    code = "import sys, latent_shift; sys.exit(any(name in sys.modules for name in ('torch', 'diffusers')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_shift_needs_torch_alone():
    code = "import sys, latent_shift.shift; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
