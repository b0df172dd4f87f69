"""Latent-VDM: the image model at the start, trained as one stage, causal if so set, saved and loaded."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn
from torch.utils.data import default_collate

from latent_shift import systems
from latent_shift.rng import StepRNG
from latent_shift.systems.base import GenerationRequest, Stage, TrainingPlan
from latent_shift.systems.latent_vdm import LatentVDM, LatentVDMLayers, ThinConvolution
from latent_shift.systems.temporal_layers import (
    add_temporal_layers,
    override_num_frames,
    set_num_frames,
    temporal_parameters,
)
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train
from tiny import TEXT_WIDTH, tiny_pipeline_folder, tiny_unet

RECIPES = Path(__file__).parents[2] / "recipes" / "compare"
BOTH = LatentVDMLayers(head_width=4)
LAYERS = {
    "both": BOTH,
    "convolution alone": LatentVDMLayers(attention=False),
    "attention alone": LatentVDMLayers(convolution="none", head_width=4),
    "modelscope": LatentVDMLayers(convolution="modelscope", head_width=4),
    "causal": LatentVDMLayers(causal=True, head_width=4),
}


def ignore(progress):
    pass


def with_layers(layers, *, trained=False, **changes):
    """A tiny U-Net with layers; their weights as new, or random ones."""
    unet = tiny_unet(**changes)
    add_temporal_layers(unet, layers.layers(unet))
    if trained:
        torch.manual_seed(3)
        for parameter in temporal_parameters(unet).values():
            nn.init.normal_(parameter, std=0.3)
    return unet


def inputs(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(batch, 5, TEXT_WIDTH, generator=generator)
    return torch.randn(batch, 4, 8, 8, generator=generator), torch.tensor(300), text


@torch.no_grad()
def predict(unet, frames, arguments):
    with override_num_frames(unet, frames):
        return unet(*arguments).sample


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """A model of random temporal weights, loaded from its folder."""
    folder = tmp_path_factory.mktemp("models")
    image = systems.load(tiny_pipeline_folder(folder / "image", shift=None), device="cpu")
    add_temporal_layers(image.pipeline.unet, BOTH.layers(image.pipeline.unet))
    torch.manual_seed(3)
    for parameter in temporal_parameters(image.pipeline.unet).values():
        nn.init.normal_(parameter, std=0.3)
    LatentVDM.write(folder / "vdm", image.pipeline, BOTH)
    return systems.load(folder / "vdm", device="cpu")


# ---- layers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("frames", [1, 2, 16])
def test_the_image_model_at_the_start(layers, frames):
    arguments = inputs(frames)
    with torch.no_grad():
        expected = tiny_unet()(*arguments).sample
    assert torch.equal(predict(with_layers(layers), frames, arguments), expected)


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_single_frames_are_the_image_models_whatever_the_layers_have_learned(layers):
    unet, arguments = with_layers(layers, trained=True), inputs(4)
    with torch.no_grad():
        expected = tiny_unet()(*arguments).sample
    assert torch.equal(predict(unet, 1, arguments), expected)
    assert (predict(unet, 4, arguments) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_after_one_step_gradient_reaches_every_temporal_weight(layers):
    unet = with_layers(layers).train()
    set_num_frames(unet, 4)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        unet(*inputs(8)).sample.square().mean().backward()
        optimizer.step()
    without = [name for name, one in temporal_parameters(unet).items() if not one.grad.abs().sum() > 0]
    assert without == []


def test_where_the_layers_are():
    names = temporal_parameters(with_layers(BOTH))
    blocks = {name.split(".temporal.")[0]: name.split(".temporal.")[1].split(".")[0] for name in names}
    assert sum("resnets" in path for path in blocks) == 8
    assert {kind for path, kind in blocks.items() if "attentions" in path} == {"attention"}
    assert sum("attentions" in path for path in blocks) == 4
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    names = temporal_parameters(with_layers(BOTH, **plain))
    last = {name.split(".temporal.")[0] for name in names if ".temporal.attention." in name}
    assert last == {
        "down_blocks.0.resnets.0", "down_blocks.1.resnets.0", "mid_block.attentions.0",
        "up_blocks.0.resnets.1", "up_blocks.1.resnets.1",
    }  # fmt: skip


def test_attention_without_positions_permutes_with_the_frames():
    sample, time, text = inputs(4)
    order = torch.tensor([2, 0, 3, 1])
    text = text[:1].expand(4, -1, -1)
    for positions in (False, True):
        layers = LatentVDMLayers(convolution="none", head_width=4, attention_positions=positions)
        unet = with_layers(layers, trained=True)
        permuted = predict(unet, 4, (sample[order], time, text))
        expected = predict(unet, 4, (sample, time, text))[order]
        assert torch.allclose(permuted, expected, atol=1e-4) != positions


def test_the_thin_convolution_is_a_conv3d_over_normalised_frames():
    torch.manual_seed(0)
    layer, hidden = ThinConvolution(8, 4, 1e-5), torch.randn(2 * 3, 8, 4, 4)
    nn.init.normal_(layer.conv.weight)
    nn.init.normal_(layer.conv.bias)
    conv = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0))
    conv.weight.data, conv.bias.data = layer.conv.weight.data[..., None, None], layer.conv.bias.data
    frames = torch.stack([nn.functional.group_norm(one[None], 4)[0] for one in hidden])  # each by itself
    clips = conv(nn.functional.silu(frames).unflatten(0, (2, 3)).transpose(1, 2)).transpose(1, 2)
    with torch.no_grad():
        assert torch.allclose(layer(hidden, 3), hidden + clips.flatten(0, 1), atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_causal_layers_let_no_frame_read_a_later_one(causal):
    unet = with_layers(LatentVDMLayers(causal=causal, head_width=4), trained=True)
    sample, time, text = inputs(6)
    later = sample.clone()
    later[4:] += 1
    one, other = predict(unet, 6, (sample, time, text)), predict(unet, 6, (later, time, text))
    assert torch.equal(one[:4], other[:4]) == causal
    assert not torch.equal(one[4:], other[4:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"convolution": "none", "attention": False}, "no temporal layer at all"),
        ({"convolution": "modelscope", "causal": True}, "normalises over all frames"),
        ({"head_width": 0}, "greater than or equal to 1"),
        ({"heads": 2}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        LatentVDMLayers(**settings)
    with pytest.raises(ValueError, match="head_width 64: 24 channels are no multiple"):
        with_layers(LatentVDMLayers())


# ---- training ---------------------------------------------------------------------------------------


def loss(task, count=4):
    """The task's loss on fixed clips with fixed noise."""
    data = task.dataset(ignore)
    batch = default_collate([data[number] for number in range(count)])
    task.eval()
    with torch.no_grad():
        return float(task(batch, StepRNG.of(1, count))["loss"])


def test_twelve_steps_lower_the_loss_and_the_folder_is_a_stock_image_model(recipe, image_model):
    tiny = recipe("latent_vdm")
    task = build_task(tiny)
    before = loss(task)
    model = train(task, ignore)
    assert loss(task) < before
    assert json.loads((model / "system.json").read_text()) == {
        "system": "latent_vdm", "convolution": "thin", "attention": True, "head_width": 4,
        "attention_positions": True, "causal": False,
    }  # fmt: skip
    loaded = systems.load(model, device="cpu")
    assert type(loaded) is LatentVDM
    weights = loaded.pipeline.unet.state_dict()
    assert weights.keys() == task.unet.state_dict().keys()
    for name, value in task.unet.state_dict().items():  # their average, which follows at once here
        assert torch.allclose(value, weights[name], atol=1e-6), name
    stock = StableDiffusionPipeline.from_pretrained(model).unet.state_dict()
    base = StableDiffusionPipeline.from_pretrained(image_model).unet.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in stock.items())
    assert stock.keys() == base.keys()
    assert any(not torch.equal(value, base[name]) for name, value in stock.items())  # trained, too


@pytest.mark.slow
def test_samples_and_a_second_stage_from_the_layers_of_the_first(recipe, tmp_path):
    model = train(build_task(recipe("latent_vdm", steps=2, sample_every=2)), ignore)
    assert (tmp_path / "latent_vdm" / "samples" / "step-00000002.gif").is_file()
    further = build_task(recipe("latent_vdm", init_from=str(model), output=str(tmp_path / "further")))
    trained = systems.load(model, device="cpu").pipeline.unet.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in further.unet.state_dict().items())


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not_been(recipe, tmp_path):
    def weights(**changes):
        model = train(build_task(recipe("latent_vdm", checkpoint_every=2, **changes)), ignore)
        return systems.load(model, device="cpu").pipeline.unet.state_dict()

    whole = weights(steps=4)
    weights(steps=2, output=str(tmp_path / "parts"))
    parts = weights(steps=4, output=str(tmp_path / "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_only_the_layers_are_trained_where_the_recipe_says_so(recipe):
    frozen = {"trainable_modules": ["temporal"], "image_batch_ratio": 0.0}
    task = build_task(recipe("latent_vdm", steps=2, **frozen))
    trained = {name for name, one in task.unet.named_parameters() if one.requires_grad}
    assert trained == set(temporal_parameters(task.unet))
    train(task, ignore)


def test_images_give_the_layers_a_gradient_of_zero(recipe):
    """Several processes (DDP) wait for a gradient of every parameter in every step."""
    task = build_task(recipe("latent_vdm", image_batch_ratio=1.0)).train()
    data = task.dataset(ignore)
    metrics = task(default_collate([data[number] for number in range(2)]), StepRNG.of(1, 2))
    metrics["loss"].backward()
    assert metrics["loss"] == metrics["image_loss"]
    assert all(one.grad is not None for one in task.parameters() if one.requires_grad)
    assert not any(one.grad.any() for one in temporal_parameters(task.unet).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainable_modules": ["temporal"]}, "image_batch_ratio: images skip the temporal layers"),
        ({"trainable_modules": ["motion"]}, "no parameter of the U-Net has 'motion' in its name"),
        ({"shift": {"place": "output"}}, "shift: Input should be None"),
        ({"lora": {}}, "lora: Input should be None"),
        ({"temporal": {"head_width": 5}}, "head_width 5: "),
    ],
)
def test_recipes_that_cannot_be(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        build_task(recipe("latent_vdm", **changes))


# ---- the system -------------------------------------------------------------------------------------


def request(prompt="a red circle", seed=1, **values):
    return GenerationRequest(prompt=prompt, seed=seed, **values)


def test_clips_depend_on_the_layers_and_images_do_not(system, tmp_path):
    image = systems.load(tiny_pipeline_folder(tmp_path / "image", shift=None), device="cpu")
    assert (system.generate([request(frames=1)]) == image.generate([request(frames=1)])).all()
    clips = system.generate([request(), request("a green square", 2)])
    assert clips.shape == (2, 4, 32, 32, 3)
    assert (clips[:1] != image.generate([request()])).any()
    alone = system.generate([request("a green square", 2, frames=8)])
    together = system.generate([request(frames=8), request("a green square", 2, frames=8)])
    assert (together[1] == alone[0]).all()


def test_a_run_with_the_systems_name_and_a_compiled_model(system, tmp_path, monkeypatch):
    system.save(tmp_path / "run" / "model")
    (tmp_path / "run" / "checkpoints").mkdir()
    assert systems.inspect(f"latent_vdm:{tmp_path / 'run'}") == system.info().defaults
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **options: plain(module, backend="eager"))
    compiled = systems.load(f"latent_vdm:{tmp_path / 'run'}", device="cpu", compile=True)
    assert np.abs(compiled.generate([request()]).astype(int) - system.generate([request()])).max() <= 1


def test_loops_are_refused(system):
    with pytest.raises(ValueError, match="loop: this model makes no loops"):
        system.generate([request(loop=True)])


def test_a_saved_model_makes_the_same_clips(system, tmp_path):
    system.save(tmp_path / "saved")
    again = systems.load(tmp_path / "saved", device="cpu")
    assert (again.generate([request()]) == system.generate([request()])).all()
    assert again.info() == system.info()
    assert systems.inspect(tmp_path / "saved", scheduler="ddim") == system.info().defaults
    half = systems.load(tmp_path / "saved", device="cpu", dtype="bf16", scheduler="euler")
    assert {one.dtype for one in half.pipeline.unet.parameters()} == {torch.bfloat16}
    assert half.generate([request()]).dtype == np.uint8


def test_facts_and_counts(system, tmp_path):
    counted = system.parameters()
    temporal = sum(one.numel() for one in temporal_parameters(system.pipeline.unet).values())
    stock = sum(one.numel() for one in tiny_unet().parameters())
    assert (counted.temporal, counted.parts["unet"]) == (temporal, stock + temporal)
    assert counted.trained == counted.parts["unet"]
    info = system.info()
    assert info.system == "latent_vdm"
    system.save(tmp_path / "other")
    next(iter(temporal_parameters(system.pipeline.unet).values())).data += 1
    system.save(tmp_path / "changed")
    first, second = (systems.load(tmp_path / name).info() for name in ("other", "changed"))
    assert first.weights != second.weights
    assert first.config == second.config == info.config


def test_folders_that_are_none(system, tmp_path, image_model):
    with pytest.raises(ValueError, match=r"system\.json: is missing"):
        LatentVDM.load(image_model)
    system.save(tmp_path / "model")
    file = tmp_path / "model" / "system.json"
    (tmp_path / "model" / "temporal.safetensors").rename(tmp_path / "away")
    for call in (systems.inspect, systems.load):
        with pytest.raises(ValueError, match=r"temporal\.safetensors: there is no such file"):
            call(tmp_path / "model")
    file.write_text('{"system": "latent_vdm", "convolution": "thick"}')
    with pytest.raises(ValueError, match=r"system\.json: convolution: Input should be 'thin'"):
        systems.inspect(tmp_path / "model")
    file.write_text('{"system": "latent_shift"}')
    with pytest.raises(ValueError, match=r"is of the system latent_shift, not of latent_vdm"):
        LatentVDM.load(tmp_path / "model")


def test_trained_stages_become_a_model_of_the_system(recipe, image_model, tmp_path):
    model = train(build_task(recipe("latent_vdm", steps=1)), ignore)
    models = {"latent-1-image": image_model}
    LatentVDM.assemble(models, tmp_path / "before")
    LatentVDM.assemble({**models, "latent_vdm-2-clips": model}, tmp_path / "after")
    assert systems.find(tmp_path / "after") is LatentVDM
    wanted = [request(frames=1, steps=2, guidance=2.0, height=32, width=32)]
    before, after = (systems.load(tmp_path / name, device="cpu") for name in ("before", "after"))
    assert before.generate(wanted).shape == after.generate(wanted).shape == (1, 1, 32, 32, 3)
    assert before.generate(wanted).tolist() == systems.load(image_model).generate(wanted).tolist()


def test_stages():
    image, own = RECIPES / "latent-1-image.yaml", RECIPES / "latent_vdm-2-clips.yaml"
    assert LatentVDM.stages(TrainingPlan(RECIPES)) == [
        Stage("latent-1-image", image, "image", "images"),
        Stage("latent_vdm-2-clips", own, "latent_vdm", "clips", "runs/compare/latent-1-image/model"),
    ]
