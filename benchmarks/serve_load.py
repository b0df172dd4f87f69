"""A server under load: a burst of requests against `generation.run`, and memory over many jobs.

    python benchmarks/serve_load.py burst [--requests 200] [--steps 4] [--model moving-shapes]
    python benchmarks/serve_load.py memory [--jobs 1000] [--model moving-shapes]

`burst`: all requests are sent at once, from as many threads; each must be answered with 200 or 429, and those
taken must complete. The clips a second from the first claim to the last clip are divided by those of
`generation.run` on the same requests in one process, with each clip written to a file, before and after; the
core-seconds a clip of server and worker together likewise, which other work on the machine disturbs less.
`memory`: resident megabytes of server and worker after each tenth of the jobs. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import requests

from latent_shift import generation, systems
from latent_shift.checkpoints.quiet import quiet_libraries
from latent_shift.media import write_clip
from latent_shift.systems.base import GenerationRequest

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from serving import Server, running_server

PROMPT = "a red circle"


def direct(model: str, number: int, steps: int, folder: Path) -> tuple[float, float]:
    """Clips a second of `generation.run`, files included, and core-seconds a clip."""
    quiet_libraries()
    system = systems.load(model)
    wanted = [GenerationRequest(prompt=PROMPT, seed=seed, steps=steps) for seed in range(number)]
    list(generation.run(system, wanted[:1]))
    began, busy = time.perf_counter(), time.process_time()
    for seed, made in enumerate(generation.run(system, wanted)):
        settings = generation.clip_settings(made, model, system.info())
        write_clip(folder / f"{seed}.mp4", made.clip, made.request.fps, settings)
    return number / (time.perf_counter() - began), (time.process_time() - busy) / number


def served(server: Server, number: int, steps: int) -> dict[str, Any]:
    """Answers to a burst, and clips a second."""
    answers: list[requests.Response] = []
    gate = threading.Barrier(number)

    def post(seed: int) -> None:
        body = {"prompt": PROMPT, "seed": seed, "num_inference_steps": steps}
        gate.wait()
        answers.append(requests.post(f"{server.url}/v1/videos", json=body, timeout=120))

    server.wait(server.create(prompt=PROMPT, num_inference_steps=1)["id"])
    threads = [threading.Thread(target=post, args=(seed,)) for seed in range(number)]
    for thread in threads:
        thread.start()
    began, busy = time.perf_counter(), core_seconds(server)
    for thread in threads:
        thread.join()
    answered = time.perf_counter() - began
    ids = [answer.json()["id"] for answer in answers if answer.status_code == 200]
    states = Counter(server.wait(id, within=3600)["status"] for id in ids)
    seconds = time.perf_counter() - began
    return {
        "answers": dict(Counter(answer.status_code for answer in answers)),
        "all answered after s": round(answered, 2),
        "states": dict(states),
        "clips a second": round(len(ids) / seconds, 3),
        "core-seconds a clip": round((core_seconds(server) - busy) / len(ids), 3),
    }


def core_seconds(server: Server) -> float:
    """Processor time of a server and its worker so far."""
    process = psutil.Process(server.process.pid)
    times = [one.cpu_times() for one in (process, *process.children())]
    return sum(one.user + one.system for one in times)


def burst(model: str, number: int, steps: int, folder: Path) -> dict[str, Any]:
    """The comparison."""
    few = max(10, number // 10)
    (folder / "before").mkdir()
    (folder / "after").mkdir()
    before = direct(model, few, steps, folder / "before")
    with running_server(folder / "data", "--model", model) as server:
        found = served(server, number, steps)
    after = direct(model, few, steps, folder / "after")
    rates, costs = zip(before, after, strict=True)
    plain = {"clips a second": sum(rates) / 2, "core-seconds a clip": sum(costs) / 2}
    return {
        **found,
        "generation.run": {name: round(value, 3) for name, value in plain.items()},
        "ratio of clips a second": round(found["clips a second"] / plain["clips a second"], 3),
        "ratio of core-seconds": round(plain["core-seconds a clip"] / found["core-seconds a clip"], 3),
    }


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
    parser.add_argument("--model", default="moving-shapes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "burst":
            found = burst(given.model, given.requests, given.steps, Path(folder))
        else:
            found = memory(given.model, given.jobs, Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
