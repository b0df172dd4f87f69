"""A disk without room: jobs are refused or fail in the open, and all goes on when there is room again."""

import os
import subprocess
import time

import numpy as np
import pytest
from starlette.testclient import TestClient

from latent_shift import systems
from latent_shift.cli import errors
from latent_shift.cli.main import app
from latent_shift.generation import GeneratedClip
from latent_shift.server.app import create_app
from latent_shift.server.config import ServerConfig
from latent_shift.server.files import ClipFiles
from latent_shift.server.jobs import NewJob, StoreFullError
from latent_shift.server.store import JobStore
from latent_shift.server.supervisor import Supervisor
from latent_shift.server.worker import Worker
from latent_shift.systems.base import GenerationRequest, SettledRequest

MANY = {"max_queued": 10**6, "max_queued_per_owner": 10**6}


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here (root is needed)")
    yield disk
    subprocess.run(["umount", disk], check=True)


def _fill(store, new):
    for _ in range(1000):
        store.add(new, **MANY)


def _fill_disk(disk):
    (disk / "filler").write_bytes(os.urandom(ClipFiles(disk).free_bytes()))


def _new_job(model, steps=3):
    settled = systems.inspect(model).settle(GenerationRequest(prompt="x", seed=1, frames=8, steps=steps))
    return NewJob(model="tiny", request=settled.model_dump(), shape="s")


def test_a_full_disk_breaks_nothing(small_disk):
    store, files = JobStore(small_disk), ClipFiles(small_disk)
    request = SettledRequest(
        prompt="x", seed=1, frames=8, fps=8.0, steps=1, guidance=1.0, height=64, width=64
    )
    new = NewJob(model="m", request=request.model_dump(), shape="s")
    first, _ = store.add(new, **MANY)
    store.add(new, **MANY)
    job, other = store.claim("w", 60, lambda job: 2)
    (small_disk / "filler").write_bytes(os.urandom(files.free_bytes() - 8192))
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    grey, noisy = (GeneratedClip(clip, request, 1.0) for clip in (np.zeros_like(noise), noise))
    with pytest.raises(ValueError, match="No space left on device"):
        files.write([(other, grey, {}), (job, noisy, {})])  # the first of them fits
    assert list(files.clips.iterdir()) == []
    with pytest.raises(StoreFullError):
        _fill(store, new)
    answered = {one.id for one in store.page("", after=None, limit=2000, newest_first=False)[0]}
    assert first.id in answered
    (small_disk / "filler").unlink()
    made = files.write([(other, grey, {}), (job, noisy, {})])
    assert store.finish(made, peak_memory_mb=1.0, keep=10.0) == {job.id, other.id}
    added, _ = store.add(new, **MANY)
    ids = [one.id for one in store.page("", after=None, limit=2000, newest_first=False)[0]]
    assert set(ids) == answered | {added.id}
    store.close()


def test_a_server_starts_on_a_disk_without_room_for_jobs_and_refuses_one_without_any(
    small_disk, model, capsys
):
    store, files = JobStore(small_disk), ClipFiles(small_disk)
    job, _ = store.add(NewJob(model="m", request={}, shape="s"), **MANY)
    store.claim("w", 60, lambda job: 1)
    store.close()
    (small_disk / "filler").write_bytes(os.urandom(files.free_bytes() - 4096))  # the lock's number fits
    arguments = ["serve", "--port", "0", "--data", str(small_disk), "--model", str(model)]
    assert errors.run(app, arguments) == 2
    assert f"--data {small_disk}: d" in (said := capsys.readouterr().err)
    assert "; make room, or name another folder" in said
    os.truncate(small_disk / "filler", os.path.getsize(small_disk / "filler") - 10 * 4096)
    again = JobStore(small_disk)
    assert again.get(job.id).status == "in_progress"
    with pytest.raises(StoreFullError):
        _fill(again, NewJob(model="m", request={}, shape="s"))
    (small_disk / "filler").unlink()
    assert [one.id for one in again.requeue_lost()] == [job.id]
    again.close()


def test_requests_to_a_full_disk_are_refused_and_a_removal_makes_room(small_disk, model):
    config = ServerConfig(data=small_disk, models={"tiny": str(model)}, min_free_bytes=0)
    client = TestClient(create_app(config), base_url="http://127.0.0.1", raise_server_exceptions=False)
    store, files = client.app.state.service.store, client.app.state.service.files
    ids = [client.post("/v1/videos", json={"prompt": "x"}).json()["id"] for _ in range(2)]
    (job,) = store.claim("w", 60, lambda job: 1)
    noise = np.random.default_rng(0).integers(0, 255, (16, 64, 64, 3), np.uint8)
    made = files.write([(job, GeneratedClip(noise, SettledRequest(**job.request), 1.0), {})])
    store.finish(made, peak_memory_mb=1.0, keep=10.0)
    (small_disk / "filler").write_bytes(os.urandom(files.free_bytes()))
    answers = [client.post("/v1/videos", json={"prompt": "x"})]
    answers += [client.get(f"/v1/videos/{ids[0]}/content?{what}") for what in
                ("format=gif", "format=webp", "variant=thumbnail", "variant=spritesheet")]  # fmt: skip
    answers.append(client.post(f"/v1/videos/{ids[1]}/cancel"))
    for answer in answers:
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "storage_full"), answer.url
        assert answer.headers["retry-after"] == "60"
    assert client.get(f"/v1/videos/{ids[0]}/content").status_code == 200
    assert client.get("/v1/videos").status_code == 200
    assert client.delete(f"/v1/videos/{ids[0]}").json()["deleted"]
    assert client.post(f"/v1/videos/{ids[1]}/cancel").json()["status"] == "failed"
    store.close()


@pytest.mark.parametrize("way", ["error", "timeout", "stop"])
def test_a_batch_that_ends_on_a_full_disk_is_settled_when_there_is_room(small_disk, model, way):
    told = []
    config = ServerConfig(
        data=small_disk, models={"tiny": str(model)}, job_timeout=0.0 if way == "timeout" else 3600.0
    )
    worker = Worker("w", config, told.append)
    if way == "stop":
        worker.orders.stop_at = time.monotonic()
    job, _ = worker.store.add(_new_job(model), **MANY)
    loaded = worker.load("tiny")
    assert told == [{"state": "ready"}]
    told.clear()
    hook = loaded.pipeline.unet.register_forward_hook(lambda *values: _fill_disk(small_disk))
    assert worker._work(worker._next_batch())
    hook.remove()
    assert worker._next_batch() == []
    assert worker.store.get(job.id).status == "in_progress"
    assert told == [{"waits_for_room": True}]
    (small_disk / "filler").unlink()
    batch = worker._next_batch()
    assert told == [{"waits_for_room": True}, {"waits_for_room": False}]
    if way == "timeout":
        assert batch == []
        assert worker.store.get(job.id).error_code == "timeout"
    else:
        assert [(one.id, one.attempts) for one in batch] == [(job.id, 1)]
        worker.orders.stop_at = None
        assert worker._work(batch)
        assert worker.store.get(job.id).status == "completed"
    worker.store.close()


def test_a_clip_that_cannot_be_noted_is_removed_and_its_job_says_why(small_disk, model):
    worker = Worker("w", ServerConfig(data=small_disk, models={"tiny": str(model)}))
    job, _ = worker.store.add(_new_job(model, steps=1), **MANY)
    write = worker.files.write

    def write_and_fill(clips):
        made = write(clips)
        _fill_disk(small_disk)
        return made

    worker.files.write = write_and_fill
    assert worker._work(worker._next_batch())
    assert list(worker.files.clips.iterdir()) == []
    failed = worker.store.get(job.id)
    assert (failed.error_code, failed.error_message) == ("storage_full", "database or disk is full")
    worker.store.close()


@pytest.mark.long
@pytest.mark.slow
def test_a_worker_outlives_a_disk_that_is_full_for_longer_than_its_lease(small_disk, model):
    config = ServerConfig(data=small_disk, models={"tiny": str(model)}, lease=4.0, dtype="fp32")
    store = JobStore(small_disk)
    supervisor = Supervisor(config, store, ClipFiles(small_disk))
    job, _ = store.add(_new_job(model, steps=200), **MANY)

    def wait_until(reached):
        end = time.monotonic() + 300
        while not reached(found := store.get(job.id)):
            assert time.monotonic() < end, found
            time.sleep(0.02)

    supervisor.start()
    try:
        wait_until(lambda found: found.progress > 0)
        pid = supervisor.pid
        _fill_disk(small_disk)
        time.sleep(config.lease + 2)
        assert store.get(job.id).status == "in_progress"
        (small_disk / "filler").unlink()
        wait_until(lambda found: found.is_finished)
        assert store.get(job.id).status == "completed"
        assert (supervisor.pid, supervisor.restarts) == (pid, 0)
    finally:
        supervisor.stop()
        store.close()
