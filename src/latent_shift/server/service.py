"""Parts that all routes share: store, files, models with their limits, and the way of a request to a job."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from latent_shift import systems
from latent_shift.checkpoints import BUILT_IN, built_in
from latent_shift.io import one_line
from latent_shift.prompts import keep_known_words, untrained_parts
from latent_shift.server.bodies import VideoRequest, video_request
from latent_shift.server.config import ServerConfig
from latent_shift.server.errors import ApiError, storage_full, validation_message
from latent_shift.server.files import ClipFiles
from latent_shift.server.jobs import Job, NewJob, QueueFullError, StoreFullError
from latent_shift.server.metrics import Metrics
from latent_shift.server.store import CANCELLED, JobStore
from latent_shift.server.supervisor import Supervisor
from latent_shift.systems.base import GenerationRequest, RequestDefaults, SettledRequest

EXAMPLES_FILE = "examples.txt"  # in a model's folder: prompts, one a line
_EXAMPLES = (
    "a cat walking on the beach",
    "a paper boat drifting on a lake",
    "clouds passing over a mountain",
)
_POLL_MS = (100, 1000)  # least and most that a client is advised to wait between two looks
_POLLS = 8  # looks during the making of a clip
_FIELDS = {  # of a request, by what the package calls them
    "height": "height", "width": "width", "steps": "num_inference_steps", "loop": "loop", "fps": "fps",
    "seed": "seed", "guidance": "guidance_scale", "negative": "negative_prompt", "frames": "num_frames",
}  # fmt: skip


@dataclass(frozen=True)
class ModelFacts:
    """A served model: its id, the name that `systems.load` takes, defaults, and prompts to try."""

    id: str
    name: str
    defaults: RequestDefaults
    examples: tuple[str, ...]


class Service:
    """The parts of a server. Raises ValueError for models that cannot be read."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.models = {id: _facts(id, name) for id, name in config.models.items()}
        self.request_model = video_request(config.limits, [*config.models])
        self.store = JobStore(config.data, max_attempts=config.max_attempts)
        self.files = ClipFiles(config.data)
        self.supervisor = Supervisor(config, self.store, self.files, self._observe)
        self.metrics = Metrics(self.store, lambda: self.supervisor.restarts)
        self.is_stopping = False
        self._seconds: dict[str, float] = {}  # of the last clip of each model

    def _observe(self, job: Job) -> None:
        self.metrics.observe(job)
        if job.inference_s is not None:
            self._seconds[job.model] = job.inference_s

    def poll_ms(self, job: Job, place: int | None) -> int:
        """Milliseconds after which another look at a job is worth it. place: in the queue, where it waits."""
        least, most = _POLL_MS
        clips = place or max(1, job.batch)  # to be made until it is done, itself included
        until = self._seconds.get(job.model, 1.0) * clips
        return round(min(most, max(least, 1000 * until / _POLLS)))

    def retry_after(self) -> float:
        """Seconds after which a full queue may have room."""
        return max(1.0, 4 * max(self._seconds.values(), default=1.0))

    def model(self, id: str | None) -> ModelFacts:
        """A model by its id. Raises ApiError for an unknown one."""
        facts = self.models.get(self.config.default_model if id is None else id)
        if facts is None:
            known = ", ".join(self.models)
            raise ApiError(
                404, "model_not_found", f"model {id!r}: is not served; known are {known}", param="model"
            )
        return facts

    def settle(self, wanted: VideoRequest) -> tuple[ModelFacts, SettledRequest, list[str]]:
        """The model, all values of a request, and warnings. Raises ApiError for one that cannot be met."""
        facts = self.model(wanted.model)
        width, height = wanted.width, wanted.height
        if wanted.size is not None:
            width, height = (int(side) for side in wanted.size.split("x"))
        fps = facts.defaults.fps if wanted.fps is None else wanted.fps
        frames = wanted.num_frames
        if frames is None and wanted.seconds is not None:
            frames = round(float(wanted.seconds) * fps)
            if frames < 1:
                raise ApiError(
                    400, "invalid_request", f"seconds {wanted.seconds}: make no frame", param="seconds"
                )
        try:
            request = GenerationRequest(
                prompt=wanted.prompt, seed=wanted.seed, frames=frames, fps=wanted.fps,
                steps=wanted.num_inference_steps, guidance=wanted.guidance_scale,
                negative=wanted.negative_prompt, height=height, width=width, loop=wanted.loop,
            )  # fmt: skip
            settled = facts.defaults.settle(request)
        except ValidationError as error:
            param, message = validation_message(error)
            raise ApiError(400, "invalid_request", message, param=_field(param, wanted)) from error
        except ValueError as error:
            param = _field(str(error).partition(" ")[0].rstrip(":"), wanted)
            raise ApiError(400, "invalid_request", one_line(error), param=param) from error
        self._check_limits(settled, wanted)
        return facts, settled, _warnings(settled, facts.defaults)

    def _check_limits(self, settled: SettledRequest, wanted: VideoRequest) -> None:
        limits = self.config.limits
        pixels = settled.height * settled.width
        size = "width" if wanted.size is None else "size"
        frames = "num_frames" if wanted.num_frames is not None or wanted.seconds is None else "seconds"
        for param, value, most, what in (
            ("prompt", len(settled.prompt), limits.prompt_chars, "characters"),
            ("negative_prompt", len(wanted.negative_prompt or ""), limits.prompt_chars, "characters"),
            (frames, settled.frames, limits.frames, "frames"),
            (size, pixels, limits.pixels, "pixels a frame"),
            ("num_inference_steps", settled.steps, limits.steps, "steps"),
            (frames, pixels * settled.frames * settled.steps, limits.work, "pixels x frames x steps"),
        ):
            if value > most:
                message = f"{param}: {value} {what}: this server takes at most {most}"
                raise ApiError(400, "limit_exceeded", message, param=param)

    def submit(
        self,
        facts: ModelFacts,
        settled: SettledRequest,
        *,
        owner: str,
        warnings: list[str],
        remixed_from: str | None = None,
        idempotency: tuple[str, str] | None = None,
    ) -> Job:
        """Store a job and wake the worker.

        Args:
            facts: of the model.
            settled: what to make.
            owner: of the job.
            warnings: to be shown with it.
            remixed_from: id of another job.
            idempotency: a key of the client and a hash of its request.

        Raises:
            ApiError: where the queue or the disk is full, and for a key that came with another request.
        """
        if self.is_stopping:
            raise ApiError(503, "stopping", "the server is being stopped", retry_after=10)
        if self.files.free_bytes() < self.config.min_free_bytes:
            raise storage_full()
        key, body_hash = idempotency or (None, None)
        new = NewJob(
            model=facts.id, request=settled.model_dump(), owner=owner, warnings=warnings,
            shape=json.dumps([facts.id, *settled.shape]), remixed_from=remixed_from, idempotency_key=key,
            body_hash=body_hash,
        )  # fmt: skip
        limits = self.config.limits
        try:
            job, is_new = self.store.add(
                new, max_queued=limits.queued, max_queued_per_owner=limits.queued_per_key
            )
        except QueueFullError as error:
            message = "the queue is full; try again later"
            raise ApiError(429, "queue_full", message, retry_after=self.retry_after()) from error
        except StoreFullError as error:
            raise storage_full() from error
        if not is_new:
            _check_same(job, body_hash)
        self.supervisor.wake()
        return job

    def repeated(self, idempotency: tuple[str, str] | None, owner: str) -> Job | None:
        """The job that a repeated request has made, whatever the server could make now; None: a new request.

        idempotency, owner: as of `submit`. Raises ApiError for a key that came with another request.
        """
        if idempotency is None:
            return None
        key, body_hash = idempotency
        job = self.store.of_key(key, owner)
        if job is None or (job.error_code == CANCELLED and job.body_hash == body_hash):
            return None
        _check_same(job, body_hash)
        return job

    def find(self, id: str, owner: str) -> Job:
        """A job. Raises ApiError where there is none of that id and owner."""
        job = self.store.get(id, owner)
        if job is None:
            raise not_found(id)
        return job


def not_found(id: str, param: str = "video_id") -> ApiError:
    """The answer for an id that names no video of the caller; param: where it was given."""
    return ApiError(404, "video_not_found", f"video {id!r}: there is none", param=param)


def _check_same(job: Job, body_hash: str | None) -> None:
    """Raise ApiError where the job that has an Idempotency-Key is of another request."""
    if job.body_hash != body_hash:
        message = "this Idempotency-Key came with another request"
        raise ApiError(400, "idempotency_mismatch", message, param="Idempotency-Key")


def body_hash(fields: Mapping[str, Any]) -> str:
    """A hash of a request's fields."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()


def _field(name: str, wanted: VideoRequest) -> str:
    """The field of a request that gave a value of `GenerationRequest`; the prompt, where it is none."""
    if name in ("height", "width") and wanted.size is not None:
        return "size"
    if name == "frames" and wanted.num_frames is None and wanted.seconds is not None:
        return "seconds"
    return _FIELDS.get(name, "prompt")


def _warnings(settled: SettledRequest, defaults: RequestDefaults) -> list[str]:
    """Parts of a request that leave no trace in the clip, and words that were never trained on."""
    found = []
    if (settled.negative or "").strip() and settled.guidance <= 1:
        reason = f"guidance_scale is {settled.guidance:g}: ask for more than 1 to make it count"
        found.append(f"the negative prompt has no effect, for {reason}")
    if defaults.vocabulary:
        _, unknown = keep_known_words(settled.prompt, defaults.vocabulary)
        if unknown:
            found.append(f"the model does not know {', '.join(map(repr, unknown))}; it is left out")
    if named := untrained_parts(settled.prompt, defaults.untrained_words):
        found.append(f"the model was trained on no clip with {', '.join(named)} in its caption")
    return found


def _facts(id: str, name: str) -> ModelFacts:
    folder = built_in(name) if name in BUILT_IN else Path(name)
    file = folder / EXAMPLES_FILE
    lines = file.read_text("utf-8").splitlines() if file.is_file() else _EXAMPLES
    examples = tuple(line.strip() for line in lines if line.strip())
    return ModelFacts(id, name, systems.inspect(name), examples)
