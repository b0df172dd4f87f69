"""Memory: the peak of a call, each in a fresh process; and the bytes that live at once, counted without them.

python -m latent_shift.benchmark.memory MODULE:FUNCTION ARGUMENTS MODULE,...   # prints the bytes as JSON

One process imports the modules that the calls need, and forks a process for each: what the libraries take is
no part of the figures. A fork begins without the pages of their files; those that the call reads again are
taken out where Linux tells them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(call: str, arguments: Sequence[Sequence[Any]], modules: Sequence[str]) -> list[int]:
    """Bytes at the peak of each call, beyond those of the process before it.

    On a GPU the bytes that torch had allocated there.

    Args:
        call: "module:function".
        arguments: of each call, as JSON can hold them.
        modules: imported before the measurement.

    Raises:
        ValueError: where a call fails or is ended.
    """
    command = [
        sys.executable,
        "-m",
        __name__,
        call,
        json.dumps(list(map(list, arguments))),
        ",".join(modules),
    ]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads})
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["its process was ended"])[-1])
    return [int(size) for size in json.loads(done.stdout.strip().splitlines()[-1])]


def _measure(function: Callable[..., object], arguments: Sequence[Any]) -> int:
    before, mapped = _resident(), _library_pages()
    function(*arguments)
    if torch.cuda.is_initialized():  # by the call, which works there
        return int(torch.cuda.max_memory_allocated())
    return max(0, _resident() - before - (_library_pages() - mapped))


def _in_fork(function: Callable[..., object], arguments: Sequence[Any]) -> int:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(write, str(_measure(function, arguments)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not answer:
        raise ValueError(f"{', '.join(map(str, arguments))}: its process failed")
    return int(answer)


def _resident() -> int:
    """The largest number of bytes that this process has had in memory."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def _library_pages() -> int:
    """Bytes of library files that are in this process's memory; 0 where the system does not tell."""
    maps, total, of_library = Path("/proc/self/smaps"), 0, False
    if not maps.is_file():
        return 0
    for line in maps.read_text(encoding="utf-8", errors="replace").splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):  # the head of a mapping, which ends with its file
            of_library = ".so" in line.rpartition("/")[2]
        elif of_library and name in ("Rss:", "Anonymous:"):
            total += int(rest[0]) * (1024 if name == "Rss:" else -1024)
    return total


def available_memory(device: str) -> int:
    """Bytes that may still be taken: free memory of a GPU, or what Linux says is available."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info()[0])
    info = Path("/proc/meminfo")
    if not info.is_file():
        return 2**62
    lines = dict(line.split(":", 1) for line in info.read_text(encoding="utf-8").splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made within it that are alive, and the most there ever were.

    On torch's meta device it tells what a network takes without taking it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._holders: Counter[int] = Counter()  # tensors alive by the storage that they share

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and note what it makes."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not isinstance(tensor, nn.Parameter):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not self._holders[key]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self._holders[key] += 1
        weakref.finalize(tensor, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            self.now -= size


class _FusedAttention(torch.autograd.Function):
    """The shapes of fused attention, without arithmetic: it keeps queries, keys, values and its result."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return an empty result."""
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Return empty gradients."""
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@contextmanager
def fused_attention() -> Iterator[None]:
    """Let attention store no map, as fused kernels do; on the meta device torch would take the plain form."""

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        result: Tensor = _FusedAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
        return result

    with mock.patch("torch.nn.functional.scaled_dot_product_attention", attend):
        yield


def main(arguments: Sequence[str]) -> None:
    """Print the bytes of all calls as a JSON list."""
    call, values, modules = arguments
    for module in modules.split(","):
        import_module(module)
    module, _, name = call.partition(":")
    function = getattr(import_module(module), name)
    print(json.dumps([_in_fork(function, one) for one in json.loads(values)]))


if __name__ == "__main__":
    main(sys.argv[1:])
