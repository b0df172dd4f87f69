"""The image autoencoder, used the same way in training and sampling: encode, decode, scale, in chunks.

Clips are encoded and decoded frame by frame. Latents are scaled as the denoiser sees them: by the scaling
factor in the autoencoder's configuration and, for some SDXL autoencoders, mean and standard deviation.

Shapes: N images of H x W pixels, C latent channels, h x w latent pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latent_shift.precision import auto_dtype

ENCODER_PREFIXES = ("encoder.", "quant_conv.")  # names of the weights that decide the latents
_STOCK_SCALE = 0.18215  # of Stable Diffusion 1 and 2, and the library's default


def to_model_range(frames: Tensor) -> Tensor:
    """Convert uint8 (N, H, W, 3) to float32 (N, 3, H, W) from -1 to 1."""
    return frames.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_uint8(images: Tensor) -> Tensor:
    """Convert images (N, 3, H, W) from -1 to 1 to uint8 (N, H, W, 3)."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)


@torch.no_grad()
def encode_frames(vae: AutoencoderKL, frames: Tensor, chunk: int) -> Tensor:
    """Scaled latents (N, C, h, w) float32 of frames uint8 (N, H, W, 3): the mean of each posterior.

    chunk: frames encoded together.
    """
    parts = []
    device = vae.device.type
    # A processor without instructions for bfloat16 is fifty times slower in it.
    half = device != "cpu" or auto_dtype(device) == "bf16"
    for part in frames.split(chunk):
        images = to_model_range(part.to(vae.device))
        with torch.autocast(device, torch.bfloat16, enabled=half):
            parts.append(vae.encode(images if half else images.to(vae.dtype)).latent_dist.mode())
    return scale_latents(vae, torch.cat(parts).float())


def decode_latents(
    vae: AutoencoderKL, latents: Tensor, chunk: int, *, upcast: bool = False, generator: Any = None
) -> Tensor:
    """Images (N, 3, H, W) from -1 to 1 of scaled latents (N, C, h, w).

    chunk: latents decoded together; fewer take less memory. upcast: whether a float16 autoencoder with
    `force_upcast` in its configuration decodes in float32. SDXL's first one overflows otherwise; stock
    pipelines do so in SDXL's layout only. generator: for decoders that draw noise, one or N of them. vae: the
    autoencoder.
    """
    with _float32(vae) if upcast else nullcontext():
        unscaled = unscale_latents(vae, latents.to(vae.dtype))
        images = []
        for first in range(0, len(unscaled), chunk):
            rows = slice(first, first + chunk)
            own = generator[rows] if isinstance(generator, list) else generator
            images.append(vae.decode(unscaled[rows], return_dict=False, generator=own)[0])
        return torch.cat(images)


@torch.no_grad()
def reconstruct_frames(vae: AutoencoderKL, frames: Tensor) -> Tensor:
    """Encode and decode frames uint8 (N, H, W, 3) together, each latent at its posterior's mean."""
    with _float32(vae):
        images = to_model_range(frames).to(vae.device, vae.dtype)
        return to_uint8(vae.decode(vae.encode(images).latent_dist.mode(), return_dict=False)[0])


def scale_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents (N, C, h, w) in the autoencoder's own scale to those that the denoiser sees."""
    mean, std = _statistics(vae, latents)
    return (latents - mean) / std * vae.config.scaling_factor


def unscale_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents (N, C, h, w) that the denoiser sees to the autoencoder's own scale."""
    mean, std = _statistics(vae, latents)
    return latents * std / vae.config.scaling_factor + mean


def encoder_hash(vae: AutoencoderKL) -> str:
    """A short hash of an autoencoder's encoding weights, and scale: which latents a store holds."""
    digest = hashlib.sha256()
    scale = [getattr(vae.config, name, None) for name in ("scaling_factor", "latents_mean", "latents_std")]
    if scale != [_STOCK_SCALE, None, None]:  # that of Stable Diffusion 1 and 2 is no part of older hashes
        digest.update(repr(scale).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        if name.startswith(ENCODER_PREFIXES):
            digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _statistics(vae: AutoencoderKL, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Mean and standard deviation of the latents, (1, C, 1, 1) each; 0 and 1 where not configured."""
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        return 0.0, 1.0
    mean, std = (torch.tensor(values).view(1, -1, 1, 1).to(like) for values in (mean, std))
    return mean, std


@contextmanager
def _float32(vae: AutoencoderKL) -> Iterator[None]:
    """Run a float16 autoencoder in float32 where its configuration has `force_upcast`."""
    half = vae.dtype == torch.float16 and vae.config.force_upcast
    if half:
        vae.to(dtype=torch.float32)
    try:
        yield
    finally:
        if half:
            vae.to(dtype=torch.float16)
