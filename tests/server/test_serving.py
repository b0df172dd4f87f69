"""A whole server: its clients, its worker's death and pause, and its end."""

import asyncio
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import psutil
import pytest
import requests
import uvicorn
from starlette.testclient import TestClient
from typer.main import get_command

from latent_shift import generation, systems
from latent_shift.checkpoints import installed_models
from latent_shift.cli.main import app
from latent_shift.cli.serve import listening
from latent_shift.media import read_clip, read_settings, write_clip
from latent_shift.server.config import ServerConfig
from latent_shift.server.jobs import NewJob
from latent_shift.server.store import JobStore
from latent_shift.systems.base import GenerationRequest
from serving import start_server


def has_address(family, address):
    """Whether this machine has an address of its own."""
    try:
        with socket.socket(family) as one:
            one.bind((address, 0))
    except OSError:
        return False
    return True


PROMPT = "a red circle"
LONG = {"prompt": PROMPT, "num_inference_steps": 200}
SHUTDOWN = 10.0  # seconds, as promised
IPV6 = ("--host", "::1") if has_address(socket.AF_INET6, "::1") else ()


@pytest.fixture
def client(server):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenAI's own service has ended
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def running(server, video):
    """Wait until a video is being made."""
    end = time.monotonic() + 60
    while server.get(video["id"])["status"] != "in_progress":
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_openai_client_speaks_to_it(server, client):
    more = {"num_frames": 6, "seed": 3, "num_inference_steps": 2}
    video = client.videos.create_and_poll(prompt=PROMPT, size="32x32", seconds="4", extra_body=more)
    assert (video.status, video.progress, video.seed, video.num_frames) == ("completed", 100, 3, 6)
    assert client.videos.download_content(video.id).read()[4:8] == b"ftyp"
    assert client.videos.download_content(video.id, variant="thumbnail").read()[8:12] == b"WEBP"
    assert client.videos.download_content(video.id, variant="spritesheet").read()[:2] == b"\xff\xd8"
    remix = client.videos.remix(video.id, prompt="a green square")
    assert (remix.remixed_from_video_id, remix.seed) == (video.id, 3)
    assert client.videos.poll(remix.id).status == "completed"
    seen = [one.id for one in client.videos.list(limit=1)]  # all pages
    assert len(seen) == len(set(seen))
    assert {video.id, remix.id} <= set(seen)
    deleted = client.videos.delete(video.id)
    assert (deleted.id, deleted.deleted) == (video.id, True)
    with pytest.raises(openai.NotFoundError, match="there is none"):
        client.videos.retrieve(video.id)
    assert client.models.list().data[0].id == "tiny"
    with pytest.raises(openai.BadRequestError) as raised:
        client.videos.create(prompt=PROMPT, extra_body={"seed": "many"})
    assert (raised.value.param, raised.value.code) == ("seed", "invalid_request")
    with pytest.raises(openai.BadRequestError, match="text only"):
        client.videos.create(prompt=PROMPT, input_reference=b"bytes of an image")
    with pytest.raises(openai.NotFoundError, match="sora-2"):
        client.videos.create(prompt=PROMPT, model="sora-2")
    key = {"Idempotency-Key": "from-openai"}
    first, second = (client.videos.create(prompt=PROMPT, extra_headers=key) for _ in range(2))
    assert first.id == second.id


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_speaks_to_it(server, tmp_path):
    def curl(*arguments):
        command = ["curl", "-sS", "--fail", *arguments]
        return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout

    url = f"{server.url}/v1/videos"
    video = json.loads(
        curl(url, "-H", "Content-Type: application/json", "-d", json.dumps({"prompt": PROMPT}))
    )
    server.wait(video["id"])
    curl(f"{url}/{video['id']}/content", "-o", str(tmp_path / "clip.mp4"))
    assert read_settings(tmp_path / "clip.mp4")["seed"] == video["seed"]
    curl(url + "/sync", "-F", f"prompt={PROMPT}", "-F", "seed=5", "-o", str(tmp_path / "sync.mp4"))
    assert read_settings(tmp_path / "sync.mp4")["seed"] == 5
    settings = json.loads(curl(f"{url}/inspect", "-F", f"file=@{tmp_path / 'sync.mp4'}"))["settings"]
    assert settings["prompt"] == PROMPT
    assert json.loads(curl(url, "-d", "prompt=a form&num_frames=2"))["num_frames"] == 2


def test_clips_of_a_batch_are_the_systems_own(server, model, tmp_path):
    values = [{"prompt": f"{PROMPT} {seed}", "seed": seed, "num_frames": 8} for seed in range(5)]
    blocking = server.create(**LONG)  # meanwhile the others wait, and are claimed together
    videos = [server.create(**each) for each in values]
    server.wait(blocking["id"])
    done = [server.wait(video["id"]) for video in videos]
    assert [video["status"] for video in done] == ["completed"] * 5
    system = systems.load(model, device="cpu", dtype="fp32")  # as the server
    alone = [GenerationRequest(prompt=each["prompt"], seed=each["seed"], frames=8) for each in values]
    for video, made in zip(done, generation.run(system, alone, max_batch=1), strict=True):
        settings = generation.clip_settings(made, "tiny", system.info())
        file = write_clip(tmp_path / f"{video['id']}.mp4", made.clip, 8, settings)
        content = requests.get(f"{server.url}/v1/videos/{video['id']}/content", timeout=30).content
        (tmp_path / "served.mp4").write_bytes(content)
        assert read_settings(tmp_path / "served.mp4") == read_settings(file)
        # The encoder gives one of two files for the same frames, by the process (docs/log.md).
        frames, wanted = (read_clip(path)[0].astype(int) for path in (tmp_path / "served.mp4", file))
        assert np.abs(frames - wanted).mean() < 2


def test_sync_answers_with_the_clip_and_cancels_for_a_client_that_goes(server):
    url = f"{server.url}/v1/videos/sync"
    answer = requests.post(url, json={"prompt": PROMPT, "seed": 2}, timeout=60)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["x-model"] == "tiny"
    assert float(answer.headers["x-inference-time-s"]) > 0
    with pytest.raises(requests.Timeout):
        requests.post(url, json={**LONG, "seed": 99}, timeout=0.5)
    end = time.monotonic() + 60
    while True:
        newest = requests.get(f"{server.url}/v1/videos?limit=1", timeout=30).json()["data"][0]
        if newest["status"] == "failed":
            break
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (newest["seed"], newest["error"]["code"]) == (99, "cancelled")


def test_sync_with_a_key_goes_on_for_the_repeat_of_a_client_that_went(server):
    url, headers = f"{server.url}/v1/videos/sync", {"Idempotency-Key": "of-sync"}
    body = {**LONG, "seed": 98}
    with pytest.raises(requests.Timeout):
        requests.post(url, json=body, headers=headers, timeout=0.5)
    end = time.monotonic() + 60
    newest = {"seed": None}
    while newest["seed"] != 98:
        assert time.monotonic() < end
        newest = requests.get(f"{server.url}/v1/videos?limit=1", timeout=30).json()["data"][0]
    time.sleep(0.5)  # in which the server sees that the client has gone
    answer = requests.post(url, json=body, headers=headers, timeout=300)
    assert answer.status_code == 200
    assert answer.headers["x-video-id"] == newest["id"]


def test_events_show_rising_progress_and_previews(server):
    video = server.create(**LONG)
    shown, previews = [], []
    with requests.get(f"{server.url}/v1/videos/{video['id']}/events", stream=True, timeout=60) as answer:
        name = ""
        for line in answer.iter_lines(decode_unicode=True):
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                (shown if name == "status" else previews).append(data)
    assert [one["progress"] for one in shown] == sorted(one["progress"] for one in shown)
    assert len(shown) > 3
    assert (shown[-1]["status"], shown[-1]["progress"]) == ("completed", 100)
    assert previews
    assert [one["step"] for one in previews] == sorted(one["step"] for one in previews)
    assert previews[0]["image"].startswith("data:image/webp;base64,")


def test_a_running_job_stops_when_it_is_cancelled_or_deleted(server):
    for act in ("cancel", "delete"):
        video = server.create(**LONG, num_frames=128)  # minutes, if it went on
        running(server, video)
        url = f"{server.url}/v1/videos/{video['id']}"
        answer = (
            requests.post(f"{url}/cancel", timeout=30)
            if act == "cancel"
            else requests.delete(url, timeout=30)
        )
        assert answer.status_code == 200
        assert server.wait(server.create(prompt=PROMPT)["id"])["status"] == "completed"
    assert requests.get(url, timeout=30).status_code == 404


def test_a_burst_is_answered_or_refused_in_the_open(server):
    def post(seed):
        return requests.post(f"{server.url}/v1/videos", json={"prompt": PROMPT, "seed": seed}, timeout=60)

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(post, range(40)))
    assert {answer.status_code for answer in answers} <= {200, 429}
    ids = [answer.json()["id"] for answer in answers if answer.status_code == 200]
    assert len(set(ids)) == len(ids) >= 30
    assert {server.wait(id)["status"] for id in ids} == {"completed"}


@pytest.mark.slow
def test_a_stopped_server_loses_nothing(model, tmp_path):
    options = (tmp_path / "data", "--model", f"tiny={model}")
    server = start_server(*options)
    video = server.create(**LONG, seed=4)
    running(server, video)
    waiting = server.create(prompt=PROMPT, seed=5)
    (worker,) = psutil.Process(server.process.pid).children()
    assert server.stop() < SHUTDOWN
    assert server.process.returncode == 0
    assert not worker.is_running()
    (clips := tmp_path / "data" / "clips").mkdir(exist_ok=True)
    left = clips / f"{waiting['id']}.9.mp4"  # as of a worker that died when it had written its clip
    left.write_bytes(b"a clip of a claim that is lost")
    store = JobStore(tmp_path / "data")
    kept = [store.get(one["id"]) for one in (video, waiting)]
    assert {job.status for job in kept} <= {"queued", "completed"}
    assert [job.attempts for job in kept if job.status == "queued"] in ([], [0], [0, 0])
    store.close()
    again = start_server(*options, *IPV6, ready=False)
    assert again.url.startswith("http://[::1]:" if IPV6 else "http://127.0.0.1:")
    assert not left.exists()
    done = [again.wait(one["id"]) for one in (video, waiting)]
    assert [(one["status"], one["seed"]) for one in done] == [("completed", 4), ("completed", 5)]
    assert again.stop() < SHUTDOWN


@pytest.mark.slow
def test_kills_lose_nothing(model, tmp_path):
    program = Path(__file__).parents[2] / "benchmarks" / "serve_kills.py"
    command = [sys.executable, program, "--kills", "6", "--model", f"tiny={model}", "--data", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert sum(found["kills"].values()) >= 6
    assert found["jobs"] > 2


@pytest.mark.slow
def test_a_worker_paused_past_its_lease_writes_nothing(model, tmp_path):
    config = ServerConfig(data=tmp_path, models={"tiny": str(model)}, lease=1.0)
    store = JobStore(tmp_path)
    settled = systems.inspect(model).settle(GenerationRequest(prompt=PROMPT, seed=1, frames=4, steps=400))
    new = NewJob(model="tiny", request=settled.model_dump(), shape="s")
    job, _ = store.add(new, max_queued=9, max_queued_per_owner=9)
    given = json.dumps({"name": "paused", "config": config.to_json()})
    command = [sys.executable, "-m", "latent_shift.server.worker", given]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert json.loads(worker.stdout.readline()) == {"state": "ready"}
        while store.get(job.id).progress == 0:
            time.sleep(0.02)
        os.kill(worker.pid, signal.SIGSTOP)
        while not store.requeue_lost(expired=True):
            time.sleep(0.05)
        (claimed,) = store.claim("other", 60, lambda job: 1)
        os.kill(worker.pid, signal.SIGCONT)
        time.sleep(1.5)
        assert store.get(job.id) == claimed
        assert list((tmp_path / "clips").iterdir()) == []
        following, _ = store.add(
            NewJob(model="tiny", request={**settled.model_dump(), "steps": 1}, shape="t"),
            max_queued=9, max_queued_per_owner=9,
        )  # fmt: skip
        while store.get(following.id).status != "completed":  # it works on
            time.sleep(0.05)
        worker.stdin.close()  # the server is gone
        assert worker.wait(10) == 0
    store.close()


def test_threads_of_clients_get_one_job_for_one_key(server):
    answers = []

    def post():
        headers = {"Idempotency-Key": "one-key"}
        answers.append(
            requests.post(f"{server.url}/v1/videos", json={"prompt": PROMPT}, headers=headers, timeout=60)
        )

    threads = [threading.Thread(target=post) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_all_built_in_models_are_served_where_none_is_named(tmp_path, monkeypatch):
    seen = []

    def look(self, sockets):
        client = TestClient(self.config.app, base_url="http://127.0.0.1")
        seen.extend(client.get("/v1/models").json()["data"])
        seen.append(client.post("/v1/videos", json={"prompt": PROMPT}).json()["model"])

    monkeypatch.setattr(uvicorn.Server, "run", look)
    get_command(app).main(["serve", "--port", "0", "--data", str(tmp_path)], standalone_mode=False)
    gc.unfreeze()
    *models, default = seen
    assert [one["id"] for one in models] == list(installed_models())
    assert default == models[0]["id"] == "moving-shapes"
    assert all(one["examples"] for one in models)


def test_answers_on_a_connection_that_is_kept_do_not_wait(tmp_path):
    delays = []

    async def one_answer():
        async def answer(reader, writer):
            own = writer.get_extra_info("socket")
            delays.append(own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0)
            writer.close()

        with listening("127.0.0.1", 0) as listener:
            server = await asyncio.start_server(answer, sock=listener)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()
            server.close()

    asyncio.run(one_answer())
    assert delays == [False]
