"""Temporal layers in a diffusers U-Net: put in behind its own blocks, saved apart, and taken out again.

As `unet.py` does with the shift, the class of a block is exchanged for one with a forward that ends in
`self.temporal(out, num_frames)`. The U-Net keeps its call and all its keys; the new weights are named
`<block>.temporal.*` and have a file of their own beside the stock folder. A single frame skips every temporal
layer, so the image model stays in there, bit for bit. Not a system of its own: several are made of it.

    add_temporal_layers(unet, make)                      # make(path, block): a layer, or None for none there
    with override_num_frames(unet, 16): unet(...)        # sample (B*F, C, H, W), frames of a clip adjacent
    save_temporal_layers(unet, folder / TEMPORAL_FILE)
    with without_temporal_layers(unet): unet.save_pretrained(folder / "unet")    # stock

Shapes: B clips, F frames, C channels, H x W latent pixels. A layer is a module that is called with hidden
(B*F, C, H, W) and the number of frames F > 1, and returns the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from latent_shift.io import atomic_file, read_safetensors_header
from latent_shift.model_weights import check_floats
from latent_shift.shift import check_count

Make = Callable[[str, Any], nn.Module | None]

# The exchange of classes


class TemporalState:
    """Frames of a clip, for all blocks of one U-Net; a deep copy of the U-Net has its own."""

    num_frames = 1


class _EndsInTemporal(nn.Module):
    temporal: nn.Module
    temporal_state: TemporalState

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The stock forward, and the temporal layer on what it returns; on one frame the stock forward."""
        out, num_frames = super().forward(*args, **kwargs), self.temporal_state.num_frames
        if num_frames == 1:
            return out
        hidden = out if isinstance(out, Tensor) else out[0]
        if len(hidden) % num_frames:
            raise ValueError(f"a batch of {len(hidden)} images holds no whole clips of {num_frames} frames")
        hidden = self.temporal(hidden, num_frames)
        if isinstance(out, Tensor):
            return hidden
        return (hidden,) if isinstance(out, tuple) else type(out)(sample=hidden)


class TemporalResnetBlock2D(_EndsInTemporal, ResnetBlock2D):
    """A ResNet block with a temporal layer; `add_temporal_layers` makes it, no constructor."""


class TemporalTransformer2DModel(_EndsInTemporal, Transformer2DModel):
    """A spatial transformer with a temporal layer; `add_temporal_layers` makes it, no constructor."""


class TemporalSpatialAttention(_EndsInTemporal, Attention):
    """A spatial attention with a temporal layer; `add_temporal_layers` makes it, no constructor."""


class TemporalConv2d(_EndsInTemporal, nn.Conv2d):
    """A convolution with a temporal layer; `add_temporal_layers` makes it, no constructor."""


_WITH_TEMPORAL: dict[type[nn.Module], type[_EndsInTemporal]] = {
    ResnetBlock2D: TemporalResnetBlock2D,
    Transformer2DModel: TemporalTransformer2DModel,
    Attention: TemporalSpatialAttention,
    nn.Conv2d: TemporalConv2d,
}
_STOCK = {changed: stock for stock, changed in _WITH_TEMPORAL.items()}


def add_temporal_layers(unet: nn.Module, make: Make) -> None:
    """Put temporal layers into a U-Net, in place; with the frames at 1 it computes what it did.

    Args:
        unet: a stock `UNet2DConditionModel` or `UNet2DModel`, without the shift.
        make: called with the path of every ResnetBlock2D, Transformer2DModel, Attention and Conv2d, in the
            order of `unet.named_modules()`, and with the block, of `block.out_channels` channels (Attention:
            `query_dim`); returns its layer, or None. A layer gets the device, dtype and mode of the U-Net.

    Raises:
        ValueError: where the U-Net has temporal layers already, or gets none, and where hooks of accelerate
            or diffusers would hide them.
    """
    if _blocks(unet):
        raise ValueError("this U-Net has temporal layers already: call remove_temporal_layers(unet) first")
    found = [(path, block) for path, block in _model(unet).named_modules() if type(block) in _WITH_TEMPORAL]
    layers = [(block, layer) for path, block in found if (layer := make(path, block)) is not None]
    if not layers:
        raise ValueError("no block of this U-Net got a temporal layer; a shifted one has to be stock first")
    if any("forward" in vars(block) for block, _ in layers):
        raise ValueError("hooks on blocks of this U-Net would hide its temporal layers: add the layers first")
    state, like = TemporalState(), next(_model(unet).parameters())
    for block, layer in layers:
        # Not layer.to: that of diffusers' models warns of every cast.
        block.temporal = nn.Module.to(layer, like.device, like.dtype).train(unet.training)
        block.temporal_state = state  # type: ignore[assignment]
        block.__class__ = _WITH_TEMPORAL[type(block)]  # type: ignore[assignment]


def remove_temporal_layers(unet: nn.Module) -> None:
    """Make the U-Net stock again, in place; nothing of the temporal layers stays behind."""
    for block in _blocks(unet).values():
        block.__class__ = _STOCK[type(block)]
        del block.temporal, block.temporal_state


@contextmanager
def without_temporal_layers(unet: nn.Module) -> Iterator[None]:
    """Within the `with` block the U-Net is stock; after it, it has its temporal layers again."""
    taken = [(block, type(block), block.temporal, block.temporal_state) for block in _blocks(unet).values()]
    remove_temporal_layers(unet)
    try:
        yield
    finally:
        for block, changed, layer, state in taken:
            block.temporal, block.temporal_state, block.__class__ = layer, state, changed


def set_num_frames(unet: nn.Module, num_frames: int) -> None:
    """Change the frames of a clip. Raises ValueError where there are no temporal layers.

    Under gradient checkpointing the blocks run again in the backward pass, so the number must not change
    between a forward pass and its backward pass.
    """
    check_count("num_frames", num_frames)
    _state(unet).num_frames = num_frames


@contextmanager
def override_num_frames(unet: nn.Module, num_frames: int) -> Iterator[None]:
    """Within the `with` block clips have `num_frames` frames, then as many as before."""
    before = _state(unet).num_frames
    set_num_frames(unet, num_frames)
    try:
        yield
    finally:
        set_num_frames(unet, before)


def _state(unet: nn.Module) -> TemporalState:
    for block in _blocks(unet).values():
        return block.temporal_state
    raise ValueError("this U-Net has no temporal layers: call add_temporal_layers(unet, make) first")


def _blocks(unet: nn.Module) -> dict[str, Any]:
    """Blocks with a temporal layer by their paths."""
    return {path: block for path, block in _model(unet).named_modules() if type(block) in _STOCK}


def _model(unet: nn.Module) -> nn.Module:
    return getattr(unet, "_orig_mod", unet)  # a compiled U-Net is looked into


# Weights


def temporal_parameters(unet: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the temporal layers by name, `<block>.temporal.*`."""
    return {
        f"{path}.temporal.{name}": parameter
        for path, block in _blocks(unet).items()
        for name, parameter in block.temporal.named_parameters()
    }


def save_temporal_layers(unet: nn.Module, file: Path) -> None:
    """Write the weights of the temporal layers, as safetensors, whole or not at all."""
    tensors = {name: one.detach().cpu().contiguous() for name, one in temporal_parameters(unet).items()}
    with atomic_file(file) as partial:
        save_file(tensors, partial)


@torch.no_grad()
def load_temporal_layers(unet: nn.Module, file: Path) -> None:
    """Read the weights of the temporal layers, which are there already, from a file.

    Raises ValueError for a missing or damaged file, and one of other layers.
    """
    shapes = read_safetensors_header(file).shapes
    own = temporal_parameters(unet)
    wrong = [
        name for name in {*own, *shapes} if name not in own or shapes.get(name) != tuple(own[name].shape)
    ]
    if wrong:
        raise ValueError(
            f"{file}: does not fit: {len(wrong)} weights are missing, unknown or of another shape, as"
            f" {min(wrong)}; are these the layers of another configuration or image model?"
        )
    check_floats(file, read_safetensors_header(file).dtypes)
    for name, tensor in load_file(file).items():
        own[name].copy_(tensor)


# Sites and layers that systems share


def attention_sites(unet: nn.Module) -> set[str]:
    """Paths of the blocks that are followed by a temporal attention: the spatial transformers.

    Where the down and up path of a U-Net have none, the last ResNet block of each of their levels stands in.
    """
    named = _model(unet).named_modules()
    found = {path for path, block in named if isinstance(block, Transformer2DModel)}
    if any(not path.startswith("mid_block.") for path in found):
        return found
    paths: list[tuple[str, Any]] = [("down_blocks", unet.down_blocks), ("up_blocks", unet.up_blocks)]
    return found | {
        f"{path}.{level}.resnets.{len(block.resnets) - 1}"
        for path, blocks in paths
        for level, block in enumerate(blocks)
    }


def pixel_sequences(hidden: Tensor, num_frames: int) -> Tensor:
    """(B*F, C, H, W) as one sequence over the frames for each pixel, (B*H*W, F, C)."""
    return hidden.unflatten(0, (-1, num_frames)).permute(0, 3, 4, 1, 2).flatten(0, 2)


def from_pixel_sequences(sequences: Tensor, height: int, width: int) -> Tensor:
    """Inverse of `pixel_sequences`, contiguous."""
    return sequences.unflatten(0, (-1, height, width)).permute(0, 3, 4, 1, 2).flatten(0, 1).contiguous()


class FrameConv(nn.Conv1d):
    """A 1-D convolution over the frames, of kernel 3, for each pixel; beyond a clip's ends lie zeros.

    causal: no frame reads a later one.
    """

    def __init__(self, channels: int, *, causal: bool = False) -> None:
        super().__init__(channels, channels, 3)
        self.causal = causal

    def forward(self, hidden: Tensor, num_frames: int) -> Tensor:  # type: ignore[override]
        """hidden (B*F, C, H, W), and so is the result."""
        clips = hidden.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(3)  # (B, C, F, H*W)
        clips = functional.pad(clips, (0, 0, 2, 0) if self.causal else (0, 0, 1, 1))
        out = functional.conv2d(clips, self.weight[..., None], self.bias)
        return out.transpose(1, 2).reshape(hidden.shape)


class TemporalAttention(nn.Module):
    """Pre-norm self-attention over the frames of each pixel, residual, its output zero at the start: 4 C^2.

    x + W_o MHA(LN(x) + e), with e sinusoids of the frame's number; q, k and v have no bias.
    head_width: channels of a head, of which `channels` is a multiple. positions: whether e is added.
    causal: no frame reads a later one. Raises ValueError for channels that are no multiple.
    """

    def __init__(
        self, channels: int, head_width: int, *, positions: bool = True, causal: bool = False
    ) -> None:
        super().__init__()
        if channels % head_width:
            raise ValueError(f"head_width {head_width}: {channels} channels are no multiple of it")
        self.head_width, self.positions, self.causal = head_width, positions, causal
        self.norm = nn.LayerNorm(channels)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.to_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, hidden: Tensor, num_frames: int) -> Tensor:
        """hidden (B*F, C, H, W), and so is the result."""
        states = self.norm(pixel_sequences(hidden, num_frames))  # (B*H*W, F, C)
        if self.positions:
            numbers = torch.arange(num_frames, device=states.device)
            states = states + get_timestep_embedding(numbers, states.shape[-1]).to(states.dtype)
        query, key, value = (
            layer(states).unflatten(-1, (-1, self.head_width)).transpose(1, 2)  # (B*H*W, heads, F, width)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self.bias(num_frames, query), is_causal=self.causal
        )
        out = self.to_out(mixed.transpose(1, 2).flatten(2))
        return hidden + from_pixel_sequences(out, *hidden.shape[2:]).to(hidden.dtype)

    def bias(self, num_frames: int, query: Tensor) -> Tensor | None:
        """A bias of the attention's logits, (heads, F, F) in the dtype of `query`; here none."""
        return None
