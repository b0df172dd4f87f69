import pytest

from serving import open_model, running_server


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return open_model(tmp_path_factory.mktemp("served") / "open")


@pytest.fixture(scope="session")
def server(model, tmp_path_factory):
    """A server with a worker, for all tests that do not end it."""
    with running_server(tmp_path_factory.mktemp("server"), "--model", f"tiny={model}") as running:
        yield running
