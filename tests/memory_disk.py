"""Where tests that commit many transactions put their databases: each of them waits for the disk."""

import os
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
MEMORY_DISK = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK) else None
