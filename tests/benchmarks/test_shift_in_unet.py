"""The benchmark that times a whole U-Net with the shift and without."""

import torch

from benchmark_module import benchmark_module
from latent_shift.unet import ShiftedResnetBlock2D


def test_it_times_passes_with_the_shift_and_without():
    with benchmark_module("shift_in_unet") as module:
        unet = module.new_unet("tiny", "cpu", torch.float32)
        seen = []

        def note(block, *_):
            seen.append(isinstance(block, ShiftedResnetBlock2D))

        unet.mid_block.resnets[0].register_forward_hook(note)
        inputs = torch.randn(module.FRAMES, 4, 8, 8), torch.tensor(5), torch.randn(module.FRAMES, 77, 32)
        before, after, ratio, noise = module.compare(unet, inputs, 2, compiled=False)
        assert seen == [False, False, True] * 5
        assert min(before, after, ratio, noise) > 0
