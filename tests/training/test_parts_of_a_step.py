"""Parts of the time of a training step, read by hooks on the trainer's own parts."""

import pytest
from torch import nn

from latent_shift.benchmark.training_step import PARTS, _Clock, _frozen_parts, time_steps


@pytest.mark.parametrize("task", ["autoencoder", "video"])
def test_the_parts_of_a_step_are_the_whole(recipe, tmp_path, task):
    given = recipe(task)
    found = time_steps(given, tmp_path / "run", warmups=1, steps=2, report=lambda progress: None)
    assert (found.steps, found.items) == (2, given.batch_size)
    assert found.parts.keys() == PARTS.keys()
    assert sum(found.shares.values()) == pytest.approx(1)
    assert 0 < found.parts["rest"] < found.wall
    busy = ["forward", "backward", "optimizer", *(["encode"] if task == "video" else [])]
    assert min(found.parts[name] for name in busy) > 0
    assert not (tmp_path / "run" / "model").exists()
    assert not given.output.exists()


def test_frozen_layers_of_a_network_that_is_trained_are_not_a_part_of_their_own():
    task = nn.Module()
    task.unet = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    task.text_encoders = nn.ModuleList([nn.Linear(2, 2).requires_grad_(False)])
    task.vae = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)}).requires_grad_(False)
    assert _frozen_parts(task) == [task.text_encoders[0], task.vae["encoder"], task.vae["decoder"]]


def test_a_part_inside_another_is_taken_out_of_it(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 6.0])
    monkeypatch.setattr("latent_shift.benchmark.training_step.time.perf_counter", lambda: next(now))
    clock = _Clock("cpu")
    with clock.during("forward"), clock.during("encode"):
        pass
    assert (clock.seconds["forward"], clock.seconds["encode"]) == (3.0, 3.0)
