"""The scorer on clips whose content is known: right on real ones, wrong exactly where they are made wrong."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from latent_shift.moving_shapes import (
    Scene,
    caption,
    constants,
    draw_scene,
    draw_scenes,
    parse_caption,
    render,
)
from latent_shift.moving_shapes.scorer import ClipScore, recognise, score_clip

SEED = 4242
CELLS = {
    "level 1, seen": {"level": 1, "split": "seen"},
    "level 1, held out": {"level": 1, "split": "held-out"},
    "level 2, one object, seen": {"level": 2, "num_objects": 1, "split": "seen"},
    "level 2, one object, held out": {"level": 2, "num_objects": 1, "split": "held-out"},
    "level 2, two objects": {"level": 2, "num_objects": 2, "split": "any"},
}
COLUMNS = ("colour", "shape", "motion")
LEAST = {"colour": 0.99, "shape": 0.99, "motion": 0.99, "background": 0.99}


def judge(clip, scene) -> ClipScore:
    return score_clip(clip, *parse_caption(caption(scene)))


def wrong(score) -> set[str]:
    """The columns in which the first object, or the background, is wrong."""
    columns = {name for name in COLUMNS if not getattr(score.objects[0], name)}
    return columns if score.background else columns | {"background"}


def shares(scenes, change=lambda clip, index: clip) -> dict[str, float]:
    scores = [judge(change(render([scene])[0], index), scene) for index, scene in enumerate(scenes)]
    objects = [obj for score in scores for obj in score.objects]
    columns = {
        name: np.mean([getattr(obj, name) for obj in objects]) for name in ("colour", "shape", "motion")
    }
    return columns | {"background": np.mean([score.background for score in scores])}


@pytest.fixture(scope="module")
def star() -> Scene:
    """A plain star moving right, seen."""
    obj = draw_scene(SEED, 0).objects[0]
    obj = replace(
        obj, colour="yellow", shape="star", motion="moving right", size_word="", radius=0.25,
        x=-0.5, y=0.1, amplitude=0.9,
    )  # fmt: skip
    return Scene("navy", (obj,))


@pytest.fixture(scope="module")
def still(star) -> Scene:
    return Scene("navy", (replace(star.objects[0], motion="standing still", x=0.1),))


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_rendered_clips_score_ninety_nine(cell):
    found = shares(draw_scenes(SEED, range(150), glyphs="test", **CELLS[cell]))
    # The handwriting of the tested scans is nobody's that the scorer knows.
    least = LEAST | {"shape": 0.98} if "two" in cell else LEAST
    assert {name: share for name, share in found.items() if share < least[name]} == {}


def spoil(clip, index):
    """Blurred, noisy, each frame a pixel off, and one frame nothing but noise."""
    rng = np.random.default_rng(index)
    soft = ndimage.gaussian_filter(clip.astype(np.float32), (0, 1, 1, 0)) + rng.normal(0, 6, clip.shape)
    for frame in soft:
        frame[:] = np.roll(frame, tuple(rng.integers(-1, 2, 2)), axis=(0, 1))
    spoilt = np.clip(soft, 0, 255).astype(np.uint8)
    spoilt[rng.integers(0, len(clip))] = rng.integers(0, 256, clip.shape[1:])
    return spoilt


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["level 1, held out", "level 2, one object, seen", "level 2, two objects"])
def test_soft_noisy_jumping_clips_still_score_ninety_seven(cell):
    found = shares(draw_scenes(SEED + 1, range(80), glyphs="test", **CELLS[cell]), spoil)
    assert min(found.values()) >= 0.97, found


def test_colours_may_be_a_little_off():
    def shift(clip, index):
        offset = np.random.default_rng(index).integers(-15, 16, 3)
        return np.clip(clip.astype(int) + offset, 0, 255).astype(np.uint8)

    found = shares(draw_scenes(SEED + 2, range(60)), shift)
    assert min(found.values()) >= 0.97, found


# ---- what is wrong is said, and nothing else --------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "changes"),
    [
        ("colour", {"colour": "orange"}),
        ("shape", {"shape": "heart"}),
        ("motion", {"motion": "moving left", "x": 0.5}),
        ("motion", {"motion": "moving up and to the right", "amplitude": 0.7, "y": 0.5}),
        ("motion", {"motion": "growing"}),
        ("motion", {"motion": "swinging from side to side", "x": 0.0, "amplitude": 0.4}),
    ],
)
def test_another_clip_than_asked_fails_in_that_column(star, column, changes):
    other = Scene("navy", (replace(star.objects[0], **changes),))
    assert wrong(judge(render([other])[0], other)) == set()
    assert wrong(judge(render([other])[0], star)) == {column}
    assert not judge(render([other])[0], star).all_correct


def test_another_background_fails_as_background(star):
    other = replace(star, background="maroon")
    assert wrong(judge(render([other])[0], star)) == {"background"}


@pytest.mark.parametrize("motion", [motion for motion in constants.MOTIONS if motion != "standing still"])
def test_shuffled_frames_fail_as_motion(star, motion):
    shown = Scene("navy", (replace(star.objects[0], motion=motion, x=0.0, y=0.0, amplitude=0.45, bounces=3),))
    if motion == "bouncing" or motion in constants.SPINNING:
        shown = Scene("navy", (replace(shown.objects[0], amplitude=0.9),))
    clip = render([shown])[0]
    assert wrong(judge(clip, shown)) == set()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(constants.FRAMES)
        assert "motion" in wrong(judge(clip[order], shown))
        assert wrong(judge(clip[order], shown)) <= {"motion", "shape"}  # of a spin nothing stays upright


def test_an_object_that_jumps_about_makes_no_motion(still):
    rng = np.random.default_rng(0)
    jumps = [np.roll(frame, tuple(rng.integers(-14, 15, 2)), axis=(0, 1)) for frame in render([still])[0]]
    assert wrong(judge(np.stack(jumps), still)) == {"motion"}


@pytest.mark.parametrize("frames", [slice(8, 16), slice(0, 16, 2), slice(0, 8)])
def test_an_object_that_is_missing_half_of_the_time_has_no_shape(still, frames):
    clip = render([still])[0]
    clip[frames] = constants.BACKGROUNDS["navy"]
    assert wrong(judge(clip, still)) == {"shape"}


@pytest.mark.parametrize(
    ("frames", "columns"),
    [
        (slice(8, 16), {"shape"}),
        (slice(0, 16, 2), {"shape", "motion"}),  # a circle is larger than a star: the size flickers
    ],
)
def test_an_object_that_changes_shape_has_none(still, frames, columns):
    other = Scene("navy", (replace(still.objects[0], shape="circle"),))
    clip = render([still])[0]
    clip[frames] = render([other])[0][frames]
    assert wrong(judge(clip, still)) == columns
    assert wrong(judge(clip, other)) == columns


def test_an_object_that_travels_and_grows_makes_neither_motion(star):
    grown = Scene("navy", (replace(star.objects[0], motion="growing"),))
    clip = render([grown])[0]
    for frame in range(constants.FRAMES):
        clip[frame] = np.roll(clip[frame], 2 * frame - 8, axis=1)
    assert recognise(clip, 1)[0][0].motion.name is None


def test_an_empty_clip_has_nothing_but_its_background(star):
    clip = np.full((16, 64, 64, 3), constants.BACKGROUNDS["navy"], np.uint8)
    assert wrong(judge(clip, star)) == {"colour", "shape", "motion"}
    assert recognise(clip, 2) == ([], "navy")


def test_two_objects_are_matched_by_colour_in_any_order():
    scene = draw_scene(SEED, 3, level=2, num_objects=2)
    objects, ground = parse_caption(caption(scene))
    clip = render([scene])[0]
    assert score_clip(clip, objects, ground).all_correct
    assert score_clip(clip, objects[::-1], ground).all_correct


def test_a_missing_second_object_fails_alone():
    scene = draw_scene(SEED, 3, level=2, num_objects=2)
    alone = replace(scene, objects=scene.objects[:1])
    first, second = judge(render([alone])[0], scene).objects
    assert first.correct
    assert (second.colour, second.shape, second.motion) == (False, False, False)


@pytest.mark.parametrize("said", ["slowly", "", "quickly"])
def test_the_speed_word_is_a_column_of_its_own(star, said):
    shown = Scene("navy", (replace(star.objects[0], speed_word="slowly", x=-0.4),))
    asked = Scene("navy", (replace(star.objects[0], speed_word=said),))
    score = judge(render([shown])[0], asked)
    assert (score.objects[0].motion, score.objects[0].speed) == (True, said == "slowly")
    assert score.all_correct


def test_single_images_are_scored_without_motion():
    scenes = draw_scenes(SEED + 3, range(80), split="any")
    images = render(scenes, [9])
    scores = [judge(image, scene) for image, scene in zip(images, scenes, strict=True)]
    assert np.mean([score.all_correct for score in scores]) >= 0.97
    assert all(score.objects[0].motion for score in scores)


@pytest.mark.parametrize(
    ("frames", "objects"),
    [
        (np.zeros((16, 32, 32, 3), np.uint8), 1),
        (np.zeros((16, 64, 64, 3), np.float32), 1),
        (np.zeros((0, 64, 64, 3), np.uint8), 1),
        (np.zeros((16, 64, 64, 3), np.uint8), 3),
    ],
)
def test_other_arrays_are_refused(frames, objects):
    with pytest.raises(ValueError, match="frames"):
        recognise(frames, objects)
