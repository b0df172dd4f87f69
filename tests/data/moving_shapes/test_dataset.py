"""The torch dataset: items that depend on settings and index alone."""

import pytest
import torch
from torch.utils.data import DataLoader

from latent_shift.data.moving_shapes import MovingShapes, caption, draw_scene, image_caption, render


def test_clips_are_those_of_the_scenes() -> None:
    clips = MovingShapes(9, 20, level=2)
    item = clips[13]
    scene = draw_scene(9, 13, level=2)
    assert torch.equal(item["frames"], torch.from_numpy(render([scene])[0]))
    assert item["frames"].shape == (16, 64, 64, 3)
    assert item["frames"].dtype == torch.uint8
    assert item["caption"] == caption(scene)
    assert item["index"] == 13
    assert len(clips) == 20


def test_images_are_frames_of_the_clips() -> None:
    images, clips = MovingShapes(9, 40, images=True), MovingShapes(9, 40)
    places = set()
    for index in range(40):
        item = images[index]
        assert item["frames"].shape == (1, 64, 64, 3)
        matches = (clips[index]["frames"] == item["frames"]).flatten(1).all(dim=1)
        assert matches.any()
        places.add(int(matches.int().argmax()))
        assert item["caption"] == image_caption(draw_scene(9, index))
    assert len(places) > 5


def test_paraphrases_come_at_their_share_and_do_not_change_the_clip() -> None:
    plain, half = MovingShapes(9, 200), MovingShapes(9, 200, paraphrases=0.5)
    changed = sum(plain[i]["caption"] != half[i]["caption"] for i in range(200))
    assert 70 < changed < 130
    assert torch.equal(plain[3]["frames"], half[3]["frames"])
    assert half[3]["caption"] == half[3]["caption"]


def test_loader_workers_give_the_same_items() -> None:
    clips = MovingShapes(9, 12, level=2, paraphrases=1.0)
    loaded = [item for batch in DataLoader(clips, batch_size=3, num_workers=2) for item in batch["caption"]]
    assert loaded == [clips[i]["caption"] for i in range(12)]


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="length is 0"):
        MovingShapes(0, 0)
    with pytest.raises(ValueError, match=r"paraphrases is 1\.5"):
        MovingShapes(0, 1, paraphrases=1.5)
    with pytest.raises(ValueError, match="level is 4"):
        MovingShapes(0, 1, level=4)
    with pytest.raises(IndexError):
        MovingShapes(0, 1)[1]
