"""Too little memory, said as what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ON_CPU = "DefaultCPUAllocator"  # torch has no class of its own for a CPU's
_MENDS = (
    "gradient_checkpointing: true", "accumulate: as many parts as batch_size", "a smaller batch_size",
    "fewer or smaller frames (clips.frames)", "lora: {}", "optimizer.kind: adamw-8bit (on a GPU)",
    "FSDP2 on several GPUs (docs/training.md)",
)  # fmt: skip


@contextmanager
def memory_told() -> Iterator[None]:
    """Within the `with` block a lack of memory becomes a ValueError that names what takes less."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and _ON_CPU not in str(error):
            raise
        raise ValueError(f"out of memory in a training step; what takes less: {'; '.join(_MENDS)}") from error
