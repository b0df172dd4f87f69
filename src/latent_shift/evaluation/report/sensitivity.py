"""What an extractor notices: the Fréchet distance of clips from the same clips made worse by degrees.

A distance that does not rise when frames are shuffled or frozen does not see time, whatever its name says.
Shapes: B clips, F frames, H, W pixels, uint8 (B, F, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from latent_shift.evaluation.extractors.interface import Extractor
from latent_shift.evaluation.features.degrading import DEGRADATIONS, degrade
from latent_shift.evaluation.features.moments import Moments
from latent_shift.evaluation.metrics.frechet import frechet_distance
from latent_shift.evaluation.report.plots import Line, line_plot

Clips = NDArray[np.uint8]
AMOUNTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def sensitivity(
    batches: Iterable[Clips], extractor: Extractor, amounts: Sequence[float] = AMOUNTS, seed: int = 0
) -> list[Line]:
    """A line for each of DEGRADATIONS: the distance from the clips as they are, over the amounts.

    Raises ValueError where there are fewer than two rows, or an amount is not in 0 to 1.
    """
    plain = Moments(extractor.facts.width)
    worse = {(kind, amount): Moments(extractor.facts.width) for kind in DEGRADATIONS for amount in amounts}
    for number, clips in enumerate(batches):
        plain.add(_rows(extractor, clips))
        for (kind, amount), moments in worse.items():
            changed = degrade(clips, kind, amount, seed + number)
            moments.add(_rows(extractor, changed))
    return [
        Line(kind, [(amount, frechet_distance(plain, worse[kind, amount])) for amount in amounts])
        for kind in DEGRADATIONS
    ]


def sensitivity_plot(lines: Sequence[Line], extractor: Extractor) -> str:
    """The lines as an SVG."""
    return line_plot(f"Fréchet distance on {extractor.facts.name}", "amount", "distance", lines)


def _rows(extractor: Extractor, clips: Clips) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = extractor(torch.from_numpy(clips)).features.cpu().numpy()
    return rows
