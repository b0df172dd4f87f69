"""The guard: hosts, origins, keys and sizes, with an application that it knows nothing about."""

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from latent_shift.server.security import Guard, Security

KEYS = ("first-key", "second-key")


def client_of(base_url="http://127.0.0.1:8000", **settings):
    app = FastAPI()

    @app.get("/open")
    @app.get("/")
    @app.get("/files/a")
    @app.get("/closed")
    def look(request: Request):
        return {"owner": request.state.owner}

    @app.post("/closed")
    @app.post("/large")
    async def change(request: Request):
        return {"size": len(await request.body())}

    app.add_middleware(Guard, settings=Security(**settings))
    return TestClient(app, base_url=base_url)


def code_of(answer, status):
    assert answer.status_code == status, answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return answer.json()["error"]["code"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "LOCALHOST:1", "[::1]:8000", "[::1]"])
def test_the_server_answers_to_its_names(host):
    assert client_of().get("/open", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:8000", "", "[::2]:80"]
)
def test_and_to_no_other(host):
    assert code_of(client_of().get("/open", headers={"host": host}), 403) == "host_not_allowed"


def test_a_name_may_be_added():
    client = client_of(hosts=("clips.example",))
    assert client.get("/open", headers={"host": "clips.example"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8001"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_changes_from_other_sites_are_refused_and_looks_are_not(headers):
    client = client_of()
    assert code_of(client.post("/closed", headers=headers, data={"a": "b"}), 403) == "cross_site_request"
    assert client.get("/closed", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8000"},
        {"sec-fetch-site": "same-origin", "origin": "https://clips.example"},  # by a proxy that replaces Host
    ],
)
def test_changes_from_its_own_page_and_from_programs_are_let_through(headers):
    assert client_of().post("/closed", headers=headers).status_code == 200


def test_a_fault_of_the_program_is_told_in_the_same_shape_with_a_request_id(capsys):
    client = client_of()

    @client.app.get("/fault")
    def fault():
        raise RuntimeError("deep inside")

    answer = client.get("/fault")
    assert code_of(answer, 500) == "internal_error"
    assert len(answer.headers["x-request-id"]) == 16
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "deep inside" in capsys.readouterr().err
    assert "deep" not in answer.text


def test_keys():
    client = client_of(api_keys=KEYS, public_paths=("/", "/open", "/files/"))
    for path in ("/", "/open", "/files/a"):
        assert client.get(path).status_code == 200
    for given in ("", "Bearer", "Bearer wrong", "Basic first-key", "Bearer first-keys"):
        answer = client.get("/closed", headers={"authorization": given})
        assert code_of(answer, 401) == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
    owners = [
        client.get("/closed", headers={"authorization": f"Bearer {key}"}).json()["owner"] for key in KEYS
    ]
    assert len({*owners, ""}) == 3
    assert not any(key in owner for key in KEYS for owner in owners)


def test_without_keys_all_is_one_owners():
    assert client_of().get("/closed", headers={"authorization": "Bearer x"}).json() == {"owner": ""}


def test_sizes_of_bodies():
    client = client_of(body_bytes=100, larger_bodies={"/large": 200})
    assert client.post("/closed", content=b"x" * 100).json() == {"size": 100}
    assert code_of(client.post("/closed", content=b"x" * 101), 413) == "request_too_large"
    assert client.post("/large", content=b"x" * 200).json() == {"size": 200}
    chunks = (b"x" * 60 for _ in range(4))  # no content-length
    assert code_of(client.post("/large", content=chunks), 413) == "request_too_large"


def test_every_answer_has_its_headers():
    for path, status in (("/open", 200), ("/nothing", 404)):
        answer = client_of().get(path)
        assert answer.status_code == status
        for name, value in (
            ("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("cache-control", "no-store"),
            ("cross-origin-resource-policy", "same-origin"), ("referrer-policy", "no-referrer"),
        ):  # fmt: skip
            assert answer.headers[name] == value
        assert len(answer.headers["x-request-id"]) == 16
        assert "access-control-allow-origin" not in answer.headers
