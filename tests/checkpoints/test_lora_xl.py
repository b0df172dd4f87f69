"""LoRA files of SDXL as kohya names them: two text models, the blocks of the U-Net counted through."""

import copy

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file

from latent_shift import checkpoints
from tiny_xl import tiny_xl_folder

ATTENTION = "encoder.layers.{}.self_attn.{}_proj"
LAYERS = {  # name in the file: (part, path, alpha)
    "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q": (
        "unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", 1.0,
    ),
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": ("text_encoder", ATTENTION.format(0, "q"), 1.0),
    "lora_te1_text_model_encoder_layers_0_self_attn_out_proj": (
        "text_encoder", ATTENTION.format(0, "out"), 4.0,
    ),
    "lora_te2_text_model_encoder_layers_0_self_attn_q_proj": (
        "text_encoder_2", f"text_model.{ATTENTION.format(0, 'q')}", 2.0,
    ),
    "lora_te2_text_model_encoder_layers_0_self_attn_out_proj": (
        "text_encoder_2", f"text_model.{ATTENTION.format(0, 'out')}", 0.5,
    ),
}  # fmt: skip
CALL = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_xl_folder(tmp_path_factory.mktemp("models") / "xl")


def test_all_parts_are_changed_by_their_own_alphas(folder, tmp_path):
    stock = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    merged, tensors = copy.deepcopy(stock), {}
    generator = torch.Generator().manual_seed(0)
    for name, (part, path, alpha) in LAYERS.items():
        weight = getattr(merged, part).get_submodule(path).weight
        down = torch.randn(2, weight.shape[1], generator=generator) * 0.3
        up = torch.randn(len(weight), 2, generator=generator) * 0.3
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
        weight.data += 0.5 * alpha / 2 * up @ down
    save_file(tensors, tmp_path / "style.safetensors")
    ours = checkpoints.load(folder, device="cpu", loras=[f"{tmp_path}/style.safetensors:0.5"])
    images = []
    for each, more in ((ours, {"num_frames": 1}), (merged, {}), (stock, {})):
        each.set_progress_bar_config(disable=True)
        seeded = torch.Generator().manual_seed(1)
        result = each("a red circle", generator=seeded, **CALL, **more)
        images.append(result.frames[:, 0] if more else result.images)
    np.testing.assert_allclose(images[0], images[1], atol=1e-4)
    assert not np.allclose(images[0], images[2], atol=1e-2)


def test_a_second_text_model_that_is_not_there_is_told(tmp_path):
    """The same file upon a model of one text model: what does not fit is listed."""
    from tiny import tiny_pipeline_folder

    name = "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"
    halves = {"lora_down.weight": torch.ones(1, 16), "lora_up.weight": torch.ones(16, 1)}
    save_file({f"{name}.{end}": half for end, half in halves.items()}, tmp_path / "xl.safetensors")
    with pytest.raises(ValueError, match=f"2 of its 2 keys fit nothing in this model: {name}"):
        checkpoints.load(
            tiny_pipeline_folder(tmp_path / "sd"), device="cpu", loras=[f"{tmp_path}/xl.safetensors"]
        )
