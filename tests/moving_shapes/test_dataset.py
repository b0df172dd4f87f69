"""The torch dataset: items that depend on settings and visit alone."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.utils.data import DataLoader

from latent_shift.moving_shapes import (
    MovingShapes,
    WorldConfig,
    caption,
    draw_scene,
    image_caption,
    parse_caption,
    render,
)
from latent_shift.moving_shapes.constants import MOTIONS
from latent_shift.moving_shapes.dataset import Scenes


def world(clips: int, *levels: int, paraphrases: float = 0.0) -> WorldConfig:
    return WorldConfig.model_validate(
        {"seed": 9, "clips": clips, "levels": levels or (1,), "paraphrases": paraphrases}
    )


def test_clips_are_those_of_the_scenes() -> None:
    clips = MovingShapes(world(20, 2))
    item = clips[13]
    scene = draw_scene(9, 13, level=2)
    assert torch.equal(item["frames"], torch.from_numpy(render([scene])[0]))
    assert item["frames"].shape == (16, 64, 64, 3)
    assert item["frames"].dtype == torch.uint8
    assert item["caption"] == caption(scene)
    assert len(clips) == 20


def test_clips_of_another_size_show_the_same_scenes() -> None:
    large = world(20, 2).model_copy(update={"size": 128})
    assert large.shape[2:] == (128, 128)
    scene = draw_scene(9, 13, level=2)
    expected = torch.from_numpy(render([scene], size=128)[0])
    assert torch.equal(MovingShapes(large)[13]["frames"], expected)
    assert torch.equal(torch.from_numpy(large.captioned_clips().frames([13])[0]), expected)
    still = MovingShapes(large, images=True)[13]
    assert still["frames"].shape == (1, 128, 128, 3)
    assert any(torch.equal(still["frames"][0], frame) for frame in expected)
    assert large.latent_settings() != world(20, 2).latent_settings()
    assert "size" not in world(20, 2).latent_settings()  # stores that were made before stay valid
    with pytest.raises(ValidationError, match="multiple of 8"):
        WorldConfig(size=60)


def test_levels_take_turns() -> None:
    clips = MovingShapes(world(20, 1, 2, 2))
    expected = [draw_scene(9, i // 3, level=(1, 2, 2)[i % 3]) for i in range(9)]
    assert [clips[i]["caption"] for i in range(9)] == [caption(scene) for scene in expected]


def test_oversampled_motions_come_as_often_as_asked() -> None:
    """Two of seventeen, in half of the clips and by chance in the rest: 0.5 + 0.5 * 2 / 17, give or take."""
    motions = ("bouncing", "swinging from side to side")
    scenes = Scenes(WorldConfig(seed=9, clips=1500, oversample_motions=motions, oversample_motions_ratio=0.5))
    shown = [scenes[i].objects[0].motion for i in range(1500)]
    assert sum(motion in motions for motion in shown) / 1500 == pytest.approx(0.559, abs=0.04)
    assert set(shown) == set(MOTIONS)


def test_what_is_not_oversampled_stays_the_same_scene() -> None:
    plain = Scenes(WorldConfig(seed=9, clips=60))
    oversampled = Scenes(
        WorldConfig(seed=9, clips=60, oversample_motions=("bouncing",), oversample_motions_ratio=0.5)
    )
    changed = [i for i in range(60) if plain[i] != oversampled[i]]
    assert 15 <= len(changed) <= 45
    assert all(oversampled[i].objects[0].motion == "bouncing" for i in changed)


def test_oversampled_motions_keep_to_the_middle_of_their_range_where_asked() -> None:
    named = {
        "oversample_motions": ("bouncing", "spinning clockwise", "growing"),
        "oversample_motions_ratio": 0.5,
    }
    wide, narrow = (
        Scenes(WorldConfig(seed=9, clips=300, amplitude_range=part, **named)) for part in (1.0, 0.2)
    )
    changed = [i for i in range(300) if wide[i] != narrow[i]]
    middles = {"bouncing": (0.8, 0.04), "spinning clockwise": (1.0, 0.05)}  # of 0.6 to 1.0, of 0.75 to 1.25
    for i in changed:
        before, after = wide[i].objects[0], narrow[i].objects[0]
        middle, most = middles[after.motion]
        assert abs(after.amplitude - middle) <= most
        assert replace(after, amplitude=before.amplitude) == before
    assert {narrow[i].objects[0].motion for i in changed} == set(middles)
    # what is shown by chance keeps its whole range
    turns = [narrow[i].objects[0].amplitude for i in range(300) if "spinning" in narrow[i].objects[0].motion]
    assert any(abs(amplitude - 1.0) > 0.05 for amplitude in turns)


def test_oversampling_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="oversample_motions has 'jumping'"):
        WorldConfig(oversample_motions=("jumping",), oversample_motions_ratio=0.5)
    with pytest.raises(ValidationError, match="go together"):
        WorldConfig(oversample_motions=("bouncing",))
    with pytest.raises(ValidationError, match="there is none"):
        WorldConfig(amplitude_range=0.5)
    with pytest.raises(ValueError, match="motions are"):
        draw_scene(1, 1, motions=("jumping",))
    with pytest.raises(ValueError, match="amplitude_range is 1.5"):
        draw_scene(1, 1, amplitude_range=1.5)


def test_no_clip_is_held_out() -> None:
    clips = MovingShapes(world(300, 1, 2))
    assert not any(scene.held_out for scene in (clips.scenes[i] for i in range(300)))


def test_after_the_last_clip_comes_the_first_in_other_words() -> None:
    clips = MovingShapes(world(8, paraphrases=1.0))
    assert torch.equal(clips[3]["frames"], clips[11]["frames"])
    assert any(clips[i]["caption"] != clips[i + 8]["caption"] for i in range(8))


def test_images_are_frames_of_the_clips() -> None:
    images, clips = MovingShapes(world(40), images=True), MovingShapes(world(40))
    places = set()
    for index in range(40):
        item = images[index]
        assert item["frames"].shape == (1, 64, 64, 3)
        matches = (clips[index]["frames"] == item["frames"]).flatten(1).all(dim=1)
        assert matches.any()
        places.add(int(matches.int().argmax()))
        assert item["caption"] == image_caption(draw_scene(9, index))
    assert len(places) > 5


def test_a_window_is_a_part_of_its_image_and_shows_its_object() -> None:
    windows, images = MovingShapes(world(20), images=True, crop=32), MovingShapes(world(20), images=True)
    for index in range(20):
        part, whole = windows[index]["frames"][0], images[index]["frames"][0]
        assert part.shape == (32, 32, 3)
        found = whole.unfold(0, 32, 1).unfold(1, 32, 1).permute(0, 1, 3, 4, 2) == part
        assert found.all(dim=4).all(dim=3).all(dim=2).any()
        assert len(part.flatten(0, 1).unique(dim=0)) > 1  # not the background alone


def test_paraphrases_come_at_their_share_and_do_not_change_the_clip() -> None:
    plain, half = MovingShapes(world(200)), MovingShapes(world(200, paraphrases=0.5))
    changed = sum(plain.scenes.paraphrase(i) != half.scenes.paraphrase(i) for i in range(200))
    assert 70 < changed < 130
    assert torch.equal(plain[3]["frames"], half[3]["frames"])
    assert parse_caption(plain[3]["caption"])


def test_loader_workers_give_the_same_items() -> None:
    clips = MovingShapes(world(12, 2, paraphrases=1.0))
    loaded = [item for batch in DataLoader(clips, batch_size=3, num_workers=2) for item in batch["caption"]]
    assert loaded == [clips[i]["caption"] for i in range(12)]


@pytest.mark.parametrize("wrong", [{"clips": 0}, {"paraphrases": 1.5}, {"levels": [4]}, {"sede": 1}])
def test_wrong_settings_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        WorldConfig.model_validate(wrong)


def test_earlier_names_are_read_and_kept_in_the_settings_of_stored_latents() -> None:
    earlier = {"favoured": ["bouncing"], "favoured_share": 0.5, "favoured_spread": 0.2}
    config = WorldConfig.model_validate({"seed": 3, "levels": [1, 2], **earlier})
    assert config == WorldConfig(
        seed=3,
        levels=(1, 2),
        oversample_motions=("bouncing",),
        oversample_motions_ratio=0.5,
        amplitude_range=0.2,
    )
    assert config.latent_settings() == {"seed": 3, "levels": [1, 2], **earlier}
    assert WorldConfig().latent_settings() == {"seed": 0, "levels": [1]}
    assert WorldConfig(sized_growth=True).latent_settings() == {
        "seed": 0, "levels": [1], "sized_growth": True
    }  # fmt: skip
