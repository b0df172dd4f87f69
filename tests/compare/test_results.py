"""Results: groups of motions, differences with intervals, tables and pages of what is there."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from latent_shift.compare.cost import Cost, Costs
from latent_shift.compare.page import html, json_lines, markdown, not_beaten
from latent_shift.compare.results import (
    ALL,
    BY_PHASE,
    BY_WORD,
    paired_difference,
    read_results,
    share,
    verdicts_of,
    with_rows_of_folder,
)
from latent_shift.compare.scoring import VERDICTS, Scores
from latent_shift.compare.tables import tables
from latent_shift.evaluation.metrics.intervals import wilson_interval
from latent_shift.evaluation.report import MetricResult

MOTIONS = ["moving left", "bouncing", "growing", "circling clockwise", "standing still", "spinning clockwise"]
SUBSETS = ("level-1-seen", "level-1-held-out")


def scores(motion, everything=True, **metrics):
    each = {name: [everything] * len(motion) for name in VERDICTS} | {"motion right": motion}
    return Scores(
        verdicts=dict.fromkeys(SUBSETS, each),
        motions=dict.fromkeys(SUBSETS, MOTIONS),
        metrics={name: MetricResult(value=value) for name, value in metrics.items()},
        notes=["right"] * 2,
    )


COST = Cost(
    parameters={"unet": 7_900_000, "vae": 1_640_000}, trained=7_900_000, temporal=0, seconds=0.5,
    batch_seconds=0.3, gmac=23.9, calls=22, memory=100 * 2**20, training_gmac={"latent_shift-2-clips": 1.794},
)  # fmt: skip


@pytest.fixture
def filled(compared):
    """A comparison of two rows, the first with two seeds, all of it invented; and what it has found."""

    def make():
        comparison = compared("compare-6", "latent_shift", "shift_off", seeds=2)
        first, second, off = comparison.runs
        write(first, scores([True] * 6, **{"FVD (moving-shapes-eyes)": 10.0}))
        write(second, scores([True, False] * 3, **{"FVD (moving-shapes-eyes)": 12.0}))
        write(off, scores([False] * 6, False, **{"FVD (moving-shapes-eyes)": 20.0}))
        for run in comparison.runs:
            for one in run.stages:
                if not one.finished:
                    one.record(comparison.resolve(run, one, 80))
                    one.model.mkdir()
                    spent = {"seconds": 100.0, "preparation": 7.0, "wall_seconds": 60.0}
                    (one.folder / "spent.json").write_text(json.dumps(spent))
        real = comparison.folder / "real"
        real.mkdir()
        (real / "scores.json").write_text(scores([True] * 6, **{"FVD (a)": 3.0}).model_dump_json())
        save_file({"clips": clips(0)}, real / "examples.safetensors")
        costs = Costs(
            rows={"latent_shift": COST, "shift_off": COST}, batch=32,
            machine={"machine": "m, 2 cores", "threads": 2, "date": "d", "versions": {"torch": "2"}},
            models={run.row: run.model_hash() for run in comparison.first_runs()},
        )  # fmt: skip
        (comparison.folder / "cost.json").write_text(costs.model_dump_json())
        return read_results(comparison)

    return make


def clips(value):
    return np.full((2, 6, 64, 64, 3), value, np.uint8)


def write(run, scored):
    run.folder.mkdir(parents=True)
    (run.folder / "scores.json").write_text(scored.model_dump_json())
    save_file({"clips": clips(run.seed + 1)}, run.folder / "examples.safetensors")


def test_motions_are_scored_in_two_groups():
    found = verdicts_of(scores([True, False, True, False, False, True]), SUBSETS[0])
    assert found[BY_WORD].tolist() == [True, True, False]
    assert found[BY_PHASE].tolist() == [False, False, True]
    assert found[ALL].tolist() == [True] * 6
    proportion = share(found[BY_WORD])
    assert (proportion.right, proportion.of) == (2, 3)
    assert (proportion.low, proportion.high) == wilson_interval(2, 3)
    images = Scores(verdicts={SUBSETS[0]: {"colour right": [True], "all right at once": [False]}})
    assert {*verdicts_of(images, SUBSETS[0])} == {"colour", ALL}
    assert verdicts_of(images, SUBSETS[1]) == {}


def test_a_difference_is_paired_by_prompts_and_seeds():
    rng = np.random.default_rng(0)
    apart = rng.integers(-1, 2, (3, 200))
    found = paired_difference(apart)
    assert found.value == pytest.approx(apart.mean())
    assert found.seeds == (apart.mean(axis=1).min(), apart.mean(axis=1).max())
    spread = apart.mean(axis=0).std() / np.sqrt(200)  # prompts are redrawn, the same ones for all seeds
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.1)
    assert paired_difference(np.ones((2, 50), int)).shown
    assert not paired_difference(np.zeros((1, 50), int)).shown


def test_differences_of_rows_by_the_seeds_that_both_have(filled):
    found = filled().difference("latent_shift", "shift_off", SUBSETS[0], BY_PHASE)
    assert found.value == 1.0  # of seed 0, which shift_off has, too
    assert found.shown


def test_differences_of_rows_that_are_not_there(filled):
    results = filled()
    assert results.difference("latent_shift", "cogvideo", SUBSETS[0], ALL) is None


def test_points_that_no_other_beats():
    places = {"a": (1.0, 10.0), "b": (2.0, 30.0), "c": (3.0, 20.0), "d": (2.0, 25.0), "e": (1.0, 10.0)}
    assert not_beaten(places) == {"a", "b", "e"}


def test_the_tables_have_every_piece(filled):
    found = {table.title: table for table in tables(filled())}
    seen = {row[0]: row[1:] for row in found["Scores, level 1 seen"].rows}
    assert seen["latent_shift"][0] == "2"
    assert seen["latent_shift"][3] == "100.0 % [100.0-100.0]"
    assert seen["latent_shift"][4] == "50.0 % [0.0-100.0]"
    assert seen["shift_off"][3].startswith("0.0 % (0.0-")
    assert seen["real clips"][3].startswith("100.0 % (")
    distances = {row[0]: row[1:] for row in found["Distances"].rows}
    assert distances["latent_shift"][0] == "11.00 [10.00-12.00]"
    assert distances["latent_shift"][-3:] == ["15.23", "0.2773", "1.5 B"]
    assert "not comparable" in " ".join(found["Distances"].notes)
    assert found["Parameters"].rows[0] == ["latent_shift", "9.54", "0.00", "7.90", "unet 7.90, vae 1.64"]
    assert found["Sampling"].rows[0] == ["latent_shift", "0.5000", "0.3000", "23.90", "22", "100"]
    stages = {row[0]: row[1:] for row in found["Training"].rows}
    shared_once = (1 + 2 + 1) * 107.0 / 3600  # stills, two seeds of one row, one of the other
    assert found["Training"].notes[-1].endswith(f"{shared_once:.2f}.")
    assert [*stages] == [
        "latent-1-image",
        "latent_shift: latent_shift-2-clips",
        "shift_off: shift_off-2-clips",
    ]
    assert stages["latent_shift: latent_shift-2-clips"] == [
        "clips", "core-seconds=1200", "80", "5,120", "0.32", "100", "7", "60", "51.2", "1.794",
    ]  # fmt: skip
    assert [row[:2] for row in found["Each run"].rows] == [
        ["latent_shift", "0"], ["latent_shift", "1"], ["shift_off", "0"],
    ]  # fmt: skip
    question = found["Question 1: Can a shift without parameters model time?"]
    rows = {(row[0], row[1]): row[2] for row in question.rows}
    assert rows["latent_shift minus shift_off", BY_WORD].startswith("+100.0 (+100.0, +100.0)")
    assert rows["latent_shift against shift_off", "FVD, all prompts"] == "-50 %"  # of the seed that both have
    assert "the seeds that both rows have (shift_off 1)" in question.notes[0]
    assert "within 7 points" in question.notes[0]


def test_the_pages_hold_tables_recipes_clips_and_plots(filled):
    results = filled()
    text = markdown(results, "latent-shift compare --preset compare-6")
    assert "Made by `latent-shift compare --preset compare-6`. Costs on m, 2 cores, 2 threads" in text
    assert "<details><summary>latent_shift: latent_shift-2-clips</summary>" in text
    assert "| latent_shift | 2 |" in text
    page = html(results, "latent-shift compare")
    assert page.count("data:image/webp;base64,") == 2 * 3  # two prompts: real clips and two rows
    assert page.index(">real clips</th>") < page.index(">latent_shift</th>")
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "motion by word and place over core-seconds" in page
    assert page.count("<svg") == 5


def test_a_json_line_a_row(filled):
    first, second = json_lines(filled())
    assert (first["row"], first["system"], first["seeds"]) == ("latent_shift", "latent_shift", [0, 1])
    assert [one["value"] for one in first["scores"]["level-1-seen"][BY_PHASE]] == [1.0, 0.0]
    assert first["metrics"]["FVD"] == [10.0, 12.0]
    assert first["training"]["seconds"] == 100.0
    assert first["training"]["clips"] == 5120
    assert first["cost"]["gmac"] == 23.9
    assert first["paper"] == {"fid": 15.23, "clipsim": 0.2773, "parameters": "1.5 B"}
    assert second["paper"] is None
    json.dumps([first, second])


def test_costs_of_a_row_that_was_trained_again_are_not_shown(filled):
    comparison = filled().comparison
    comparison.first_runs()[0].record_stages()
    comparison.first_runs()[0].model.mkdir()
    results = read_results(comparison)
    assert [row.cost is None for row in results.rows] == [True, False]
    assert "Not complete yet: latent_shift." in markdown(results, "latent-shift compare")


def test_a_page_has_all_rows_and_seeds_of_its_folder(filled, compared):
    filled()
    fewer = compared("compare-6", "shift_off", seeds=1)
    assert [*with_rows_of_folder(fewer).rows] == ["latent_shift", "shift_off"]
    results = read_results(with_rows_of_folder(fewer))
    assert [sorted(row.runs) for row in results.rows] == [[0, 1], [0]]


def test_pieces_that_are_not_there_are_left_out(compared):
    results = read_results(compared("smoke"))
    assert tables(results) == []
    assert "Not complete yet: latent_shift" in markdown(results, "latent-shift compare")
    assert all(line["cost"] is None and line["seeds"] == [] for line in json_lines(results))
