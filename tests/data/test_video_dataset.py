"""An item depends on the seed and its index, not on the worker; bad files are reported, not hidden."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.utils.data import DataLoader

from clips import numbers, write_video
from latent_shift.data.manifest import ClipRecord, LocalFile, Manifest, Problem
from latent_shift.data.resize import Buckets
from latent_shift.data.video_dataset import ClipSettings, TooManyBadClips, VideoDataset, read_bad_log

SMALL = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five clips of 30 frames at 8 a second, one cut short at its end, an image, a text called mp4."""
    folder = tmp_path_factory.mktemp("clips")
    first = write_video(folder / "0.mkv", count=30, gop=4)
    for number in range(1, 5):
        shutil.copy(first, folder / f"{number}.mkv")
    whole = first.read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) * 3 // 4])
    (folder / "text.mp4").write_bytes(b"a text" * 100)
    write_video(folder / "short.mkv", count=5)
    Image.new("RGB", (64, 48), "green").save(folder / "image.png")
    return folder


def records(folder, *names, **values):
    kinds = {True: "image", False: "clip"}
    captions = ("one", "two", "three")
    return tuple(
        ClipRecord(
            f"{place} {name}", LocalFile(str(folder / name)), captions, kinds[name.endswith("png")], **values
        )
        for place, name in enumerate(names)
    )


def videos(folder, *names, seed=0, kind="clip", problems=(), times=None, **settings):
    manifest = Manifest("source", records(folder, *names, **(times or {})), tuple(problems))
    bad_log = settings.pop("bad_log", None)
    chosen = ClipSettings(**{"num_frames": 8, **SMALL, **settings})
    return VideoDataset(manifest, chosen, seed=seed, kind=kind, bad_log=bad_log)


FIVE = [f"{number}.mkv" for number in range(5)]


def test_an_item(folder):
    item = videos(folder, *FIVE)[3]
    assert (item["frames"].dtype, item["frames"].shape) == (torch.uint8, (8, 32, 32, 3))
    assert item["caption"] == item["image_caption"] in ("one", "two", "three")
    assert item["fps"] == 8.0
    seen = numbers(item["frames"])
    assert np.diff(seen).tolist() == [1] * 7


@pytest.mark.parametrize(
    ("settings", "step", "fps"), [({"fps": 4}, 2, 4), ({"stride": 3}, 3, 8 / 3), ({"stride": 1}, 1, 8)]
)
def test_rates_and_strides(folder, settings, step, fps):
    data = videos(folder, *FIVE, **settings)
    for index in range(4):
        item = data[index]
        assert np.diff(numbers(item["frames"])).tolist() == [step] * 7
        assert item["fps"] == pytest.approx(fps)


def test_each_time_another_window_and_caption(folder):
    data = videos(folder, "0.mkv")
    items = [data[index] for index in range(20)]
    starts = {numbers(item["frames"])[0] for item in items}
    assert len(starts) > 8
    assert min(starts) <= 3
    assert max(starts) >= 19
    assert {item["caption"] for item in items} == {"one", "two", "three"}
    again = videos(folder, "0.mkv")
    assert all(torch.equal(again[index]["frames"], items[index]["frames"]) for index in (19, 2))
    other = videos(folder, "0.mkv", seed=1)
    assert [numbers(other[index]["frames"])[0] for index in range(20)] != [
        numbers(item["frames"])[0] for item in items
    ]


def test_a_window_stays_within_its_piece(folder):
    data = videos(folder, "0.mkv", times={"start": 1.0, "end": 2.5})
    starts = {numbers(data[index]["frames"])[0] for index in range(20)}
    assert starts == set(range(8, 13))
    whole = videos(folder, "0.mkv", num_frames=30)
    assert numbers(whole[0]["frames"]) == list(range(30))


def test_a_list_of_bad_clips_that_cannot_be_written_ends_nothing(folder, tmp_path):
    data = videos(folder, *FIVE, "text.mp4", max_bad_share=0.5, bad_log=tmp_path)  # a folder
    with pytest.warns(UserWarning, match="could not be written: .*text.mp4"):
        assert len(data[5]["frames"]) == 8


def test_workers_and_order_change_nothing_bad_files_included(folder, tmp_path):
    names = [*FIVE, "cut.mkv", "text.mp4", "short.mkv"]
    indices = [[0, 5, 6], [7, 13, 14], [21, 5, 22], [29, 31, 15]]
    seen = {}
    for workers in (0, 1, 2):
        data = videos(folder, *names, max_bad_share=0.5, bad_log=tmp_path / f"{workers}.jsonl")
        loader = DataLoader(data, batch_sampler=indices, num_workers=workers)
        seen[workers] = list(loader)
        bad = read_bad_log(tmp_path / f"{workers}.jsonl")
        assert set(bad) == {"5 cut.mkv", "6 text.mp4", "7 short.mkv"}
        assert "too short: 5 frames of the 8" in bad["7 short.mkv"]
    for workers in (1, 2):
        for plain, other in zip(seen[0], seen[workers], strict=True):
            assert torch.equal(plain["frames"], other["frames"])
            assert plain["caption"] == other["caption"]
    alone = videos(folder, *names, max_bad_share=0.5)
    assert torch.equal(alone[15]["frames"], seen[0][3]["frames"][2])
    lines = (tmp_path / "0.jsonl").read_text().splitlines()
    assert len(lines) == 3  # each noted once
    assert json.loads(lines[0]).keys() == {"key", "reason"}


def test_of_a_file_cut_short_the_sound_part_is_still_seen(folder):
    cut, whole = (
        ClipRecord(name, LocalFile(str(folder / name)), (name,), "clip") for name in ("cut.mkv", "0.mkv")
    )
    settings = ClipSettings(num_frames=2, max_bad_share=0.5, **SMALL)
    data = VideoDataset(Manifest("source", (cut, whole)), settings, seed=0)
    items = [data[index] for index in range(0, 40, 2)]
    assert {item["caption"] for item in items} == {"cut.mkv", "0.mkv"}
    last = max(numbers(item["frames"])[1] for item in items if item["caption"] == "cut.mkv")
    assert 8 < last <= 15  # of the thirty frames
    assert "ends before" in data.bad[0]


def test_too_many_bad_files_end_the_run_with_one_line_that_names_one(folder):
    data = videos(folder, *FIVE, "text.mp4", "text.mp4", max_bad_share=0.2)
    assert [data[index]["frames"].shape[0] for index in range(6)] == [8] * 6
    with pytest.raises(
        TooManyBadClips,
        match=r"^source: 2 of \d entries tried cannot be used; the last: 6 text\.mp4: .*is damaged",
    ):
        data[6]
    short = videos(folder, *FIVE, num_frames=64)
    with pytest.raises(TooManyBadClips, match=r"too short: 30 frames of the 64 at 8 frames a second"):
        short[0]
    with pytest.raises(TooManyBadClips, match=r"has 8 frames a second, 24 are requested"):
        videos(folder, *FIVE, fps=24)[0]
    with pytest.raises(
        TooManyBadClips, match=r"^source: 1 of 2 entries cannot be used; the first: t\.csv line 3: bad"
    ):
        videos(folder, "0.mkv", problems=[Problem("t.csv line 3", "bad")])


def test_one_bad_clip_of_a_few_is_no_large_share_of_their_source(folder):
    few = {"max_bad_share": 0.1}
    with pytest.raises(TooManyBadClips, match="1 of 1 entries tried"):
        videos(folder, "text.mp4", *FIVE, **few)[0]
    settings = ClipSettings(num_frames=8, **SMALL, **few)
    manifest = Manifest("source", records(folder, "text.mp4", *FIVE))
    assert VideoDataset(manifest, settings, seed=0, of=40)[0]["frames"].shape[0] == 8
    nothing = Manifest("source", records(folder, "text.mp4"))
    with pytest.raises(TooManyBadClips):  # where nothing is left, of however many
        VideoDataset(nothing, settings, seed=0, of=40)[0]


def test_a_worker_ends_the_run_with_the_same_line(folder):
    loader = DataLoader(videos(folder, "text.mp4"), batch_sampler=[[0]], num_workers=1)
    with pytest.raises(TooManyBadClips) as caught:
        list(loader)
    assert str(caught.value).startswith("source: 1 of 1 entries tried cannot be used")
    assert "\n" not in str(caught.value)


def test_images_and_single_frames_of_clips(folder):
    both = videos(folder, "image.png", "0.mkv", kind="image", num_frames=8)
    assert len(both) == 1
    assert both[7]["frames"].shape == (1, 32, 32, 3)
    assert both[0]["frames"].flatten(0, 2).unique(dim=0).tolist() == [[0, 128, 0]]
    frames = [videos(folder, "0.mkv", num_frames=1)[index]["frames"] for index in range(12)]
    assert {len(frame) for frame in frames} == {1}
    assert len({numbers(frame)[0] for frame in frames}) > 5
    with pytest.raises(ValueError, match="source: holds no images, but 5 clips"):
        videos(folder, *FIVE, kind="image")
    shutil.copy(folder / "image.png", folder / "wrong.mp4")
    with pytest.raises(TooManyBadClips, match="holds an image, not a clip"):
        videos(folder, "wrong.mp4")[0]


def test_buckets_give_each_clip_its_shape(folder):
    write_video(folder / "tall.mkv", count=10, size=(96, 48))
    manifest = Manifest("source", records(folder, "0.mkv", "tall.mkv", "text.mp4"))
    buckets = Buckets(pixels=64 * 64, multiple=16)
    data = VideoDataset(manifest, ClipSettings(num_frames=4, buckets=buckets, max_bad_share=0.5), seed=0)
    assert [data[index]["frames"].shape[1:3] for index in (0, 1)] == [(48, 80), (96, 48)]
    assert data.bucket_of[2] is None
    assert list(data.bad) == [2]


def test_contradictions_are_refused():
    for wrong in ({"fps": 8, "stride": 2}, {"buckets": Buckets(), "height": 64}, {"frames": 8}):
        with pytest.raises(ValidationError):
            ClipSettings(**wrong)
