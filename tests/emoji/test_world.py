"""The emoji world: pack, held-out rules, captions, scenes and their drawing."""

import re
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file
from torch import from_numpy

from latent_shift.emoji import constants
from latent_shift.emoji.captions import Words, caption, paraphrase, with_article
from latent_shift.emoji.dataset import EmojiWorld
from latent_shift.emoji.eyes import border_colour, boxes, cover, name_ground
from latent_shift.emoji.pack import Pack, animated_styles, write_pack
from latent_shift.emoji.render import picture, render
from latent_shift.emoji.scene import Scene, place_composed, placement
from latent_shift.emoji.splits import Splits
from latent_shift.moving_shapes.constants import MOTIONS as ALL_MOTIONS
from latent_shift.rng import item_rng
from tiny_emoji import BOTH, NAMES, tiny_clips, tiny_pack


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_pack(tmp_path_factory.mktemp("pack") / "pack.safetensors")


@pytest.fixture(scope="module")
def world(path):
    return EmojiWorld(pack=path, clips=400)


def test_a_pack_gives_back_what_was_written(path):
    pack = Pack.open(path)
    for number, (clip, frames) in enumerate(tiny_clips()):
        assert pack.clips[number].name == clip.name
        assert pack.clips[number].keywords == clip.keywords
        assert (pack.frames(number) == frames).all()
    assert (pack.size, pack.fps, pack.digest) == (32, 8.0, "tiny")


def test_frames_in_another_order_of_memory_are_written_the_same(tmp_path):
    (clip, frames), *_ = tiny_clips(1)
    write_pack(tmp_path / "p.safetensors", [(clip, np.asfortranarray(frames))], fps=8, digest="")
    assert (Pack.open(tmp_path / "p.safetensors").frames(0) == frames).all()


def test_what_is_no_pack_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"no such file; make it: python recipes/emoji/prepare.py"):
        Pack.open(tmp_path / "none.safetensors")
    (tmp_path / "cut").write_bytes(b"x" * 30)
    with pytest.raises(ValueError, match="is damaged"):
        Pack.open(tmp_path / "cut")
    save_file({"rgba": np.zeros((1, 2, 2, 4), np.uint8)}, tmp_path / "other", {"format": "a list"})
    with pytest.raises(ValueError, match="is no pack of emoji, but 'a list'"):
        Pack.open(tmp_path / "other")
    (clip, frames), *_ = tiny_clips(1)
    with pytest.raises(ValueError, match="fluent 1f600: frames are float32"):
        write_pack(tmp_path / "float", [(clip, frames.astype(np.float32))], fps=8, digest="")


def test_held_out_pairs_words_and_styles(path):
    pack = Pack.open(path)
    splits = Splits(pack.clips, pack.listed)
    codes = sorted(f"1f{600 + number}" for number in range(len(NAMES)))
    assert list(splits.emoji) == codes
    for number, code in enumerate(codes):
        one = splits.emoji[code]
        assert one.number == number
        for motion in constants.MOTIONS:
            assert splits.pair_held_out(code, motion) == ((number + 7 * ALL_MOTIONS.index(motion)) % 10 == 0)
        place = NAMES.index(one.name)
        # Four keywords beside the name, which is one of the five in the list.
        assert one.held_out_word == f"thing {place}"
        assert one.keywords == (f"alpha{place}", f"beta{place}", f"gamma{place}")
        fifth = number % 5 == 0 and number < BOTH
        expected = ("noto", "fluent")[number // 5 % 2] if fifth else None
        assert one.left_out == expected
        assert splits.style_held_out(code, "noto") == (expected == "noto")
    assert splits.pair_held_out("1f999", "moving left")  # a still only: it has no number


def test_few_keywords_hold_none_out(path):
    few = [one for one, _ in tiny_clips(2) if not one.still and one.style == "fluent"]
    few = [replace(one, keywords=("one", "two", one.name, "THREE")) for one in few]
    splits = Splits(few, animated_styles(few))
    assert [one.held_out_word for one in splits.emoji.values()] == [None, None]
    assert splits.emoji["1f600"].keywords == ("one", "THREE", "two")


def test_a_word_is_held_out_however_it_is_written_and_whoever_is_named_so(tmp_path):
    words = ("Puck", "alpha", "rock on", "beta", "rock-on", "zeta")
    clips = [(clip, frames) for clip, frames in tiny_clips(2) if not clip.still]
    renamed = {("fluent", "1f601"): "fairy", ("noto", "1f601"): "Zeta", ("fluent", "1f600"): "wand"}
    clips = [
        (replace(clip, name=renamed.get((clip.style, clip.code), clip.name), keywords=(*words, "puck")), one)
        for clip, one in clips
    ]
    write_pack(tmp_path / "pack", clips, fps=8, digest="")
    world = EmojiWorld(pack=tmp_path / "pack", clips=200, paraphrases=0.5)
    scenes = world.captioned_clips(cached=True)
    assert scenes.pools.splits.emoji["1f601"].held_out_word.casefold() == "zeta"
    assert any(scenes.pack.clips[scenes[index].clip].name == "Zeta" for index in range(200))
    first = [number for number in range(200) if scenes.pack.clips[scenes[number].clip].code == "1f601"]
    assert not any(
        "zeta" in text(number).casefold() for number in first for text in (scenes.caption, scenes.paraphrase)
    )
    written = [replace(clip, keywords=("Rock-on", "rock on", "an", "be", "can")) for clip, _ in tiny_clips(1)]
    one = Splits(written, animated_styles(written)).emoji["1f600"]
    assert one.held_out_word in ("Rock-on", "rock on")
    assert one.keywords == ("an", "be", "can")


def test_a_missing_picture_changes_nothing_of_what_is_held_out(path, tmp_path):
    pack = Pack.open(path)
    some = [(clip, frames) for clip, frames in tiny_clips() if clip.emoji not in ("1f600", "1f605")]
    write_pack(tmp_path / "some.safetensors", some, fps=8, digest="", listed=pack.listed)
    less = Pack.open(tmp_path / "some.safetensors")
    whole, fewer = Splits(pack.clips, pack.listed).emoji, Splits(less.clips, less.listed).emoji
    assert fewer == {code: one for code, one in whole.items() if code not in ("1f600", "1f605")}


def test_no_scene_and_no_caption_is_held_out(world):
    scenes = world.captioned_clips(cached=True)
    splits = scenes.pools.splits
    styles, motions = set(), set()
    for index in range(len(scenes)):
        scene, clip = scenes[index], scenes.pack.clips[scenes[index].clip]
        assert not splits.style_held_out(clip.emoji, clip.style)
        if scene.motion:
            assert not splits.pair_held_out(clip.emoji, scene.motion)
        words = splits.emoji[clip.emoji].held_out_word
        for around in range(3):
            text = scenes.paraphrase(index + around * len(scenes), image=around == 2)
            assert words not in text
            assert scene.ground == "white" or scene.ground in text
            assert not scene.motion or text != clip.name
        assert scene.motion in scenes.caption(index, image=True)  # which says how large the picture is
        styles.add(clip.style)
        motions.add(scene.motion)
    assert styles == {"fluent", "noto"}
    assert motions == {"", *constants.MOTIONS}


def test_a_caption_without_a_style_means_the_first_one_that_its_emoji_is_trained_in(path, world):
    one_default = EmojiWorld(pack=path, clips=400, default_style=True)
    scenes, free = one_default.captioned_clips(), world.captioned_clips()
    splits, unsaid = scenes.pools.splits, dict[str, set[str]]()
    for index in range(400):
        scene, clip = scenes[index], scenes.pack.clips[scenes[index].clip]
        assert replace(scene, says_style=False) == replace(free[index], says_style=False)
        if not scene.says_style:
            unsaid.setdefault(clip.emoji, set()).add(clip.style)
            assert "style" not in scenes.caption(index)
    for code, styles in unsaid.items():
        assert styles == {"noto" if splits.emoji[code].left_out == "fluent" else "fluent"}
    assert {"noto", "fluent"} == set.union(*unsaid.values())
    assert any(scenes[index].says_style for index in range(400) if _style(scenes, index) == "fluent")
    assert one_default.latent_settings() == world.latent_settings()


def _style(scenes, index):
    return scenes.pack.clips[scenes[index].clip].style


def test_stills_are_of_held_out_styles_neither(path):
    scenes = EmojiWorld(
        pack=path, clips=200, stills=1.0, styles=("fluent", "noto", "twemoji")
    ).captioned_clips()
    splits = scenes.pools.splits
    found = [scenes.pack.clips[scenes[index].clip] for index in range(len(scenes))]
    assert all(clip.still and not splits.style_held_out(clip.emoji, clip.style) for clip in found)
    assert {clip.style for clip in found} == {"fluent", "noto", "twemoji"}
    assert "llama" in {clip.name for clip in found}  # which no animation has
    first, second, *_ = scenes.frames([0])[0]
    assert (first != second).any()  # each frame at another size and place


def test_items_depend_on_seed_and_index_only(path):
    one, other = (EmojiWorld(pack=path, clips=20, seed=seed).dataset() for seed in (0, 1))
    assert (one[3]["frames"] == one[3]["frames"]).all()
    assert one[3]["caption"] == EmojiWorld(pack=path, clips=20).dataset()[3]["caption"]
    assert any((one[i]["frames"] != other[i]["frames"]).any() for i in range(3))
    assert one[3]["frames"].shape == (16, 32, 32, 3)
    assert len({one[3 + 20 * around]["caption"] for around in range(8)}) > 3


@pytest.mark.parametrize("stills", [0.0, 1.0])
def test_a_window_has_part_of_the_picture(path, stills):
    world = EmojiWorld(pack=path, clips=40, styles=("fluent",), stills=stills)
    scenes, windows = world.captioned_clips(), world.dataset(images=True, crop=16)
    for number in range(40):
        window = windows[number]["frames"]
        assert window.shape == (1, 16, 16, 3)
        assert (window != from_numpy(np.array(constants.GROUNDS[scenes[number].ground]))).any()


def test_a_single_frame_of_a_still_is_that_of_its_clip(path):
    world = EmojiWorld(pack=path, clips=4, styles=("fluent",), stills=1.0)
    scenes = world.captioned_clips()
    whole = render(scenes.pack, scenes[2])
    assert all((render(scenes.pack, scenes[2], [frame])[0] == whole[frame]).all() for frame in range(16))
    with pytest.raises(ValueError, match="stills have another size and place in each frame"):
        EmojiWorld(pack=path, stills=0.5, sizes=(0.9, 0.9))


def test_keys_of_stills_say_what_they_leave_out(path):
    with pytest.raises(ValueError, match="animated_only is for stills, of which there are none"):
        EmojiWorld(pack=path, animated_only=True)
    with pytest.raises(ValueError, match="has no stills of the styles twemoji, with animated_only"):
        EmojiWorld(pack=path, styles=("twemoji",), stills=1.0, animated_only=True).dataset()[0]
    assert "animated_only" not in EmojiWorld(pack=path, stills=0.5).latent_settings()
    assert EmojiWorld(pack=path, stills=0.5, animated_only=True).latent_settings()["animated_only"]


def test_stills_in_the_middle_stand_and_move_as_clips_do(path):
    world = EmojiWorld(
        pack=path, clips=300, stills=0.5, styles=("fluent", "noto", "twemoji"), sizes=(0.9, 0.9),
        composed_sizes=(0.6, 0.6), centred=True, animated_only=True, default_style=True,
    )  # fmt: skip
    scenes = world.captioned_clips()
    stills = [index for index in range(300) if scenes.pack.clips[scenes[index].clip].still]
    assert 100 < len(stills) < 200
    assert "llama" not in {scenes.pack.clips[scenes[index].clip].name for index in range(300)}
    assert not any(scenes[index].scatter for index in stills)
    standing = next(index for index in stills if not scenes[index].motion)
    moving = next(index for index in stills if scenes[index].motion == "moving left")
    frames = scenes.frames([standing, moving])
    assert (frames[0, 0] == frames[0, -1]).all()
    assert (scenes[standing].size, scenes[standing].x) == (0.9, 0.0)
    shift = placement(scenes[moving], np.array([0.0, 1.0])).x
    assert shift[1] < shift[0]
    assert (frames[1, 0] != frames[1, -1]).any()
    for index in stills:  # a style that no animation shows by default is always named
        clip = scenes.pack.clips[scenes[index].clip]
        meant = "noto" if scenes.pools.splits.emoji[clip.emoji].left_out == "fluent" else "fluent"
        assert scenes[index].says_style or clip.style == meant


def test_a_smaller_world_has_so_many_emoji(path):
    scenes = EmojiWorld(pack=path, emoji=5, clips=100, styles=("fluent",)).captioned_clips()
    assert len({scenes.pack.clips[scenes[index].clip].emoji for index in range(100)}) <= 5
    with pytest.raises(ValueError, match="has no animations of the styles twemoji"):
        EmojiWorld(pack=path, styles=("twemoji",)).dataset()[0]
    with pytest.raises(ValueError, match="hard_negatives"):
        EmojiWorld(pack=path).dataset(hard_negatives=2)


def test_emoji_that_a_world_lacks_are_its_untrained_words(path):
    words = EmojiWorld(pack=path).untrained_words()
    assert {"giraffe", "llama", "banana"} <= set(words)  # of the llama there is a still in a third style
    assert not {"rocket", "unicorn", "santa", "pizza", "pink", "left"} & set(words)
    smaller = EmojiWorld(pack=path, emoji=1).untrained_words()
    assert "unicorn" in smaller
    assert "rocket" not in smaller
    assert "llama" not in EmojiWorld(pack=path, styles=("twemoji",), stills=1.0).untrained_words()
    assert (
        "llama" in EmojiWorld(pack=path, styles=("fluent", "twemoji")).untrained_words()
    )  # it draws no still
    assert not {"moving", "growing"} & {*words}
    plain = {*EmojiWorld(pack=path, composed=0.0).untrained_words()}
    assert {"growing", "moves", "going", "shrinking", "rotating"} < plain
    assert not {"standing", "still"} & plain
    # Motions of the other world that this one does not have, but no verb that both use.
    assert {"bouncing", "circles", "swinging"} < {*words}
    assert not {"going", "moving", "moves"} & {*words}


def test_latents_of_another_pack_are_other_latents(path, tmp_path):
    (clip, frames), *_ = tiny_clips(1)
    write_pack(tmp_path / "p.safetensors", [(clip, frames)], fps=8, digest="other")
    here, there = EmojiWorld(pack=path), EmojiWorld(pack=tmp_path / "p.safetensors")
    assert here.latent_settings() != there.latent_settings()
    assert "clips" not in here.latent_settings()


def test_pictures_have_the_sizes_that_are_set(path):
    world = EmojiWorld(pack=path, clips=200, sizes=(0.85, 1.0), composed_sizes=(0.45, 0.5), centred=True)
    scenes = world.captioned_clips()
    drawn = [scenes[number] for number in range(200)]
    plain = [scene.size for scene in drawn if not scene.motion]
    assert all(scene.x == scene.y == 0 for scene in drawn if not scene.motion)
    for scene in drawn:  # the middle of the clip is the middle of the frame
        where = placement(scene, np.array([0.5]))
        assert abs(where.x[0]) < 1e-9 > abs(where.y[0])
    moving = [scene.size for scene in drawn if scene.motion]
    assert 0.85 <= min(plain) < 0.87 < 0.98 < max(plain) <= 1.0
    assert 0.45 <= min(moving) < 0.46 < 0.49 < max(moving) <= 0.5
    usual = EmojiWorld(pack=path, clips=200)
    assert "sizes" not in usual.latent_settings()  # latents that were made before stay valid
    assert world.latent_settings() != usual.latent_settings()
    for wrong in ((0.9, 0.5), (0.0, 0.5)):
        with pytest.raises(ValueError, match="expected the least and the most part of the frame"):
            EmojiWorld(pack=path, sizes=wrong)


def test_canonical_captions():
    words = Words("rocket", style="fluent", motion="moving left", ground="navy")
    assert caption(words) == "a rocket in 3D style moving left on a navy background"
    assert caption(Words("OK hand", tone="dark")) == "an OK hand with dark skin tone on a white background"
    named = {"ewe": "a", "unicorn": "a", "umbrella": "an", "hourglass": "an", "eye": "an", "European": "a"}
    assert {noun: with_article("a", noun).split()[0] for noun in named} == named


def test_paraphrases_vary_and_stay_true():
    words = Words("rocket", ("space", "launch"), style="noto", motion="growing", ground="teal")
    texts = {paraphrase(words, item_rng(0, index)) for index in range(200)}
    assert len(texts) > 100
    for text in texts:
        assert "teal" in text
        assert "flat" in text
        assert re.search("grow|bigger|larger", text)
        assert "rocket" in text or "space" in text or "launch" in text
    white = Words("rocket")
    named = sum("white" in paraphrase(white, item_rng(1, index)) for index in range(300))
    assert 30 < named < 90


def test_a_picture_lies_where_the_scene_says(path):
    pack = Pack.open(path)
    for motion in constants.MOTIONS:
        scene = Scene(
            0, 0, "green", motion, **place_composed(motion, item_rng(2, constants.MOTIONS.index(motion)))
        )
        clip = render(pack, scene)
        assert name_ground(border_colour(clip)) == "green"
        x, y, half = boxes(cover(clip, border_colour(clip)))[[0, -1]].T
        if motion.startswith("moving"):
            assert (x[1] - x[0] > 0.3) == ("right" in motion)
            assert (x[0] - x[1] > 0.3) == ("left" in motion)
            assert (y[1] - y[0] > 0.3) == ("down" in motion)
            assert (y[0] - y[1] > 0.3) == ("up" in motion)
        elif motion in ("growing", "shrinking"):
            assert (half[1] > 1.5 * half[0]) == (motion == "growing")
            assert (half[0] > 1.5 * half[1]) == (motion == "shrinking")
        else:
            assert np.hypot(x[1] - x[0], y[1] - y[0]) < 0.3


def test_a_ground_is_flat_and_exact(path):
    pack = Pack.open(path)
    for name, colour in constants.GROUNDS.items():
        scene = Scene(0, 3, name, size=0.5)
        clip, alpha = render(pack, scene), picture(pack, scene)[..., 3]
        assert (clip[alpha == 0] == colour).all()
        assert (alpha == 0).mean() > 0.5
    turned = render(pack, Scene(0, 0, "white", "spinning clockwise", 0.8, amplitude=0.25))
    upright = render(pack, Scene(0, 15, "white", size=0.8))
    # A quarter turn clockwise: what was at the top is at the right.
    assert np.abs(np.rot90(upright[0], -1).astype(float) - turned[-1]).mean() < 6
