"""Runs and stages: folders, resolved recipes, and what stops a comparison before any work."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml

from latent_shift import precision
from latent_shift.compare.budget import Timing, parse_budget
from latent_shift.compare.cost import runs_together
from latent_shift.compare.plan import one_precision
from latent_shift.compare.run import StageRun
from latent_shift.compare.schedule import plan_table
from latent_shift.compare.scoring import made_by
from latent_shift.compare.training import _timed, _train_stage, assemble, stored_timing
from latent_shift.data.samplers import ShuffledSampler
from latent_shift.io import write_json
from latent_shift.systems.latent_shift import LatentShift
from latent_shift.video_config import FILE_NAME, VideoConfig, write_video_config


def stages(run):
    return {one.stage.name: one for one in run.stages}


def finish(comparison, run, one, steps=10):
    """Leave a stage as if it were trained."""
    one.record(comparison.resolve(run, one, steps))
    one.model.mkdir()


def test_rows_have_as_many_runs_as_seeds(compared):
    def seeds(comparison):
        found = {}
        for run in comparison.runs:
            found.setdefault(run.row, []).append(run.seed)
        return found

    found = seeds(compared("compare-6"))
    assert found["latent_shift"] == [0, 1, 2]
    assert found["shift_off"] == found["first_frame"] == [0]
    assert seeds(compared("compare-6", seeds=2))["latent_vdm"] == [0, 1]


def test_stills_are_shared_and_clips_are_each_seeds(compared, tmp_path):
    comparison, folder = compared("compare-6"), tmp_path / "runs"
    first, second = (run for run in comparison.runs if run.row == "latent_shift" and run.seed < 2)
    other = next(run for run in comparison.runs if run.row == "latent_vdm")
    image = folder / "stills" / "latent-1-image"
    assert {stages(run)["latent-1-image"].folder for run in (first, second, other)} == {image}
    assert first.folder == folder / "rows" / "latent_shift" / "seed-0"
    clips = stages(second)["latent_shift-2-clips"]
    assert clips.folder == folder / "rows" / "latent_shift" / "seed-1" / "latent_shift-2-clips"
    assert (first.system, first.model) == (LatentShift, first.folder / "model")
    assert [str(one.budget) for one in first.stages] == ["core-seconds=1800", "core-seconds=1200"]


def test_a_row_that_changes_its_stills_has_its_own(compared, tmp_path):
    comparison = compared("sizes")
    wide = next(run for run in comparison.runs if run.row == "latent_shift-wide")
    image = stages(wide)["latent-1-image"]
    assert image.folder == tmp_path / "runs" / "rows" / "latent_shift-wide" / "stills" / "latent-1-image"
    assert comparison.resolve(wide, image, 10).unet["block_out_channels"] == [96, 160, 160]
    clips = comparison.resolve(wide, stages(wide)["latent_shift-2-clips"], 10)
    assert clips.pretrained_model == str(image.model)


def test_a_row_of_anothers_models_is_not_trained(compared):
    comparison = compared("compare-6", "latent_shift-40-steps", "latent_shift")
    (own,) = [run for run in comparison.runs if run.row == "latent_shift-40-steps"]
    base = next(run for run in comparison.runs if run.row == "latent_shift")
    assert [one.folder for one in own.stages] == [one.folder for one in base.stages]
    assert own.folder == base.folder.parents[1] / "latent_shift-40-steps" / "seed-0"
    assert (own.of, own.steps, own.system) == ("latent_shift", 40, LatentShift)
    assert [one.name for one in made_by(comparison, own)] == ["latent_shift-40-steps, seed 0"]


def test_a_resolved_recipe_has_all_changes_and_the_comparisons_folders(compared, tmp_path):
    comparison = compared("compare-6")
    run = next(run for run in comparison.runs if run.row == "latent_shift-no-places")
    recipe = comparison.resolve(run, stages(run)["latent_shift-2-clips"], 1000)
    assert recipe.output == run.folder / "latent_shift-2-clips"
    assert recipe.pretrained_model == str(tmp_path / "runs" / "stills" / "latent-1-image" / "model")
    assert recipe.latents.folder == tmp_path / "runs" / "latents"
    assert not recipe.experimental.frame_position_embedding
    assert (recipe.steps, recipe.ema_decay) == (1000, 0.98)
    assert (recipe.optimizer.warmup_steps, recipe.optimizer.cooldown_steps) == (30, 333)
    third = next(run for run in comparison.runs if run.row == "latent_shift" and run.seed == 2)
    assert [comparison.resolve(third, one, 100).seed for one in third.stages] == [0, 2]
    image = comparison.resolve(third, third.stages[0], 100)
    assert (image.autoencoder / "vae").is_dir()  # the package's, wherever the program is started
    assert (image.text_encoder_from / "tokenizer").is_dir()


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_stages_are_trained_in_the_precision_of_the_comparison(compared, dtype):
    comparison = compared("compare-6", "latent_vdm", "make_a_video", "cogvideo")
    comparison = replace(comparison, preset=comparison.preset.model_copy(update={"dtype": dtype}))
    recipes = [comparison.resolve(run, one, 10) for run in comparison.runs for one in run.stages]
    assert {recipe.mixed_precision for recipe in recipes} == {dtype}


@pytest.mark.parametrize(
    ("instructions", "begun", "other"), [(True, "bf16", "fp32"), (False, "fp32", "bf16")]
)
def test_a_comparison_keeps_its_precision_on_another_machine(
    compared, tmp_path, monkeypatch, instructions, begun, other
):
    def here(can):
        monkeypatch.setattr(precision, "_has_bf16_instructions", lambda: can)
        return one_precision("auto", tmp_path / "runs")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert here(instructions) == begun
    comparison = compared("compare-6")
    replace(comparison, preset=comparison.preset.model_copy(update={"dtype": begun})).record()
    assert here(not instructions) == begun
    assert one_precision(other, tmp_path / "runs") == other  # a preset that names one decides


def test_a_recorded_recipe_is_read_as_it_was(compared):
    comparison = compared("smoke", "latent_vdm")
    (run,) = comparison.runs
    for one in run.stages:
        recipe = comparison.resolve(run, one, 10)
        one.record(recipe)
        assert one.recorded() == recipe
        assert comparison.check_begun(run, one) == recipe
        assert yaml.safe_load((one.folder / "recipe.yaml").read_text())["steps"] == 10


def test_every_run_sees_a_prefix_of_one_sequence_of_clips_whatever_its_batches():
    def seen(batch_size, steps):
        sampler = ShuffledSampler(100, batch_size, seed=7)
        return [index for step in range(steps) for index in sampler.indices(step)]

    assert seen(64, 5) == seen(16, 20) == seen(32, 15)[:320]


# ---- what stops a comparison ----------------------------------------------------------------------------


def test_another_preset_or_budget_in_the_same_folder(compared):
    compared("smoke").record()
    compared("compare-6").check()  # as nothing is begun
    (compared("smoke").folder / "stills").mkdir()
    compared("smoke").check()
    compared("smoke", "shift_off", seeds=1).check()  # other rows are welcome
    with pytest.raises(ValueError, match="holds a comparison with preset smoke, not compare-6; name another"):
        compared("compare-6").check()
    with pytest.raises(
        ValueError, match="budget of clips steps=10, not clips=80; name another folder with -o"
    ):
        compared("smoke", budget=parse_budget("clips=80")).check()


def test_the_package_may_move_while_a_comparison_goes_on(compared):
    (run,) = compared("smoke", "shift_off").runs
    one = stages(run)["latent-1-image"]
    finish(compared("smoke", "shift_off"), run, one)
    file = one.folder / "recipe.yaml"
    lines = file.read_text().splitlines()
    (place,) = {
        line.split(": ")[1] for line in lines if line.startswith(("autoencoder:", "text_encoder_from:"))
    }
    assert place.endswith("latent_shift/assets/moving-shapes")
    file.write_text(file.read_text().replace(place, "/opt/lib/latent_shift/assets/moving-shapes"))
    compared("smoke", "shift_off").check()
    file.write_text(file.read_text().replace("/opt/lib/latent_shift/assets", "/opt/lib/latent_shift/other"))
    with pytest.raises(ValueError, match="other settings: .*autoencoder was '/opt/lib/latent_shift/other"):
        compared("smoke", "shift_off").check()


def test_a_finished_stage_of_other_settings(compared):
    comparison = compared("smoke", "shift_off")
    (run,) = comparison.runs
    one = stages(run)["shift_off-2-clips"]
    finish(comparison, run, one)
    comparison.check()
    assert one.finished
    file = one.folder / "recipe.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.0012", "learning_rate: 0.5"))
    with pytest.raises(
        ValueError, match=r"begun with other settings: optimizer.learning_rate was 0.5, is 0.0012;"
    ):
        compared("smoke", "shift_off").check()
    file.write_text(file.read_text().replace("learning_rate: 0.5", "learning_rate: 0.0012"))
    compared("smoke", "shift_off").check()
    assert "guidance_scale: 2.0" in file.read_text()
    file.write_text(file.read_text().replace("guidance_scale: 2.0", "guidance_scale: 4.0"))
    with pytest.raises(ValueError, match=r"other settings: sampling.guidance_scale was 4.0;"):
        compared("smoke", "shift_off").check()
    file.write_text("task: video\n")
    with pytest.raises(ValueError, match="shift_off-2-clips: recipe .*; remove it to begin again"):
        compared("smoke", "shift_off").check()
    assert one.finished  # and nothing is lost


def test_costs_are_measured_with_those_of_rows_before_whose_models_are_there(compared):
    rows = compared("smoke").rows
    first, second, third, *_ = rows
    comparison = compared("smoke", first)
    assert list(runs_together(comparison, set())) == [first]
    assert list(runs_together(comparison, {second, third})) == [first]
    (run,) = compared("smoke", second).first_runs()
    run.model.mkdir(parents=True)
    assert list(runs_together(comparison, {second, third})) == [first, second]


def test_a_stage_is_prepared_by_one_command_at_a_time(compared):
    comparison = compared("smoke", "shift_off")
    (run,) = comparison.runs
    one = stages(run)["shift_off-2-clips"]
    program = (
        "import sys, time; from pathlib import Path; from latent_shift.io import only_process_in\n"
        "with only_process_in(Path(sys.argv[1]), 'x'): print(flush=True); time.sleep(60)"
    )
    folder = comparison.folder / "timings" / one.label.replace(": ", "-")
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(ValueError, match="another process .* prepares a stage by"):
            _train_stage(comparison, run, one, None)
        other.kill()
    assert not (one.folder / "recipe.yaml").exists()


def test_a_stage_of_another_budget(compared):
    comparison = compared("smoke", "shift_off")
    (run,) = comparison.runs
    finish(comparison, run, run.stages[0])
    (run.stages[0].folder / "budget.json").write_text('{"budget": "steps=20"}')
    with pytest.raises(
        ValueError, match="latent-1-image was begun with steps=20, not with steps=10; set them"
    ):
        compared("smoke", "shift_off").check()


def test_a_model_of_another_system(compared):
    comparison = compared("smoke", "latent_vdm")
    (run,) = comparison.runs
    run.model.mkdir(parents=True)
    (run.model / "system.json").write_text(json.dumps({"system": "motion_module"}))
    with pytest.raises(ValueError, match="is a model of motion_module, not of latent_vdm; remove it"):
        comparison.check()


@pytest.mark.parametrize(("row", "steps"), [("latent_shift-5-steps", 5), ("latent_shift", None)])
def test_other_denoising_steps_than_those_of_a_model_that_is_there(compared, row, steps):
    """Of a row of another's models, and of one whose steps are its recipe's."""
    comparison = compared("smoke", row)
    (run,) = comparison.runs
    trained = run.stages[-1].model
    trained.mkdir(parents=True)
    write_video_config(trained / FILE_NAME, VideoConfig(num_inference_steps=2))
    assemble(run, {one.stage.name: one.model for one in run.stages}, run.model)
    comparison.check()

    def check_with(steps):
        config = comparison.rows[row].model_copy(update={"steps": steps})
        replace(comparison, rows={row: config}).check()

    check_with(steps)
    with pytest.raises(
        ValueError, match=rf"{row}/seed-0/model: makes clips in {steps or 2} denoising steps, not in 7; set"
    ):
        check_with(7)
    write_video_config(run.model / FILE_NAME, VideoConfig(num_inference_steps=7))
    check_with(7)
    with pytest.raises(ValueError, match=f"7 denoising steps, not in 2; set the steps of row {row} back"):
        check_with(None)


def test_denoising_steps_of_a_model_that_has_none(compared):
    (run,) = compared("smoke", "make_a_video").runs
    run.model.mkdir(parents=True)
    (run.model / "system.json").write_text(json.dumps({"system": "make_a_video"}))
    run.check_model()
    with pytest.raises(ValueError, match="makes clips in no denoising steps, not in 7"):
        replace(run, steps=7).check_model()


def test_steps_of_a_system_that_names_none_are_found_before_any_training(compared):
    comparison = compared("smoke", "cogvideo")
    row = comparison.rows["cogvideo"].model_copy(update={"steps": 5})
    with pytest.raises(ValueError, match="row cogvideo: steps 5: a model of cogvideo names no denoising"):
        replace(comparison, rows={"cogvideo": row}).check()


def test_a_system_that_cannot_be_trained(compared):
    with pytest.raises(
        ValueError, match="row diffusers_pipeline: diffusers_pipeline has no stages in .*; leave"
    ):
        compared("smoke", "diffusers_pipeline").check()


def test_a_budget_that_does_not_do_for_a_step(compared):
    small = compared("compare-6", "latent_shift", budget=parse_budget("clips=10"))
    with pytest.raises(ValueError, match="budget clips=10: a step of latent_shift-2-clips takes 64; give"):
        small.check()


def trained(compared, *rows, **options):
    """A comparison with its first run, all of it as if it were trained."""
    comparison = compared("smoke", *rows, **options)
    run = comparison.runs[0]
    for one in run.stages:
        finish(comparison, run, one)
    run.record_stages()
    run.model.mkdir()
    write_json(run.model / "system.json", {"system": run.system.name})
    comparison.check()
    run.check_stages()
    return comparison, run


def test_a_model_whose_stages_are_not_there_any_more(compared):
    _, run = trained(compared, "latent_vdm")
    shutil.rmtree(run.stages[0].folder)
    with pytest.raises(ValueError, match="model: was made of latent-1-image, not trained any more; remove"):
        run.check_stages()


def test_a_model_that_was_made_before_a_stage_was_trained_again(compared):
    comparison, run = trained(compared, "latent_vdm")
    image, clips = run.stages
    shutil.rmtree(image.folder)
    finish(comparison, run, image, steps=11)
    with pytest.raises(ValueError, match="seed-0/model: was made before latent-1-image was trained; remove"):
        compared("smoke", "latent_vdm").check()
    shutil.rmtree(image.folder)
    finish(comparison, run, image)
    compared("smoke", "latent_vdm").check()
    assert clips.finished


def test_seconds_of_a_step_are_of_one_recipe_and_number_of_threads(compared):
    comparison = compared("compare-6", "latent_shift", seeds=1)
    (run,) = comparison.runs
    image = run.stages[0]
    trial = comparison.resolve(run, image, 50)
    file = comparison.folder / "timings" / "latent-1-image.json"
    write_json(file, {"step": 2.0, "preparation": 1.0, "of": _timed(trial)})
    assert stored_timing(comparison, run, image) == Timing(2.0, 1.0)
    larger = replace(image, changes={**image.changes, "batch_size": 512})
    assert stored_timing(comparison, run, larger) is None
    write_json(file, {"step": 2.0, "preparation": 1.0})
    assert stored_timing(comparison, run, image) is None


def test_costs_of_a_system_that_has_no_row(compared):
    comparison = compared("sizes", "latent_vdm")
    assert list(runs_together(comparison, set())) == ["latent_vdm"]


def test_stills_of_another_comparison(compared, tmp_path):
    other = compared("smoke", "latent_shift")
    with pytest.raises(ValueError, match="--stills .*: has no trained latent-1-image"):
        compared("smoke", "latent_shift", folder=tmp_path / "new", stills_from=other.folder).check()
    finish(other, other.runs[0], other.runs[0].stages[0])
    with pytest.raises(ValueError, match="its latent-1-image had steps=10, where this .* core-seconds=1800"):
        compared("compare-6", "latent_shift", folder=tmp_path / "new", stills_from=other.folder).check()
    comparison = compared("smoke", "latent_shift", folder=tmp_path / "new", stills_from=other.folder)
    comparison.check()
    (run,) = comparison.runs
    image, clips = run.stages
    assert isinstance(image, StageRun)
    assert image.folder == other.folder / "stills" / "latent-1-image"
    recipe = comparison.resolve(run, clips, 10)
    file = image.folder / "recipe.yaml"
    before = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**before, "batch_size": 8, "steps": 7}))  # trained in another way
    compared("smoke", "latent_shift", folder=tmp_path / "new", stills_from=other.folder).check()
    file.write_text(yaml.safe_dump({**before, "unet": {**before["unet"], "cross_attention_dim": 64}}))
    with pytest.raises(
        ValueError, match=r"latent-1-image was trained with other settings: unet\.cross_atten"
    ):
        compared("smoke", "latent_shift", folder=tmp_path / "new", stills_from=other.folder).check()
    assert recipe.pretrained_model == str(image.model)
    assert recipe.latents.folder == tmp_path / "new" / "latents"


# ---- dry run --------------------------------------------------------------------------------------------


def test_the_plan_has_a_row_for_every_stage_with_its_minutes(compared, tmp_path):
    comparison = compared("compare-6", "latent_shift")
    run = comparison.runs[0]
    rows = plan_table(comparison).rows
    assert rows[0][:3] == ["stills", "latent-1-image", "core-seconds=1800"]
    stages_of = [row[0] for row in rows if row[1] == "latent_shift-2-clips"]
    assert stages_of == ["latent_shift, seed 0", "latent_shift, seed 1", "latent_shift, seed 2"]
    assert float(rows[0][5]) > 0
    run.stages[0].record(comparison.resolve(run, run.stages[0], 10))
    write_json(run.stages[0].folder / "spent.json", {"seconds": 600.0, "preparation": 0.0, "wall_seconds": 1})
    minutes = plan_table(comparison).rows[0][5]
    assert float(minutes) == pytest.approx(float(rows[0][5]) * 2 / 3, abs=0.1)
    finish(comparison, run, run.stages[0])
    assert plan_table(comparison).rows[0][3:] == ["10", "trained", "0.0"]
    assert rows[-1][0] == "all that is left"
    unknown = plan_table(compared("smoke", "latent_shift", folder=tmp_path / "new")).rows
    assert unknown[0][5] == "?"
    assert "those not known" in unknown[-1][5]
