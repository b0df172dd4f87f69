"""The routes of videos and models, without a worker: jobs are claimed and finished by the test itself."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageSequence, PngImagePlugin
from starlette.testclient import TestClient

from latent_shift.generation import GeneratedClip
from latent_shift.media import write_clip
from latent_shift.media.pictures import SETTINGS_KEY
from latent_shift.server import uploads, variants
from latent_shift.server.app import create_app, security_of
from latent_shift.server.config import Limits, ServerConfig
from latent_shift.systems.base import SettledRequest

JSON = {"content-type": "application/json"}
PROMPT = "a red circle"
UNKNOWN = "video_" + "0" * 32
FORM = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xc3\xa4\r\n--x--\r\n'


def client_of(config, **options):
    return TestClient(
        create_app(config, **options), base_url="http://127.0.0.1", raise_server_exceptions=False
    )


@pytest.fixture
def config(model, tmp_path):
    limits = Limits(prompt_chars=100, frames=64, pixels=128 * 128, steps=10, work=10**6, queued=4)
    return ServerConfig(data=tmp_path / "data", models={"tiny": str(model)}, limits=limits)


@pytest.fixture
def client(config):
    return client_of(config)


@pytest.fixture
def service(client):
    return client.app.state.service


def create(client, **fields):
    answer = client.post("/v1/videos", json={"prompt": PROMPT, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def finish(service, id, frames=4):
    """Complete the job that waits longest with a clip of noise."""
    (job,) = service.store.claim("test", 60, lambda job: 1)
    assert job.id == id
    clip = np.random.default_rng(0).integers(0, 255, (frames, 32, 32, 3), np.uint8)
    request = SettledRequest(**job.request)
    settings = {"seed": request.seed, "prompt": "p", "loop": request.loop}
    made = service.files.write([(job, GeneratedClip(clip, request, 0.5), settings)])
    assert service.store.finish(made, peak_memory_mb=1.0, keep=100) == {id}
    return clip


def error_of(answer, status=400):
    assert answer.status_code == status, answer.text
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] in ("invalid_request_error", "rate_limit_error", "server_error")
    return error


# ---- bodies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "data", "files"])
def test_a_body_may_be_json_a_form_or_multipart(client, kind):
    fields = {
        "prompt": PROMPT, "seed": 7, "num_frames": 8, "fps": 4.5, "num_inference_steps": 2,
        "guidance_scale": 2.5, "negative_prompt": "blue", "size": "64x32",
    }  # fmt: skip
    if kind == "json":
        answer = client.post("/v1/videos", json=fields)
    elif kind == "data":
        answer = client.post("/v1/videos", data={name: str(value) for name, value in fields.items()})
    else:
        answer = client.post("/v1/videos", files={name: (None, str(value)) for name, value in fields.items()})
    assert answer.status_code == 200, answer.text
    video = answer.json()
    assert {name: video[name] for name in fields} == fields
    assert video["seconds"] == "1.77778"
    assert (video["object"], video["status"], video["progress"]) == ("video", "queued", 0)
    assert (video["queue_position"], video["url"], video["error"]) == (1, None, None)
    assert 100 <= int(answer.headers["openai-poll-after-ms"]) <= 1000


def test_what_is_left_open_is_the_models_own_and_the_seed_is_shown(client):
    video = create(client)
    assert (video["num_frames"], video["fps"], video["size"], video["model"]) == (4, 8, "32x32", "tiny")
    assert create(client)["seed"] != video["seed"]
    assert client.get(f"/v1/videos/{video['id']}").json()["seed"] == video["seed"]


def test_frames_come_before_seconds_and_size_before_width(client):
    assert create(client, seconds="2", fps=4)["num_frames"] == 8
    assert create(client, seconds=1.5)["num_frames"] == 12
    assert create(client, seconds="2", num_frames=3)["num_frames"] == 3
    assert create(client, size="64x32", width=32, height=64)["size"] == "64x32"


def test_unknown_fields_are_named_or_refused(client):
    assert create(client, quality="hd", n=1)["ignored"] == ["n", "quality"]
    error = error_of(client.post("/v1/videos?strict=1", json={"prompt": PROMPT, "quality": "hd"}))
    assert (error["param"], error["code"]) == ("quality", "unknown_field")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "  "}, "prompt"),
        ({"prompt": "x" * 101}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "a \ud800"}, "prompt"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_frames": "8"}, "num_frames"),
        ({"num_frames": 65}, "num_frames"),
        ({"num_frames": True}, "num_frames"),
        ({"seconds": "60"}, "seconds"),
        ({"seconds": "long"}, "seconds"),
        ({"seconds": "0"}, "seconds"),
        ({"seconds": 3000}, "seconds"),
        ({"size": "8192x64"}, "size"),
        ({"size": "64"}, "size"),
        ({"size": "33x32"}, "size"),
        ({"size": "256x256"}, "size"),
        ({"width": 33}, "width"),
        ({"num_inference_steps": 11}, "num_inference_steps"),
        ({"num_frames": 64, "size": "128x128"}, "num_frames"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"fps": 0}, "fps"),
        ({"guidance_scale": 101}, "guidance_scale"),
        ({"loop": "yes"}, "loop"),
        ({"loop": True, "num_frames": 1}, "loop"),
        ({"input_reference": "/etc/passwd"}, "input_reference"),
        ({"input_reference[image_url]": "http://127.0.0.1/"}, "input_reference[image_url]"),
    ],
)
def test_a_value_that_cannot_be_met_is_named(client, service, fields, param):
    body = json.dumps({"prompt": PROMPT, **fields})
    error = error_of(client.post("/v1/videos", content=body, headers=JSON))
    assert error["param"] == param
    assert error["message"]
    assert service.store.counts() == {}


def test_texts_of_a_form_that_are_no_numbers_are_refused(client):
    for fields in ({"num_frames": "many"}, {"seed": "1.5"}, {"fps": "nan"}, {"guidance_scale": "inf"}):
        error = error_of(client.post("/v1/videos", data={"prompt": PROMPT, **fields}))
        assert [error["param"]] == list(fields)
    twice = {"prompt": [PROMPT, "a blue square"]}
    assert error_of(client.post("/v1/videos", data=twice))["param"] == "prompt"


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_json"),
        (b"[" * 100_000, "application/json", 400, "invalid_json"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "application/json", 400, "invalid_json"),
        (b"[1]", "application/json", 400, "invalid_request"),
        (b'{"prompt": "x", "fps": NaN}', "application/json", 400, "invalid_request"),
        (b'{"prompt": "x"}', "text/plain", 415, "unsupported_media_type"),
        (b"", "", 415, "unsupported_media_type"),
        (b"--x\r\nbroken", "multipart/form-data; boundary=x", 400, "invalid_request"),
        (b"a", "multipart/form-data", 400, "invalid_request"),
        (FORM, "multipart/form-data; boundary=x; charset=undefined", 400, "invalid_request"),
        (FORM, "multipart/form-data; boundary=x; charset=punycode", 400, "invalid_request"),
    ],
)
def test_a_damaged_body_is_refused(client, body, kind, status, code):
    answer = client.post("/v1/videos", content=body, headers={"content-type": kind})
    assert error_of(answer, status)["code"] == code


def test_an_unknown_model_is_not_found(client):
    error = error_of(client.post("/v1/videos", json={"prompt": PROMPT, "model": "sora-2"}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert error_of(client.get("/v1/models/sora-2"), 404)["code"] == "model_not_found"


def test_models_tell_their_defaults_limits_and_examples(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert client.get("/v1/models/tiny").json() == model
    assert (model["id"], model["object"]) == ("tiny", "model")
    assert (model["device"], model["dtype"]) == ("auto", "auto")
    assert model["defaults"]["num_frames"] == 4
    assert model["limits"]["frames"] == 64
    assert len(model["examples"]) > 1


def test_names_of_models_on_the_machine_are_told_to_its_own_user_only(config, model):
    own, others = client_of(config), client_of(config, security=security_of(config, api_keys=("k",)))
    assert own.get("/v1/models/tiny").json()["source"] == str(model)
    answer = others.get("/v1/models/tiny", headers={"authorization": "Bearer k"})
    assert answer.json()["source"] is None
    assert str(model) not in answer.text


def test_words_that_were_not_trained_on_are_told_as_the_command_does(config, model, tmp_path):
    config_file = model / "latent_shift.json"
    own = tmp_path / "own"
    shutil.copytree(model, own)
    facts = json.loads((own / config_file.name).read_text())
    facts["untrained_words"] = ["fast", "red+blue", "and then"]
    (own / config_file.name).write_text(json.dumps(facts))
    client = client_of(replace(config, models={"own": str(own)}))
    found = create(client, prompt="a red circle and then a blue one, moving fast, slowly")["warnings"]
    assert found == [
        "the model was trained on no clip with 'fast', 'red' and 'blue' together, 'and then' in its caption"
    ]


# ---- jobs --------------------------------------------------------------------------------------------


def test_places_in_the_queue_and_a_full_queue(client):
    videos = [create(client) for _ in range(4)]
    assert [video["queue_position"] for video in videos] == [1, 2, 3, 4]
    answer = client.post("/v1/videos", json={"prompt": PROMPT})
    assert error_of(answer, 429)["code"] == "queue_full"
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    client.delete(f"/v1/videos/{videos[0]['id']}")
    assert client.get(f"/v1/videos/{videos[3]['id']}").json()["queue_position"] == 3


def test_a_full_disk_is_refused(config, tmp_path):
    client = client_of(ServerConfig(**{**vars(config), "min_free_bytes": 10**18}))
    answer = client.post("/v1/videos", json={"prompt": PROMPT})
    assert error_of(answer, 429)["code"] == "storage_full"
    assert answer.headers["retry-after"] == "60"
    assert client.get("/v1/videos").json()["data"] == []


def test_a_repeat_with_the_same_key_is_the_same_video(client):
    body, headers = {"prompt": PROMPT}, {"Idempotency-Key": "k1"}
    first = client.post("/v1/videos", json=body, headers=headers).json()
    assert client.post("/v1/videos", json=body, headers=headers).json()["id"] == first["id"]
    other = client.post("/v1/videos", json={"prompt": "another"}, headers=headers)
    assert error_of(other)["code"] == "idempotency_mismatch"
    assert create(client)["id"] != first["id"]


def test_a_repeat_is_answered_where_nothing_new_is_taken(client, service, config):
    body, headers = {"prompt": PROMPT}, {"Idempotency-Key": "k3"}
    first = client.post("/v1/videos", json=body, headers=headers).json()
    service.store.close()
    full = client_of(replace(config, min_free_bytes=10**18, limits=replace(config.limits, prompt_chars=5)))
    again = full.post("/v1/videos", json={"prompt": "a dot"}, headers=headers)
    assert error_of(again)["code"] == "idempotency_mismatch"
    full = client_of(replace(config, min_free_bytes=10**18))
    assert full.post("/v1/videos", json=body, headers=headers).json()["id"] == first["id"]
    assert error_of(full.post("/v1/videos", json=body), 429)["code"] == "storage_full"


def test_keys_hold_for_remixes_and_for_sync(client, service):
    videos = [create(client)["id"] for _ in range(2)]
    body, headers = {"prompt": "another"}, {"Idempotency-Key": "k2"}
    first, again = (
        client.post(f"/v1/videos/{videos[0]}/remix", json=body, headers=headers) for _ in range(2)
    )
    assert again.json()["id"] == first.json()["id"]
    other = client.post(f"/v1/videos/{videos[1]}/remix", json=body, headers=headers)
    assert error_of(other)["code"] == "idempotency_mismatch"
    for id in videos:
        client.delete(f"/v1/videos/{id}")
    finish(service, first.json()["id"])
    video = client.post("/v1/videos", json=body, headers={"Idempotency-Key": "k3"}).json()
    finish(service, video["id"])
    answer = client.post("/v1/videos/sync", json=body, headers={"Idempotency-Key": "k3"})
    assert answer.headers["x-video-id"] == video["id"]
    assert len(client.get("/v1/videos").json()["data"]) == 2


def test_after_a_cancel_a_key_makes_a_new_video(client):
    body, headers = {"prompt": PROMPT}, {"Idempotency-Key": "k4"}
    first = client.post("/v1/videos", json=body, headers=headers).json()
    client.post(f"/v1/videos/{first['id']}/cancel")
    other = client.post("/v1/videos", json={"prompt": "another"}, headers=headers)
    assert error_of(other)["code"] == "idempotency_mismatch"
    second = client.post("/v1/videos", json=body, headers=headers).json()
    assert (second["status"], second["id"] != first["id"]) == ("queued", True)


def test_a_sync_that_takes_too_long_is_cancelled_or_with_a_key_kept(config):
    client = client_of(replace(config, sync_timeout=0.0))
    for headers, status in (({}, "failed"), ({"Idempotency-Key": "k5"}, "queued")):
        for _ in range(2):
            answer = client.post("/v1/videos/sync", json={"prompt": PROMPT}, headers=headers)
            error = error_of(answer, 504)
            assert ("repeat the request with its Idempotency-Key" in error["message"]) == bool(headers)
        assert client.get("/v1/videos?limit=1").json()["data"][0]["status"] == status
    assert client.app.state.service.store.counts() == {"failed": 2, "queued": 1}


def test_a_loop_is_asked_for_shown_and_kept(client):
    assert client.get("/v1/models").json()["data"][0]["defaults"]["loops"]
    assert not create(client)["loop"]
    looped = create(client, loop=True)
    assert looped["loop"]
    assert client.post(f"/v1/videos/{looped['id']}/remix", json={"prompt": "b"}).json()["loop"]
    assert client.post("/v1/videos", data={"prompt": PROMPT, "loop": "true"}).json()["loop"]


def test_lists_have_pages(client):
    ids = [create(client)["id"] for _ in range(3)]
    page = client.get("/v1/videos", params={"limit": 2}).json()
    assert [video["id"] for video in page["data"]] == ids[:0:-1]
    assert (page["object"], page["has_more"], page["first_id"], page["last_id"]) == (
        "list",
        True,
        ids[2],
        ids[1],
    )
    last = client.get("/v1/videos", params={"limit": 2, "after": page["last_id"]}).json()
    assert [video["id"] for video in last["data"]] == ids[:1]
    assert not last["has_more"]
    upwards = client.get("/v1/videos", params={"order": "asc"}).json()
    assert [video["id"] for video in upwards["data"]] == ids
    assert error_of(client.get("/v1/videos", params={"after": "x"}), 404)["param"] == "after"
    assert error_of(client.get("/v1/videos", params={"limit": 101}))["param"] == "limit"
    assert error_of(client.get("/v1/videos", params={"order": "up"}))["param"] == "order"


def test_a_list_may_be_deleted_while_it_is_read(client):
    ids = [create(client)["id"] for _ in range(4)]
    after, deleted = {}, []
    while True:
        page = client.get("/v1/videos", params={"limit": 2, **after}).json()
        for video in page["data"]:
            deleted.append(client.delete(f"/v1/videos/{video['id']}").json()["id"])
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert deleted == ids[::-1]


def test_cancelling_fails_a_job_and_leaves_a_finished_one(client, service):
    video = create(client)
    cancelled = client.post(f"/v1/videos/{video['id']}/cancel")
    assert cancelled.status_code == 200
    assert cancelled.json()["status"] == "failed"
    looked = client.get(f"/v1/videos/{video['id']}")
    assert looked.status_code == 200
    assert looked.json()["error"] == {"code": "cancelled", "message": "the job was cancelled"}
    assert error_of(client.get(f"/v1/videos/{video['id']}/content"))["code"] == "cancelled"
    done = create(client)
    finish(service, done["id"])
    assert client.post(f"/v1/videos/{done['id']}/cancel").json()["status"] == "completed"


def test_deleting_removes_job_and_files(client, service, config):
    video = create(client)
    finish(service, video["id"])
    client.get(f"/v1/videos/{video['id']}/content?variant=thumbnail")
    assert len(list(service.files.clips.iterdir())) == 2
    answer = client.delete(f"/v1/videos/{video['id']}")
    assert answer.json() == {"id": video["id"], "deleted": True, "object": "video.deleted"}
    assert list(service.files.clips.iterdir()) == []
    for call in (client.get, client.delete):
        assert error_of(call(f"/v1/videos/{video['id']}"), 404)["code"] == "video_not_found"


def test_ids_are_matched_by_their_pattern(client):
    for id in ("x", "video_", "..%2f..%2fetc%2fpasswd", "video_" + "g" * 32, "video_123"):
        assert client.get(f"/v1/videos/{id}").status_code == 404
    for call, path in (("post", "cancel"), ("post", "remix"), ("get", "content"), ("get", "events")):
        options = {"json": {"prompt": PROMPT}} if path == "remix" else {}
        answer = getattr(client, call)(f"/v1/videos/{UNKNOWN}/{path}", **options)
        assert error_of(answer, 404)["code"] == "video_not_found"


def test_a_remix_keeps_all_but_the_prompt(client):
    video = create(client, seed=5, num_frames=8, size="64x64", negative_prompt="red", guidance_scale=2.0)
    answer = client.post(f"/v1/videos/{video['id']}/remix", json={"prompt": "a green square"})
    assert answer.status_code == 200
    remix = answer.json()
    kept = ("seed", "num_frames", "size", "negative_prompt", "guidance_scale", "fps", "model")
    assert {name: remix[name] for name in kept} == {name: video[name] for name in kept}
    assert (remix["prompt"], remix["remixed_from_video_id"]) == ("a green square", video["id"])
    assert error_of(client.post(f"/v1/videos/{video['id']}/remix", json={}))["param"] == "prompt"


def test_a_remix_keeps_to_the_limits_of_texts(client, config, service):
    video = create(client, negative_prompt="blue" * 20)
    answer = client.post(f"/v1/videos/{video['id']}/remix", json={"prompt": "x" * 101})
    error = error_of(answer)
    assert error["param"] == "prompt"
    assert error["message"] == "prompt: 101 characters: this server takes at most 100"
    service.store.close()
    narrower = client_of(replace(config, limits=replace(config.limits, prompt_chars=70)))
    error = error_of(narrower.post(f"/v1/videos/{video['id']}/remix", json={"prompt": "x"}))
    assert (error["param"], error["code"]) == ("negative_prompt", "limit_exceeded")
    assert narrower.app.state.service.store.counts() == {"queued": 1}


def test_what_these_models_cannot_do_is_said(client):
    for path in ("edits", "extensions", "characters"):
        assert error_of(client.post(f"/v1/videos/{path}", json={}))["code"] == "unsupported"
    assert error_of(client.get("/v1/videos/characters/c1"))["code"] == "unsupported"


# ---- contents ----------------------------------------------------------------------------------------


def test_contents_of_a_clip(client, service):
    video = create(client)
    url = f"/v1/videos/{video['id']}/content"
    assert error_of(client.get(url))["code"] == "video_not_ready"
    finish(service, video["id"])
    assert client.get(f"/v1/videos/{video['id']}").json()["progress"] == 100
    clip = client.get(url)
    assert (clip.status_code, clip.headers["content-type"]) == (200, "video/mp4")
    assert clip.headers["content-disposition"] == f'inline; filename="a-red-circle-{video["seed"]}.mp4"'
    assert client.get(url, params={"variant": "video", "format": "mp4"}).content == clip.content
    headed = client.head(url)
    assert (headed.status_code, headed.content) == (200, b"")
    assert headed.headers["content-length"] == str(len(clip.content))
    for variant, kind, size in (("thumbnail", "webp", (32, 32)), ("spritesheet", "jpeg", (138, 36))):
        answer = client.get(url, params={"variant": variant})
        assert answer.headers["content-type"] == f"image/{kind}"
        assert Image.open(BytesIO(answer.content)).size == size
    for kind in ("gif", "webp"):
        answer = client.get(url, params={"format": kind})
        assert answer.headers["content-type"] == f"image/{kind}"
        assert Image.open(BytesIO(answer.content)).n_frames == 4
    assert error_of(client.get(url, params={"format": "png"}), 404)["param"] == "format"
    assert error_of(client.get(url, params={"variant": "sound"}))["param"] == "variant"


def test_copies_of_a_loop_show_all_frames_equally_long(client, service):
    video = create(client, loop=True, fps=24)
    finish(service, video["id"])
    for kind, delay in (("gif", 40), ("webp", 42)):
        content = client.get(f"/v1/videos/{video['id']}/content", params={"format": kind}).content
        with Image.open(BytesIO(content)) as image:
            frames = ImageSequence.Iterator(image)
            assert [frame.load() and frame.info["duration"] for frame in frames] == [delay] * 4


def test_one_frame_is_an_image(client, service):
    video = create(client, num_frames=1)
    url = f"/v1/videos/{video['id']}/content"
    made = finish(service, video["id"], frames=1)
    answer = client.get(url)
    assert answer.headers["content-type"] == "image/png"
    assert (np.array(Image.open(BytesIO(answer.content))) == made[0]).all()
    assert client.get(url, params={"format": "webp"}).headers["content-type"] == "image/webp"
    assert error_of(client.get(url, params={"format": "mp4"}), 404)["param"] == "format"


def test_ranges_of_a_clip(client, service):
    video = create(client)
    url = f"/v1/videos/{video['id']}/content"
    finish(service, video["id"])
    whole = client.get(url).content
    part = client.get(url, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    beyond = client.get(url, headers={"range": f"bytes={len(whole)}-"})
    assert error_of(beyond, 416)["code"] == "invalid_range"
    nothing = client.get(url, headers={"range": "bytes=-0"})
    assert error_of(nothing, 416)["code"] == "invalid_range"
    for passed_over in ("pages=1", "bytes=5-3", f"bytes=0-{'9' * 5000}"):
        answer = client.get(url, headers={"range": passed_over})
        assert (answer.status_code, answer.content) == (200, whole), passed_over[:20]
    assert client.get(url, headers={"range": "bytes=-5"}).content == whole[-5:]


def test_a_clip_that_has_not_changed_is_not_sent_again(client, service):
    video = create(client)
    finish(service, video["id"])
    url = f"/v1/videos/{video['id']}/content"
    whole = client.get(url)
    tag, size = whole.headers["etag"], len(whole.content)
    for tags in (tag, f'"other", W/{tag}', "*"):
        unchanged = client.get(url, headers={"if-none-match": tags})
        assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    assert client.get(url, headers={"if-none-match": '"other"'}).content == whole.content
    assert error_of(client.get(url, headers={"if-match": '"other"'}), 412)["code"] == "changed"
    assert client.get(url, headers={"if-match": tag}).status_code == 200
    for part in ("bytes=0-3", f"bytes={size}-"):  # of a file that there was before
        answer = client.get(url, headers={"range": part, "if-range": '"other"'})
        assert (answer.status_code, answer.content) == (200, whole.content)
    part = client.get(url, headers={"range": "bytes=0-3", "if-range": tag})
    assert (part.status_code, part.content) == (206, whole.content[:4])


def test_a_copy_is_made_once_and_keeps_nobody_waiting(client, service, monkeypatch):
    video = create(client)
    finish(service, video["id"])
    made, wait, begun = [], threading.Event(), threading.Event()
    plain = variants._copy

    def slow(clip, target):
        made.append(target)
        begun.set()
        assert wait.wait(30)
        plain(clip, target)

    monkeypatch.setattr(variants, "_copy", slow)
    url = f"/v1/videos/{video['id']}"
    with client, ThreadPoolExecutor(50) as pool:
        copies = [pool.submit(client.get, f"{url}/content?format=gif") for _ in range(45)]  # over 40 threads
        assert begun.wait(30)
        assert pool.submit(client.get, url).result(30).status_code == 200  # others are answered meanwhile
        assert pool.submit(client.get, f"{url}/content").result(30).status_code == 200
        wait.set()
        contents = {copy.result(30).content for copy in copies}
    assert len(contents) == len(made) == 1


def test_an_expired_clip_is_not_found_and_its_job_still_is(client, service):
    video = create(client)
    finish(service, video["id"])
    for id in service.store.expire(0, 0):
        service.files.remove(id)
    assert error_of(client.get(f"/v1/videos/{video['id']}/content"), 404)["code"] == "expired"
    assert client.get(f"/v1/videos/{video['id']}").json()["expired"]


def test_a_clip_that_has_vanished_is_not_found(client, service):
    video = create(client)
    finish(service, video["id"])
    service.files.remove(video["id"])
    for variant in ("video", "thumbnail"):
        answer = client.get(f"/v1/videos/{video['id']}/content", params={"variant": variant})
        assert error_of(answer, 404)["code"] == "expired"


def test_events_of_a_job_until_its_end(client, service):
    video = create(client)
    finish(service, video["id"])
    answer = client.get(f"/v1/videos/{video['id']}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    name, data = answer.text.strip().split("\n")
    assert name == "event: status"
    assert json.loads(data.removeprefix("data: "))["status"] == "completed"


def test_settings_of_a_file_are_read_in_another_process(client, tmp_path):
    clip = np.zeros((3, 16, 16, 3), np.uint8)
    for suffix in (".mp4", ".gif", ".webp", ".png"):
        made = write_clip(tmp_path / f"clip{suffix}", clip, settings={"prompt": "é", "seed": 2**60})
        answer = client.post("/v1/videos/inspect", files={"file": ("../x", made.read_bytes())})
        assert answer.json() == {"settings": {"prompt": "é", "seed": 2**60}}, suffix


def test_settings_of_a_strange_file_are_told_or_refused(client, tmp_path):
    picture = np.zeros((1, 16, 16, 3), np.uint8)
    deep = nested = {}
    for _ in range(300):
        nested["in"] = nested = {}
    for settings, status in (({"prompt": "\ud800 x", "\udc00": [1]}, 200), (deep, 400)):
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", json.dumps({SETTINGS_KEY: settings}))
        Image.fromarray(picture[0]).save(tmp_path / "strange.png", pnginfo=text)
        content = (tmp_path / "strange.png").read_bytes()
        answer = client.post("/v1/videos/inspect", files={"file": ("a.png", content)})
        assert answer.status_code == status, answer.text
        if status == 200:
            assert answer.json() == {"settings": {"prompt": "\\ud800 x", "\\udc00": [1]}}
        else:
            assert error_of(answer)["code"] == "unreadable_file"


def test_a_file_in_place_of_a_text_is_refused(client, service):
    for name in ("prompt", "seed"):
        fields = {"prompt": "a blue square"} if name == "seed" else {}
        answer = client.post("/v1/videos", data=fields, files={name: ("a red circle.txt", b"a blue square")})
        error = error_of(answer)
        assert (error["param"], error["message"]) == (name, f"{name}: send a text, not a file")
    assert service.store.counts() == {}


def test_a_long_clip_has_a_sheet_that_a_jpeg_can_hold(client, service):
    video = create(client)
    (job,) = service.store.claim("test", 60, lambda job: 1)
    clip = np.zeros((128, 2048, 16, 3), np.uint8)  # 65,602 pixels long in four columns
    made = service.files.write([(job, GeneratedClip(clip, SettledRequest(**job.request), 0.5), {})])
    service.store.finish(made, peak_memory_mb=1.0, keep=100)
    answer = client.get(f"/v1/videos/{video['id']}/content", params={"variant": "spritesheet"})
    assert Image.open(BytesIO(answer.content)).size == (5 * 18 + 2, 26 * 2050 + 2)


@pytest.mark.parametrize(
    "content", [b"", b"not a clip", b"\x00\x00\x00\x18ftypmp42", b"#EXTM3U\nfile:///etc/passwd\n"]
)
def test_a_file_without_settings_is_refused(client, content):
    answer = client.post("/v1/videos/inspect", files={"file": ("clip.mp4", content)})
    assert error_of(answer)["code"] == "unreadable_file"
    assert error_of(client.post("/v1/videos/inspect", json={}), 415)
    assert error_of(client.post("/v1/videos/inspect", files={"other": ("a", b"b")}))["param"] == "file"


def test_a_file_that_finds_no_place_is_refused_at_once(client):
    def post():
        return client.post("/v1/videos/inspect", files={"file": ("clip.mp4", b"not a clip")})

    freeing = [threading.Timer(1.0, uploads._places.release) for _ in range(2)]
    for one in freeing:
        uploads._places.acquire()
        one.start()
    answer = post()  # a file that waited would be read after the second
    for one in freeing:
        one.join()
    assert error_of(answer, 429)["code"] == "rate_limit_exceeded"
    assert 1 <= int(answer.headers["retry-after"]) <= 120
    assert error_of(post())["code"] == "unreadable_file"


def test_a_file_to_read_settings_from_has_a_limit(config):
    limits = replace(config.limits, upload_bytes=5000, body_bytes=1000)  # the latter for the rest of the form
    client = client_of(replace(config, limits=limits))

    def post(size):
        return client.post("/v1/videos/inspect", files={"file": ("clip.mp4", b"x" * size)})

    assert error_of(post(5000))["code"] == "unreadable_file"
    for size in (5001, 7000):
        assert error_of(post(size), 413)["code"] == "request_too_large"


# ---- the rest ----------------------------------------------------------------------------------------


def test_health_and_metrics(client, service):
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200
    health = client.get("/health")
    assert (health.status_code, health.json()["worker"]) == (503, "dead")
    video = create(client)
    create(client)
    finish(service, video["id"])
    service.metrics.observe(service.store.get(video["id"]))
    lines = client.get("/metrics").text.splitlines()
    assert "latent_shift_requests_waiting 1.0" in lines
    assert 'latent_shift_requests_total{status="completed"} 1.0' in lines
    assert "latent_shift_frames_total 4.0" in lines
    assert not any(PROMPT in line or "video_" in line for line in lines)


def test_methods_and_paths_that_there_are_not(client):
    answer = client.put("/v1/videos")
    assert error_of(answer, 405)["code"] == "method_not_allowed"
    assert answer.headers["allow"] == "GET, POST"
    assert client.post(f"/v1/videos/{UNKNOWN}").headers["allow"] == "DELETE, GET"
    for call in (client.get, client.delete, client.put):
        answer = call("/v1/videos/sync")
        assert error_of(answer, 405)["code"] == "method_not_allowed"
        assert answer.headers["allow"] == "POST"
    assert error_of(client.get("/v2"), 404)["code"] == "not_found"


def test_the_document_has_no_422_and_every_route_its_errors(client):
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert "422" not in operation["responses"], (path, method)
            assert "4XX" in operation["responses"], (path, method)
    body = document["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data", "application/x-www-form-urlencoded"}
    names = {kind: set(content["schema"]["properties"]) for kind, content in body.items()}
    assert len(set(map(frozenset, names.values()))) == 1
