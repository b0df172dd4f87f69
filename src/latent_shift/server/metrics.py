"""Prometheus metrics of a server: gauges read from the store at each scrape, counts of finished jobs.

No prompt and no id is a label. Names follow those of other servers of this field.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from latent_shift.server.jobs import Job
from latent_shift.server.store import JobStore

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)
_BATCH = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The metrics of one server."""

    def __init__(self, store: JobStore, restarts: Callable[[], int]) -> None:
        """restarts: gives the number of workers started again."""
        self.registry = CollectorRegistry()
        own = self.registry
        counts = store.counts

        def gauge(name: str, text: str, value: Callable[[], float]) -> None:
            Gauge(f"latent_shift_{name}", text, registry=own).set_function(value)

        gauge("requests_waiting", "Jobs in the queue", lambda: counts().get("queued", 0))
        gauge("requests_running", "Jobs that a worker makes", lambda: counts().get("in_progress", 0))
        gauge("storage_bytes", "Size of all stored clips", store.stored_bytes)
        gauge("worker_restarts_total", "Workers started again after one had died", restarts)
        self._requests = Counter("latent_shift_requests", "Finished jobs", ["status"], registry=own)
        self._frames = Counter("latent_shift_frames", "Frames of completed clips", registry=own)
        self._queue = Histogram(
            "latent_shift_queue_time_seconds",
            "From submission to the last claim",
            buckets=_SECONDS,
            registry=own,
        )
        self._latency = Histogram(
            "latent_shift_request_latency_seconds",
            "From submission to the clip",
            buckets=_SECONDS,
            registry=own,
        )
        self._batch = Histogram(
            "latent_shift_batch_size", "Clips made together, by clip", buckets=_BATCH, registry=own
        )
        for status in ("completed", "failed"):
            self._requests.labels(status)

    def observe(self, job: Job) -> None:
        """Count a finished job."""
        self._requests.labels(job.status).inc()
        if job.started_at is not None:
            self._queue.observe(max(0.0, job.started_at - job.created_at))
        if job.status == "completed" and job.completed_at is not None:
            self._frames.inc(job.request["frames"])
            self._latency.observe(max(0.0, job.completed_at - job.created_at))
            self._batch.observe(job.batch)

    def text(self) -> bytes:
        """All metrics in Prometheus's format."""
        return generate_latest(self.registry)
