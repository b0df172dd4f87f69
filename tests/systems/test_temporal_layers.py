"""Temporal layers inside real U-Nets: nothing changes for single frames, everything comes out again."""

import copy

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from latent_shift.systems.temporal_layers import (
    FrameConv,
    TemporalAttention,
    add_temporal_layers,
    attention_sites,
    from_pixel_sequences,
    load_temporal_layers,
    override_num_frames,
    pixel_sequences,
    remove_temporal_layers,
    save_temporal_layers,
    set_num_frames,
    temporal_parameters,
    without_temporal_layers,
)
from latent_shift.unet import disable_temporal_shift, enable_temporal_shift, shift_options
from tiny import TEXT_WIDTH, tiny_unet

FRAMES = 4
KINDS = (ResnetBlock2D, Transformer2DModel, nn.Conv2d)


class MeanOfClip(nn.Module):
    """Adds the mean over the frames, times a weight: the smallest layer that tells whether it ran."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, hidden, num_frames):
        clips = hidden.unflatten(0, (-1, num_frames))
        return (clips + self.weight * clips.mean(dim=1, keepdim=True)).flatten(0, 1)


def only(*kinds):
    return lambda path, block: MeanOfClip() if type(block) in kinds else None


def pixel_unet():
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip


def inputs(unet, batch=FRAMES):
    draw = torch.Generator().manual_seed(0)
    sample = torch.randn(batch, unet.config.in_channels, 8, 8, generator=draw)
    text = (torch.randn(batch, 5, TEXT_WIDTH, generator=draw),)
    return (sample, torch.tensor(300), *(() if isinstance(unet, UNet2DModel) else text))


@torch.no_grad()
def predict(unet, *arguments):
    return unet(*(arguments or inputs(unet))).sample


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make_unet", [tiny_unet, pixel_unet])
def test_layers_of_every_kind_go_in_act_and_come_out(kind, make_unet):
    unet = make_unet()
    if make_unet is pixel_unet and kind is Transformer2DModel:
        with pytest.raises(ValueError, match="no block of this U-Net got a temporal layer"):
            add_temporal_layers(unet, only(kind))
        return
    before, keys = predict(unet), list(unet.state_dict())
    classes = {path: type(module) for path, module in unet.named_modules()}
    add_temporal_layers(unet, only(kind))
    assert torch.equal(predict(unet), before)
    added = [path for path, class_ in classes.items() if class_ is kind]
    assert list(temporal_parameters(unet)) == [f"{path}.temporal.weight" for path in added]
    assert [key for key in unet.state_dict() if ".temporal." not in key] == keys
    assert isinstance(unet.get_submodule(added[0]), kind)
    with override_num_frames(unet, FRAMES):
        assert (predict(unet) - before).abs().max() > 1e-3
    assert torch.equal(predict(unet), before)
    remove_temporal_layers(unet)
    assert {path: type(module) for path, module in unet.named_modules()} == classes
    assert not any(
        hasattr(module, "temporal") or hasattr(module, "temporal_state") for module in unet.modules()
    )
    assert torch.equal(predict(unet), before)


def test_layers_of_several_kinds_at_once():
    unet = tiny_unet()
    add_temporal_layers(unet, only(*KINDS))
    assert any(".conv1.temporal." in name for name in temporal_parameters(unet))
    with override_num_frames(unet, FRAMES):
        changed = predict(unet)
    assert changed.isfinite().all()
    remove_temporal_layers(unet)
    assert not any("temporal" in name for name, _ in unet.named_modules())


@pytest.mark.filterwarnings("ignore:`Transformer2DModelOutput`:FutureWarning")
def test_a_spatial_transformer_returns_what_it_is_asked_for():
    unet = tiny_unet()
    add_temporal_layers(unet, only(Transformer2DModel))
    set_num_frames(unet, FRAMES)
    block = unet.mid_block.attentions[0]
    hidden, text = torch.randn(FRAMES, 24, 4, 4), torch.randn(FRAMES, 5, TEXT_WIDTH)
    with torch.no_grad():
        output, (as_tuple,) = block(hidden, text), block(hidden, text, return_dict=False)
    assert torch.equal(output.sample, as_tuple)


def test_within_a_context_the_unet_is_stock():
    unet = tiny_unet()
    stock = list(unet.state_dict())
    add_temporal_layers(unet, only(ResnetBlock2D))
    set_num_frames(unet, FRAMES)
    inside, names = predict(unet), list(temporal_parameters(unet))
    with without_temporal_layers(unet):
        assert list(unet.state_dict()) == stock
        assert {type(module) for module in unet.modules()} >= {ResnetBlock2D}
    assert list(temporal_parameters(unet)) == names
    assert torch.equal(predict(unet), inside)


def test_a_copy_has_frames_and_weights_of_its_own():
    unet = tiny_unet()
    add_temporal_layers(unet, only(ResnetBlock2D))
    twin = copy.deepcopy(unet)
    set_num_frames(twin, FRAMES)
    assert not torch.equal(predict(twin), predict(unet))
    next(iter(temporal_parameters(twin).values())).data += 1
    assert next(iter(temporal_parameters(unet).values())) == 1


def test_layers_get_the_unets_dtype_and_mode():
    unet = tiny_unet().to(torch.bfloat16).train()
    add_temporal_layers(unet, only(ResnetBlock2D))
    layer = unet.mid_block.resnets[0].temporal
    assert layer.weight.dtype == torch.bfloat16
    assert layer.training


def test_gradient_checkpointing_sees_the_same_layers():
    gradients = []
    for checkpointing in (False, True):
        unet = tiny_unet().train()
        add_temporal_layers(unet, only(ResnetBlock2D, Transformer2DModel))
        set_num_frames(unet, FRAMES)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet(*inputs(unet)).sample.square().mean().backward()
        gradients.append([parameter.grad for parameter in unet.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.allclose(plain, checkpointed, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_unet_gives_the_same():
    one_level = {"block_out_channels": (12,), "attention_head_dim": 4, "mid_block_type": None}
    unet = tiny_unet(**one_level, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    add_temporal_layers(unet, only(ResnetBlock2D))
    compiled = torch.compile(unet, backend="eager", dynamic=False)
    for frames in (1, FRAMES):
        with override_num_frames(compiled, frames):
            assert torch.allclose(predict(compiled, *inputs(unet)), predict(unet), atol=1e-5)


def test_a_unet_full_of_temporal_layers_has_no_shift_and_gets_none():
    unet = tiny_unet()
    add_temporal_layers(unet, only(ResnetBlock2D))
    assert shift_options(unet) is None
    disable_temporal_shift(unet)
    with pytest.raises(ValueError, match="no ResnetBlock2D that could shift"):
        enable_temporal_shift(unet, FRAMES)


def test_what_cannot_be():
    unet = tiny_unet()
    with pytest.raises(ValueError, match="has no temporal layers: call add_temporal_layers"):
        set_num_frames(unet, 2)
    enable_temporal_shift(unet, FRAMES)
    with pytest.raises(ValueError, match="a shifted one has to be stock first"):
        add_temporal_layers(unet, only(ResnetBlock2D))
    disable_temporal_shift(unet)
    add_temporal_layers(unet, only(ResnetBlock2D))
    with pytest.raises(ValueError, match="has temporal layers already"):
        add_temporal_layers(unet, only(ResnetBlock2D))
    hooked = tiny_unet()
    add_hook_to_module(hooked.mid_block.resnets[0], ModelHook())
    with pytest.raises(ValueError, match="hooks on blocks of this U-Net would hide its temporal layers"):
        add_temporal_layers(hooked, only(ResnetBlock2D))
    with pytest.raises(ValueError, match="num_frames=0 must be"):
        set_num_frames(unet, 0)
    with (
        pytest.raises(ValueError, match="a batch of 4 images holds no whole clips of 3 frames"),
        override_num_frames(unet, 3),
    ):
        predict(unet)


# ---- weights ----------------------------------------------------------------------------------------


def test_weights_are_saved_apart_and_load_again(tmp_path):
    unet, other = tiny_unet(), tiny_unet()
    for each in (unet, other):
        add_temporal_layers(each, only(ResnetBlock2D))
    for number, parameter in enumerate(temporal_parameters(unet).values()):
        parameter.data.fill_(number)
    save_temporal_layers(unet, tmp_path / "temporal.safetensors")
    load_temporal_layers(other, tmp_path / "temporal.safetensors")
    assert [one.item() for one in temporal_parameters(other).values()] == list(range(8))


def test_a_file_of_other_layers_is_refused(tmp_path):
    unet, other = tiny_unet(), tiny_unet()
    add_temporal_layers(unet, only(ResnetBlock2D))
    add_temporal_layers(other, only(Transformer2DModel))
    file = tmp_path / "temporal.safetensors"
    with pytest.raises(ValueError, match="there is no such file"):
        load_temporal_layers(unet, file)
    save_temporal_layers(unet, file)
    with pytest.raises(ValueError, match=r"does not fit: 12 weights .* as down_blocks.0.resnets.0.temporal"):
        load_temporal_layers(other, file)


# ---- sites and layers -------------------------------------------------------------------------------


def test_attention_follows_the_spatial_transformers():
    assert attention_sites(tiny_unet()) == {
        "down_blocks.1.attentions.0", "mid_block.attentions.0",
        "up_blocks.0.attentions.0", "up_blocks.0.attentions.1",
    }  # fmt: skip
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    assert attention_sites(tiny_unet(**plain, layers_per_block=2)) == {
        "down_blocks.0.resnets.1", "down_blocks.1.resnets.1", "mid_block.attentions.0",
        "up_blocks.0.resnets.2", "up_blocks.1.resnets.2",
    }  # fmt: skip


def test_sequences_of_pixels_and_back():
    hidden = torch.randn(2 * 3, 5, 4, 2)
    sequences = pixel_sequences(hidden, 3)
    assert sequences.shape == (2 * 4 * 2, 3, 5)
    assert torch.equal(sequences[8 + 2 * 2 + 1, 1], hidden[3 + 1, :, 2, 1])
    assert torch.equal(from_pixel_sequences(sequences, 4, 2), hidden)


def test_the_convolution_is_a_conv3d_of_one_pixel():
    conv, hidden = FrameConv(5), torch.randn(2 * 4, 5, 3, 3)
    other = nn.Conv3d(5, 5, (3, 1, 1), padding=(1, 0, 0))
    other.weight.data, other.bias.data = conv.weight.data[..., None, None], conv.bias.data
    expected = other(hidden.unflatten(0, (2, 4)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)
    assert torch.allclose(conv(hidden, 4), expected, atol=1e-6)


@pytest.mark.parametrize("layer", [FrameConv, lambda channels, **how: TemporalAttention(channels, 4, **how)])
@pytest.mark.parametrize("causal", [False, True])
def test_causal_layers_read_no_later_frame(layer, causal):
    torch.manual_seed(0)
    layer = layer(8, causal=causal)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    hidden = torch.randn(5, 8, 3, 3)
    later = hidden.clone()
    later[3:] += 1
    with torch.no_grad():
        same = (layer(hidden, 5) == layer(later, 5)).flatten(1).all(dim=1).tolist()
    assert same[:3] == ([True] * 3 if causal else [isinstance(layer, FrameConv)] * 2 + [False])
    assert same[3:] == [False, False]


def test_attention_begins_as_nothing_and_knows_the_frames_order_by_positions_only():
    hidden, order = torch.randn(2 * 4, 8, 3, 3), torch.tensor([2, 0, 3, 1, 4, 6, 5, 7])
    for positions in (True, False):
        layer = TemporalAttention(8, 4, positions=positions)
        with torch.no_grad():
            assert torch.equal(layer(hidden, 4), hidden)
            nn.init.normal_(layer.to_out.weight)
            equal = torch.allclose(layer(hidden[order], 4), layer(hidden, 4)[order], atol=1e-5)
        assert equal != positions


def test_attention_mixes_over_frames_as_pytorchs_own():
    torch.manual_seed(0)
    layer, hidden = TemporalAttention(8, 4, positions=False), torch.randn(2 * 3, 8, 2, 2)
    nn.init.normal_(layer.to_out.weight)
    own = nn.MultiheadAttention(8, 2, batch_first=True)
    own.in_proj_weight.data = torch.cat([one.weight.data for one in (layer.to_q, layer.to_k, layer.to_v)])
    own.out_proj.weight.data, own.out_proj.bias.data = layer.to_out.weight.data, layer.to_out.bias.data
    with torch.no_grad():
        states = layer.norm(pixel_sequences(hidden, 3))
        expected = hidden + from_pixel_sequences(own(states, states, states)[0], 2, 2)
        assert torch.allclose(layer(hidden, 3), expected, atol=1e-5)


def test_heads_have_to_divide_the_channels():
    with pytest.raises(ValueError, match="head_width 5: 8 channels are no multiple"):
        TemporalAttention(8, 5)
