"""The cosine schedule, moved: what its middle stands for, and that stock schedulers read it."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0

from latent_shift.training.model_setup import (
    AttentionByLength,
    changed_scheduler,
    cosine_betas,
    noise_scheduler,
)

STOCK = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def log_snr(scheduler):
    return torch.logit(scheduler.alphas_cumprod.double())


@pytest.mark.parametrize("centre", [-5.0, -3.5, 0.0])
def test_the_schedule_is_the_cosine_about_its_centre(centre):
    found = log_snr(noise_scheduler({"log_snr_shift": centre, **STOCK}))
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    expected = centre - 2 * torch.log(torch.tan(torch.pi * t / 2))
    assert torch.allclose(found[5:990], expected[5:990], atol=0.02)
    assert found[499] == pytest.approx(centre, abs=0.01)
    assert found[-1] == -torch.inf


def test_every_stock_scheduler_reads_it_back(tmp_path):
    made = noise_scheduler({"log_snr_shift": -3.5, **STOCK})
    made.save_pretrained(tmp_path)
    assert torch.equal(DDIMScheduler.from_pretrained(tmp_path).alphas_cumprod, made.alphas_cumprod)
    other = DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    assert torch.allclose(other.alphas_cumprod[:-1], made.alphas_cumprod[:-1])


def test_betas_are_those_of_a_falling_signal():
    betas = torch.tensor(cosine_betas(-3.5))
    assert len(betas) == 1000
    assert ((betas > 0) & (betas < 1)).all()


def test_without_a_centre_the_scheduler_is_the_stock_one():
    plain = {"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.01}
    assert torch.equal(noise_scheduler(plain).alphas_cumprod, DDIMScheduler(**plain).alphas_cumprod)


def test_changes_of_a_schedule_count_on_a_base_that_has_betas_of_its_own():
    base = noise_scheduler({"log_snr_shift": -3.5, **STOCK})
    other = changed_scheduler(base, {"log_snr_shift": -1.0})
    assert torch.equal(other.alphas_cumprod, noise_scheduler({"log_snr_shift": -1.0, **STOCK}).alphas_cumprod)
    linear = changed_scheduler(base, {"beta_start": 0.001, "beta_end": 0.01, "rescale_betas_zero_snr": False})
    assert linear.betas[0] == pytest.approx(0.001)
    assert len(changed_scheduler(base, {"num_train_timesteps": 500}).alphas_cumprod) == 500
    kept = changed_scheduler(base, {"timestep_spacing": "leading"})
    assert torch.equal(kept.alphas_cumprod, base.alphas_cumprod)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta_schedule": "nope"}, "scheduler: gives no noise schedule: nope"),
        ({"beta_start": "a"}, "scheduler: gives no noise schedule"),
        ({"timestep_spacing": "nope"}, "scheduler: gives no noise schedule: nope is not supported"),
        ({"num_train_timesteps": 0}, "scheduler: gives no noise schedule"),
        (
            {"prediction_type": "epsilon", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            "scheduler: its first step begins at pure noise",
        ),
    ],
)
def test_a_schedule_that_no_model_can_be_sampled_by_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        noise_scheduler(changes)


@pytest.mark.parametrize("side", [4, 16, 20])
def test_attention_by_length_is_the_stock_attention(side):
    """Below 256 places plain, bit for bit; from there on the fused form."""
    torch.manual_seed(0)
    attention = Attention(query_dim=16, heads=4, dim_head=4, norm_num_groups=4)
    for shape in ((2, side * side, 16), (2, 16, side, side)):
        hidden = torch.randn(shape)
        outs = []
        for processor in (AttentionByLength(), AttnProcessor(), AttnProcessor2_0()):
            attention.set_processor(processor)
            outs.append(attention(hidden))
        chosen, plain, fused = outs
        assert torch.equal(chosen, plain if side < 16 else fused)
        torch.testing.assert_close(plain, fused)
