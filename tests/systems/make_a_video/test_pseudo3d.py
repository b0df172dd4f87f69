"""Pseudo-3D layers: where they stand, and that at first they change nothing."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import nn

from latent_shift.systems.make_a_video.pseudo3d import (
    MAX_DISTANCE,
    RelativeTemporalAttention,
    add_pseudo_3d_layers,
    attention_sites,
    dirac_convolution,
)
from latent_shift.systems.temporal_layers import override_num_frames, temporal_parameters
from tiny import tiny_unet


def simple_unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), norm_num_groups=4,
        cross_attention_dim=16, attention_head_dim=8, resnet_time_scale_shift="scale_shift",
    ).eval()  # fmt: skip


def attentive_unet():
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=8,
    ).eval()  # fmt: skip


def wide_unet():
    return tiny_unet(block_out_channels=(16, 32))


UNETS = (wide_unet, simple_unet, attentive_unet)


@torch.no_grad()
def predict(unet, frames, clips=1):
    draw = torch.Generator().manual_seed(0)
    sample = torch.randn(clips * frames, 4, 8, 8, generator=draw)
    text = [] if isinstance(unet, UNet2DModel) else [torch.randn(clips * frames, 5, 16, generator=draw)]
    with override_num_frames(unet, frames):
        return unet(sample, torch.tensor(300), *text).sample


@pytest.mark.parametrize("make_unet", UNETS)
def test_every_kernel_place_has_the_identity_after_it(make_unet):
    unet = make_unet()
    add_pseudo_3d_layers(unet, head_width=8)
    convolutions = {name: one for name, one in unet.named_modules() if isinstance(one, nn.Conv2d)}
    places = {name for name, one in convolutions.items() if hasattr(one, "temporal")}
    assert places == {name for name, one in convolutions.items() if one.kernel_size == (3, 3)}
    assert {"conv_in", "conv_out", "down_blocks.0.resnets.0.conv1"} <= places
    assert any("downsamplers" in name for name in places)
    assert any("upsamplers" in name for name in places)
    for name in places:
        channels = convolutions[name].out_channels
        hidden = torch.randn(6, channels, 3, 2)
        assert torch.equal(convolutions[name].temporal(hidden, 3), hidden)


@pytest.mark.parametrize("make_unet", UNETS)
def test_at_first_clips_are_what_their_frames_are(make_unet):
    unet = make_unet()
    draw = torch.Generator().manual_seed(0)
    sample = torch.randn(4, 4, 8, 8, generator=draw)
    text = [] if isinstance(unet, UNet2DModel) else [torch.randn(4, 5, 16, generator=draw)]
    with torch.no_grad():
        before = unet(sample, torch.tensor(300), *text).sample
    add_pseudo_3d_layers(unet, head_width=8)
    for frames in (1, 2, 4):
        with torch.no_grad(), override_num_frames(unet, frames):
            now = unet(sample, torch.tensor(300), *text).sample
        if make_unet is wide_unet or frames == 1:
            assert torch.equal(now, before)
        else:  # a bare spatial attention returns another memory layout, and the next kernel rounds otherwise
            torch.testing.assert_close(now, before, atol=1e-6, rtol=0)


def test_attention_follows_every_spatial_one_or_the_last_resnet_block_of_a_level():
    assert attention_sites(wide_unet()) == {
        "down_blocks.0.resnets.0": 16, "down_blocks.1.attentions.0": 32, "mid_block.attentions.0": 32,
        "up_blocks.0.attentions.0": 32, "up_blocks.0.attentions.1": 32, "up_blocks.1.resnets.1": 16,
    }  # fmt: skip
    for make_unet in (simple_unet, attentive_unet):
        unet = make_unet()
        sites = attention_sites(unet)
        assert sites.keys() == attention_sites(wide_unet()).keys()
        add_pseudo_3d_layers(unet, head_width=8)
        assert {name for name in sites if hasattr(unet.get_submodule(name), "temporal")} == set(sites)
    bare = UNet2DModel(
        block_out_channels=(8, 16), layers_per_block=2, down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2, add_attention=False, norm_num_groups=4,
    )  # fmt: skip
    assert attention_sites(bare) == {
        "down_blocks.0.resnets.1": 8, "down_blocks.1.resnets.1": 16, "mid_block.resnets.1": 16,
        "up_blocks.0.resnets.2": 16, "up_blocks.1.resnets.2": 8,
    }  # fmt: skip


@pytest.mark.parametrize("make_unet", UNETS)
def test_each_layer_lets_frames_act_on_others(make_unet):
    unet = make_unet()
    add_pseudo_3d_layers(unet, head_width=8)
    alone = predict(unet, 1, clips=3)
    for kind in ("weight", "to_out.weight"):
        for name, parameter in temporal_parameters(unet).items():
            if name.endswith(f"temporal.{kind}"):
                with torch.no_grad():
                    parameter += 0.1 * torch.randn(
                        parameter.shape, generator=torch.Generator().manual_seed(1)
                    )
        assert not torch.allclose(predict(unet, 3), alone)
        assert torch.equal(predict(unet, 1, clips=3), alone)


def test_the_convolution_is_one_of_three_dimensions():
    layer = dirac_convolution(4)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    hidden = torch.randn(2 * 5, 4, 3, 2)
    clips = hidden.unflatten(0, (2, 5)).transpose(1, 2)  # (B, C, F, H, W)
    expected = nn.functional.conv3d(clips, layer.weight[..., None, None], layer.bias, padding=(1, 0, 0))
    torch.testing.assert_close(layer(hidden, 5), expected.transpose(1, 2).flatten(0, 1))


def test_attention_equals_a_slow_one_with_a_bias_for_each_distance():
    torch.manual_seed(0)
    layer, frames = RelativeTemporalAttention(8, 4), 5
    for one in (layer.to_out.weight, layer.to_out.bias, layer.distance_bias):
        nn.init.normal_(one)
    hidden = torch.randn(frames, 8, 1, 1)
    states = layer.norm(hidden.flatten(1))
    query, key, value = (to(states).view(frames, 2, 4) for to in (layer.to_q, layer.to_k, layer.to_v))
    rows = []
    for at in range(frames):
        heads = []
        for head in range(2):
            logits = torch.stack([
                query[at, head] @ key[other, head] / 2 + layer.distance_bias[head, MAX_DISTANCE + other - at]
                for other in range(frames)
            ])  # fmt: skip
            heads.append(logits.softmax(dim=0) @ value[:, head])
        rows.append(torch.cat(heads))
    expected = hidden.flatten(1) + layer.to_out(torch.stack(rows))
    torch.testing.assert_close(layer(hidden, frames).flatten(1), expected)


def test_distances_beyond_the_largest_have_its_bias():
    layer = RelativeTemporalAttention(4, 4)
    nn.init.normal_(layer.distance_bias)
    bias = layer.bias(40, torch.zeros(1))
    assert bias.shape == (1, 40, 40)
    assert bias[0, 0, 31] == bias[0, 0, 39] == layer.distance_bias[0, -1]
    assert bias[0, 39, 0] == layer.distance_bias[0, 0]
    assert bias[0, 3, 5] == layer.distance_bias[0, MAX_DISTANCE + 2]


def test_heads_have_to_fit():
    with pytest.raises(ValueError, match="head_width 32: 16 channels are no multiple"):
        add_pseudo_3d_layers(wide_unet(), head_width=32)
