"""Check reads and reports everything; pack writes the same bytes wherever it was stopped."""

import json
import os
import shutil
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from clips import write_video
from latent_shift import io
from latent_shift.data.check import inspect
from latent_shift.data.pack import fingerprint, pack
from latent_shift.data.sources import detect_source


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder: two clips that are one, another, an image, a text called mp4, a clip cut short, one mute."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "a.mkv", count=16)
    shutil.copy(folder / "a.mkv", folder / "same.mkv")
    write_video(folder / "b.avi", count=30, fps=10, size=(32, 80), codec="mpeg4")
    (folder / "cut.mkv").write_bytes((folder / "a.mkv").read_bytes()[:-400])
    Image.new("RGB", (20, 10)).save(folder / "c.png")
    (folder / "text.mp4").write_text("no clip")
    (folder / "mute.mkv").write_bytes(b"")
    for name in ("a", "same", "b", "c", "cut", "text"):
        (folder / f"{name}.txt").write_text(
            "a dog runs\n" if name in ("a", "same") else f"caption of {name}\n"
        )
    return folder


def test_the_report_has_statistics_and_each_bad_file(clips):
    report = inspect(detect_source(str(clips)).read())
    values = report.as_json()
    assert (values["entries"], values["clips"], values["images"]) == (6, 3, 1)
    assert values["frames"] == 16 + 16 + 30 + 1
    assert values["sizes"] == {"64x48": 2, "80x32": 1, "20x10": 1}
    assert values["frame_rates"] == {"8": 2, "10": 1}
    assert (values["seconds"]["least"], values["seconds"]["most"]) == (2.0, 3.0)
    assert values["duplicate_files"] == [["a.mkv", "same.mkv"]]
    assert values["captions"]["missing"] == values["captions"]["said_more_than_once"] == 1
    assert values["captions"]["longest"] == "caption of text"
    bad = {one["key"]: one["reason"] for one in values["bad"]}
    assert set(bad) == {"mute.mkv", "text.mp4", "cut.mkv"}
    assert bad["mute.mkv"] == "no caption: mute.txt is missing"
    assert bad["text.mp4"].startswith("cannot be read as a clip or image: is damaged")
    summary = report.summary()
    assert "3 clips and 1 images can be read" in summary
    assert "bad, left out: 3" in summary
    assert "a.mkv = same.mkv" in summary
    assert all(f"  {key}: {reason}" in summary for key, reason in bad.items())
    json.dumps(values)


def test_a_piece_beyond_the_clip_is_bad(clips):
    table = clips / "table.csv"
    table.write_text("path,caption,start\na.mkv,x,1\na.mkv,y,5\n")
    report = inspect(detect_source(str(table)).read(), workers=2)
    table.unlink()
    assert report.bad == [("a.mkv@5-", "its piece starts at 5 s, but the clip ends at 2 s")]
    assert report.duplicates == []


def packed_bytes(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_what_was_packed_comes_back(clips, tmp_path):
    manifest = detect_source(str(clips)).read()
    shards = list(pack(manifest, tmp_path / "shards", per_shard=2))
    assert [shard.path.name for shard in shards] == [f"train-{number:06d}.tar" for number in range(3)]
    assert {key for shard in shards for key in shard.left_out} == {"text.mp4"}
    back = detect_source(f"{tmp_path}/shards/*.tar").read()
    assert len(back.records) == sum(shard.samples for shard in shards) == 5
    by_key = {record.key: record for record in manifest.records}
    for record in back.records:
        words = json.loads(next(m for m in members(record) if m.endswith("}")))
        origin = by_key[words["key"]]
        assert (record.captions, record.kind) == (origin.captions, origin.kind)
        assert record.file.read() == Path(origin.file.path).read_bytes()


def members(record):
    """The text members of a record's tar that belong to it."""
    import tarfile

    stem = record.file.name.split(".")[0]
    with tarfile.open(record.file.tar) as tar:
        for member in tar:
            if member.name == f"{stem}.json":
                yield tar.extractfile(member).read().decode()


@contextmanager
def stopped_before(name, monkeypatch):
    """Ctrl-C at the moment when the file of that name would appear."""
    replace = io.os.replace

    def stop(source, target):
        if Path(target).name == name:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(io.os, "replace", stop)
        yield


def test_stopped_at_any_shard_the_same_command_goes_on_to_the_same_bytes(clips, tmp_path, monkeypatch):
    manifest = detect_source(str(clips)).read()
    list(pack(manifest, tmp_path / "whole", per_shard=2))
    assert len(packed_bytes(tmp_path / "whole")) == 7  # three shards, their notes, pack.json
    with pytest.raises(KeyboardInterrupt), stopped_before("train-000001.tar", monkeypatch):
        list(pack(manifest, tmp_path / "stopped", per_shard=2))
    kept = (tmp_path / "stopped" / "train-000000.tar").stat().st_mtime_ns
    list(pack(manifest, tmp_path / "stopped", per_shard=2))
    assert packed_bytes(tmp_path / "stopped") == packed_bytes(tmp_path / "whole")
    assert (tmp_path / "stopped" / "train-000000.tar").stat().st_mtime_ns == kept


def test_packing_into_anothers_folder_is_refused(clips, tmp_path):
    manifest = detect_source(str(clips)).read()
    next(pack(manifest, tmp_path / "shards", per_shard=1))
    with pytest.raises(ValueError, match="holds shards of another source, or of other settings"):
        next(pack(manifest, tmp_path / "shards", per_shard=2))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="mine: holds other files; name a new folder"):
        next(pack(manifest, tmp_path / "mine"))


def change_a_byte(file, place=None):
    data = bytearray(file.read_bytes())
    place = len(data) // 2 if place is None else place
    data[place] ^= 1
    file.write_bytes(data)


def test_a_clip_that_was_replaced_since_it_was_packed_is_noticed(clips, tmp_path):
    """By one of the same size that differs in its middle only, and claims the same time."""
    folder = Path(shutil.copytree(clips, tmp_path / "clips"))
    manifest = detect_source(str(folder)).read()
    (first,) = pack(manifest, tmp_path / "shards")
    file = folder / "b.avi"
    before, data = file.stat(), file.read_bytes()
    change_a_byte(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ValueError, match=r"000000\.tar: b\.avi was another file when it was packed; remove"):
        list(pack(manifest, tmp_path / "shards"))
    file.write_bytes(data)
    os.chmod(folder / "a.mkv", 0o600)  # another time of the inode, the same content
    assert list(pack(manifest, tmp_path / "shards")) == [first]


class Measured:
    """An encoder that writes a file's size, of all but one suffix."""

    settings_record: ClassVar = {"measured": 1}

    def __init__(self, refused=None):
        self.refused = refused

    def files(self, record):
        file = Path(record.file.path)
        if file.suffix == self.refused:
            raise ValueError("cannot be measured")
        return {"size.txt": str(file.stat().st_size).encode()}


@pytest.mark.parametrize("part", [1.0, 0.4])
def test_a_clip_that_was_left_out_is_packed_when_it_is_repaired(clips, tmp_path, part):
    """By one of the same size, which looks the same; and a cut one by the whole."""
    folder = Path(shutil.copytree(clips, tmp_path / "clips"))
    whole, file = (folder / "a.mkv").read_bytes(), folder / "text.mp4"
    file.write_bytes(bytes(round(part * len(whole))))
    manifest = detect_source(str(folder)).read()
    first, second = pack(manifest, tmp_path / "shards", per_shard=4)
    assert set(second.left_out) == {"text.mp4"}
    kept = packed_bytes(tmp_path / "shards"), second.path.stat().st_mtime_ns
    os.chmod(file, 0o600)  # another time of the inode, the same content
    assert list(pack(manifest, tmp_path / "shards", per_shard=4)) == [first, second]
    assert kept == (packed_bytes(tmp_path / "shards"), second.path.stat().st_mtime_ns)
    file.write_bytes(whole)
    again = list(pack(manifest, tmp_path / "shards", per_shard=4))
    assert [shard.left_out for shard in again] == [{}, {}]
    assert again[0] == first
    list(pack(manifest, tmp_path / "anew", per_shard=4))
    assert packed_bytes(tmp_path / "shards") == packed_bytes(tmp_path / "anew")
    assert list(pack(manifest, tmp_path / "shards", per_shard=4)) == again


def test_shards_of_an_earlier_release_go_on(clips, tmp_path):
    folder = Path(shutil.copytree(clips, tmp_path / "clips"))
    manifest = detect_source(str(folder)).read()
    first = list(pack(manifest, tmp_path / "shards"))
    file = tmp_path / "shards" / "pack.json"
    settings = json.loads(file.read_text())
    old = {**settings, "format": 1, "source": fingerprint(manifest, sizes=True)}
    file.write_text(json.dumps(old))
    assert list(pack(manifest, tmp_path / "shards")) == first
    file.write_text(json.dumps({**old, "source": "0" * 64}))
    with pytest.raises(ValueError, match="holds shards of another source"):
        list(pack(manifest, tmp_path / "shards"))


def test_pieces_of_one_film_stay_on_one_side_of_a_split_when_packed(clips, tmp_path):
    shutil.copy(clips / "a.mkv", tmp_path / "film.mkv")
    shutil.copy(clips / "b.avi", tmp_path / "other.avi")
    lines = ["film.mkv,one,0,0.2", "film.mkv,two,0.1,0.3", "film.mkv,three,0.2,0.4", "other.avi,four,,"]
    (tmp_path / "table.csv").write_text("\n".join(["path,caption,start,end", *lines]))
    manifest = detect_source(str(tmp_path / "table.csv")).read()
    list(pack(manifest, tmp_path / "shards"))
    packed = detect_source(str(tmp_path / "shards" / "*.tar")).read()
    for source in (manifest, packed):
        kept_out = {}
        for seed in range(12):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    rest, kept = source.split(1, seed)
                except ValueError:
                    continue
            kept_out[kept.records[0].captions] = {record.captions for record in rest.records}
        assert kept_out.pop(("four",)) == {("one",), ("two",), ("three",)}
        assert kept_out
        assert set(map(frozenset, kept_out.values())) == {frozenset({("four",)})}


def test_repairing_a_clip_does_not_hide_that_another_was_replaced(clips, tmp_path):
    folder = Path(shutil.copytree(clips, tmp_path / "clips"))
    whole = (folder / "a.mkv").read_bytes()
    (folder / "text.mp4").write_bytes(bytes(len(whole)))
    manifest = detect_source(str(folder)).read()
    list(pack(manifest, tmp_path / "shards"))
    (folder / "text.mp4").write_bytes(whole)
    change_a_byte(folder / "b.avi")
    with pytest.raises(ValueError, match=r"b\.avi was another file when it was packed"):
        list(pack(manifest, tmp_path / "shards"))


def test_what_could_not_be_computed_is_tried_again_only_for_a_touched_file(clips, tmp_path):
    folder = Path(shutil.copytree(clips, tmp_path / "clips"))
    manifest = detect_source(str(folder)).read()
    (first,) = pack(manifest, tmp_path / "shards", encoder=Measured(".avi"))
    assert first.left_out["b.avi"] == "cannot be measured"
    assert list(pack(manifest, tmp_path / "shards", encoder=Measured())) == [first]
    os.utime(folder / "b.avi")
    assert list(pack(manifest, tmp_path / "shards", encoder=Measured(".avi"))) == [first]
    (again,) = pack(manifest, tmp_path / "shards", encoder=Measured())
    assert set(again.left_out) == {"text.mp4"}


def test_a_shard_is_never_beside_the_notes_of_another(clips, tmp_path, monkeypatch):
    """Stopped between its notes and the shard itself, a repaired one is written when the command goes on."""
    folder = Path(shutil.copytree(clips, tmp_path / "clips"))
    whole = (folder / "a.mkv").read_bytes()
    (folder / "text.mp4").write_bytes(bytes(len(whole)))
    manifest = detect_source(str(folder)).read()
    list(pack(manifest, tmp_path / "shards"))
    (folder / "text.mp4").write_bytes(whole)
    with pytest.raises(KeyboardInterrupt), stopped_before("train-000000.tar", monkeypatch):
        list(pack(manifest, tmp_path / "shards"))
    (shard,) = pack(manifest, tmp_path / "shards")
    assert shard.samples == len(detect_source(str(shard.path)).read().records) == len(manifest.records)


def test_what_was_packed_from_tars_and_before_times_were_noted_is_compared(clips, tmp_path):
    (shard,) = pack(detect_source(str(clips)).read(), tmp_path / "first")
    manifest = detect_source(str(shard.path)).read()
    (packed,) = pack(manifest, tmp_path / "shards")
    notes = tmp_path / "shards" / "train-000000.json"
    content = json.loads(notes.read_text())
    notes.write_text(json.dumps({key: value for key, value in content.items() if key != "times"}))
    list(pack(manifest, tmp_path / "shards"))
    record = manifest.records[1]
    change_a_byte(shard.path, record.file.offset + record.file.size // 2)
    with pytest.raises(ValueError, match="was another file when it was packed"):
        list(pack(manifest, tmp_path / "shards"))
    for damaged in ('{"samples": "many"}', "[]", "{"):
        notes.write_text(damaged)
        with pytest.raises(ValueError, match=r"train-000000\.json"):
            list(pack(manifest, tmp_path / "shards"))
    (tmp_path / "shards" / "pack.json").write_text("{")
    with pytest.raises(ValueError, match=r"pack\.json: is not valid JSON"):
        list(pack(manifest, tmp_path / "shards"))
