"""The protocol: fixed prompts and seeds, kinds of clips, exact scores, stopped runs, and the command."""

import json
from collections import Counter

import numpy as np
import pytest
import typer

from latent_shift.cli import errors
from latent_shift.cli.main import app
from latent_shift.cli.options import page_path
from latent_shift.cli.output import put_block, put_into_page
from latent_shift.evaluation.clip_files import ClipReadOptions
from latent_shift.evaluation.evaluated_model import ClipCache, EvaluatedModel
from latent_shift.evaluation.metrics.base import MetricOptions, NotAvailable, proportion
from latent_shift.evaluation.metrics.intervals import wilson_interval
from latent_shift.evaluation.report import MetricInfo, Report, Row, read_report
from latent_shift.evaluation.runner import evaluate
from latent_shift.evaluation.sources import ClipBatch, FolderClips, ReconstructedClips
from latent_shift.media import write_clip
from latent_shift.moving_shapes import constants, draw_scenes, parse_caption, protocol, render
from latent_shift.moving_shapes.protocol import (
    SUBSETS,
    MovingShapesScores,
    SubsetClips,
    choose_subsets,
)
from latent_shift.moving_shapes.report import score_table
from tiny import tiny_pipeline_folder

SEEN = SUBSETS["level-1-seen"]
SHARES = (
    "colour right",
    "shape right",
    "motion right",
    "speed right",
    "background right",
    "all right at once",
)


class Renderer:
    """A model that never errs: it renders each caption anew; its autoencoder paints every other clip gray."""

    def __init__(self):
        self.asked = []

    def reconstruct(self, clips):
        clips = clips.copy()
        clips[::2] = 120
        return clips

    def generate(self, requests):
        self.asked += [(request.prompt, request.seed) for request in requests]
        scenes = [scene for name in SUBSETS for scene in SUBSETS[name].scenes(8)]
        frames = requests[0].frames
        drawn = {protocol.prompt_of(scene, frames): scene for scene in scenes}
        return np.concatenate([render([drawn[request.prompt]], range(frames)) for request in requests])


def clips_of(kind, *, subset=SEEN, system=None, cache=None, **numbers):
    """The clips of a subset: rendered, through the autoencoder, or generated."""
    settings = {"weights": "a"}
    model = EvaluatedModel("m", system or Renderer(), {}, settings, cache or ClipCache(None, {}))
    if kind == "generated":
        return SubsetClips("model", [subset], model=model, **numbers)
    rendered = SubsetClips("real", [subset], **numbers)
    return rendered if kind == "rendered" else ReconstructedClips("restored", model, rendered)


def scores_of(source, **options):
    """The counts of all scores, (right, of) by name, and the report."""
    report = evaluate([source], [MovingShapesScores], **options)
    names = {info.key: info.name for info in report.metrics}
    results = {names[key]: (one.right, one.of) for key, one in report.rows[0].results.items()}
    return results, report


def by_kind(scores):
    return {name.removeprefix("motion right, "): count for name, count in scores.items() if "right, " in name}


@pytest.mark.parametrize("name", SUBSETS)
def test_prompts_are_fixed_and_keep_the_subsets_rules(name):
    subset = SUBSETS[name]
    scenes = subset.scenes(12)
    assert scenes == subset.scenes(20)[:12]
    for scene in scenes:
        objects, ground = parse_caption(protocol.prompt_of(scene, 16))
        assert ground == scene.background
        assert objects == [
            (obj.size_word, obj.colour, obj.shape, obj.speed_word, obj.motion) for obj in scene.objects
        ]
        assert len(objects) == subset.num_objects
        held_out = any(constants.names_held_out(obj.colour, obj.shape, obj.motion) for obj in objects)
        assert subset.split == "any" or held_out == (subset.split == "held-out")
        assert subset.level == 2 or not any(obj.speed or constants.is_digit(obj.shape) for obj in objects)
        image, ground = parse_caption(protocol.prompt_of(scene, 1), image=True)
        assert ground == scene.background
        assert image == [obj._replace(speed="", motion="") for obj in objects]
    others = draw_scenes(0, range(12), level=subset.level, num_objects=subset.num_objects, split=subset.split)
    assert scenes != others


def test_no_two_clips_have_one_seed():
    last = protocol.MAX_PROMPTS - 1
    seeds = [subset.clip_seed(index) for subset in SUBSETS.values() for index in (0, 1, last)]
    assert len(set(seeds)) == len(seeds)


def test_each_kind_of_clips_is_scored_and_counted():
    found = {
        kind: scores_of(clips_of(kind, prompts=8, batch_size=3))[0]
        for kind in ("rendered", "autoencoder", "generated")
    }
    assert found["rendered"] == found["generated"]
    assert all(found["generated"][name] == (8, 8) for name in SHARES)
    lost = found["autoencoder"]
    # batches of 3, 3 and 2: the second of each is left
    assert lost["all right at once"][0] == lost["colour right"][0] == 3


def test_motions_are_counted_by_kind_too():
    drawn, through = (
        scores_of(clips_of(kind, prompts=8, batch_size=3))[0] for kind in ("rendered", "autoencoder")
    )
    asked = Counter(constants.motion_kind(obj.motion) for scene in SEEN.scenes(8) for obj in scene.objects)
    assert {kind: of for kind, (_, of) in by_kind(drawn).items()} == asked
    assert all(right == of for right, of in by_kind(drawn).values())
    for scores in (drawn, through):
        assert sum(right for right, _ in by_kind(scores).values()) == scores["motion right"][0]


def test_two_objects_count_twice_where_objects_are_counted():
    scores, _ = scores_of(clips_of("rendered", subset=SUBSETS["level-2-two"], prompts=5))
    assert {name: scores[name][1] for name in SHARES} == {
        "colour right": 10, "shape right": 10, "motion right": 10, "speed right": 10,
        "background right": 5, "all right at once": 5,
    }  # fmt: skip


def test_images_have_no_motion_to_score():
    system = Renderer()
    scores, report = scores_of(clips_of("generated", system=system, prompts=4, frames=1), examples=2)
    assert set(scores) == {"colour right", "shape right", "background right", "all right at once"}
    assert not by_kind(scores)
    assert not any("moving" in prompt for prompt, _ in system.asked)
    assert [example.clip.shape for example in report.examples] == [(1, 64, 64, 3)] * 2


def test_other_clips_have_no_scores():
    frames = np.zeros((1, 16, 64, 64, 3), np.uint8)
    for clips, caption, message in (
        (frames, "a dog runs", "x: 'a dog runs' is not a canonical"),
        (frames, None, "x: '' is not a canonical"),
        (frames[:, :, :32], "a red star moving left on a navy background", "x: frames are uint8"),
    ):
        scores = MovingShapesScores(MetricOptions())
        scores.update(ClipBatch(["x"], clips, [caption]))
        with pytest.raises(NotAvailable, match=message):
            scores.compute(None, None)


def test_clips_in_files_are_scored_by_the_captions_beside_them(tmp_path):
    for number, scene in enumerate(SEEN.scenes(2)):
        write_clip(tmp_path / f"{number}.webp", render([scene])[0], fps=8)
        (tmp_path / f"{number}.txt").write_text(protocol.prompt_of(scene, 16))
    (tmp_path / "1.txt").write_text("a red circle bouncing on a gray background")
    scores, report = scores_of(FolderClips(tmp_path, ClipReadOptions(16)), examples=2)
    assert scores["all right at once"] == (1, 2)
    assert report.examples[0].note == "right"
    assert report.examples[1].note.startswith("wrong ")


def test_a_stopped_run_goes_on_and_gives_the_same(tmp_path):
    class Stopped(Renderer):
        def generate(self, requests):
            if len(self.asked) >= 4:
                raise KeyboardInterrupt
            return super().generate(requests)

    def generated(system, cache=None):
        source = clips_of("generated", system=system, cache=cache, prompts=7, batch_size=2)
        return scores_of(source)[0], source.seconds

    whole, first, second = Renderer(), Stopped(), Renderer()
    expected, _ = generated(whole)
    with pytest.raises(KeyboardInterrupt):
        generated(first, ClipCache(tmp_path, {"weights": "a"}))
    found = generated(second, ClipCache(tmp_path, {"weights": "a"}))
    assert found[0] == expected
    assert first.asked + second.asked == whole.asked
    again = generated(Renderer(), ClipCache(tmp_path, {"weights": "a"}))
    assert again == found  # the seconds, too
    assert not list(tmp_path.glob(".*"))


def test_a_folder_of_other_clips_is_refused(tmp_path):
    ClipCache(tmp_path / "a", {"weights": "a", "steps": 4})
    with pytest.raises(ValueError, match="other steps; name another"):
        ClipCache(tmp_path / "a", {"weights": "a", "steps": 5})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        ClipCache(tmp_path, {"weights": "a"})


def test_a_damaged_batch_is_named(tmp_path):
    store = ClipCache(tmp_path, {})
    store.batch("x", lambda: (np.zeros((1, 1, 64, 64, 3), np.uint8), 0.5))
    (tmp_path / "x.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match=r"x\.safetensors: is damaged"):
        store.batch("x", lambda: (np.zeros((1, 1, 64, 64, 3), np.uint8), 0.5))


@pytest.mark.parametrize(("frames", "every"), [(6, 3), (8, 2)])
def test_coarser_clips_are_every_so_many_frames_of_the_same_scenes(frames, every):
    scenes = SEEN.scenes(3)
    clips = SEEN.render(range(3), scenes, frames)
    assert np.array_equal(clips, render(scenes)[:, ::every])
    scores, _ = scores_of(clips_of("rendered", prompts=60, frames=frames))
    right, of = scores["motion right"]
    assert right >= 0.8 * of  # spins may be too fast to tell
    assert scores["shape right"] == (60, 60)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"prompts": 0}, "prompts is 0"), ({"frames": 7}, "frames is 7"), ({"batch_size": 0}, "batch is 0")],
)
def test_numbers_out_of_range_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        clips_of("rendered", **{"prompts": 1, **numbers})


def test_subsets_are_chosen_in_the_tables_order():
    assert choose_subsets([]) == list(SUBSETS.values())
    assert [subset.name for subset in choose_subsets(["level-2-two", "level-1-seen"])] == [
        "level-1-seen",
        "level-2-two",
    ]
    with pytest.raises(ValueError, match="subset 'level-9' is unknown; choose from level-1-seen"):
        choose_subsets(["level-9"])


def test_intervals_are_wilsons():
    low, high = wilson_interval(8, 10)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert wilson_interval(0, 300)[0] == 0.0
    assert wilson_interval(300, 300) == (pytest.approx(0.98736, abs=1e-5), 1.0)
    assert (proportion(8, 10).value, proportion(8, 10).low) == (0.8, low)


def test_results_come_back_from_json_and_read_as_a_table():
    colour, circling = (
        MetricInfo(name=name, better="higher", settings={"frames": 16}, percent=True)
        for name in ("colour right", "motion right, circling")
    )
    settings = {"model": "m", "steps": 4, "guidance": None, "subset": "level-1-seen", "clips": "the model"}
    row = Row(name="level-1-seen, m", settings=settings, results={colour.key: proportion(9, 10)})
    results = Report(title="r", metrics=[colour], rows=[row], environment={"versions": {"torch": "2"}})
    assert Report.model_validate_json(results.model_dump_json()) == results
    lines = score_table(results).splitlines()
    assert lines[0] == "| prompts | clips | colour |"
    assert lines[2] == "| level 1 seen | the model | 90.0 % (59.6-98.2) |"
    assert lines[-1].endswith("Model m, steps 4, frames 16, torch 2.")
    moved = row.model_copy(update={"results": {**row.results, circling.key: proportion(3, 4)}})
    lines = score_table(Report(title="r", metrics=[colour, circling], rows=[moved])).splitlines()
    assert lines[4:7] == [
        "| motions right | clips | circling |",
        "|---|---|---|",
        "| level 1 seen | the model | 3 of 4 |",
    ]


def test_a_table_takes_the_place_of_its_former_self():
    page = put_block("# Results\n\nText.\n", "a", "old")
    page = put_block(page, "b", "other")
    replaced = put_block(page, "a", "new")
    assert replaced == page.replace("old", "new")
    assert replaced.startswith("# Results\n\nText.\n\n<!-- begin a -->\nnew\n<!-- end a -->\n")
    assert put_block("    indented code\n", "a", "new").startswith("    indented code\n\n<!-- begin a -->")
    assert put_block(" \n", "a", "new") == "<!-- begin a -->\nnew\n<!-- end a -->\n"


def test_a_page_keeps_its_ends_of_lines_and_is_read_before_any_work(tmp_path):
    page = tmp_path / "page.md"
    page.write_bytes(b"# Mine\r\n\r\ntext\r\n")
    for body in ("old", "new"):
        put_into_page(page_path(page), "a", body, "# Results\n")
    assert page.read_bytes() == (b"# Mine\r\n\r\ntext\r\n\r\n<!-- begin a -->\r\nnew\r\n<!-- end a -->\r\n")
    page.write_bytes(page.read_bytes() + b"of another editor\n")
    put_into_page(page_path(page), "a", "newer", "# Results\n")
    assert page.read_bytes().endswith(b"\r\nnewer\r\n<!-- end a -->\r\nof another editor\n")
    page.write_bytes("Prüfung".encode("cp1252"))
    (tmp_path / "folder.md").mkdir()
    for name, message in (
        ("page.md", "is no text in UTF-8"),
        ("folder.md", "is a folder"),
        ("a.txt", "suffix"),
    ):
        with pytest.raises(typer.BadParameter, match=f"{name}: .*{message}"):
            page_path(tmp_path / name)


def test_a_page_with_a_block_without_an_end_is_refused_and_no_text_after_it_is_lost(tmp_path):
    page = tmp_path / "page.md"
    text = "<!-- begin a -->\nold\n\nMine\n\n<!-- begin a -->\nold\n<!-- end a -->\n"
    for one in (text, text.replace("<!-- end a -->\n", "")):
        page.write_text(one)
        with pytest.raises(typer.BadParameter, match="begins with <!-- begin a --> has no end; put <!-- end"):
            page_path(page)
        with pytest.raises(ValueError, match="has no end"):
            put_into_page(page, "a", "new", "# Results\n")
        assert page.read_text() == one


def test_a_link_to_a_page_stays_one_and_the_page_its_permissions(tmp_path):
    page, link = tmp_path / "page.md", tmp_path / "link.md"
    page.write_text("# Mine\n")
    page.chmod(0o640)
    link.symlink_to("page.md")
    put_into_page(page_path(link), "a", "new", "# Results\n")
    assert link.is_symlink()
    assert page.read_text() == "# Mine\n\n<!-- begin a -->\nnew\n<!-- end a -->\n"
    assert page.stat().st_mode & 0o777 == 0o640


# ---- the commands -----------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def program(*arguments):
        capsys.readouterr()
        status = errors.run(app, [str(argument) for argument in arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return program


def test_real_clips_alone_need_no_model(run, tmp_path):
    order = (
        "evaluate",
        "moving-shapes",
        "--reference-only",
        "--prompts",
        3,
        "--subsets",
        "level-1-seen,level-2-two",
    )
    status, out, _ = run(*order, "-o", "a/r.json", "--markdown", "r.md", "--sheet", "s.png")
    assert status == 0
    assert out.count("| real clips | 100.0 %") == 2
    assert "| motions right | clips | travelling |" in out
    results = read_report(tmp_path / "a/r.json")
    assert [row.settings["clips"] for row in results.rows] == ["real clips"] * 2
    assert out.splitlines()[0] in (tmp_path / "r.md").read_text()
    assert (tmp_path / "s.png").is_file()
    assert run(*order, "-o", "a/r.json")[0] == 2  # exists already


def test_a_model_is_measured_and_goes_on_with_its_kept_clips(run, tmp_path):
    model = tiny_pipeline_folder(tmp_path / "tiny")
    numbers = ("--prompts", 3, "--batch", 2, "--steps", 2, "--subsets", "level-1-seen")
    order = ("evaluate", "moving-shapes", "--model", model, *numbers, "--cache-dir", "w")
    status, out, _ = run(*order, "-o", "1.json")
    assert status == 0
    assert [line.split("|")[2].strip() for line in out.splitlines()[2:5]] == [
        "real clips", "real, through the autoencoder", "the model",
    ]  # fmt: skip
    assert len(list((tmp_path / "w").glob("*.safetensors"))) == 2
    assert run(*order, "-o", "2.json")[0] == 0
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("1.json", "2.json"))
    assert first["rows"][2] == second["rows"][2]
    settings = {**first["rows"][2]["settings"], **first["metrics"][0]["settings"], **first["environment"]}
    assert {"model", "weights", "steps", "guidance", "seed", "versions", "machine", "date"} <= set(settings)
    assert settings["steps"] == 2
    status, _, err = run(*order, "--guidance", 9)
    assert status == 2
    assert "other guidance" in err
    settings = model / "latent_shift.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eta": 0.5}))
    status, _, err = run(*order)
    assert status == 2
    assert "other video settings" in err


def test_the_page_has_a_block_for_every_run_s_model(run, tmp_path):
    numbers = ("--prompts", 1, "--steps", 1, "--subsets", "level-1-seen", "--markdown", "r.md")
    for name in ("shift-off", "fold-8"):
        model = tiny_pipeline_folder(tmp_path / "runs" / name / "model")
        assert run("evaluate", "moving-shapes", "--model", model, *numbers)[0] == 0
    page = (tmp_path / "r.md").read_text()
    assert "### moving-shapes: shift-off/model, frames 16" in page
    assert "### moving-shapes: fold-8/model, frames 16" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--subsets", "level-3"), "subset 'level-3' is unknown"),
        (("--prompts", 0), "prompts is 0"),
        (("--frames", 7), "frames is 7"),
        (("--batch", 0), "batch is 0"),
        (("--steps", 0), "--steps 0"),
        (("--guidance", "nan"), "--guidance nan"),
        (("--model", "."), "is no model"),
        (("--device", "tpu"), "--device tpu"),
        (("-o", "r.txt"), "unknown suffix '.txt'"),
        (("-o", "/proc/none/r.json"), "cannot write into /proc"),
        (("--sheet", "s.mp4"), "must end in .png"),
        (("--markdown", "r.json"), "must end in .md"),
    ],
)
def test_mistakes_are_told_in_one_line_before_any_work(run, tmp_path, options, message):
    status, out, err = run("evaluate", "moving-shapes", "--reference-only", *options)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_preview_writes_a_sheet(run, tmp_path):
    status, out, _ = run("data", "preview", "moving-shapes", "-o", "p.png", "--level", 2, "--count", 2)
    assert (status, out) == (0, "p.png\n")
    assert (tmp_path / "p.png").is_file()
    for options in (
        ("--count", 0),
        ("--level", 3),
        ("--split", "all"),
        ("-o", "p.gif"),
        ("--seed", -1),
        ("-o", "p.png"),
    ):
        assert run("data", "preview", "moving-shapes", *options)[0] == 2
    assert run("data", "preview", "films")[0] == 2
