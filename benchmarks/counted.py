"""Count what a pass or a training step of each U-Net takes, on torch's meta device: nothing is run.

    python benchmarks/counted.py [--size sd-1] [--networks shift,unet3d] [--frames 8,16] [--resolution 256]

GMAC: 10^9 multiply-adds. GiB: weights and, in a training step, gradients, with all tensors that live at once,
in the precision; attention keeps no map, as fused kernels do. An allocator loses some memory besides, and
convolutions may copy: `latent-shift benchmark networks --memory` measures.
"""

import argparse

from diffusers.utils import logging

from latent_shift.benchmark.cells import DTYPES, MODES
from latent_shift.benchmark.networks import NETWORKS, count


def main() -> None:
    """Print a table a mode and resolution, a row a U-Net, columns by frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", default="sd-1")
    parser.add_argument("--networks", default="shift,latent-vdm,make-a-video,unet-motion,unet3d")
    parser.add_argument("--frames", default="8,16,32,64")
    parser.add_argument("--resolution", default="256,512")
    parser.add_argument("--modes", default="pass,step")
    parser.add_argument("--dtype", default="bf16", choices=DTYPES)
    given = parser.parse_args()
    logging.set_verbosity_error()
    frames = [int(number) for number in given.frames.split(",")]
    for mode in given.modes.split(","):
        for resolution in map(int, given.resolution.split(",")):
            print(f"\n**{given.size}, {MODES[mode]}, {resolution}x{resolution}, {given.dtype}: GMAC, GiB**\n")
            print(f"| U-Net | parameters, M | {' | '.join(f'{number} frames' for number in frames)} |")
            print("|---" * (2 + len(frames)) + "|")
            for name in given.networks.split(","):
                row = [NETWORKS[name].label]
                for number in frames:
                    counted = count(name, given.size, number, resolution, DTYPES[given.dtype], mode)
                    row[1:] = [f"{counted.parameters / 1e6:,.1f}", *row[2:]]
                    row.append(f"{counted.gmac:,.0f}, {counted.live_bytes / 2**30:.1f}")
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
