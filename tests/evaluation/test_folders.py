"""`evaluate folders` and `evaluate report`, from the command line, on clips of the generated world."""

import errno
import io
import json
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from clips import REAL, needs_real_clips
from latent_shift.evaluation.features import read_features
from latent_shift.media import write_clip
from latent_shift.moving_shapes import caption, draw_scenes, render
from program import run_program


def save_scenes(folder, scenes, *, captions=True):
    folder.mkdir()
    for number, (scene, clip) in enumerate(zip(scenes, render(scenes), strict=True)):
        # As `generate` writes them: webp makes one frame of equal ones, and the settings tell how many.
        write_clip(folder / f"{number:02}.webp", clip, settings={"frames": len(clip), "fps": 8})
        if captions:
            (folder / f"{number:02}.txt").write_text(caption(scene))
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("world")
    save_scenes(place / "real", draw_scenes(1, range(14), level=1))
    save_scenes(place / "other", draw_scenes(2, range(6), level=1))
    save_scenes(place / "bare", draw_scenes(3, range(6), level=1), captions=False)
    return place


@pytest.fixture
def run(world, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(world)

    return partial(run_program, capsys, "evaluate")


EYES = ("--extractor", "moving-shapes-eyes", "--resamples", 4)
FRAMES = ("--extractor", "moving-shapes-frames", "--resamples", 4)


def test_folders_are_compared_and_repeat_to_the_last_digit(run, tmp_path):
    order = ("folders", "real", "other", "bare", *EYES, "--baseline", 6, "--json")
    status, out, err = run(*order)
    assert status == 0, err
    assert run(*order)[1] == out
    found = json.loads(out)
    assert [row["name"] for row in found["rows"]] == ["real, held out", "other", "bare"]
    metrics = [metric["name"] for metric in found["metrics"]]
    assert metrics == [f"{m} (moving-shapes-eyes)" for m in ("FVD", "KVD", "IS")] + ["flicker", "motion"]
    settings = found["metrics"][0]["settings"]
    assert settings["reference clips"] == 8
    assert settings["clips"] == 6
    assert {"weights", "resize", "antialias", "frames", "fps", "side"} <= set(settings)
    assert found["environment"]["seed"] == 0
    assert "needs 97 rows or more" in err  # too few clips for a full rank


def test_identical_folders_are_at_distance_0(run):
    found = json.loads(run("folders", "real", "real", *EYES, "--json")[1])
    figures = found["rows"][0]["results"]
    assert next(value["value"] for key, value in figures.items() if key.startswith("FVD")) < 1e-6


def test_captions_beside_the_clips_give_clipsim(run):
    order = ("folders", "real", "other", "bare", "--extractor", "moving-shapes", "--resamples", 0, "--json")
    found = json.loads(run(*order)[1])
    other, bare = found["rows"]
    key = next(key for key in other["results"] if key.startswith("CLIPSIM (moving-shapes)"))
    assert 0.2 < other["results"][key]["value"] < 1
    assert key not in bare["results"]


def test_features_are_kept_and_used_again(run, tmp_path):
    first = json.loads(run("folders", "real", "other", *EYES, "--save-features", tmp_path / "k", "--json")[1])
    kept = tmp_path / "k" / "real-moving-shapes-eyes.safetensors"
    again = json.loads(run("folders", kept, "other", *EYES, "--json")[1])
    assert again["rows"] == first["rows"]
    status, _, err = run("folders", kept, "other", "--extractor", "moving-shapes", "--json")
    assert status == 2
    assert "holds features of moving-shapes-eyes" in err
    status, _, err = run("folders", kept, "other", *EYES, "--fit", "crop")
    assert status == 2
    assert "fit (exact and crop)" in err


def test_features_of_two_folders_of_one_name_do_not_take_each_others_place(run, world, tmp_path):
    for folder, kept in (("real", "a"), ("other", "b")):
        shutil.copytree(world / folder, tmp_path / kept / "clips")
    order = ("folders", tmp_path / "a" / "clips", tmp_path / "b" / "clips", *EYES, "--json")
    first = json.loads(run(*order, "--save-features", tmp_path / "k")[1])
    files = sorted((tmp_path / "k").iterdir())
    assert [len(read_features(file).clips) for file in files] == [14, 6]  # of "clips (real)", and of "clips"
    again = json.loads(run("folders", files[0], tmp_path / "b" / "clips", *EYES, "--json")[1])
    assert again["rows"] == first["rows"]
    assert run(*order, "--save-features", tmp_path / "k")[0] == 0
    assert sorted((tmp_path / "k").iterdir()) == files


def test_features_are_not_replaced_by_their_statistics(run, tmp_path):
    order = ("folders", "real", "other", *FRAMES, "--metrics", "fid", "--save-features", tmp_path / "k")
    assert run(*order)[0] == run(*order, "--statistics-only")[0] == 0
    status, _, err = run(*order, "--statistics-only", "--metrics", "kid")
    assert status == 2
    assert "kid needs rows of features, and only statistics are kept (--statistics-only)" in err
    for file in (tmp_path / "k").iterdir():
        assert read_features(file).rows is not None


def test_two_folders_of_one_name_are_not_joined_into_one_row(run, world, tmp_path):
    for folder, kept in (("other", "a"), ("bare", "b")):
        shutil.copytree(world / folder, tmp_path / kept / "clips")
        order = ("folders", "real", tmp_path / kept / "clips", *EYES, "--metrics", "flicker")
        assert run(*order, "-o", tmp_path / f"{kept}.json")[0] == 0
    status, _, err = run("report", tmp_path / "a.json", tmp_path / "b.json")
    assert (status, "clips: has" in err, "two folders of one name?" in err) == (2, True, True)
    assert run("report", tmp_path / "a.json", tmp_path / "a.json")[0] == 0


def test_a_report_is_written_where_nobody_reads_the_table(run, tmp_path, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    files = ("-o", tmp_path / "1.json", "--html", tmp_path / "1.html")
    assert run("folders", "real", "other", *EYES, *files)[0] == 0
    assert (tmp_path / "1.json").is_file()
    assert (tmp_path / "1.html").is_file()


def test_metrics_that_a_single_clip_or_frame_does_not_allow_are_left_out(run, world, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        shutil.copy(world / "real" / "00.webp", tmp_path / name)
    folders = ("folders", tmp_path / "one", tmp_path / "two", "--extractor", "moving-shapes-eyes", "--json")
    status, out, err = run(*folders)
    assert status == 0, err
    found = json.loads(out)
    assert [one["name"] for one in found["metrics"]] == ["IS (moving-shapes-eyes)", "flicker", "motion"]
    assert any("one: FVD needs two clips or more, not 1" in note for note in found["notes"])
    status, _, err = run(*folders, "--metrics", "fvd")
    assert (status, "one: FVD needs two clips or more, not 1" in err) == (2, True)


def test_results_stand_side_by_side_on_one_page(run, tmp_path):
    one, two, html = (tmp_path / name for name in ("1.json", "2.json", "all.html"))
    assert run("folders", "real", "other", *EYES, "-o", one, "--html", tmp_path / "1.html")[0] == 0
    assert (tmp_path / "1.html").read_text().count("data:image/webp") == 12
    assert run("folders", "real", "bare", *EYES, "--clips", 5, "-o", two)[0] == 0
    status, out, _ = run("report", one, two, "--title", "both", "--html", html)
    assert status == 0
    assert "differs from its namesakes by clips 5" in out
    assert "<h1>both</h1>" in html.read_text()


def test_real_and_generated_folders_of_one_name_stay_apart(run, world, tmp_path):
    for folder in ("real", "other"):
        shutil.copytree(world / folder, tmp_path / folder / "clips")
    real, generated, page = tmp_path / "real" / "clips", tmp_path / "other" / "clips", tmp_path / "p.html"
    status, out, err = run("folders", real, generated, *EYES, "--html", page)
    assert status == 0, err
    assert "<th>clips</th>" in page.read_text()
    assert "<th>clips (real)</th>" in page.read_text()
    assert "clips against clips (real)" in page.read_text()
    assert "{" not in page.read_text().rpartition("<small>")[2]  # versions are text, as in the table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("real", "none"), "no such folder of clips"),
        (("real", "other", "--extractor", "vgg"), "extractor 'vgg'"),
        (("real", "other", "--extractor", ","), "name one or more"),
        (("real", "other", "--frames", 17), "are too short"),
        (("real", "other", "--fit", "pad"), "fit is 'pad'"),
        (("real", "other", "--clips", 7), "7 clips are requested, there are 6"),
        (("real", "other", "--baseline", 13), "cannot be held out"),
        (("real", "other", "other"), "is the name of two folders"),
        (("real", "other", "--batch", 0), "--batch 0"),
        (("real", "other", "-o", "x.txt"), "must end in .json"),
        (("real", "other", "--extractor", "i3d"), "i3d needs a weights file"),
        (("real", "other", "--device", "tpu"), "device 'tpu'"),
    ],
)
def test_mistakes_are_told_in_one_line(run, monkeypatch, options, message):
    monkeypatch.delenv("LATENT_SHIFT_METRIC_WEIGHTS", raising=False)
    chosen = () if "--extractor" in options else EYES
    status, out, err = run("folders", *options, *chosen)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_what_an_extractor_notices_is_plotted(run, tmp_path):
    status, out, err = run("sensitivity", "--count", 8, "-o", tmp_path / "s.svg")
    assert status == 0, err
    lines = {line.split(":")[0]: line.split(":")[1] for line in out.splitlines()}
    assert set(lines) == {"noise", "blur", "shuffle", "freeze"}
    for kind in ("shuffle", "freeze"):  # the scorer's eyes see time
        values = [float(pair.split()[1]) for pair in lines[kind].split(",")]
        assert values == sorted(values)
        assert values[0] < 1e-6 < values[-1]
    assert (tmp_path / "s.svg").read_text().startswith("<svg")
    assert run("sensitivity", "real", "--extractor", "moving-shapes-eyes", "-o", tmp_path / "r.svg")[0] == 0
    (tmp_path / "some").mkdir()
    for file in sorted(Path("real").glob("*.webp"))[:2]:
        shutil.copy(file, tmp_path / "some")
    (tmp_path / "some" / "bad.mp4").write_bytes(b"junk")
    order = ("sensitivity", tmp_path / "some", "--extractor", "moving-shapes-eyes", "-o", tmp_path / "b.svg")
    assert "bad.mp4: cannot be read" in run(*order)[2]
    status, _, err = run(*order, "--allow-unreadable")
    assert (status, "1 of some left out: bad.mp4" in err) == (0, True)


def test_clips_of_other_shapes_are_not_squeezed_unasked(run, tmp_path):
    wide = tmp_path / "wide"
    wide.mkdir()
    for number in range(3):
        write_clip(wide / f"{number}.webp", np.full((6, 32, 64, 3), 40 * number, np.uint8))
    order = ("folders", "real", wide, "--frames", 6, *EYES)
    status, out, err = run(*order)
    assert (status, out) == (2, "")
    assert "its clips are of 64 x 32 pixels, those of real of 64 x 64" in err
    assert run(*order, "--fit", "crop")[0] == 0


def test_a_reference_of_other_contents_is_another_column(run, world, tmp_path):
    shutil.copytree(world / "other", tmp_path / "real")  # names of files that real has, too
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    few = (*FRAMES, "--frames", 4, "--clips", 6, "--metrics", "fid")
    for real, file in zip((world / "real", tmp_path / "real"), files, strict=True):
        assert run("folders", real, "bare", *few, "-o", file)[0] == 0
    keys = [json.loads(file.read_text())["metrics"][0]["settings"]["reference stamp"] for file in files]
    assert keys[0] != keys[1]
    assert "2 columns" not in run("report", *files)[1]


@pytest.mark.slow
def test_metrics_are_chosen_by_name(run):
    order = ("folders", "real", "other", "--resamples", 0, "--json", "--extractor")
    two = (
        "moving-shapes-eyes,moving-shapes",
        "--metrics",
        "flicker,fvd@moving-shapes,fvd@moving-shapes-eyes",
    )
    found = json.loads(run(*order, *two)[1])
    metrics = [metric["name"] for metric in found["metrics"]]
    assert metrics == ["FVD (moving-shapes-eyes)", "FVD (moving-shapes)", "flicker"]
    assert len(found["rows"][0]["results"]) == 3
    for metric, message in (
        ("fad", "metric 'fad': expected one of fid, kid"),
        ("fid", "other: FID needs a reference and an extractor of features of each frame"),
        ("kid", "with rows kept, such as inception-v3 or moving-shapes-frames; moving-shapes-eyes gives"),
        ("fvd@clip", "other: clip: is none of the extractors given (moving-shapes-eyes)"),
        ("is@i3d", "other: i3d: is none of the extractors given"),
        ("", "--metrics '': names none; known are fid, kid"),
        ("clipsim", "other: CLIPSIM needs an extractor that embeds texts"),
    ):
        status, _, err = run(*order, "moving-shapes-eyes", "--metrics", metric)
        assert status == 2
        assert message in err
    status, _, err = run("folders", "real", "bare", "--extractor", "moving-shapes", "--metrics", "clipsim")
    assert status == 2
    assert "00.webp: has no caption; put one into a .txt" in err


def test_old_names_of_options_are_accepted_with_a_warning(run):
    new = run("folders", "real", "other", *EYES, "--baseline", 6, "--is-splits=2", "--json")
    old = run("folders", "real", "other", *EYES, "--floor", 6, "--splits=2", "--json")
    assert old[:2] == new[:2]
    warned = [line for line in old[2].splitlines() if "is now" in line]
    assert [line.split("warning: ")[1].split(";")[0] for line in warned] == [
        "--floor is now --baseline", "--splits is now --is-splits",
    ]  # fmt: skip
    assert "is now" not in new[2]


@needs_real_clips
def test_real_clips_and_real_features(run, tmp_path):
    """Clips of another published system against real ones, on MobileNetV2's features."""
    options = ("--extractor", "mobilenet-v2", "--weights", REAL / "weights", "--frames", 2, "--fit", "crop")
    order = ("folders", REAL / "real_clips" / "ucf101", REAL / "generated" / "controlvideo", *options)
    status, out, err = run(*order, "--clips", 4, "--resamples", 2, "--baseline", 4, "--json")
    assert status == 0, err
    floor, other = json.loads(out)["rows"]
    fid = next(key for key in floor["results"] if key.startswith("FID"))
    assert 0 < floor["results"][fid]["value"] < other["results"][fid]["value"]
    assert np.isfinite(other["results"][fid]["high"])
