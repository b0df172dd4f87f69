import tempfile
from pathlib import Path

import pytest

from memory_disk import MEMORY_DISK
from serving import open_model, running_server


@pytest.fixture
def tmp_path():
    """A folder in memory, where there is such a disk: every change of a job waits for the disk."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return open_model(tmp_path_factory.mktemp("served") / "open")


@pytest.fixture(scope="session")
def server(model):
    """A server with a worker, for all tests that do not end it."""
    with (
        tempfile.TemporaryDirectory(dir=MEMORY_DISK) as data,
        running_server(Path(data), "--model", f"tiny={model}") as running,
    ):
        yield running
