"""The program from outside, on a tiny real model: what it writes, prints and refuses, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from latent_shift import __version__, media
from latent_shift.cli import errors
from latent_shift.cli.main import app
from tiny import WORDS, tiny_pipeline_folder

PROGRAM = [sys.executable, "-c", "from latent_shift.cli.main import main; main()"]
LIGHT = (
    "import sys; from latent_shift.cli.main import app; print(sorted(m for m in {names} if m in sys.modules))"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(model, tmp_path, monkeypatch, capsys):
    """Run the program in an empty folder; gives (status, standard output, standard error), both in lines."""
    monkeypatch.chdir(tmp_path)

    def program(*arguments):
        capsys.readouterr()
        chosen = [] if "--model" in arguments or arguments[:1] != ("generate",) else ["--model", str(model)]
        status = errors.run(app, [str(argument) for argument in (*arguments, *chosen)])
        said = capsys.readouterr()
        return status, said.out.splitlines(), said.err.splitlines()

    return program


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---- what it makes ----------------------------------------------------------------------------------


def test_a_clip_lands_in_out_with_its_settings_inside(run, tmp_path):
    status, out, err = run("generate", "a red circle moves left", "--seed", 7)
    assert (status, out, err) == (0, ["out/a-red-circle-moves-left-7.mp4"], [])
    assert everything_in(tmp_path) == ["out", out[0]]
    frames, fps = media.read_clip(tmp_path / out[0])
    assert (frames.shape, fps) == ((4, 32, 32, 3), 8)
    settings = media.read_settings(tmp_path / out[0])
    assert settings["prompt"] == "a red circle moves left"
    assert (settings["seed"], settings["frames"], settings["steps"]) == (7, 4, 3)
    assert (settings["model"], settings["version"]) == (settings["model"], __version__)
    assert re.fullmatch("[0-9a-f]{12}", settings["weights"])


@pytest.mark.parametrize("suffix", ["mp4", "gif", "webp", "png"])
def test_info_tells_the_settings_of_every_format(run, suffix):
    assert run("generate", "a circle", "--seed", 1, "--negative", "green", "-o", f"a.{suffix}")[0] == 0
    status, out, _ = run("info", f"a.{suffix}")
    assert status == 0
    assert {"prompt     a circle", "negative   green", "seed       1"} <= set(out)
    status, out, _ = run("info", f"a.{suffix}", "--json")
    assert (status, len(out)) == (0, 1)
    assert json.loads(out[0])["prompt"] == "a circle"


def test_settings_in_a_strangers_file_cannot_command_a_terminal(run):
    settings = {"prompt": "\x1b[31ma\n", "\x1b[0m": 1}
    media.write_clip("a.png", np.zeros((1, 8, 8, 3), np.uint8), settings=settings)
    assert run("info", "a.png")[1] == [r"prompt   \x1b[31ma\n", r"\x1b[0m  1"]


def test_json_is_one_line_a_clip(run):
    status, out, _ = run("generate", "a circle", "a square", "--count", 2, "--seed", 3, "--fps", 4, "--json")
    lines = [json.loads(line) for line in out]
    assert status == 0
    assert [(line["prompt"], line["seed"]) for line in lines] == [
        ("a circle", 3), ("a circle", 4), ("a square", 3), ("a square", 4),
    ]  # fmt: skip
    known = "file prompt negative seed frames fps steps guidance width height model weights seconds version"
    assert set(known.split()) <= lines[0].keys()
    assert all(media.read_settings(line["file"])["fps"] == 4 for line in lines)


def test_the_same_seed_repeats_a_clip_whatever_is_made_beside_it(run, tmp_path):
    run("generate", "a circle", "--seed", 5, "-o", "alone.webp")
    (tmp_path / "many.jsonl").write_text(
        '{"prompt": "a square", "seed": 4, "output": "first.webp"}\n'
        '{"prompt": "a circle", "seed": 5, "output": "beside.webp"}\n'
    )
    assert run("generate", "--prompts", "many.jsonl", "-o", "many")[0] == 0
    alone, beside = (media.read_clip(tmp_path / name)[0] for name in ("alone.webp", "many/beside.webp"))
    assert (alone == beside).all()


def test_a_prompt_of_unknown_words_stops_the_command_before_any_work(run, tmp_path, tmp_path_factory):
    closed = tiny_pipeline_folder(tmp_path_factory.mktemp("closed") / "model", closed_vocabulary=WORDS)
    status, out, err = run("generate", "a circle", "frogs jump", "--model", closed)
    assert (status, out, everything_in(tmp_path)) == (2, [], [])
    assert [line.split(":")[2] for line in err] == [" the model knows no word of 'frogs jump'"]
    status, _, err = run("generate", "a circle, frogs", "--model", closed, "-o", "a.png", "--frames", 1)
    assert (status, err) == (
        0,
        ["latent-shift: warning: the model does not know 'frogs' of 'a circle, frogs': ignored"],
    )


def test_a_drawn_seed_can_be_repeated(run):
    assert run("generate", "a circle", "-o", "a.webp")[0] == 0
    seed = media.read_settings("a.webp")["seed"]
    assert run("generate", "a circle", "-o", "b.webp", "--seed", seed)[0] == 0
    assert (media.read_clip("a.webp")[0] == media.read_clip("b.webp")[0]).all()


def test_prompt_files_override_the_options(run, tmp_path):
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "a circle", "frames": 1, "steps": 1}\n{"prompt": "a square"}\n'
    )
    status, out, _ = run(
        "generate", "--prompts", "p.jsonl", "--frames", 2, "--seed", 1, "--steps", 2, "--json"
    )
    lines = [json.loads(line) for line in out]
    assert status == 0
    assert [(line["frames"], line["steps"], line["file"]) for line in lines] == [
        (1, 1, "out/a-circle-1.png"), (2, 2, "out/a-square-1.mp4"),
    ]  # fmt: skip


def test_options_reach_the_model(run):
    options = ("--height", 24, "--width", 40, "--scheduler", "euler", "--dtype", "bf16", "--guidance", 1)
    status, out, _ = run("generate", "a circle", "-o", "a.webp", *options, "--json")
    line = json.loads(out[0])
    assert status == 0
    assert media.read_clip("a.webp")[0].shape == (4, 24, 40, 3)
    assert (line["scheduler"], line["dtype"], line["guidance"]) == ("EulerDiscreteScheduler", "bfloat16", 1)


def test_unknown_and_cut_words_are_told_once_in_a_line(run):
    prompt = "a flurb circle " + "moves " * 20
    status, out, err = run("generate", prompt, "--count", 2)
    assert (status, len(out)) == (0, 2)
    assert all(line.startswith("latent-shift: warning: ") for line in err)
    assert sum("flurb" in line and "not know" in line for line in err) == 1
    assert len(err) == len(set(err)) == 2


def test_force_alone_overwrites(run, tmp_path):
    assert run("generate", "a circle", "--seed", 1)[0] == 0
    before = (tmp_path / "out/a-circle-1.mp4").read_bytes()
    status, out, err = run("generate", "a square", "a circle", "--seed", 1, "--steps", 1)
    assert (status, out) == (2, [])
    assert "out/a-circle-1.mp4: exists already; use --force" in err[0]
    assert everything_in(tmp_path) == ["out", "out/a-circle-1.mp4"]
    assert (tmp_path / "out/a-circle-1.mp4").read_bytes() == before
    assert run("generate", "a circle", "--seed", 1, "--steps", 1, "--force")[0] == 0
    assert (tmp_path / "out/a-circle-1.mp4").read_bytes() != before


# ---- what it refuses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "the prompt is empty"),
        ([], "nothing to make"),
        (["x", "--model", "nosuch"], "unknown model"),
        (["x", "--model", "."], "is no model"),
        (["x", "--frames", "0"], "--frames 0"),
        (["x", "--frames", "-1"], "--frames -1"),
        (["x", "--frames", "1000000"], "--frames 1000000"),
        (["x", "--frames", "many"], "'--frames'"),
        (
            ["x", "--height", "30"],
            "--height 30: this model makes multiples of 4 up to 4096, for example 28 or 32",
        ),
        (["x", "--width", "0"], "--width 0"),
        (["x", "--steps", "0"], "--steps 0"),
        (["x", "--count", "0"], "--count 0"),
        (["x", "--fps", "0"], "--fps 0"),
        (["x", "--fps", "nan"], "--fps nan"),
        (["x", "--guidance", "inf"], "--guidance inf"),
        (["x", "--seed", "-3"], "--seed -3"),
        (["x", "--scheduler", "best"], "--scheduler best: expected one of ddim"),
        (["x", "--dtype", "int8"], "--dtype int8"),
        (["x", "--device", "tpu"], "--device tpu"),
        (["x", "-o", "a.avi"], "unknown suffix"),
        (["x", "-o", "clips/.png"], "clips/.png: is a suffix without a name before it"),
        (["x", "-o", "file/a.mp4"], "file: is a file, and no folder"),
        (["x", "-o", "file"], "file: is a file, and no folder"),
        (["x", "-o", "/proc/a.mp4"], "cannot write into /proc"),
        (["x", "y", "-o", "a.mp4"], "several clips"),
        (["x", "--prompts", "none.txt"], "none.txt: No such file"),
        (["x", "--frames", "4000", "--height", "512", "--width", "512", "-o", "a.png"], "or write .mp4"),
        (["--prompts", "bad.jsonl"], "bad.jsonl line 2: unknown key 'sed'"),
        (["x", "--nosuch"], "No such option: --nosuch"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(run, tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"}\n{"prompt": "y", "sed": 1}\n')
    status, out, err = run("generate", *arguments)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith("latent-shift: error: ")
    assert message in err[0]
    assert everything_in(tmp_path) == ["bad.jsonl", "file"]


@pytest.mark.parametrize(
    "arguments", [["nosuch"], ["info"], ["info", "none.mp4"], ["info", "plain.gif"], ["--wrong"]]
)
def test_mistakes_of_other_commands_are_one_line_too(run, tmp_path, arguments):
    (tmp_path / "plain.gif").write_bytes(b"GIF89a")
    status, out, err = run(*arguments)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith("latent-shift: error: ")


# ---- the process ------------------------------------------------------------------------------------


def process(*arguments, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        **options,
    )


def test_help_and_version_come_without_the_heavy_libraries():
    names = ["torch", "diffusers", "transformers", "numpy", "av", "PIL", "rich", "scipy"]
    done = subprocess.run([sys.executable, "-c", LIGHT.format(names=names)], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    told = process("--help")
    assert told.returncode == 0
    assert "generate" in told.stdout
    assert "info" in told.stdout
    assert process().stdout == told.stdout
    assert process("--version").stdout.strip() == __version__


@pytest.mark.slow
def test_a_mistake_ends_the_process_with_2_and_no_traceback(tmp_path, model):
    file = next((model / "unet").glob("*.safetensors"))
    broken = tmp_path / "broken"
    for path in model.rglob("*"):
        if path.is_file():
            (broken / path.relative_to(model)).parent.mkdir(parents=True, exist_ok=True)
            kept = path.stat().st_size // 2 if path == file else None
            (broken / path.relative_to(model)).write_bytes(path.read_bytes()[:kept])
    done = process("generate", "a circle", "--model", "broken", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"latent-shift: error: broken/unet/.*is truncated.*\n", done.stderr)
    assert not (tmp_path / "out").exists()


def listen_to_ctrl_c():
    """Undo what a shell does to programs it starts in the background: they ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_an_interrupted_run_ends_with_130_and_keeps_whole_files_only(tmp_path, model):
    command = [*PROGRAM, "generate", "a circle", "--count", "1000", "--model", str(model), "--seed", "0"]
    running = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen_to_ctrl_c,
    )
    first, second = running.stdout.readline(), running.stdout.readline()
    time.sleep(0.05)  # somewhere within a clip
    running.send_signal(signal.SIGINT)
    rest, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "latent-shift: error: interrupted; finished files are kept"
    assert "Traceback" not in err
    files = everything_in(tmp_path / "out")
    assert len(files) >= 2
    assert all(re.fullmatch(r"a-circle-\d+\.mp4", name) for name in files)
    assert {f"out/{name}" for name in files} >= {first.strip(), second.strip(), *rest.split()}
    for name in files:
        assert len(media.read_clip(tmp_path / "out" / name)[0]) == 4


@pytest.mark.slow
def test_a_closed_terminal_ends_a_run_like_ctrl_c(tmp_path, model):
    terminal, end = os.openpty()
    given = ["generate", "a circle", "--count", "1000", "--model", str(model), "--seed", "0"]
    running = subprocess.Popen(
        [*PROGRAM, *given],
        cwd=tmp_path,
        stdin=end,
        stdout=end,
        stderr=end,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests may run under nohup
    )
    os.close(end)
    os.read(terminal, 1)  # something was printed: the handler is in place
    while not (tmp_path / "out").exists():
        os.read(terminal, 1000)
    running.send_signal(signal.SIGHUP)
    os.close(terminal)  # what is printed from here on fails
    assert running.wait(60) == 130
    files = everything_in(tmp_path / "out")
    assert all(re.fullmatch(r"a-circle-\d+\.mp4", name) for name in files)


def test_a_removed_current_folder_is_named(tmp_path):
    (tmp_path / "gone").mkdir()
    gone = ["sh", "-c", 'rmdir ../gone && exec "$@"', "sh", *PROGRAM, "info"]
    done = subprocess.run(gone, cwd=tmp_path / "gone", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    line = "latent-shift: error: the current folder has been removed; cd to another one"
    assert done.stderr.splitlines()[-1] == line


def test_a_notebooks_window_for_plots_need_not_be_installed_here(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://of_a_notebook.that_is_elsewhere")
    code = "from latent_shift.cli import errors, main; errors.run(main.app, ['--version']); import matplotlib"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
