"""The process that makes clips: claims jobs of one shape, generates them as one batch, writes their files.

    python -m latent_shift.server.worker '{"name": ..., "config": {...}}'     # started by the supervisor

It knows the server by the store, and by two pipes: its standard input (a line "wake": there may be work; a
line "stop SECONDS": finish or return the batch within that time; the end: the server is gone, stop at the
next step) and its standard output (a line of JSON when the first model is loaded, and when it begins or ends
to wait for room on the disk). A crash, or the system's out-of-memory killer, ends this process only; the
supervisor returns its jobs to the queue. On a full disk it gives its batch up, and makes no other until the
store has taken that.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from latent_shift import generation, systems
from latent_shift.checkpoints.quiet import quiet_libraries
from latent_shift.io import is_disk_full, is_out_of_memory, one_line
from latent_shift.media import encode_image
from latent_shift.server.config import ServerConfig
from latent_shift.server.files import ClipFiles
from latent_shift.server.jobs import Job, StoreFullError
from latent_shift.server.store import JobStore
from latent_shift.systems.base import SettledRequest, TextToVideoSystem

OUT_OF_MEMORY = 3  # exit status: the jobs are settled, and a new process has its memory back
_IDLE = 1.0  # seconds after which the queue is looked at without being woken
_REPORT_EVERY = 0.25  # seconds between two reports of progress
_PREVIEW_SHARE = 0.05  # of a batch's time that previews may take
_PREVIEW_SIDE = 256  # pixels at most
_EXPECTED = (ValueError, StoreFullError)  # errors with a message for the job's owner, and no fault of ours


class _Stopped(Exception):
    """The batch is to be returned to the queue: the worker has to end."""


class _Lost(Exception):
    """No job of the batch is this worker's any more: cancelled, deleted, or the lease ran out."""


class _TimedOut(Exception):
    """The batch takes longer than it may."""


@dataclass
class _Orders:
    """Orders of the server, which a thread reads from standard input."""

    wake: threading.Event
    stop_at: float | None = None  # monotonic time

    def listen(self, source: IO[str]) -> None:
        """Read orders until the server is gone."""
        for line in source:
            word, _, seconds = line.strip().partition(" ")
            if word == "stop":
                self.stop_at = time.monotonic() + float(seconds)
            self.wake.set()
        self.stop_at = time.monotonic()
        self.wake.set()


class Worker:
    """A maker of the jobs of a store, one batch after the other, until it is stopped.

    name: of its claims. config: of the server. tell: takes an answer to the supervisor.
    """

    def __init__(
        self, name: str, config: ServerConfig, tell: Callable[[dict[str, Any]], None] = lambda answer: None
    ) -> None:
        self.name, self.config, self._tell = name, config, tell
        self.store = JobStore(config.data, max_attempts=config.max_attempts)
        self.files = ClipFiles(config.data)
        self.orders = _Orders(threading.Event())
        self._systems: dict[str, TextToVideoSystem] = {}
        self._lease_until = 0.0
        self._unsettled: Callable[[], object] | None = None  # the end of a batch, when the disk has room

    def run(self) -> int:
        """Work until stopped; the exit status."""
        threading.Thread(target=self._keep_leases, daemon=True).start()
        while self.orders.stop_at is None:
            self.orders.wake.clear()
            batch = self._next_batch()
            if not batch:
                self.orders.wake.wait(_IDLE)
            elif not self._work(batch):
                return OUT_OF_MEMORY
        return 0

    def load(self, model: str) -> TextToVideoSystem:
        """The system of a model's id, loaded once."""
        if model not in self._systems:
            name = self.config.models.get(model)
            if name is None:  # the job is of an earlier server
                raise ValueError(f"{model!r} is not served; known are {', '.join(self.config.models)}")
            system = systems.load(name, device=self.config.device, dtype=self.config.dtype)
            system.info()  # hashes the weights now, which may take long, and not while a claim holds the lock
            self._systems[model] = system
            if model == self.config.default_model:
                self._tell({"state": "ready"})
        return self._systems[model]

    def _next_batch(self) -> list[Job]:
        """Claimed jobs, when the last batch is settled; none where none waits, or the disk is full."""
        try:
            if self._unsettled is not None:
                self._unsettled()
                self._unsettled = None
                self._tell({"waits_for_room": False})
            return self.store.claim(self.name, self.config.lease, self._batch_size)
        except StoreFullError:
            return []

    def _batch_size(self, job: Job) -> int:
        """Clips made together, so many that each is the same, bit for bit, as made by itself on a CPU."""
        system = self._systems.get(job.model)
        if system is None:  # not loaded yet, so nothing is known of it
            return 1
        try:
            return generation.default_batch(SettledRequest(**job.request), system.info())
        except ValueError:  # a request of another release: by itself it fails, and the others are made
            return 1

    def _keep_leases(self) -> None:
        while True:
            time.sleep(self.config.lease / 4)
            now = time.monotonic()
            try:
                if self.store.extend(self.name, self.config.lease):
                    self._lease_until = now + self.config.lease
            except StoreFullError:  # the lease runs on; there may be room before it ends
                pass

    def _work(self, batch: list[Job]) -> bool:
        """Make a batch and settle each of its jobs; False where this process should end for its memory."""
        self._lease_until = time.monotonic() + self.config.lease
        left = {job.id: job for job in batch}
        try:
            self._make(batch, left)
        except _Stopped:
            self._settle(partial(self.store.give_back, list(left.values())))
        except _Lost:
            pass
        except _TimedOut:
            message = f"it took longer than {self.config.job_timeout:g} s"
            self._settle(partial(self._fail, list(left.values()), "timeout", message))
        except Exception as error:
            if not isinstance(error, _EXPECTED):
                traceback.print_exc()
            out_of_memory = _is_memory(error)
            self._settle_failure(list(left.values()), error, out_of_memory)
            return not out_of_memory or self._unsettled is not None
        return True

    def _settle_failure(self, jobs: Sequence[Job], error: Exception, out_of_memory: bool) -> None:
        """Fail the one job that raised an error; of several, which may be innocent, try each by itself."""
        again = partial(self.store.give_back, jobs, solo=len(jobs) > 1)
        if len(jobs) > 1:
            self._settle(again)
            return
        code = "out_of_memory" if out_of_memory else _code(error)
        message = one_line(error) if isinstance(error, _EXPECTED) else "the program failed; see its log"
        self._settle(partial(self._fail, jobs, code, message or type(error).__name__), otherwise=again)

    def _fail(self, jobs: Sequence[Job], code: str, message: str) -> None:
        for job in jobs:
            self.store.fail(job, code, message)

    def _settle(self, act: Callable[[], object], otherwise: Callable[[], object] | None = None) -> None:
        """Settle a batch by an act; on a full disk later, by `otherwise` where that is given."""
        try:
            act()
        except StoreFullError:
            traceback.print_exc()
            self._unsettled = otherwise or act
            self._tell({"waits_for_room": True})

    def _make(self, batch: list[Job], left: dict[str, Job]) -> None:
        """Generate a batch and write its clips; `left` loses the jobs that are done with."""
        try:
            system = self.load(batch[0].model)
        except (ValueError, OSError) as error:
            if _is_memory(error):
                raise
            raise _NoModelError(f"the model cannot be loaded: {one_line(error)}") from error
        steps = _Steps(self, system, batch, left)
        requests = [SettledRequest(**job.request) for job in batch]
        clips = list(generation.run(system, requests, max_batch=len(batch), on_progress=steps))
        self._check_lease()
        info = system.info()
        made = self.files.write(
            (job, clip, generation.clip_settings(clip, job.model, info))
            for job, clip in zip(batch, clips, strict=True)
            if job.id in left
        )
        done: set[str] = set()
        try:
            done = self.store.finish(made, peak_memory_mb=_peak_memory(), keep=self.config.keep)
        finally:
            for one in made:
                if one.job.id not in done:  # cancelled or deleted meanwhile, the lease ran out, no room
                    self.files.path(one.name).unlink(missing_ok=True)

    def _check_lease(self) -> None:
        if time.monotonic() > self._lease_until:
            raise _Lost


class _NoModelError(ValueError):
    """A model that cannot be loaded."""


class _Steps:
    """Listener of a batch's steps: stops it where it has to, reports progress and writes previews."""

    def __init__(
        self, worker: Worker, system: TextToVideoSystem, batch: list[Job], left: dict[str, Job]
    ) -> None:
        self._worker, self._system, self._batch, self._left = worker, system, batch, left
        self._began = self._reported = time.monotonic()
        self._previewing = 0.0  # seconds

    def __call__(self, done: int, total: int) -> None:
        """Note that `done` of `total` steps, summed over clips, are done."""
        worker, now = self._worker, time.monotonic()
        worker._check_lease()
        if worker.orders.stop_at is not None and now > worker.orders.stop_at:
            raise _Stopped
        if now - self._began > worker.config.job_timeout:
            raise _TimedOut
        is_edge = done <= len(self._batch) or done == total  # the first step, or the last
        if now - self._reported < _REPORT_EVERY and not is_edge:
            return
        self._reported = now
        number = done // len(self._batch) if self._preview(now) else None
        held = worker.store.report(self._batch, 100 * done // total, number)
        for job in self._batch:
            if job.id not in held:
                self._left.pop(job.id, None)
        if not self._left:
            raise _Lost

    def _preview(self, now: float) -> bool:
        """Write previews of the jobs that somebody watches, while they take little of the batch's time."""
        watched = [n for n, job in enumerate(self._batch) if self._worker.files.is_watched(job.id)]
        if not watched or self._previewing > _PREVIEW_SHARE * (now - self._began) + 0.1:
            return False
        images = self._system.preview()
        if images is not None:
            for number in watched:
                content = encode_image(images[number], "webp", max_side=_PREVIEW_SIDE)
                self._worker.files.write_preview(self._batch[number].id, content)
        self._previewing += time.monotonic() - now
        return images is not None


def _code(error: Exception) -> str:
    from latent_shift.pipeline import NonFiniteError

    if isinstance(error, _NoModelError):
        return "model_unavailable"
    if isinstance(error, NonFiniteError):
        return "invalid_output"
    if isinstance(error, StoreFullError) or is_disk_full(error):
        return "storage_full"
    return "generation_failed" if isinstance(error, ValueError) else "internal_error"


def _is_memory(error: BaseException) -> bool:
    return is_out_of_memory(error) or (error.__cause__ is not None and is_out_of_memory(error.__cause__))


def _peak_memory() -> float:
    """Peak memory in MB: of the GPU where one is at work, else of this process."""
    import torch

    if torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def main(text: str) -> int:
    """Run a worker by its settings in JSON; the exit status."""
    orders = os.fdopen(os.dup(0), "r", encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print does not get among the answers
    given = json.loads(text)

    def tell(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    worker = Worker(given["name"], ServerConfig.from_json(given["config"]), tell)
    threading.Thread(target=worker.orders.listen, args=(orders,), daemon=True).start()
    quiet_libraries()
    _begin(worker, tell)
    return worker.run()


def _begin(worker: Worker, tell: Callable[[dict[str, Any]], None]) -> None:
    """Load the default model; where it cannot be, tell so, and say on stderr what is wrong with it.

    A job that finds it in order later tells that by itself.
    """
    model = worker.config.default_model
    try:
        worker.load(model)
    except Exception as error:  # its jobs will fail one by one, and those of other models may not
        message = one_line(error)
        print(f"latent-shift: error: model {model} cannot be loaded: {message}", file=sys.stderr, flush=True)
        tell({"state": "no_model", "message": message})


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stderr.flush()
    os._exit(status)  # without waiting for the thread that reads orders
