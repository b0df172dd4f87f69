"""Collections as people have them: one strange file is one bad entry or a note, never the end of the rest."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from clips import write_video
from latent_shift.data.check import inspect
from latent_shift.data.pack import pack
from latent_shift.data.sources import detect_source
from latent_shift.data.video_dataset import ClipSettings, VideoDataset
from latent_shift.evaluation.clip_files import ClipReadOptions, scan_folder
from latent_shift.media import write_clip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The bytes of a small clip."""
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", count=8).read_bytes()


def put(name, data=b""):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def keys(manifest):
    return [record.key for record in manifest.records]


def problems_of(manifest):
    return {problem.where: problem.reason for problem in manifest.problems}


# ---- what a file holds ------------------------------------------------------------------------------


def moving(path, count=4):
    """A moving picture of flat frames."""
    images = [Image.new("RGB", (16, 16), (40 * number, 0, 0)) for number in range(count)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=125)


def test_pictures_count_by_what_they_hold():
    Path("clips").mkdir()
    for name in ("a.webp", "b.png", "c.gif", "d.apng"):
        if name == "d.apng":
            moving("d.png")
            os.replace("d.png", "clips/d.apng")
        else:
            moving(f"clips/{name}")
    for name in ("e.webp", "f.png", "g.gif"):
        Image.new("RGB", (16, 16), "red").save(f"clips/{name}")
    write_clip("clips/h.webp", np.full((6, 16, 16, 3), 9, np.uint8), settings={"frames": 6, "fps": 8})
    write_clip("clips/i.gif", np.full((6, 16, 16, 3), 9, np.uint8))
    write_video(Path("clips/j.mp4"), count=4)
    os.replace("clips/j.mp4", "clips/j.gif")
    moving("k.gif")
    os.replace("k.gif", "clips/k.mp4")
    Image.new("RGB", (16, 16), "red").save("clips/l.jpg")
    os.replace("clips/l.jpg", "clips/l.png")
    for file in list(Path("clips").iterdir()):
        put(file.with_suffix(".txt"), "a thing")
    manifest = detect_source("clips").read()
    kinds = "".join(record.key[0] for record in manifest.records if record.kind == "clip")
    assert kinds == "abcdhijk"
    report = inspect(manifest)
    assert report.bad == []
    assert (report.as_json()["clips"], report.as_json()["images"]) == (8, 4)


def test_pictures_in_tars_count_by_what_they_hold(tmp_path):
    moving("a.webp")
    moving("b.png")
    Image.new("RGB", (16, 16), "red").save("c.webp")
    files = {name: Path(name).read_bytes() for name in ("a.webp", "b.png", "c.webp")}
    write_tar("t.tar", files | {f"{letter}.txt": b"x" for letter in "abc"})
    manifest = detect_source("t.tar").read()
    assert [record.kind for record in manifest.records] == ["clip", "clip", "image"]
    assert inspect(manifest).bad == []
    (shard,) = pack(manifest, tmp_path / "packed")
    assert shard.left_out == {}


def test_suffixes_in_capitals(clip):
    for name in ("HOLIDAY.MP4", "b.mp4", "c.Mp4"):
        put(f"clips/{name}", clip)
    for name in ("HOLIDAY.TXT", "b.Txt", "c.txt", "c.TXT"):
        put(f"clips/{name}", name)
    manifest = detect_source("clips").read()
    assert {record.key: record.captions for record in manifest.records} == {
        "HOLIDAY.MP4": ("HOLIDAY.TXT",), "b.mp4": ("b.Txt",), "c.Mp4": ("c.txt",),
    }  # fmt: skip
    assert problems_of(manifest) == {"c.TXT": "a caption without a clip or image of the same name"}
    put("TABLE.CSV", "path,caption\nclips/b.mp4,x\n")
    assert len(detect_source("TABLE.CSV").read().records) == 1


# ---- hidden files, links, locked files --------------------------------------------------------------


def write_tar(name, files, links=()):
    with tarfile.open(name, "w") as tar:
        for file, data in files.items():
            member = tarfile.TarInfo(file)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for file, kind, target in links:
            member = tarfile.TarInfo(file)
            member.type, member.linkname = kind, target
            tar.addfile(member)


def test_hidden_files_of_a_tar_and_other_files_are_no_bad_entries(clip):
    files = {"0.mp4": clip, "0.txt": b"x", "._0.mp4": b"fork", "._0.txt": b"fork", ".DS_Store": b"store"}
    files |= {
        "__MACOSX/._0.mp4": b"fork",
        ".git/0.mp4": clip,
        "README.md": b"read",
        "./1.mp4": clip,
        "./1.txt": b"y",
    }
    write_tar("t.tar", files)
    manifest = detect_source("t.tar").read()
    assert keys(manifest) == ["t.tar/0", "t.tar/1"]
    assert manifest.problems == ()
    assert manifest.notes == ("t.tar: 1 files without a clip, image or caption were left alone",)


def test_links_in_a_tar_are_the_files_that_they_lead_to(clip):
    links = [("a/1.mp4", tarfile.LNKTYPE, "a/0.mp4"), ("a/2.mp4", tarfile.SYMTYPE, "0.mp4")]
    write_tar("t.tar", {"a/0.mp4": clip} | {f"a/{number}.txt": b"x" for number in range(3)}, links)
    manifest = detect_source("t.tar").read()
    assert [record.file.read() == clip for record in manifest.records] == [True] * 3


def test_links_to_folders_are_followed_and_loops_once(clip):
    put("all/real/a.mp4", clip)
    put("all/real/a.txt", "x")
    put("park/b.mp4", clip)
    put("park/b.txt", "x")
    os.symlink("../park", "all/park")
    os.symlink("..", "all/real/loop")
    os.symlink("real", "all/again")
    os.symlink("../nowhere.mp4", "all/gone.mp4")
    os.symlink("self.mp4", "all/self.mp4")
    os.mkfifo("all/pipe.mp4")
    manifest = detect_source("all").read()
    assert keys(manifest) == ["park/b.mp4", "real/a.mp4"]
    assert problems_of(manifest) == {
        "gone.mp4": "is a link to nothing", "self.mp4": "is a link to nothing", "pipe.mp4": "is no file",
    }  # fmt: skip
    repeated = [note.split(":")[0] for note in manifest.notes]
    assert repeated == ["all/again", "all/real/loop"]


def test_what_may_not_be_read_is_one_bad_entry(clip):
    for name in ("a", "b", "locked/c", "d"):
        put(f"clips/{name}.mp4", clip)
        put(f"clips/{name}.txt", "x")
    for file in ("clips/b.txt", "clips/d.mp4", "clips/locked"):
        os.chmod(file, 0)
    if os.access("clips/b.txt", os.R_OK):
        pytest.skip("root may read everything")
    try:
        manifest = detect_source("clips").read()
        bad = dict(inspect(manifest).bad)
    finally:
        os.chmod("clips/locked", 0o755)
    assert set(bad) == {"b.mp4", "d.mp4", "locked"}
    assert all("Permission denied" in reason for reason in bad.values())


def test_a_caption_that_cannot_be_read_is_one_bad_entry(clip):
    for name in "ab":
        put(f"clips/{name}.mp4", clip)
    put("clips/a.txt", "x")
    put("clips/b.txt", b"\x89PNG\r\n\0\0\0picture")
    manifest = detect_source("clips").read()
    assert keys(manifest) == ["a.mp4"]
    assert (
        problems_of(manifest)["b.mp4"]
        == "no caption: clips/b.txt: is no text: it holds bytes of 0; save it as UTF-8"
    )


def test_names_that_are_not_utf_8_are_checked_packed_and_split(clip, tmp_path):
    for name in (b"a", b"caf\xe9", b"caf\xe8"):
        os.makedirs(b"clips", exist_ok=True)
        for suffix, data in ((b".mp4", clip), (b".txt", b"x")):
            Path(os.fsdecode(b"clips/" + name + suffix)).write_bytes(data)
    Path(os.fsdecode(b"clips/\xff.mp4")).write_bytes(b"no clip")
    Path(os.fsdecode(b"clips/\xff.txt")).write_bytes(b"x")
    manifest = detect_source("clips").read()
    assert keys(manifest)[0] == "a.mp4"
    assert len(manifest.split(1, seed=0)[0].records) == 3
    report = inspect(manifest)
    assert [key for key, _ in report.bad] == ["\\udcff.mp4"]
    report.summary().encode()
    (shard,) = pack(manifest, tmp_path / "packed")
    assert (shard.samples, list(shard.left_out)) == (3, ["\\udcff.mp4"])
    assert len(detect_source("packed/*.tar").read().records) == 3


# ---- tars -------------------------------------------------------------------------------------------


def test_what_is_lost_behind_a_damaged_header_or_the_end_of_a_tar_is_named(clip):
    files = {
        f"{number}.{suffix}": data for number in range(4) for suffix, data in (("mp4", clip), ("txt", b"x"))
    }
    write_tar("t.tar", files)
    whole = Path("t.tar").read_bytes()
    place = whole.index(b"2.mp4")
    damaged = whole[:place] + b"\xff" + whole[place + 1 :]
    cut = whole[: place + 100]
    for data, count, reason in (
        (whole, 4, None),
        (damaged, 2, f"is damaged at byte {place}: what follows is left out"),
        (cut, 2, f"is damaged at byte {place}: what follows is left out"),
        (
            whole + whole,
            4,
            "goes on behind its end, as tars that were joined: unpack them, and make one anew",
        ),
    ):
        put("t.tar", data)
        manifest = detect_source("t.tar").read()
        assert len(manifest.records) == count
        assert problems_of(manifest) == ({} if reason is None else {"t.tar": reason})
    put("t.tar", gzip.compress(whole))
    with pytest.raises(ValueError, match=r"t\.tar: cannot be read as a tar: it is compressed; unpack it"):
        detect_source("t.tar").read()


def test_braces_in_names_of_tars(clip):
    write_tar("{a,b}.tar", {"0.mp4": clip, "0.txt": b"x"})
    assert len(detect_source("{a,b}.tar").read().records) == 1
    for pattern, message in (
        ("{0..999999999}.tar", "counts too far"),
        ("{0..9999}{0..9999}.tar", "stands for 100000000 names, 1000000 at most"),
        ("{5..1}.tar", "counts backwards"),
    ):
        with pytest.raises(ValueError, match=message):
            detect_source(pattern).read()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "source '': no such folder"),
        ("clips/a.mp4", "'clips/a.mp4': is no source by its name; expected a folder"),
        ("https://example.com/t.csv", "only tars .shards. are read from the web; fetch it first"),
    ],
)
def test_what_is_no_source_says_why(clip, name, message):
    put("clips/a.mp4", clip)
    with pytest.raises(ValueError, match=message):
        detect_source(name)


# ---- tables -----------------------------------------------------------------------------------------


def table(clip, text, name="t.csv"):
    for letter in "abc":
        put(f"{letter}.mp4", clip)
    put(name, text)
    manifest = detect_source(name).read()
    return {record.key: record.captions for record in manifest.records}, problems_of(manifest)


@pytest.mark.parametrize(
    ("text", "line", "left"),
    [
        ('path,caption\na.mp4,"a bar moves\nb.mp4,x\nc.mp4,y\n', 2, "bc"),
        ('path,caption\na.mp4,"a bar moves\nb.mp4,"x, y"\nc.mp4,y\n', 2, "bc"),
        ('path,caption\na.mp4,x\nb.mp4,y\nc.mp4,"z', 4, "ab"),
        ('path,caption\na.mp4,"x\nb.mp4,"y\nc.mp4,z\n', 2, "c"),
        ('caption,path\n"x,a.mp4\ny,b.mp4\n"z",c.mp4\n', 2, "bc"),
        ('path,caption\na.mp4,"x\nb.mp4,a disk of 5"\nc.mp4,z\n', 2, "bc"),
    ],
)
def test_a_quotation_mark_that_is_never_closed_costs_one_line(clip, text, line, left):
    captions, problems = table(clip, text)
    assert "".join(key[0] for key in captions) == left
    assert problems[f"t.csv line {line}"] == "opens a quotation mark that is never closed"
    with pytest.raises(ValueError, match=r"table t\.csv: its first line opens a quotation mark"):
        table(clip, '"path,caption\na.mp4,x\n')


def test_a_row_that_goes_on_behind_a_quotation_mark_costs_that_row(clip):
    """As quotation marks escaped by \\, of which Python's reader loses some in silence."""
    rows = ('a.mp4,"a \\"red\\" bar"', 'b.mp4,"a" bar', 'c.mp4, "a ""red"" bar" ')
    captions, problems = table(clip, "path,caption\n" + "\n".join(rows) + "\n")
    assert captions == {"c.mp4": ('a "red" bar',)}
    assert [problem.split(";")[0] for problem in problems.values()] == [
        "goes on behind a closing quotation mark"
    ] * 2
    assert list(problems) == ["t.csv line 2", "t.csv line 3"]
    spread = 'a.mp4\t"x,\ty"\nb.mp4\t "one\n""two"""\n'
    assert table(clip, "path\tcaption\n" + spread, "t.tsv")[0] == {
        "a.mp4": ("x, y",),
        "b.mp4": ('one "two"',),
    }


def test_many_quotation_marks_that_are_never_closed_are_soon_found(clip):
    captions, problems = table(clip, "path,caption\n" + 'a.mp4,"x\n' * 3000 + "b.mp4,y\n")
    assert captions == {"b.mp4": ("y",)}
    assert len(problems) == 3000


def test_quotes_blanks_and_line_ends_of_tables(clip):
    text = 'path, caption\r\na.mp4, "a dog, a cat"\r\nb.mp4 ,"a 5"" disk" \r\nc.mp4,"one\r\nof two lines"\r\n'
    expected = {"a.mp4": ("a dog, a cat",), "b.mp4": ('a 5" disk',), "c.mp4": ("one of two lines",)}
    assert table(clip, text) == (expected, {})
    assert table(clip, text.replace("\r\n", "\r")) == (expected, {})
    odd = 'path\tcaption\na.mp4\ta 5" disk\nb.mp4\ta\u2028line\x0cof one\x85row\nc.mp4\t "x, y"\n'
    assert table(clip, odd, "t.tsv")[0] == {
        "a.mp4": ('a 5" disk',), "b.mp4": ("a line of one row",), "c.mp4": ("x, y",),
    }  # fmt: skip


def test_quotes_that_are_none_are_pointed_at(clip):
    _, problems = table(clip, "path,caption\na.mp4,“a dog, a cat”\nb.mp4,x\n")
    advice = 'put a text that holds commas in quotes of this kind: "'
    assert problems == {"t.csv line 2": f"has 3 cells, the header 2; {advice}"}


def test_a_table_of_many_columns_is_soon_read(clip):
    more = ",".join(map(str, range(50_000)))
    assert len(table(clip, f"path,caption,{more}\na.mp4,x" + "," * 50_000 + "\n")[0]) == 1


def test_a_table_without_a_json_object_says_so(clip):
    for text in ("{\n", "{'path': 'a.mp4', 'caption': 'x'}\n", '{"path": "a.mp4"}{"path": "b.mp4"}\n', "[]"):
        with pytest.raises(
            ValueError, match=r"t\.jsonl: no line is a JSON object with columns; line 1 is not "
        ):
            table(clip, text, "t.jsonl")


def test_one_clip_of_several_spellings_is_one_record(clip):
    captions, _ = table(clip, "path,caption\na.mp4,x\n./a.mp4,y\nno/../a.mp4,z\n")
    assert captions == {"a.mp4": ("x", "y", "z")}


def test_a_piece_that_ends_behind_the_clip_is_noted(clip):
    put("a.mp4", clip)
    put("t.csv", "path,caption,start,end\na.mp4,x,0,900\na.mp4,y,0,1.5\n")
    report = inspect(detect_source("t.csv").read()).as_json()
    assert report["bad"] == []
    assert report["notes"] == ["a.mp4@0-900: its piece ends at 900 s, but the clip at 1 s"]


def test_two_columns_of_one_name_are_refused(clip):
    with pytest.raises(ValueError, match=r"t\.csv: has two columns 'caption'; rename or remove one"):
        table(clip, "path,caption,caption\na.mp4,a,b\n")


def test_trees_of_classes_have_suffixes_in_capitals_and_hidden_files(clip):
    for name in ("v_YoYo_g08_c01.AVI", "._v_YoYo_g08_c01.AVI", "v_YoYo_g09_c01.avi"):
        put(f"tree/YoYo/{name}", clip)
    assert keys(detect_source("tree").read()) == ["YoYo/v_YoYo_g08_c01.AVI", "YoYo/v_YoYo_g09_c01.avi"]
    put("msrvtt/video1.MP4", clip)
    names = ("video1", "x" * 400)
    content = {
        "videos": [{"video_id": name} for name in names],
        "sentences": [{"video_id": name, "caption": "x"} for name in names],
    }
    put("info.json", json.dumps(content).encode("utf-8-sig"))
    manifest = detect_source("info.json", videos="msrvtt").read()
    assert keys(manifest) == ["video1"]
    assert "File name too long" in problems_of(manifest)["x" * 400]


def test_json_lines_end_at_line_ends_only(clip):
    text = '{"path": "a.mp4", "caption": "a\u2028b\x85c"}\r{"path": "b.mp4", "caption": "x"}\n'
    assert table(clip, text, "t.jsonl")[0] == {"a.mp4": ("a b c",), "b.mp4": ("x",)}


def test_a_key_that_stands_twice_is_a_problem_of_its_row(clip):
    lines = ['{"path": "a.mp4", "caption": "x", "caption": "y"}', '{"path": "b.mp4", "caption": "z"}']
    text = "\n".join([*lines, "[" * 99_999])
    captions, problems = table(clip, text, "t.jsonl")
    assert captions == {"b.mp4": ("z",)}
    assert problems == {
        "t.jsonl line 1": "the key 'caption' stands twice; remove one, or rename it",
        "t.jsonl line 3": "is nested too deeply for JSON",
    }
    members = {
        "0.mp4": clip,
        "0.json": b'{"caption": "x", "start": 0, "start": 1}',
        "1.mp4": clip,
        "1.txt": b"x",
    }
    write_tar("t.tar", members)
    assert problems_of(detect_source("t.tar").read()) == {
        "t.tar/0": "0.json: the key 'start' stands twice; remove one, or rename it"
    }
    put("msrvtt/video1.mp4", clip)
    put("info.json", '{"videos": [], "videos": [], "sentences": []}')
    with pytest.raises(ValueError, match=r"info\.json: the key 'videos' stands twice"):
        detect_source("info.json", videos="msrvtt").read()


def test_a_cell_that_can_be_no_file_name_is_one_problem(clip):
    captions, problems = table(clip, f"path,caption\n{'x' * 3000}.mp4,x\na.mp4,y\n")
    assert list(captions) == ["a.mp4"]
    assert "File name too long" in problems[f"{'x' * 3000}.mp4"]


# ---- how frames are shown ---------------------------------------------------------------------------


def interlaced(stream):
    stream.options = {"x264-params": "interlaced=1"}


def test_remarks_on_frames_are_notes_of_the_check_and_warnings_of_a_training():
    for name in ("a.mp4", "b.mp4"):
        path = put(f"clips/{name}")
        write_video(path, edit=interlaced)
        put(path.with_suffix(".txt"), "x")
    manifest = detect_source("clips").read()
    notes = inspect(manifest).as_json()["notes"]
    assert [note.split(":")[0] for note in notes] == ["a.mp4", "b.mp4"]
    videos = VideoDataset(manifest, ClipSettings(num_frames=4, fps=8, height=48, width=64), seed=0)
    with pytest.warns(UserWarning, match=r"clips/.\.mp4: is interlaced") as told:
        _ = [videos[index] for index in range(6)]
    assert len(told) == 1


def test_a_damaged_film_does_not_pass_in_silence():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with av.open("whole.avi", "w") as film:
        stream = film.add_stream("mpeg4", rate=8)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for shift in range(16):
            image = np.roll(noise, shift, axis=1)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        film.mux(stream.encode(None))
    data = bytearray(Path("whole.avi").read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 400, 7):
        data[place] ^= 0x55
    put("clips/a.avi", bytes(data))
    put("clips/a.txt", "x")
    report = inspect(detect_source("clips").read()).as_json()
    assert report["bad"] or any("holds damaged frames" in note for note in report["notes"])


# ---- what people take for a source --------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "path;caption\na.mp4;a dog, a cat\n",
        "sep=;\npath;caption\na.mp4;a dog, a cat\n",
        "path\tcaption\na.mp4\ta dog, a cat\n",
        '\ufeff\ufeffpath,\u200bcaption\u200b\na.mp4,"a dog, a cat"\n',
    ],
    ids=["semicolons", "the line sep=", "tabs", "signs that show nothing"],
)
def test_tables_as_office_programs_write_them(clip, text):
    assert table(clip, text) == ({"a.mp4": ("a dog, a cat",)}, {})


def test_tables_say_what_is_wrong_with_them(clip):
    for empty in ("", "\n", "sep=;\n"):
        with pytest.raises(ValueError, match="it has none: expected a line with path, caption"):
            table(clip, empty)
    _, problems = table(clip, "path,caption\nhttps://example.org/a.mp4,x\na.mp4,y\n")
    reason = "https://example.org/a.mp4 lies on the web, of which only tars are read; fetch it first"
    assert problems == {"t.csv line 2": reason}
    _, problems = table(clip, "path;caption\na.mp4;x;y\nb.mp4;z\n")
    assert problems == {
        "t.csv line 2": "has 3 cells, the header 2; put a text that holds semicolons in quotes"
    }


def test_a_folder_names_what_it_does_not_read(clip):
    for name in ("C0001.MTS", "photo.HEIC", "scan.tif", "b.heic", "metadata.csv", "a.mp4"):
        put(f"clips/{name}", clip)
    with pytest.raises(
        ValueError, match=r"C0001\.MTS; where metadata\.csv holds them, name that in place of"
    ):
        detect_source("clips").read()
    put("clips/C0001.txt", "a camera's")
    manifest = detect_source("clips").read()
    assert keys(manifest) == ["C0001.MTS"]
    left = "clips: 4 files of formats that are not read were left alone: .heic, .csv, .tif"
    assert sorted(manifest.notes[0]) == sorted(left)
    for name in ("clips.tar.gz", "clips.ZIP"):
        put(name, b"x")
        with pytest.raises(ValueError, match=rf"'{name}': is packed; unpack it first; expected a folder"):
            detect_source(name)


def test_columns_that_are_not_read_are_named(clip):
    put("a.mp4", clip)
    put("t.csv", "path,caption,Start,\na.mp4,x,1,\na.mp4,y,0,\n")
    put("t.jsonl", '{"path": "a.mp4", "caption": "x", "end_time": 1}\n')
    assert detect_source("t.csv").read().notes == ("t.csv: columns that are not read: Start",)
    assert detect_source("t.jsonl").read().notes == ("t.jsonl: columns that are not read: end_time",)
    assert detect_source("t.csv", start_column="Start").read().notes == ()


def test_a_file_is_found_by_the_letters_of_its_name(clip):
    """A table has one composed letter, and the file a letter and its accent, as Macs write names."""
    put("cafe\u0301.mp4", clip)
    put("t.csv", "path,caption\ncaf\u00e9.mp4,a bar\nth\u00e9.mp4,b\n")
    manifest = detect_source("t.csv").read()
    assert keys(manifest) == ["caf\u00e9.mp4"]
    assert "th\u00e9.mp4: no such file" in problems_of(manifest)["th\u00e9.mp4"]
    assert VideoDataset(manifest, ClipSettings(num_frames=2, max_bad_share=0.6), seed=1)[0]["fps"]


def test_a_path_that_is_no_text_says_so(clip):
    put("a.mp4", clip)
    put("t.jsonl", '{"path": ["a.mp4"], "caption": "a"}\n{"path": "a.mp4", "caption": "b"}\n')
    assert problems_of(detect_source("t.jsonl").read()) == {"t.jsonl line 1": "path is no text"}


def test_a_file_too_large_for_captions_is_one_bad_entry_in_folders_and_tars(clip):
    put("clips/a.mp4", clip)
    put("clips/a.txt", b"x" * (2 << 20))
    put("clips/b.mp4", clip)
    put("clips/b.txt", "y")
    write_tar("t.tar", {file.name: file.read_bytes() for file in sorted(Path("clips").iterdir())})
    for name in ("clips", "t.tar"):
        manifest = detect_source(name).read()
        assert [record.captions for record in manifest.records] == [("y",)]
        assert "has 2097152 bytes, too many for a caption" in manifest.problems[0].reason
    scan = scan_folder(Path("clips"), ClipReadOptions(frames=4), allow_unreadable=True)
    assert scan.unreadable.keys() == {"a.mp4"}
