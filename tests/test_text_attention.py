"""Attention to a clip's text, once a clip and not once a frame and step, gives what the stock form gives."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from latent_shift.text_attention import ClipAttention, ClipText, attending_to, use_clip_attention
from tiny import TEXT_WIDTH, tiny_unet

FRAMES = 4


@pytest.fixture
def unet():
    return tiny_unet()


@pytest.fixture
def products(unet):
    """Rows of text that each key layer of the U-Net was given, in the order of the calls."""
    rows = []
    for name, module in unet.named_modules():
        if name.endswith("attn2.to_k"):
            module.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    return rows


def inputs(clips=2, repeats=FRAMES):
    torch.manual_seed(3)
    text = torch.randn(clips * FRAMES // repeats, 12, TEXT_WIDTH).repeat_interleave(repeats, dim=0)
    return torch.randn(clips * FRAMES, 4, 8, 8), torch.tensor(7), text


@torch.no_grad()
def test_frames_of_a_clip_attend_to_one_text_as_by_themselves(unet, products):
    sample, timestep, text = inputs()
    stock = unet(sample, timestep, text).sample
    sites = len(products)
    use_clip_attention(unet)
    with attending_to(ClipText(text, FRAMES)):
        once = unet(sample, timestep, text).sample
    assert (products[:sites], products[sites:]) == ([8] * sites, [2] * sites)
    assert torch.allclose(once, stock, rtol=1e-5, atol=1e-6)


def test_tensors_of_inference_mode_do_as_well(unet):
    sample, timestep, text = inputs()
    use_clip_attention(unet)
    with torch.no_grad(), attending_to(ClipText(text, FRAMES)):
        expected = unet(sample, timestep, text).sample
    with torch.inference_mode():
        given = text.clone()
        with attending_to(ClipText(given, FRAMES)):
            found = [unet(sample, timestep, given).sample for _ in range(2)]
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], expected)


@torch.no_grad()
def test_keys_are_kept_over_the_steps_bit_for_bit(unet, products):
    sample, _, text = inputs(repeats=1)  # every frame its own text, as with frame positions
    stock = [unet(sample, step, text).sample for step in (9, 5, 1)]
    del products[:]
    use_clip_attention(unet)
    with attending_to(ClipText(text, 1)):
        kept = [unet(sample, step, text).sample for step in (9, 5, 1)]
        half = unet(sample[4:], 1, text.chunk(2)[1]).sample
    sites = len(products) // 2
    assert products == [8] * sites + [4] * sites  # in the first step, and of the half that guidance leaves
    assert all(torch.equal(one, other) for one, other in zip(kept, stock, strict=True))
    assert torch.allclose(half, stock[2][4:], atol=1e-6)


@torch.no_grad()
def test_a_text_that_was_changed_or_is_another_is_not_taken_for_the_kept_one(unet):
    sample, timestep, text = inputs()
    other = torch.randn_like(text[:1]).expand_as(text).contiguous()
    use_clip_attention(unet)
    expected = unet(sample, timestep, other).sample
    with attending_to(ClipText(text, FRAMES)):
        unet(sample, timestep, text)
        assert torch.allclose(unet(sample, timestep, other).sample, expected, atol=1e-6)
        text.copy_(other)
        assert torch.allclose(unet(sample, timestep, text).sample, expected, atol=1e-6)


def test_with_gradients_attention_is_the_stock_one(unet, products):
    sample, timestep, text = inputs()
    expected = unet(sample, timestep, text).sample
    sites = len(products)
    use_clip_attention(unet)
    with attending_to(ClipText(text, FRAMES)):
        assert torch.equal(unet(sample, timestep, text).sample, expected)
    assert products[sites:] == [8] * sites


def test_only_stock_attention_is_exchanged(unet):
    unet.set_attn_processor(AttnProcessor())
    use_clip_attention(unet)
    assert {type(one) for one in unet.attn_processors.values()} == {AttnProcessor}
    unet.set_attn_processor(AttnProcessor2_0())
    use_clip_attention(unet)
    assert {type(one) for one in unet.attn_processors.values()} == {ClipAttention}
    unet.set_default_attn_processor()
    assert {type(one) for one in unet.attn_processors.values()} == {AttnProcessor}
