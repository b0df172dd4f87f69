"""The pipeline on a tiny real model: clips, images as the stock pipeline makes them, and every refusal."""

import copy
import json
import warnings

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionPipeline,
)
from diffusers.utils import logging as diffusers_logging
from PIL import Image

from latent_shift import LatentShiftPipeline
from latent_shift.limits import MAX_FRAMES
from latent_shift.noise import draw_noise
from latent_shift.pipeline import NonFiniteError
from latent_shift.shift import ShiftOptions
from latent_shift.unet import disable_temporal_shift, enable_temporal_shift, shift_options
from latent_shift.video_config import VideoConfig, read_video_config
from tiny import tiny_components, tiny_pipeline_folder, tiny_unet

PROMPT = "a red circle moves left"
PROMPTS = [PROMPT, "a green square grows"]
FAST = {"num_inference_steps": 3, "guidance_scale": 3.0}  # what the tiny folder says of itself


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def loaded(folder):
    return LatentShiftPipeline.from_pretrained(folder)


@pytest.fixture
def pipeline(loaded):
    """The folder's pipeline, to break as one likes."""
    return quiet(copy.deepcopy(loaded))


@pytest.fixture
def stock(folder):
    return quiet(StableDiffusionPipeline.from_pretrained(folder))


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(seeds) > 1 else generators[0]


# What comes out


def test_output_types(pipeline):
    clips = {
        kind: pipeline(PROMPTS, generator=seeded(1, 2), output_type=kind).frames
        for kind in ("pil", "np", "pt", "latent")
    }
    assert clips["np"].shape == (2, 4, 32, 32, 3)
    assert clips["np"].min() >= 0
    assert clips["np"].max() <= 1
    assert clips["latent"].shape == (2, 4, 4, 8, 8)
    assert np.array_equal(clips["pt"].permute(0, 1, 3, 4, 2).numpy(), clips["np"])
    for video, frames in enumerate(clips["pil"]):
        assert all(isinstance(frame, Image.Image) for frame in frames)
        assert np.array_equal(np.stack(frames), (clips["np"][video] * 255).round().astype(np.uint8))


def test_the_folder_says_what_the_caller_leaves_out(pipeline):
    own = pipeline(PROMPT, generator=seeded(1), output_type="np").frames
    said = pipeline(
        PROMPT, num_frames=4, height=32, width=32, **FAST, generator=seeded(1), output_type="np"
    ).frames
    assert np.array_equal(own, said)
    assert pipeline(PROMPT, num_frames=6, height=40, width=24, output_type="np").frames.shape == (
        1,
        6,
        40,
        24,
        3,
    )


def test_the_shift_is_active(pipeline):
    """Another last frame changes its neighbours; the frames of one clip do see one another."""
    latents = torch.randn(1, 4, 4, 8, 8, generator=seeded(1))
    other = latents.clone()
    other[:, 3] = torch.randn(1, 4, 8, 8, generator=seeded(2))
    first = pipeline(PROMPT, latents=latents, output_type="latent").frames
    second = pipeline(PROMPT, latents=other, output_type="latent").frames
    assert not torch.allclose(first[:, 2], second[:, 2], atol=1e-3)
    disable_temporal_shift(pipeline.unet)
    with pytest.warns(UserWarning, match="every frame will differ.*enable_temporal_shift"):
        first = pipeline(PROMPT, latents=latents, output_type="latent").frames
    second = pipeline(PROMPT, latents=other, output_type="latent").frames
    assert torch.equal(first[:, :3], second[:, :3])


def test_return_tuple(pipeline):
    (frames,) = pipeline(PROMPT, return_dict=False)
    assert len(frames) == 1
    assert len(frames[0]) == 4


# One frame is text-to-image


@pytest.mark.parametrize("output", ["np", "latent"])
@pytest.mark.parametrize("seeds", [(5,), (5, 6)])
def test_one_frame_equals_stock(pipeline, stock, seeds, output):
    call = {"negative_prompt": ["black", "a circle"], "output_type": output, **FAST}
    expected = stock(PROMPTS, generator=seeded(*seeds), **call).images
    frames = pipeline(PROMPTS, num_frames=1, generator=seeded(*seeds), **call).frames
    assert frames.shape == (2, 1, *expected.shape[1:])
    assert np.array_equal(frames[:, 0], expected)


@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 9.0, "guidance_rescale": 0.7},
        {"height": 24, "width": 40},
    ],
    ids=str,
)
def test_one_frame_equals_stock_under_options(pipeline, stock, call):
    call = {**FAST, **call, "output_type": "np"}
    expected = stock(PROMPT, generator=seeded(3), **call).images
    assert np.array_equal(pipeline(PROMPT, num_frames=1, generator=seeded(3), **call).frames[:, 0], expected)


def test_one_frame_equals_stock_with_noise_in_every_step(pipeline, stock):
    for each in (pipeline, stock):  # (under zero terminal SNR this sampler divides by zero)
        each.scheduler = DDIMScheduler.from_config(each.scheduler.config, rescale_betas_zero_snr=False)
    expected = stock(PROMPT, eta=1.0, generator=seeded(3), output_type="np", **FAST).images
    frames = pipeline(PROMPT, num_frames=1, eta=1.0, generator=seeded(3), output_type="np").frames
    assert np.array_equal(frames[:, 0], expected)


def test_one_frame_equals_stock_with_many_images_a_prompt(pipeline, stock):
    expected = stock(
        PROMPTS, num_images_per_prompt=2, generator=seeded(1, 2, 3, 4), output_type="np", **FAST
    ).images
    frames = pipeline(
        PROMPTS, num_frames=1, num_videos_per_prompt=2, generator=seeded(1, 2, 3, 4), output_type="np"
    )
    assert np.array_equal(frames.frames[:, 0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_frame_equals_stock_from_a_half_precision_folder(tmp_path, dtype):
    half = tiny_pipeline_folder(tmp_path / "half", half=True)
    ours = quiet(LatentShiftPipeline.from_pretrained(half, torch_dtype=dtype))
    stock = quiet(StableDiffusionPipeline.from_pretrained(half, torch_dtype=dtype))
    expected = stock(PROMPT, generator=seeded(1), output_type="np", **FAST).images
    assert np.array_equal(
        ours(PROMPT, num_frames=1, generator=seeded(1), output_type="np").frames[:, 0], expected
    )


def test_one_frame_equals_stock_where_a_half_precision_autoencoder_is_not_upcast(pipeline, stock):
    """`force_upcast`, on in every autoencoder's defaults, is for SDXL's layout only, in stock as here."""
    for each in (pipeline, stock):
        assert each.vae.config.force_upcast
        each.vae.to(torch.float16)
    latents = stock(PROMPT, generator=seeded(1), output_type="latent", **FAST).images
    with torch.no_grad():
        decoded = stock.vae.decode(latents.half() / stock.vae.config.scaling_factor, return_dict=False)[0]
    expected = stock.image_processor.postprocess(decoded, output_type="np")
    frames = pipeline(PROMPT, num_frames=1, generator=seeded(1), output_type="np").frames
    assert np.array_equal(frames[:, 0], expected)


def test_one_frame_equals_stock_where_the_unet_pools_the_text_itself(tmp_path):
    """The kind of the default model: it shifts, equals the stock image, and is saved and loaded as it is."""
    components = tiny_components()
    components["unet"] = tiny_unet(
        addition_embed_type="text", addition_embed_type_num_heads=4, resnet_time_scale_shift="scale_shift"
    )
    stock = quiet(StableDiffusionPipeline(**components))
    ours = quiet(LatentShiftPipeline.from_pipe(StableDiffusionPipeline(**copy.deepcopy(components))))
    call = {**FAST, "output_type": "np", "height": 32, "width": 32}
    expected = stock(PROMPT, generator=seeded(1), **call).images
    frames = ours(PROMPT, num_frames=1, generator=seeded(1), **call).frames
    assert np.array_equal(frames[:, 0], expected)
    ours.video_config = VideoConfig(video_tuned=True, num_frames=4)
    latents = torch.randn(1, 4, 4, 8, 8, generator=seeded(1))
    clip, still = (
        ours(PROMPT, latents=torch.cat([latents[:, :3], last[:, None]], 1), **call).frames
        for last in (latents[:, 3], latents[:, 0])
    )
    assert not np.allclose(clip[:, 2], still[:, 2], atol=1e-3)
    ours.save_pretrained(tmp_path / "copy")
    again = quiet(LatentShiftPipeline.from_pretrained(tmp_path / "copy"))
    assert np.array_equal(again(PROMPT, latents=latents, **call).frames, clip)


# Seeds


@pytest.mark.parametrize("correlation", [0.0, 0.4])
def test_a_video_depends_on_its_own_seed_alone(tmp_path, correlation):
    pipeline = quiet(
        LatentShiftPipeline.from_pretrained(
            tiny_pipeline_folder(tmp_path / "m", shared_noise_ratio=correlation)
        )
    )
    together = pipeline([PROMPT] * 3, generator=seeded(1, 2, 3), output_type="latent").frames
    alone = pipeline(PROMPT, generator=seeded(2), output_type="latent").frames
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    many = pipeline(PROMPT, num_videos_per_prompt=3, generator=seeded(1, 2, 3), output_type="latent").frames
    torch.testing.assert_close(many, together, rtol=0, atol=1e-4)


def test_frame_positions_are_embedded_where_the_model_was_tuned_with_them(tmp_path):
    """One frame has none."""
    folder = tiny_pipeline_folder(tmp_path / "m", frame_position_embedding=True)
    tuned = quiet(LatentShiftPipeline.from_pretrained(folder))
    plain = quiet(LatentShiftPipeline.from_pretrained(tiny_pipeline_folder(tmp_path / "n")))
    once = {"generator": seeded(1), "output_type": "latent", "guidance_scale": 1.0}
    assert not torch.allclose(tuned(PROMPT, **once).frames, plain(PROMPT, **once).frames, atol=1e-3)
    image = {"num_frames": 1, "output_type": "latent"}
    alone = tuned(PROMPT, generator=seeded(1), **image).frames
    assert torch.equal(alone, plain(PROMPT, generator=seeded(1), **image).frames)


def test_a_noisy_sampler_keeps_the_seeds(pipeline):
    """Euler ancestral adds noise in every step: that too comes from the clip's own generator."""
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(
        pipeline.scheduler.config, rescale_betas_zero_snr=False
    )
    together = pipeline([PROMPT] * 2, generator=seeded(1, 2), output_type="latent").frames
    alone = pipeline([PROMPT] * 2, generator=seeded(3, 2), output_type="latent").frames
    torch.testing.assert_close(together[1], alone[1], rtol=0, atol=1e-3)


def test_noise_in_every_step_is_as_alike_between_frames_as_the_initial_noise(tmp_path):
    """Frames that share all noise, and see no other frame, stay the same picture; each seed has its own."""
    folder = tiny_pipeline_folder(tmp_path / "m", shared_noise_ratio=1.0, shift=None, eta=0.8)
    pipeline = quiet(LatentShiftPipeline.from_pretrained(folder))
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, rescale_betas_zero_snr=False)
    clips = pipeline([PROMPT] * 2, generator=seeded(1, 2), output_type="latent").frames
    torch.testing.assert_close(clips, clips[:, :1].expand_as(clips), rtol=0, atol=1e-4)
    alone = pipeline([PROMPT] * 2, generator=seeded(3, 2), output_type="latent").frames
    torch.testing.assert_close(alone[1], clips[1], rtol=0, atol=1e-4)
    still = pipeline([PROMPT] * 2, generator=seeded(1, 2), output_type="latent", eta=0.0).frames
    assert not torch.allclose(still, clips, atol=1e-2)


@pytest.mark.parametrize("steps", range(2, 40))
def test_all_noise_anew_in_every_step_stays_finite_from_a_zero_snr(pipeline, steps):
    """At some numbers of steps diffusers' DDIM would take the root of a rounding error below zero."""
    betas = torch.linspace(1e-4, 0.05, 1000).tolist()
    pipeline.scheduler = DDIMScheduler(
        trained_betas=betas, prediction_type="v_prediction", rescale_betas_zero_snr=True,
        timestep_spacing="trailing", clip_sample=False,
    )  # fmt: skip
    clip = pipeline(
        PROMPT, generator=seeded(1), output_type="latent", eta=1.0, num_inference_steps=steps,
        callback_on_step_end=lambda pipe, step, *_: setattr(pipe, "_interrupt", step == 0) or {},
    ).frames  # fmt: skip
    assert clip.isfinite().all()


def test_a_model_s_noise_in_every_step_is_not_for_images(tmp_path):
    plain = quiet(LatentShiftPipeline.from_pretrained(tiny_pipeline_folder(tmp_path / "n")))
    noisy = quiet(LatentShiftPipeline.from_pretrained(tiny_pipeline_folder(tmp_path / "m", eta=0.8)))
    image = {"num_frames": 1, "output_type": "latent"}
    assert torch.equal(
        noisy(PROMPT, generator=seeded(1), **image).frames, plain(PROMPT, generator=seeded(1), **image).frames
    )


def test_given_latents(pipeline):
    latents = torch.randn(2, 4, 4, 8, 8, generator=seeded(1))
    clips = pipeline(PROMPTS, latents=latents, output_type="latent").frames
    assert torch.equal(pipeline(PROMPTS, latents=latents.flatten(0, 1), output_type="latent").frames, clips)
    drawn = draw_noise((2, 4, 4, 8, 8), seeded(8, 9)).unflatten(0, (2, 4))
    expected = pipeline(PROMPTS, generator=seeded(8, 9), output_type="latent").frames
    assert torch.equal(pipeline(PROMPTS, latents=drawn, output_type="latent").frames, expected)


def test_encoded_prompts(pipeline):
    text, negative = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    expected = pipeline(PROMPTS, generator=seeded(1, 2), output_type="latent").frames
    encoded = {"prompt_embeds": text, "negative_prompt_embeds": negative}
    assert torch.equal(pipeline(**encoded, generator=seeded(1, 2), output_type="latent").frames, expected)


# Decoding, schedulers, callbacks


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_decoding_in_chunks(pipeline, chunk):
    expected = pipeline(PROMPTS, generator=seeded(1, 2), output_type="np").frames
    frames = pipeline(PROMPTS, generator=seeded(1, 2), output_type="np", decode_chunk_size=chunk).frames
    np.testing.assert_allclose(frames, expected, atol=1e-5)


def test_slicing_and_another_scheduler(pipeline):
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    expected = pipeline(PROMPT, generator=seeded(1), output_type="np").frames
    pipeline.enable_attention_slicing()
    pipeline.vae.enable_slicing()
    np.testing.assert_allclose(
        pipeline(PROMPT, generator=seeded(1), output_type="np").frames, expected, atol=1e-4
    )


def test_callback_sees_and_changes_the_tensors(pipeline):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), {name: tuple(tensor.shape) for name, tensor in tensors.items()}))
        return {"latents": torch.zeros_like(tensors["latents"])}

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    clips = pipeline(
        PROMPTS, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names, output_type="latent"
    ).frames
    assert not clips.any()
    assert [step for step, *_ in seen] == [0, 1, 2]
    assert [timestep for _, timestep, _ in seen] == pipeline.scheduler.timesteps.tolist()
    shapes = {"latents": (8, 4, 8, 8), "prompt_embeds": (16, 12, 16), "negative_prompt_embeds": (8, 12, 16)}
    assert seen[0][2] == shapes


def test_interruption(pipeline):
    steps = []

    def callback(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = step == 1

    assert len(pipeline(PROMPT, callback_on_step_end=callback).frames[0]) == 4
    assert steps == [0, 1]
    assert len(pipeline(PROMPT).frames[0]) == 4  # and the next call runs to its end
    assert pipeline.interrupt is False


# Loading and saving


def test_the_libraries_show_nothing_while_a_model_is_loaded_and_saved(folder, tmp_path, capfd):
    diffusers_logging.enable_progress_bar()
    LatentShiftPipeline.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert capfd.readouterr() == ("", "")
    assert diffusers_logging.is_progress_bar_enabled()


def test_saved_and_loaded_again(pipeline, tmp_path):
    expected = pipeline(PROMPT, generator=seeded(1), output_type="np").frames
    pipeline.save_pretrained(tmp_path / "copy")
    index = json.loads((tmp_path / "copy" / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert str(tmp_path.parent) not in (tmp_path / "copy" / "model_index.json").read_text()
    assert read_video_config(tmp_path / "copy" / "latent_shift.json") == pipeline.video_config
    again = quiet(LatentShiftPipeline.from_pretrained(tmp_path / "copy"))
    assert np.array_equal(again(PROMPT, generator=seeded(1), output_type="np").frames, expected)
    assert [
        path.suffix for path in (tmp_path / "copy").rglob("*.*") if path.suffix in (".bin", ".pt", ".pkl")
    ] == []


def test_stock_opens_what_we_save_in_half_precision(pipeline, tmp_path):
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half")
    stock = quiet(StableDiffusionPipeline.from_pretrained(tmp_path / "half"))
    ours = quiet(LatentShiftPipeline.from_pretrained(tmp_path / "half"))
    expected = stock(PROMPT, generator=seeded(1), output_type="np", **FAST).images
    assert np.array_equal(
        ours(PROMPT, num_frames=1, generator=seeded(1), output_type="np").frames[:, 0], expected
    )
    assert type(stock.unet).__name__ == "UNet2DConditionModel"


def test_no_dtype_is_float32_whatever_the_file(tmp_path):
    pipeline = LatentShiftPipeline.from_pretrained(tiny_pipeline_folder(tmp_path / "half", half=True))
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert part.dtype == torch.float32


def test_the_folder_decides_the_shift(tmp_path):
    options = {"place": "input", "padding": "circular", "direction": "causal", "fold": 8, "strides": (3, 1)}
    pipeline = LatentShiftPipeline.from_pretrained(tiny_pipeline_folder(tmp_path / "a", shift=options))
    assert {name: getattr(shift_options(pipeline.unet), name) for name in options} == options
    off = quiet(LatentShiftPipeline.from_pretrained(tiny_pipeline_folder(tmp_path / "b", shift=None)))
    assert shift_options(off.unet) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        off(PROMPT)  # what the folder asks for is no accident to warn of


def test_settings_follow_the_unet(pipeline, tmp_path):
    enable_temporal_shift(pipeline.unet, 4, padding="replicate")
    assert pipeline.video_config.shift.padding == "replicate"
    pipeline.save_pretrained(tmp_path)
    assert read_video_config(tmp_path / "latent_shift.json").shift.padding == "replicate"
    pipeline.video_config = VideoConfig(shift=ShiftOptions(padding="circular"))
    assert shift_options(pipeline.unet).padding == "circular"


def test_an_image_model_warns_once_that_frames_differ(tmp_path):
    pipeline = LatentShiftPipeline.from_pretrained(tiny_pipeline_folder(tmp_path / "m", latent_shift=False))
    call = {"num_inference_steps": 1, "height": 32, "width": 32}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        quiet(pipeline)(PROMPT, num_frames=1, **call)
    with pytest.warns(UserWarning, match="every frame will differ.*never video-tuned"):
        assert len(pipeline(PROMPT, num_frames=3, **call).frames[0]) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipeline(PROMPT, num_frames=3, **call)


def test_from_parts_and_from_another_pipeline(stock):
    components = tiny_components()
    enable_temporal_shift(components["unet"], 4, padding="circular")
    assert LatentShiftPipeline(**components).video_config.shift.padding == "circular"
    ours = LatentShiftPipeline.from_pipe(stock)
    assert shift_options(ours.unet) is not None
    assert np.array_equal(  # the U-Net is shared, and to the stock pipeline it still is the image model
        quiet(ours)(PROMPT, num_frames=1, generator=seeded(1), output_type="np", **FAST).frames[:, 0],
        stock(PROMPT, generator=seeded(1), output_type="np", **FAST).images,
    )


def test_a_call_leaves_the_frames_as_it_found_them(pipeline):
    enable_temporal_shift(pipeline.unet, 6)
    pipeline(PROMPT)
    blocks = [module for module in pipeline.unet.modules() if hasattr(module, "shift_state")]
    assert {block.shift_state.num_frames for block in blocks} == {6}


@pytest.mark.slow
def test_a_compiled_unet(pipeline):
    torch.compiler.reset()
    call = {"num_inference_steps": 1, "output_type": "np"}
    expected = pipeline(PROMPT, generator=seeded(1), **call).frames
    pipeline.unet = torch.compile(pipeline.unet, fullgraph=True, backend="eager")
    assert np.array_equal(pipeline(PROMPT, generator=seeded(1), **call).frames, expected)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"colour": "red"}, "colour"),
        ({"shift": {"padding": "reflect"}}, "shift: .*padding='reflect'"),
        ({"shift": {"colour": "red"}}, r"shift\.colour"),
        ({"shift": {"strides": [20000]}}, r"shift: .*strides=\(20000,\) must be at most 16384"),
        ({"num_frames": 0}, "num_frames"),
    ],
)
def test_a_wrong_settings_file_is_named(tmp_path, entry, message):
    model = tiny_pipeline_folder(tmp_path / "m", **entry)
    with pytest.raises(ValueError, match=rf"latent_shift\.json does not fit: {message}"):
        LatentShiftPipeline.from_pretrained(model)


def test_pickles_are_refused(folder, pipeline, tmp_path):
    with pytest.raises(ValueError, match="use_safetensors"):
        LatentShiftPipeline.from_pretrained(folder, use_safetensors=False)
    with pytest.raises(ValueError, match="safe_serialization"):
        pipeline.save_pretrained(tmp_path, safe_serialization=False)


# What is refused, before any work


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"prompt": ""}, "prompt 1 is empty"),
        ({"prompt": [PROMPT, "  "]}, "prompt 2 is empty"),
        ({"prompt": []}, "at least one sentence"),
        ({"prompt": None}, "prompt or prompt_embeds"),
        ({"negative_prompt": ["a", "b", "c"]}, "3 negative prompts for 1 prompts"),
        ({"num_frames": 0}, "num_frames=0: .*greater than or equal to 1"),
        ({"num_frames": -1}, "num_frames=-1"),
        ({"num_frames": 1_000_000}, f"num_frames=1000000: .*{MAX_FRAMES}"),
        ({"height": 30}, "height=30 must be a multiple of 4 for this model: try 28 or 32"),
        ({"width": 2}, "width=2 must be a multiple of 4 for this model: try 4"),
        ({"height": -4}, "height=-4"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"guidance_rescale": 2.0}, "guidance_rescale=2.0"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt=0"),
        ({"num_videos_per_prompt": 1.5}, "num_videos_per_prompt=1.5 must be a whole number"),
        ({"frames_per_block": 2.5}, "frames_per_block=2.5 must be a whole number"),
        ({"prompt": 5}, "prompt is 5: expected a text"),
        ({"negative_prompt": [None]}, "negative prompt 1 is None: expected a text"),
        ({"prompt": None, "prompt_embeds": torch.zeros(12, 16)}, r"\(12, 16\): expected \(12, tokens, 16\)"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 12, 8)}, r"expected \(1, tokens, 16\)"),
        ({"negative_prompt_embeds": torch.zeros(2, 12, 16)}, r"negative_prompt_embeds .* \(1, tokens"),
        ({"negative_prompt_embeds": torch.zeros(1, 5, 16)}, "must have as many tokens, and one width"),
        ({"generator": seeded(1, 2, 3)}, "3 generators for 1 videos"),
        ({"output_type": "mp4"}, "output_type='mp4'.*pil, np, pt, latent"),
        ({"decode_chunk_size": 0}, "decode_chunk_size=0"),
        ({"latents": torch.zeros(3, 4, 8, 8)}, r"latents \(3, 4, 8, 8\) must be \(1, 4, 4, 8, 8\)"),
        ({"callback_on_step_end_tensor_inputs": ["image"]}, "image"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_mistakes_are_named(pipeline, call, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**{"prompt": PROMPT, **call})


@pytest.mark.parametrize(("part", "where"), [("unet", "step 1 of 3 .timestep 999."), ("vae", "decoded")])
def test_values_that_are_not_finite_stop_with_the_step_named(pipeline, part, where):
    next(getattr(pipeline, part).parameters()).data.fill_(float("nan"))
    for parameter in pipeline.vae.decoder.parameters() if part == "vae" else ():
        parameter.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=where):
        pipeline(PROMPT)
    pipeline.to(torch.bfloat16)
    with pytest.raises(NonFiniteError, match=r"bfloat16: load the model with .*float32"):
        pipeline(PROMPT)


# What the text model cannot read


def test_text_beyond_the_length_is_named(pipeline):
    with pytest.warns(UserWarning, match="reads 12 tokens: 'Right to left' is cut off"):
        pipeline("a red circle moves left to right to left to Right to left", num_frames=1)


def test_unknown_words_are_named(pipeline):
    with pytest.warns(UserWarning, match="does not know 'blue', 'Zoo', '!' of"):
        pipeline("a blue Zoo! grows", num_frames=1)
    with pytest.warns(UserWarning, match="does not know 'blurry'"):
        pipeline(PROMPT, negative_prompt="blurry", num_frames=1)


def test_known_prompts_pass_in_silence(pipeline):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipeline("A RED circle moves left to right on black", num_frames=1)
