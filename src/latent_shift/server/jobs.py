"""A job: its row in the database, how rows are read, and what the store takes and raises.

States: queued -> in_progress -> completed | failed; in_progress -> queued where a worker is lost or stops.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import sqlalchemy as sql
from sqlalchemy import JSON, Boolean, Column, Float, Index, Integer, MetaData, String, Table, text

Status = Literal["queued", "in_progress", "completed", "failed"]

ID = "video_[0-9a-f]{32}"  # a pattern
UNOBSERVED = "(observed = 0 AND completed_at IS NOT NULL)"  # SQL; an index and its queries
metadata = MetaData()
videos = Table(
    "videos",
    metadata,
    Column("seq", Integer, primary_key=True),  # order of the queue and of lists
    Column("id", String, nullable=False, unique=True),
    Column("owner", String, nullable=False, default=""),  # a hash of the API key, "" without keys
    Column("idempotency_key", String),
    Column("body_hash", String),  # of the request that came with the key
    Column("model", String, nullable=False),
    Column("request", JSON, nullable=False),  # settled values by their names in GenerationRequest
    Column("shape", String, nullable=False),  # equal for jobs that one batch may hold
    Column("warnings", JSON, nullable=False),
    Column("remixed_from", String),
    Column("status", String, nullable=False, default="queued"),
    Column("progress", Integer, nullable=False, default=0),
    Column("preview_step", Integer, nullable=False, default=0),
    Column("error_code", String),
    Column("error_message", String),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("completed_at", Float),
    Column("expires_at", Float),
    Column("expired", Boolean, nullable=False, default=False),  # its files are gone
    Column("worker", String),
    Column("lease_until", Float),  # both of the monotonic clock
    Column("running_since", Float),
    Column("attempts", Integer, nullable=False, default=0),
    Column("fence", Integer, nullable=False, default=0),
    Column("solo", Boolean, nullable=False, default=False),  # to be made in a batch of its own
    Column("batch", Integer, nullable=False, default=0),  # size of the batch that it was last claimed in
    Column("file", String),
    Column("bytes", Integer, nullable=False, default=0),
    Column("inference_s", Float),
    Column("peak_memory_mb", Float),
    Column("observed", Boolean, nullable=False, default=False),  # counted by the metrics
    Index("of_status", "status", "seq"),
    Index("of_owner", "owner", "seq"),
    Index("of_idempotency_key", "owner", "idempotency_key", unique=True),
    Index("unobserved", "completed_at", sqlite_where=text(UNOBSERVED)),
    sqlite_autoincrement=True,
)

deleted = Table(  # so that a list goes on behind a video that was deleted meanwhile
    "deleted",
    metadata,
    Column("id", String, primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("owner", String, nullable=False),
    Column("at", Float, nullable=False),
    sqlite_with_rowid=False,  # one page to write, on a full disk
)


@dataclass(frozen=True)
class Job:
    """A row, as it was when it was read."""

    seq: int
    id: str
    owner: str
    idempotency_key: str | None
    body_hash: str | None
    model: str
    request: Mapping[str, Any]
    shape: str
    warnings: Sequence[str]
    remixed_from: str | None
    status: Status
    progress: int
    preview_step: int
    error_code: str | None
    error_message: str | None
    created_at: float
    started_at: float | None
    completed_at: float | None
    expires_at: float | None
    expired: bool
    worker: str | None
    lease_until: float | None
    running_since: float | None
    attempts: int
    fence: int
    solo: bool
    batch: int
    file: str | None
    bytes: int
    inference_s: float | None
    peak_memory_mb: float | None
    observed: bool

    @property
    def is_finished(self) -> bool:
        """Whether its state is final."""
        return self.status in ("completed", "failed")


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job to add. request: settled values, as JSON can hold them."""

    model: str
    request: Mapping[str, Any]
    shape: str
    owner: str = ""
    warnings: Sequence[str] = ()
    remixed_from: str | None = None
    idempotency_key: str | None = None
    body_hash: str | None = None


@dataclass(frozen=True)
class MadeFile:
    """The file of a job's clip, in the folder of clips and durable.

    job: as it was claimed. name, bytes: of the file. seconds: of sampling.
    """

    job: Job
    name: str
    bytes: int
    seconds: float


class QueueFullError(Exception):
    """More jobs wait than may."""


class StoreBusyError(Exception):
    """Others have written for so long that no turn came."""


class StoreFullError(Exception):
    """The disk has no room for another transaction."""


COLUMNS = [videos.c[field.name] for field in fields(Job)]
SELECT = sql.select(*COLUMNS)  # built once: naming the columns takes longer than reading a row


def one_job(connection: sql.Connection, where: sql.ColumnElement[bool]) -> Job | None:
    """The job of which a condition holds."""
    row = connection.execute(SELECT.where(where)).mappings().one_or_none()
    return None if row is None else Job(**row)


def all_jobs(connection: sql.Connection, where: sql.ColumnElement[bool]) -> list[Job]:
    """The jobs of which a condition holds, in the order of their submission."""
    query = SELECT.where(where).order_by(videos.c.seq)
    return [Job(**row) for row in connection.execute(query).mappings()]


def count_jobs(connection: sql.Connection, where: sql.ColumnElement[bool]) -> int:
    """The number of jobs of which a condition holds."""
    return int(connection.execute(sql.select(sql.func.count()).select_from(videos).where(where)).scalar_one())


WAITING: dict[str, Any] = {"status": "queued", "worker": None, "lease_until": None}  # of a job given back


def failing(code: str, message: str) -> sql.Update:
    """The change of a row that fails its job. code: for programs. message: for people."""
    return videos.update().values(
        status="failed", error_code=code, error_message=message, completed_at=time.time(), worker=None,
        lease_until=None,
    )  # fmt: skip


def completing(made: MadeFile, values: Mapping[str, Any]) -> sql.Update:
    """The change of a row that completes its job, while its claim holds. values: beside those of its file."""
    return while_held(made.job).values(**values, file=made.name, bytes=made.bytes, inference_s=made.seconds)


def is_held(job: Job) -> sql.ColumnElement[bool]:
    """Whether a claim holds still: nobody cancelled, deleted or claimed the job since."""
    return (
        (videos.c.seq == job.seq)
        & (videos.c.fence == job.fence)
        & (videos.c.worker == job.worker)
        & (videos.c.status == "in_progress")
    )


def while_held(job: Job) -> sql.Update:
    """A change of a job's row while its claim holds."""
    return videos.update().where(is_held(job))
