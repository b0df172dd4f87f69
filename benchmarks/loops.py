"""Does a loop close? Its seam beside the steps between its other frames, and beside clips that are no loops.

    python benchmarks/loops.py                          # 32 clips of the built-in model, some minutes
    python benchmarks/loops.py --clips 4 --steps 2      # in seconds, for a test

Seam: the mean absolute difference of the last frame and the first; step: that of neighbouring frames. Printed
is the ratio of their means over all clips, with the interval of 95 % of a bootstrap over clips, and the share
of clips with the colour, shape and background of their sentence (the motion of most could not close).
"""

import argparse

import numpy as np

from latent_shift import systems
from latent_shift.moving_shapes.captions import caption, parse_caption
from latent_shift.moving_shapes.protocol import SUBSETS
from latent_shift.moving_shapes.scorer import score_clip
from latent_shift.systems.base import GenerationRequest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="moving-shapes")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=4)
    arguments = parser.parse_args()
    system = systems.load(arguments.model, device="auto")
    subset = SUBSETS["level-1-seen"]
    scenes = subset.scenes(arguments.clips)
    print(f"{'':>8} {'seam':>6} {'step':>6} {'ratio (95 %)':>18}  right: colour shape background")
    for loop in (False, True):
        clips = []
        for start in range(0, len(scenes), arguments.batch):
            requests = [
                GenerationRequest(
                    prompt=caption(scene),
                    seed=subset.clip_seed(start + place),
                    steps=arguments.steps,
                    loop=loop,
                )
                for place, scene in enumerate(scenes[start : start + arguments.batch])
            ]
            settled = [system.info().defaults.settle(request) for request in requests]
            clips.append(system.generate(settled))
        seams, steps = differences(np.concatenate(clips))
        low, high = interval(seams, steps)
        colour, shape, background = right(np.concatenate(clips), [caption(scene) for scene in scenes])
        name = "loop" if loop else "clip"
        print(
            f"{name:>8} {seams.mean():6.2f} {steps.mean():6.2f} {seams.mean() / steps.mean():6.2f}"
            f" ({low:.2f} to {high:.2f})  {colour:12.1%} {shape:6.1%} {background:9.1%}"
        )


def differences(clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each clip (F, H, W, 3): last frame against first, and the mean of neighbouring frames."""
    moved = np.abs(np.roll(clips, -1, axis=1).astype(int) - clips).mean(axis=(2, 3, 4))
    return moved[:, -1], moved[:, :-1].mean(axis=1)


def right(clips: np.ndarray, captions: list[str]) -> tuple[float, float, float]:
    """Shares of clips with the colour, the shape and the background of their captions."""
    scores = [score_clip(clip, *parse_caption(text)) for clip, text in zip(clips, captions, strict=True)]
    objects = [score.objects[0] for score in scores]
    return (
        float(np.mean([each.colour for each in objects])),
        float(np.mean([each.shape for each in objects])),
        float(np.mean([each.background for each in scores])),
    )


def interval(seams: np.ndarray, steps: np.ndarray) -> tuple[float, float]:
    """Ends of the interval of 95 % of the ratio of means, by bootstrap."""
    drawn = np.random.default_rng(0).integers(0, len(seams), (2000, len(seams)))
    low, high = np.percentile(seams[drawn].mean(axis=1) / steps[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    main()
