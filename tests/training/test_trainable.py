"""Layers by their names, and low-rank layers beside the U-Net's own."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from latent_shift.checkpoints import load
from latent_shift.rng import StepRNG
from latent_shift.training.checkpoint import checkpoints
from latent_shift.training.datasets import loader
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train

UNET = "unet/diffusion_pytorch_model.safetensors"


def ignore(progress):
    pass


def test_only_the_named_layers_are_trained(recipe, parts):
    tiny = recipe("video", trainable_modules=["resnets", "conv_out"])
    model, base = load_file(train(build_task(tiny), ignore) / UNET), load_file(parts / "image-model" / UNET)
    changed = {name for name in base if not torch.equal(model[name], base[name])}
    assert changed == {name for name in base if "resnets" in name or "conv_out" in name}
    kept = load_file(checkpoints(tiny.output)[-1] / "weights.safetensors")
    assert set(kept) == {f"unet.{name}" for name in changed}


def test_an_unknown_layer_is_told_with_what_there_is(recipe):
    with pytest.raises(
        ValueError, match="trainable_modules: no parameter of the U-Net has 'attn7' in its name; there are"
    ):
        build_task(recipe("video", trainable_modules=["attn7"]))
    with pytest.raises(ValueError, match=r"lora.target_modules: no module of the U-Net is called 'to_x'"):
        build_task(recipe("video", lora={"target_modules": ["to_x"]}))
    with pytest.raises(ValueError, match="lora and trainable_modules: give one of them, or neither"):
        recipe("video", lora={}, trainable_modules=["resnets"])
    muon = {"kind": "muon", "learning_rate": 0.001, "warmup_steps": 0}
    with pytest.raises(ValueError, match="muon steps matrices of 64 rows .* lora has rank 16; take adamw"):
        recipe("video", lora={}, optimizer=muon)
    recipe("video", lora={"rank": 64}, optimizer=muon)


def test_low_rank_layers_are_merged_into_the_model_and_written_beside_it(recipe, parts, tmp_path):
    settings = {"lora": {"rank": 2, "alpha": 4}, "image_batch_ratio": 0.0}
    tiny = recipe("video", **settings, optimizer={"learning_rate": 0.05, "warmup_steps": 0})
    folder = train(build_task(tiny), ignore)
    base, model = load_file(parts / "image-model" / UNET), load_file(folder / UNET)
    assert base.keys() == model.keys()
    changed = {name for name in base if not torch.equal(model[name], base[name])}
    assert changed
    assert all(name.split(".")[-2] in ("to_q", "to_k", "to_v", "0", "conv1", "conv2") for name in changed)
    assert all("lora" in name for name in load_file(checkpoints(tiny.output)[-1] / "weights.safetensors"))

    def image(pipeline):
        generator = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 2, "output_type": "np", "height": 64, "width": 64}
        return pipeline("a red star", generator=generator, **options).images

    stock = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    with_file = StableDiffusionPipeline.from_pretrained(parts / "image-model", torch_dtype=torch.float32)
    plain = image(with_file)
    with_file.load_lora_weights(folder / "lora")
    assert abs(image(with_file) - image(stock)).max() < 1e-3 < abs(plain - image(stock)).max()
    ours = load(str(folder), device="cpu", dtype="fp32")
    assert ours.video_config.video_tuned
    assert ours("a red star", num_frames=3, output_type="np", num_inference_steps=1).frames.shape[:2] == (
        1,
        3,
    )


def test_less_memory_gives_the_same_gradient(recipe):
    plain, spared = (build_task(recipe("video", gradient_checkpointing=g)) for g in (False, True))
    batch = next(iter(loader(plain.dataset(ignore), 4, 0, 0, workers=0, rank=0, world_size=1)))
    for module in (plain, spared):
        module.train()
        module(batch, StepRNG.of(5, 4))["loss"].backward()
    assert spared.unet.is_gradient_checkpointing
    for (name, one), other in zip(plain.named_parameters(), spared.parameters(), strict=True):
        if one.grad is not None:
            assert torch.allclose(one.grad, other.grad, atol=1e-6), name
