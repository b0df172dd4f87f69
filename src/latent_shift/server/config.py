"""Settings of a server: models, limits of requests, leases and expiry; the command line's options fill it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from latent_shift.limits import MAX_FRAMES, MAX_STEPS

MEGABYTE = 10**6
GIGABYTE = 10**9
DAY = 86_400.0  # seconds


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a request and of the queue; what exceeds them is refused before anything is stored.

    pixels: of a frame. work: pixels x frames x denoising steps of a clip. queued, queued_per_key: jobs that
    wait, in all and of one API key. upload_bytes: of a file to read settings from. body_bytes: of any other
    request's body.
    """

    prompt_chars: int = 2000
    frames: int = 128
    pixels: int = 1024 * 1024
    steps: int = 200
    work: int = 4 * 10**9
    queued: int = 256
    queued_per_key: int = 256
    upload_bytes: int = 32 * MEGABYTE
    body_bytes: int = MEGABYTE

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"--max-{name.replace('_', '-')} {value}: give 1 or more")
        for name, value, most in (("frames", self.frames, MAX_FRAMES), ("steps", self.steps, MAX_STEPS)):
            if value > most:
                raise ValueError(f"--max-{name} {value}: give at most {most}")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """All settings that server and worker share.

    data: folder of the store and of the clips. models: by the id that requests name, the name that
    `systems.load` takes; the first is the default. lease: seconds that a claim holds without a heartbeat.
    max_attempts: times that a job may lose its worker. job_timeout: seconds that the making of one batch may
    take; the wait in the queue does not count. keep, keep_bytes: age in seconds, and size of all clips, from
    which finished clips expire. min_free_bytes: of the disk, below which jobs are refused. stop_within:
    seconds from SIGTERM to the end of the worker.
    """

    data: Path
    models: Mapping[str, str]
    device: str = "auto"
    dtype: str = "auto"
    limits: Limits = field(default_factory=Limits)
    lease: float = 30.0
    max_attempts: int = 3
    job_timeout: float = 3600.0
    sync_timeout: float = 600.0
    keep: float = 7 * DAY
    keep_bytes: int = 10 * GIGABYTE
    min_free_bytes: int = 200 * MEGABYTE
    stop_within: float = 8.0

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("a server needs at least one model")

    @property
    def default_model(self) -> str:
        """Id of the model of requests that name none."""
        return next(iter(self.models))

    def to_json(self) -> str:
        """The settings as one line of JSON, for the worker's process."""
        return json.dumps({**asdict(self), "data": str(self.data), "models": dict(self.models)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The settings that `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(**{**values, "data": Path(values["data"]), "limits": Limits(**values["limits"])})
