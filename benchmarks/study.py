"""User studies with simulated raters: whether the statistics hold what they promise, and a demonstration.

python benchmarks/study.py coverage              # how often intervals hold the truth, how often no
                                                 # difference is called one, and the power
python benchmarks/study.py rate DIR              # let simulated raters answer a study, marked as such
"""

from __future__ import annotations

import argparse
import random
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray
from scipy import stats

from latent_shift.io import write_text
from latent_shift.media import write_clip
from latent_shift.moving_shapes.captions import caption
from latent_shift.moving_shapes.constants import FPS
from latent_shift.moving_shapes.protocol import SUBSETS
from latent_shift.moving_shapes.render import render
from latent_shift.study.design import DesignOptions, Question, Source, Study, all_pairs, draw_queue
from latent_shift.study.power import power
from latent_shift.study.simulation import Clock, Preference, rate, simulated_votes
from latent_shift.study.store import StudyStore
from latent_shift.study.votes import compare

PROGRAM = (sys.executable, "-c", "from latent_shift.cli.main import main; main()")
DESIGNS = ((300, 5, 30), (100, 5, 20), (40, 3, 12))  # prompts, raters a pair, pairs a rater
PREFERENCES = (
    Preference(0.5),
    Preference(0.5, same_rater=0.05),
    Preference(0.55),
    Preference(0.65, same_prompt=0.4, lapses=0.1),
)


def design(prompts: int, raters: int, pairs: int, seed: int = 0) -> Study:
    """A study of two sources without clips."""
    both = all_pairs(prompts, 2)
    return Study(
        created="2026-11-28T00:00:00+00:00",
        options=DesignOptions(
            raters_per_pair=raters, pairs_per_rater=pairs, seed=seed,
            questions=(Question(id="quality", text="Which clip looks better?", with_prompt=False),),
        ),
        frames=16, fps=8, height=256, width=256,
        prompts=tuple(f"prompt {number}" for number in range(prompts)),
        sources=(Source(name="a", made_by="a"), Source(name="b", made_by="b")),
        clips=(), pairs=both, training=(), catches=(),
        queue=draw_queue(both, raters, seed), sessions=(),
    )  # fmt: skip


def coverage(studies: int) -> None:
    """Simulate studies of each design and preference, and print a line each."""
    print("| prompts | raters | pairs a rater | true share | correlations | interval holds it | called"
          " different | exact test | power told | seconds |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (prompts, raters, pairs), preference in product(DESIGNS, PREFERENCES):
        began = time.perf_counter()
        study = design(prompts, raters, pairs)
        holds = different = exact = 0
        for seed in range(studies):
            votes, _, _ = simulated_votes(study, preference, seed)
            found = compare(votes, "quality", "a", "b")
            low, high = found.share.low, found.share.high
            holds += low <= preference.true_share <= high
            different += bool(found.different)
            exact += found.p_value is not None and found.p_value < 0.05
        told = power(preference.true_share, prompts, raters, pairs)
        counts = " | ".join(f"{count} of {studies}" for count in (holds, different, exact))
        print(
            f"| {prompts} | {raters} | {pairs} | {100 * preference.true_share:.1f} % |"
            f" {preference.same_prompt}, {preference.same_rater} | {counts} | {100 * told:.0f} % |"
            f" {time.perf_counter() - began:.0f} |",
            flush=True,
        )


def intervals(studies: int) -> None:
    """Print how often studies without a difference are called different, by ways to the variance.

    Variances of a mean over clusters in closed form, which the bootstrap comes to.
    """
    ways = ("prompts", "raters", "both, not below one", "both, not below answers", "both redrawn at once")
    print(f"| prompts | raters | pairs a rater | correlation of a rater | {' | '.join(ways)} |")
    print("|---|---|---|---|" + "---|" * len(ways))
    for (prompts, raters, pairs), same_rater in product((*DESIGNS, (20, 5, 20)), (0.0, 0.01, 0.05)):
        study, rng = design(prompts, raters, pairs), np.random.default_rng(0)
        mean, of_prompts, of_raters = Preference(0.5, same_rater=same_rater).deviations()
        by_prompt = np.array([trial.pair for trial in study.queue])
        by_rater = np.arange(len(by_prompt)) // pairs
        count = by_rater[-1] + 1
        liked = mean + of_prompts * rng.normal(size=(studies, prompts))[:, by_prompt]
        liked += of_raters * rng.normal(size=(studies, count))[:, by_rater]
        votes = (liked + rng.normal(size=liked.shape) > 0).astype(float)
        away = votes - votes.mean(1, keepdims=True)

        def variance(groups: NDArray[np.int64], away: NDArray[np.float64] = away) -> NDArray[np.float64]:
            members = np.eye(groups.max() + 1)[groups]
            return ((away @ members) ** 2).sum(1) / away.shape[1] ** 2

        prompt, rater = variance(by_prompt), variance(by_rater)
        answer = (away**2).sum(1) / away.shape[1] ** 2
        both = prompt + rater - answer
        tried = (prompt, rater, np.maximum(both, np.maximum(prompt, rater)), np.maximum(both, answer),
                 prompt + rater + answer)  # fmt: skip
        reach = stats.t.ppf(0.975, min(prompts, count) - 1)
        called = [np.mean(np.abs(votes.mean(1) - 0.5) > reach * np.sqrt(one)) for one in tried]
        shares = " | ".join(f"{100 * one:.1f} %" for one in called)
        print(f"| {prompts} | {raters} | {pairs} | {same_rater} | {shares} |", flush=True)


def kill(folder: Path, times: int) -> None:
    """Serve a study, kill the server again and again while four raters answer, and count."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address, heard, over = f"http://127.0.0.1:{port}", [], threading.Event()

    def start() -> subprocess.Popen[bytes]:
        arguments = ["study", "serve", str(folder), "--port", str(port)]
        return subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def call(path: str, body: dict[str, Any] | None = None) -> requests.Response | None:
        while not over.is_set():
            with suppress(requests.RequestException):
                if body is None:
                    return requests.get(address + path, timeout=10)
                return requests.post(address + path, json=body, timeout=10)
            time.sleep(0.05)
        return None

    def rater(invitation: str, number: int) -> None:
        while (joined := call("/api/join", {"invitation": invitation})) is not None:
            path = f"/api/r/{joined.json()['token']}"
            while (state := call(path)) is not None and (pair := state.json()["pair"]) is not None:
                body = {"showing": pair["showing"], "question": pair["question"]["id"], "choice": "left"}
                answer = call(f"{path}/answers", body)
                if answer is not None and answer.status_code == 200:
                    heard.append((body["showing"], body["question"]))

    store = StudyStore.open(folder)
    threads = [threading.Thread(target=rater, args=(store.invitation(), number)) for number in range(4)]
    process, rng = start(), random.Random(0)
    for thread in threads:
        thread.start()
    for _ in range(times):
        before = len(heard)
        while len(heard) < before + 3 and store.progress().whole < store.progress().wanted:
            time.sleep(0.05)
        time.sleep(0.3 * rng.random())
        process.kill()
        process.wait()
        process = start()
    over.set()
    for thread in threads:
        thread.join()
    process.kill()
    with sqlite3.connect(folder / "answers.sqlite") as database:
        stored = Counter(database.execute("SELECT showing, question FROM answers").fetchall())
    lost = [one for one in set(heard) if one not in stored]
    pairs = Counter((one.pair, one.question) for one in store.answers() if one.kind == "pair" and one.live)
    most = max(pairs.values(), default=0)
    print(
        f"{times} kills, {len(set(heard))} answers acknowledged: {len(lost)} lost, {max(stored.values()) - 1}"
        f" doubled, most answers of a pair {most} of {store.study.options.raters_per_pair}"
    )
    store.close()


def real_clips(folder: Path, count: int) -> None:
    """Write prompts.txt and the folder `real` of rendered clips, all prompts different."""
    scenes = {caption(scene): scene for scene in SUBSETS["level-1-seen"].scenes(2 * count)}
    texts = list(scenes)[:count]
    write_text(folder / "prompts.txt", "".join(f"{text}\n" for text in texts))
    for number, text in enumerate(texts):
        clip = render([scenes[text]])[0]
        write_clip(folder / "real" / f"{number:03}.mp4", clip, FPS, {"prompt": text}, overwrite=True)


def demonstrate(folder: Path, share: float, seed: int) -> None:
    """Answer a study by simulated raters, of whom one is careless and one leaves."""
    clock = Clock(time.time() - 6 * 3600)
    store = StudyStore.open(folder, clock)
    preference = Preference(share, lapses=0.02, unsure=0.3)
    rate(store, clock, preference, seed=seed, sloppy=(2,), leave={1: 12})
    store.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("coverage")
    one.add_argument("--studies", type=int, default=200)
    variances = commands.add_parser("intervals")
    variances.add_argument("--studies", type=int, default=4000)
    killed = commands.add_parser("kill")
    killed.add_argument("folder", type=Path)
    killed.add_argument("--times", type=int, default=20)
    clips = commands.add_parser("clips")
    clips.add_argument("folder", type=Path)
    clips.add_argument("--prompts", type=int, default=24)
    two = commands.add_parser("rate")
    two.add_argument("folder", type=Path)
    two.add_argument("--share", type=float, default=0.7, help="of votes for the earlier of two sources")
    two.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.command == "coverage":
        coverage(given.studies)
    elif given.command == "intervals":
        intervals(given.studies)
    elif given.command == "kill":
        kill(given.folder, given.times)
    elif given.command == "clips":
        real_clips(given.folder, given.prompts)
    else:
        demonstrate(given.folder, given.share, given.seed)


if __name__ == "__main__":
    main()
