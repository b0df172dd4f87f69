"""Stages as networks: how each begins, what images and frame rates do, and their files."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.nn import functional

from latent_shift.conditioning import Conditioning
from latent_shift.systems.base import TEMPORAL_FILE
from latent_shift.systems.make_a_video.cascade import Known
from latent_shift.systems.make_a_video.stage import Context, StageNetwork, read_stage_config
from latent_shift.training.model_setup import AttentionByLength
from tiny import TEXT_WIDTH

TIMES = torch.tensor([400, 900])


def clips(frames, size=16, clips=2, seed=0):
    return torch.randn(clips, frames, 3, size, size, generator=torch.Generator().manual_seed(seed))


def text(frames, clips=2):
    draw = torch.Generator().manual_seed(1)
    return Conditioning(torch.randn(clips * frames, 5, TEXT_WIDTH, generator=draw))


def fps(*rates):
    return torch.tensor([float(rate) for rate in rates])


@torch.no_grad()
def frame_by_frame(network, noisy, context):
    """The prediction with every frame as an image."""
    frames = noisy.shape[1]
    images = noisy.flatten(0, 1)[:, None]
    return network(images, TIMES.repeat_interleave(frames), context.as_images(frames)).view_as(noisy)


# ---- the start --------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 16])
def test_video_begins_as_the_image_stage_frame_by_frame(task, stage, frames):
    network, image = task("video").stage.eval(), stage("image", fresh=True)
    image.unet.set_attn_processor(AttentionByLength())  # as in training on a CPU
    noisy, context = clips(frames), Context(text(frames), fps(8, 2.5))
    expected = frame_by_frame(image, noisy, context)
    with torch.no_grad():
        assert torch.equal(network(noisy, TIMES, context), expected)
        assert torch.equal(network(noisy, TIMES, Context(text(frames))), expected)


def test_interpolation_begins_as_video_whatever_is_known(task, stage):
    network = task("interpolation").stage.eval()
    noisy, told = clips(6), (text(6), fps(8, 3))
    with torch.no_grad():
        expected = stage("video")(noisy, TIMES, Context(*told))
        for known in (torch.zeros(2, 6), torch.ones(2, 6), torch.eye(6)[:2]):
            channels = Known(clips(6, seed=5), known.bool()).channels()
            torch.testing.assert_close(network(noisy, TIMES, Context(*told, channels)), expected)
    assert network.unet.config.in_channels == 7 * 16
    new = network.unet.conv_in.weight[:, 3 * 16 :]
    assert not new.any()
    assert torch.equal(network.unet.conv_in.weight[:, : 3 * 16], stage("video").unet.conv_in.weight)


@pytest.mark.parametrize("frames", [1, 3])
def test_super_resolution_of_clips_begins_as_that_of_stills(task, stage, frames):
    network = task("video_sr").stage.eval()
    noisy, context = clips(frames, 32), Context(label=fps(0.1, 0.3), channels=clips(frames, 32, seed=3))
    with torch.no_grad():
        assert torch.equal(network(noisy, TIMES, context), frame_by_frame(stage("image_sr"), noisy, context))


# ---- after training ---------------------------------------------------------------------------------


def test_one_frame_is_the_stock_image_models_to_the_bit(models, stage):
    network, noisy = stage("video"), clips(1)
    stock = UNet2DConditionModel.from_pretrained(models / "video" / "video" / "unet").eval()
    with torch.no_grad():
        made = network(noisy, TIMES, Context(text(1)))
        hidden = functional.pixel_unshuffle(noisy[:, 0], 4)
        image = stock(hidden, TIMES, text(1).text, class_labels=fps(0, 0)).sample
    assert torch.equal(made[:, 0], functional.pixel_shuffle(image, 4))


def test_frames_act_on_each_other_and_not_on_other_clips(stage):
    network, noisy, context = stage("video"), clips(4), Context(text(4), fps(8, 8))
    changed = noisy.clone()
    changed[0, 3] += 1
    with torch.no_grad():
        before, after = network(noisy, TIMES, context), network(changed, TIMES, context)
    assert not torch.allclose(before[0, 0], after[0, 0])
    assert torch.equal(before[1], after[1])


def test_another_frame_rate_changes_the_clip_and_no_image(stage):
    network = stage("video")
    with torch.no_grad():
        slow, fast = (network(clips(4), TIMES, Context(text(4), fps(rate, 8))) for rate in (2.5, 8))
        assert not torch.allclose(slow[0], fast[0])
        assert torch.equal(slow[1], fast[1])


def test_another_noise_level_changes_super_resolution(stage):
    network, channels = stage("video_sr"), clips(2, 32, seed=3)
    with torch.no_grad():
        low, high = (
            network(clips(2, 32), TIMES, Context(label=fps(level, 0.1), channels=channels))
            for level in (0.0, 0.3)
        )
    assert not torch.allclose(low[0], high[0])


@pytest.mark.parametrize("name", ["video", "interpolation", "video_sr"])
def test_gradient_reaches_every_new_weight(task, name):
    network = task(name).stage
    new = {id(one) for one in network.temporal_parameters()}
    named = {key: one for key, one in network.unet.named_parameters() if id(one) in new}
    assert any("class_embedding" in key for key in named) == (name != "video_sr")
    size, frames = network.config.size, 4
    context = Context(text(frames), fps(8, 3))
    if name == "interpolation":
        known = Known(clips(frames), torch.eye(4)[:2].bool())
        context = Context(context.text, context.label, known.channels())
    if name == "video_sr":
        context = Context(label=fps(0.1, 0.3), channels=clips(frames, size, seed=3))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # what lies behind a zero output gets none in the first step
        optimizer.zero_grad()
        network(clips(frames, size), TIMES, context).square().mean().backward()
        optimizer.step()
    assert named
    for key, parameter in named.items():
        assert parameter.grad.any(), key
    if name == "interpolation":
        assert network.unet.conv_in.weight.grad[:, 3 * 16 :].any()


# ---- pixels and patches -----------------------------------------------------------------------------


def test_unshuffle_and_shuffle_are_inverse_and_equal_a_convolution_of_the_patch():
    pixels = clips(3).flatten(0, 1)
    channels = functional.pixel_unshuffle(pixels, 4)
    assert channels.shape == (6, 48, 4, 4)
    assert torch.equal(functional.pixel_shuffle(channels, 4), pixels)
    kernel = torch.randn(8, 3, 4, 4)
    torch.testing.assert_close(
        functional.conv2d(channels, kernel.flatten(1)[..., None, None]),
        functional.conv2d(pixels, kernel, stride=4),
    )


def test_a_patch_of_one_pixel(task):
    unet = {**task("image").recipe.unet, "sample_size": 16}
    network = task("image", patch=1, unet=unet).stage
    assert network.unet.config.in_channels == 3
    assert network(clips(2), TIMES, Context(text(2))).shape == (2, 2, 3, 16, 16)


# ---- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image", "video", "interpolation", "image_sr", "video_sr"])
def test_a_stage_is_the_same_after_saving_and_loading(stage, tmp_path, name):
    network = stage(name)
    network.save(tmp_path)
    again = StageNetwork.load(tmp_path)
    assert again.config == network.config == read_stage_config(tmp_path)
    assert again.scheduler.config == network.scheduler.config
    expected = network.state_dict()
    assert {key: one.shape for key, one in again.state_dict().items()} == {
        key: one.shape for key, one in expected.items()
    }
    assert all(torch.equal(one, expected[key]) for key, one in again.state_dict().items())
    names = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert not any(".temporal." in key for key in names)
    assert (tmp_path / TEMPORAL_FILE).exists() == (network.config.temporal_head_width is not None)


def test_half_precision(models):
    for name, size in (("video", 16), ("video_sr", 32)):
        network = StageNetwork.load(models / name / name, torch.bfloat16)
        context = Context(text(2), fps(8, 8))
        if name == "video_sr":
            context = Context(label=fps(0.1, 0.1), channels=clips(2, 32))
        with torch.no_grad():
            made = network(clips(2, size), TIMES, context)
        assert made.dtype == torch.float32
        assert made.isfinite().all()


def test_files_that_do_not_fit(stage, tmp_path):
    stage("video").save(tmp_path)
    content = json.loads((tmp_path / "stage.json").read_text())
    (tmp_path / "stage.json").write_text(json.dumps({**content, "patch": 0}))
    with pytest.raises(ValueError, match=r"stage\.json: patch: .*greater than or equal to 1"):
        StageNetwork.load(tmp_path)
    (tmp_path / "stage.json").write_text(json.dumps({**content, "colour": "red"}))
    with pytest.raises(ValueError, match=r"stage\.json: colour: unknown key"):
        StageNetwork.load(tmp_path)
    (tmp_path / "stage.json").write_text(json.dumps(content))
    weights = load_file(tmp_path / TEMPORAL_FILE)
    save_file({"conv_in.temporal.weight": weights["conv_in.temporal.weight"]}, tmp_path / TEMPORAL_FILE)
    with pytest.raises(ValueError, match=rf"{TEMPORAL_FILE}: does not fit"):
        StageNetwork.load(tmp_path)
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "UNet3DConditionModel"}')
    with pytest.raises(ValueError, match="holds a UNet3DConditionModel, expected one of UNet2DCondition"):
        StageNetwork.load(tmp_path)
