"""One batch of a worker, in the test's own process: how each way of failing settles its jobs."""

import time
from dataclasses import replace

import pytest

from latent_shift import systems
from latent_shift.server.config import ServerConfig
from latent_shift.server.jobs import NewJob
from latent_shift.server.worker import Worker, _begin
from latent_shift.systems.base import GenerationRequest

MANY = {"max_queued": 9, "max_queued_per_owner": 9}


@pytest.fixture(scope="module")
def loaded(model):
    return systems.load(model, device="cpu")


@pytest.fixture
def worker(model, loaded, tmp_path):
    worker = Worker(
        "w", ServerConfig(data=tmp_path, models={"tiny": str(model), "none": str(tmp_path / "none")})
    )
    worker._systems["tiny"] = loaded
    yield worker
    worker.store.close()


def claimed(worker, number=1, model="tiny", **values):
    request = GenerationRequest(prompt="x", seed=1, frames=8, **values)
    settled = worker._systems["tiny"].info().defaults.settle(request)
    for _ in range(number):
        worker.store.add(NewJob(model=model, request=settled.model_dump(), shape=model), **MANY)
    batch = worker.store.claim("w", 60, lambda job: number)
    assert len(batch) == number
    return batch


def states(worker, batch):
    jobs = [worker.store.get(job.id) for job in batch]
    return {(job.status, job.error_code, job.solo, job.attempts) for job in jobs}


def test_a_batch_becomes_clips(worker):
    batch = claimed(worker, 3, steps=2)
    assert worker._work(batch)
    jobs = [worker.store.get(job.id) for job in batch]
    assert {job.status for job in jobs} == {"completed"}
    assert all(worker.files.path(job.file).stat().st_size == job.bytes for job in jobs)
    assert all(job.inference_s > 0 and job.peak_memory_mb > 10 for job in jobs)


def test_too_little_memory_ends_the_process_and_a_batch_is_tried_one_by_one(worker):
    def exhausted(requests, on_step=None):
        raise ValueError("the device's memory does not hold this clip") from MemoryError()

    batch = claimed(worker, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker._systems["tiny"], "generate", exhausted)
        assert not worker._work(batch)
        assert states(worker, batch) == {("queued", None, True, 0)}
        first = worker.store.claim("w", 60, lambda job: 9)
        assert not worker._work(first)
    assert states(worker, first) == {("failed", "out_of_memory", True, 1)}


def test_a_model_that_cannot_be_loaded_fails_its_job_and_no_other(worker):
    batch = claimed(worker, model="none")
    assert worker._work(batch)
    assert states(worker, batch) == {("failed", "model_unavailable", False, 1)}
    assert "cannot be loaded" in worker.store.get(batch[0].id).error_message


def test_a_job_of_a_model_that_is_no_longer_served_fails_in_the_open(worker, capsys):
    batch = claimed(worker, model="of-yesterday")
    assert worker._work(batch)
    assert states(worker, batch) == {("failed", "model_unavailable", False, 1)}
    message = "'of-yesterday' is not served; known are tiny, none"
    assert message in worker.store.get(batch[0].id).error_message
    assert capsys.readouterr().err == ""


def test_a_default_model_that_cannot_be_loaded_is_told_at_the_start(worker, capsys):
    worker.config = replace(worker.config, models={"none": worker.config.models["none"]})
    told = []
    _begin(worker, told.append)
    assert [answer["state"] for answer in told] == ["no_model"]
    assert capsys.readouterr().err.startswith("latent-shift: error: model none cannot be loaded: ")


def test_a_default_model_that_is_found_later_is_told(worker, model, capsys):
    told = []
    worker._systems.clear()
    worker._tell = told.append
    worker.config = replace(worker.config, models={"tiny": worker.config.models["none"]})
    _begin(worker, told.append)
    worker.config = replace(worker.config, models={"tiny": str(model)})  # the share is mounted now
    system = worker.load("tiny")
    assert [answer["state"] for answer in told] == ["no_model", "ready"]
    assert "_weights" in vars(system)  # hashed already, before any claim


def test_a_request_of_another_release_keeps_no_other_waiting(worker):
    (first,) = claimed(worker)
    worker.store.give_back([first])
    other = NewJob(model="tiny", request={**first.request, "unknown": 1}, shape="tiny")
    worker.store.delete(first.id)
    job, _ = worker.store.add(other, **MANY)
    batch = worker._next_batch()
    assert [one.id for one in batch] == [job.id]
    assert worker._work(batch)
    assert worker.store.get(job.id).error_code == "generation_failed"


def test_a_batch_that_takes_too_long_fails(worker):
    worker.config = replace(worker.config, job_timeout=0.0)
    batch = claimed(worker, 2, steps=3)
    assert worker._work(batch)
    assert states(worker, batch) == {("failed", "timeout", False, 1)}


def test_a_stopped_worker_gives_its_batch_back(worker):
    batch = claimed(worker, 2, steps=3)
    worker.orders.stop_at = time.monotonic()
    worker._work(batch)
    assert states(worker, batch) == {("queued", None, False, 0)}


def test_a_job_that_is_cancelled_leaves_the_others_of_its_batch(worker):
    batch = claimed(worker, 2, steps=3)
    worker.store.cancel(batch[0].id)
    assert worker._work(batch)
    assert worker.store.get(batch[0].id).error_code == "cancelled"
    assert worker.store.get(batch[1].id).status == "completed"
    assert len(list(worker.files.clips.iterdir())) == 1


def test_a_batch_that_nobody_wants_ends_at_its_next_step(worker):
    batch = claimed(worker, 2, steps=1000)
    for job in batch:
        worker.store.delete(job.id)
    calls = []
    hook = worker._systems["tiny"].pipeline.unet.register_forward_hook(lambda *values: calls.append(values))
    assert worker._work(batch)
    hook.remove()
    assert len(calls) == 1
