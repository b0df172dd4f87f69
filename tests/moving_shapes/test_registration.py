"""The package adds itself to general code through entry points, which never imports it by name."""

import subprocess
import sys

from latent_shift.data.sources import SOURCES
from latent_shift.evaluation.extractors import EXTRACTORS
from latent_shift.moving_shapes import WorldConfig

EXTRACTOR_NAMES = ("moving-shapes", "moving-shapes-frames", "moving-shapes-eyes")


def test_the_registries_list_it() -> None:
    assert SOURCES["moving-shapes"] is WorldConfig
    assert set(EXTRACTOR_NAMES) <= set(EXTRACTORS.names())


def test_general_code_does_not_import_it() -> None:
    rooms = "cli.main, data.sources, training.recipe, evaluation.extractors"
    imports = "; ".join(f"import latent_shift.{room}" for room in rooms.split(", "))
    check = "import sys; assert not any('moving_shapes' in name for name in sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", f"{imports}; {check}"], check=True)
