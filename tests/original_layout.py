"""Writes a diffusers pipeline as one file in the layout of the original Stable Diffusion and SDXL code.

The inverse of what diffusers does when it reads such a file, written from the structure of the original
networks: input, middle and output blocks counted through, as tests need tiny files of that kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTER = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def write_single_file(
    pipeline: Any, file: Path, metadata: dict[str, str] | None = None, **more: Tensor
) -> Path:
    """One `.safetensors` file with the U-Net, the autoencoder and the text model or models of a pipeline."""
    tensors = {f"model.diffusion_model.{key}": t for key, t in unet(pipeline.unet).items()}
    tensors |= {f"first_stage_model.{key}": t for key, t in autoencoder(pipeline.vae).items()}
    second = getattr(pipeline, "text_encoder_2", None)
    if second is not None:
        tensors |= clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        tensors |= open_clip(second, "conditioner.embedders.1.model.")
    elif pipeline.text_encoder.config.hidden_size == 1024:
        tensors |= open_clip(pipeline.text_encoder, "cond_stage_model.model.")
    else:
        tensors |= clip(pipeline.text_encoder, "cond_stage_model.transformer.")
    save_file({key: t.contiguous() for key, t in {**tensors, **more}.items()}, file, metadata)
    return file


def unet(model: Any) -> dict[str, Tensor]:
    layers = model.config.layers_per_block
    return {_unet_key(key, layers, model): tensor for key, tensor in model.state_dict().items()}


def _unet_key(key: str, layers: int, model: Any) -> str:
    for ours, theirs in OUTER.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, theirs, 1)
    side, *rest = key.split(".")
    if side == "mid_block":
        kind, number, *inner = rest
        place = {"resnets": 2 * int(number), "attentions": 1}[kind]
        return f"middle_block.{place}.{_inner(kind, inner)}"
    block, kind, number, *inner = rest
    first = int(block) * (layers + 1)
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{1 + first + layers}.0.op.{inner[-1]}"
        return f"input_blocks.{1 + first + int(number)}.{int(kind == 'attentions')}.{_inner(kind, inner)}"
    if kind == "upsamplers":
        behind = 2 if hasattr(model.up_blocks[int(block)], "attentions") else 1
        return f"output_blocks.{first + layers}.{behind}.conv.{inner[-1]}"
    return f"output_blocks.{first + int(number)}.{int(kind == 'attentions')}.{_inner(kind, inner)}"


def _inner(kind: str, inner: list[str]) -> str:
    return ".".join([RESNET[inner[0]], *inner[1:]] if kind == "resnets" else inner)


def autoencoder(model: Any) -> dict[str, Tensor]:
    last = len(model.config.block_out_channels) - 1
    found = {}
    for key, tensor in model.state_dict().items():
        new = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        new = new.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        new = new.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        new = new.replace("resnets", "block").replace("down_blocks", "down")
        if "up_blocks" in new:
            before, after = new.split("up_blocks.")
            number, rest = after.split(".", 1)
            new = f"{before}up.{last - int(number)}.{rest}"
        if "mid_block.attentions.0." in new:
            before, inner = new.split("mid_block.attentions.0.")
            layer, side = inner.rsplit(".", 1)
            new = f"{before}mid.attn_1.{ATTENTION[layer]}.{side}"
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        found[new] = tensor
    return found


def clip(model: Any, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}text_model.{key}": tensor for key, tensor in _text_state(model).items()}


def open_clip(model: Any, prefix: str) -> dict[str, Tensor]:
    state = _text_state(model)
    found = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    if hasattr(model, "text_projection"):
        found["text_projection"] = model.text_projection.weight.data.T
    for number in range(model.config.num_hidden_layers):
        for side in ("weight", "bias"):
            parts = [state[f"encoder.layers.{number}.self_attn.{name}_proj.{side}"] for name in "qkv"]
            found[f"transformer.resblocks.{number}.attn.in_proj_{side}"] = torch.cat(parts)
            for ours, theirs in OPEN_CLIP.items():
                found[f"transformer.resblocks.{number}.{theirs}.{side}"] = state[
                    f"encoder.layers.{number}.{ours}.{side}"
                ]
    return {prefix + key: tensor for key, tensor in found.items()}


def _text_state(model: Any) -> dict[str, Tensor]:
    """The state of a text model without its outer level, which not every release of transformers has."""
    state = {key.removeprefix("text_model."): tensor for key, tensor in model.state_dict().items()}
    return {key: tensor for key, tensor in state.items() if not key.startswith("text_projection")}
