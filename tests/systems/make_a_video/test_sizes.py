"""Sizes, counted on torch's meta device: those of the comparison's recipes, and the published ones."""

from pathlib import Path

import pytest
import torch
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

from latent_shift.systems.make_a_video.pseudo3d import add_pseudo_3d_layers
from latent_shift.systems.make_a_video.stage import add_fps_embedding, add_input_channels
from latent_shift.systems.temporal_layers import override_num_frames, temporal_parameters
from latent_shift.training.recipe import load_recipe

RECIPES = Path(__file__).parents[3] / "recipes" / "compare"
# Of arXiv 2209.14792, by table 5 of arXiv 2309.15818, in billions: P 1.3, D^t and interpolation 3.1 each,
# SR_l^t 1.4, SR_h 0.7. The paper gives no configurations; these are ours.
TEXT_STAGE = {
    "sample_size": 64,
    "block_out_channels": (544, 1088, 1632, 2176),
    "layers_per_block": 3,
    "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
    "attention_head_dim": 32,
    "cross_attention_dim": 512,
    "encoder_hid_dim": 768,  # of embeddings of stills
    "encoder_hid_dim_type": "image_proj",
    "addition_embed_type": "image",
    "resnet_time_scale_shift": "scale_shift",
}
SUPER_RESOLUTION = {
    "in_channels": 6,
    "out_channels": 3,
    "layers_per_block": 3,
    "down_block_types": ("DownBlock2D",) * 4,
    "up_block_types": ("UpBlock2D",) * 4,
    "class_embed_type": "timestep",
    "attention_head_dim": 32,
}


@pytest.fixture(autouse=True)
def on_meta():
    with torch.device("meta"):
        yield


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def counts(unet, *, fps=False, channels=0):
    """The image model, temporal layers and all, with the embedding of the frame rate where `fps`."""
    image = count(unet)
    if fps:
        add_fps_embedding(unet)
    add_pseudo_3d_layers(unet, 32)
    if channels:
        add_input_channels(unet, channels)
    return image, sum(one.numel() for one in temporal_parameters(unet).values()), count(unet)


def of_recipe(name, kind, **changes):
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    return kind(**{**recipe.unet, **changes}), 3 * recipe.patch**2


def test_small_sizes():
    """In the comparison: 5.76 M from text, 5.80 M with key frames, 3.33 M and noise levels."""
    unet, channels = of_recipe("make_a_video-1-image", UNet2DConditionModel, in_channels=48, out_channels=48)
    assert channels == 48
    image, temporal, whole = counts(unet, fps=True)
    assert (image, temporal, whole) == (4_557_136, 1_124_381, 5_763_949)
    unet, _ = of_recipe("make_a_video-1-image", UNet2DConditionModel, in_channels=48, out_channels=48)
    assert counts(unet, fps=True, channels=64) == (image, temporal, 5_800_813)
    shape = {"in_channels": 96, "out_channels": 48}
    unet, _ = of_recipe("make_a_video-2-image_sr", UNet2DModel, **shape, class_embed_type="timestep")
    levels = count(unet.class_embedding)
    image, temporal, whole = counts(unet)
    assert (image, temporal, whole) == (2_591_856, 762_529, 3_354_385)
    assert round((whole - levels) / 1e6, 2) == 3.33


def gmac(unet, frames, side, channels, text=()):
    """10^9 multiply-adds of a pass over a clip of frames of side x side patches."""
    sample, labels = torch.empty(frames, channels, side, side), torch.empty(frames)
    with override_num_frames(unet, frames), FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(sample, torch.empty(()), *text, class_labels=labels)
    return round(counter.get_total_flops() / 2e9, 3)


def test_arithmetic_of_the_small_sizes():
    made = []
    for channels, frames in ((48, 6), (48, 16), (112, 16)):
        unet, _ = of_recipe("make_a_video-1-image", UNet2DConditionModel, in_channels=48, out_channels=48)
        counts(unet, fps=True, channels=channels - 48)
        text = [torch.empty(frames, 80, 128)]  # 40 tokens, twice as many with the positions of frames
        made.append(gmac(unet, frames, 8, channels, text))
    assert made == [0.574, 1.535, 1.573]
    shape = {"in_channels": 96, "out_channels": 48, "class_embed_type": "timestep"}
    unet, _ = of_recipe("make_a_video-2-image_sr", UNet2DModel, **shape)
    counts(unet)
    assert [gmac(unet, frames, 16, 96) for frames in (6, 16)] == [0.910, 2.436]


def test_published_sizes():
    unet = UNet2DConditionModel(**TEXT_STAGE, in_channels=3, out_channels=3)
    _, temporal, video = counts(unet, fps=True)
    assert round(video / 1e9, 2) == 3.19
    assert 0.2 < temporal / video < 0.25
    unet = UNet2DConditionModel(**TEXT_STAGE, in_channels=3, out_channels=3)
    _, _, interpolation = counts(unet, fps=True, channels=4)
    assert interpolation - video == 4 * 9 * 544
    larger = UNet2DModel(**SUPER_RESOLUTION, sample_size=256, block_out_channels=(416, 832, 1248, 1664))
    _, _, video_sr = counts(larger)
    assert round(video_sr / 1e9, 2) == 1.43
    high_sr = count(
        UNet2DModel(
            **SUPER_RESOLUTION, sample_size=768, block_out_channels=(320, 640, 960, 1280),
            add_attention=False, resnet_time_scale_shift="scale_shift",
        )
    )  # fmt: skip
    assert round(high_sr / 1e9, 2) == 0.68
    prior = count(PriorTransformer(num_layers=26, num_attention_heads=32, attention_head_dim=64))
    assert round(prior / 1e9, 2) == 1.32
    assert round((video + interpolation + video_sr + high_sr + prior) / 1e9, 1) == 9.8
