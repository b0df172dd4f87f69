"""What a created video warns of, beside words that its model does not know."""

import pytest
from starlette.testclient import TestClient

from latent_shift.server.app import create_app
from latent_shift.server.config import ServerConfig


@pytest.fixture
def client(model, tmp_path):
    config = ServerConfig(data=tmp_path / "data", models={"tiny": str(model)})
    return TestClient(create_app(config), base_url="http://127.0.0.1")


@pytest.mark.parametrize("guidance", [0, 1.0])
def test_a_negative_prompt_without_guidance(client, guidance):
    fields = {"prompt": "a red circle", "negative_prompt": "green", "guidance_scale": guidance}
    created = client.post("/v1/videos", json=fields).json()
    reason = f"guidance_scale is {guidance:g}: ask for more than 1 to make it count"
    assert created["warnings"] == [f"the negative prompt has no effect, for {reason}"]
    assert client.get(f"/v1/videos/{created['id']}").json()["warnings"] == created["warnings"]
    remix = client.post(f"/v1/videos/{created['id']}/remix", json={"prompt": "a blue circle"})
    assert remix.json()["warnings"] == created["warnings"]
    for changes in ({"negative_prompt": ""}, {"negative_prompt": None}, {"guidance_scale": 1.5}):
        assert client.post("/v1/videos", json={**fields, **changes}).json()["warnings"] == []
