"""The protocol: fixed prompts and seeds, the three sources, what a stopped run keeps, and the command."""

import json
from collections import Counter

import numpy as np
import pytest

from latent_shift.cli import errors
from latent_shift.cli.main import app
from latent_shift.evaluation.clip_cache import ClipCache
from latent_shift.moving_shapes import constants, draw_scenes, parse_caption, render
from latent_shift.moving_shapes.scorer import protocol
from latent_shift.moving_shapes.scorer.protocol import CELLS, choose_cells, measure
from latent_shift.moving_shapes.scorer.results import Results, Row, Share, put_block, to_row
from tiny import tiny_pipeline_folder

SEEN = CELLS["level-1-seen"]


class Renderer:
    """A model that never errs: it rng each caption anew; its autoencoder paints every other clip gray."""

    def __init__(self):
        self.asked = []

    def reconstruct(self, clips):
        clips = clips.copy()
        clips[::2] = 120
        return clips

    def sample(self, prompts, seeds, frames):
        self.asked += zip(prompts, seeds, strict=True)
        scenes = [scene for name in CELLS for scene in CELLS[name].scenes(8)]
        drawn = {protocol.prompt_of(scene, frames): scene for scene in scenes}
        return np.concatenate([render([drawn[prompt]], range(frames)) for prompt in prompts])


@pytest.mark.parametrize("name", CELLS)
def test_prompts_are_fixed_and_keep_the_cells_rules(name):
    cell = CELLS[name]
    scenes = cell.scenes(12)
    assert scenes == cell.scenes(20)[:12]
    for scene in scenes:
        objects, ground = parse_caption(protocol.prompt_of(scene, 16))
        assert (objects, ground) == (protocol.object_words(scene), scene.background)
        assert len(objects) == cell.num_objects
        held_out = any(constants.names_held_out(obj.colour, obj.shape, obj.motion) for obj in objects)
        assert cell.split == "any" or held_out == (cell.split == "held-out")
        assert cell.level == 2 or not any(obj.speed or constants.is_digit(obj.shape) for obj in objects)
    assert scenes != draw_scenes(
        0, range(12), level=cell.level, num_objects=cell.num_objects, split=cell.split
    )


def test_no_two_clips_have_one_seed():
    seeds = [cell.clip_seed(index) for cell in CELLS.values() for index in (0, 1, protocol.MOST_PROMPTS - 1)]
    assert len(set(seeds)) == len(seeds)


def test_each_source_is_scored_and_counted():
    sources = {source: measure(SEEN, source, prompts=8, batch=3, maker=Renderer()) for source in
               ("rendered", "autoencoder", "model")}  # fmt: skip
    assert sources["rendered"].tally == sources["model"].tally
    assert all(verdicts == [True] * 8 for verdicts in sources["model"].tally.columns.values())
    lost = sources["autoencoder"].tally.columns
    assert sum(lost["all"]) == sum(lost["colour"]) == 3  # batches of 3, 3 and 2: the second of each is left


def test_motions_are_counted_by_kind_too():
    drawn, through = (measure(SEEN, source, prompts=8, batch=3, maker=Renderer()).tally for source in
                      ("rendered", "autoencoder"))  # fmt: skip
    asked = Counter(constants.motion_kind(obj.motion) for scene in SEEN.scenes(8) for obj in scene.objects)
    assert {kind: len(verdicts) for kind, verdicts in drawn.kinds.items()} == asked
    assert all(all(verdicts) for verdicts in drawn.kinds.values())
    for tally in (drawn, through):
        assert sum(map(sum, tally.kinds.values())) == sum(tally.columns["motion"])


def test_two_objects_count_twice_where_objects_are_counted():
    tally = measure(CELLS["level-2-two"], "rendered", prompts=5).tally
    assert {name: len(verdicts) for name, verdicts in tally.columns.items()} == {
        "colour": 10, "shape": 10, "motion": 10, "speed": 10, "background": 5, "all": 5,
    }  # fmt: skip


def test_images_have_no_motion_to_score():
    maker = Renderer()
    result = measure(SEEN, "model", prompts=4, frames=1, maker=maker, examples=2)
    assert set(result.tally.columns) == {"colour", "shape", "background", "all"}
    assert not result.tally.kinds
    assert not any("moving" in prompt for prompt, _ in maker.asked)
    assert [example.clip.shape for example in result.examples] == [(1, 64, 64, 3)] * 2


def test_a_stopped_run_goes_on_and_gives_the_same(tmp_path):
    class Stopped(Renderer):
        def sample(self, prompts, seeds, frames):
            if len(self.asked) >= 4:
                raise KeyboardInterrupt
            return super().sample(prompts, seeds, frames)

    whole, first, second = Renderer(), Stopped(), Renderer()
    expected = measure(SEEN, "model", prompts=7, batch=2, maker=whole)
    with pytest.raises(KeyboardInterrupt):
        measure(SEEN, "model", prompts=7, batch=2, maker=first, store=ClipCache(tmp_path, {"weights": "a"}))
    found = measure(
        SEEN, "model", prompts=7, batch=2, maker=second, store=ClipCache(tmp_path, {"weights": "a"})
    )
    assert found.tally == expected.tally
    assert first.asked + second.asked == whole.asked
    again = measure(
        SEEN, "model", prompts=7, batch=2, maker=Renderer(), store=ClipCache(tmp_path, {"weights": "a"})
    )
    assert to_row(again) == to_row(found)  # the seconds, too
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
    clips = protocol.rendered(SEEN, range(3), scenes, frames)
    assert np.array_equal(clips, render(scenes)[:, ::every])
    result = measure(SEEN, "rendered", prompts=60, frames=frames)
    columns = result.tally.columns
    assert sum(columns["motion"]) >= 0.8 * len(columns["motion"])  # spins may be too fast to tell
    assert all(columns["shape"])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"prompts": 0}, "prompts is 0"), ({"frames": 7}, "frames is 7"), ({"batch": 0}, "batch is 0")],
)
def test_numbers_out_of_range_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        measure(SEEN, "rendered", **{"prompts": 1, **numbers})


def test_cells_are_chosen_in_the_tables_order():
    assert choose_cells([]) == list(CELLS.values())
    assert [cell.name for cell in choose_cells(["level-2-two", "level-1-seen"])] == [
        "level-1-seen",
        "level-2-two",
    ]
    with pytest.raises(ValueError, match="cell 'level-9' is unknown; choose of level-1-seen"):
        choose_cells(["level-9"])


def test_intervals_are_wilsons():
    low, high = Share(right=8, of=10).interval()
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert Share(right=0, of=300).interval()[0] == 0.0
    assert Share(right=300, of=300).interval() == (pytest.approx(0.98736, abs=1e-5), 1.0)


def test_results_come_back_from_json_and_read_as_a_table():
    row = Row(cell="level-1-seen", source="model", columns={"colour": Share(right=9, of=10)}, seconds=1.5)
    results = Results(settings={"model": "m", "steps": 4, "guidance": None}, rows=[row])
    assert Results.model_validate_json(results.model_dump_json()) == results
    lines = results.markdown().splitlines()
    assert lines[0] == "| prompts | clips | colour |"
    assert lines[2] == "| level 1 seen | the model | 90.0 % (59.6-98.2) |"
    assert lines[-1].endswith("Model m, steps 4.")
    moved = row.model_copy(update={"motions": {"circling": Share(right=3, of=4)}})
    lines = results.model_copy(update={"rows": [moved]}).markdown().splitlines()
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
    results = Results.model_validate_json((tmp_path / "a/r.json").read_text())
    assert [row.source for row in results.rows] == ["rendered"] * 2
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
    assert {"model", "weights", "steps", "guidance", "seed", "versions", "machine", "date"} <= set(
        first["settings"]
    )
    assert first["settings"]["steps"] == 2
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
        (("--subsets", "level-3"), "cell 'level-3' is unknown"),
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
