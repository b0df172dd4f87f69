"""What becomes of long clips: drift of colour and sharpness by frame, and how windows of them score.

    latent-shift generate "a large red star moving left on a navy background" --frames 4096 -o long.mp4
    python benchmarks/long_clips.py drift long.mp4 --plot drift.svg
    python benchmarks/long_clips.py windows                     # clips of 64 frames by a model of 16

Drift: the slope of mean red, green and blue and of sharpness (mean absolute Laplacian) over the clip, in
levels of 255 from its first frame to its last, with the interval of 95 % of a bootstrap over blocks of 64
frames, as neighbouring frames are alike. Windows: clips of 64 frames are scored as a whole, by every fourth
frame, and in windows of sixteen frames that follow each other.
"""

import argparse
from pathlib import Path

import numpy as np

from latent_shift import systems
from latent_shift.media import read_clip
from latent_shift.moving_shapes.captions import caption, parse_caption
from latent_shift.moving_shapes.protocol import SUBSETS
from latent_shift.moving_shapes.scorer import score_clip
from latent_shift.systems.base import GenerationRequest

BLOCK = 64  # frames that a bootstrap keeps together
WINDOW = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    drift = commands.add_parser("drift")
    drift.add_argument("clip", type=Path)
    drift.add_argument("--plot", type=Path)
    windows = commands.add_parser("windows")
    windows.add_argument("--model", default="moving-shapes")
    windows.add_argument("--clips", type=int, default=24)
    windows.add_argument("--frames", type=int, default=64)
    windows.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    if arguments.command == "drift":
        print_drift(arguments.clip, arguments.plot)
    else:
        print_windows(arguments.model, arguments.clips, arguments.frames, arguments.steps)


def print_drift(file: Path, plot: Path | None) -> None:
    frames, _ = read_clip(file)
    series = by_frame(frames)
    print(f"{len(frames)} frames: from first to last, in levels of 255")
    for name, values in series.items():
        change, low, high = slope(values)
        print(f"{name:>10} {values.mean():8.2f} {change:+8.2f} ({low:+.2f} to {high:+.2f})")
    if plot is not None:
        draw(series, plot)


def by_frame(frames: np.ndarray) -> dict[str, np.ndarray]:
    """Mean of each colour and sharpness of each frame of (F, H, W, 3), in levels of 255."""
    means = frames.mean(axis=(1, 2))
    gray = frames.astype(np.float32).mean(axis=3)
    around = gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:] + gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1]
    sharpness = np.abs(around - 4 * gray[:, 1:-1, 1:-1]).mean(axis=(1, 2))
    return {"red": means[:, 0], "green": means[:, 1], "blue": means[:, 2], "sharpness": sharpness}


def slope(values: np.ndarray, resamples: int = 2000) -> tuple[float, float, float]:
    """Change of a fitted line from the first to the last frame, and the ends of its interval of 95 %."""
    blocks = np.array_split(np.arange(len(values)), max(2, len(values) // BLOCK))
    place = np.array([block.mean() for block in blocks]) / len(values)
    level = np.array([values[block].mean() for block in blocks])
    chance = np.random.default_rng(0)
    drawn = [chance.integers(0, len(blocks), len(blocks)) for _ in range(resamples)]
    slopes = [np.polyfit(place[one], level[one], 1)[0] for one in drawn if len(set(one)) > 1]
    low, high = np.percentile(slopes, [2.5, 97.5])
    return float(np.polyfit(place, level, 1)[0]), float(low), float(high)


def draw(series: dict[str, np.ndarray], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3))
    colours = {"red": "tab:red", "green": "tab:green", "blue": "tab:blue", "sharpness": "black"}
    for name, values in series.items():
        means = [block.mean() for block in np.array_split(values, max(2, len(values) // BLOCK))]
        axes.plot(np.linspace(0, len(values), len(means)), means, color=colours[name], label=name)
    axes.set_xlabel("frame")
    axes.set_ylabel(f"levels of 255, means of {BLOCK} frames")
    axes.legend(ncols=4, frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def print_windows(model: str, count: int, frames: int, steps: int | None) -> None:
    system, subset = systems.load(model, device="auto"), SUBSETS["level-1-seen"]
    defaults, captions = system.info().defaults, [caption(scene) for scene in subset.scenes(count)]
    print(f"{'right, % of ' + str(count):>30} colour  shape motion background")
    for length in (WINDOW, frames):
        clips = [
            system.generate([defaults.settle(GenerationRequest(
                prompt=text, seed=subset.clip_seed(index), frames=length, steps=steps))])[0]
            for index, text in enumerate(captions)
        ]  # fmt: skip
        print_scores(
            f"{length} frames, {WINDOW} of them", [clip[:: length // WINDOW] for clip in clips], captions
        )
        if length > WINDOW:
            for first in range(0, length - WINDOW + 1, WINDOW):
                window = [clip[first : first + WINDOW] for clip in clips]
                print_scores(f"frames {first} to {first + WINDOW - 1}", window, captions)


def print_scores(name: str, clips: list[np.ndarray], captions: list[str]) -> None:
    scores = [score_clip(clip, *parse_caption(text)) for clip, text in zip(clips, captions, strict=True)]
    objects = [score.objects[0] for score in scores]
    shares = [np.mean([getattr(one, part) for one in objects]) for part in ("colour", "shape", "motion")]
    shares.append(np.mean([score.background for score in scores]))
    print(f"{name:>30} " + " ".join(f"{share:6.1%}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
