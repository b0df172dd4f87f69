"""What the shift costs where it stands: the residual addition of one block, plain and shifted.

    python benchmarks/shift_cost.py [--device cuda] [--threads 1]

Prints the median time of each over many alternating runs, and the median of the ratios of neighbouring runs.
The forward pass is compared with `skip + branch`. The backward pass of a plain addition hands its gradient on
and costs nothing; that of the shift writes one tensor, and is compared with a copy. On a CPU it is processor
time, of all threads, so that other work hardly counts. It measures no model around the addition.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from latent_shift.shift import shifted_add

FRAMES = 16
CASES = [
    ((32, 128, 16, 16), torch.float32),
    ((128, 320, 32, 32), torch.float32),
    ((128, 320, 32, 32), torch.bfloat16),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"torch {torch.__version__}, {arguments.device}, {arguments.threads} threads, {FRAMES} frames a clip"
    )
    print("(B*F, C, H, W), type, layout, pass: plain ms, shifted ms, ratio")
    for shape, dtype in CASES:
        for layout in (torch.contiguous_format, torch.channels_last):
            for name, plain, shifted in passes(shape, dtype, layout, arguments.device):
                first, second, ratio = compare(plain, shifted, arguments.runs, arguments.device)
                case = f"{shape}, {short(dtype)}, {short(layout)}, {name}"
                print(f"{case:>58}: {first:8.3f} {second:8.3f} {ratio:6.2f}")


def short(value: torch.dtype | torch.memory_format) -> str:
    return str(value).removeprefix("torch.")


def passes(shape, dtype, layout, device) -> list[tuple[str, Callable, Callable]]:
    """The yardstick and the shifted call, forward and backward."""
    skip, branch, gradient = (
        torch.randn(shape, device=device, dtype=dtype).to(memory_format=layout) for _ in range(3)
    )
    inputs = skip.clone(), branch.clone().requires_grad_()
    total = shifted_add(*inputs, FRAMES)

    def backward() -> object:
        return torch.autograd.grad(total, inputs[1], gradient, retain_graph=True)

    return [
        ("forward", lambda: skip + branch, lambda: shifted_add(skip, branch, FRAMES)),
        ("backward", lambda: gradient.clone(), backward),
    ]


def compare(plain: Callable, shifted: Callable, runs: int, device: str) -> tuple[float, float, float]:
    """Median milliseconds of both, run in turn, and the median ratio."""
    times = [(clock(plain, device), clock(shifted, device)) for _ in range(runs)][runs // 6 :]
    first, second = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
    return first, second, statistics.median(after / before for before, after in times)


def clock(call: Callable, device: str) -> float:
    """Seconds of one call: processor time on a CPU, elapsed time on a GPU."""
    if device == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
