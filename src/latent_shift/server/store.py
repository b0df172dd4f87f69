"""Jobs in SQLite: the row is the job, and every change of its state is one transaction.

A worker claims queued jobs of one shape at once under a lease. Each claim raises the job's fence, and every
write of a worker names the fence of its claim: one that was thought dead cannot overwrite its successor.
Jobs run at least once, and their result becomes visible exactly once; the seed is settled when a job is
added, so that a repeat makes the same clip.

Leases are times of the machine's monotonic clock, which all its processes share and nobody sets back; the
folder must not lie on a network file system, for SQLite's write-ahead log and this clock.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Connection

from latent_shift.server.database import check_whole, connect, opening, passing, reading
from latent_shift.server.faults import fault
from latent_shift.server.jobs import (
    COLUMNS,
    SELECT,
    UNOBSERVED,
    WAITING,
    Job,
    MadeFile,
    NewJob,
    QueueFullError,
    StoreBusyError,
    StoreFullError,
    all_jobs,
    completing,
    count_jobs,
    deleted,
    failing,
    is_held,
    metadata,
    one_job,
    videos,
    while_held,
)

VERSION = 1  # of the table, kept in the file
FILE_NAME = "jobs.sqlite"
WORKER_DIED, CANCELLED = "worker_died", "cancelled"
_KNOWN_DELETED = 86400.0  # seconds that the place of a deleted job is known
MAX_PROGRESS = 99  # percent, until the file is durable
_queued = videos.c.status == "queued"
_running = videos.c.status == "in_progress"
_unobserved: sql.ColumnElement[bool] = sql.literal_column(UNOBSERVED)


class JobStore:
    """The jobs of one folder. Safe to use from threads, and from several processes at once.

    Raises ValueError for a file that is damaged, cannot be used, or is of another version. max_attempts:
    times that a job may lose its worker.
    """

    def __init__(self, folder: Path, *, max_attempts: int = 3) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._max_attempts = max_attempts
        # One writer of this process at a time: SQLite's own waiting is by sleeping, and is not fair.
        self._lock = threading.Lock()
        file = folder / FILE_NAME
        self._engine = connect(file, pool_size=8, max_overflow=64)
        with opening(file, "move it away, or name another --data"), self._write() as connection:
            check_whole(connection)
            version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if version not in (0, VERSION):
                raise ValueError(f"{file}: is of version {version}, not {VERSION}; name another --data")
            metadata.create_all(connection)
            for index in videos.indexes:  # of a table that an older release made
                index.create(connection, checkfirst=True)
            if version != VERSION:  # a full disk lets nothing be written, and clips be looked at
                connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _write(self, *, lasts: bool = True) -> Iterator[Connection]:
        """A transaction that holds SQLite's write lock from its beginning.

        lasts: whether it is to outlast a loss of power, for which it waits for the disk.
        """
        engine = self._engine if lasts else passing(self._engine)
        try:
            with self._lock, engine.begin() as connection:
                yield connection
        except sql.exc.OperationalError as error:
            if "disk is full" in str(error) or "disk I/O error" in str(error):
                raise StoreFullError(str(error.orig)) from error
            if "database is locked" in str(error):
                raise StoreBusyError(str(error.orig)) from error
            raise

    # ---- the server's side -----------------------------------------------------------------------------

    def add(self, new: NewJob, *, max_queued: int, max_queued_per_owner: int) -> tuple[Job, bool]:
        """Add a job; the one that already has the idempotency key is returned in its place.

        A repeat of a cancelled job takes its key over and is a new one.

        Args:
            new: the job.
            max_queued: jobs that may wait in all.
            max_queued_per_owner: jobs of its owner that may wait.

        Returns:
            The job, and whether it is new.

        Raises:
            QueueFullError: where so many wait. StoreFullError: on a full disk.
        """
        values = {**vars(new), "request": dict(new.request), "warnings": list(new.warnings)}
        with self._write() as connection:
            if new.idempotency_key is not None:
                same = videos.c.idempotency_key == new.idempotency_key
                found = one_job(connection, same & (videos.c.owner == new.owner))
                if found is not None:
                    if found.error_code != CANCELLED or found.body_hash != new.body_hash:
                        return found, False
                    freed = videos.update().where(videos.c.seq == found.seq)
                    connection.execute(freed.values(idempotency_key=None))
            waiting = count_jobs(connection, _queued)
            own = count_jobs(connection, _queued & (videos.c.owner == new.owner))
            if waiting >= max_queued or own >= max_queued_per_owner:
                raise QueueFullError
            id = f"video_{secrets.token_hex(16)}"
            insert = videos.insert().values(id=id, created_at=time.time(), **values).returning(*COLUMNS)
            job = Job(**connection.execute(insert).mappings().one())
        fault("inserted")
        return job, True

    def get(self, id: str, owner: str = "") -> Job | None:
        """The job of that id and owner."""
        with reading(self._engine) as connection:
            return one_job(connection, (videos.c.id == id) & (videos.c.owner == owner))

    def of_key(self, key: str, owner: str) -> Job | None:
        """The job of an owner that came with an idempotency key."""
        with reading(self._engine) as connection:
            return one_job(connection, (videos.c.idempotency_key == key) & (videos.c.owner == owner))

    def place_of(self, id: str, owner: str) -> int | None:
        """The place of a job in lists, also of one that was deleted of late; None where it is not known."""
        rows = (one.c for one in (videos, deleted))
        known = [sql.select(row.seq).where((row.id == id) & (row.owner == owner)) for row in rows]
        with reading(self._engine) as connection:
            return connection.execute(sql.union_all(*known)).scalar()

    def page(
        self, owner: str, *, after: int | None, limit: int, newest_first: bool
    ) -> tuple[list[Job], bool]:
        """Jobs of an owner in the order of their submission, and whether there are more.

        owner: of the jobs. after: the place before the first, of `place_of`. limit: jobs at most.
        newest_first: order.
        """
        query = SELECT.where(videos.c.owner == owner).limit(limit + 1)
        seq = videos.c.seq
        query = query.order_by(seq.desc() if newest_first else seq.asc())
        if after is not None:
            query = query.where(seq < after if newest_first else seq > after)
        with reading(self._engine) as connection:
            jobs = [Job(**row) for row in connection.execute(query).mappings()]
        return jobs[:limit], len(jobs) > limit

    def positions(self) -> dict[str, int]:
        """Place in the queue of all jobs that wait, from 1, by id."""
        query = sql.select(videos.c.id).where(_queued).order_by(videos.c.seq)
        with reading(self._engine) as connection:
            return {id: place for place, id in enumerate(connection.scalars(query), 1)}

    def position(self, job: Job) -> int | None:
        """Place of a job in the queue, from 1; None where it does not wait."""
        if job.status != "queued":
            return None
        with reading(self._engine) as connection:
            return count_jobs(connection, _queued & (videos.c.seq < job.seq)) + 1

    def cancel(self, id: str, owner: str = "") -> Job | None:
        """Fail a job that waits or runs as cancelled; others are left. None: there is no such job."""
        where = (videos.c.id == id) & (videos.c.owner == owner)
        with self._write() as connection:
            open_ = where & (_queued | _running)
            connection.execute(failing(CANCELLED, "the job was cancelled").where(open_))
            return one_job(connection, where)

    def delete(self, id: str, owner: str = "") -> bool:
        """Remove a job in any state; a worker that has it stops at its next step."""
        where = (videos.c.id == id) & (videos.c.owner == owner)
        with self._write() as connection:
            kept = sql.select(videos.c.seq, videos.c.id, videos.c.owner, sql.literal(time.time())).where(
                where
            )
            connection.execute(deleted.insert().from_select(["seq", "id", "owner", "at"], kept))
            return connection.execute(videos.delete().where(where)).rowcount > 0

    # ---- the worker's side -----------------------------------------------------------------------------

    def claim(self, worker: str, lease: float, size: Callable[[Job], int]) -> list[Job]:
        """Claim the job that waits longest, and others of its shape.

        worker: name of the claimant. lease: seconds. size: how many jobs of that one's shape a batch takes.
        """
        with reading(self._engine) as connection:  # most calls find nothing, and need no lock
            if count_jobs(connection, _queued) == 0:
                return []
        with self._write() as connection:
            waiting = SELECT.where(_queued).order_by(videos.c.seq).limit(1)
            row = connection.execute(waiting).mappings().one_or_none()
            if row is None:
                return []
            first = Job(**row)
            where = videos.c.seq == first.seq
            if not first.solo:
                alike = _queued & (videos.c.shape == first.shape) & ~videos.c.solo
                chosen = sql.select(videos.c.seq).where(alike).order_by(videos.c.seq).limit(size(first))
                where = videos.c.seq.in_(list(connection.scalars(chosen)))
            now = time.monotonic()
            values = {
                "status": "in_progress", "worker": worker, "lease_until": now + lease, "running_since": now,
                "attempts": videos.c.attempts + 1, "fence": videos.c.fence + 1, "started_at": time.time(),
            }  # fmt: skip
            connection.execute(videos.update().where(where).values(**values))
            claimed = all_jobs(connection, where)
            connection.execute(videos.update().where(where).values(batch=len(claimed)))
        fault("claimed")
        return claimed

    def extend(self, worker: str, lease: float) -> bool:
        """Extend the leases of a worker's jobs that have not run out; whether it holds any."""
        now = time.monotonic()
        mine = _running & (videos.c.worker == worker) & (videos.c.lease_until > now)
        with self._write(lasts=False) as connection:
            extended = connection.execute(videos.update().where(mine).values(lease_until=now + lease))
            return extended.rowcount > 0

    def report(self, jobs: Collection[Job], progress: int, preview_step: int | None = None) -> set[str]:
        """Record the progress of claimed jobs in percent, which never falls; ids of those still held.

        preview_step: number of the newest preview. Returns without those that were cancelled or deleted.
        """
        values: dict[str, Any] = {"progress": sql.func.max(videos.c.progress, min(progress, MAX_PROGRESS))}
        if preview_step is not None:
            values["preview_step"] = preview_step
        with self._write(lasts=False) as connection:
            held = {job.id for job in jobs if connection.execute(while_held(job).values(**values)).rowcount}
        fault("step")
        return held

    def finish(self, made: Collection[MadeFile], *, peak_memory_mb: float, keep: float) -> set[str]:
        """Complete claimed jobs, all at once; ids of those of which the claim still held.

        made: their files. peak_memory_mb: of the worker. keep: seconds until they expire.
        """
        now = time.time()
        values = {
            "status": "completed", "progress": 100, "worker": None, "lease_until": None, "completed_at": now,
            "expires_at": now + keep, "peak_memory_mb": peak_memory_mb,
        }  # fmt: skip
        with self._write() as connection:
            done = {one.job.id for one in made if connection.execute(completing(one, values)).rowcount}
        fault("completed")
        return done

    def fail(self, job: Job, code: str, message: str) -> bool:
        """Fail a claimed job; whether the claim still held."""
        with self._write() as connection:
            return connection.execute(failing(code, message).where(is_held(job))).rowcount > 0

    def give_back(self, jobs: Collection[Job], *, solo: bool = False) -> None:
        """Return claimed jobs to their places in the queue, uncounted: the worker lives.

        solo: whether each is to be made in a batch of its own.
        """
        values: dict[str, Any] = {"attempts": videos.c.attempts - 1, **WAITING}
        if solo:
            values["solo"] = True
        with self._write() as connection:
            for job in jobs:
                connection.execute(while_held(job).values(**values))
        fault("requeued")

    # ---- the supervisor's side ------------------------------------------------------------------------

    def needs_care(self, seconds: float) -> bool:
        """Whether a lease ran out, a job is in progress for longer, or a finished one was not observed."""
        now = time.monotonic()
        late = (videos.c.lease_until < now) | (videos.c.running_since < now - seconds)
        with reading(self._engine) as connection:
            return any(count_jobs(connection, where) for where in (_running & late, _unobserved))

    def requeue_lost(
        self, *, worker: str | None = None, expired: bool = False, counted: bool = True
    ) -> list[Job]:
        """Return jobs of lost workers to the queue; those that lost too many fail as `worker_died`.

        A job that was lost together with others is next made solo, so that it cannot take them along again.

        worker: of that worker, None: of any. expired: only jobs with leases that ran out. counted: whether
        this is a loss; not where the server itself ended the worker. Returns the jobs as they were.
        """
        where = _running
        if worker is not None:
            where &= videos.c.worker == worker
        if expired:
            where &= videos.c.lease_until < time.monotonic()
        with self._write() as connection:
            lost = all_jobs(connection, where)
            for job in lost:
                this = videos.c.seq == job.seq
                if not counted:
                    values = {**WAITING, "attempts": job.attempts - 1}
                    connection.execute(videos.update().where(this).values(**values))
                elif job.attempts >= self._max_attempts:
                    message = f"its worker died {job.attempts} times while making this clip"
                    connection.execute(failing(WORKER_DIED, message).where(this))
                else:
                    values = {**WAITING, "solo": job.solo or job.batch > 1}
                    connection.execute(videos.update().where(this).values(**values))
        if lost:
            fault("requeued")
        return lost

    def overdue(self, seconds: float) -> list[Job]:
        """Jobs that have been in progress for longer."""
        with reading(self._engine) as connection:
            return all_jobs(connection, _running & (videos.c.running_since < time.monotonic() - seconds))

    def unobserved(self) -> list[Job]:
        """Finished jobs that were not returned here before, so that each is counted once."""
        with reading(self._engine) as connection:  # most calls find nothing, and need no lock
            if count_jobs(connection, _unobserved) == 0:
                return []
        with self._write(lasts=False) as connection:
            finished = all_jobs(connection, _unobserved)
            connection.execute(videos.update().where(_unobserved).values(observed=True))
        return finished

    def expire(self, keep: float, keep_bytes: int, sizes: Mapping[str, int] | None = None) -> list[str]:
        """Mark finished jobs of a greater age, and the oldest while all clips take more space, as expired.

        keep: seconds. keep_bytes: of all clips. sizes: of all files of a job, by its id; None: of the clip.
        Rows of jobs that expired as long ago are removed. Returns the ids of the jobs of which the files are
        to be removed.
        """
        now, row = time.time(), videos.c
        aged = row.status.in_(("completed", "failed")) & ~row.expired & (row.completed_at < now - keep)
        gone = row.expired & (row.completed_at < now - 2 * keep)
        forgotten = deleted.c.at < now - _KNOWN_DELETED
        old = sql.select(row.seq).where(gone), sql.select(deleted.c.seq).where(forgotten)
        clips = sql.select(row.seq, row.id, row.bytes).order_by(row.seq)
        with reading(self._engine) as connection:  # most looks find nothing, and need no lock
            over = [*connection.execute(clips.where(aged))]
            kept = [*connection.execute(clips.where((row.bytes > 0) & ~row.expired & ~aged))]
            is_old = connection.execute(sql.union_all(*old)).first() is not None
        taken = {one.id: (sizes or {}).get(one.id, one.bytes) for one in kept}
        total = sum(taken.values())
        for one in kept:
            if total <= keep_bytes:
                break
            total -= taken[one.id]
            over.append(one)
        if over or is_old:
            with self._write() as connection:
                connection.execute(videos.delete().where(gone))
                connection.execute(deleted.delete().where(forgotten))
                for one in over:
                    connection.execute(videos.update().where(row.seq == one.seq).values(expired=True))
        return [one.id for one in over]

    def files(self) -> set[str]:
        """Names of the files of all jobs that have one."""
        query = sql.select(videos.c.file).where(videos.c.file.is_not(None) & ~videos.c.expired)
        with reading(self._engine) as connection:
            return set(connection.scalars(query))

    def counts(self) -> dict[str, int]:
        """Number of jobs by status."""
        query = sql.select(videos.c.status, sql.func.count()).group_by(videos.c.status)
        with reading(self._engine) as connection:
            return {status: number for status, number in connection.execute(query)}

    def stored_bytes(self) -> int:
        """Size of all clips."""
        query = sql.select(sql.func.coalesce(sql.func.sum(videos.c.bytes), 0)).where(~videos.c.expired)
        with reading(self._engine) as connection:
            return int(connection.execute(query).scalar_one())
