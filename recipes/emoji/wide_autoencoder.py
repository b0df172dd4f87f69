"""First weights of the popular emoji's autoencoder: Moving Shapes' with more latent channels.

    python recipes/emoji/wide_autoencoder.py [--channels 8] [-o runs/emoji-popular/1-autoencoder]

What it has learned of edges and flat colours is kept: the old channels are as they were, the new ones begin
with small random weights, and the decoder does not see them yet. Trains nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

SOURCE = Path("src/latent_shift/assets/moving-shapes/vae")


def widened(source: AutoencoderKL, channels: int) -> AutoencoderKL:
    """A copy with `channels` latent channels, 4 or more; encodes into the first four as its source does."""
    old = source.config.latent_channels
    torch.manual_seed(0)
    settings = {name: value for name, value in source.config.items() if not name.startswith("_")}
    wide = AutoencoderKL(**{**settings, "latent_channels": channels})
    # Means come first in what an encoder gives, then as many log variances.
    moments = [*range(old), *range(channels, channels + old)]
    rows = {"encoder.conv_out": moments, "quant_conv": moments, "post_quant_conv": range(old)}
    columns = {"quant_conv": moments, "post_quant_conv": range(old), "decoder.conv_in": range(old)}
    state: dict[str, Tensor] = {}
    own = wide.state_dict()
    for name, weight in source.state_dict().items():
        layer, new = name.rpartition(".")[0], own[name]
        if new.shape == weight.shape:
            state[name] = weight
            continue
        chosen = new.clone() if layer == "encoder.conv_out" else torch.zeros_like(new)
        if layer in ("quant_conv", "post_quant_conv") and new.ndim > 1:
            chosen[range(len(new)), range(len(new))] = 1.0  # new channels pass as they are
        at = torch.tensor(list(rows.get(layer, range(len(new)))))
        if new.ndim > 1 and layer in columns:
            chosen[at[:, None], torch.tensor(list(columns[layer]))] = weight
        else:
            chosen[at] = weight
        state[name] = chosen
    wide.load_state_dict(state)
    return wide


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/emoji-popular/1-autoencoder"))
    given = parser.parse_args()
    source = AutoencoderKL.from_pretrained(SOURCE, torch_dtype=torch.float32)
    widened(source, given.channels).save_pretrained(given.output / "vae")
    print(given.output)


if __name__ == "__main__":
    main()
