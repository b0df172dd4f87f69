"""Scores of real clips: motions, grounds, movement, loops; and eyes that learn."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latent_shift.emoji.constants import GROUNDS, MOTIONS
from latent_shift.emoji.eyes import Eyes, border_colour, name_ground
from latent_shift.emoji.motion import FROZEN, mean_change, motion_features, name_motion, seam
from latent_shift.emoji.pack import Pack, animated_styles, write_pack
from latent_shift.emoji.protocol import CELLS, EmojiScores, EmojiTruth, choose_cells
from latent_shift.emoji.render import render
from latent_shift.emoji.scene import Scene, place_composed
from latent_shift.evaluation.metrics.base import MetricOptions
from latent_shift.rng import item_rng
from tiny_emoji import figure, tiny_clips, tiny_pack

FILE = Path(__file__).parents[2] / "recipes" / "emoji" / "train_eyes.py"


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """A pack of 64 pixels."""
    path = tmp_path_factory.mktemp("pack") / "pack.safetensors"
    large = [
        (clip, figure(int(clip.code.partition("-")[0][2:]) - 600, clip.style, len(frames), 64))
        for clip, frames in tiny_clips(12)
        if clip.code != "1f999"
    ]
    write_pack(path, large, fps=8.0, digest="large")
    return EmojiTruth(Pack.open(path))


def test_every_motion_is_named(truth):
    wrong = []
    for number in range(4):
        for index, motion in enumerate(MOTIONS):
            where = place_composed(motion, item_rng(number, index))
            scene = Scene(3 * number, number, list(GROUNDS)[index % len(GROUNDS)], motion, **where)
            found = name_motion(render(truth.pack, scene))
            wrong += [(number, motion, found)] * (found != motion)
    assert len(wrong) <= 2, wrong  # of 52


def test_nothing_has_no_motion_and_no_ground_has_no_name():
    assert name_motion(np.full((16, 64, 64, 3), 255, np.uint8)) is None
    assert name_ground(border_colour(np.full((2, 8, 8, 3), (255, 0, 255), np.uint8))) is None


def test_prompts_are_fixed_and_of_their_cells(truth):
    splits = truth.splits
    for cell in CELLS:
        prompts = [truth.prompt(cell, index) for index in range(20)]
        assert prompts == [truth.prompt(cell, index) for index in range(20)]
        for prompt in prompts:
            one = splits.emoji[prompt.emoji]
            clip = truth.pack.clips[prompt.scene.clip]
            assert clip.emoji == prompt.emoji
            assert prompt.text.endswith(f"on a {prompt.ground} background")
            assert (clip.style == one.left_out) == (cell == "styles")
            if cell.startswith("composed"):
                held_out = cell == "composed-held-out"
                assert splits.pair_held_out(prompt.emoji, prompt.motion) == held_out
                assert prompt.motion in prompt.text
            if cell == "words-held-out":
                assert prompt.keywords == (one.held_out_word,)
            if cell == "words-seen":
                assert set(prompt.keywords) <= set(one.keywords)
    assert len({truth.prompt("names", index).emoji for index in range(12)}) == 12
    with pytest.raises(ValueError, match="choose from names"):
        choose_cells(["name"])


@pytest.mark.parametrize("style", ["fluent", "noto"])
def test_a_pack_of_one_style_has_prompts_of_what_is_there(tmp_path, style):
    """Emoji of which only the style that is left out is there have no prompts but those of that style."""
    whole = tiny_clips()
    path = tmp_path / "one.safetensors"
    listed = animated_styles(clip for clip, _ in whole)
    write_pack(path, [one for one in whole if one[0].style == style], fps=8, digest="", listed=listed)
    truth = EmojiTruth(Pack.open(path))
    alone = {code for code, one in truth.splits.emoji.items() if one.left_out == style}
    assert alone
    for cell in CELLS:
        prompts = [truth.prompt(cell, index) for index in range(60)]
        assert {truth.pack.clips[prompt.scene.clip].style for prompt in prompts} == {style}
        found = {prompt.emoji for prompt in prompts}
        assert found == alone if cell == "styles" else not found & alone


def test_movement_is_recognised_whatever_the_window_and_size(truth):
    right = [
        truth.moves_right(index, prompt.emoji, truth.real_clip("moves", prompt), prompt.ground)
        for index, prompt in ((index, truth.prompt("moves", index)) for index in range(20))
    ]
    assert sum(right) >= 17
    prompt = truth.prompt("moves", 0)
    clip = truth.real_clip("moves", prompt)
    assert mean_change(clip) > FROZEN
    frozen = np.repeat(clip[:1], 16, axis=0)
    assert not truth.moves_right(0, prompt.emoji, frozen, prompt.ground)
    assert np.isclose(np.linalg.norm(motion_features(clip)), 1, atol=1e-5)


def test_a_whole_loop_has_a_seam_like_its_steps(truth):
    prompt = truth.prompt("loop", 0)
    assert seam(truth.real_clip("loop", prompt)) == pytest.approx(1, abs=0.3)
    scene = Scene(prompt.scene.clip, 0, "white", "moving left", 0.4, x=0.5, amplitude=1.0)
    assert seam(render(truth.pack, scene)) > 3


@pytest.mark.parametrize("ground", ["white", "navy", "sky blue"])
def test_a_trained_clip_is_near_itself_and_moves_like_itself_on_every_ground(truth, ground):
    clip = render(truth.pack, Scene(0, 0, ground, size=0.85))
    other = np.random.default_rng(0).integers(0, 255, (16, 64, 64, 3), dtype=np.uint8)
    assert truth.nearest_training_clip(clip, ground) < 1 < 20 < truth.nearest_training_clip(other, ground)
    own = truth.moves_of(truth.pack.clips[0].emoji, ground)
    assert np.isclose((own @ motion_features(clip)).max(), 1, atol=1e-4)


def test_an_emoji_has_the_words_of_its_name_too(truth):
    scores = EmojiScores(truth, None, MetricOptions())
    prompt = truth.prompt("words-seen", 0)
    code, other = next((code, one) for code, one in truth.splits.emoji.items() if code != prompt.emoji)
    said = replace(prompt, keywords=(other.name.upper(), other.keywords[0], other.held_out_word))
    assert scores._has_words(code, said)
    assert not scores._has_words(code, replace(prompt, keywords=(*said.keywords, "nothing")))


def test_other_prompts_have_another_digest(truth, tmp_path):
    less = EmojiTruth(Pack.open(tiny_pack(tmp_path / "less.safetensors", count=9)))
    assert truth.prompts_digest == EmojiTruth(truth.pack).prompts_digest != less.prompts_digest


def test_eyes_learn_stop_and_go_on(truth, tmp_path):
    spec = importlib.util.spec_from_file_location("train_eyes", FILE)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    recipe.BATCH, recipe.CLIPS_A_BATCH, recipe.KEEP_EVERY = 16, 8, 10
    recipe.train(truth.pack, tmp_path / "eyes.safetensors", 30)
    eyes = Eyes.load(tmp_path / "eyes.safetensors")
    assert not (tmp_path / "eyes.state.safetensors").exists()
    prompts = [truth.prompt("names", index) for index in range(24)]
    sights = [eyes.look(truth.real_clip("names", prompt)) for prompt in prompts]
    assert sum(sight.ground == prompt.ground for sight, prompt in zip(sights, prompts, strict=True)) == 24
    first = sum(sight.ranked[0] == prompt.emoji for sight, prompt in zip(sights, prompts, strict=True))
    assert first >= 7  # of 24; by chance 2
    assert set(sights[0].ranked) == set(truth.splits.emoji)
    monkey = recipe.write
    recipe.write = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # stopped when it has kept its state
    with pytest.raises(KeyboardInterrupt):
        recipe.train(truth.pack, tmp_path / "eyes.safetensors", 30)
    recipe.write = monkey
    with pytest.raises(ValueError, match="state.safetensors: is of a training with steps 30, not 20; remove"):
        recipe.train(truth.pack, tmp_path / "eyes.safetensors", 20)
