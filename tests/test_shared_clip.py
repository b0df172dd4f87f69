"""One clip on two processes against the pass of one, over gloo on the CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from latent_shift.shared_clip import own_frames

PROCESS = Path(__file__).parent / "shared_clip_process.py"


def test_parts_follow_each_other_and_hardly_differ():
    for frames, processes in ((16, 2), (17, 4), (5, 5), (4096, 7)):
        parts = [own_frames(frames, rank, processes) for rank in range(processes)]
        assert [frame for part in parts for frame in part] == list(range(frames))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, PROCESS, str(rank), tmp_path / "store"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        out, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        refused, mixing, error, alone = out.splitlines()
        assert mixing.startswith("frames meet in ")
        assert refused == "7 frames on 2 processes: each needs 4 or more; use fewer processes"
        assert float(error) < 3e-6
        assert float(alone) > 1e-2
