"""A run goes on after its last checkpoint as if it had never stopped, however it was stopped."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from latent_shift.cli import errors
from latent_shift.cli.main import app
from latent_shift.training import checkpoint
from latent_shift.training.distributed import Interrupted
from latent_shift.training.logging import Diverged
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train

PROGRAM = [sys.executable, "-c", "from latent_shift.cli.main import main; main()"]


def read_checkpoint(output, step):
    folder = output / "checkpoints" / f"step-{step:08d}"
    tensors = {
        (file.name, name): value
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }
    return tensors, json.loads((folder / "state.json").read_text())


def same(one, other):
    return one[0].keys() == other[0].keys() and all(torch.equal(one[0][key], other[0][key]) for key in one[0])


def losses(output):
    lines = map(json.loads, (output / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"], line["gradient_norm"], line["learning_rate"]) for line in lines]


def stop_at(step):
    """A report that sends this process Ctrl-C at a step, as a user would."""
    return lambda progress: (
        (progress.stage, progress.step) == ("training", step) and signal.raise_signal(signal.SIGINT)
    )


def ignore(progress):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(("task", "images"), [("autoencoder", False), ("video", False), ("video", True)])
def test_a_resumed_run_equals_one_never_stopped(recipe, with_images, tmp_path, task, images):
    more = {**with_images, "seed": 2} if images else {}  # with whose seed both kinds come before and after
    whole, parted = recipe(task, **more), recipe(task, output=str(tmp_path / "parted"), num_workers=2, **more)
    model = train(build_task(whole), ignore)
    for step in (2, 3):
        with pytest.raises(Interrupted, match=f"stopped at step {step}"):
            train(build_task(parted), stop_at(step))
    assert train(build_task(parted), ignore) == parted.output / "model"
    first, second = read_checkpoint(whole.output, 6), read_checkpoint(parted.output, 6)
    assert same(first, second)
    assert first[1] == second[1]
    assert {name for name, _ in first[0]} == {
        "weights.safetensors",
        "ema.safetensors",
        "optimizer.safetensors",
    }
    assert losses(whole.output) == losses(parted.output)
    if images:
        lines = map(json.loads, (whole.output / "log.jsonl").read_text().splitlines())
        kinds = ["image_loss" in line for line in lines]
        assert [len(set(part)) for part in (kinds[:3], kinds[3:])] == [2, 2]
    for file in model.rglob("*.safetensors"):
        assert file.read_bytes() == (parted.output / "model" / file.relative_to(model)).read_bytes()
    assert [folder.name for folder in checkpoint.checkpoints(parted.output)] == [
        "step-00000003",
        "step-00000006",
    ]


@pytest.mark.slow
def test_the_log_tells_every_step_once(recipe):
    tiny = recipe("autoencoder", checkpoint_every=2)
    with pytest.raises(RuntimeError, match="power cut"):
        train(build_task(tiny), _fail_after(3))  # after the checkpoint of step 2
    with (tiny.output / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "los')
    train(build_task(tiny), ignore)
    assert [step for step, *_ in losses(tiny.output)] == [1, 2, 3, 4, 5, 6]
    events = EventAccumulator(str(tiny.output / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def _fail_after(step):
    def report(progress):
        if progress.step == step:
            raise RuntimeError("power cut")

    return report


def test_a_finished_run_is_left_alone(recipe):
    tiny = recipe("autoencoder")
    model = train(build_task(tiny), ignore)
    before = {file: file.stat().st_mtime_ns for file in tiny.output.rglob("*")}
    assert train(build_task(tiny), lambda progress: pytest.fail("took a step")) == model
    assert {file: file.stat().st_mtime_ns for file in tiny.output.rglob("*")} == before


def test_the_export_is_the_averaged_model(recipe):
    tiny = recipe("autoencoder")
    exported = load_file(train(build_task(tiny), ignore) / "vae" / "diffusion_pytorch_model.safetensors")
    tensors, _ = read_checkpoint(tiny.output, 6)
    names = [name for name, _ in build_task(tiny).named_parameters()]
    for i, name in enumerate(names):
        assert torch.equal(exported[name.removeprefix("vae.")], tensors["ema.safetensors", str(i)])
    assert not torch.equal(tensors["weights.safetensors", names[0]], tensors["ema.safetensors", "0"])


def test_a_checkpoint_cut_off_while_it_is_written_leaves_the_last_good_one(recipe, monkeypatch):
    tiny = recipe("autoencoder")
    now = checkpoint.State.new(build_task(tiny))
    checkpoint.save(now, 1)
    saved, calls = read_checkpoint(tiny.output, 1), []

    def killed(tensors, path):
        calls.append(path)
        path.write_bytes(b"half")
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(now, 2)
    fresh = checkpoint.State.new(build_task(tiny))
    assert checkpoint.load(fresh) == 1
    assert all(
        torch.equal(value, saved[0]["weights.safetensors", n]) for n, value in fresh.task.named_parameters()
    )
    checkpoint.save(now, 3)
    assert sorted(path.name for path in (tiny.output / "checkpoints").iterdir()) == [
        "step-00000001",
        "step-00000003",
    ]


def test_a_model_that_is_no_longer_finite_is_not_saved(recipe):
    tiny = recipe("autoencoder", log_every=6, checkpoint_every=1)
    now = checkpoint.State.new(build_task(tiny))
    with torch.no_grad():
        now.trained[0][0] = float("nan")
    with pytest.raises(
        Diverged, match="vae.encoder.conv_in.weight is not finite at step 1: lower learning_rate"
    ):
        checkpoint.save(now, 1)
    assert not (tiny.output / "checkpoints").exists()
    wild = {"learning_rate": 1e30, "warmup_steps": 0, "max_skipped_steps": 3}
    with pytest.raises(Diverged, match="was not finite in 4 steps"):
        train(build_task(recipe("autoencoder", optimizer=wild)), ignore)


def test_another_model_is_refused(recipe):
    tiny = recipe("autoencoder")
    checkpoint.save(checkpoint.State.new(build_task(tiny)), 1)
    smaller = tiny.model_copy(update={"autoencoder": {**tiny.autoencoder, "latent_channels": 3}})
    with pytest.raises(ValueError, match="is of another model: train into another output folder"):
        checkpoint.load(checkpoint.State.new(build_task(smaller)))


def test_weights_that_are_damaged_from_the_beginning_are_not_blamed_on_the_rate(recipe):
    task = build_task(recipe("autoencoder"))
    next(task.parameters()).data[0] = torch.nan
    with pytest.raises(ValueError, match="is not finite before the first step: the model that the recipe"):
        train(task, ignore)


@pytest.mark.parametrize("kinds", [("adamw", "muon"), ("muon", "adamw")])
def test_the_state_of_another_optimizer_is_refused(recipe, kinds):
    """Also where nobody recorded the recipe; both keep a state for each parameter, which means another."""
    made, given = (
        recipe("autoencoder", optimizer={"kind": kind, "learning_rate": 0.003, "warmup_steps": 0})
        for kind in kinds
    )
    checkpoint.save(checkpoint.State.new(build_task(made)), 1)
    with pytest.raises(ValueError, match=f"optimizer.kind: {kinds[0]}, and the recipe has {kinds[1]}: set"):
        checkpoint.load(checkpoint.State.new(build_task(given)))
    assert checkpoint.load(checkpoint.State.new(build_task(made))) == 1


def test_the_scaler_of_half_precision_is_kept(recipe):
    tiny = recipe("autoencoder")
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(())), scaler.update(4.0)
    checkpoint.save(checkpoint.State.new(build_task(tiny), scaler=scaler), 1)
    fresh = torch.amp.GradScaler("cpu", init_scale=8.0)
    checkpoint.load(checkpoint.State.new(build_task(tiny), scaler=fresh))
    assert fresh.state_dict() == scaler.state_dict()


@pytest.mark.slow
def test_a_killed_command_goes_on_when_it_is_given_again(recipe, recipe_file, capsys):
    settings = {"steps": 40, "checkpoint_every": 100}
    whole = recipe("autoencoder", **settings)
    train(build_task(whole), ignore)
    expected = read_checkpoint(whole.output, 40)
    path = recipe_file("autoencoder", **settings)
    parted = whole.output.with_name("parted")
    arguments = ["train", str(path), "--set", f"output={parted}"]
    for signal_number, step in ((signal.SIGTERM, 3), (signal.SIGINT, 12)):
        command = [*PROGRAM, *arguments, "--set", "num_workers=1"]
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        for line in running.stderr:
            if line.startswith(f"training  {step}/40"):
                os.killpg(running.pid, signal_number)  # its worker as well, as timeout and SLURM do
                break
        said = running.stderr.read()
        assert running.wait() == 130
        assert said.splitlines()[-1] == "latent-shift: error: interrupted; finished files are kept"
        assert step <= checkpoint.step_of(checkpoint.checkpoints(parted)[-1]) < 40
        assert not (parted / "model").exists()
    capsys.readouterr()
    assert errors.run(app, arguments) == 0
    ended = capsys.readouterr()
    assert ended.out.splitlines() == [str(parted / "model")]
    assert "shards" not in ended.err
    assert same(read_checkpoint(parted, 40), expected)
    assert losses(parted) == losses(whole.output)


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_no_more_than_a_step(recipe, recipe_file):
    """A checkpoint every step, so that many of the moments lie within the writing of one."""
    settings = {"steps": 40, "checkpoint_every": 1}
    whole = recipe("autoencoder", **settings)
    train(build_task(whole), ignore)
    parted, moments = whole.output.with_name("killed"), random.Random(0)
    arguments = [
        "train", str(recipe_file("autoencoder", **settings)), "--set", f"output={parted}",
        "--set", "log_every=1",
    ]  # fmt: skip
    reached = 0
    for _ in range(2):
        running = subprocess.Popen([*PROGRAM, *arguments], stderr=subprocess.PIPE, text=True)
        for line in running.stderr:
            if line.startswith("training  "):
                time.sleep(moments.uniform(0.0, 0.4))
                break
        running.kill()
        assert running.wait() == -signal.SIGKILL
        running.stderr.close()
        kept = [checkpoint.step_of(folder) for folder in checkpoint.checkpoints(parted)]
        assert reached <= kept[-1] < 40
        reached = kept[-1]
    train(build_task(recipe("autoencoder", **settings, output=str(parted))), ignore)
    assert same(read_checkpoint(parted, 40), read_checkpoint(whole.output, 40))
    assert losses(parted) == losses(whole.output)


@pytest.mark.slow
def test_runs_of_one_process_may_differ_in_precision(recipe, tmp_path):
    for precision in ("fp32", "bf16", "fp32"):
        output = tmp_path / f"{precision}-{len(list(tmp_path.iterdir()))}"
        model = train(
            build_task(recipe("autoencoder", mixed_precision=precision, output=str(output))), ignore
        )
        assert (model / "vae").is_dir()


@pytest.mark.parametrize(
    "accident", [OSError(28, "No space left on device"), SafetensorError("no space left")]
)
def test_a_full_disk_leaves_the_last_good_checkpoint_and_is_told(recipe, monkeypatch, accident):
    tiny = recipe("autoencoder", checkpoints_total_limit=1)
    now = checkpoint.State.new(build_task(tiny))
    checkpoint.save(now, 1)
    before, calls = read_checkpoint(tiny.output, 1), []

    def fill_the_disk(tensors, path):
        calls.append(path)
        path.write_bytes(b"half")
        if len(calls) == 3:
            raise accident

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", fill_the_disk)
        with pytest.raises(ValueError, match=r"cannot be written.*pace left.*\(step-00000001\): make room"):
            checkpoint.save(now, 2)
    assert [path.name for path in (tiny.output / "checkpoints").iterdir()] == ["step-00000001"]
    assert same(before, read_checkpoint(tiny.output, 1))
