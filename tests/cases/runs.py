"""Checks of the cases about a run's folder, and names in a recipe."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time

from cases.case import Skip, check

TRAIN = [sys.executable, "-m", "latent_shift", "train", "recipe.yaml"]


def trained(case):
    """Make the folder and train its recipe, twelve steps; gives the folder of its checkpoints."""
    case.make()
    case.succeed("train", "recipe.yaml")
    return case.folder / "run" / "checkpoints"


@check("damaged-checkpoint", slow=True)
def damaged_checkpoint(case):
    weights = trained(case) / "step-00000012" / "weights.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    result = case.run("train", "recipe.yaml", "--set", "steps=14")
    assert result.status == 0, result.err[-500:]
    (line,) = (line for line in result.err.splitlines() if "is damaged" in line)
    assert "step-00000012" in line, line
    assert "goes on from step-00000008" in line, line
    return line


@check("copy-among-checkpoints")
def copy_among_checkpoints(case):
    checkpoints = trained(case)
    shutil.copytree(checkpoints / "step-00000012", checkpoints / "step-00000012-backup")
    case.succeed("train", "recipe.yaml", "--set", "steps=14")
    assert (checkpoints / "step-00000014").is_dir()
    assert (checkpoints / "step-00000012-backup").is_dir()
    return "the run goes on, the copy is left alone"


@check("two-runs-in-one-folder", slow=True)
def two_runs_in_one_folder(case):
    case.make()
    more = ("--set", "steps=5000", "--set", "checkpoint_every=2")
    first = subprocess.Popen(
        [*TRAIN, *more], cwd=case.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while first.poll() is None and not (case.folder / "run" / "log.jsonl").exists():
            time.sleep(0.1)
        assert first.poll() is None, "the first run ended"
        error = case.run("train", "recipe.yaml", *more).error
    finally:
        first.kill()
        first.wait()
    assert f"run: another process ({first.pid}) trains into this folder" in error, error
    return error


@check("steps-lowered")
def steps_lowered(case):
    trained(case)
    error = case.run("train", "recipe.yaml", "--set", "steps=5").error
    assert "has taken 12 steps already" in error, error
    assert " for 12 steps " in (case.folder / "run" / "model" / "README.md").read_text()
    return error


@check("disk-full-between-checkpoints", slow=True)
def disk_full_between_checkpoints(case):
    case.make()
    disk = case.folder / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mounted, capture_output=True, check=False).returncode:
        raise Skip("a small disk cannot be mounted here")
    more = ("--set", "output=disk/run", "--set", "steps=60", "--set", "checkpoint_every=60")
    try:
        run = subprocess.Popen([*TRAIN, *more], cwd=case.folder, stderr=subprocess.PIPE, text=True)
        lines = []
        for line in run.stderr:
            lines.append(line)
            if line.startswith("training  5/"):
                with contextlib.suppress(OSError), open(disk / "fill", "wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
        status, text = run.wait(), "".join(lines)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
    assert "Traceback" not in text, text[-500:]
    assert "log.jsonl: could not be written, the run goes on without" in text, text[-500:]
    assert status == 2, (status, text[-500:])  # at the checkpoint, 55 steps later
    assert "cannot be written" in lines[-1], lines[-1]
    return lines[-1].strip()


@check("latents-of-another-scale")
def latents_of_another_scale(case):
    case.make()
    size = ("--fps", 24, "--height", 16, "--width", 16, "--workers", 1)
    case.succeed("data", "pack", "clips", "-o", "packed", "--latents-of", "model", *size)
    error = case.run("train", "ahead.yaml").error
    assert re.search("is of autoencoder [0-9a-f]+, not [0-9a-f]+: pack it anew", error), error
    return error


@check("output-named-by-date")
def output_named_by_date(case):
    case.make()
    recipe = case.report("train", "recipe.yaml", "--set", "output=2026-11-28", "--dry-run")
    assert recipe["output"] == "2026-11-28", recipe["output"]
    return "output 2026-11-28"


@check("good-kill-and-resume", slow=True)
def good_kill_and_resume(case):
    case.make()
    precision = ("--set", "mixed_precision=fp32")  # "auto" is fp32 in this process, and not in another
    case.succeed("train", "recipe.yaml", *precision, "--set", "output=whole")
    run = subprocess.Popen([*TRAIN, *precision], cwd=case.folder, stderr=subprocess.PIPE, text=True)
    for line in run.stderr:
        if line.startswith("training  6/"):
            break
    run.kill()
    run.communicate()
    case.succeed("train", "recipe.yaml", *precision)
    weights = "model/unet/diffusion_pytorch_model.safetensors"
    one, other = ((case.folder / name / weights).read_bytes() for name in ("whole", "run"))
    assert one == other
    return "the same weights as of a run never stopped"
