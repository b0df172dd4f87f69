"""What the supervisor does about leases that ran out."""

import subprocess
import sys

import pytest

from latent_shift.server.config import ServerConfig
from latent_shift.server.files import ClipFiles
from latent_shift.server.jobs import NewJob, StoreFullError
from latent_shift.server.store import JobStore
from latent_shift.server.supervisor import Supervisor


@pytest.mark.parametrize("owner", ["present", "earlier"])
def test_a_worker_is_ended_for_its_own_lost_jobs_only(tmp_path, owner):
    store = JobStore(tmp_path)
    supervisor = Supervisor(ServerConfig(data=tmp_path, models={"m": "m"}), store, ClipFiles(tmp_path))
    job, _ = store.add(NewJob(model="m", request={}, shape="s"), max_queued=9, max_queued_per_owner=9)
    store.claim(owner, -1.0, lambda job: 1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True) as worker:
        supervisor._process, supervisor._name = worker, "present"
        supervisor._care()
        worker.stdin.close()
        assert (worker.wait(60) < 0) == (owner == "present")
    assert store.get(job.id).status == "queued"
    store.close()


def test_jobs_of_an_earlier_server_are_returned_though_the_disk_was_full_at_the_start(tmp_path, monkeypatch):
    store = JobStore(tmp_path)
    supervisor = Supervisor(ServerConfig(data=tmp_path, models={"m": "m"}), store, ClipFiles(tmp_path))
    job, _ = store.add(NewJob(model="m", request={}, shape="s"), max_queued=9, max_queued_per_owner=9)
    store.claim("earlier", 10**6, lambda job: 1)  # until a time that this machine's clock will not reach soon
    monkeypatch.setattr(supervisor, "_spawn", lambda: None)

    def full(**options):
        raise StoreFullError

    with monkeypatch.context() as patch:
        patch.setattr(store, "requeue_lost", full)
        supervisor._retrying(supervisor._take_over)
        supervisor._retrying(supervisor._look)
        assert store.get(job.id).status == "in_progress"
    supervisor._look()
    assert store.get(job.id).status == "queued"
    store.close()
