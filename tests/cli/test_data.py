"""`latent-shift data`: check, preview and pack from outside, on real files made here."""

import json

import pytest

from clips import numbers, write_video
from latent_shift import media
from latent_shift.data.sources import SOURCES, detect_source
from latent_shift.data.video_dataset import ClipSettings, VideoDataset
from program import run_program


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the program; gives (status, standard output, standard error), both in lines."""
    monkeypatch.chdir(tmp_path)

    def program(*arguments):
        status, out, err = run_program(capsys, "data", *arguments)
        return status, out.splitlines(), err.splitlines()

    return program


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    for number in range(3):
        write_video(folder / f"{number}.mp4", count=20)
        (folder / f"{number}.txt").write_text(f"clip {number}\n")
    return folder


def test_preview_is_exactly_what_the_dataset_gives(clips, run, tmp_path):
    sizes = ("--height", 24, "--width", 32)
    status, out, err = run("preview", "clips", "--frames", 4, "--fps", 4, *sizes, "--seed", 3, "-o", "p.png")
    assert (status, out, err) == (0, ["p.png"], [])
    data = VideoDataset(
        detect_source("clips").read(), ClipSettings(num_frames=4, fps=4, height=24, width=32), seed=3
    )
    items = [data[index] for index in range(3)]
    sheet = media.contact_sheet([i["frames"].numpy() for i in items], [i["caption"] for i in items])
    assert (media.read_clip("p.png")[0][0] == sheet).all()
    assert len(set(numbers(items[0]["frames"]))) == 4
    settings = media.read_settings("p.png")
    assert (settings["source"], settings["num_frames"], settings["seed"]) == ("clips", 4, 3)
    assert run("preview", "clips", "-o", "p.png", "--frames", 4)[0] == 2  # exists already


def test_preview_names_what_it_leaves_out_and_stops_where_nothing_fits(clips, run):
    (clips / "3.mp4").write_bytes(b"no clip")
    (clips / "3.txt").write_text("x")
    status, out, err = run("preview", "clips", "--frames", 32)
    assert (status, out, len(err)) == (2, [], 1)
    assert "too short: 20 frames of the 32 at 8 frames a second" in err[0]
    status, out, err = run("preview", "clips", "--frames", 4, "-o", "some.png")  # a fourth of them is bad
    assert (status, out, len(err)) == (0, ["some.png"], 1)
    assert err[0].startswith("left out 3.mp4: ")


def test_preview_of_a_generated_source_shows_the_items_of_its_dataset(run, tmp_path):
    (tmp_path / "world.yaml").write_text("{format: moving-shapes, seed: 4, levels: [1, 2]}")
    assert run("preview", "world.yaml", "--count", 3, "-o", "w.png") == (0, ["w.png"], [])
    data = SOURCES["moving-shapes"](seed=4, levels=(1, 2)).dataset()
    items = [data[index] for index in range(3)]
    sheet = media.contact_sheet([i["frames"].numpy() for i in items], [i["caption"] for i in items])
    assert (media.read_clip("w.png")[0][0] == sheet).all()
    assert media.read_settings("w.png")["seed"] == 4
    status, out, err = run("preview", "world.yaml", "--seed", 3, "-o", "v.png")
    assert (status, out, err) == (2, [], ["latent-shift: error: --seed: only for another source"])


def test_check_reports_as_text_and_as_json(clips, run):
    (clips / "3.mp4").write_bytes(b"no clip")
    (clips / "3.txt").write_text("x")
    status, out, err = run("check", "clips", "--workers", 1)
    assert (status, err) == (0, [])
    assert out[0] == "clips: 3 clips and 0 images can be read"
    assert out[-1].startswith("  3.mp4: cannot be read as a clip or image")
    status, out, _ = run("check", "clips", "--workers", 1, "--json")
    assert (status, len(out)) == (0, 1)
    assert [one["key"] for one in json.loads(out[0])["bad"]] == ["3.mp4"]


def test_pack_writes_shards_that_check_reads(clips, run):
    status, out, err = run("pack", "clips", "-o", "shards", "--per-shard", 2, "--workers", 1)
    assert (status, out) == (0, ["shards/train-000000.tar", "shards/train-000001.tar"])
    assert err == ["3 of 3 entries are packed"]
    status, out, _ = run("check", "shards/train-{000000..000001}.tar", "--workers", 1)
    assert out[0].endswith(": 3 clips and 0 images can be read")


def test_a_source_file_and_set(clips, run, tmp_path):
    (tmp_path / "t.csv").write_text("file,caption\nclips/0.mp4,a\nclips/1.mp4,b\n")
    (tmp_path / "s.yaml").write_text("format: table\npath: t.csv\nfile_column: file\n")
    for source in (["s.yaml"], ["t.csv", "--set", "file_column=file"]):
        status, out, _ = run("check", *source, "--workers", 1, "--json")
        assert (status, json.loads(out[0])["clips"]) == (0, 2)


@pytest.mark.parametrize("name", ["2026-11-28", "no", "12", "1.10", "#1", "@me", "null", "[2024] b", "'90s"])
def test_a_setting_of_a_text_keeps_what_was_typed(clips, run, tmp_path, name):
    clips.rename(tmp_path / name)
    (tmp_path / "t.csv").write_text(f"path,{name}\n0.mp4,a\n")
    given = ["--set", f"root={name}", "--set", f"caption_column={name}"]
    if name == "null":
        given[:2] = ["--set", 'root="null"']  # alone it is none, as in YAML
    status, out, _ = run("check", "t.csv", *given, "--workers", 1, "--json")
    assert (status, json.loads(out[0])["clips"]) == (0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "moving-shapes"], "is drawn, not read from files"),
        (["check", "nowhere"], "source 'nowhere': no such folder"),
        (["check", "clips", "--format", "tar"], "clips: format: expected one of folder, table"),
        (["check", "clips", "--set", "x=1"], "clips: x: unknown key of format folder"),
        (["check", "clips", "--set", "x"], "--set 'x': must look like key=value"),
        (["check", "clips", "--set", "format=table"], "--set 'format=table': give the format by --format"),
        (["preview", "clips", "-o", ""], "is empty; name a file or folder"),
        (["preview", "clips", "--level", "2"], "--level: only for moving-shapes"),
        (["preview", "moving-shapes", "--frames", "4"], "--frames: only for another source"),
        (["preview", "clips", "--fps", "4", "--stride", "2"], "fps 4 and stride 2 contradict each other"),
        (["preview", "clips", "--frames", "0"], "--frames 0"),
        (["preview", "clips", "--images"], "clips: holds no images, but 3 clips"),
        (["pack", "clips", "-o", "clips"], "clips: holds other files; name a new folder"),
    ],
)
def test_mistakes_are_one_line(clips, run, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out, len(err)) == (2, [], 1)
    assert message in err[0]
