"""`latent-shift compare` from outside: the smoke preset whole, going on, and mistakes."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml

from latent_shift import systems
from latent_shift.checkpoints import weights_hash
from latent_shift.cli import errors
from latent_shift.cli.main import app
from latent_shift.compare.preset import default_recipes, load_preset
from program import run_program

ROWS = load_preset("smoke", default_recipes()).rows


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Run the smoke preset: one system's training first, then the same command for all."""
    folder = tmp_path_factory.mktemp("smoke") / "runs"
    command = ["compare", "--preset", "smoke", "-o", str(folder)]
    threads = torch.get_num_threads()
    assert errors.run(app, [*command, "--systems", "latent_shift", "--only", "train"]) == 0
    stage = folder / "rows" / "latent_shift" / "seed-0" / "latent_shift-2-clips" / "model" / "unet"
    trained = {file: file.stat().st_mtime_ns for file in stage.iterdir()}
    assert errors.run(app, [*command, "--markdown", str(folder / "page.md")]) == 0
    assert {file: file.stat().st_mtime_ns for file in stage.iterdir()} == trained  # kept
    torch.set_num_threads(threads)
    return folder


def everything_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_every_row_has_every_piece(smoke, capsys):
    status, out, err = run_program(capsys, "compare", "--preset", "smoke", "-o", smoke, "--json")
    assert (status, err) == (0, "")  # all is there: nothing is trained, made or scored again
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["row"] for line in lines] == [*ROWS]
    for line in lines:
        assert [len(values) for values in line["metrics"].values()] == [1] * 7, line["row"]
        assert all(len(found["colour"]) == 1 for found in line["scores"].values())
        assert line["cost"]["gmac"] > 1
        assert line["cost"]["seconds"] > 0
        assert line["cost"]["memory"] > 10 * 2**20
        assert line["cost"]["calls"] > 2
        if not ROWS[line["row"]].of:
            assert line["images"]["after"]["of"] == 4
        stages = line["training"]["stages"].values()
        assert all(stage["steps"] == 10 and stage["seconds"] > 0 for stage in stages)
        assert set(line["cost"]["training_gmac"]) <= set(line["training"]["stages"])


@pytest.mark.slow
def test_the_pages_have_all_tables_and_clips(smoke):
    page, html = (smoke / "page.md").read_text(), (smoke / "compare.html").read_text()
    titles = ("Scores, level 1 seen", "Distances", "Images all right", "Parameters", "Sampling", "Training",
              "Each run", "Question 1", "Over the budget", "Resolved recipes")  # fmt: skip
    for title in titles:
        assert f"### {title}" in page
    for name in ROWS:
        assert f"| {name} |" in page
    assert html.count("data:image/webp") == 2 * (1 + len(ROWS))
    assert (smoke / "compare.md").read_text() == page


@pytest.mark.slow
def test_a_command_of_fewer_systems_loses_no_rows_of_the_pages(smoke, capsys):
    kept = [(smoke / name).read_text() for name in ("page.md", "compare.html")]
    command = ("compare", "--preset", "smoke", "-o", smoke, "--systems", "shift_off", "--only", "page")
    status, _, err = run_program(capsys, *command, "--markdown", smoke / "page.md")
    assert (status, err) == (0, "")
    again = (smoke / "page.md").read_text()
    assert [line for line in kept[0].splitlines() if line[:1] == "|"] == [
        line for line in again.splitlines() if line[:1] == "|"
    ]
    assert (smoke / "compare.html").read_text().count("data:image/webp") == kept[1].count("data:image/webp")
    (smoke / "page.md").write_text(kept[0].replace("| motion_module |", "| of another folder |"))
    status, _, err = run_program(capsys, *command, "--markdown", smoke / "page.md")
    assert (status, "has not: of another folder, seed 0; name another page" in err) == (2, True)
    assert "| of another folder |" in (smoke / "page.md").read_text()
    for name, text in zip(("page.md", "compare.md", "compare.html"), (kept[0], *kept), strict=True):
        (smoke / name).write_text(text)


@pytest.mark.slow
def test_every_model_is_one_of_its_system(smoke):
    for name, config in ROWS.items():
        folder = smoke / "rows" / name / "seed-0"
        assert systems.find(folder / "model").name == config.system
        for one in folder.glob("*/recipe.yaml"):
            assert len([*(one.parent / "checkpoints").iterdir()]) == 1  # those of parts are gone


@pytest.mark.slow
def test_a_row_of_anothers_models_has_its_weights_and_other_steps(smoke):
    own, base = (smoke / "rows" / name / "seed-0" for name in ("latent_shift-5-steps", "latent_shift"))
    assert weights_hash(own / "model") == weights_hash(base / "model")
    assert (systems.inspect(own / "model").steps, systems.inspect(base / "model").steps) == (5, 2)
    kept = {path.name for path in own.iterdir()}
    assert kept == {
        "model",
        "made-of.json",
        "clips",
        "scores.json",
        "examples.safetensors",
    }  # nothing is trained


@pytest.mark.slow
def test_a_stage_is_repeated_by_its_resolved_recipe(smoke, capsys, tmp_path):
    stage = smoke / "rows" / "shift_off" / "seed-0" / "shift_off-2-clips"
    again = tmp_path / "again"
    torch.set_num_threads(1)
    status, _, err = run_program(capsys, "train", stage / "recipe.yaml", "--set", f"output={again}")
    assert status == 0, err
    assert weights_hash(again / "model") == weights_hash(stage / "model")


@pytest.mark.slow
def test_nothing_is_left_to_do_and_nothing_is_lost_by_mistakes(smoke, capsys):
    before = everything_in(smoke)
    command = ("compare", "-o", smoke)
    status, out, _ = run_program(capsys, *command, "--preset", "smoke", "--dry-run")
    assert status == 0
    assert "| all that is left |  |  |  |  | 0 |" in out
    for options, message in (
        (("--preset", "compare-6"), "holds a comparison with preset smoke, not compare-6"),
        (("--preset", "smoke", "--budget", "steps=20"), "budget of clips steps=10, not steps=20"),
        (("--preset", "smoke", "--stills", smoke / "no"), "has no trained latent-1-image"),
    ):
        status, out, err = run_program(capsys, *command, *options)
        assert (status, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
    assert everything_in(smoke) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "big"], "--preset big: expected one of compare-16, compare-6, gpu"),
        (["--systems", "imagen"], "--systems imagen: is no row and no system"),
        (["--systems", "diffusers_pipeline"], "diffusers_pipeline has no stages"),
        (["--budget", "core-seconds=0"], "budget 'core-seconds=0': expected"),
        (["--budget", "hours=3"], "budget 'hours=3': expected core-seconds=N, clips=N, steps=N"),
        (["--only", "sing"], "--only sing: expected one of train, sample, score, cost, page"),
        (["--seeds", "0"], "--seeds 0: give 1 or more"),
        (["--systems", ","], "--systems ',': names none; leave it out for all rows"),
        (["--dry-run", "--only", "page"], "--only page: --dry-run shows all parts; leave one of them out"),
        (["--recipes", "nowhere"], "nowhere: has no presets/"),
        (["--markdown", "page.txt"], "page.txt"),
        (["--markdown", "a.md", "--only", "score"], "--markdown a.md: no page is written with --only score"),
        (
            ["--preset", "smoke", "--only", "score", "--systems", "shift_off"],
            "not made yet; leave --only out",
        ),
        (
            ["--preset", "smoke", "--only", "cost", "--systems", "shift_off"],
            "is not trained yet; leave --only",
        ),
        (["--preset", "smoke", "--only", "sample", "--systems", "shift_off"], "not trained yet; leave"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run_program(capsys, "compare", *options)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_preset_for_a_gpu_where_there_is_none(capsys):
    status, _, err = run_program(capsys, "compare", "--preset", "gpu")
    assert status == 2
    assert "--preset gpu: is for a GPU, and torch finds none; take another preset" in err


def test_a_dry_run_writes_nothing(capsys, tmp_path):
    status, out, _ = run_program(capsys, "compare", "-o", tmp_path / "runs", "--dry-run", "--seeds", "1")
    assert status == 0
    assert "| stills | latent-1-image | core-seconds=1800 |  | to do | " in out
    assert not (tmp_path / "runs").exists()


def test_recipes_of_ones_own(capsys, tmp_path):
    recipes = tmp_path / "recipes"
    (recipes / "presets").mkdir(parents=True)
    for file in ("latent-1-image.yaml", "shift_off-2-clips.yaml"):
        os.link(default_recipes() / file, recipes / file)
    preset = {"frames": 6, "stills": "steps=1", "clips": "steps=1", "rows": {"shift_off": {}}}
    Path(recipes / "presets" / "own.yaml").write_text(yaml.safe_dump(preset))
    command = ("compare", "--recipes", recipes, "--preset", "own", "-o", tmp_path / "runs", "--dry-run")
    status, out, _ = run_program(capsys, *command)
    assert status == 0
    assert "| shift_off, seed 2 | shift_off-2-clips | steps=1 |" in out
