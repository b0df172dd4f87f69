"""Folders to evaluate as people have them: one strange file is left out and named, or refused before work."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clips import numbers, write_video
from latent_shift.evaluation.clip_files import (
    ClipReadOptions,
    TooShortError,
    list_clips,
    read_frames,
    scan_folder,
)
from latent_shift.evaluation.metrics.base import MetricOptions
from latent_shift.evaluation.runner import evaluate, first_examples
from latent_shift.evaluation.sources import FolderClips

FOUR = ClipReadOptions(frames=4)
SIX = ClipReadOptions(frames=6)


def cut_avi(path, promised=24, there=0.4):
    """An avi that promises more frames than it holds."""
    data = write_video(path, count=promised, fps=8, codec="mpeg4", gop=1).read_bytes()
    path.write_bytes(data[: data.index(b"movi") + int((len(data) - data.index(b"movi")) * there)])
    return path


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "clips"
    place.mkdir()
    for number in range(3):
        write_video(place / f"{number}.mp4", count=12)
    return place


def wide(stream):
    stream.codec_context.sample_aspect_ratio = 2


@pytest.mark.parametrize("fps", [None, 8])
def test_pixels_are_widened_at_any_rate(folder, fps):
    write_video(folder / "wide.mp4", count=12, size=(48, 32), edit=wide)
    frames = read_frames(folder / "wide.mp4", ClipReadOptions(4, fps))
    assert frames.shape == (4, 48, 64, 3)
    assert numbers(frames) == [0, 1, 2, 3]
    assert len(scan_folder(folder, ClipReadOptions(4, fps)).sizes) == 1


@pytest.mark.parametrize("fps", [None, 8])
def test_a_clip_found_short_when_it_is_read_is_left_out_if_that_is_allowed(folder, fps):
    file = cut_avi(folder / "cut.avi")
    read = ClipReadOptions(20, fps)
    with pytest.raises(TooShortError):
        read_frames(file, read)
    for name in ("3", "4"):
        write_video(folder / f"{name}.mp4", count=20)
    source = FolderClips(folder, read, allow_short=True)
    assert len(source) == 3
    report = evaluate([source], ["flicker"], options=MetricOptions(resamples=0))
    assert report.notes == ["4 of clips left out: 0.mp4, 1.mp4, 2.mp4, cut.avi"]
    assert report.rows[0].settings["clips"] == len(source) == 2
    refusing = FolderClips(folder, read, allow_short=True)
    refusing.allow_short = False
    with pytest.raises(ValueError, match=r"cut\.avi: .*; leave it out with --allow-short"):
        list(refusing.batches())


def test_a_clip_found_broken_when_it_is_read_is_left_out_if_that_is_allowed(folder):
    first = write_video(folder / "a.ts", count=4)
    second = write_video(folder / "b.ts", count=8, size=(96, 64), times=[(4 + n) / 8 for n in range(8)])
    (folder / "c.ts").write_bytes(first.read_bytes() + second.read_bytes())
    second.unlink()
    with pytest.raises(ValueError, match=r"c\.ts: .*--allow-unreadable"):
        list(FolderClips(folder, SIX, allow_short=True).batches())
    source = FolderClips(folder, SIX, allow_unreadable=True, allow_short=True)
    assert [batch.names for batch in source.batches()] == [["0.mp4", "1.mp4", "2.mp4"]]
    assert source.notes == ["2 of clips left out: a.ts, c.ts"]


def test_the_page_shows_fewer_clips_where_fewer_can_be_read(folder):
    for number in range(3):
        (folder / f"{number}.mp4").unlink()
    cut_avi(folder / "cut.avi")
    write_video(folder / "good.mp4", count=24)
    source = FolderClips(folder, ClipReadOptions(22), allow_short=True)
    assert [example.label for example in first_examples(source, 6)] == ["clip 1"]
    assert first_examples(source, 0) == []


def test_captions_are_read_as_data_reads_them(folder):
    texts = {
        "0.txt": "un café\nmore".encode("cp1252"),
        "1.TXT": "a bar".encode("utf-16"),
        "2.txt": "\ufeffx\u2028y\rz".encode(),
    }
    for name, data in texts.items():
        (folder / name).write_bytes(data)
    source = FolderClips(folder, FOUR)
    assert [caption for batch in source.batches() for caption in batch.captions] == [
        "un café",
        "a bar",
        "x y",
    ]
    assert [note.split(": ", 2)[2] for note in source.notes] == [
        "is not UTF-8; read as Windows-1252, a guess", "read as UTF-16, by its byte order mark",
    ]  # fmt: skip


def test_a_caption_that_is_no_text_is_refused_before_any_work_or_left_out(folder):
    (folder / "1.txt").write_bytes(b"\x89PNG\r\n\0\0\0")
    with pytest.raises(ValueError, match=r"1 files cannot be read: .*1\.txt: is no text.*--allow-unreadable"):
        FolderClips(folder, FOUR)
    source = FolderClips(folder, FOUR, allow_unreadable=True)
    assert source.notes == ["1 of clips left out: 1.mp4"]


def test_links_hidden_folders_and_odd_names(folder, tmp_path):
    for file in (".Trashes/t.mp4", "._0.mp4", "deep/.hidden/h.mp4"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"fork")
    (tmp_path / "elsewhere").mkdir()
    write_video(tmp_path / "elsewhere" / "e.mp4", count=12)
    os.symlink("../elsewhere", folder / "linked")
    os.symlink("..", folder / "linked" / "loop")
    os.rename(folder / "2.mp4", os.fsencode(folder) + b"/caf\xe9.mp4")
    source = FolderClips(folder, FOUR)
    names = [name for batch in source.batches() for name in batch.names]
    assert names == ["0.mp4", "1.mp4", "caf\\udce9.mp4", "linked/e.mp4"]
    evaluate([source], ["flicker"], options=MetricOptions(resamples=0)).model_dump_json()
    os.symlink("nowhere.mp4", folder / "gone.mp4")
    with pytest.raises(ValueError, match=r"gone\.mp4: is a link to nothing"):
        FolderClips(folder, FOUR)
    os.unlink(folder / "gone.mp4")
    os.symlink("/dev/null", folder / "device.mp4")
    with pytest.raises(ValueError, match=r"device\.mp4: is no file"):
        FolderClips(folder, FOUR)


def test_moving_pictures_of_any_name_are_clips(tmp_path):
    images = [Image.new("RGB", (16, 16), (40 * number, 0, 0)) for number in range(4)]
    for name in ("a.png", "b.webp", "C.GIF"):
        images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=125)
    images[0].save(tmp_path / "still.png")
    assert [file.name for file in list_clips(tmp_path)] == ["C.GIF", "a.png", "b.webp"]
    (batch,) = FolderClips(tmp_path, FOUR).batches()
    assert np.abs(batch.clips[:, :, 0, 0, 0].astype(int) - (0, 40, 80, 120)).max() < 4


def test_remarks_on_frames_stand_below_the_table(folder):
    for number in range(7):
        path = folder / f"i{number}.mp4"
        write_video(
            path,
            count=12,
            edit=lambda stream: stream.codec_context.options.update({"x264-params": "interlaced=1"}),
        )
    notes = FolderClips(folder, FOUR).notes
    assert len(notes) == 6
    assert notes[0].startswith("clips: i0.mp4: is interlaced")
    assert notes[-1] == "clips: and 2 more remarks"


@pytest.mark.parametrize("name", ["locked", "1.txt"])
def test_what_may_not_be_read_is_named(folder, name):
    (folder / "locked").mkdir()
    (folder / "1.txt").write_text("x")
    os.chmod(folder / name, 0)
    try:
        if os.access(folder / name, os.R_OK):
            pytest.skip("root may read everything")
        with pytest.raises(ValueError, match=rf"{name}: cannot be read: Permission denied"):
            FolderClips(folder, FOUR)
        assert len(FolderClips(Path(folder), FOUR, allow_unreadable=True)) == (3 if name == "locked" else 2)
    finally:
        os.chmod(folder / name, 0o755)


def test_a_clip_without_a_caption_among_others_is_named(folder):
    for number in range(2):
        (folder / f"{number}.txt").write_text("a bar")
    report = evaluate([FolderClips(folder, SIX)], None, None, MetricOptions(resamples=0))
    assert "clips: no CLIPSIM, for 1 have no caption: 2.mp4" in report.notes
