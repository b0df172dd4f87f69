"""SIGKILL of a server's worker, of the server and of both at every change of a job's state: what is lost?

    python benchmarks/serve_kills.py [--kills 200] [--model moving-shapes] [--data DIR] [--seed 0]

Clients keep a short queue of small jobs, each with an Idempotency-Key, and repeat what was not answered.
Fault points (`latent_shift.server.faults`) kill the worker when it has claimed a job, reported a step,
written a file or completed a job, and the server when it has stored a job or returned one to the queue; other
kills come at random times. In the end every job must have become one completed video with a clip, no video
may be there twice, and no progress may have been seen to fall; when the server has started once more, no
file may lie there that belongs to no video. Prints one JSON object; exit status 1 where a sentence above
does not hold.

Server and worker are processes of their own, forked from one that has imported everything: a start takes
tenths of a second instead of many. The pause before a worker that died young is started again is cut short.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

WORKER_POINTS = ("claimed", "step", "written", "completed")
SERVER_POINTS = ("inserted:3", "requeued", "")  # "": at a random time
TARGETS = ("worker", "worker", "server", "worker", "both")
QUEUE = 5  # jobs that are under way at once
PATIENCE = 120.0  # seconds for all to be made in the end
MUST_BE_NONE = ("lost", "twice", "not completed", "without a clip", "files left behind", "faults")
POINT_PATIENCE = 30.0  # seconds for a fault point to be reached


class Nursery:
    """A process with all imports done, from which servers and workers are forked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, str(folder / "nursery")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self.process = os.fork()
        if self.process == 0:
            try:
                self._serve()
            finally:
                os._exit(1)
        self._listener.close()

    def spawn(self, kind: str, arguments: list[str], fault: str, files: list[int]) -> int:
        """Fork a "server" or "worker" with these standard input and output; its process id."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.path)
            request = json.dumps({"kind": kind, "arguments": arguments, "fault": fault}).encode()
            socket.send_fds(connection, [request], files)
            return int(connection.recv(32))

    def deaths(self) -> Counter[str]:
        """Processes that died by SIGKILL, by kind."""
        file = self.folder / "deaths"
        return Counter(file.read_text().split() if file.is_file() else [])

    def _serve(self) -> None:
        names = "server.app server.worker cli.main pipeline systems.latent_shift autoencoder"
        for module in ("uvicorn", *(f"latent_shift.{name}" for name in names.split())):
            importlib.import_module(module)
        for package, names in (  # they import what they name when it is first asked for
            ("diffusers", "StableDiffusionPipeline UNet2DConditionModel AutoencoderKL DDIMScheduler"),
            ("transformers", "CLIPTextModel CLIPTokenizer"),
        ):
            for name in names.split():
                getattr(importlib.import_module(package), name)
        from latent_shift.checkpoints.quiet import quiet_libraries

        quiet_libraries()
        self._listener.settimeout(0.02)
        kinds: dict[int, str] = {}
        while os.getppid() != 1:
            self._reap(kinds)
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            with connection:
                text, files, *_ = socket.recv_fds(connection, 1 << 16, 2)
                if len(files) < 2:  # it died while it asked
                    continue
                request = json.loads(text)
                pid = os.fork()
                if pid == 0:
                    self._listener.close()
                    self._become(request, files)
                kinds[pid] = request["kind"]
                for file in files:
                    os.close(file)
                with suppress(OSError):
                    connection.send(str(pid).encode())

    def _reap(self, kinds: dict[int, str]) -> None:
        while kinds:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            kind = kinds.pop(pid)
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
                with (self.folder / "deaths").open("a") as file:
                    file.write(f"{kind}\n")

    def _become(self, request: dict[str, Any], files: list[int]) -> None:
        from latent_shift.server import faults, supervisor, worker

        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
        own = self.folder / "worker-fault"
        fault = request["fault"]
        if request["kind"] == "worker" and own.is_file():
            fault = own.read_text()
        os.environ["LATENT_SHIFT_FAULT"] = fault
        importlib.reload(faults)
        if request["kind"] == "worker":
            os._exit(worker.main(*request["arguments"]))
        from latent_shift.cli import errors
        from latent_shift.cli.main import app

        sys.stdout = os.fdopen(os.dup(1), "w")
        supervisor._PAUSES = (0.05,)
        supervisor.subprocess.Popen = lambda command, **_: Forked(self, "worker", command[-1:], "")
        os._exit(errors.run(app, request["arguments"]))


class Forked:
    """A process of the nursery, as `subprocess.Popen` presents one."""

    def __init__(self, nursery: Nursery, kind: str, arguments: list[str], fault: str) -> None:
        (their_in, our_in), (our_out, their_out) = os.pipe(), os.pipe()
        self.pid = nursery.spawn(kind, arguments, fault, [their_in, their_out])
        os.close(their_in)
        os.close(their_out)
        self.stdin, self.stdout = os.fdopen(our_in, "w"), os.fdopen(our_out, "r")

    def poll(self) -> int | None:
        """A status where the process is gone."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return -signal.SIGKILL
        return None

    def wait(self, timeout: float) -> int:
        """Wait for the end. Raises TimeoutExpired."""
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("forked", timeout)
            time.sleep(0.01)
        return status

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Trial:
    """Clients of a server that dies again and again, and what they saw."""

    def __init__(self, nursery: Nursery, options: list[str]) -> None:
        self.nursery, self.options = nursery, options
        self.server: Forked | None = None
        self.url = ""
        self.ids: dict[str, str] = {}  # by key
        self.progress: dict[str, int] = {}  # of those not yet seen completed, by id
        self.faults: list[str] = []
        self.unanswered = self.missed = 0
        self.done = threading.Event()
        self.filling = threading.Event()
        self.filling.set()

    def start(self, fault: str = "") -> None:
        """Start the server."""
        self.server = Forked(self.nursery, "server", self.options, fault)
        line = self.server.stdout.readline()
        self.url = line.split()[1] if line.startswith("serving") else self.url

    def submit(self) -> None:
        """Keep jobs under way, each by its own key; a thread."""
        number = 0
        while not self.done.is_set():
            if len(self.progress) >= QUEUE or not self.filling.is_set():
                time.sleep(0.01)
                continue
            body = {
                "prompt": "a red circle",
                "seed": number,
                "num_frames": 1 + number % 3,
                "num_inference_steps": 4,
            }
            try:
                answer = requests.post(
                    f"{self.url}/v1/videos", json=body, headers={"Idempotency-Key": f"k{number}"}, timeout=10
                )
            except requests.RequestException:
                self.unanswered += 1
                time.sleep(0.02)
                continue
            if answer.status_code != 200:
                self.faults.append(f"POST: {answer.status_code} {answer.text}")
                continue
            id = answer.json()["id"]
            self.ids[f"k{number}"] = id
            self.progress[id] = 0
            number += 1

    def follow(self) -> None:
        """Look at all jobs under way; a thread."""
        while not self.done.is_set():
            for id in list(self.progress):
                try:
                    answer = requests.get(f"{self.url}/v1/videos/{id}", timeout=10)
                except requests.RequestException:
                    time.sleep(0.02)
                    continue
                self.note(id, answer)
            time.sleep(0.02)

    def note(self, id: str, answer: requests.Response) -> None:
        """Check one look at a job."""
        if answer.status_code != 200:
            self.faults.append(f"GET {id}: {answer.status_code}")
            return
        video = answer.json()
        if video["progress"] < self.progress[id]:
            self.faults.append(f"{id}: progress fell from {self.progress[id]} to {video['progress']}")
        self.progress[id] = video["progress"]
        if video["status"] == "failed":
            self.faults.append(f"{id}: {video['error']}")
        if video["status"] in ("completed", "failed"):
            del self.progress[id]

    def kill(self, target: str, chance: random.Random, number: int) -> None:
        """Bring about one more death of the target."""
        before = self.nursery.deaths()
        if target == "worker":
            point = f"{WORKER_POINTS[number % len(WORKER_POINTS)]}:{chance.randint(1, 3)}"
            (self.nursery.folder / "worker-fault").write_text(point)
            self._await(lambda: self.nursery.deaths()["worker"] > before["worker"], keep=True)
            return
        point = SERVER_POINTS[number % len(SERVER_POINTS)] if target == "server" else ""
        if point:  # of the next server, which dies by it
            self.server.kill()
            self.server.wait(PATIENCE)
            self.start(point)
            self._await(lambda: self.server.poll() is not None)
            self.server.kill()  # where it did not come to that point
        else:
            time.sleep(chance.uniform(0, 0.5))
            worker = self._worker() if target == "both" else None
            self.server.kill()
            if worker is not None:
                os.kill(worker, signal.SIGKILL)
            self._await(lambda: self.server.poll() is not None)
        self.start()

    def _worker(self) -> int | None:
        """The newest worker, by what it was started with: children of the nursery are siblings."""
        children = (
            Path(f"/proc/{self.nursery.process}/task/{self.nursery.process}/children").read_text().split()
        )
        others = [int(pid) for pid in children if int(pid) != self.server.pid]
        return max(others, default=None)

    def _await(self, true: Any, *, keep: bool = False) -> None:
        """Wait until something is true; keep: start the server again where it dies meanwhile."""
        end = time.monotonic() + POINT_PATIENCE
        while not true():
            if keep and self.server.poll() is not None:
                self.start()
            if time.monotonic() > end:
                self.missed += 1
                return
            time.sleep(0.01)


def listed(url: str) -> list[dict[str, Any]]:
    """All videos of a server."""
    videos: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = requests.get(
            f"{url}/v1/videos", params={"limit": "100", "order": "asc", **after}, timeout=30
        ).json()
        videos += page["data"]
        if not page["has_more"]:
            return videos
        after = {"after": page["last_id"]}


def run(kills: int, model: str, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Kill so often; the findings."""
    folder.mkdir(parents=True, exist_ok=True)
    nursery = Nursery(folder)
    data = folder / "data"
    options = ["serve", "--port", "0", "--data", str(data), "--model", model, "--max-attempts", "100"]
    trial = Trial(nursery, options)
    began, chance = time.monotonic(), random.Random(seed)
    trial.start()
    threads = [threading.Thread(target=work, daemon=True) for work in (trial.submit, trial.follow)]
    for thread in threads:
        thread.start()
    number = 0
    while sum(nursery.deaths().values()) < kills:
        trial.kill(TARGETS[number % len(TARGETS)], chance, number)
        number += 1
    trial.filling.clear()
    (folder / "worker-fault").write_text("")
    worker = trial._worker()  # its fault point is still set: it may die once more
    if worker is not None:
        os.kill(worker, signal.SIGKILL)
    end = time.monotonic() + PATIENCE
    while trial.progress and time.monotonic() < end:
        time.sleep(0.05)
    trial.done.set()
    for thread in threads:
        thread.join()
    videos = listed(trial.url)
    contents = [requests.get(f"{trial.url}/v1/videos/{one['id']}/content", timeout=30) for one in videos]
    for starts_again in (True, False):
        os.kill(trial.server.pid, signal.SIGTERM)
        trial.server.wait(PATIENCE)
        if starts_again:
            trial.start()
            requests.get(f"{trial.url}/livez", timeout=PATIENCE)  # it has cleared up
    os.kill(nursery.process, signal.SIGKILL)
    os.waitpid(nursery.process, 0)
    ids = [one["id"] for one in videos]
    clips = [path.name for path in (data / "clips").iterdir()]
    files = {name.split(".")[0] for name in clips}
    return {
        "kills": dict(nursery.deaths()),
        "seconds": round(time.monotonic() - began, 1),
        "fault points not reached": trial.missed,
        "jobs": len(trial.ids),
        "unanswered posts repeated": trial.unanswered,
        "lost": len(set(trial.ids.values()) - set(ids)) + len(trial.progress),
        "twice": len(ids) - len(set(ids)) + len(trial.ids) - len(set(trial.ids.values())),
        "not completed": sum(one["status"] != "completed" for one in videos),
        "without a clip": sum(answer.status_code != 200 or not answer.content for answer in contents)
        + len(set(ids) - files),
        "files left behind": len(clips) - len(files & set(ids)),
        "of nobody": len(set(ids) - set(trial.ids.values())),
        "faults": trial.faults,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--model", default="moving-shapes")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(given.kills, given.model, given.data or Path(folder), given.seed)
    print(json.dumps(found))
    return 1 if any(found[name] for name in MUST_BE_NONE) else 0


if __name__ == "__main__":
    sys.exit(main())
