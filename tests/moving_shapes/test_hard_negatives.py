"""Captions that are false of a clip in one motion or shape."""

import numpy as np

from latent_shift.moving_shapes import MovingShapes, WorldConfig
from latent_shift.moving_shapes.captions import parse_caption
from latent_shift.moving_shapes.sampling import draw_scenes, hard_negatives


def test_one_word_is_wrong_and_nothing_is_held_out():
    for scene in draw_scenes(5, range(60), level=2):
        motion, shape = hard_negatives(scene, 2, np.random.default_rng(1))
        for miss, what in ((motion, "motion"), (shape, "shape")):
            assert miss.background == scene.background
            assert not miss.held_out
            wrong = [(a, b) for a, b in zip(scene.objects, miss.objects, strict=True) if a != b]
            assert len(wrong) == 1
            (obj, other), kept = wrong[0], {"colour", "size_word", "shape", "motion"} - {what}
            assert getattr(obj, what) != getattr(other, what)
            assert all(getattr(obj, name) == getattr(other, name) for name in kept)


def test_items_carry_them_in_words():
    world = WorldConfig(seed=2, clips=20, paraphrases=0.0)
    item = MovingShapes(world, hard_negatives=3)[4]
    told = [parse_caption(sentence) for sentence in (item["caption"], *item["hard_negatives"])]
    assert len(item["hard_negatives"]) == 3
    assert all(miss != told[0] for miss in told[1:])
    assert MovingShapes(world, hard_negatives=3)[4]["hard_negatives"] == item["hard_negatives"]
    assert "hard_negatives" not in MovingShapes(world)[4]
