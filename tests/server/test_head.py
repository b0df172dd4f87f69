"""HEAD as GET without a body, of plain answers, refusals and streams."""

import asyncio

import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from latent_shift.server.head import HeadAsGet
from latent_shift.server.security import Guard, Security


@pytest.fixture
def client():
    app = FastAPI()
    app.state.ended = []

    @app.get("/")
    def look():
        return {"text": "a text"}

    @app.post("/changes")
    def change():
        return {}

    @app.get("/events")
    async def events():
        async def forever():
            try:
                while True:
                    yield b"data: one\n\n"
                    await asyncio.sleep(0.01)
            finally:
                app.state.ended.append(True)

        return StreamingResponse(forever(), media_type="text/event-stream")

    app.add_middleware(Guard, settings=Security(hosts=("testserver",)))
    app.add_middleware(HeadAsGet)
    return TestClient(app)


def test_the_head_is_that_of_get(client):
    got, headed = client.get("/"), client.head("/")
    assert (headed.status_code, headed.content) == (200, b"")
    names = {"content-length", "content-type", "content-security-policy"}
    assert {name: headed.headers[name] for name in names} == {name: got.headers[name] for name in names}


def test_refusals_have_a_head_too(client):
    assert (client.head("/nothing").status_code, client.head("/changes").status_code) == (404, 405)
    answer = client.head("/", headers={"host": "evil.example"})
    assert (answer.status_code, answer.content) == (403, b"")


def test_a_stream_ends_with_its_head(client):
    answer = client.head("/events")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert client.app.state.ended == [True]
