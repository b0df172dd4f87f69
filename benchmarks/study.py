"""User studies with simulated raters: whether the statistics hold what they promise, and a demonstration.

python benchmarks/study.py coverage              # how often intervals hold the truth, how often no
                                                 # difference is called one, and the power
python benchmarks/study.py rate DIR              # let simulated raters answer a study, marked as such
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path

from latent_shift.io import write_text
from latent_shift.media import write_clip
from latent_shift.moving_shapes.captions import caption
from latent_shift.moving_shapes.constants import FPS
from latent_shift.moving_shapes.protocol import SUBSETS
from latent_shift.moving_shapes.render import render
from latent_shift.study.analysis import compare
from latent_shift.study.design import DesignOptions, Question, Source, Study, all_pairs, draw_queue
from latent_shift.study.power import power
from latent_shift.study.simulation import Clock, Preference, rate, simulated_votes
from latent_shift.study.store import StudyStore

DESIGNS = ((300, 5, 30), (100, 5, 20), (40, 3, 12))  # prompts, raters a pair, pairs a rater
PREFERENCES = (
    Preference(0.5),
    Preference(0.5, same_rater=0.05),
    Preference(0.55),
    Preference(0.65, same_prompt=0.4, lapses=0.1),
)


def design(prompts: int, raters: int, pairs: int, seed: int = 0) -> Study:
    """A study of two sources without clips."""
    both = all_pairs(prompts, 2)
    return Study(
        created="2026-11-28T00:00:00+00:00",
        options=DesignOptions(
            raters_per_pair=raters, pairs_per_rater=pairs, seed=seed,
            questions=(Question(id="quality", text="Which clip looks better?", with_prompt=False),),
        ),
        frames=16, fps=8, height=256, width=256,
        prompts=tuple(f"prompt {number}" for number in range(prompts)),
        sources=(Source(name="a", made_by="a"), Source(name="b", made_by="b")),
        clips=(), pairs=both, training=(), catches=(),
        queue=draw_queue(both, raters, seed), sessions=(),
    )  # fmt: skip


def coverage(studies: int) -> None:
    """Simulate studies of each design and preference, and print a line each."""
    print("| prompts | raters | pairs a rater | true share | correlations | interval holds it | called"
          " different | exact test | power told | seconds |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (prompts, raters, pairs), preference in product(DESIGNS, PREFERENCES):
        began = time.perf_counter()
        study = design(prompts, raters, pairs)
        holds = different = exact = 0
        for seed in range(studies):
            votes, _, _ = simulated_votes(study, preference, seed)
            found = compare(votes, "quality", "a", "b")
            low, high = found.share.low, found.share.high
            holds += low <= preference.true_share <= high
            different += bool(found.different)
            exact += found.p_value is not None and found.p_value < 0.05
        told = power(preference.true_share, prompts, raters, pairs)
        counts = " | ".join(f"{count} of {studies}" for count in (holds, different, exact))
        print(
            f"| {prompts} | {raters} | {pairs} | {100 * preference.true_share:.1f} % |"
            f" {preference.same_prompt}, {preference.same_rater} | {counts} | {100 * told:.0f} % |"
            f" {time.perf_counter() - began:.0f} |",
            flush=True,
        )


def real_clips(folder: Path, count: int) -> None:
    """Write prompts.txt and the folder `real` of rendered clips, all prompts different."""
    scenes = {caption(scene): scene for scene in SUBSETS["level-1-seen"].scenes(2 * count)}
    texts = list(scenes)[:count]
    write_text(folder / "prompts.txt", "".join(f"{text}\n" for text in texts))
    for number, text in enumerate(texts):
        clip = render([scenes[text]])[0]
        write_clip(folder / "real" / f"{number:03}.mp4", clip, FPS, {"prompt": text}, overwrite=True)


def demonstrate(folder: Path, share: float, seed: int) -> None:
    """Answer a study by simulated raters: one careless, one who leaves, one who always prefers the left."""
    clock = Clock(time.time() - 6 * 3600)
    store = StudyStore.open(folder, clock)
    preference = Preference(share, lapses=0.02, unsure=0.3)
    rate(store, clock, preference, seed=seed, sloppy=(2,), leave={1: 12})
    store.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("coverage")
    one.add_argument("--studies", type=int, default=200)
    clips = commands.add_parser("clips")
    clips.add_argument("folder", type=Path)
    clips.add_argument("--prompts", type=int, default=24)
    two = commands.add_parser("rate")
    two.add_argument("folder", type=Path)
    two.add_argument("--share", type=float, default=0.7, help="of votes for the earlier of two sources")
    two.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.command == "coverage":
        coverage(given.studies)
    elif given.command == "clips":
        real_clips(given.folder, given.prompts)
    else:
        demonstrate(given.folder, given.share, given.seed)


if __name__ == "__main__":
    main()
