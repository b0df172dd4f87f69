"""The U-Nets that are compared: one image model, with the shift and with what others add, at real sizes.

Weights are random: time and memory do not depend on what they are. A network is built on torch's meta device,
where it is counted, or with weights, where it is timed. All take the same clips; the image model's U-Net,
with and without the shift, is one and the same.

Shapes: one clip of F frames, latents of h x w; (F, 4, h, w) for U-Nets of images, (1, 4, F, h, w) for those
of diffusers that are made for clips.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
from torch import Tensor, nn

from latent_shift.benchmark.measure import MultiplyAdds
from latent_shift.benchmark.memory import LiveBytes, fused_attention
from latent_shift.checkpoints.single_file import CONFIGS
from latent_shift.systems import temporal_layers
from latent_shift.systems.latent_vdm import LatentVDMLayers
from latent_shift.systems.make_a_video.pseudo3d import add_pseudo_3d_layers
from latent_shift.systems.motion_module import MotionModule, MotionModuleLayers
from latent_shift.unet import disable_temporal_shift, enable_temporal_shift

_HEAD_WIDTH = 64  # channels of a head of attention over frames
PIXELS = 8  # of a latent pixel's side
TOKENS = 77
IMAGE, SHIFT = "image", "shift"
SIZES = {
    "sd-1": ("sd-1", {}),
    "sdxl": ("sdxl", {}),
    "tiny": ("sd-1", {
        "block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 32, "attention_head_dim": 2,
        "norm_num_groups": 8,
    }),
}  # fmt: skip
_POOL = 2**20  # random numbers that weights are made of


@dataclass(frozen=True)
class Network:
    """One U-Net: how it comes from the image model's configuration, and what it is called here.

    make: from a configuration; on the current device of torch. frames: frames of a clip, while it is called.
    for_clips: whether it takes (1, 4, F, h, w).
    """

    label: str
    make: Callable[[dict[str, Any]], nn.Module]
    frames: Callable[[nn.Module, int], AbstractContextManager[None]] = lambda unet, frames: nullcontext()
    for_clips: bool = False
    sizes: tuple[str, ...] = tuple(SIZES)


def _image(config: dict[str, Any]) -> nn.Module:
    return UNet2DConditionModel.from_config(config)


def _latent_vdm(**settings: Any) -> Callable[[dict[str, Any]], nn.Module]:
    """The image model with Latent-VDM's layers. settings: of `LatentVDMLayers`."""

    def make(config: dict[str, Any]) -> nn.Module:
        unet = _image(config)
        layers = LatentVDMLayers(head_width=_head_width(config), **settings)
        temporal_layers.add_temporal_layers(unet, layers.layers(unet))
        return unet

    return make


def _motion_modules(config: dict[str, Any]) -> nn.Module:
    unet = _image(config)
    temporal_layers.add_temporal_layers(unet, MotionModuleLayers(max_frames=64).layers(unet))
    return unet


def _head_width(config: dict[str, Any]) -> int:
    return min(_HEAD_WIDTH, *config["block_out_channels"])


def _make_a_video(config: dict[str, Any]) -> nn.Module:
    unet = _image(config)
    add_pseudo_3d_layers(unet, _head_width(config))
    return unet


def _of_diffusers(kind: type[nn.Module]) -> Callable[[dict[str, Any]], nn.Module]:
    """One of diffusers' own video U-Nets, at its defaults but for the sizes of the configuration."""
    names = ("block_out_channels", "cross_attention_dim", "norm_num_groups")

    def make(config: dict[str, Any]) -> nn.Module:
        changes = {name: config[name] for name in names if name in config}
        if kind is UNet3DConditionModel and config["block_out_channels"][0] < _HEAD_WIDTH:
            changes["attention_head_dim"] = config["attention_head_dim"]
        return kind(**changes)

    return make


_temporal = temporal_layers.override_num_frames
NETWORKS = {
    IMAGE: Network("image model, frame by frame", _image),
    SHIFT: Network("shift", _image),
    "latent-vdm-convolution": Network("Latent-VDM, convolution", _latent_vdm(attention=False), _temporal),
    "latent-vdm-attention": Network("Latent-VDM, attention", _latent_vdm(convolution="none"), _temporal),
    "latent-vdm": Network("Latent-VDM, both", _latent_vdm(), _temporal),
    "make-a-video": Network("Make-A-Video's layers", _make_a_video, _temporal),
    "motion-modules": Network("motion modules on the image U-Net", _motion_modules, _temporal),
    "unet-motion": Network(
        "UNetMotionModel", _of_diffusers(UNetMotionModel), for_clips=True, sizes=("sd-1", "tiny")
    ),
    "unet3d": Network(
        "UNet3DConditionModel", _of_diffusers(UNet3DConditionModel), for_clips=True, sizes=("sd-1", "tiny")
    ),
}  # fmt: skip


def configuration(size: str) -> dict[str, Any]:
    """The configuration of the image model's U-Net at one of `SIZES`."""
    folder, changes = SIZES[size]
    return {**json.loads((CONFIGS / folder / "unet" / "config.json").read_text(encoding="utf-8")), **changes}


class Bench:
    """A U-Net with its inputs: one clip, random.

    unet: the U-Net. frames, side: of the clip, and latent pixels of a frame's side.
    """

    def __init__(
        self, name: str, size: str, frames: int, resolution: int, device: str, dtype: torch.dtype
    ) -> None:
        """name: one of `NETWORKS`, but for `SHIFT`: the shift comes and goes by `shifted`."""
        self.network, self.frames, self.side = NETWORKS[name], frames, resolution // PIXELS
        self.config, self.device, self.dtype = configuration(size), device, dtype
        with torch.device("meta"):
            unet = self.network.make(self.config)
        _allow_frames(unet, frames)
        self.unet = unet.to(dtype) if device == "meta" else _with_weights(unet.to(dtype), device)
        self.unet.eval().requires_grad_(False)

    def shifted(self, on: bool) -> None:
        """Put the shift in, or take it out."""
        if on:
            enable_temporal_shift(self.unet, self.frames)  # type: ignore[arg-type]
        else:
            disable_temporal_shift(self.unet)  # type: ignore[arg-type]

    def inputs(self) -> dict[str, Any]:
        """Keywords of a call: one clip, a timestep and a text."""
        empty: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        shape = (self.frames, 4, self.side, self.side)
        sample, rows = torch.randn(shape, **empty), self.frames
        if self.network.for_clips:
            sample, rows = sample.transpose(0, 1)[None], 1
            if isinstance(self.unet, UNetMotionModel):
                rows = self.frames
        width = self.config["cross_attention_dim"]
        keywords: dict[str, Any] = {
            "sample": sample, "timestep": torch.tensor(500, device=self.device),
            "encoder_hidden_states": torch.randn(rows, TOKENS, width, **empty),
        }  # fmt: skip
        if self.config.get("addition_embed_type") == "text_time":
            pooled = self.config["projection_class_embeddings_input_dim"]
            pooled -= 6 * self.config["addition_time_embed_dim"]
            keywords["added_cond_kwargs"] = {
                "text_embeds": torch.randn(rows, pooled, **empty), "time_ids": torch.zeros(rows, 6, **empty)
            }  # fmt: skip
        return keywords

    @torch.no_grad()
    def sample(self, inputs: dict[str, Any]) -> Tensor:
        """One pass over the clip, as in sampling."""
        with self.network.frames(self.unet, self.frames):
            out: Tensor = self.unet(**inputs, return_dict=False)[0]
            return out

    def train(self, inputs: dict[str, Any]) -> None:
        """Forward and backward over the clip; gradients are dropped again."""
        self.ready_to_train()
        with self.network.frames(self.unet, self.frames):
            self.unet(**inputs, return_dict=False)[0].float().square().mean().backward()
        self.unet.zero_grad(set_to_none=True)

    def ready_to_train(self) -> None:
        """Let all weights be trained, with gradient checkpointing where the network has it."""
        self.unet.train().requires_grad_(True)
        if self.unet._supports_gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()  # type: ignore[operator]

    def passes(self, mode: str) -> Callable[[], object]:
        """The call that is timed: "pass" as in sampling, or "step", forward and backward."""
        inputs = self.inputs()
        return lambda: (self.sample if mode == "pass" else self.train)(inputs)


@dataclass(frozen=True)
class Counts:
    """Counted facts of a network: parameters, 10^9 multiply-adds of a clip, bytes that live at once."""

    parameters: int
    gmac: float
    live_bytes: int


def count(name: str, size: str, frames: int, resolution: int, dtype: torch.dtype, mode: str) -> Counts:
    """Count on torch's meta device, where nothing is computed.

    name, size, frames, resolution, dtype: as of `Bench`. mode: as of `Bench.passes`.
    """
    bench = Bench(IMAGE if name == SHIFT else name, size, frames, resolution, "meta", dtype)
    if name == SHIFT:
        bench.shifted(True)
    parameters = sum(one.numel() for one in bench.unet.parameters())
    with torch.device("meta"):
        inputs = bench.inputs()
        if mode == "step":
            bench.ready_to_train()
        run = bench.sample if mode == "pass" else bench.train
        with fused_attention(), LiveBytes() as live:
            run(inputs)
        with MultiplyAdds() as counter:
            run(inputs)
    weights = sum(one.numel() * one.element_size() for one in bench.unet.parameters())
    return Counts(parameters, counter.total / 1e9, weights + live.peak)


def _allow_frames(unet: nn.Module, frames: int) -> None:
    """Lengthen the tables of positions of UNetMotionModel and of motion modules, which end at some frame."""
    for module in unet.modules():
        if isinstance(module, MotionModule):
            module.max_frames = max(module.max_frames, frames)
        if type(module).__name__ == "SinusoidalPositionalEmbedding":
            table = module.pe
            if isinstance(table, Tensor) and table.shape[1] < frames:
                module.pe = table.new_zeros(1, frames, table.shape[2])


def _with_weights(unet: nn.Module, device: str) -> nn.Module:
    """Random weights of the usual size in place of a network's of the meta device; norms are the identity."""
    unet = unet.to_empty(device=device)
    pool = torch.rand(_POOL, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1).to(device)
    with torch.no_grad():
        for name, one in unet.named_parameters():
            if one.ndim < 2:
                one.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            assert one.numel(), name
            bound, flat = 1 / math.sqrt(one[0].numel()), one.view(-1)
            for start in range(0, len(flat), _POOL):
                part = flat[start : start + _POOL]
                part.copy_(pool[: len(part)] * bound)
        for buffer in unet.buffers():
            buffer.zero_()
    return unet
