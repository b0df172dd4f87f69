"""The routes over HTTP: a whole session, nothing that tells a source, and what is refused."""

import re

import pytest
from starlette.testclient import TestClient

from latent_shift.study.app import create_app
from latent_shift.study.store import StudyStore
from studies import TEXTS

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def application(study, clock):
    app = create_app(study)
    app.state.store.clock = clock
    yield app
    app.state.store.close()


@pytest.fixture
def client(application):
    with TestClient(application, base_url=ADDRESS) as client:
        yield client


def join(client, application):
    invitation = application.state.store.invitation()
    answer = client.post("/api/join", json={"invitation": invitation})
    assert answer.status_code == 200
    return answer.json()["token"]


def post(client, clock, token, pair, choice="left", seconds=1.5):
    clock.now += 1
    body = {
        "showing": pair["showing"],
        "question": pair["question"]["id"],
        "choice": choice,
        "seconds": seconds,
    }
    return client.post(f"/api/r/{token}/answers", json=body)


def error_of(answer):
    return answer.status_code, answer.json()["error"]["code"]


def test_a_whole_session_by_http_tells_no_source(client, application, clock, study):
    token = join(client, application)
    said, kinds = [], []
    while True:
        answer = client.get(f"/api/r/{token}")
        said.append(answer.text + str(answer.headers) + str(answer.url))
        pair = answer.json()["pair"]
        if pair is None:
            assert answer.json()["stage"] == "finished"
            break
        kinds.append(pair["kind"])
        assert pair["question"]["id"] == "quality"
        assert pair["question"]["prompt"] is None
        assert not any(text in answer.text for text in TEXTS)  # the text comes with the second question only
        for side in ("left", "right"):
            clip = client.get(f"/api/r/{token}/clips/{pair['showing']}/{side}.mp4")
            assert clip.headers["content-type"] == "video/mp4"
            said.append(str(clip.headers) + str(clip.url) + clip.content.decode("latin-1"))
        second = post(client, clock, token, pair)
        said.append(second.text)
        shown = second.json()["pair"]
        assert shown["question"]["prompt"] in TEXTS
        third = post(client, clock, token, shown)
        said.append(third.text)
        assert third.json()["pair"]["question"] is None
        feedback = third.json()["pair"]["feedback"]
        assert len(feedback) == (2 if pair["kind"] == "training" else 0)
    assert kinds[:3] == ["training"] * 3
    assert set(kinds[3:]) == {"pair"}  # catch pairs and repeats look like any other
    everything = "\n".join(said)
    for word in ("aardvark", "zebra", "catch", "repeat", "latent_shift", "sources", str(study)):
        assert word not in everything, word
    for clip in application.state.store.study.clips:
        assert clip.id not in everything
    assert (
        len({re.search(r"'last-modified': '([^']+)'", one)[1] for one in said if "last-modified" in one}) == 1
    )
    answers = application.state.store.answers()
    assert len(answers) == 2 * len(kinds)
    assert {one.seconds for one in answers} == {1.5}


def test_clips_can_be_sought_in(client, application):
    token = join(client, application)
    pair = client.get(f"/api/r/{token}").json()["pair"]
    part = client.get(f"/api/r/{token}/clips/{pair['showing']}/left.mp4", headers={"Range": "bytes=0-99"})
    assert (part.status_code, len(part.content)) == (206, 100)


def test_the_same_post_twice_is_one_answer(client, application, clock):
    token = join(client, application)
    pair = client.get(f"/api/r/{token}").json()["pair"]
    first, second = post(client, clock, token, pair), post(client, clock, token, pair)
    assert first.status_code == second.status_code == 200
    assert first.json() == second.json()
    assert error_of(post(client, clock, token, pair, "right")) == (409, "answered")
    assert len(application.state.store.answers()) == 1


def test_consent_comes_first(client, application, study):
    token = application.state.store.personal_tokens(1)[0]
    state = client.get(f"/api/r/{token}").json()
    assert (state["stage"], state["pair"]) == ("consent", None)
    assert "when you gave them and how long they took" in state["consent"]
    assert client.post(f"/api/r/{token}/consent").json()["stage"] == "rating"
    assert client.get(f"/api/r/{token}").json()["pair"]["number"] == 1


def test_what_was_not_given_out_is_refused_and_nothing_is_lost(client, application, clock):
    token, other = join(client, application), join(client, application)
    pair = client.get(f"/api/r/{token}").json()["pair"]
    showing = pair["showing"]
    body = {"showing": showing, "question": "quality", "choice": "left"}
    clock.now += 1
    refused = {
        "another's pair": client.post(f"/api/r/{other}/answers", json=body),
        "no such rater": client.post("/api/r/nobody/answers", json=body),
        "no such pair": client.post(f"/api/r/{token}/answers", json={**body, "showing": "x"}),
        "no such question": client.post(f"/api/r/{token}/answers", json={**body, "question": "x"}),
        "another's clip": client.get(f"/api/r/{other}/clips/{showing}/left.mp4"),
        "no such clip": client.get(f"/api/r/{token}/clips/{showing}/middle.mp4"),
        "no such link": client.get("/api/r/nobody"),
        "no such invitation": client.post("/api/join", json={"invitation": "x"}),
        "a file": client.get(f"/api/r/{token}/clips/..%2F..%2Fstudy.json/left.mp4"),
        "no such page": client.get("/study.json"),
        "static only": client.get("/static/..%2F..%2Fstudy.json"),
    }
    for what, answer in refused.items():
        assert answer.status_code in (400, 404), what
        assert set(answer.json()) == {"error"}
    assert application.state.store.answers() == []
    assert post(client, clock, token, pair).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"choice": "both"},
        {"choice": None},
        {"seconds": -1},
        {"seconds": "inf"},
        {"plays": 10**9},
        {"extra": 1},
        {"showing": "x" * 1000},
        {"showing": 5},
    ],
)
def test_nonsense_is_a_400(client, application, clock, wrong):
    token = join(client, application)
    pair = client.get(f"/api/r/{token}").json()["pair"]
    clock.now += 1
    body = {"showing": pair["showing"], "question": "quality", "choice": "left", **wrong}
    assert error_of(client.post(f"/api/r/{token}/answers", json=body)) == (400, "invalid_request")
    assert application.state.store.answers() == []


def test_other_sites_and_other_names_are_refused(client, application, clock):
    token = join(client, application)
    pair = client.get(f"/api/r/{token}").json()["pair"]
    clock.now += 1
    body = {"showing": pair["showing"], "question": "quality", "choice": "left"}
    url = f"/api/r/{token}/answers"
    assert client.post(url, json=body, headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.post(url, json=body, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.get(f"/api/r/{token}", headers={"Host": "rebound.example"}).status_code == 403
    assert client.post(url, content=b"x" * 20_000).status_code == 413
    assert (
        client.post(url, content=b"not json", headers={"Content-Type": "application/json"}).status_code == 400
    )
    assert application.state.store.answers() == []


def test_pages_load_nothing_from_elsewhere(client, application):
    token = join(client, application)
    for path in (f"/r/{token}", "/join/whatever", "/"):
        page = client.get(path)
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["referrer-policy"] == "no-referrer"  # the link is the rater's secret
        assert not re.search(r"(src|href)=\"(https?:)?//", page.text)
        for asset in re.findall(r"(?:src|href)=\"(/static/[^\"]+)\"", page.text):
            assert client.get(asset).status_code == 200
    assert client.get("/static/player.js").status_code == 200


def test_no_answer_can_be_given_before_the_page_has_begun(client, application):
    page = client.get(f"/r/{join(client, application)}").text
    answers = re.findall(r"<button[^>]*answer-[^>]*>", page)
    assert len(answers) == 3
    assert all(" disabled" in button for button in answers)


def test_personal_links_close_the_invitation(study):
    app = create_app(study, open_to_all=False)
    with TestClient(app, base_url=ADDRESS) as client:
        invitation = StudyStore.open(study).invitation()
        assert client.get(f"/api/join/{invitation}").status_code == 404
        assert client.post("/api/join", json={"invitation": invitation}).status_code == 404
        assert client.get(f"/api/r/{app.state.store.personal_tokens(1)[0]}").status_code == 200


def test_no_address_is_stored(client, application, study):
    join(client, application)
    content = b"".join(file.read_bytes() for file in study.glob("answers.sqlite*"))
    assert b"testclient" not in content
    assert b"127.0.0.1" not in content
