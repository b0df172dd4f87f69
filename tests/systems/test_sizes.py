"""Parameters and arithmetic of the systems, counted on torch's meta device: small, published, SD 1.5's size.

M: 10^6 parameters. GMAC: 10^9 multiply-adds of one pass. The figures are those of docs/systems.md.
"""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
from torch.utils.flop_counter import FlopCounterMode

from latent_shift.checkpoints.single_file import CONFIGS
from latent_shift.documents import read_yaml_mapping
from latent_shift.systems.latent_vdm import LatentVDMLayers
from latent_shift.systems.motion_module import MotionModuleLayers
from latent_shift.systems.temporal_layers import add_temporal_layers, temporal_parameters
from latent_shift.systems.temporal_layers import override_num_frames as temporal_frames
from latent_shift.unet import enable_temporal_shift
from latent_shift.unet import override_num_frames as shift_frames

RECIPES = Path(__file__).parents[2] / "recipes" / "compare"

BOTH = LatentVDMLayers()
CONVOLUTION = LatentVDMLayers(attention=False)
ATTENTION = LatentVDMLayers(convolution="none")


def sd_unet(**changes):
    """Stable Diffusion 1.5's U-Net, without weights."""
    config = json.loads((CONFIGS / "sd-1" / "unet" / "config.json").read_text())
    with torch.device("meta"):
        return UNet2DConditionModel.from_config({**config, **changes})


def small_unet():
    """The U-Net of the compared systems, without weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(**read_yaml_mapping(RECIPES / "latent-1-image.yaml", "recipe")["unet"])


def with_layers(unet, layers):
    with torch.device("meta"):
        add_temporal_layers(unet, layers.layers(unet))
    return unet


def millions(parameters, digits=2):
    return round(sum(one.numel() for one in parameters) / 1e6, digits)


def gmac(unet, frames, side, text_width, text_length=77, digits=3):
    """GMAC of one pass over a clip of `frames` frames of side x side latents."""
    override = temporal_frames if temporal_parameters(unet) else shift_frames
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), override(unet, frames), counter, torch.no_grad():
        sample, text = torch.empty(frames, 4, side, side), torch.empty(frames, text_length, text_width)
        unet(sample, torch.empty(()), text)
    return round(counter.get_total_flops() / 2e9, digits)


# ---- the small size, for Moving Shapes --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "parameters", "added", "of_six", "of_sixteen"),
    [
        (None, 7.90, 0, 0.597, 1.591),
        (LatentVDMLayers(head_width=32), 9.02, 1.12, 0.685, 1.832),
        (LatentVDMLayers(attention=False), 8.66, 0.76, 0.654, 1.745),
        (LatentVDMLayers(convolution="none", head_width=32), 8.27, 0.36, 0.627, 1.678),
        (MotionModuleLayers(heads=2, width=0.5), 9.33, 1.42, 0.712, 1.911),
    ],
)
def test_small(layers, parameters, added, of_six, of_sixteen):
    unet = small_unet()
    if layers is None:
        enable_temporal_shift(unet, 1)
    else:
        with_layers(unet, layers)
    assert millions(unet.parameters()) == parameters
    assert millions(temporal_parameters(unet).values()) == added
    text = {"text_width": 128, "text_length": 2 * 40}  # positions of frames take a second copy of the text
    assert gmac(unet, 6, 8, **text) == of_six
    assert gmac(unet, 16, 8, **text) == of_sixteen


# ---- published sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "parameters"), [(None, 872.3), (CONVOLUTION, 939.0), (ATTENTION, 921.9), (BOTH, 988.6)]
)
def test_published(layers, parameters):
    """The large latent diffusion model that the paper's image model is thought to be, txt2img-f8."""
    unet = sd_unet(cross_attention_dim=1280)
    if layers is None:
        enable_temporal_shift(unet, 16)
    else:
        with_layers(unet, layers)
    assert millions(unet.parameters(), 1) == parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "parameters", "added", "work"),
    [
        (None, 859.5, 0, 1440.9),
        (CONVOLUTION, 926.2, 66.7, 1525.2),
        (ATTENTION, 909.1, 49.6, 1544.7),
        (BOTH, 975.8, 116.3, 1629.0),
        (MotionModuleLayers(), 1312.7, 453.2, 2052.9),
    ],
)
def test_stable_diffusions_size(layers, parameters, added, work):
    """One pass over 16 frames of 32x32 latents."""
    unet = sd_unet()
    if layers is None:
        enable_temporal_shift(unet, 1)
    else:
        with_layers(unet, layers)
    assert millions(unet.parameters(), 1) == parameters
    assert millions(temporal_parameters(unet).values(), 1) == added
    assert gmac(unet, 16, 32, 768, digits=1) == work


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "parameters", "work"),
    [(UNetMotionModel, 1312.7, 2052.9), (UNet3DConditionModel, 1404.8, 2435.7)],
)
def test_the_video_unets_of_diffusers(model, parameters, work):
    with torch.device("meta"):
        unet = model(cross_attention_dim=768)
    assert millions(unet.parameters(), 1) == parameters
    text = torch.empty((16 if model is UNetMotionModel else 1), 77, 768, device="meta")
    clip = torch.empty(1, 4, 16, 32, 32, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(clip, torch.empty((), device="meta"), text)
    assert round(counter.get_total_flops() / 2e9, 1) == work
