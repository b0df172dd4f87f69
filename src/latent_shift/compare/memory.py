"""Peak memory of systems: one process imports what they need, and forks a fresh one for each.

python -m latent_shift.compare.memory MODEL FRAMES DTYPE ...        # prints the bytes of each as JSON
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch

from latent_shift import systems
from latent_shift.moving_shapes.constants import SIZE
from latent_shift.systems.base import GenerationRequest


def peak_memory(models: Sequence[Path], frames: int, dtype: str) -> list[int]:
    """Bytes at the peak of loading each model and making one clip, beyond those of the process before.

    On a GPU the bytes that torch had allocated there. Raises ValueError where a model cannot be measured.
    """
    command = [sys.executable, "-m", __name__, str(frames), dtype, *map(str, models)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it was ended"])[-1]
        raise ValueError(f"the memory of {', '.join(map(str, models))} cannot be measured: {last}")
    return [int(size) for size in json.loads(done.stdout.strip().splitlines()[-1])]


def _measure(model: Path, frames: int, dtype: str) -> int:
    """Load a model and make a clip, in this process. Returns its bytes."""
    before = _resident()
    request = GenerationRequest(prompt="a red circle", seed=0, frames=frames, height=SIZE, width=SIZE)
    systems.load(model, dtype=dtype).generate([request])
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return max(0, _resident() - before)


def _in_fork(model: Path, frames: int, dtype: str) -> int:
    """Call `_measure` in a forked process. Raises ValueError where that fails."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(write, str(_measure(model, frames, dtype)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not answer:
        raise ValueError(f"{model}: its process failed")
    return int(answer)


def _resident() -> int:
    """The largest number of bytes that this process has had in memory."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def main(arguments: Sequence[str]) -> None:
    """Print the bytes of all models as a JSON list."""
    frames, dtype, *models = arguments
    import_module("latent_shift.pipeline")
    for model in models:
        import_module(systems.find(model).__module__)
    print(json.dumps([_in_fork(Path(model), int(frames), dtype) for model in models]))


if __name__ == "__main__":
    main(sys.argv[1:])
