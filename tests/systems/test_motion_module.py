"""Motion modules: AnimateDiff's network, the image model at the start, and its base untouched by training."""

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNetMotionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter
from torch import nn
from torch.utils.data import default_collate

from latent_shift import systems
from latent_shift.rng import StepRNG
from latent_shift.systems.base import GenerationRequest, Stage, TrainingPlan
from latent_shift.systems.motion_module import MotionModuleLayers, MotionModules, motion_sites
from latent_shift.systems.temporal_layers import (
    add_temporal_layers,
    override_num_frames,
    set_num_frames,
    temporal_parameters,
)
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train
from tiny import TEXT_WIDTH, tiny_unet

RECIPES = Path(__file__).parents[2] / "recipes" / "compare"
LAYERS = MotionModuleLayers(heads=2)
SMALL = {  # the layout of the small base: attention in the middle only
    "block_out_channels": (8, 16, 16), "layers_per_block": (2, 2, 3),
    "down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3,
}  # fmt: skip


def ignore(progress):
    pass


def with_modules(layers=LAYERS, **changes):
    unet = tiny_unet(**changes)
    add_temporal_layers(unet, layers.layers(unet))
    return unet


def inputs(batch, frames=1):
    """Latents, a timestep and text, which the frames of a clip have in common."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(batch // frames, 5, TEXT_WIDTH, generator=generator)
    sample = torch.randn(batch, 4, 8, 8, generator=generator)
    return sample, torch.tensor(300), text.repeat_interleave(frames, dim=0)


@torch.no_grad()
def predict(unet, frames, arguments):
    with override_num_frames(unet, frames):
        return unet(*arguments).sample


# ---- modules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 16])
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_the_image_model_at_the_start(frames, width):
    unet, arguments = with_modules(MotionModuleLayers(heads=2, width=width)), inputs(frames)
    with torch.no_grad():
        expected = tiny_unet()(*arguments).sample
    assert torch.equal(predict(unet, frames, arguments), expected)


def test_the_network_of_animate_diff():
    """diffusers' `UNetMotionModel`, which zeroes nothing, with the same weights."""
    stock = tiny_unet()
    adapter = MotionAdapter(
        block_out_channels=(12, 24), motion_layers_per_block=1, motion_num_attention_heads=2,
        motion_norm_num_groups=4,
    )  # fmt: skip
    theirs = UNetMotionModel.from_unet2d(stock, adapter).eval()
    torch.manual_seed(0)
    for name, parameter in theirs.named_parameters():
        if "motion_modules" in name and "norm" not in name:
            nn.init.normal_(parameter, std=0.2)
    ours = with_modules()
    own, mapped = temporal_parameters(ours), {}
    for name, parameter in theirs.named_parameters():
        path, is_motion, rest = name.partition("motion_modules.")
        if is_motion:
            number, _, weight = rest.partition(".")
            has_attention = hasattr(ours.get_submodule(path[:-1]), "attentions")
            mapped[f"{path}{'attentions' if has_attention else 'resnets'}.{number}.temporal.{weight}"] = (
                parameter
            )
    assert mapped.keys() == own.keys()
    for name, parameter in mapped.items():
        own[name].data = parameter.data
    sample, time, text = inputs(2 * 4, frames=4)
    with torch.no_grad():
        expected = theirs(sample.unflatten(0, (2, 4)).transpose(1, 2), time, text).sample
    assert (expected.transpose(1, 2).flatten(0, 1) - stock(sample, time, text).sample).abs().max() > 0.01
    got = predict(ours, 4, (sample, time, text)).unflatten(0, (2, 4)).transpose(1, 2)
    assert torch.allclose(got, expected, atol=1e-5)


def test_where_the_modules_are():
    assert sorted(motion_sites(tiny_unet())) == [
        "down_blocks.0.resnets.0", "down_blocks.1.attentions.0", "mid_block.attentions.0",
        "up_blocks.0.attentions.0", "up_blocks.0.attentions.1", "up_blocks.1.resnets.0",
        "up_blocks.1.resnets.1",
    ]  # fmt: skip
    sites = motion_sites(tiny_unet(**SMALL))
    assert len(sites) == 18
    assert [site for site in sites if "attentions" in site] == ["mid_block.attentions.0"]
    without = tiny_unet(**{**SMALL, "mid_block_type": "UNetMidBlock2D"})
    assert "mid_block.resnets.0" in motion_sites(without)
    assert len(motion_sites(tiny_unet(**{**SMALL, "mid_block_type": None}))) == 17
    other = tiny_unet(down_block_types=("AttnDownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=4)
    assert "down_blocks.0.resnets.0" in motion_sites(other)  # whose attention is no transformer


def test_after_one_step_gradient_reaches_every_weight_and_only_those_of_the_modules(recipe):
    task = build_task(recipe("motion_module"))
    set_num_frames(task.unet, 4)
    modules = list(temporal_parameters(task.unet).values())
    optimizer = torch.optim.AdamW(modules, lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        task.unet(*inputs(8)).sample.square().mean().backward()
        optimizer.step()
    assert [one for one in modules if not one.grad.abs().sum() > 0] == []
    assert {name for name, one in task.unet.named_parameters() if one.grad is not None} == set(
        temporal_parameters(task.unet)
    )


def test_what_cannot_be():
    with pytest.raises(ValueError, match=re.escape("heads 5: the width 12 at down_blocks.0.resnets.0")):
        with_modules(MotionModuleLayers(heads=5))
    with pytest.raises(ValueError, match="heads 2: the width 0 at down_blocks"):
        with_modules(MotionModuleLayers(heads=2, width=0.01))
    with pytest.raises(ValueError, match="width 0.26: gives 3 at down_blocks.* even"):
        with_modules(MotionModuleLayers(heads=1, width=0.26))
    unet = with_modules(MotionModuleLayers(heads=2, max_frames=3))
    with pytest.raises(ValueError, match="num_frames=4: this model knows positions of 3"):
        predict(unet, 4, inputs(4))


# ---- training and the system ------------------------------------------------------------------------


def loss(task):
    data = task.dataset(ignore)
    batch = default_collate([data[number] for number in range(4)])
    task.eval()
    with torch.no_grad():
        return float(task(batch, StepRNG.of(1, 4))["loss"])


def test_twelve_steps_lower_the_loss_and_leave_the_image_model(recipe, image_model):
    task = build_task(recipe("motion_module"))
    before = loss(task)
    model = train(task, ignore)
    assert loss(task) < before
    assert json.loads((model / "system.json").read_text()) == {
        "system": "motion_module", "heads": 2, "width": 0.5, "max_frames": 32,
    }  # fmt: skip
    stock = StableDiffusionPipeline.from_pretrained(model).unet.state_dict()
    base = StableDiffusionPipeline.from_pretrained(image_model).unet.state_dict()
    assert stock.keys() == base.keys()
    assert all(torch.equal(value, base[name]) for name, value in stock.items())
    system, image = systems.load(model, device="cpu"), systems.load(image_model, device="cpu")
    size = {"frames": 1, "steps": 2, "guidance": 2.0, "height": 32, "width": 32}
    requests = [GenerationRequest(prompt="a red circle", seed=seed, **size) for seed in (1, 2)]
    assert (system.generate(requests) == image.generate(requests)).all()
    trained = system.pipeline.unet.state_dict()
    for name, value in task.unet.state_dict().items():  # their average, which follows at once here
        assert torch.allclose(value, trained[name], atol=1e-6), name
    clip = GenerationRequest(prompt="a red circle", seed=1, frames=4, steps=2, height=32, width=32)
    system.save(model.parent / "saved")
    again = systems.load(model.parent / "saved", device="cpu")
    assert (again.generate([clip]) == system.generate([clip])).all()
    counted = system.parameters()
    assert (
        counted.trained
        == counted.temporal
        == sum(one.numel() for one in temporal_parameters(system.pipeline.unet).values())
    )
    assert counted.parts["unet"] == counted.temporal + sum(value.numel() for value in base.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_batch_ratio": 0.1}, "image_batch_ratio: Input should be less than or equal to 0"),
        ({"trainable_modules": ["resnets"]}, "trainable_modules.0: Input should be 'temporal'"),
        ({"trainable_modules": []}, "trainable_modules"),
    ],
)
def test_recipes_that_cannot_be(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        recipe("motion_module", **changes)


def test_stages():
    own = RECIPES / "motion_module-2-clips.yaml"
    assert MotionModules.stages(TrainingPlan(RECIPES)) == [
        Stage("latent-1-image", RECIPES / "latent-1-image.yaml", "image", "images"),
        Stage("motion_module-2-clips", own, "motion_module", "clips", "runs/compare/latent-1-image/model"),
    ]
