"""SDXL folders through the same front: stock images for one frame, and clips whose frames see one another."""

import copy
import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from latent_shift import LatentShiftPipeline, checkpoints, media
from latent_shift.cli import errors
from latent_shift.cli.main import app
from latent_shift.pipeline import LatentShiftXLPipeline
from latent_shift.unet import shift_options
from tiny_xl import POOLED, tiny_xl_folder

PROMPTS = ["a red circle moves left", "a green square grows"]
CALL = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_xl_folder(tmp_path_factory.mktemp("models") / "xl")


@pytest.fixture(scope="module")
def pipeline(folder):
    return quiet(LatentShiftPipeline.from_pretrained(folder))


@pytest.fixture(scope="module")
def stock(folder):
    return quiet(StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False))


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"negative_prompt": ["black", "a circle"]},
        {"guidance_scale": 1.0},
        {"guidance_rescale": 0.7, "height": 24, "width": 40},
        {"output_type": "latent"},
    ],
    ids=str,
)
def test_one_frame_equals_stock(pipeline, stock, call):
    call = {**CALL, **call}
    expected = stock(PROMPTS, generator=seeded(1, 2), **call).images
    frames = pipeline(PROMPTS, num_frames=1, generator=seeded(1, 2), **call).frames
    assert type(pipeline) is LatentShiftXLPipeline
    assert np.array_equal(frames[:, 0], expected)


def test_one_frame_equals_stock_with_many_images_a_prompt(pipeline, stock):
    expected = stock(PROMPTS, num_images_per_prompt=2, generator=seeded(1, 2, 3, 4), **CALL).images
    frames = pipeline(
        PROMPTS, num_frames=1, num_videos_per_prompt=2, generator=seeded(1, 2, 3, 4), **CALL
    ).frames
    assert np.array_equal(frames[:, 0], expected)


def test_encoded_prompts_come_with_their_pooled_ones(pipeline):
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    embeds = dict(zip(names, pipeline.encode_prompt(PROMPTS, None, "cpu", 1, True), strict=True))
    assert embeds["pooled_prompt_embeds"].shape == (2, POOLED)
    expected = pipeline(PROMPTS, generator=seeded(1, 2), **CALL).frames
    assert np.array_equal(pipeline(**embeds, generator=seeded(1, 2), **CALL).frames, expected)
    with pytest.raises(ValueError, match="prompt_2 and prompt_embeds are the same"):
        pipeline(**embeds, prompt_2=PROMPTS, **CALL)
    with pytest.raises(ValueError, match=r"pooled_prompt_embeds has the shape \(1, .*expected \(2, width\)"):
        pipeline(**{**embeds, "pooled_prompt_embeds": embeds["pooled_prompt_embeds"][:1]}, **CALL)
    del embeds["pooled_prompt_embeds"]
    with pytest.raises(ValueError, match="prompt_embeds and pooled_prompt_embeds together"):
        pipeline(**embeds, **CALL)


def test_frames_of_a_clip_see_one_another_and_no_other_clip(pipeline):
    latents = torch.randn(2, 4, 4, 8, 8, generator=seeded(1)[0])
    other = latents.clone()
    other[0, 3] += 1
    call = {**CALL, "output_type": "latent"}
    first = pipeline(PROMPTS, latents=latents, **call).frames
    second = pipeline(PROMPTS, latents=other, **call).frames
    assert not torch.allclose(first[0, 2], second[0, 2], atol=1e-3)
    torch.testing.assert_close(first[1], second[1])
    alone = pipeline(PROMPTS[1], latents=latents[1:], **call).frames
    torch.testing.assert_close(first[1:], alone, atol=1e-4, rtol=0)


def test_a_callback_sees_the_added_conditions(pipeline):
    seen = {}

    def callback(pipe, step, timestep, tensors):
        seen.update({name: tuple(tensor.shape) for name, tensor in tensors.items()})

    names = ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"]
    pipeline(PROMPTS, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names, **CALL)
    assert seen == {
        "latents": (8, 4, 8, 8), "prompt_embeds": (16, 12, 40),
        "add_text_embeds": (16, POOLED), "add_time_ids": (16, 6),
    }  # fmt: skip


def test_saved_it_is_the_stock_model(pipeline, stock, tmp_path):
    pipeline.save_pretrained(tmp_path / "copy")
    index = json.loads((tmp_path / "copy/model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    again = quiet(StableDiffusionXLPipeline.from_pretrained(tmp_path / "copy", add_watermarker=False))
    images = [each(PROMPTS[0], generator=seeded(1), **CALL).images for each in (stock, again)]
    assert np.array_equal(*images)
    assert LatentShiftPipeline.from_pretrained(tmp_path / "copy").video_config == pipeline.video_config


def test_an_autoencoder_in_half_precision_decodes_in_float32_as_in_stock(folder):
    """And an autoencoder with latents of its own mean and spread is heeded."""
    ours, plain = (
        quiet(kind.from_pretrained(folder, torch_dtype=torch.float32))
        for kind in (LatentShiftPipeline, StableDiffusionXLPipeline)
    )
    for each in (ours, plain):
        each.watermark = None
        each.vae.to(torch.float16)
        each.vae.register_to_config(latents_mean=[0.1, 0, 0, 0.2], latents_std=[1.0, 2.0, 1.0, 0.5])
    expected = plain(PROMPTS[0], generator=seeded(1), **CALL).images
    frames = ours(PROMPTS[0], num_frames=1, generator=seeded(1), **CALL).frames
    assert np.array_equal(frames[:, 0], expected)
    assert ours.vae.dtype == torch.float16


def test_the_program_takes_such_a_folder(folder, tmp_path, capsys):
    given = ["a red circle", "--model", str(folder), "--seed", "1", "-o", str(tmp_path / "a.webp")]
    assert errors.run(app, ["generate", *given]) == 0
    assert media.read_clip(tmp_path / "a.webp")[0].shape == (4, 32, 32, 3)
    assert shift_options(checkpoints.load(folder, device="cpu").unet) is not None


@pytest.mark.parametrize("part", ["text_encoder_2", "tokenizer_2", "unet"])
def test_a_missing_part_is_named(folder, tmp_path, part):
    import shutil

    broken = shutil.copytree(folder, tmp_path / "broken")
    shutil.rmtree(broken / part)
    with pytest.raises(ValueError, match=f"the model's {part} is missing"):
        checkpoints.resolve(str(broken))


def test_other_models_read_no_pooled_text(tmp_path):
    from tiny import tiny_pipeline_folder

    plain = LatentShiftPipeline.from_pretrained(tiny_pipeline_folder(tmp_path / "sd"))
    assert type(plain) is LatentShiftPipeline
    with pytest.raises(ValueError, match="pooled_prompt_embeds are for models of SDXL's layout"):
        plain(PROMPTS[0], pooled_prompt_embeds=torch.zeros(1, POOLED))


def test_attached_lora_layers_are_not_saved_by_mistake(pipeline, tmp_path):
    from peft import LoraConfig

    styled = copy.deepcopy(pipeline)
    styled.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(ValueError, match="LoRA layers are attached to this pipeline: merge them"):
        styled.save_pretrained(tmp_path / "styled")
    assert not (tmp_path / "styled").exists()


def test_lora_layers_of_text_encoders_are_saved_as_in_stock(folder, tmp_path):
    """They lie beside no weights: the text encoder itself is loaded from where it came."""
    from peft import LoraConfig

    styled = LatentShiftXLPipeline.from_pretrained(folder)
    for number, encoder in enumerate((styled.text_encoder, styled.text_encoder_2)):
        torch.manual_seed(number)
        encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    call = {"num_inference_steps": 2, "num_frames": 2, "output_type": "np"}
    expected = styled(PROMPTS[0], generator=seeded(0), **call).frames
    styled.save_pretrained(tmp_path / "styled")
    again = LatentShiftXLPipeline.from_pretrained(tmp_path / "styled")
    assert np.array_equal(
        again(PROMPTS[0], generator=torch.Generator().manual_seed(0), **call).frames, expected
    )
