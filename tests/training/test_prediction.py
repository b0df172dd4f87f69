"""Predictions of noise, velocity and clean samples, against diffusers' own steps."""

import pytest
import torch
from diffusers import DDIMScheduler

from latent_shift.training.model_setup import noise_scheduler
from latent_shift.training.prediction import PREDICTIONS, min_snr_weights, prediction_target


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_perfect_prediction_gives_the_clean_sample_back(kind):
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False)
    scheduler.set_timesteps(10)
    clean, noise = torch.randn(2, 3, 4, 4).unbind()
    for timestep in scheduler.timesteps:
        alpha = scheduler.alphas_cumprod[timestep]
        noisy = scheduler.add_noise(clean, noise, timestep)
        target = prediction_target(kind, clean, noise, alpha)
        found = scheduler.step(target, timestep, noisy).pred_original_sample
        torch.testing.assert_close(found, clean, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_weights_make_errors_of_all_predictions_those_of_the_clean_sample(kind):
    """Of the same mistake in the clean sample, the weighted error is the same, whatever is predicted."""
    alpha = torch.tensor([0.01, 0.3, 0.9, 0.999])
    clean, wrong, noise = torch.randn(4), torch.randn(4), torch.randn(4)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    target = prediction_target(kind, clean, noise, alpha)
    its_noise = (noisy - alpha.sqrt() * wrong) / (1 - alpha).sqrt()
    error = (prediction_target(kind, wrong, its_noise, alpha) - target) ** 2
    expected = (alpha / (1 - alpha)).clamp(max=5.0) * (wrong - clean) ** 2
    torch.testing.assert_close(error * min_snr_weights(kind, alpha, 5.0), expected, rtol=1e-3, atol=1e-6)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match=r"prediction_type 'flow': expected epsilon, v_prediction, sample"):
        noise_scheduler({"prediction_type": "flow"})
