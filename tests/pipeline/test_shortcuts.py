"""Fewer passes for a clip: guidance in an interval of noise levels, steps that are forecast."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from latent_shift import LatentShiftPipeline
from latent_shift.pipeline import decoding
from latent_shift.pipeline.shortcuts import Forecast
from tiny import tiny_components, tiny_scheduler

PROMPTS = ["a red circle moves left", "a green square grows"]


@pytest.fixture(scope="module")
def pipeline():
    made = LatentShiftPipeline(**tiny_components())
    made.video_config = made.video_config.overlaid(video_tuned=True, num_frames=4)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def batches(pipeline):
    """Images in each pass of the U-Net."""
    sizes = []
    hook = pipeline.unet.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    yield sizes
    hook.remove()


def clips(pipeline, **options):
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    options = {"num_inference_steps": 6, "guidance_scale": 3.0, "output_type": "np", **options}
    return pipeline(PROMPTS, generator=generators, **options).frames


def test_guidance_in_an_interval_doubles_those_steps_only(pipeline, batches):
    whole = clips(pipeline)
    assert batches == [16] * 6
    assert np.array_equal(clips(pipeline, guidance_interval=(0.0, 1.0)), whole)
    del batches[:]
    clips(pipeline, guidance_interval=(0.3, 0.7))  # levels of six steps: 1, 0.83, 0.67, 0.5, 0.33, 0.17
    assert batches == [8, 8, 16, 16, 16, 8]


def test_no_step_guided_is_sampling_without_guidance(pipeline):
    found = clips(pipeline, guidance_interval=(0.99, 0.995))
    assert np.allclose(found, clips(pipeline, guidance_scale=1.0), atol=1e-5)


@pytest.mark.parametrize("interval", [(0.7, 0.3), (-0.1, 1.0), (0.0, 1.5)])
def test_an_interval_that_is_none(pipeline, interval):
    with pytest.raises(ValueError, match=r"guidance_interval=.*0 <= lowest <= highest <= 1"):
        clips(pipeline, guidance_interval=interval)


def test_forecasting_with_a_threshold_of_zero_changes_nothing(pipeline, batches):
    assert np.array_equal(clips(pipeline, forecast_threshold=0.0), clips(pipeline))
    assert batches == [16] * 12


def test_a_higher_threshold_computes_fewer_steps(pipeline, batches):
    counts = []
    for threshold in (0.0, 0.3, 1e6):
        del batches[:]
        assert np.isfinite(clips(pipeline, forecast_threshold=threshold, num_inference_steps=12)).all()
        counts.append(len(batches))
    assert counts[0] == 12 > counts[1] > counts[2] == 4  # the first three, which tell an error, and the last


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_clean_clip_on_a_line_is_forecast_exactly(kind):
    scheduler = DDIMScheduler.from_config(
        tiny_scheduler().config, prediction_type=kind, rescale_betas_zero_snr=False
    )
    torch.manual_seed(0)
    start, slope, noise = torch.randn(3, 2, 4, 8, 8)
    forecast, computed = Forecast(0.5, scheduler, 8), []
    for step in range(8):
        timestep = torch.tensor(900 - 100 * step)
        alpha = scheduler.alphas_cumprod[timestep]
        signal, share = alpha.sqrt(), (1 - alpha).sqrt()
        clean = start + slope * step
        latents = signal * clean + share * noise
        right = {"epsilon": noise, "sample": clean, "v_prediction": signal * noise - share * clean}[kind]

        def predict(step=step, right=right):
            computed.append(step)
            return right

        assert torch.allclose(forecast(step, latents, timestep, predict), right, atol=1e-3)
    assert computed == [0, 1, 2, 7]
    assert forecast.computed == 4


def test_what_forecasting_is_not_for():
    with pytest.raises(ValueError, match="forecast_threshold=-1: give 0 or more"):
        Forecast(-1, tiny_scheduler(), 4)
    euler = EulerDiscreteScheduler()
    euler.set_timesteps(4)
    with pytest.raises(ValueError, match="not for EulerDiscreteScheduler; take ddim"):
        Forecast(0.1, euler, 4)


def test_large_frames_are_decoded_few_at_a_time(pipeline, monkeypatch):
    whole, sizes = clips(pipeline), []
    hook = pipeline.vae.decoder.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    monkeypatch.setattr(decoding, "DECODED_PIXELS", 3 * 32 * 32)
    found = clips(pipeline)
    clips(pipeline, decode_chunk_size=8)
    hook.remove()
    assert sizes == [3, 3, 2, 8]
    assert np.allclose(found, whole, atol=1e-5)
