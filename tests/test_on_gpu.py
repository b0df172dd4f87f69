"""What the CPU's tests say, on a GPU."""

import numpy as np
import pytest
import torch

from latent_shift import enable_temporal_shift, shift
from latent_shift.checkpoints import load
from latent_shift.shift import shifted_add
from test_shift import OPTIONS, draw, reference_shift
from tiny import tiny_unet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel", ["triton", "plain"])
def test_the_shifted_addition_is_the_loops_bit_for_bit(dtype, layout, kernel, monkeypatch):
    if kernel == "triton":
        pytest.importorskip("triton")
        assert shift._load_kernel(torch.device("cuda", 0)) is not None
    else:
        monkeypatch.setattr(shift, "_load_kernel", lambda device: None)
    skip, branch = (
        draw(12, 24, 4, 4, dtype=dtype, seed=seed).cuda().to(memory_format=layout) for seed in (1, 2)
    )
    for options in OPTIONS:
        assert torch.equal(
            shifted_add(skip, branch, 4, **options), skip + reference_shift(branch, 4, **options)
        )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_its_gradients_are_the_cpus_bit_for_bit(options):
    found = []
    for device in ("cpu", "cuda"):
        skip, branch = (draw(12, 24, 4, 4, seed=seed).to(device).requires_grad_() for seed in (1, 2))
        total = shifted_add(skip, branch, 4, **options) * draw(12, 24, 4, 4, seed=3).to(device)
        found.append([gradient.cpu() for gradient in torch.autograd.grad(total.sum(), (skip, branch))])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_one_frame_is_the_untouched_unets_bit_for_bit():
    unet = tiny_unet().cuda().bfloat16()
    inputs = (
        draw(2, 4, 8, 8, dtype=torch.bfloat16).cuda(),
        torch.tensor(5, device="cuda"),
        draw(2, 12, 16, dtype=torch.bfloat16).cuda(),
    )
    with torch.no_grad():
        before = unet(*inputs).sample
        enable_temporal_shift(unet, 1)
        assert torch.equal(unet(*inputs).sample, before)


def test_the_default_models_clip_is_the_cpus():
    """Its noise is drawn on the CPU; what differs is the rounding of twenty steps."""
    clips = []
    for device in ("cpu", "cuda"):
        pipeline = load("moving-shapes", device=device, dtype="fp32")
        pipeline.set_progress_bar_config(disable=True)
        seed = torch.Generator().manual_seed(3)
        clips.append(pipeline("a large red star moving left on a navy background", generator=seed).frames[0])
    first, second = (np.stack([np.asarray(frame, dtype=float) for frame in clip]) for clip in clips)
    assert np.abs(first - second).mean() < 2.0  # of 255
