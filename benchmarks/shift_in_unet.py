"""What the shift costs a whole U-Net: one pass over sixteen frames with it, and without.

    python benchmarks/shift_in_unet.py --device cuda --dtype bf16    # Stable Diffusion 1.5's U-Net, 256x256
    python benchmarks/shift_in_unet.py --size tiny                   # the same in seconds, for a test

The weights are random: time does not depend on them. Passes with and without the shift take turns; the median
of the ratios of neighbouring passes is printed, and beside it that of two passes without the shift, which is
the noise of the measurement.
"""

import argparse
import json
import statistics
import time

import torch
from diffusers import UNet2DConditionModel

from latent_shift import disable_temporal_shift, enable_temporal_shift
from latent_shift.checkpoints.single_file import CONFIGS

FRAMES = 16
TINY = {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 32, "attention_head_dim": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--size", choices=("sd-1", "tiny"), default="sd-1")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="torch.compile, beside eager")
    arguments = parser.parse_args()
    device, dtype = arguments.device, {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    unet = new_unet(arguments.size, device, dtype)
    side = 32 if arguments.size == "sd-1" else 8
    inputs = (
        torch.randn(FRAMES, 4, side, side, device=device, dtype=dtype),
        torch.tensor(500, device=device),
        torch.randn(FRAMES, 77, unet.config.cross_attention_dim, device=device, dtype=dtype),
    )
    print(f"torch {torch.__version__}, {device}, {arguments.dtype}, {FRAMES} frames, {arguments.size}")
    print("without ms, with ms, with / without, without / without")
    for compiled in (False, True) if arguments.compile else (False,):
        before, after, ratio, noise = compare(unet, inputs, arguments.runs, compiled=compiled)
        print(
            f"{'compiled' if compiled else 'eager':>8}: {before:9.2f} {after:9.2f} {ratio:7.3f} {noise:7.3f}"
        )


def new_unet(size: str, device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    config = json.loads((CONFIGS / "sd-1" / "unet" / "config.json").read_text(encoding="utf-8"))
    with torch.device(device):
        return (
            UNet2DConditionModel.from_config({**config, **(TINY if size == "tiny" else {})}).to(dtype).eval()
        )


@torch.no_grad()
def compare(unet, inputs, runs: int, *, compiled: bool) -> tuple[float, float, float, float]:
    """Median milliseconds without and with the shift, their median ratio, and that of two without it."""
    call = torch.compile(unet, dynamic=False) if compiled else unet
    times: list[list[float]] = []
    for _ in range(runs + 3):
        disable_temporal_shift(unet)
        first, second = clock(call, inputs), clock(call, inputs)
        enable_temporal_shift(unet, FRAMES)
        times.append([first, second, clock(call, inputs)])
    times = times[3:]  # the first ones compile and choose kernels
    before, after = (statistics.median(one[place] for one in times) * 1e3 for place in (1, 2))
    ratio = statistics.median(one[2] / one[1] for one in times)
    return before, after, ratio, statistics.median(one[1] / one[0] for one in times)


def clock(call, inputs) -> float:
    """Seconds of one pass."""
    on_gpu = inputs[0].is_cuda
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    call(*inputs)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
