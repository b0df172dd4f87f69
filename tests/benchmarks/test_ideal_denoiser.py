"""The benchmark of the ideal denoiser: its posterior is the exact one."""

import pytest
import torch

from benchmark_module import benchmark_module
from latent_shift.noise import draw_noise

FRAMES, LATENTS = 16, (2, 2, 2)


@pytest.fixture(scope="module")
def benchmark():
    with benchmark_module("ideal_denoiser") as module:
        yield module


@pytest.mark.parametrize("correlations", [(0.0, 0.0), (0.3, 0.6)])
def test_the_covariance_is_that_of_the_noise(benchmark, correlations):
    noise = draw_noise((2000, FRAMES, *LATENTS), torch.Generator().manual_seed(0), *correlations)
    found = torch.cov(noise.unflatten(0, (2000, FRAMES)).transpose(0, 1).flatten(1))
    assert torch.allclose(found, benchmark.covariance(*correlations).float(), atol=0.04)


@pytest.mark.parametrize("side", [0, 4, FRAMES])
def test_the_ideal_weighs_clips_by_their_gaussian_densities(benchmark, side):
    """Against torch's own multivariate normal, each number of the latents a variable over the frames."""
    torch.manual_seed(0)
    alpha, noise = torch.tensor(0.2), benchmark.covariance(0.3, 0.6)
    others = torch.randn(5, FRAMES, *LATENTS)
    clean = others[:2] + 0.1 * torch.randn(2, FRAMES, *LATENTS)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * draw_noise(
        (2, FRAMES, *LATENTS), None, 0.3, 0.6
    ).view(2, FRAMES, *LATENTS)
    found = benchmark.ideal(noisy, alpha, others, noise, side)
    for number, middle in enumerate(benchmark.MIDDLE):
        seen = slice(max(middle - side, 0), middle + side + 1)
        density = torch.distributions.MultivariateNormal(
            torch.zeros(len(noise[seen]), dtype=torch.float64), (1 - alpha).double() * noise[seen, seen]
        )
        apart = noisy[:, None, seen].double() - alpha.sqrt() * others[None, :, seen].double()
        logs = density.log_prob(apart.flatten(3).transpose(2, 3)).sum(dim=2)  # (Q, N)
        expected = torch.einsum("qn,nchw->qchw", logs.softmax(dim=1), others[:, middle].double())
        assert torch.allclose(found[:, number].double(), expected, atol=1e-4)
