"""Presets: the repository's own, what extends what, and mistakes."""

import shutil
import tomllib
from pathlib import Path

import pytest

from latent_shift.compare.preset import default_recipes, laid_over, load_preset
from latent_shift.systems import SYSTEMS

RECIPES = Path(__file__).parents[2] / "recipes" / "compare"
PRESETS = ("compare-6", "compare-16", "gpu", "sizes", "smoke")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_of_the_repository_is_whole(name, compared):
    preset = load_preset(name, RECIPES)
    assert all(config.system in SYSTEMS for config in preset.rows.values())
    for run in compared(name).runs:  # every recipe resolves, with every change
        for one in run.stages:
            assert compared(name).resolve(run, one, 100).steps == 100


def test_presets_are_for_these_numbers_of_frames_and_seeds():
    found = {name: load_preset(name, RECIPES) for name in PRESETS}
    assert {name: preset.frames for name, preset in found.items()} == {
        "compare-6": 6, "compare-16": 16, "gpu": 16, "sizes": 6, "smoke": 6,
    }  # fmt: skip
    assert [found[name].seeds for name in PRESETS] == [3, 3, 1, 1, 1]
    assert found["gpu"].needs_gpu
    assert (found["compare-6"].stills, found["compare-6"].clips) == ("core-seconds=3600", "core-seconds=1200")


def test_sixteen_frames_change_every_latent_recipe(compared):
    comparison = compared("compare-16")
    for run in comparison.first_runs():
        for one in run.on_clips:
            content = comparison.resolve(run, one, 10).model_dump()
            assert content.get("latents", {"frame_stride": 1})["frame_stride"] == 1, one.stage.name


def test_a_preset_extends_another_and_null_takes_a_row_away(tmp_path):
    folder = shutil.copytree(RECIPES, tmp_path / "recipes")
    (folder / "presets" / "mine.yaml").write_text("extends: smoke\nprompts: 2\nrows: {latent_vdm: null}\n")
    mine, smoke = load_preset("mine", folder), load_preset("smoke", folder)
    assert mine.prompts == 2
    assert [*mine.rows] == [name for name in smoke.rows if name != "latent_vdm"]
    assert mine.model_copy(update={"prompts": smoke.prompts, "rows": smoke.rows}) == smoke
    assert laid_over({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}) == {
        "a": {"b": 3, "c": 2}, "d": [2],
    }  # fmt: skip


def test_rows_are_chosen_by_their_names_or_their_systems():
    preset = load_preset("compare-6", RECIPES)
    assert preset.choose_rows([]) == preset.rows
    assert [*preset.choose_rows(["shift_off"])] == ["shift_off"]
    assert [*preset.choose_rows(["latent_shift"])] == ["latent_shift"]  # a row of that name
    variants = load_preset("sizes", RECIPES).choose_rows(["latent_shift-wide", "latent_shift"])
    assert variants["latent_shift-wide"].changes
    assert [*load_preset("smoke", RECIPES).choose_rows(["diffusers_pipeline"])] == ["diffusers_pipeline"]
    with pytest.raises(ValueError, match="--systems imagen: is no row and no system; known are latent_shift"):
        preset.choose_rows(["imagen"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: smoke\nframes: 7\n", "bad.yaml: .*frames 7: clips have 16, 8, 6 frames"),
        ("extends: smoke\nclips: steps=0\n", "bad.yaml: .*budget 'steps=0': expected"),
        ("extends: smoke\ncolour: red\n", "bad.yaml: colour: unknown key"),
        ("extends: no\n", "bad.yaml: extends is False; put it in quotation marks"),
        ("extends: bad\n", "bad.yaml: extends bad, and so itself"),
        ("extends: smoke\nrows: {a: {seeds: 0}}\n", "bad.yaml: rows.a.seeds"),
        ("extends: smoke\nchanges: {nosuch: {}}\n", "names nosuch, but .* has no such recipe"),
        (
            "extends: smoke\nrows: {a: {of: nosuch}}\n",
            "row a: of: nosuch: expected a row that is trained here",
        ),
        ("extends: smoke\nrows: {a: {of: latent_shift-5-steps}}\n", "expected a row that is trained here"),
        ("extends: smoke\nrows: {a: {of: latent_vdm, changes: {b: {}}}}\n", "leave changes out"),
        ("extends: smoke\nrows: {a: 5}\n", "bad.yaml: rows: row a: 5: expected a mapping, such as {steps"),
        ("extends: smoke\nrows: {a: [x]}\n", r"bad.yaml: rows: row a: \['x'\]: expected a mapping"),
        ("extends: smoke\nrows: {a: {of: b}, b: c}\n", "bad.yaml: rows: row b: 'c': expected a mapping"),
        ("extends: smoke\nrows: {a: {of: [b]}}\n", r"row a: of: \['b'\]: expected a row that is trained"),
        ("extends: smoke\nrows: {a: {of: {}}}\n", "row a: of: {}: expected a row that is trained here"),
        ("extends: smoke\nshares: {nosuch: 0.5}\n", "names nosuch, but .* has no such recipe"),
        (
            "extends: smoke\nsubsets: [level-9]\n",
            "bad.yaml: subsets: subset level-9: expected some of level-1",
        ),
        ("extends: smoke\nsubsets: [level-2-two]\n", "subset level-2-two: expected some of level-1-seen"),
        ("extends: smoke\nexamples: 0\n", "bad.yaml: examples"),
        ("extends: smoke\ndtype: bf17\n", "bad.yaml: dtype"),
        ("[]", "must be a mapping"),
    ],
)
def test_mistakes_name_the_preset_and_the_key(tmp_path, text, message):
    folder = shutil.copytree(RECIPES, tmp_path / "recipes")
    (folder / "presets" / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_preset("bad", folder)


def test_presets_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="--preset big: expected one of compare-16, compare-6, gpu"):
        load_preset("big", RECIPES)
    with pytest.raises(ValueError, match=r"has no presets/\*\.yaml; name the folder .* with --recipes"):
        load_preset("smoke", tmp_path)


def test_an_installed_package_has_the_recipes():
    assert default_recipes() == RECIPES
    content = tomllib.loads((RECIPES.parents[1] / "pyproject.toml").read_text("utf-8"))
    copied = content["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert copied == {"recipes/compare": "latent_shift/assets/compare"}
