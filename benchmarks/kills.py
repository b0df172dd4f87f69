"""SIGKILL at random moments of a small training, in the writing of checkpoints too; each time it goes on.

    python benchmarks/kills.py --kills 100 --out kills/

Trains a tiny autoencoder once without a stop, and once killed again and again: before the n-th time that it
opens, renames or removes something in its folder, or some time after its first step (tensors are written by
native code, which no event tells of), as drawn by a seed. Prints what was cut off, and whether weights,
moving average and optimizer are equal bit for bit in the end; status 1 where not. Each run is forked from
one process that has imported everything.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from latent_shift.checkpoints.quiet import quiet_libraries
from latent_shift.training.checkpoint import checkpoints, step_of
from latent_shift.training.recipe import load_recipe
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train

AUTOENCODER = {
    "sample_size": 64, "latent_channels": 4, "block_out_channels": [8, 8, 8, 8], "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "norm_num_groups": 4, "mid_block_add_attention": False,
}  # fmt: skip
FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree")


def recipe_file(folder, steps):
    """A recipe of so many steps, with a checkpoint after each."""
    recipe = {
        "task": "autoencoder", "output": str(folder / "whole"), "steps": steps, "batch_size": 2, "crop": 16,
        "mixed_precision": "fp32", "log_every": 1, "checkpoint_every": 1, "checkpoints_total_limit": 2,
        "source": {"format": "moving-shapes", "levels": [1]}, "autoencoder": AUTOENCODER,
        "optimizer": {"learning_rate": 0.003, "warmup_steps": 0},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run_forked(recipe, at=None):
    """Train in a forked process. Returns its status, and the event before which it was killed.

    at: the number of a file event; as a float, seconds after the first step; None: it is not killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading) as stream:
            what = stream.read()
        return os.waitpid(child, 0)[1], what
    try:
        signal.signal(signal.SIGALRM, lambda *_: kill("some time after the first step", writing))
        if isinstance(at, int):
            kill_at_event(recipe.output, at, writing)

        def report(progress):
            if isinstance(at, float):
                signal.setitimer(signal.ITIMER_REAL, at)

        train(build_task(recipe), report)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def kill(what, writing):
    """End this process as a power cut would, having said what it was about to do."""
    os.write(writing, what.encode())
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_event(output, at, writing):
    """Kill this process before the `at`-th time that it opens, renames or removes something in `output`."""
    left = at

    def hook(event, arguments):
        nonlocal left
        if event in FILE_EVENTS and arguments and str(output) in str(arguments[0]):
            left -= 1
            if left == 0:
                name = re.sub(r"^\..*(?=\.tmp)|(?<=tfevents).*|[0-9]+", "*", Path(str(arguments[0])).name)
                kill(f"{event} {name}", writing)

    sys.addaudithook(hook)


def state_of(run):
    """Step, tensors and numbers of a run's newest checkpoint."""
    folder = checkpoints(run)[-1]
    files = {file.stem: load_file(file) for file in folder.glob("*.safetensors")}
    tensors = {f"{stem} {key}": one for stem, held in files.items() for key, one in held.items()}
    return step_of(folder), tensors, json.loads((folder / "state.json").read_text())


def equal(one, other):
    """Whether two states are equal bit for bit."""
    same = one[1].keys() == other[1].keys() and all(torch.equal(one[1][key], other[1][key]) for key in one[1])
    return same and one[0] == other[0] and one[2] == other[2]


def main(kills, out, steps, seed=0):
    """Kill and compare. Returns whether the runs are equal, and what was cut off how often."""
    torch.set_num_threads(1)  # before any fork: threads do not survive one
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    whole = load_recipe(recipe_file(out, steps))
    killed = whole.model_copy(update={"output": out / "killed"})
    assert run_forked(whole)[0] == 0, "the run without a stop failed"
    expected, moments, cut_off = state_of(whole.output), random.Random(seed), Counter()
    while cut_off.total() < kills:
        at = moments.randint(1, 60) if moments.random() < 0.8 else moments.uniform(0.001, 0.1)
        status, what = run_forked(killed, at)
        if os.WIFSIGNALED(status):
            cut_off[what] += 1
        elif status != 0 or not equal(state_of(killed.output), expected):
            return False, cut_off
        else:
            shutil.rmtree(killed.output)  # it came to its end: from the beginning again
    return run_forked(killed)[0] == 0 and equal(state_of(killed.output), expected), cut_off


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder, removed first")
    options = parser.parse_args()
    quiet_libraries()
    began = time.perf_counter()
    right, events = main(options.kills, options.out, options.steps, options.seed)
    for event, count in events.most_common():
        print(f"{count:4} {event}")
    seconds = time.perf_counter() - began
    print(f"{events.total()} kills in {seconds:.0f} s: {'equal' if right else 'NOT equal'}")
    sys.exit(0 if right else 1)
