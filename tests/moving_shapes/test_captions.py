"""Captions say what the scene holds, and the canonical ones can be read back."""

import re
import time

import numpy as np
import pytest

from latent_shift.moving_shapes import (
    ObjectWords,
    Scene,
    caption,
    constants,
    draw_scenes,
    image_caption,
    image_paraphrase,
    paraphrase,
    parse_caption,
    vocabulary,
)
from latent_shift.moving_shapes.captions import MAX_WORDS
from latent_shift.moving_shapes.dataset import WorldConfig
from latent_shift.prompts import warn_of_untrained
from latent_shift.rng import item_rng


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return draw_scenes(31, range(1000), level=2, split="any") + draw_scenes(31, range(500), split="any")


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text)


def test_canonical_captions_are_read_back(scenes: list[Scene]) -> None:
    for scene in scenes:
        objects, ground = parse_caption(caption(scene))
        assert ground == scene.background
        assert objects == [
            ObjectWords(obj.size_word, obj.colour, obj.shape, obj.speed_word, obj.motion)
            for obj in scene.objects
        ]


def test_every_motion_shape_and_colour_is_read_back() -> None:
    for motion in constants.MOTIONS:
        for shape in constants.SHAPES:
            text = f"a red {shape} {motion} and a small blue {shape} {motion} on a navy background"
            objects, ground = parse_caption(text)
            assert [(obj.shape, obj.motion) for obj in objects] == [(shape, motion)] * 2
            assert ground == "navy"


def test_small_liberties_are_read_too() -> None:
    objects, ground = parse_caption(" A orange digit three slowly moving up on a gray background. ")
    assert objects == [ObjectWords("", "orange", "digit three", "slowly", "moving up")]
    assert ground == "gray"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle on a navy background",
        "a red circle moving left",
        "a mauve circle moving left on a navy background",
        "a red circle moving left on a navy background today",
        "a red circle moving left and on a navy background",
        "a red circle moving left and a blue star bouncing and a green ring growing on a navy background",
        "a red circle slowly bouncing on a navy background",
    ],
)
def test_other_sentences_are_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_caption(text)


def test_wording() -> None:
    (scene,) = draw_scenes(1, [0])
    (obj,) = scene.objects
    text = caption(scene)
    assert text.startswith(("a ", "an "))
    assert text.endswith(f"{obj.shape} {obj.motion} on a {scene.background} background")
    assert image_caption(scene) == text.replace(f" {obj.motion}", "")


def test_paraphrases_use_the_vocabulary_and_stay_short(scenes: list[Scene]) -> None:
    known, used, longest = set(vocabulary()), set(), 0
    for index, scene in enumerate(scenes):
        rng = item_rng(0, index)
        for _ in range(6):
            for text in (paraphrase(scene, rng), image_paraphrase(scene, rng), caption(scene)):
                assert text == text.strip()
                assert "  " not in text
                used.update(words(text))
                longest = max(longest, len(words(text)))
    assert used <= known
    assert len(known - used) <= 0.02 * len(known)
    assert longest <= MAX_WORDS


def test_paraphrases_vary_and_repeat_with_the_generator(scenes: list[Scene]) -> None:
    rng = item_rng(7, 7)
    assert len({paraphrase(scenes[0], rng) for _ in range(300)}) > 150
    assert paraphrase(scenes[0], item_rng(1, 2)) == paraphrase(scenes[0], item_rng(1, 2))


def test_paraphrases_keep_the_meaning() -> None:
    """No paraphrase says a word that is canonical for something else in the scene's place."""
    for index, scene in enumerate(draw_scenes(33, range(1500), split="any")):
        (obj,) = scene.objects
        said = words(paraphrase(scene, np.random.default_rng(index)))
        assert set(said) & set(constants.COLOURS) <= {obj.colour}
        assert set(said) & set(constants.BACKGROUNDS) <= {scene.background}
        assert set(said) & {"clockwise", "counterclockwise"} <= set(words(obj.motion))
        if obj.motion in constants.DIRECTIONS:
            way = constants.DIRECTIONS[obj.motion]
            sides = {
                "left": way[0] < 0,
                "leftwards": way[0] < 0,
                "right": way[0] > 0,
                "rightwards": way[0] > 0,
            }
            assert not [side for side, true in sides.items() if side in said and not true]


def test_images_do_not_tell_motion(scenes: list[Scene]) -> None:
    motions = {word for motion in constants.MOTIONS for word in words(motion) if word.endswith("ing")}
    for index, scene in enumerate(scenes[:500]):
        assert not motions & set(words(image_paraphrase(scene, item_rng(3, index))))
        assert not motions & set(words(image_caption(scene)))


def test_words_beyond_level_1_are_those_that_no_caption_of_it_has():
    first, both = (WorldConfig(levels=levels, seed=1, clips=4000) for levels in ([1], [1, 2]))
    texts = [first.captioned_clips().paraphrase(clip) for clip in range(12000)]
    seen = {word for text in texts for word in _words(text)}
    missing = {word for word in first.untrained_words() if word.isalpha()}
    assert {"digit", "seven", "quickly", "slowly", "while", "with"} <= missing
    assert not missing & seen
    assert set(first.vocabulary()) - seen - missing == {"picture"}  # of images only
    assert both.untrained_words() == ()
    for text in texts[:1500]:
        warn_of_untrained(text, first.untrained_words())  # a warning would be an error here


def test_a_world_with_sized_growth_has_no_sentence_beyond_it_there():
    world = WorldConfig(seed=1, clips=4000, sized_growth=True)
    text = "a large square shrinking on a black background"
    warn_of_untrained(text, world.untrained_words())
    with pytest.warns(UserWarning, match="large"):
        warn_of_untrained(text, WorldConfig().untrained_words())
    for clip in range(1500):
        warn_of_untrained(world.captioned_clips().paraphrase(clip), world.untrained_words())


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a large square shrinking on a black background", "'large' and 'shrinking' together"),
        ("a small heart growing on a black background", "'small' and 'growing' together"),
        ("the tiny star gets bigger", "'tiny' and 'gets bigger' together"),
        ("a red circle moving left and a blue square moving up", "'red' and 'blue' together"),
        ("a red circle, a red square", "'red' and 'red' together"),
        ("a circle and a square", "'circle and'"),
        ("a hoop, a box", "'hoop' and 'box' together"),
        ("a Circle moving left and growing", "'moving' and 'growing' together"),
        ("a red five moving left", "'five moving'"),
        ("a disc rotating clockwise", "'disc' and 'rotating' together"),
        ("a crimson circle on a red background", "'crimson' and 'red' together"),
        ("a green circle on a teal background", "'green' and 'teal' together"),
    ],
)
def test_sentences_beyond_level_1_are_warned_about(prompt, named):
    with pytest.warns(UserWarning, match=f"no clip with (.*, )?{named}"):
        warn_of_untrained(prompt, WorldConfig(levels=[1]).untrained_words())


def test_a_long_prompt_is_looked_through_at_once():
    began = time.perf_counter()
    with pytest.warns(UserWarning, match="'red' and 'red' together"):
        warn_of_untrained("a red circle " * 20000, WorldConfig(levels=[1]).untrained_words())
    assert time.perf_counter() - began < 10


def _words(text):
    return re.findall(r"[a-z]+", text)


def test_the_built_in_model_says_which_words_it_was_not_trained_on(tmp_path):
    from latent_shift import generation, systems

    defaults = systems.inspect("moving-shapes")
    assert defaults.untrained_words == WorldConfig(levels=[1], sized_growth=True).untrained_words()

    def plan(prompt):
        request = generation.parse_request(prompt=prompt, seed=1)
        return generation.plan_jobs([request], defaults, count=1, output=str(tmp_path))

    with pytest.warns(UserWarning, match="no clip with 'digit', 'seven', 'quickly' in its caption"):
        plan("a Digit seven moving left quickly on a black background")
    with pytest.warns(UserWarning, match="no clip with 'red' and 'blue' together in its caption"):
        plan("a red circle on a blue background and a square")
    plan("a large square shrinking on a black background")  # a warning would be an error here
