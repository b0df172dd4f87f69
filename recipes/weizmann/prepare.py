"""The Weizmann actions as clips with captions, out of film strips: PNG files of 64x64 frames side by side.

    python recipes/weizmann/prepare.py STRIPS [-o runs/weizmann/clips] [--aside 2]

STRIPS holds person0_bend.png and so on. Writes `train/` and, with the last `--aside` people, `aside/`: each
clip as mp4 at 25 frames a second, and a .txt beside it: the sentences of `wordings.yaml` for its action.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from latent_shift.media import write_clip

SIDE, FPS = 64, 25
ACTIONS = ("bend", "jack", "wave1", "wave2")  # in the order of wordings.yaml


def frames_of(strip: Path) -> np.ndarray:
    """uint8 (F, 64, 64, 3). Raises ValueError for a picture that is no strip of such frames."""
    pixels = np.asarray(Image.open(strip).convert("RGB"))
    height, width = pixels.shape[:2]
    if height != SIDE or width % SIDE:
        raise ValueError(f"{strip}: is {width}x{height} pixels, no row of {SIDE}x{SIDE} frames")
    return np.ascontiguousarray(pixels.reshape(SIDE, width // SIDE, SIDE, 3).swapaxes(0, 1))


def main() -> None:
    """Write the clips of all strips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("strips", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/weizmann/clips"))
    parser.add_argument("--aside", type=int, default=2, help="people kept for testing")
    given = parser.parse_args()
    wordings = dict(
        zip(ACTIONS, yaml.safe_load(Path(__file__).with_name("wordings.yaml").read_text()), strict=True)
    )
    strips = sorted(given.strips.glob("person*_*.png"))
    people = sorted({strip.stem.partition("_")[0] for strip in strips})
    if len(people) <= given.aside:
        raise SystemExit(
            f"{given.strips}: holds strips of {len(people)} people; more than {given.aside} are needed"
        )
    for strip in strips:
        person, _, action = strip.stem.partition("_")
        folder = given.output / ("aside" if person in people[len(people) - given.aside :] else "train")
        folder.mkdir(parents=True, exist_ok=True)
        write_clip(folder / f"{strip.stem}.mp4", frames_of(strip), fps=FPS, overwrite=True)
        (folder / f"{strip.stem}.txt").write_text("\n".join(wordings[action]) + "\n")
    print(given.output)


if __name__ == "__main__":
    main()
