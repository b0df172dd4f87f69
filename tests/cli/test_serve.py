"""`latent-shift serve`: mistakes in keys, names and the store are one line, and what is right is served."""

import gc

import pytest
import uvicorn
from starlette.testclient import TestClient

from latent_shift.server.store import FILE_NAME
from program import run_program


@pytest.fixture
def serve(tmp_path, monkeypatch, capsys):
    """Run `serve` and, in the place of listening, call look(application). Returns (status, error)."""

    def serve(*options, look=lambda app: None):
        monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: look(self.config.app))
        command = ("serve", "--port", 0, "--data", tmp_path / "data", "--model", "moving-shapes")
        status, _, error = run_program(capsys, *command, *options)
        gc.unfreeze()
        return status, error

    return serve


def test_a_key_file_may_begin_with_a_mark_of_its_encoding(serve, tmp_path):
    file, seen = tmp_path / "keys.txt", []
    file.write_bytes(b"\xef\xbb\xbfsecret\r\n\r\nanother\r\n")

    def look(app):
        client = TestClient(app, base_url="http://127.0.0.1")
        for key in ("secret", "another", "third"):
            answer = client.get("/v1/videos", headers={"authorization": f"Bearer {key}"})
            seen.append(answer.status_code)

    assert serve("--api-key-file", file, look=look) == (0, "")
    assert seen == [200, 200, 401]


@pytest.mark.parametrize("key", ["schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel", "with\ta-tab"])
def test_a_key_that_no_header_holds_is_refused_and_not_shown(serve, tmp_path, monkeypatch, key):
    file = tmp_path / "keys.txt"
    file.write_text(f"secret\n\n{key}\n", "utf-8")
    status, error = serve("--api-key-file", file)
    assert status == 2
    assert f"--api-key-file {file}: line 3: " in error
    assert "ASCII letters" in error
    monkeypatch.setenv("LATENT_SHIFT_API_KEY", key)
    by_variable = serve()
    assert by_variable[0] == 2
    assert "$LATENT_SHIFT_API_KEY: " in by_variable[1]
    assert key not in error + by_variable[1]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("clips.example:8000", "clips.example"),
        ("http://clips.example", "clips.example"),
        ("https://Clips.example:443/page", "Clips.example"),
        ("[2001:db8::1]:8000", "[2001:db8::1]"),
    ],
)
def test_a_name_with_a_scheme_or_a_port_is_refused_with_the_name(serve, given, name):
    status, error = serve("--allowed-host", given)
    assert status == 2
    assert error.endswith(f"--allowed-host {given}: give the name only, as {name}\n")


@pytest.mark.parametrize(
    "given", ["", "*", "two names", "m\N{LATIN SMALL LETTER U WITH DIAERESIS}nchen.example"]
)
def test_what_is_no_name_is_refused(serve, given):
    status, error = serve("--allowed-host", given)
    assert (status, "is no name of a host; give one as clips.example" in error) == (2, True)


def test_a_name_is_answered_to_with_and_without_a_port(serve):
    seen = []

    def look(app):
        for host in ("clips.example", "CLIPS.example:8000", "[2001:db8::1]:80", "other.example"):
            seen.append(TestClient(app).get("/livez", headers={"host": host}).status_code)

    assert serve("--allowed-host", "Clips.Example", "--allowed-host", "2001:DB8::1", look=look) == (0, "")
    assert seen == [200, 200, 200, 403]


def test_a_damaged_store_is_one_line(serve, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / FILE_NAME).write_text("no database")
    status, error = serve()
    assert status == 2
    assert len(error.splitlines()) == 1
    assert f"{tmp_path / 'data' / FILE_NAME}: is damaged, or cannot be used (file is not a database)" in error
