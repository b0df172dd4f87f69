"""The lists of prompts, clips made once however many make them, and the commands on a tiny model."""

import json
import zipfile
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest

from clips import REAL, write_video
from latent_shift.evaluation import prompt_sets as lists
from latent_shift.evaluation.clip_files import ClipReadOptions
from latent_shift.evaluation.evaluated_model import ClipCache, EvaluatedModel
from latent_shift.evaluation.sources import GeneratedClips, Shard, parse_shard
from program import run_program
from tiny import tiny_pipeline_folder

MSR_VTT = REAL / "lists" / "msrvtt" / "test_videodatainfo.json.zip"
CLASSES = REAL / "lists" / "ucf101" / "classInd.txt"
needs_lists = pytest.mark.skipif(not MSR_VTT.is_file(), reason=f"no lists of prompts at {MSR_VTT}")


def small_msr_vtt(file, videos=3):
    """A list of captions like MSR-VTT's, of words that the tiny model knows."""
    said = ("a red circle", "a black square grows", "green circle moves left", "a square", "red square")
    found = {
        "videos": [{"video_id": f"video{9 + n}", "split": "test"} for n in range(videos)]
        + [{"video_id": "video1", "split": "train"}],
        "sentences": [
            {"video_id": f"video{9 + n}", "caption": said[(n + k) % 5], "sen_id": 2 * n + k}
            for k in range(2) for n in range(videos)
        ] + [{"video_id": "video1", "caption": "of another split", "sen_id": 99}],
    }  # fmt: skip
    file.write_text(json.dumps(found))
    return file


# ---- lists ----------------------------------------------------------------------------------------------


def test_a_caption_is_drawn_for_each_test_clip(tmp_path):
    file = small_msr_vtt(tmp_path / "t.json")
    one = lists.msr_vtt(file)
    assert [prompt.name for prompt in one.prompts] == ["video9", "video10", "video11"]
    assert [prompt.seed for prompt in one.prompts] == [0, 1, 2]
    assert lists.msr_vtt(file) == one
    drawn = {lists.msr_vtt(file, seed=seed).prompts[0].text for seed in range(20)}
    assert drawn == {"a red circle", "a black square grows"}
    every = lists.msr_vtt(file, captions="all")
    assert [prompt.name for prompt in every.prompts][:3] == ["video9-00", "video9-01", "video10-00"]
    assert len({prompt.seed for prompt in every.prompts}) == 6
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.write(file, "t.json")
    assert lists.msr_vtt(tmp_path / "t.zip") == one


def test_zips_of_a_mac_are_read_and_others_refused_in_one_line(tmp_path):
    file = small_msr_vtt(tmp_path / "t.json")
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(file, "list/t.JSON")
        archive.writestr("__MACOSX/list/._t.JSON", b"fork")
        archive.writestr("._t.json", b"fork")
    assert lists.msr_vtt(path) == lists.msr_vtt(file)
    data = path.read_bytes()
    place = data.index(b"PK\x01\x02") + 8
    # A password, a method that is unknown, a byte of the content.
    for damage in ({place: 1}, {place + 2: 99}, {data.index(b'{"videos') + 5: 0}):
        broken = bytearray(data)
        for where, value in damage.items():
            broken[where] = value
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"t\.zip: is no list .*the zip cannot be read"):
            lists.msr_vtt(path)


def test_a_key_that_stands_twice_is_no_list(tmp_path):
    file = small_msr_vtt(tmp_path / "t.json")
    file.write_text(file.read_text().replace('"sen_id": 0', '"sen_id": 0, "caption": "another"'))
    with pytest.raises(ValueError, match=r"t\.json: .*the key 'caption' stands twice"):
        lists.msr_vtt(file)


def test_a_part_of_a_list_has_the_seeds_of_the_whole(tmp_path):
    file = small_msr_vtt(tmp_path / "t.json", videos=9)
    whole = {prompt.name: prompt for prompt in lists.msr_vtt(file).prompts}
    some = lists.msr_vtt(file, limit=4)
    assert len(some.prompts) == 4
    assert all(whole[prompt.name] == prompt for prompt in some.prompts)
    assert some.digest() != lists.msr_vtt(file).digest()
    with pytest.raises(ValueError, match="10 prompts of MSR-VTT: give 1 to 9"):
        lists.msr_vtt(file, limit=10)


@pytest.mark.parametrize("text", ["{}", "[1]", "no json", '{"videos": [], "sentences": []}'])
def test_other_files_are_no_list_of_captions(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json: (is no list|holds no caption)"):
        lists.msr_vtt(tmp_path / "x.json")
    with pytest.raises(ValueError, match="there is no such file"):
        lists.msr_vtt(tmp_path / "none.json")


@needs_lists
def test_the_real_list_has_2990_clips_and_20_captions_each():
    one = lists.msr_vtt(MSR_VTT)
    assert len(one.prompts) == lists.MSR_VTT_TEST_CLIPS
    assert (one.prompts[0].name, one.prompts[-1].name) == ("video7010", "video9999")
    assert 59_700 < len(lists.msr_vtt(MSR_VTT, captions="all").prompts) <= 59_800


@needs_lists
def test_every_class_of_the_real_list_has_its_sentence():
    named = [line.split()[1] for line in CLASSES.read_text().splitlines() if line.strip()]
    sentences = lists.ucf_101_sentences()
    assert list(sentences) == named
    assert all(text == text.strip().lower() and 3 < len(text.split()) < 20 for text in sentences.values())
    assert len(set(sentences.values())) == 101
    assert lists.ucf_101(202, classes=CLASSES).prompts == lists.ucf_101(202).prompts


def test_classes_take_turns(tmp_path):
    (tmp_path / "c.txt").write_text("1 Archery\n2 YoYo\n")
    made = lists.ucf_101(5, classes=tmp_path / "c.txt", seed=7)
    assert [prompt.name for prompt in made.prompts] == [
        "Archery-00000", "YoYo-00000", "Archery-00001", "YoYo-00001", "Archery-00002",
    ]  # fmt: skip
    assert [prompt.seed for prompt in made.prompts] == [7, 8, 9, 10, 11]
    assert made.prompts[0].text == "a person is shooting an arrow with a bow at a target"
    assert lists.ucf_101(2048).prompts[:101] == lists.ucf_101(101).prompts
    for text, message in (
        ("1 Chess\n", "class 'Chess' has no sentence"),
        ("Archery\n", "a number and a class"),
    ):
        (tmp_path / "c.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            lists.ucf_101(5, classes=tmp_path / "c.txt")
    with pytest.raises(ValueError, match="samples is 0"):
        lists.ucf_101(0)


# ---- clips, made once -----------------------------------------------------------------------------------


class Painter:
    """A model whose clip is its seed's colour; it counts what it was asked."""

    def __init__(self, breaks_after=None):
        self.asked, self.breaks_after = [], breaks_after

    def reconstruct(self, clips):
        return clips

    def generate(self, requests):
        if self.breaks_after is not None and len(self.asked) >= self.breaks_after:
            raise KeyboardInterrupt
        seeds = [request.seed for request in requests]
        self.asked += [(request.prompt, request.seed) for request in requests]
        clips = np.zeros((len(seeds), requests[0].frames, 8, 8, 3), np.uint8)
        clips += np.array(seeds, np.uint8)[:, None, None, None, None]
        return clips


def generated(prompts, painter, cache, *, frames=1, batch=2):
    model = EvaluatedModel("m", painter, cache=cache)
    return GeneratedClips(model, prompts, ClipReadOptions(frames), batch_size=batch)


def test_parts_share_the_work_and_nothing_is_made_twice(tmp_path):
    made = lists.ucf_101(11)
    painters = [Painter(), Painter(), Painter()]
    for number, painter in enumerate(painters):
        source = generated(made, painter, ClipCache(tmp_path / "w", {"a": 1}), frames=2)
        progress = Mock()
        count = source.generate_shard(Shard(number, 3), progress)
        progress.assert_called_with(count, count)  # the last batch of a list may be short
    asked = [one for painter in painters for one in painter.asked]
    assert sorted(asked, key=lambda one: one[1]) == [(one.text, one.seed) for one in made.prompts]
    last = Painter()
    source = generated(made, last, ClipCache(tmp_path / "w", {"a": 1}), frames=2)
    clips = [clip for batch in source.batches() for clip in batch.clips]
    assert last.asked == []
    assert [int(clip[0, 0, 0, 0]) for clip in clips] == list(range(11))


def test_a_stopped_generation_goes_on(tmp_path):
    made, first, second = lists.ucf_101(7), Painter(breaks_after=4), Painter()
    with pytest.raises(KeyboardInterrupt):
        generated(made, first, ClipCache(tmp_path / "w", {})).generate_shard(Shard())
    generated(made, second, ClipCache(tmp_path / "w", {})).generate_shard(Shard())
    assert [seed for _, seed in first.asked + second.asked] == list(range(7))


def test_a_process_may_start_while_another_does(tmp_path):
    (tmp_path / ".unfinished.tmp").write_text("")
    ClipCache(tmp_path, {"a": 1})
    (tmp_path / "mine.txt").write_text("")
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ValueError, match="not empty"):
        ClipCache(tmp_path, {"a": 1})


def test_parts_and_batches_are_checked():
    assert parse_shard("2/8") == Shard(1, 8)
    for text in ("0/8", "9/8", "2", "a/b", "1/0"):
        with pytest.raises(ValueError, match="shard"):
            parse_shard(text)
    with pytest.raises(ValueError, match="batch is 0"):
        generated(lists.ucf_101(3), Painter(), ClipCache(None, {}), batch=0)
    source = generated(lists.ucf_101(5), Painter(), ClipCache(None, {}))
    assert [name for name, _ in source.named_batches()] == [
        "000000-000001", "000002-000003", "000004-000004",
    ]  # fmt: skip


# ---- the commands ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("protocols")
    tiny_pipeline_folder(folder / "tiny")
    small_msr_vtt(folder / "captions.json")
    (folder / "real").mkdir()
    for number in range(4):
        write_video(folder / "real" / f"video{number}.mp4", count=4 + number, fps=8)
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)

    return partial(run_program, capsys, "evaluate")


MADE = ("--model", "tiny", "--steps", 1, "--frames", 2, "--resolution", 32, "--batch", 2)
TINY = (*MADE, "--resamples", 2)
OWN = ("--extractor", "moving-shapes-eyes")
SHARD = ("--captions-file", "captions.json", "--shard", "1/2", "--cache-dir", "never")


def test_msr_vtt_is_generated_in_parts_then_measured(run, tmp_path):
    order = ("msr-vtt", "--captions-file", "captions.json", *MADE, *OWN, "--cache-dir", tmp_path / "w")
    for part in ("1/2", "2/2"):
        status, out, err = run(*order, "--shard", part)
        assert status == 0, err
        assert f"clips are in {tmp_path / 'w'}" in out
    assert len(list((tmp_path / "w").glob("*.safetensors"))) == 2
    order = (*order, "--resamples", 2)
    measure = (*order, "--real", "real", "--save-features", tmp_path / "k", "-o", tmp_path / "r.json")
    status, out, err = run(*measure, "--html", tmp_path / "r.html")
    assert status == 0, err
    assert "| tiny |" in out
    found = json.loads((tmp_path / "r.json").read_text())
    fvd = found["metrics"][0]
    assert fvd["name"] == "FVD (moving-shapes-eyes)"
    assert {"protocol", "captions", "prompt list", "reference clips", "fps"} <= set(fvd["settings"])
    assert found["rows"][0]["settings"]["steps"] == 1
    assert (tmp_path / "r.html").read_text().count("data:image/webp") == 3
    status, _, err = run(*measure, "--force")
    assert status == 0, err
    again = json.loads((tmp_path / "r.json").read_text())
    assert again["rows"] == found["rows"]
    assert run(*order, "--guidance", 9)[0] == 2  # clips of other settings are there


def test_ucf_101_gives_its_figures(run, tmp_path):
    order = ("ucf-101", "--samples", 3, "--is-splits", 1, *TINY, *OWN)
    status, _, err = run(*order, "-o", tmp_path / "u.json")
    assert status == 0, err
    found = json.loads((tmp_path / "u.json").read_text())
    metrics = [metric["name"] for metric in found["metrics"]]
    assert metrics == ["IS (moving-shapes-eyes)", "flicker", "motion"]  # no real clips, no distances
    assert found["metrics"][0]["settings"]["sentences"] == "ucf_101_sentences.csv version 1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("msr-vtt", "--captions-file", "none.json"), "no such file"),
        (("msr-vtt", "--captions-file", "captions.json", "--captions", "some"), "--captions some"),
        (("msr-vtt", "--captions-file", "captions.json", "--shard", "1/2"), "with --cache-dir"),
        (("msr-vtt", *SHARD, "--real", "real"), "--real real: --shard 1/2 makes clips and measures nothing"),
        (("msr-vtt", *SHARD, "--metrics", "fvd"), "--metrics fvd: --shard 1/2 makes"),
        (("msr-vtt", *SHARD, "--save-features", "k"), "--save-features k: --shard 1/2 makes"),
        (("msr-vtt", *SHARD, "-o", "r.json"), "-o r.json: --shard 1/2 makes"),
        (("ucf-101", *SHARD[2:], "--html", "r.html"), "--html r.html: --shard 1/2 makes"),
        (("ucf-101", *SHARD[2:]), "--resamples 2: --shard 1/2 makes"),
        (("ucf-101", "--save-features", "k"), "--save-features k: only features of real clips are saved"),
        (("ucf-101", "--samples", 0), "samples is 0"),
        (("ucf-101", "--extractor", "i3d"), "i3d needs a weights file"),
        (("ucf-101", "--batch", 0), "--batch 0"),
        (("ucf-101", "--model", "none"), "unknown model"),
        (("moving-shapes-report", "--model", "tiny", "--model", "tiny"), "named twice"),
        (("moving-shapes-report", "--frames", 1), "a report on clips needs 2"),
        (("moving-shapes-report", "--subsets", "x"), "subset 'x' is unknown"),
    ],
)
def test_mistakes_are_told_before_any_work(run, monkeypatch, options, message):
    monkeypatch.delenv("LATENT_SHIFT_METRIC_WEIGHTS", raising=False)
    more = () if options[0] == "moving-shapes-report" else TINY
    chosen = [*more, *options[1:]] if "--batch" in options or "--model" in options else [*options[1:], *more]
    status, out, err = run(options[0], *chosen, *(() if "--extractor" in options else OWN))
    assert (status, out) == (2, "")
    assert message in err


@pytest.mark.slow
def test_moving_shapes_in_one_report(run, place, tmp_path):
    """The default model, real clips, and the floor; small."""
    few = ("--prompts", 6, "--reference", 8, "--steps", 2, "--resamples", 2)
    order = ("moving-shapes-report", *few, "--cache-dir", tmp_path / "w")
    status, out, err = run(*order, "-o", tmp_path / "r.json", "--html", tmp_path / "r.html")
    assert status == 0, err
    found = json.loads((tmp_path / "r.json").read_text())
    names = [row["name"] for row in found["rows"]]
    assert names == ["real clips (the baseline)", "real, through the autoencoder", "moving-shapes"]
    metrics = [metric["name"] for metric in found["metrics"]]
    for metric in ("all right at once", "motion right", "FVD (moving-shapes)", "motion", "flicker",
                   "FID (moving-shapes-frames)", "CLIPSIM (moving-shapes)", "IS (moving-shapes-eyes)",
                   "FVD (moving-shapes-eyes)"):  # fmt: skip
        assert metrics.count(metric) == 1, metric
    real = found["rows"][0]["results"].items()
    assert next(value["value"] for key, value in real if key.startswith("all right")) == 1.0
    assert "finds a real clip's own caption among 6" in out
    assert (tmp_path / "r.html").read_text().count("<img") == 18
    status, again, err = run(*order)
    assert status == 0, err
    assert again.split("Command")[0] == out.split("Command")[0]  # to the last digit
