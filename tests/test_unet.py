"""The shift inside real U-Nets: stock where it must be, and shifting where it should."""

import copy
import json
import pickle
import threading

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_submodules
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D

from latent_shift.shift import ShiftOptions, temporal_shift
from latent_shift.unet import (
    ShiftedResnetBlock2D,
    disable_temporal_shift,
    enable_temporal_shift,
    override_num_frames,
    set_num_frames,
    shift_options,
)
from tiny import TEXT_WIDTH, tiny_autoencoder, tiny_unet

FRAMES = 4
SITES = 8  # ResNet blocks of the tiny U-Net

# The layouts of the published models, with few and narrow channels.
SD15 = {
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": 2,
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
}
SD21 = {**SD15, "attention_head_dim": (2, 4, 4, 4), "use_linear_projection": True}
SDXL = {
    "block_out_channels": (8, 8, 8),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 4 * 6 + TEXT_WIDTH,
}
TEXT_CONDITION = {  # the U-Net pools the text itself, and needs no added conditions
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "resnet_time_scale_shift": "scale_shift",
}
RESIZING = {  # ResNet blocks that resize
    "down_block_types": ("ResnetDownsampleBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
}
SIMPLE_CROSS_ATTENTION = {
    "down_block_types": ("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
}
VARIANTS = {
    "tiny": {},
    "sd 1.5": SD15,
    "sd 2.1": SD21,
    "sdxl": SDXL,
    "text condition": TEXT_CONDITION,
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
    "output scale": {"mid_block_scale_factor": 1.5},
    "resizing blocks": RESIZING,
    "skip time activation": {"resnet_skip_time_act": True, **RESIZING},
    "dropout in training": {"dropout": 0.1},
}


def inputs(unet, batch=FRAMES, *, still=False, seed=0):
    """The arguments of a call: latents, a timestep, text; and what SDXL wants besides."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        if still:
            return torch.randn(1, *shape, generator=generator).repeat(batch, *(1 for _ in shape))
        return torch.randn(batch, *shape, generator=generator)

    arguments = {
        "sample": draw(4, 8, 8),
        "timestep": torch.tensor(300),
        "encoder_hidden_states": draw(5, TEXT_WIDTH),
    }
    if unet.config.addition_embed_type == "text_time":
        arguments["added_cond_kwargs"] = {"text_embeds": draw(TEXT_WIDTH), "time_ids": draw(6)}
    return arguments


@torch.no_grad()
def predict(unet, **arguments):
    return unet(**arguments).sample


def blocks_of(model, kind=ResnetBlock2D):
    return [module for module in model.modules() if type(module) is kind]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_resnet_block_and_nothing_else(variant):
    unet = tiny_unet(**VARIANTS[variant])
    blocks, keys = blocks_of(unet), list(unet.state_dict())
    config, parameters = dict(unet.config), sum(map(torch.Tensor.numel, unet.parameters()))
    classes = {name: type(module) for name, module in unet.named_modules()}
    enable_temporal_shift(unet, FRAMES)
    assert blocks_of(unet) == []
    assert blocks_of(unet, ShiftedResnetBlock2D) == blocks
    assert len(blocks) == (22 if variant.startswith("sd ") else len(blocks))
    assert list(unet.state_dict()) == keys
    assert sum(map(torch.Tensor.numel, unet.parameters())) == parameters
    assert dict(unet.config) == config
    disable_temporal_shift(unet)
    assert {name: type(module) for name, module in unet.named_modules()} == classes
    assert not any({"shift_state", "block_index"} & vars(module).keys() for module in unet.modules())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("place", ["output", "input"])
def test_own_forward_is_the_stock_one_on_still_clips(variant, place):
    """Frames that are all the same pass a circular shift unchanged: what is left is our own forward."""
    unet = tiny_unet(**VARIANTS[variant])
    arguments = inputs(unet, still=True)
    expected = predict(unet, **arguments)
    enable_temporal_shift(unet, FRAMES, place=place, padding="circular")
    assert torch.equal(predict(unet, **arguments), expected)


def test_own_forward_in_training_with_dropout():
    unet = tiny_unet(dropout=0.3).train()
    arguments = inputs(unet)
    torch.manual_seed(5)
    expected = predict(unet, **arguments)
    enable_temporal_shift(unet, FRAMES, fold=1000)  # channels // 1000 = 0: the shift moves nothing
    torch.manual_seed(5)
    assert torch.equal(predict(unet, **arguments), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_frame_is_bit_identical_to_the_untouched_unet(variant):
    unet = tiny_unet(**VARIANTS[variant])
    arguments = inputs(unet, batch=3)
    expected = predict(unet, **arguments)
    enable_temporal_shift(unet, 1)
    assert torch.equal(predict(unet, **arguments), expected)
    enable_temporal_shift(unet, 1, single_frame="shift")
    assert not torch.equal(predict(unet, **arguments), expected)


@pytest.mark.parametrize("place", ["output", "input"])
@pytest.mark.parametrize("layout", ["plain", "resizing blocks"])
def test_a_block_shifts_where_it_says(place, layout):
    """One block, spelled out: the branch is shifted last, or just before its first convolution."""
    unet = tiny_unet(**(RESIZING if layout != "plain" else {}), mid_block_scale_factor=2.0)
    block = unet.mid_block.resnets[0] if layout == "plain" else unet.down_blocks[0].downsamplers[0]
    hidden = torch.randn(FRAMES, block.in_channels, 6, 6, generator=torch.Generator().manual_seed(1))
    temb = torch.randn(FRAMES, block.time_emb_proj.in_features, generator=torch.Generator().manual_seed(2))
    skip = block.downsample(hidden) if block.downsample else hidden
    if place == "output":
        branch = block(hidden, temb) * block.output_scale_factor - skip
        expected = (skip + temporal_shift(branch, FRAMES)) / block.output_scale_factor
    else:
        hook = block.conv1.register_forward_pre_hook(lambda _, args: (temporal_shift(args[0], FRAMES),))
        expected = block(hidden, temb)
        hook.remove()
    enable_temporal_shift(unet, FRAMES, place=place)
    torch.testing.assert_close(block(hidden, temb), expected, rtol=0, atol=1e-5)


def seen_by(unet, frame, num_frames):
    """The frames whose latents the prediction of `frame` depends on, in double precision."""
    arguments = inputs(unet, num_frames)
    arguments = {
        name: value.double() if value.is_floating_point() else value for name, value in arguments.items()
    }
    sample = arguments["sample"].requires_grad_()
    unet.double()(**arguments).sample[frame].square().sum().backward()
    return sample.grad.flatten(1).abs().amax(1).nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("options", "past", "future"),
    [({}, SITES, SITES), ({"padding": "replicate"}, SITES, SITES), ({"direction": "causal"}, SITES, 0)],
)
def test_a_frame_sees_one_frame_further_with_every_site(options, past, future):
    unet = tiny_unet()
    enable_temporal_shift(unet, 21, **options)
    assert seen_by(unet, 10, 21) == list(range(10 - past, 10 + future + 1))


def test_blocks_take_the_strides_in_turns():
    """A frame sees as far as all the strides together, and with (2, 2) no frame between."""
    unet = tiny_unet()
    enable_temporal_shift(unet, 31, strides=(2, 1))
    reach = sum(block.shift_state.options.strides[block.block_index % 2] for block in shifted(unet))
    assert reach == SITES + (SITES + 1) // 2
    assert seen_by(unet, 15, 31) == [frame for frame in range(31) if abs(frame - 15) <= reach]
    enable_temporal_shift(unet, 31, strides=(2,))
    assert seen_by(unet, 15, 31) == [f for f in range(31) if f % 2 and abs(f - 15) <= 2 * SITES]


def shifted(unet):
    return blocks_of(unet, ShiftedResnetBlock2D)


def test_at_the_input_a_frame_sees_no_further():
    """There the last channels of an up block are those of its skip connection, so it may see less far."""
    unet = tiny_unet()
    enable_temporal_shift(unet, 21, place="input")
    seen = seen_by(unet, 10, 21)
    assert set(range(10 - SITES, 11)) < set(seen) <= set(range(10 - SITES, 11 + SITES))


def test_circular_padding_closes_the_loop():
    """Turning a clip by a frame turns its prediction by a frame: the loop has no seam."""
    unet = tiny_unet()
    enable_temporal_shift(unet, FRAMES, padding="circular")
    arguments = inputs(unet)
    turned = {name: tensor.roll(1, 0) if tensor.ndim else tensor for name, tensor in arguments.items()}
    torch.testing.assert_close(
        predict(unet, **turned), predict(unet, **arguments).roll(1, 0), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("place", ["output", "input"])
def test_clips_of_one_batch_never_leak(place):
    """Of three clips another second one leaves the first and third alone; so do the two of guidance."""
    unet = tiny_unet()
    enable_temporal_shift(unet, FRAMES, place=place)
    arguments = inputs(unet, 3 * FRAMES)
    before = predict(unet, **arguments)
    arguments["sample"][FRAMES : 2 * FRAMES] = 7.0
    after = predict(unet, **arguments)
    changed = (before != after).flatten(1).any(1)
    assert changed.tolist() == [False] * FRAMES + [True] * FRAMES + [False] * FRAMES


def test_a_batch_equals_its_clips():
    unet = tiny_unet()
    enable_temporal_shift(unet, FRAMES)
    arguments = inputs(unet, 2 * FRAMES)
    together = predict(unet, **arguments)
    for clip in (slice(0, FRAMES), slice(FRAMES, None)):
        alone = {name: tensor[clip] if tensor.ndim else tensor for name, tensor in arguments.items()}
        torch.testing.assert_close(together[clip], predict(unet, **alone), rtol=0, atol=1e-5)


def test_enabled_again_it_changes_options_and_frames():
    unet = tiny_unet()
    assert shift_options(unet) is None
    enable_temporal_shift(unet, 2)
    assert shift_options(unet) == ShiftOptions()
    enable_temporal_shift(unet, FRAMES, place="input", padding="circular", direction="causal", fold=8)
    assert shift_options(unet) == ShiftOptions("input", "circular", "causal", 8)
    other = tiny_unet()
    enable_temporal_shift(other, FRAMES, place="input", padding="circular", direction="causal", fold=8)
    arguments = inputs(unet)
    assert torch.equal(predict(unet, **arguments), predict(other, **arguments))


def test_frames_change_for_a_while():
    unet = tiny_unet()
    arguments = inputs(unet, 3)
    image = predict(unet, **arguments)
    enable_temporal_shift(unet, 3)
    clip = predict(unet, **arguments)
    with override_num_frames(unet, 1):
        assert torch.equal(predict(unet, **arguments), image)
    assert torch.equal(predict(unet, **arguments), clip)
    set_num_frames(unet, 1)
    assert torch.equal(predict(unet, **arguments), image)


def test_a_copy_has_a_shift_of_its_own():
    unet = tiny_unet()
    enable_temporal_shift(unet, FRAMES)
    twin = copy.deepcopy(unet)
    set_num_frames(twin, 2)
    arguments = inputs(unet)
    assert shift_options(twin) == shift_options(unet)
    assert len({id(block.shift_state) for block in blocks_of(twin, ShiftedResnetBlock2D)}) == 1
    expected = predict(unet, **arguments)
    assert not torch.equal(predict(twin, **arguments), expected)
    disable_temporal_shift(twin)
    assert torch.equal(predict(unet, **arguments), expected)


@pytest.mark.parametrize("variant", ["tiny", "text condition"])
def test_saved_it_is_the_image_model(tmp_path, variant):
    unet = tiny_unet(**VARIANTS[variant])
    unet.save_pretrained(tmp_path / "stock")
    enable_temporal_shift(unet, FRAMES)
    unet.save_pretrained(tmp_path / "shifted")
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "stock" / name).read_bytes() == (tmp_path / "shifted" / name).read_bytes()
    assert (
        json.loads((tmp_path / "shifted" / "config.json").read_text())["_class_name"]
        == "UNet2DConditionModel"
    )
    loaded = UNet2DConditionModel.from_pretrained(tmp_path / "shifted").eval()
    enable_temporal_shift(loaded, FRAMES)
    arguments = inputs(unet)
    assert torch.equal(predict(loaded, **arguments), predict(unet, **arguments))


def test_an_override_is_of_its_own_thread():
    """Another thread with the same U-Net keeps its frames, whenever overrides begin and end."""
    unet = tiny_unet()
    arguments = inputs(unet)
    image = predict(unet, **arguments)
    enable_temporal_shift(unet, FRAMES)
    clip, found = predict(unet, **arguments), {}
    inside, ended = threading.Event(), threading.Event()

    def one():
        with override_num_frames(unet, 1):
            inside.set()
            assert ended.wait(60)
            found["one"] = predict(unet, **arguments)

    def another():
        assert inside.wait(60)
        found["default"] = predict(unet, **arguments)
        with override_num_frames(unet, 2):
            found["two"] = predict(unet, **arguments)
        ended.set()

    threads = [threading.Thread(target=target) for target in (one, another)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    set_num_frames(unet, 2)
    expected = {"one": image, "default": clip, "two": predict(unet, **arguments)}
    assert {name: torch.equal(found[name], expected[name]) for name in expected} == dict.fromkeys(
        expected, True
    )


def test_overrides_nest_and_end_with_an_error():
    unet = tiny_unet()
    enable_temporal_shift(unet, FRAMES)
    (state,) = {block.shift_state for block in shifted(unet)}
    with override_num_frames(unet, 1):
        with override_num_frames(unet, 2):
            assert state.current_frames() == 2
        with pytest.raises(ValueError, match="5 is no whole number"), override_num_frames(unet, 2):
            predict(unet, **inputs(unet, 5))
        assert state.current_frames() == 1
        assert pickle.loads(pickle.dumps(state)).current_frames() == FRAMES  # ends with its call
    assert state.current_frames() == state.num_frames == FRAMES


def test_gradient_checkpointing_within_an_override():
    unet = tiny_unet().train()
    enable_temporal_shift(unet, FRAMES)
    arguments = inputs(unet)
    expected = gradients(unet, arguments)
    set_num_frames(unet, 1)
    unet.enable_gradient_checkpointing()
    with override_num_frames(unet, FRAMES):
        for name, gradient in gradients(unet, arguments).items():
            assert torch.equal(gradient, expected[name]), name
    with (
        pytest.raises(ValueError, match="on a GPU: call set_num_frames"),
        override_num_frames(unet.to("meta"), FRAMES),
    ):
        pass


def accelerate_hooks(unet):
    for block in blocks_of(unet):
        add_hook_to_module(block, AlignDevicesHook("cpu"))


def diffusers_hooks(unet):
    unet.enable_layerwise_casting(torch.float16, torch.float32)


@pytest.mark.parametrize("add_hooks", [accelerate_hooks, diffusers_hooks])
def test_blocks_with_hooks_shift_nevertheless(add_hooks):
    unet, other = tiny_unet(), tiny_unet()
    arguments = inputs(unet)
    add_hooks(unet)
    image = predict(unet, **arguments)
    enable_temporal_shift(unet, FRAMES)
    enable_temporal_shift(other, FRAMES)
    add_hooks(other)
    clip = predict(other, **arguments)
    assert not torch.equal(clip, image)
    assert torch.equal(predict(unet, **arguments), clip)
    for one in (unet, other):
        disable_temporal_shift(one)
        assert torch.equal(predict(one, **arguments), image)


def test_blocks_of_which_hooks_were_removed():
    unet = tiny_unet()
    arguments = inputs(unet)
    accelerate_hooks(unet)
    remove_hook_from_submodules(unet)
    image = predict(unet, **arguments)
    enable_temporal_shift(unet, FRAMES)
    assert not torch.equal(predict(unet, **arguments), image)


def test_blocks_with_a_forward_of_their_own_are_refused():
    unet = tiny_unet()
    unet.mid_block.resnets[0].forward = lambda hidden, temb: hidden
    with pytest.raises(ValueError, match="forward of its own"):
        enable_temporal_shift(unet, FRAMES)
    assert shift_options(unet) is None


def gradients(unet, arguments):
    unet.zero_grad()
    unet(**arguments).sample.square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in unet.named_parameters()}


def test_gradient_checkpointing_changes_no_gradient():
    unet = tiny_unet().train()
    enable_temporal_shift(unet, FRAMES)
    arguments = inputs(unet)
    expected = gradients(unet, arguments)
    unet.enable_gradient_checkpointing()
    for name, gradient in gradients(unet, arguments).items():
        assert torch.equal(gradient, expected[name]), name


def test_bfloat16_and_channels_last():
    unet = tiny_unet()
    enable_temporal_shift(unet, FRAMES)
    arguments = inputs(unet)
    expected = predict(unet, **arguments)
    torch.testing.assert_close(
        predict(copy.deepcopy(unet).to(memory_format=torch.channels_last), **arguments),
        expected,
        rtol=0,
        atol=1e-5,
    )
    half = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in arguments.items()
    }
    result = predict(copy.deepcopy(unet).to(torch.bfloat16), **half)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), expected, rtol=0, atol=0.1)


def test_autocast():
    unet = tiny_unet()
    enable_temporal_shift(unet, FRAMES)
    arguments = inputs(unet)
    with torch.autocast("cpu", torch.bfloat16):
        result = unet(**arguments).sample
    result.float().sum().backward()
    torch.testing.assert_close(result.detach().float(), predict(unet, **arguments), rtol=0, atol=0.1)


@pytest.mark.long
@pytest.mark.slow
def test_compiled_whole():
    """One graph without a break, another as the frames change; the compiled model can be asked and set."""
    torch.compiler.reset()
    unet = tiny_unet()
    enable_temporal_shift(unet, FRAMES)
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    arguments = inputs(unet)
    for num_frames in (FRAMES, 1):
        set_num_frames(compiled, num_frames)
        assert torch.equal(predict(compiled, **arguments), predict(unet, **arguments))
        set_num_frames(compiled, 2)
        with override_num_frames(compiled, num_frames):
            overridden = predict(compiled, **arguments)
        set_num_frames(compiled, num_frames)
        assert torch.equal(overridden, predict(unet, **arguments))
    assert shift_options(compiled) == ShiftOptions()


@pytest.mark.parametrize("num_frames", [0, -1, 1.5, True])
def test_impossible_frames_are_refused(num_frames):
    unet = tiny_unet()
    with pytest.raises(ValueError, match="num_frames="):
        enable_temporal_shift(unet, num_frames)
    assert shift_options(unet) is None


def test_mistakes_are_named():
    unet = tiny_unet()
    with pytest.raises(ValueError, match="AutoencoderKL"):
        enable_temporal_shift(tiny_autoencoder(), FRAMES)
    with pytest.raises(ValueError, match="enable_temporal_shift"):
        set_num_frames(unet, 2)
    with pytest.raises(ValueError, match="place='middle'"):
        enable_temporal_shift(unet, FRAMES, place="middle")
    enable_temporal_shift(unet, FRAMES)
    with pytest.raises(ValueError, match="6 is no whole number of clips of 4 frames"):
        predict(unet, **inputs(unet, 6))
