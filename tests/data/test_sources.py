"""Sources that are not as they should be: a broken line is a problem, a useless source a clear error."""

import functools
import http.server
import io
import json
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from clips import REAL, needs_real_clips, write_video
from latent_shift.data.manifest import ClipRecord, LocalFile, Manifest
from latent_shift.data.sources import detect_source, make_source, read_source
from latent_shift.data.sources.published import in_words
from latent_shift.data.sources.shards import expand, split_name
from latent_shift.media import open_clip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put(name, data=b""):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def problems_of(manifest):
    return {problem.where: problem.reason for problem in manifest.problems}


# ---- folders ----------------------------------------------------------------------------------------


def test_a_folder_reports_files_that_it_leaves_out():
    for name in ("good.mp4", "mute.mp4", "blank.mp4", ".hidden.mp4", "sub/._fork.mp4", "notes.md"):
        put(f"clips/{name}")
    put("clips/good.txt", "caf\xe9".encode("cp1252"))
    put("clips/blank.txt", " \n")
    put("clips/alone.txt", "no clip")
    manifest = detect_source("clips").read()
    assert [(record.key, record.captions) for record in manifest.records] == [("good.mp4", ("café",))]
    assert problems_of(manifest) == {
        "mute.mp4": "no caption: mute.txt is missing",
        "blank.mp4": "no caption: blank.txt is empty",
        "alone.txt": "a caption without a clip or image of the same name",
    }
    assert [note.split(": ", 1)[1] for note in manifest.notes] == [
        "is not UTF-8; read as Windows-1252, a guess",
        "1 files of formats that are not read were left alone: .md",
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["clips/a.md"], "folder clips: holds no clip or image"),
        (["clips/a.mp4"], r"no caption anywhere; write a \.txt beside each, a\.txt for a\.mp4"),
        (
            ["clips/a.mp4", "clips/b.txt"],
            "no caption that could be used|could be used; the first of 2 problems",
        ),
    ],
)
def test_a_useless_folder_is_an_error(files, message):
    for file in files:
        put(file)
    with pytest.raises(ValueError, match=message):
        detect_source("clips").read()


# ---- tables -----------------------------------------------------------------------------------------


def test_broken_lines_of_a_csv_are_problems_with_their_line():
    put("a.mp4")
    put(
        "t.csv",
        "path,caption,start,end\na.mp4,good,,\na.mp4,comma, here, no quotes,\nb.mp4,not there,,\n,no path,,\n"
        "a.mp4,,,\na.mp4,late,soon,\na.mp4,back,5,2\na.doc,what,,\n",
    )
    manifest = detect_source("t.csv").read()
    assert [record.captions for record in manifest.records] == [("good",)]
    problems = problems_of(manifest)
    assert problems["t.csv line 3"] == "has 5 cells, the header 4; put a text that holds commas in quotes"
    assert problems["t.csv line 5"] == "path is empty"
    assert problems["t.csv line 6"] == "caption is empty or no text"
    assert problems["t.csv line 7"].startswith("start 'soon' is no time")
    assert problems["b.mp4"] == "b.mp4: no such file"
    assert problems["a.mp4@5-2"] == "ends at 2 s, before its start at 5 s"
    assert problems["a.doc"].startswith("a.doc has an unknown suffix; known are .mp4")


def test_broken_lines_of_a_jsonl_are_problems_with_their_line():
    put("a.mp4")
    put(
        "t.jsonl",
        '{"path": "a.mp4", "caption": "good"}\n{"path": \n[1]\n"is not JSON"\n{"path": 3, "caption": "x"}\n',
    )
    manifest = detect_source("t.jsonl").read()
    assert [record.key for record in manifest.records] == ["a.mp4"]
    assert [problem.where for problem in manifest.problems] == [
        f"t.jsonl line {line}" for line in (2, 3, 4, 5)
    ]


def test_a_table_without_the_columns_is_an_error_that_names_file_column_and_mend():
    put("t.csv", "file,text\na.mp4,x\n")
    with pytest.raises(
        ValueError, match=r"t\.csv: no column 'path'; it has file, text; rename it, or set file_column"
    ):
        detect_source("t.csv").read()
    put("t.jsonl", '{"path": "a.mp4"}\n')
    with pytest.raises(ValueError, match=r"t\.jsonl: no column 'caption'; it has path"):
        detect_source("t.jsonl").read()
    put("e.csv")
    with pytest.raises(ValueError, match=r"e\.csv: no column 'path'; it has none"):
        detect_source("e.csv").read()


def test_a_piece_from_the_start_has_all_its_captions_however_it_is_written():
    put("a.mp4")
    put("t.csv", "path,caption,start,end\na.mp4,one,,3\na.mp4,two,0,3\na.mp4,far,12000.01,12000.02\n")
    with (Path("t.csv")).open("a") as table:
        table.write("a.mp4,farther,12000.03,12000.04\n")
    manifest = detect_source("t.csv").read()
    assert manifest.problems == ()
    assert {record.key: record.captions for record in manifest.records} == {
        "a.mp4@0-3": ("one", "two"), "a.mp4@12000.01-12000.02": ("far",),
        "a.mp4@12000.03-12000.04": ("farther",),
    }  # fmt: skip


def test_a_csv_in_utf_16_is_read():
    put("clé.mp4")
    put("t.csv", "path,caption\nclé.mp4,été\n".encode("utf-16"))
    manifest = detect_source("t.csv").read()
    assert manifest.records[0].captions == ("été",)
    assert "UTF-16" in manifest.notes[0]


# ---- data sets --------------------------------------------------------------------------------------


@needs_real_clips
def test_msr_vtts_own_json_is_read():
    with zipfile.ZipFile(REAL / "lists" / "msrvtt" / "test_videodatainfo.json.zip") as archive:
        put("test_videodatainfo.json", archive.read("test_videodatainfo.json"))
    put("clips/video7010.mp4")
    put("clips/video7011.avi")
    manifest = detect_source("test_videodatainfo.json", videos="clips", split="test").read()
    assert [(record.key, len(record.captions) > 15) for record in manifest.records] == [
        ("video7010", True), ("video7011", True),
    ]  # fmt: skip
    assert len(manifest.problems) == 2990 - 2
    with pytest.raises(ValueError, match="no video of split 'train'; it has test"):
        detect_source("test_videodatainfo.json", videos="clips", split="train").read()


def test_a_json_that_is_not_msr_vtts_is_an_error():
    put("clips/a.mp4")
    for text, message in (
        ("[]", "no list 'videos'"),
        ("{", "is not JSON"),
        ('{"videos": [1]}', "no list 'videos'"),
    ):
        put("a.json", text)
        with pytest.raises(ValueError, match=rf"a\.json: {message}"):
            detect_source("a.json", videos="clips").read()


@needs_real_clips
def test_ucf_101s_own_lists_and_clips_are_read():
    real = REAL / "real_clips" / "ucf101"
    names = sorted(path.name for path in real.iterdir())
    for name in names:
        Path("tree/PlayingGuitar").mkdir(parents=True, exist_ok=True)
        os.symlink(real / name, f"tree/PlayingGuitar/{name}")
    assert len(detect_source("tree").read().records) == len(names)
    manifest = detect_source("tree", split_file=str(REAL / "lists" / "ucf101" / "trainlist01.txt")).read()
    assert {record.captions for record in manifest.records} == {("playing guitar",)}
    assert [record.key.split("_g")[1][:2] for record in manifest.records] == [
        name.split("_g")[1][:2] for name in names if int(name.split("_g")[1][:2]) > 7
    ]
    assert len(manifest.problems) == 9537 - len(manifest.records)


def test_class_names_become_words_and_missing_captions_are_named():
    names = {
        "ApplyEyeMakeup": "apply eye makeup",
        "TaiChi": "tai chi",
        "YoYo": "yo yo",
        "HandstandPushups": "handstand pushups",
    }
    assert {name: in_words(name) for name in names} == names
    put("tree/TaiChi/v_TaiChi_g01_c01.avi")
    put("captions.json", '{"YoYo": "x"}')
    with pytest.raises(ValueError, match=r"captions\.json: no caption for class 'TaiChi'"):
        detect_source("tree", captions="captions.json").read()


def test_a_webvid_csv_names_the_clips_that_are_not_there():
    put("v/p1/7.mp4")
    put("t.csv", "videoid,contentUrl,duration,page_dir,name\n7,u,PT1S,p1,a lake\n8,u,PT1S,p1,a hill\n")
    manifest = detect_source("t.csv", "webvid", videos="v").read()
    assert [record.captions for record in manifest.records] == [("a lake",)]
    assert problems_of(manifest) == {"p1/8": "v/p1/8.mp4: no such file"}
    with pytest.raises(ValueError, match="no column 'path'"):
        detect_source("t.csv").read()


# ---- shards -----------------------------------------------------------------------------------------


def tar_of(name, files):
    with tarfile.open(name, "w") as tar:
        for file, data in files.items():
            member = tarfile.TarInfo(file)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_shards_give_their_samples_and_their_problems(tmp_path):
    clip = write_video(tmp_path / "c.mp4", count=4).read_bytes()
    files = {
        "a/0.mp4": clip,
        "a/0.json": b'{"caption": "x", "end": 3}',
        "1.mp4": clip,
        "2.mp4": clip,
        "2.json": b"{",
    }
    tar_of("s-0.tar", {**files, "3.jpg": b"", "3.mp4": clip, "3.txt": b"two", "4.txt": b"none"})
    tar_of("s-1.tar", {"0.mp4": clip, "0.txt": b"y"})
    manifest = detect_source("s-{0..2}.tar").read()
    assert [(record.key, record.captions, record.end) for record in manifest.records] == [
        ("s-0.tar/a/0", ("x",), 3.0), ("s-1.tar/0", ("y",), None),
    ]  # fmt: skip
    with open_clip(manifest.records[0].file.open()) as opened:
        assert opened.count_frames() == 4
    assert set(problems_of(manifest)) == {"s-0.tar/1", "s-0.tar/2", "s-0.tar/3", "s-0.tar/4", "s-2.tar"}


def test_what_is_kept_out_does_not_depend_on_how_a_path_is_spelled(tmp_path):
    clip = write_video(tmp_path / "c.mp4", count=4).read_bytes()
    (tmp_path / "d").mkdir()
    names = [f"{number}.{kind}" for number in range(8) for kind in ("mp4", "txt")]
    tar_of(tmp_path / "d" / "s.tar", {name: clip if name.endswith("4") else b"x" for name in names})
    kept = [
        [record.name for record in detect_source(f"{place}s.tar").read().split(3, seed=1)[1].records]
        for place in ("d/", f"{tmp_path}/d/", "./d/")
    ]
    assert kept[0] == kept[1] == kept[2]
    assert all(name.startswith("s.tar/") for name in kept[0])


def test_pieces_of_a_file_are_not_on_both_sides_of_a_split():
    records = [
        ClipRecord(f"{film}.mp4@{start}", LocalFile(f"{film}.mp4"), ("x",), "clip", start, start + 2)
        for film in range(4)
        for start in range(3)
    ]
    with pytest.warns(
        UserWarning, match="films: [0-9]+ other pieces of files that validation has are left out"
    ):
        trained, kept = Manifest("films", tuple(records)).split(2, seed=0)
    assert len(kept.records) == 2
    assert not {one.file for one in trained.records} & {one.file for one in kept.records}
    with pytest.raises(ValueError, match="1 of its 3 entries cannot be kept out with the other pieces of"):
        Manifest("film", tuple(records[:3])).split(1, seed=0)


def test_a_shard_that_is_cut_off_gives_what_lies_before_the_cut(tmp_path):
    clip = write_video(tmp_path / "c.mp4", count=4).read_bytes()
    tar_of("s.tar", {"0.txt": b"x", "0.mp4": clip, "1.txt": b"y", "1.mp4": clip})
    whole = Path("s.tar").read_bytes()
    put("s.tar", whole[: whole.rindex(b"1.mp4") + 512 + len(clip) // 2])
    manifest = detect_source("s.tar").read()
    assert manifest.records[0].key == "s.tar/0"
    assert "s.tar" in problems_of(manifest)
    put("t.tar", b"no tar at all" * 100)
    with pytest.raises(ValueError, match=r"t\.tar: cannot be read as a tar"):
        detect_source("t.tar").read()


def test_patterns_and_names():
    assert expand("http://a/x-{08..10}-{a,b}.tar")[:3] == [
        f"http://a/x-{end}.tar" for end in ("08-a", "08-b", "09-a")
    ]
    assert split_name("d.e/0.seg.TXT") == ("d.e/0", "seg.txt")
    with pytest.raises(ValueError, match=r"shards x-\{0\.\.1\}\.tar: no such file"):
        expand("x-{0..1}.tar")


def test_brackets_in_a_pattern_stand_for_themselves(tmp_path):
    folder = tmp_path / "set [1]"
    folder.mkdir()
    for name in ("t-0.tar", "t-[1].tar", "t-10.tar"):
        (folder / name).touch()
    assert expand(f"{folder}/t-*.tar") == [f"{folder}/t-{one}.tar" for one in ("0", "10", "[1]")]
    assert expand(f"{folder}/t-[?].tar") == [f"{folder}/t-[1].tar"]


def test_shards_on_the_web_are_fetched_once_and_only_into_a_folder(tmp_path):
    (tmp_path / "site").mkdir()
    tar_of("site/s.tar", {"0.mp4": b"clip", "0.txt": b"x"})
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/s.tar"
    try:
        with pytest.raises(ValueError, match=rf"{url}: lies on the web; set fetch"):
            detect_source(url).read()
        assert detect_source(url, fetch="here").read().records[0].captions == ("x",)
        with pytest.raises(ValueError, match="cannot be fetched: HTTP Error 404"):
            detect_source(url.replace("/s.", "/t."), fetch="here").read()
    finally:
        server.shutdown()
        server.server_close()
    assert detect_source(url, fetch="here").read().records[0].captions == ("x",)  # without a server
    assert len(list(Path("here").iterdir())) == 1


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


# ---- which source it is -----------------------------------------------------------------------------


def test_clear_formats_are_detected_and_others_are_an_error():
    put("folder/a.mp4")
    put("tree/A/v_A_g01_c01.avi")
    put("saved/state.json", "{}")
    put("tars/a.tar")
    kinds = {
        name: detect_source(name).format
        for name in ("folder", "tree", "saved", "a.csv", "a.jsonl", "x-{0..3}.tar")
    }
    assert list(kinds.values()) == ["folder", "ucf101", "huggingface", "table", "table", "shards"]
    for name, message in [
        ("tars", r"a folder of tars; name them, as in 'tars/\*\.tar'"),
        ("nowhere", "source 'nowhere': no such folder; expected a folder, a .csv"),
        ("a.json", "a.json: videos: is missing; format msrvtt needs it"),
    ]:
        with pytest.raises(ValueError, match=message):
            detect_source(name)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"x: captoin_column: unknown key of format table"):
        make_source({"format": "table", "path": "t.csv", "captoin_column": "c"}, "x")
    with pytest.raises(ValueError, match="x: format: expected one of folder, table"):
        make_source({"path": "t.csv"}, "x")
    put("s.yaml", "format: folder\n")
    with pytest.raises(ValueError, match=r"source s\.yaml: path: is missing"):
        read_source(Path("s.yaml"))


def test_a_source_file_speaks_of_its_own_folder():
    put("deep/clips/a.mp4")
    put("deep/clips/a.txt", "x")
    put("deep/s.yaml", json.dumps({"format": "folder", "path": "clips"}))
    assert len(read_source(Path("deep/s.yaml")).read().records) == 1


def test_hugging_face_rows_without_the_extra_or_the_folder_say_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    put("rows/a.parquet")
    with pytest.raises(ValueError, match=r"rows: format huggingface needs the package datasets: pip install"):
        detect_source("rows", "huggingface").read()
