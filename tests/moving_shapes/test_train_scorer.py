"""The recipe of the scorer's shape network, in small."""

import importlib.util
from pathlib import Path

from safetensors.torch import load_file

from latent_shift.moving_shapes import constants
from latent_shift.moving_shapes.scorer.shape_match import ShapeNetwork

FILE = Path(__file__).parents[2] / "recipes" / "moving-shapes" / "train_scorer.py"


def test_the_recipe_writes_a_network_that_the_scorer_can_load(tmp_path):
    spec = importlib.util.spec_from_file_location("train_scorer", FILE)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    patches, labels = recipe.make_patches(60)
    assert patches.shape == (len(labels), 2, 24, 24)
    assert 0 <= labels.min() <= labels.max() < len(constants.SHAPES)
    recipe.main(tmp_path / "scorer.safetensors", scenes=60, epochs=1)
    ShapeNetwork().load_state_dict(load_file(tmp_path / "scorer.safetensors"))
