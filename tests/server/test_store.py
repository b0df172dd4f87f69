"""The store of jobs: claims, leases, fences, and what becomes of jobs of lost workers."""

import json
import sqlite3
import threading
import time
from contextlib import closing

import pytest
from sqlalchemy import event

from latent_shift.server import database
from latent_shift.server.files import ClipFiles
from latent_shift.server.jobs import UNOBSERVED, MadeFile, NewJob, QueueFullError, StoreBusyError
from latent_shift.server.metrics import Metrics
from latent_shift.server.store import FILE_NAME, JobStore

LEASE = 30.0
MANY = {"max_queued": 100, "max_queued_per_owner": 100}


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path, max_attempts=3)
    yield store
    store.close()


@pytest.fixture
def passes(monkeypatch):
    """Let seconds pass on the machine's clocks, with no need to wait for them."""
    ahead = 0.0
    for name in ("monotonic", "time"):
        real = getattr(time, name)
        monkeypatch.setattr(time, name, lambda real=real: real() + ahead)

    def passes(seconds):
        nonlocal ahead
        ahead += seconds

    return passes


def add(store, *, steps=1, **values):
    new = NewJob(model="m", request={"prompt": "x", "frames": 4, "steps": steps}, shape=f"s{steps}", **values)
    return store.add(new, **MANY)[0]


def claim(store, worker="a", lease=LEASE, size=8):
    return store.claim(worker, lease, lambda job: size)


def finish(store, job, file="f.mp4"):
    done = store.finish([MadeFile(job, file, 10, 1.0)], peak_memory_mb=5.0, keep=100.0)
    return job.id in done


def test_a_job_goes_from_queued_over_in_progress_to_completed(store):
    job = add(store)
    assert (job.status, job.progress, job.attempts, job.fence) == ("queued", 0, 0, 0)
    (claimed,) = claim(store)
    assert (claimed.id, claimed.status, claimed.worker) == (job.id, "in_progress", "a")
    assert store.report([claimed], 40) == {job.id}
    assert store.get(job.id).progress == 40
    assert finish(store, claimed)
    done = store.get(job.id)
    assert (done.status, done.progress, done.file, done.worker) == ("completed", 100, "f.mp4", None)
    assert done.expires_at == pytest.approx(done.completed_at + 100)


def test_a_claim_takes_jobs_of_the_oldest_ones_shape_in_order_and_no_more_than_fit(store):
    jobs = [add(store, steps=steps) for steps in (2, 3, 2, 2, 3)]
    sizes = []
    first = store.claim("a", LEASE, lambda job: sizes.append(job.id) or 2)
    assert [job.id for job in first] == [jobs[0].id, jobs[2].id]
    assert sizes == [jobs[0].id]
    assert [job.id for job in claim(store)] == [jobs[1].id, jobs[4].id]
    assert [job.id for job in claim(store)] == [jobs[3].id]
    assert claim(store) == []


def test_two_workers_never_get_the_same_job(store, tmp_path):
    ids = {add(store).id for _ in range(40)}
    claimed = []

    def work(name):
        own = JobStore(tmp_path)
        while batch := own.claim(name, LEASE, lambda job: 3):
            claimed.extend(job.id for job in batch)
        own.close()

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 40
    assert set(claimed) == ids


def test_progress_never_falls_and_stays_below_100_until_the_file_is_there(store):
    add(store)
    (job,) = claim(store)
    for given, shown in ((50, 50), (30, 50), (100, 99)):
        store.report([job], given)
        assert store.get(job.id).progress == shown
    store.requeue_lost(worker="a")
    assert (store.get(job.id).status, store.get(job.id).progress) == ("queued", 99)
    (again,) = claim(store, "b")
    store.report([again], 10)
    assert store.get(job.id).progress == 99


def test_a_worker_whose_lease_ran_out_can_write_nothing(store, passes):
    add(store)
    (old,) = claim(store, "paused")
    passes(LEASE + 1)
    assert not store.extend("paused", LEASE)
    assert [job.id for job in store.requeue_lost(expired=True)] == [old.id]
    (new,) = claim(store, "next")
    assert new.fence == old.fence + 1
    assert store.report([old], 90) == set()
    assert not finish(store, old, "old.mp4")
    assert not store.fail(old, "timeout", "too long")
    store.give_back([old])
    assert store.get(old.id).status == "in_progress"
    assert store.get(old.id).progress == 0
    assert finish(store, new, "new.mp4")
    assert store.get(new.id).file == "new.mp4"
    assert not finish(store, new, "twice.mp4")


def test_a_lease_that_is_extended_does_not_run_out(store, passes):
    add(store)
    claim(store)
    passes(LEASE - 10)
    assert store.extend("a", LEASE)
    passes(LEASE - 10)
    assert store.requeue_lost(expired=True) == []
    assert not store.extend("another", LEASE)


def test_a_job_that_loses_its_worker_too_often_fails(store):
    job = add(store)
    for attempt in range(3):
        assert store.get(job.id).status == "queued", attempt
        claim(store)
        store.requeue_lost(worker="a")
    failed = store.get(job.id)
    assert (failed.status, failed.error_code) == ("failed", "worker_died")
    assert "3 times" in failed.error_message


def test_a_worker_that_the_server_ends_is_no_loss(store):
    job = add(store)
    for _ in range(5):
        claim(store)
        store.requeue_lost(worker="a", counted=False)
    kept = store.get(job.id)
    assert (kept.status, kept.attempts, kept.solo) == ("queued", 0, False)


def test_what_needs_care_is_seen(store, passes):
    first, second = add(store), add(store, steps=2)
    assert not store.needs_care(100)
    claim(store)
    assert not store.needs_care(100)
    passes(LEASE + 1)
    assert store.needs_care(100)  # a lease ran out
    store.requeue_lost(expired=True)
    store.cancel(first.id)
    assert store.needs_care(100)  # a finished job
    store.unobserved()
    assert not store.needs_care(100)
    assert [job.id for job in claim(store)] == [second.id]
    passes(20)
    assert store.needs_care(10)  # it takes long
    assert not store.needs_care(100)


def test_finished_jobs_to_count_are_found_by_an_index(store, tmp_path):
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN SELECT count(*) FROM videos WHERE {UNOBSERVED}")
        assert "INDEX unobserved" in str(plan.fetchall())


def test_a_clock_that_is_set_back_changes_no_order_no_lease_and_no_age(store, monkeypatch):
    first, second = add(store), add(store, steps=2)
    (running,) = claim(store)
    before = time.time() - 86_400
    monkeypatch.setattr(time, "time", lambda: before)
    third = add(store, steps=2)
    assert store.positions() == {second.id: 1, third.id: 2}
    assert [store.position(job) for job in (running, second, third)] == [None, 1, 2]
    assert not store.needs_care(100)
    assert store.requeue_lost(expired=True) == store.overdue(100) == []
    assert store.extend("a", LEASE)
    assert store.report([running], 50) == {first.id}
    assert finish(store, running)
    done = store.get(first.id)
    assert (done.completed_at, done.expires_at) == (before, before + 100)
    assert store.expire(100, 1000) == []
    metrics = Metrics(store, lambda: 0)
    metrics.observe(done)
    assert b"latency_seconds_sum 0.0" in metrics.text()
    assert [job.id for job in claim(store)] == [second.id, third.id]
    page, _ = store.page("", after=None, limit=9, newest_first=True)
    assert [job.id for job in page] == [third.id, second.id, first.id]


def test_jobs_that_were_lost_together_are_next_made_one_by_one(store):
    for _ in range(3):
        add(store)
    assert len(claim(store)) == 3
    store.requeue_lost(worker="a")
    assert [len(claim(store, "b")) for _ in range(3)] == [1, 1, 1]


def test_jobs_given_back_keep_their_place_and_their_attempts(store):
    jobs = [add(store) for _ in range(3)]
    store.give_back(claim(store))
    assert store.positions() == {job.id: place for place, job in enumerate(jobs, 1)}
    assert {store.get(job.id).attempts for job in jobs} == {0}
    store.give_back(claim(store, size=3), solo=True)
    assert len(claim(store)) == 1


def test_cancelled_and_deleted_jobs_are_no_longer_held(store):
    first, second = add(store), add(store)
    batch = claim(store)
    assert store.cancel(first.id).error_code == "cancelled"
    assert store.delete(second.id)
    assert store.report(batch, 50) == set()
    assert not any(finish(store, job) for job in batch)
    assert store.get(first.id).status == "failed"
    assert store.get(second.id) is None
    assert not store.delete(second.id)
    assert store.cancel(second.id) is None


def test_a_finished_job_cannot_be_cancelled(store):
    add(store)
    (job,) = claim(store)
    finish(store, job)
    assert store.cancel(job.id).status == "completed"


def test_the_queue_is_bounded_in_all_and_by_owner(store):
    new = NewJob(model="m", request={}, shape="s", owner="a")
    other = NewJob(model="m", request={}, shape="s", owner="b")
    bounds = {"max_queued": 3, "max_queued_per_owner": 2}
    for _ in range(2):
        store.add(new, **bounds)
    with pytest.raises(QueueFullError):
        store.add(new, **bounds)
    store.add(other, **bounds)
    with pytest.raises(QueueFullError):
        store.add(other, **bounds)
    claim(store)
    store.add(other, **bounds)


def test_an_idempotency_key_gives_the_same_job_to_its_owner(store):
    new = NewJob(model="m", request={}, shape="s", owner="a", idempotency_key="k", body_hash="h")
    job, is_new = store.add(new, **MANY)
    assert is_new
    assert store.add(new, **MANY) == (job, False)
    assert store.add(NewJob(**{**vars(new), "owner": "b"}), **MANY)[1]


def test_a_repeat_of_a_cancelled_job_is_a_new_one_that_has_the_key(store):
    new = NewJob(model="m", request={}, shape="s", owner="a", idempotency_key="k", body_hash="h")
    first, _ = store.add(new, **MANY)
    store.cancel(first.id, "a")
    assert store.add(NewJob(**{**vars(new), "body_hash": "other"}), **MANY)[0].id == first.id
    second, is_new = store.add(new, **MANY)
    assert (is_new, second.status, second.id != first.id) == (True, "queued", True)
    assert store.add(new, **MANY) == (second, False)
    assert store.get(first.id, "a").error_code == "cancelled"
    (claimed,) = claim(store)
    store.fail(claimed, "timeout", "too long")
    assert store.add(new, **MANY)[0].error_code == "timeout"


def test_owners_see_their_own_jobs_only(store):
    job = add(store, owner="a")
    assert store.get(job.id, "b") is None
    assert store.cancel(job.id, "b") is None
    assert not store.delete(job.id, "b")
    assert store.page("b", after=None, limit=10, newest_first=True) == ([], False)


def test_pages_in_both_orders(store):
    jobs = [add(store) for _ in range(5)]
    ids = [job.id for job in jobs]
    page, more = store.page("", after=None, limit=2, newest_first=True)
    assert ([job.id for job in page], more) == (ids[:2:-1], True)
    page, more = store.page("", after=page[-1].seq, limit=3, newest_first=True)
    assert ([job.id for job in page], more) == (ids[2::-1], False)
    page, more = store.page("", after=jobs[1].seq, limit=3, newest_first=False)
    assert ([job.id for job in page], more) == (ids[2:], False)


def test_a_list_goes_on_behind_a_job_that_was_deleted(store, passes):
    jobs = [add(store) for _ in range(3)]
    store.delete(jobs[1].id)
    assert store.place_of(jobs[1].id, "") == jobs[1].seq
    assert store.place_of(jobs[1].id, "b") is None
    page, _ = store.page("", after=store.place_of(jobs[1].id, ""), limit=3, newest_first=True)
    assert [job.id for job in page] == [jobs[0].id]
    passes(2 * 86400.0)
    store.expire(10**9, 10**9)
    assert store.place_of(jobs[1].id, "") is None
    assert store.place_of(jobs[2].id, "") == jobs[2].seq


def test_nothing_is_locked_where_nothing_expires(store, monkeypatch):
    job = add(store)
    (claimed,) = claim(store)
    finish(store, claimed, "a.mp4")

    def locked():
        raise AssertionError("the store was locked")

    monkeypatch.setattr(store, "_write", locked)
    assert store.expire(100, 1000) == []
    with pytest.raises(AssertionError, match="locked"):
        store.expire(100, 1)
    assert not store.get(job.id).expired


def test_a_store_that_others_keep_locked_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    store = JobStore(tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError, match="database is locked"):
            add(store)
        other.rollback()
    add(store)
    store.close()


def test_clips_expire_by_age_and_by_the_size_of_all(store, passes):
    jobs = [add(store) for _ in range(4)]
    for job in claim(store):
        finish(store, job, f"{job.id}.mp4")
    assert store.expire(100, 1000) == []
    assert store.expire(100, 25) == [jobs[0].id, jobs[1].id]
    assert store.get(jobs[0].id).expired
    assert store.stored_bytes() == 20
    assert store.files() == {f"{job.id}.mp4" for job in jobs[2:]}
    sizes = {jobs[2].id: 10, jobs[3].id: 500}  # with a large gif
    assert store.expire(100, 510, sizes) == []
    assert store.expire(100, 505, sizes) == [jobs[2].id]
    passes(101)
    assert store.expire(100, 1000) == [jobs[3].id]
    passes(101)
    store.expire(100, 1000)
    assert store.get(jobs[0].id) is None


def test_finished_jobs_are_observed_once(store):
    job = add(store)
    assert store.unobserved() == []
    store.cancel(job.id)
    assert [one.id for one in store.unobserved()] == [job.id]
    assert store.unobserved() == []


def test_a_file_of_another_version_is_refused(tmp_path):
    JobStore(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(ValueError, match=r"is of version 9, not 1; name another --data"):
        JobStore(tmp_path)


def test_a_file_that_is_damaged_or_cannot_be_opened_is_refused(tmp_path):
    places = {name: tmp_path / name for name in ("text", "folder", "cut", "holed")}
    for folder in places.values():
        store = JobStore(folder)
        for _ in range(50):
            store.add(NewJob(model="m", request={"prompt": "x" * 1000}, shape="s"), **MANY)
        store.close()
    files = {name: folder / FILE_NAME for name, folder in places.items()}
    files["text"].write_text("no database")
    files["folder"].unlink()
    files["folder"].mkdir()
    content = files["cut"].read_bytes()
    files["cut"].write_bytes(content[: len(content) // 2])
    files["holed"].write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    for file in files.values():
        with pytest.raises(ValueError, match="is damaged, or cannot be used") as raised:
            JobStore(file.parent)
        assert str(raised.value).startswith(f"{file}: ")
        assert "move it away, or name another --data" in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1


def test_all_but_what_may_be_lost_waits_for_the_disk(store):
    settings = []

    def note(connection, cursor, statement, *others):
        if statement.startswith("PRAGMA synchronous="):
            settings.append(statement.removeprefix("PRAGMA synchronous="))

    event.listen(store._engine, "before_cursor_execute", note)
    add(store)
    (job,) = claim(store)
    store.report([job], 50)
    store.extend("a", LEASE)
    finish(store, job)
    store.unobserved()
    store.delete(job.id)
    assert settings == ["FULL", "FULL", "NORMAL", "NORMAL", "FULL", "NORMAL", "FULL"]


def test_every_transaction_is_durable_and_readers_do_not_block_writers(store, tmp_path):
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM videos").fetchone()
    job = add(store)
    connection.rollback()
    rows = connection.execute("SELECT request FROM videos WHERE id = ?", (job.id,)).fetchall()
    assert [json.loads(row[0])["prompt"] for row in rows] == ["x"]
    connection.close()


def test_files_that_the_server_did_not_write_stay(tmp_path):
    files = ClipFiles(tmp_path)
    own = f"video_{'a' * 32}.1.mp4", f".1-2-video_{'a' * 32}.1.copy.gif", f".{'b' * 32}.tmp"
    others = "jump.mp4", "jump.txt", "video_1.mp4", f"video_{'a' * 32}"
    (files.clips / "more").mkdir()
    for name in (*own, *others):
        (files.clips / name).write_text("x")
    (tmp_path / "previews" / "cover.png").write_text("x")
    kept = f"video_{'c' * 32}.2"
    (files.clips / f"{kept}.thumbnail.webp").write_text("x")
    files.sweep([f"{kept}.mp4"], age=-60)
    left = {path.name for path in files.clips.iterdir()}
    assert left == {*others, "more", f"{kept}.thumbnail.webp"}
    assert [path.name for path in (tmp_path / "previews").iterdir()] == ["cover.png"]
