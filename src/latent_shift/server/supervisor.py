"""Supervision: keep one worker process alive, return the jobs of lost ones to the queue, and clear up.

A thread of the server. It notices a dead worker at once, a hanging one by its lease or by the time that its
batch takes, and starts another after a pause that grows while workers die young.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from latent_shift.server.config import ServerConfig
from latent_shift.server.files import ClipFiles
from latent_shift.server.jobs import Job, StoreFullError
from latent_shift.server.store import JobStore

_LOOK_EVERY = 0.1  # seconds
_CARE_EVERY = 0.5  # seconds between two looks into the store
_CLEAR_EVERY = 30.0  # seconds
_YOUNG = 5.0  # seconds; a worker that dies sooner makes the next one wait
_PAUSES = (0.2, 1.0, 5.0, 15.0)  # seconds before the next start
_TIMEOUT_GRACE = 10.0  # seconds that a worker has to notice by itself that its batch takes too long

State = Literal["starting", "ready", "no_model", "dead"]


class Supervisor:
    """The worker process of a server, and the care for its store."""

    def __init__(
        self,
        config: ServerConfig,
        store: JobStore,
        files: ClipFiles,
        on_finished: Callable[[Job], None] = lambda job: None,
    ) -> None:
        """Prepare; `start` begins. on_finished: called once for each job that completed or failed."""
        self._config, self._store, self._files, self._on_finished = config, store, files, on_finished
        self._process: subprocess.Popen[str] | None = None
        self._name = ""
        self._waits_for_room = False  # the worker, which makes nothing meanwhile
        self._has_taken_over = False  # the jobs of an earlier server
        self._born = self._start_at = self._care_at = self._clear_at = 0.0
        self._young_deaths = self._number = 0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.state: State = "dead"
        self.message = ""  # of a model that cannot be loaded
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None where there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Return jobs of an earlier server to the queue, remove what they left, and start the worker."""
        self._retrying(self._take_over)
        self._files.sweep(self._store.files(), age=-math.inf)  # nobody writes a file that counts now
        self._thread.start()

    def _take_over(self) -> None:
        """Return jobs of an earlier server to the queue: on a full disk later, before the first worker.

        Their leases are times of the clock of a machine that may have been started anew since.
        """
        self._store.requeue_lost()
        self._has_taken_over = True

    def wake(self) -> None:
        """Tell the worker that there is a job."""
        self._order("wake")

    def stop(self) -> None:
        """End the worker: it finishes its batch, or returns it to the queue, in bounded time."""
        self._ending.set()
        self._thread.join()
        within = self._config.stop_within
        if self._process is not None:
            self._order(f"stop {0.6 * within}")
            try:
                self._process.wait(within)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._retrying(lambda: self._store.requeue_lost(worker=self._name, counted=False))
        self._retrying(self._observe)
        self.state = "dead"

    def _order(self, line: str) -> None:
        process = self._process
        if process is not None and process.stdin is not None:
            try:
                process.stdin.write(f"{line}\n")
                process.stdin.flush()
            except (OSError, ValueError):  # it has just died; the next one looks at the queue by itself
                pass

    def _watch(self) -> None:
        while not self._ending.wait(_LOOK_EVERY):
            self._retrying(self._look)

    def _look(self) -> None:
        now = time.monotonic()
        if not self._has_taken_over:
            self._take_over()
        if self._process is None and now >= self._start_at:
            self._spawn()
        elif self._process is not None and self._process.poll() is not None:
            self._bury(now)
        if now >= self._care_at:
            self._care_at = now + _CARE_EVERY
            self._care()
        if now >= self._clear_at:
            self._clear_at = now + _CLEAR_EVERY
            sizes = self._files.sizes()
            for id in self._store.expire(self._config.keep, self._config.keep_bytes, sizes):
                self._files.remove(id)
            self._files.sweep(self._store.files())

    def _care(self) -> None:
        """Settle jobs that hang, and note those that are finished."""
        if self._store.needs_care(self._config.job_timeout + _TIMEOUT_GRACE):
            lost = self._store.requeue_lost(expired=True)
            if any(job.worker == self._name for job in lost):
                self._kill()  # it hangs, or was paused: what it still does is refused
            self._end_overdue()
            self._observe()

    def _spawn(self) -> None:
        self._number += 1
        self._name, self._born, self.state = f"{time.time_ns()}-{self._number}", time.monotonic(), "starting"
        self._waits_for_room = False
        given = json.dumps({"name": self._name, "config": self._config.to_json()})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "latent_shift.server.worker", given],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_environment(),
            start_new_session=True,  # Ctrl-C in a terminal is for the server, which tells the worker
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            answer = json.loads(line)
            if process is not self._process:
                return
            if "waits_for_room" in answer:
                self._waits_for_room = answer["waits_for_room"]
            else:
                self.state, self.message = answer["state"], answer.get("message", "")

    def _bury(self, now: float) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(OSError):  # an order that it did not live to read
                        pipe.close()
        self._process, self.state = None, "dead"
        self.restarts += 1
        self._young_deaths = self._young_deaths + 1 if now - self._born < _YOUNG else 0
        self._start_at = now + _PAUSES[min(self._young_deaths, len(_PAUSES) - 1)]
        self._store.requeue_lost(worker=self._name)

    def _end_overdue(self) -> None:
        """End a worker that does not notice that its batch takes too long."""
        overdue = self._store.overdue(self._config.job_timeout + _TIMEOUT_GRACE)
        for job in overdue:
            self._store.fail(job, "timeout", f"it took longer than {self._config.job_timeout:g} s")
        if any(job.worker == self._name for job in overdue):
            self._kill()

    def _kill(self) -> None:
        """End the worker for its jobs, unless it has given them up and only waits to say so."""
        if self._process is not None and not self._waits_for_room:
            self._process.kill()

    def _observe(self) -> None:
        for job in self._store.unobserved():
            self._on_finished(job)

    def _retrying(self, act: Callable[[], object]) -> None:
        """Do what the next look repeats; a full disk, or a fault, must not end the watch."""
        try:
            act()
        except StoreFullError:
            pass
        except Exception:
            traceback.print_exc()


def _environment() -> dict[str, str]:
    """The worker's environment: GNU OpenMP's threads give their cores up after a short wait, not a long one.

    The worker shares its cores with the server, which answers polls. Where one of its threads has to wait for
    a core, the others spin for it, and a clip takes several times as long. Either variable overrules this.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return {**os.environ}
    return {"GOMP_SPINCOUNT": "1000", **os.environ}
