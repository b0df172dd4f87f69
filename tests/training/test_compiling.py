"""What `torch.compile` makes of a training step."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL
from torch.nn.functional import cosine_similarity

from latent_shift.training.compiling import ready_to_compile


@pytest.mark.long
@pytest.mark.slow
def test_compiled_gradients_are_those_of_the_plain_form():
    """In bfloat16, below upsampling layers too, where torch's compiled backward pass for CPUs gives zero."""
    torch.compiler.reset()
    torch.manual_seed(0)
    plain = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        mid_block_add_attention=False,
    ).decoder
    compiled = copy.deepcopy(plain)
    ready_to_compile(compiled).compile()
    latents = torch.randn(2, 4, 8, 8)
    for decoder in (plain, compiled):
        with torch.autocast("cpu", torch.bfloat16):
            frames = decoder(latents)
        frames.float().square().mean().backward()
    for (name, one), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        assert cosine_similarity(one.grad.flatten(), other.grad.flatten(), dim=0) > 0.98, name
