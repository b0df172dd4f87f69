"""A demonstration study: the clips that `latent-shift compare` made against each other, by simulated raters.

    python benchmarks/study_demo.py runs/compare/compare-6 demo [--rows latent_shift,latent_vdm]
        [--prompts 12] [--screenshots docs/study]

One command from a comparison's folder to a report: it takes the first seed's clips of each row (all rows with
clips, where none are named) and real clips of the same prompts, half of them of each subset, makes the study,
lets simulated raters answer it, and writes the report. In `demo`: prompts.txt, a folder of clips for each
source, study/, report.html, report.md. With --screenshots the page of raters and the head of the report are
photographed in Chromium, before and after.

The raters are simulated and prefer the earlier source of two in 60 % of votes: the answers say nothing about
the clips. One rater answers at random and is excluded, one leaves in the middle.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

import numpy as np
import uvicorn
from numpy.typing import NDArray
from safetensors.numpy import load_file

from latent_shift.generation import read_prompts
from latent_shift.io import write_text
from latent_shift.media import write_clip
from latent_shift.moving_shapes.captions import caption
from latent_shift.moving_shapes.constants import FPS, FRAMES
from latent_shift.moving_shapes.protocol import SUBSETS
from latent_shift.study.analysis import analyse
from latent_shift.study.app import create_app
from latent_shift.study.create import create_study
from latent_shift.study.design import DesignOptions
from latent_shift.study.report import html, markdown
from latent_shift.study.simulation import Clock, Preference, rate
from latent_shift.study.sources import ReadOptions, open_sources
from latent_shift.study.store import StudyStore

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
REAL = "real"
Clips = NDArray[np.uint8]


def row_clips(comparison: Path, row: str) -> dict[str, dict[int, Clips]]:
    """Clips (F, H, W, 3) of a row's first seed, by subset and the number of the prompt."""
    found: dict[str, dict[int, Clips]] = {}
    for file in sorted((comparison / "rows" / row / "seed-0" / "clips").glob("*-*-*.safetensors")):
        subset, first, _ = file.stem.rsplit("-", 2)
        if subset in SUBSETS:
            clips = load_file(file)["frames"]
            found.setdefault(subset, {}).update({int(first) + at: clip for at, clip in enumerate(clips)})
    return found


def rows_with_clips(comparison: Path) -> list[str]:
    """Names of the rows that have clips."""
    return sorted(file.parents[1].name for file in comparison.glob("rows/*/seed-0/clips"))


def take_clips(comparison: Path, folder: Path, rows: list[str], count: int) -> None:
    """Write prompts.txt and a folder of clips for each row, and of real ones."""
    by_row = {row: row_clips(comparison, row) for row in rows}
    common = [
        [
            (subset, number)
            for number in range(count)
            if all(number in clips.get(subset, ()) for clips in by_row.values())
        ]
        for subset in SUBSETS
    ]
    texts: dict[str, tuple[str, int]] = {}
    for place in (one for both in zip_longest(*filter(None, common)) for one in both if one is not None):
        scene = SUBSETS[place[0]].scenes(place[1] + 1)[place[1]]
        if len(texts) < count:
            texts.setdefault(caption(scene), place)
    if len(texts) < 2:
        raise SystemExit(
            f"{comparison}: {len(texts)} prompts have clips of {', '.join(rows)}; two are needed"
        )
    write_text(folder / "prompts.txt", "".join(f"{text}\n" for text in texts))
    for at, (text, (subset, number)) in enumerate(texts.items()):
        made = {row: clips[subset][number] for row, clips in by_row.items()}
        frames = len(next(iter(made.values())))
        scene = SUBSETS[subset].scenes(number + 1)[number]
        made[REAL] = SUBSETS[subset].render([number], [scene], frames)[0]
        for name, clip in made.items():
            file = folder / name / f"{at:03}.mp4"
            write_clip(file, clip, FPS * frames / FRAMES, {"prompt": text}, overwrite=True)


def demonstrate(folder: Path, rows: list[str], raters: int, share: float, screenshots: Path | None) -> None:
    """Make, rate and report the study of the folders of clips."""
    prompts = read_prompts(folder / "prompts.txt")
    named = [str(folder / name) for name in (*rows, REAL)]
    options = DesignOptions(raters_per_pair=raters, no_difference=True, title="Clips of compared systems")
    study_folder = folder / "study"
    shutil.rmtree(study_folder, ignore_errors=True)
    study = create_study(open_sources(named, prompts, ReadOptions()), prompts, study_folder, options)
    if screenshots is not None:
        with tempfile.TemporaryDirectory() as place:  # answers there are not the study's
            photograph_raters_page(shutil.copytree(study_folder, Path(place) / "study"), screenshots)
    clock = Clock(time.time() - 24 * 3600)
    store = StudyStore.open(study_folder, clock)
    rate(store, clock, Preference(share, lapses=0.02, unsure=0.3), sloppy=(2,), leave={1: 12})
    answers = store.answers()
    results = analyse(study, answers, store.raters(), store.progress())
    store.close()
    write_text(folder / "report.md", markdown(results))
    write_text(folder / "report.html", html(results, study, answers, study_folder, 6))
    print(markdown(results))
    if screenshots is not None:
        photograph(f"file://{(folder / 'report.html').absolute()}", screenshots / "report.png")


@contextmanager
def browser_page(**options: object) -> Iterator[object]:
    """A page of Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser.new_page(**options)
        browser.close()


def photograph(url: str, file: Path) -> None:
    """The head of a page."""
    with browser_page(viewport={"width": 1100, "height": 800}) as page:
        page.goto(url)
        page.screenshot(path=file)


def photograph_raters_page(folder: Path, screenshots: Path) -> None:
    """Both questions about the first pair after the training."""
    app = create_app(folder)
    store, ahead = app.state.store, [0.0]
    store.clock = lambda: time.time() + ahead[0]
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    token = store.add_rater(simulated=True)
    store.consent(token)
    while (showing := store.current(token)).kind == "training":
        for question in store.study.options.questions:
            ahead[0] += store.study.clip_seconds + 1
            store.answer(token, showing.id, question.id, "left")
    opened = "() => !document.getElementById('answer-left').disabled"
    with browser_page(viewport={"width": 760, "height": 620}) as page:
        page.goto(f"http://127.0.0.1:{listener.getsockname()[1]}/r/{token}")
        page.wait_for_function(opened, timeout=120_000)
        page.screenshot(path=screenshots / "quality.png")
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector("#prompt:not([hidden])")
        page.wait_for_function(opened, timeout=120_000)
        page.screenshot(path=screenshots / "faithfulness.png")
    server.should_exit = True
    thread.join(10)
    store.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=lambda text: text.split(","), help="their order is that of preference")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--raters", type=int, default=3, help="of each pair")
    parser.add_argument("--share", type=float, default=0.6, help="of votes for the earlier of two sources")
    parser.add_argument("--screenshots", type=Path)
    given = parser.parse_args()
    rows = given.rows or rows_with_clips(given.comparison)
    if not rows:
        parser.error(f"{given.comparison}: no row has clips yet; `latent-shift compare` makes them")
    take_clips(given.comparison, given.folder, rows, given.prompts)
    demonstrate(given.folder, rows, given.raters, given.share, given.screenshots)


if __name__ == "__main__":
    main()
