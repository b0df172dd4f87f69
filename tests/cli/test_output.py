"""How a command ends and what it shows: odd names, closed output, black frames, too little memory."""

import errno
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from latent_shift import media
from latent_shift.cli import errors, output
from latent_shift.cli import options as cli_options
from latent_shift.cli.progress import progress_bar, training_bar
from latent_shift.evaluation.report import MetricInfo, MetricResult, Report, Row
from latent_shift.io import is_out_of_memory, warn, write_text
from latent_shift.pipeline import LatentShiftPipeline
from latent_shift.systems.batch import advice_on_memory
from latent_shift.training.logging import Progress
from program import run_program
from tiny import tiny_components, tiny_pipeline_folder

PROGRAM = [sys.executable, "-c", "from latent_shift.cli.main import main; main()"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.webp", "a.png"])
def test_a_folder_with_a_colon_is_no_address(model, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    arguments = ["a circle", "--model", model, "--seed", 1, "--frames", 2, "-o", f"http:/run:1/{name}"]
    status, said, _ = run_program(capsys, "generate", *arguments)
    assert (status, said) == (0, f"http:/run:1/{name}\n")
    assert media.read_settings(tmp_path / "http:" / "run:1" / name)["seed"] == 1


@pytest.mark.slow
def test_closed_output_is_no_fault(model, tmp_path):
    file = tmp_path / "a.png"
    arguments = ["generate", "a circle", "--model", str(model), "--frames", "1", "-o", str(file)]
    ended = subprocess.run(
        [*PROGRAM, *arguments], preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert file.is_file()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full, a disk that is full")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "standard output: No space left on device"),
        (["compare", "--preset", "smoke", "--dry-run", "--json"], "standard output: No space left on device"),
        (["info", "none.mp4"], "none.mp4: no such file"),
    ],
)
def test_a_full_disk_behind_standard_output_is_named(arguments, expected):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (2, f"latent-shift: error: {expected}\n")


class FullDisk(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_line_that_standard_error_does_not_take_ends_no_work(monkeypatch):
    monkeypatch.setattr(sys, "stderr", FullDisk())
    with errors.warnings_as_lines():
        warn("told to nobody")
    with training_bar("video", 2) as show:
        show(Progress(1, 2))
    errors.say("nor is this")
    assert sys.stderr.name == os.devnull
    sys.stderr.close()


def test_a_message_is_one_line_without_commands_to_the_terminal(capsys):
    errors._print_error("my  clip\x1b[2J\n  and more \x07")
    assert capsys.readouterr().err == "latent-shift: error: my  clip\\x1b[2J and more \\x07\n"


def test_a_table_is_not_cut_where_the_terminal_is_narrow(monkeypatch):
    info = MetricInfo(name="FVD (moving-shapes-eyes)", better="lower", settings={})
    found = MetricResult(value=0.44631234)
    rows = [Row(name=f"a-folder-{number}", settings={}, results={info.key: found}) for number in range(2)]
    report = Report(title="the title", metrics=[info], rows=rows)
    for columns, drawn in (("20", False), ("120", True)):
        monkeypatch.setenv("COLUMNS", columns)
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        output.print_report(report)
        assert "0.4463" in terminal.getvalue()
        assert "the title" in terminal.getvalue()
        assert "\u2026" not in terminal.getvalue()
        assert ("\u2503" in terminal.getvalue()) == drawn


def test_clips_are_not_written_over_each_other_through_a_link_nor_to_no_name(model, tmp_path, capsys):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    lines = [{"prompt": "a circle", "output": f"{name}/a.png"} for name in ("real", "link")]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shared = ["--model", model, "--frames", 1]
    status, _, err = run_program(
        capsys, "generate", "--prompts", tmp_path / "p.jsonl", *shared, "-o", tmp_path
    )
    assert (status, "two clips would be written to it" in err) == (2, True)
    lines = [{"prompt": "a circle", "output": name} for name in ("b/a.png", "b/a.png/a.png")]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, _, err = run_program(
        capsys, "generate", "--prompts", tmp_path / "p.jsonl", *shared, "-o", tmp_path
    )
    assert (status, "b/a.png is a clip of its own, and no folder" in err) == (2, True)
    assert not (tmp_path / "b").exists()
    status, _, err = run_program(capsys, "generate", "a circle", *shared, "-o", "")
    assert (status, "is empty; name a file or folder" in err) == (2, True)
    (tmp_path / "clip.mp4").mkdir()  # is no name of a clip that would be made
    status, _, err = run_program(capsys, "generate", "a circle", *shared, "-o", tmp_path, "--seed", 1)
    assert (status, err) == (0, "")


def test_names_that_no_file_can_have_are_refused_before_any_work(model, tmp_path, capsys):
    (tmp_path / "nowhere").symlink_to("gone")
    for name, message in (
        ("new/" + 252 * "n" + ".png", "is a name of 256 bytes; 255 are the most"),
        ("nowhere/a.png", "nowhere is a link to nothing; name another folder"),
    ):
        given = ["a circle", "--model", model, "--frames", 1, "-o", tmp_path / name]
        status, _, err = run_program(capsys, "generate", *given)
        assert (status, message in err) == (2, True)
    assert not (tmp_path / "new").exists()
    long = tmp_path / "/".join(["n" * 200] * 20) / "a.png"  # a temporary name beside it would be too long
    with pytest.raises(ValueError, match=r"is a path of 4\d\d\d bytes; 4000 are the most"):
        media.check_output(long)


def test_what_cannot_take_its_place_is_kept_beside_it(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")
    replace = os.replace

    def busy(source, target):
        if target == tmp_path / "a.txt":
            raise OSError(errno.EBUSY, "Device or resource busy", source, None, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    kept = r"a\.txt: cannot be replaced \(Device or resource busy\); what was to be written is in .*a-2\.txt"
    with pytest.raises(ValueError, match=kept):
        write_text(tmp_path / "a.txt", "new")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.txt": "old", "a-2.txt": "new"}


def test_a_disk_without_permissions_of_files_loses_nothing(tmp_path, monkeypatch):
    def refuse(path, mode, **_):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "chmod", refuse)
    media.write_clip(tmp_path / "a.webp", np.zeros((2, 8, 8, 3), np.uint8))
    assert len(media.read_clip(tmp_path / "a.webp")[0]) == 2


def test_another_users_file_in_a_shared_folder_is_refused_before_any_work(tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "a.png").touch()
    shared.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 4321)
    with pytest.raises(ValueError, match=r"a\.png: belongs to another user, and cannot be replaced"):
        media.check_output(shared / "a.png", overwrite=True)
    media.check_output(shared / "b.png")


def test_a_mounted_file_is_refused_before_any_work(model, tmp_path, capsys):
    source, target = tmp_path / "source.png", tmp_path / "a clip.png"  # the system writes the space as \\040
    source.touch()
    target.touch()
    if subprocess.run(["mount", "--bind", source, target], capture_output=True, check=False).returncode:
        pytest.skip("a file cannot be mounted here (root is needed)")
    try:
        given = ["a circle", "--model", model, "--frames", 1, "--force", "-o", target]
        status, _, err = run_program(capsys, "generate", *given)
        assert (status, "a clip.png: is mounted, as into a container, and cannot be" in err) == (2, True)
        with pytest.raises(ValueError, match="is mounted"):
            media.check_output(target, overwrite=True)
    finally:
        subprocess.run(["umount", target], check=True)


def test_a_plan_is_printed_as_json(tmp_path, capsys):
    given = ("--preset", "smoke", "--systems", "shift_off", "--dry-run", "--json", "-o", tmp_path / "c")
    status, out, _ = run_program(capsys, "compare", *given)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert rows[0]["stage"] == "latent-1-image"


def test_the_pages_of_others_are_not_overwritten(tmp_path, capsys):
    for name, command in (
        ("tables.md", ("benchmark", "networks", "--size", "tiny", "--networks", "shift", "--frames", 2)),
        ("compare.html", ("compare", "--preset", "smoke", "--only", "page")),
    ):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text("mine")
        status, _, err = run_program(capsys, *command, "-o", folder)
        assert (status, f"has a {name}, and no" in err) == (2, True)
        assert (folder / name).read_text() == "mine"


def test_a_file_that_comes_while_a_report_is_computed_is_kept_beside_it(tmp_path, capsys):
    info = MetricInfo(name="FVD", better="lower", settings={})
    rows = [Row(name="größe", settings={}, results={info.key: MetricResult(value=0.5)})]
    report = Report(title="t", metrics=[info], rows=rows)
    (tmp_path / "r.json").write_text("mine")
    with errors.warnings_as_lines():
        output.write_report(report, tmp_path / "r.json", None, as_json=True, force=False)
    printed, said = capsys.readouterr()
    assert (tmp_path / "r.json").read_text() == "mine"
    assert (
        f"r.json: has come there while this was computed, and is kept; the result is {tmp_path}/r-2.json"
        in said
    )
    assert printed.isascii()  # for standard outputs of any encoding
    assert json.loads(printed)["rows"][0]["name"] == "größe"
    assert json.loads((tmp_path / "r-2.json").read_text()) == json.loads(printed)
    output.write_report(report, tmp_path / "r.json", None, force=True)
    assert "größe" in (tmp_path / "r.json").read_text()


def test_figures_are_printed_where_their_file_cannot_be_written(tmp_path, capsys):
    info = MetricInfo(name="FVD", better="lower", settings={})
    rows = [Row(name="a|<b>c</b> <1", settings={}, results={info.key: MetricResult(value=0.5)})]
    report = Report(title="t", metrics=[info], rows=rows, notes=["of a <b>"])
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        output.write_report(report, tmp_path / "file" / "r.json", None, force=False)
    assert (
        r"| a\|\<b>c\</b> <1 | 0.5000 |" in capsys.readouterr().out
    )  # shown as it is, where Markdown is read


def test_a_temporary_file_that_cannot_be_made_is_not_what_an_error_names(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(PermissionError) as caught:
        write_text(tmp_path / "a.txt", "text")
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_a_page_is_refused_where_the_folder_of_its_link_takes_no_file(tmp_path, monkeypatch):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "page.md").touch()
    (tmp_path / "page.md").symlink_to("shared/page.md")
    make = tempfile.TemporaryFile

    def refuse(*, dir):
        if Path(dir).name == "shared":  # root may write anywhere
            raise PermissionError(errno.EACCES, "Permission denied", str(dir))
        return make(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(typer.BadParameter, match="cannot write into .*shared"):
        cli_options.page_path(tmp_path / "page.md")


@pytest.mark.slow
def test_a_reader_that_goes_is_no_fault(tmp_path):
    command = [*PROGRAM, "compare", "--preset", "smoke", "--dry-run", "--json", "-o", str(tmp_path / "c")]
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=unbuffered) as program:
        program.stdout.close()
        assert program.stderr.read() == b""
    assert program.returncode == 0


def test_text_in_brackets_is_no_markup(monkeypatch):
    report = Report(title="before [/after] :smile:", metrics=[], rows=[])
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    output.print_report(report)
    assert all(part in terminal.getvalue() for part in ("before", "[/after]", ":smile:"))


def test_a_long_line_above_a_progress_bar_is_not_broken(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    line = json.dumps({"file": "a-rather-[long]-name.mp4", "prompt": "a red circle moving left " * 4})
    with progress_bar("denoising", 2) as show:
        show(1)
        print(line)
    assert line in terminal.getvalue()


def test_a_name_in_brackets_on_a_progress_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar("clips [/old]", 2) as show:
        show(2)
    assert "clips [/old]" in terminal.getvalue()


def safety_checker():
    """Finds fault with every picture."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config={**small, "vocab_size": 50}, vision_config=vision, projection_dim=16)
    checker = StableDiffusionSafetyChecker(config)
    with torch.no_grad():
        checker.concept_embeds.fill_(1.0)
        checker.concept_embeds_weights.fill_(-2.0)
        checker.special_care_embeds_weights.fill_(2.0)
    return checker


def test_frames_that_a_safety_checker_made_black_are_told():
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    parts = {"safety_checker": safety_checker(), "feature_extractor": processor}
    pipeline = LatentShiftPipeline(**{**tiny_components(), **parts, "requires_safety_checker": True})
    pipeline.video_config = pipeline.video_config.model_copy(update={"video_tuned": True})
    pipeline.set_progress_bar_config(disable=True)
    call = {"num_frames": 3, "num_inference_steps": 2, "num_videos_per_prompt": 2, "output_type": "np"}
    with pytest.warns(UserWarning, match="the safety checker blackened 6 of 6 frames"):
        result = pipeline("a circle", **call)
    assert result.nsfw_content_detected == [[True] * 3] * 2
    assert result.frames.max() == 0
    latents = pipeline("a circle", **{**call, "output_type": "latent"})
    assert latents.nsfw_content_detected is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_a_lack_of_memory_becomes_advice(error, capsys):
    assert is_out_of_memory(error)
    with (
        pytest.raises(ValueError, match="memory does not hold this clip; try fewer frames"),
        advice_on_memory(1),
    ):
        raise error

    def lacking(**_):
        raise error

    assert errors.run(lacking, []) == errors.MISTAKE
    assert "the memory does not hold this: try fewer or smaller clips" in capsys.readouterr().err


def test_another_fault_keeps_its_traceback():
    def broken(**_):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        errors.run(broken, [])
    with pytest.raises(RuntimeError, match="shapes"), advice_on_memory(2):
        raise RuntimeError("shapes do not match")


def test_more_frames_than_a_cpu_holds(model, tmp_path, monkeypatch, capsys):
    """torch itself lacks the memory: a decoder's output of 256 TB."""
    from latent_shift.pipeline import decoding

    monkeypatch.setattr(decoding, "decode_latents", lambda *_, **__: torch.empty(2**46))
    status, _, said = run_program(capsys, "generate", "a circle", "--model", model, "-o", tmp_path / "a.webp")
    assert status == errors.MISTAKE
    assert "the device's memory does not hold this clip; try fewer frames" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "preview", "clips", "-o", "s3://b/x.png"],
        ["data", "pack", "clips", "-o", "s3://b/x"],
        ["evaluate", "folders", "a", "b", "--html", "s3://b/x.html"],
        ["compare", "--preset", "smoke", "-o", "s3://b/x"],
        ["study", "report", "a", "-o", "s3://b/x.json"],
        ["evaluate", "moving-shapes", "--cache-dir", "s3://b/x"],
        ["evaluate", "folders", "a", "b", "--save-features", "s3://b/x"],
        ["serve", "--data", "s3://b/x"],
    ],
)
def test_an_address_is_no_output_of_any_command(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    status, _, error = run_program(capsys, *arguments)
    assert status == 2
    assert "s3://b/x" in error
    assert "is an address; name a file of this machine" in error
    assert not any(tmp_path.iterdir())


def test_an_output_in_the_users_folder_is_there_where_no_shell_saw_it(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    options = ["--model", model, "--seed", 1, "--frames", 1, "--output=~/a.png"]
    assert run_program(capsys, "generate", "a circle", *options)[0] == 0
    assert (tmp_path / "home" / "a.png").is_file()
    assert cli_options.output_path("~/x") == tmp_path / "home" / "x"
    assert cli_options.output_path("~x").name == "~x"
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("not-mounted")
    for taken in ("file", "file/deeper", "link/deeper"):
        with pytest.raises(
            typer.BadParameter, match="(file: is a file|link: is a link to nothing), and no f"
        ):
            cli_options.folder_path(tmp_path / taken)
    assert cli_options.folder_path(tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    typed = ["output=~/x", "a.b=1", "c=~x", "d"]
    assert cli_options.settings_at_home(typed) == [f"output={tmp_path / 'home' / 'x'}", *typed[1:]]


def test_standard_output_is_no_folder(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, _, error = run_program(capsys, "generate", "a circle", "--model", model, "-o", "-")
    assert (status, "clips are not written to standard output" in error) == (2, True)
    assert not any(tmp_path.iterdir())
