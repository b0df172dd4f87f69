"""A server under load: bursts of requests against `generation.run`, and memory over many jobs.

    python benchmarks/serve_load.py burst [--requests 200] [--pairs 2] [--steps 4] [--model moving-shapes]
    python benchmarks/serve_load.py memory [--jobs 1000] [--model moving-shapes]

`burst`: all requests are sent at once, from as many threads; each must be answered with 200 or 429, and those
taken must complete. They are looked at, one after the other, as often as the server advises.
`generation.run` makes the same requests in this process, with each clip written to a file. The two take
turns in pairs, the other one first in every second pair, on a server and a model that stay loaded; the ratio
is that of all clips a second (from the first request to the last clip), and of core-seconds a clip (server
and worker together), which other work on the machine disturbs less.
`memory`: resident megabytes of server and worker after each tenth of the jobs. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
import torch

from latent_shift import generation, systems
from latent_shift.checkpoints.quiet import quiet_libraries
from latent_shift.media import write_clip
from latent_shift.systems.base import GenerationRequest, TextToVideoSystem

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from serving import Server, running_server

PROMPT = "a red circle"


@dataclass(frozen=True)
class Turn:
    """Clips made, and what they took: seconds, and core-seconds."""

    clips: int
    seconds: float
    core_seconds: float


def direct(system: TextToVideoSystem, model: str, number: int, steps: int, folder: Path) -> Turn:
    """A turn of `generation.run`, files included."""
    wanted = [GenerationRequest(prompt=PROMPT, seed=seed, steps=steps) for seed in range(number)]
    began, busy = time.perf_counter(), time.process_time()
    for seed, made in enumerate(generation.run(system, wanted)):
        settings = generation.clip_settings(made, model, system.info())
        write_clip(folder / f"{seed}.mp4", made.clip, made.request.fps, settings, overwrite=True)
    return Turn(number, time.perf_counter() - began, time.process_time() - busy)


def served(server: Server, number: int, steps: int, answers: Counter[str]) -> Turn:
    """A turn of the server: one burst. answers: statuses of HTTP and of jobs are counted there."""
    given: list[requests.Response] = []
    gate = threading.Barrier(number + 1)

    def post(seed: int) -> None:
        body = {"prompt": PROMPT, "seed": seed, "num_inference_steps": steps}
        gate.wait()
        given.append(requests.post(f"{server.url}/v1/videos", json=body, timeout=120))

    threads = [threading.Thread(target=post, args=(seed,)) for seed in range(number)]
    for thread in threads:
        thread.start()
    gate.wait()
    began, busy = time.perf_counter(), core_seconds(server)
    for thread in threads:
        thread.join()
    answers["slowest answer, s"] = max(answers["slowest answer, s"], math.ceil(time.perf_counter() - began))
    answers.update(f"HTTP {answer.status_code}" for answer in given)
    ids = [answer.json()["id"] for answer in given if answer.status_code == 200]
    with requests.Session() as session:
        answers.update(wait_as_advised(session, f"{server.url}/v1/videos/{id}") for id in ids)
    return Turn(len(ids), time.perf_counter() - began, core_seconds(server) - busy)


def wait_as_advised(session: requests.Session, url: str) -> str:
    """The status of a job when it is finished, looked at as often as the server says."""
    while True:
        answer = session.get(url, timeout=60)
        status = answer.json()["status"]
        if status not in ("queued", "in_progress"):
            return str(status)
        time.sleep(int(answer.headers["openai-poll-after-ms"]) / 1000)


def core_seconds(server: Server) -> float:
    """Processor time of a server and its worker so far."""
    process = psutil.Process(server.process.pid)
    times = [one.cpu_times() for one in (process, *process.children())]
    return sum(one.user + one.system for one in times)


def burst(model: str, number: int, steps: int, pairs: int, folder: Path) -> dict[str, Any]:
    """The comparison."""
    quiet_libraries()
    system = systems.load(model)
    answers: Counter[str] = Counter()
    turns: dict[str, list[Turn]] = {"server": [], "generation.run": []}
    # Tests serve in float32; here both sides take the model's own precision.
    with running_server(folder / "data", "--model", model, "--dtype", "auto") as server:
        direct(system, model, 1, steps, folder)
        served(server, 1, steps, Counter())
        for pair in range(pairs):
            for who in sorted(turns, reverse=pair % 2 == 0):
                if who == "server":
                    turns[who].append(served(server, number, steps, answers))
                else:
                    turns[who].append(direct(system, model, number, steps, folder))
                print(f"pair {pair + 1}, {who}: {turns[who][-1]}", file=sys.stderr, flush=True)
    found: dict[str, Any] = {"answers": dict(answers), "threads": torch.get_num_threads()}
    for who, own in turns.items():
        clips = sum(turn.clips for turn in own)
        found[who] = {
            "clips a second": round(clips / sum(turn.seconds for turn in own), 3),
            "core-seconds a clip": round(sum(turn.core_seconds for turn in own) / clips, 3),
        }
    ours, plain = found["server"], found["generation.run"]
    found["ratio of clips a second"] = round(ours["clips a second"] / plain["clips a second"], 3)
    found["ratio of core-seconds"] = round(plain["core-seconds a clip"] / ours["core-seconds a clip"], 3)
    return found


def memory(model: str, jobs: int, folder: Path) -> dict[str, Any]:
    """Resident megabytes along the way."""
    found: dict[str, list[int]] = {"jobs": [], "server": [], "worker": []}
    with running_server(folder / "data", "--model", model) as server:
        process = psutil.Process(server.process.pid)
        for job in range(1, jobs + 1):
            fields = {"prompt": PROMPT, "num_frames": 1 + job % 4, "num_inference_steps": 1 + job % 3}
            video = server.wait(server.create(**fields, seed=job)["id"])
            assert video["status"] == "completed", video
            requests.get(f"{server.url}/v1/videos/{video['id']}/content", timeout=30)
            if job % max(1, jobs // 10) == 0:
                (worker,) = process.children()
                found["jobs"].append(job)
                found["server"].append(process.memory_info().rss // 10**6)
                found["worker"].append(worker.memory_info().rss // 10**6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("burst", "memory"))
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--model", default="moving-shapes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "burst":
            found = burst(given.model, given.requests, given.steps, given.pairs, Path(folder))
        else:
            found = memory(given.model, given.jobs, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
