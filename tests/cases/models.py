"""Checks of the cases about models that do not fit, and about how a command ends."""

import shutil
import subprocess
import sys

from cases.case import Result, Skip, check
from latent_shift.media import read_clip

SAMPLE = ("generate", "a bar", "--model", "model", "--seed", 1, "--frames", 2, "-o", "x.webp", "--force")


def shell(case, command):
    """Run a line of bash in the folder, `latent-shift` in it being this program; it has no terminal."""
    program = f'latent-shift() {{ "{sys.executable}" -m latent_shift "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-c", program + command], cwd=case.folder, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False, start_new_session=True, timeout=300,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def refused(case, *more):
    """The line by which a model is refused, with nothing written."""
    case.make()
    error = case.run(*SAMPLE, *more).error
    assert not (case.folder / "x.webp").exists()
    return error


@check("text-model-with-holes")
def text_model_with_holes(case):
    error = refused(case)
    assert "model.safetensors: lacks 8 of the 20 weights of a CLIPTextModel, the first" in error, error
    return error


@check("inpainting-folder")
def inpainting_folder(case):
    error = refused(case)
    assert "its U-Net reads 9 channels, as one for inpainting does" in error, error
    return error


@check("flow-matching-scheduler")
def flow_matching_scheduler(case):
    for more in ((), ("--scheduler", "ddim")):
        error = refused(case, *more)
        assert "is a scheduler of another family (flow matching)" in error, error
    return error


@check("lora-of-whole-numbers")
def lora_of_whole_numbers(case):
    error = refused(case, "--lora", "int8.safetensors")
    assert "int8.safetensors: 48 of its 48 weights are I8, whole numbers without their scales" in error, error
    return error


@check("steps-1000")
def steps_1000(case):
    for scheduler in ("ddim", "dpm++"):
        error = refused(case, "--scheduler", scheduler, "--steps", 1000)
        assert "--steps 1000: this model's noise schedule has room for 99" in error, error
    return error


@check("black-by-the-safety-checker")
def black_by_the_safety_checker(case):
    case.make()
    result = case.run(*SAMPLE)
    assert result.status == 0, result.err
    assert "warning: the safety checker blackened 2 of 2 frames" in result.err, result.err
    assert read_clip(case.folder / "x.webp")[0].max() == 0
    return "a warning: 2 of 2 frames"


@check("no-memory-on-the-cpu", slow=True)
def no_memory_on_the_cpu(case):
    # The command of the case, 1024 frames, streams by now in the memory of a few frames: a larger frame.
    size = "--steps 1 --height 2048 --width 2048 --frames 16 -o big.mp4"
    result = shell(case, f"ulimit -v 3000000; latent-shift generate 'a red circle' {size}")
    assert "memory does not hold" in result.error, result.error
    return result.error


@check("closed-output", slow=True)
def closed_output(case):
    result = shell(case, "latent-shift generate 'a red circle' --steps 1 --seed 1 -o clip.mp4 --force >&-")
    assert (result.status, result.err) == (0, ""), result.err
    assert (case.folder / "clip.mp4").is_file()
    return "status 0, the clip is written"


@check("title-with-brackets")
def title_with_brackets(case):
    if shutil.which("script") is None:
        raise Skip("there is no `script` to give a terminal")
    case.make()
    options = ("--extractor", "moving-shapes", "--resamples", 0, "-o", "r.json", "--force")
    case.succeed("evaluate", "folders", "a", "a2", *options)
    command = f'"{sys.executable}" -m latent_shift evaluate report r.json --title "before [/after]"'
    result = shell(case, f"script -qec '{command}' /dev/null")
    assert "Traceback" not in result.out, result.out[-300:]
    assert "[/after]" in result.out, result.out
    return "before [/after]"
