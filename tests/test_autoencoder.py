"""Frames to latents and back: ranges, scales, chunks, precision."""

import pytest
import torch

from latent_shift.autoencoder import (
    decode_latents,
    encode_frames,
    scale_latents,
    to_model_range,
    to_uint8,
    unscale_latents,
)
from tiny import tiny_autoencoder


@pytest.fixture
def vae():
    return tiny_autoencoder()


def latents(count=4):
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def test_every_level_comes_back():
    levels = torch.arange(256, dtype=torch.uint8).repeat(3, 1, 1).permute(1, 2, 0)[None]
    images = to_model_range(levels)
    assert (images.min(), images.max()) == (-1, 1)
    assert torch.equal(to_uint8(images), levels)


def test_scaling_and_its_inverse(vae):
    own = latents()
    assert torch.equal(scale_latents(vae, own), own * vae.config.scaling_factor)
    assert torch.equal(unscale_latents(vae, own), own / vae.config.scaling_factor)
    mean, std = [0.1, 0.0, -0.3, 0.2], [1.0, 2.0, 1.0, 0.5]
    vae.register_to_config(latents_mean=mean, latents_std=std)
    scaled = scale_latents(vae, own)
    assert not torch.allclose(scaled, own * vae.config.scaling_factor, atol=1e-2)
    torch.testing.assert_close(unscale_latents(vae, scaled), own, atol=1e-6, rtol=0)


def test_scaled_latents_of_frames_are_the_means_of_their_posteriors(vae):
    frames = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    found = encode_frames(vae, frames, chunk=2)
    with torch.no_grad():
        expected = vae.encode(to_model_range(frames)).latent_dist.mean * vae.config.scaling_factor
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=0)  # bfloat16 arithmetic


@torch.no_grad()
def test_chunks_change_nothing(vae):
    whole = decode_latents(vae, latents(), chunk=4)
    torch.testing.assert_close(decode_latents(vae, latents(), chunk=3), whole, atol=1e-5, rtol=0)
    assert torch.equal(whole, vae.decode(latents() / vae.config.scaling_factor).sample)


@torch.no_grad()
@pytest.mark.parametrize("forced", [True, False])
def test_a_float16_autoencoder_decodes_in_float32_only_where_both_want_it(vae, forced):
    """The layout (`upcast`) and its own configuration; it comes back in float16 even from an error."""
    vae.to(torch.float16).register_to_config(force_upcast=forced)
    half = latents().half()
    assert decode_latents(vae, half, 4).dtype == torch.float16
    assert decode_latents(vae, half, 4, upcast=True).dtype == (torch.float32 if forced else torch.float16)
    with pytest.raises(RuntimeError):
        decode_latents(vae, half[:, :3], 4, upcast=True)
    assert vae.dtype == torch.float16
