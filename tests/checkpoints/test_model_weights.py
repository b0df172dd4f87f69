"""Networks of transformers that must be whole when they are loaded; tiny ones, saved and damaged."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from latent_shift.model_weights import load_whole

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture
def folder(tmp_path):
    """A language model, from which its text model may be loaded: the names in the file are other ones."""
    LlamaForCausalLM(LlamaConfig(vocab_size=12, **SIZES)).save_pretrained(tmp_path)
    return tmp_path


def test_weights_of_other_names_are_found(folder):
    model = load_whole(LlamaModel, folder, dtype=torch.float32)
    held = load_file(folder / "model.safetensors")
    assert torch.equal(model.norm.weight, held["model.norm.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda name, tensor: {} if "q_proj" in name else {name: tensor},
            "lacks 1 of the weights of a",
        ),
        (lambda name, tensor: {name: tensor.to(torch.int8)}, "weights are I8, whole numbers"),
        (
            lambda name, tensor: {name: tensor.repeat(2, 1) if "q_proj" in name else tensor},
            "cannot be loaded: weights are of other shapes than its config.json says",
        ),
    ],
)
def test_what_the_library_would_draw_at_random_or_pass_over(folder, change, message):
    file = folder / "model.safetensors"
    tensors = [change(name, tensor) for name, tensor in load_file(file).items()]
    save_file({name: tensor for one in tensors for name, tensor in one.items()}, file)
    with pytest.raises(ValueError, match=message):
        load_whole(LlamaModel, folder)


def test_a_network_without_its_config_is_not_built_in_its_default_size(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="config.json: is missing"):
        load_whole(LlamaModel, folder)
