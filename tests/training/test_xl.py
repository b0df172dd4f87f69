"""SDXL bases: two text models, pooled states and sizes; out comes a stock SDXL folder that makes clips."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

from clips import captioned_folder
from latent_shift.checkpoints import load
from latent_shift.data.pack import pack
from latent_shift.data.sources import detect_source
from latent_shift.pipeline import LatentShiftPipeline, LatentShiftXLPipeline
from latent_shift.rng import StepRNG
from latent_shift.training.datasets import loader
from latent_shift.training.precompute import LatentEncoder, PrecomputeOptions
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train
from tiny_xl import tiny_xl_components, tiny_xl_folder, tiny_xl_unet

SIZE = {"fps": 8, "height": 32, "width": 48}
CAPTION = "a red circle moves left"
UNET = "unet/diffusion_pytorch_model.safetensors"


def ignore(progress):
    pass


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_xl_folder(tmp_path_factory.mktemp("models") / "xl", latent_shift=False)


@pytest.fixture
def own(tmp_path):
    folder = captioned_folder(tmp_path / "own", [CAPTION] * 4, count=4)
    return {"source": {"format": "folder", "path": str(folder)}, "frames": {"num_frames": 4, **SIZE}}


@pytest.fixture
def tiny(recipe, own, base):
    return lambda **changes: recipe(
        "video", **{"latents": None, "clips": own, "pretrained_model": str(base), "steps": 3, **changes}
    )


def first_batch(module):
    return next(iter(loader(module.dataset(ignore), 2, 0, 0, workers=0, rank=0, world_size=1)))


def test_a_stock_model_comes_out_that_makes_clips(tiny, base):
    wanted = tiny(sample_every=3, validation={"items": 1, "every": 3})
    folder = train(build_task(wanted), ignore)
    before, after = load_file(base / UNET), load_file(folder / UNET)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for part in ("text_encoder", "text_encoder_2", "vae"):
        (file,) = (base / part).glob("*.safetensors")
        first, second = load_file(file), load_file(folder / part / file.name)
        assert all(torch.equal(first[name], second[name]) for name in first)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    ours = LatentShiftPipeline.from_pretrained(folder)
    assert isinstance(ours, LatentShiftXLPipeline)
    assert (ours.video_config.num_frames, ours.video_config.width) == (4, 48)
    call = {"height": 32, "width": 48, "num_inference_steps": 2, "output_type": "np"}
    stock = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    image = stock(CAPTION, generator=torch.Generator().manual_seed(0), guidance_scale=2.0, **call).images
    clip = ours(CAPTION, generator=torch.Generator().manual_seed(0), num_frames=1, **call).frames[0]
    assert np.array_equal(image, clip)
    assert ours(CAPTION, **call).frames.shape == (1, 4, 32, 48, 3)
    assert list((wanted.output / "samples").glob("*.png"))


def test_latents_and_pooled_text_computed_ahead_give_the_same_loss(tiny, own, base, tmp_path):
    encoder = LatentEncoder(PrecomputeOptions(model=str(base), **SIZE))
    list(pack(detect_source(own["source"]["path"]).read(), tmp_path / "shards", per_shard=9, encoder=encoder))
    source = {"format": "shards", "shards": f"{tmp_path}/shards/*.tar"}
    settings = {"image_batch_ratio": 0.0, "diffusion": {"caption_dropout": 0.5}}
    plain = build_task(tiny(**settings)).train()
    ahead = build_task(tiny(clips={**own, "source": source, "precomputed_latents": True}, **settings)).train()
    batch = first_batch(ahead)
    assert batch["pooled"].shape == (2, 8)
    for seed in range(4):
        one, other = (
            module(first_batch(module), StepRNG.of(seed, 2))["loss"].item() for module in (plain, ahead)
        )
        assert one == pytest.approx(other, rel=5e-3)
    train(build_task(ahead.recipe), ignore)


def test_low_rank_layers_fit_the_stock_model(tiny, base):
    folder = train(build_task(tiny(lora={"rank": 2})), ignore)
    assert load_file(folder / UNET).keys() == load_file(base / UNET).keys()
    (file,) = (folder / "lora").glob("*.safetensors")
    load(str(base), device="cpu", dtype="fp32", loras=[str(file)])


def test_a_unet_that_does_not_fit_its_text_models_is_told(tiny, tmp_path):
    parts = {**tiny_xl_components(), "unet": tiny_xl_unet(projection_class_embeddings_input_dim=30)}
    StableDiffusionXLPipeline(**parts, add_watermarker=False).save_pretrained(tmp_path / "odd")
    reason = "projection_class_embeddings_input_dim is 30, but the text that it would read is of width 32"
    with pytest.raises(ValueError, match=f"pretrained_model: .*its U-Net's {reason}"):
        build_task(tiny(pretrained_model=str(tmp_path / "odd")))
