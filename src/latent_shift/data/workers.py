"""Worker processes of torch's DataLoader: errors as a line for users, and others' signals."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ENDED = re.compile(r"DataLoader worker \(pid.*(exited unexpectedly|is killed by signal)", re.DOTALL)
_NO_SHARED_MEMORY = re.compile(r"shared memory|</torch_[0-9]+_")


@contextmanager
def errors_of_workers() -> Iterator[None]:
    """Within the `with` block, an error of a worker is the line that it raised, without its traceback.

    Raises ValueError where a worker was ended from outside, or had no shared memory.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if _ENDED.search(text) is None and _NO_SHARED_MEMORY.search(text) is None:
            raise
        raise ValueError(
            "a process that loads batches was ended from outside, or got no shared memory, of which"
            " containers have little (/dev/shm): give it more, or set num_workers lower, 0 for none"
        ) from error
    except (ValueError, OSError) as error:
        if " in DataLoader worker process " not in str(error):
            raise
        _, _, line = str(error).strip().splitlines()[-1].partition("Error: ")
        raise ValueError(line) from error


def outlive_termination(worker: int) -> None:
    """Let a worker, by its number, heed SIGTERM from its parent only: the `worker_init_fn` of a DataLoader.

    `timeout`, systemd and SLURM send it to all processes of a run. The main one then takes its step to the
    end and writes a checkpoint, for which it needs its workers, and ends them itself.
    """
    if not hasattr(signal, "sigwaitinfo"):  # as on macOS
        return
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
