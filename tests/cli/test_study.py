"""`latent-shift study` from outside: two commands to a study, rated by HTTP, its report, and mistakes."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from latent_shift.cli import errors
from latent_shift.cli.main import app
from latent_shift.cli.study import _argument
from latent_shift.study.design import read_study
from latent_shift.study.simulation import Clock, Preference, rate
from latent_shift.study.store import StudyStore
from program import run_program
from studies import TEXTS, make_folder

PROGRAM = [sys.executable, "-c", "from latent_shift.cli.main import main; main()"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two folders of clips, prompts, and a study of them."""
    place = tmp_path_factory.mktemp("place")
    for name, shade in (("ours", 60), ("theirs", 180)):
        make_folder(place / name, shade)
    (place / "prompts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    assert errors.run(app, command(place, "-o", place / "study")) == 0
    return place


def command(place, *more):
    given = ["study", "create", place / "ours", place / "theirs", "--prompts", place / "prompts.txt", *more]
    return [str(one) for one in [*given, "--raters", 2, "--pairs", 4]]


@contextmanager
def serving(folder, *options):
    """`study serve` as a process; yields it and the links that it printed."""
    process = subprocess.Popen(
        [*PROGRAM, "study", "serve", str(folder), "--port", "0", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def answer_one(address, token, choice="left"):
    pair = requests.get(f"{address}/api/r/{token}", timeout=10).json()["pair"]
    body = {"showing": pair["showing"], "question": pair["question"]["id"], "choice": choice}
    while (
        answer := requests.post(f"{address}/api/r/{token}/answers", json=body, timeout=10)
    ).status_code == 409:
        assert answer.json()["error"]["code"] == "too_early"
        time.sleep(0.1)
    return answer


@pytest.mark.slow
def test_a_study_survives_the_end_of_its_server(place, capsys):
    """Also: another server in the same folder is refused, and the report of a study that goes on."""
    folder = place / "study"
    with serving(folder) as (process, link):
        address, invitation = link.split("/join/")
        token = requests.post(f"{address}/api/join", json={"invitation": invitation}, timeout=10).json()[
            "token"
        ]
        assert answer_one(address, token).status_code == 200
        status, _, error = run_program(capsys, "study", "serve", folder, "--port", 0)
        assert (status, "another process" in error) == (2, True)
        process.kill()  # no time to say goodbye
        process.wait(10)
    with serving(folder, "--links", "2") as (process, link):
        address = link.split("/r/")[0]
        again = requests.get(f"{address}/api/r/{token}", timeout=10).json()
        assert again["pair"]["question"]["id"] == "faithfulness"  # the first answer is there
        assert (
            requests.get(f"{address}/api/r/{link.split('/r/')[1]}", timeout=10).json()["stage"] == "consent"
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in (0, 130)


def test_create_tells_size_and_power(place, tmp_path, capsys):
    status, out, err = run_program(capsys, *command(place, "-o", tmp_path / "new"))
    assert (status, err) == (0, "")
    assert "8 prompts, 2 sources (ours, theirs), 8 pairs" in out
    assert "16 ratings; 4 raters with 4 pairs each" in out
    assert "55 % against 50 % is found in" in out
    assert f"latent-shift study serve {tmp_path / 'new'}" in out
    assert _argument(Path("-study of 2")) == "'./-study of 2'"  # no options


@pytest.fixture(scope="module")
def rated(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rated") / "study"
    assert errors.run(app, command(place, "-o", folder, "--no-difference")) == 0
    clock = Clock(1.7e9)
    store = StudyStore.open(folder, clock)
    rate(store, clock, Preference(0.8, unsure=0.4), seed=5, sloppy=(1,), leave={2: 4})
    store.close()
    return folder


def test_the_report_in_all_its_forms(rated, tmp_path, capsys):
    files = {kind: tmp_path / f"report.{kind}" for kind in ("html", "json", "csv")}
    status, out, err = run_program(
        capsys, "study", "report", rated, "--html", files["html"], "-o", files["json"], "--csv", files["csv"]
    )
    assert (status, err) == (0, "")
    assert "SIMULATED" in out
    assert "| quality | ours : theirs |" in out
    results = json.loads(files["json"].read_text())
    assert results["simulated"] is True
    assert (results["whole"], results["wanted"]) == (16, 16)
    assert {one["question"] for one in results["included"]["comparisons"]} == {"quality", "faithfulness"}
    page = files["html"].read_text()
    assert "(simulated raters)" in page
    assert page.count("data:video/mp4;base64,") == 2 * len(TEXTS)
    assert not re.search("(src|href)=[\"']?(https?:)?//", page)  # nothing is loaded
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    votes = [row for row in rows if row["kind"] == "pair"]
    counted = [row for row in votes if row["counted"] == "1"]
    assert len(counted) == 2 * 16  # each pair by its number of raters who are not excluded
    assert len(votes) - len(counted) == 2 * results["replaced"] > 0
    assert all(row["excluded"] for row in votes if row not in counted)
    assert {row["choice"] for row in votes} <= {"left", "right", "none"}
    assert all(row["chosen"] == row[row["choice"]] for row in votes if row["choice"] != "none")
    status, out, _ = run_program(capsys, "study", "report", rated, "--json")
    assert (status, json.loads(out)) == (0, results)
    status, _, err = run_program(capsys, "study", "report", rated, "--html", files["html"])
    assert (status, "exists already" in err) == (2, True)
    lacking = shutil.copytree(rated, tmp_path / "lacking")
    shown = next(clip for clip in read_study(lacking)[0].clips if clip.source is not None)
    (lacking / "clips" / f"{shown.id}.mp4").unlink()
    status, _, err = run_program(capsys, "study", "report", lacking, "--html", tmp_path / "b.html")
    assert (status, "no such file; the page does not show it" in err) == (0, True)
    assert (tmp_path / "b.html").read_text().count("data:video/mp4;base64,") == 2 * len(TEXTS) - 1


MISTAKES = {
    "no study": (["report", "{place}/ours"], "holds no study"),
    "no answers": (["report", "{study}"], "no pair is answered yet"),
    "not a page": (["report", "{study}", "--html", "x.txt"], "unknown suffix '.txt'"),
    "the study itself": (["report", "{study}", "-o", "{study}/study.json", "--force"], "is the study itself"),
    "open to all, unnamed": (["serve", "{study}", "--host", "0.0.0.0"], "--allowed-host NAME"),
    "a name with a port": (["serve", "{study}", "--allowed-host", "clips.example:80"],
                           "give the name only, as clips.example"),
    "no such address": (["serve", "{study}", "--host", "203.0.113.7"], "--host 203.0.113.7 --port 8000"),
    "no links": (["serve", "{study}", "--links", "0"], "--links 0: give 1"),
    "there already": (["create", "{place}/ours", "{place}/theirs", "--prompts", "{place}/prompts.txt", "-o",
                       "{study}"], "holds a study already, with 0 answers; name another folder"),
    "no prompts": (["create", "{place}/ours", "{place}/theirs", "--prompts", "{place}/none.txt", "-o", "new"],
                   "none.txt"),
    "one source": (["create", "{place}/ours", "--prompts", "{place}/prompts.txt", "-o", "new"],
                   "give two or more"),
    "raters": (["create", "{place}/ours", "{place}/theirs", "--prompts", "{place}/prompts.txt", "-o", "new",
                "--raters", "0"], "--raters 0"),
    "rate without frames": (["create", "{place}/ours", "{place}/theirs", "--prompts", "{place}/prompts.txt",
                             "-o", "new", "--fps", "8"], "--frames N"),
    "longer than they are": (["create", "{place}/ours", "{place}/theirs", "--prompts", "{place}/prompts.txt",
                              "-o", "new", "--frames", "9"], "has 4 frames"),
}  # fmt: skip


@pytest.fixture(scope="module")
def unanswered(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unanswered") / "study"
    assert errors.run(app, command(place, "-o", folder)) == 0
    return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(mistake, place, unanswered, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given, message = MISTAKES[mistake]
    status, out, err = run_program(
        capsys, "study", *(one.format(place=place, study=unanswered) for one in given)
    )
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
