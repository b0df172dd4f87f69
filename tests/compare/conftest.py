"""Comparisons by the repository's own presets, in a folder of the test."""

from pathlib import Path

import pytest

from latent_shift.compare.plan import Comparison
from latent_shift.compare.preset import load_preset

RECIPES = Path(__file__).parents[2] / "recipes" / "compare"


@pytest.fixture
def compared(tmp_path):
    """A comparison by a preset, with some of its rows; options of `Comparison` change it."""

    def make(preset="smoke", *rows, **options):
        loaded = load_preset(preset, RECIPES)
        chosen = loaded.choose_rows(list(rows))
        return Comparison(
            loaded, preset, chosen, RECIPES, options.pop("folder", tmp_path / "runs"), **options
        )

    return make
