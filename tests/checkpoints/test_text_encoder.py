"""The text encoder of a folder, read without transformers' rules of renaming: the same as by transformers."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from latent_shift.checkpoints import load, loading
from tiny import tiny_pipeline_folder


@pytest.fixture
def part(tmp_path):
    return tiny_pipeline_folder(tmp_path / "tiny") / "text_encoder"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_transformers_own(part, dtype):
    found = loading._text_encoder(part, "CLIPTextModel", dtype)
    expected = CLIPTextModel.from_pretrained(part, dtype=dtype)
    assert not found.training
    assert found.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(one, found.state_dict()[name]) for name, one in expected.state_dict().items())
    tokens = torch.arange(12)[None]
    assert torch.equal(found(tokens).last_hidden_state, expected.eval()(tokens).last_hidden_state)


def test_weights_with_earlier_names_are_left_to_transformers(part):
    file = part / "model.safetensors"
    held = load_file(file)
    names = [name.removeprefix("text_model.") for name in held]
    former = names if names != list(held) else [f"text_model.{name}" for name in names]
    save_file(dict(zip(former, held.values(), strict=True)), file, {"format": "pt"})
    assert loading._text_encoder(part, "CLIPTextModel", torch.float32) is None
    pipeline = load(part.parent, device="cpu", dtype="fp32")
    assert all(torch.equal(held[name], one) for name, one in pipeline.text_encoder.state_dict().items())
