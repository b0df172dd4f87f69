"""The draw of scenes keeps every rule of the world, and repeats itself exactly."""

import collections

import numpy as np
import pytest

from latent_shift.moving_shapes import Scene, constants, draw_scene, draw_scenes
from latent_shift.moving_shapes.scene import frame_times, trajectory
from latent_shift.moving_shapes.shapes import glyph_indices, reach

KINDS = [
    {"level": 1},
    {"level": 2, "num_objects": 1},
    {"level": 2, "num_objects": 2},
]


@pytest.fixture(scope="module", params=KINDS, ids=["level 1", "level 2, one", "level 2, two"])
def seen(request: pytest.FixtureRequest) -> list[Scene]:
    return draw_scenes(11, range(1500), **request.param)


def test_numbers_follow_the_written_order() -> None:
    assert (len(constants.COLOURS), len(constants.SHAPES), len(constants.MOTIONS)) == (9, 17, 17)
    assert list(constants.COLOURS)[3] == "yellow"
    assert constants.SHAPES[6:9] == ("heart", "digit zero", "digit one")
    assert constants.MOTIONS[8:12] == (
        "bouncing", "circling clockwise", "circling counterclockwise", "spinning clockwise",
    )  # fmt: skip
    assert constants.is_held_out(0, 0, 0)
    assert not constants.is_held_out(1, 0, 0)
    assert constants.is_held_out(1, 0, 1)


def test_the_same_seed_and_index_give_the_same_scene() -> None:
    again = [draw_scene(5, index, level=2) for index in (3, 2, 1, 0)]
    assert draw_scenes(5, range(4), level=2) == again[::-1]
    assert draw_scene(6, 0, level=2) != again[-1]


def test_seen_scenes_hold_no_held_out_combination(seen: list[Scene]) -> None:
    for scene in seen:
        for obj in scene.objects:
            numbers = (
                list(constants.COLOURS).index(obj.colour),
                constants.SHAPES.index(obj.shape),
                constants.MOTIONS.index(obj.motion),
            )
            assert (3 * numbers[0] + 5 * numbers[1] + 7 * numbers[2]) % 10 != 0


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_scenes_hold_one(kind: dict) -> None:
    assert all(scene.held_out for scene in draw_scenes(12, range(300), split="held-out", **kind))


def test_any_scene_may_be_either() -> None:
    share = np.mean([scene.held_out for scene in draw_scenes(13, range(2000), split="any")])
    assert 0.05 < share < 0.15


def test_colours_stand_out(seen: list[Scene]) -> None:
    for scene in seen:
        ground = np.array(constants.BACKGROUNDS[scene.background])
        for obj in scene.objects:
            assert np.linalg.norm(np.array(constants.COLOURS[obj.colour]) - ground) >= 110
        assert len({obj.colour for obj in scene.objects}) == len(scene.objects)


def test_words_go_together(seen: list[Scene]) -> None:
    for obj in (obj for scene in seen for obj in scene.objects):
        assert not (obj.shape in ("circle", "ring") and "spinning" in obj.motion)
        low, high = constants.RADIUS[obj.size_word]
        assert low <= obj.radius <= high
        if obj.size_word:
            assert obj.motion not in ("growing", "shrinking")
        if obj.speed_word:
            assert any(word in obj.motion for word in ("moving", "circling", "spinning"))
        if constants.is_digit(obj.shape):
            assert obj.size_word != "small"
            assert obj.glyph in glyph_indices()[constants.DIGITS.index(obj.shape)][0]
        else:
            assert obj.glyph == -1


def test_level_1_is_plain() -> None:
    for scene in draw_scenes(14, range(500)):
        (obj,) = scene.objects
        assert obj.shape in constants.DRAWN_SHAPES
        assert not obj.speed_word


def test_choices_are_about_even() -> None:
    scenes = draw_scenes(15, range(6000), level=2, num_objects=1)
    objects = [scene.objects[0] for scene in scenes]
    assert abs(np.mean([constants.is_digit(obj.shape) for obj in objects]) - 1 / 3) < 0.02
    for values, least in (
        ([obj.colour for obj in objects], 1 / 9),
        ([obj.motion for obj in objects], 1 / 17),
        ([scene.background for scene in scenes], 1 / 6),
    ):
        counts = collections.Counter(values)
        assert min(counts.values()) > 0.65 * least * len(scenes)
        assert max(counts.values()) < 1.35 * least * len(scenes)
    two = np.mean([len(scene.objects) == 2 for scene in draw_scenes(16, range(600), level=2)])
    assert 0.42 < two < 0.58


def test_glyphs_are_split_in_the_order_of_the_data_set() -> None:
    for train, test in glyph_indices():
        assert max(train) < min(test)
        assert abs(len(train) / (len(train) + len(test)) - 0.8) < 0.01
    tested = draw_scenes(17, range(200), level=2, num_objects=1, glyphs="test")
    kept = {glyph for _, test in glyph_indices() for glyph in test}
    assert {obj.glyph for scene in tested for obj in scene.objects} <= kept | {-1}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"level": 3}, "3"),
        ({"level": 1, "num_objects": 2}, "objects"),
        ({"level": 2, "num_objects": 3}, "3"),
        ({"split": "unseen"}, "unseen"),
        ({"glyphs": "all"}, "all"),
    ],
)
def test_unknown_settings_are_named(settings: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        draw_scene(0, 0, **settings)


def test_negative_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="index is -1"):
        draw_scene(0, -1)


def test_motions_have_a_kind_without_their_direction():
    kinds = [constants.motion_kind(motion) for motion in constants.MOTIONS]
    assert kinds == [
        *["travelling"] * 8, "bouncing", "circling", "circling", "spinning", "spinning",
        "growing", "shrinking", "swinging from side to side", "standing still",
    ]  # fmt: skip


def test_what_grows_may_have_a_size_and_nothing_else_changes() -> None:
    plain = [draw_scene(5, index) for index in range(400)]
    sized = [draw_scene(5, index, sized_growth=True) for index in range(400)]
    grows = [scene.objects[0].motion in constants.CHANGES_OF_SIZE for scene in plain]
    assert [one for one, grow in zip(plain, grows, strict=True) if not grow] == [
        one for one, grow in zip(sized, grows, strict=True) if not grow
    ]
    assert not any(scene.objects[0].size_word for scene, grow in zip(plain, grows, strict=True) if grow)
    words = {scene.objects[0].size_word for scene, grow in zip(sized, grows, strict=True) if grow}
    assert words == {"", "small", "large"}


@pytest.mark.parametrize(
    ("size", "least", "greatest"), [("small", 0.5, 1.7), ("", 0.5, 1.7), ("large", 0.45, 1.3)]
)
def test_growth_is_that_of_the_size_word_and_fits_the_frame(size: str, least: float, greatest: float) -> None:
    drawn = (
        draw_scene(7, index, motions=("growing", "shrinking"), sized_growth=True).objects[0]
        for index in range(60)
    )
    found = [obj for obj in drawn if obj.size_word == size]
    assert found
    for obj in found:
        path = trajectory(obj, frame_times(np.arange(constants.FRAMES)))
        first, last = (least, greatest) if obj.motion == "growing" else (greatest, least)
        assert path.radius[[0, -1]] == pytest.approx([obj.radius * first, obj.radius * last], abs=1e-3)
        edge = np.maximum(np.abs(path.x), np.abs(path.y)) + reach(obj.shape) * path.radius
        assert edge.max() < 1.001
