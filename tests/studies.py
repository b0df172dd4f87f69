"""Clips and designs of small studies."""

import numpy as np

from latent_shift.generation import slug
from latent_shift.media import write_clip
from latent_shift.study.design import DesignOptions, Question, Source, Study, all_pairs, draw_queue

TEXTS = (
    "one red dot rises", "two blue rings fall", "three green bars spin", "four gray hills sleep",
    "five pink birds dive", "six gold fish turn", "seven teal cars race", "eight white stars fade",
)  # fmt: skip
PROMPTS = [{"prompt": text} for text in TEXTS]
FPS = 16


def make_clip(shade, number, frames=4, size=(32, 48)):
    """A clip (F, H, W, 3): a bar that moves over a ground of its own shade."""
    clip = np.full((frames, *size, 3), shade, np.uint8)
    for frame in range(frames):
        clip[frame, :, 4 * frame + number : 4 * frame + number + 6] = (250, 30 * number, 20)
    return clip


def make_folder(folder, shade, texts=TEXTS, fps=FPS, **clip):
    """A folder of clips named by the words of their prompts."""
    for number, text in enumerate(texts):
        write_clip(folder / f"{slug(text)}.mp4", make_clip(shade, number, **clip), fps)
    return folder


def rate_all(store, clock, choose, tokens=None):
    """Let raters answer in turn until no pair is left; choose(showing, question) gives the answer."""
    study = store.study
    tokens = tokens or [store.add_rater() for _ in range(study.raters_needed + 2)]
    for token in tokens:
        store.consent(token)
        while (showing := store.current(token)) is not None:
            for question in study.options.questions:
                clock.now += study.clip_seconds + 1
                store.answer(token, showing.id, question.id, choose(showing, question.id), seconds=1.0)
    return tokens


def attentive(store, choice="left"):
    """A rater's way to answer: right where there is a right answer, else always the same."""

    def choose(showing, question):
        known = store.known_pair(showing)
        if known is None:
            return choice
        return "left" if showing.clips[0] == known.clips[known.expected[question]] else "right"

    return choose


def design_only(prompts=40, raters=3, pairs=12, names=("a", "b"), seed=0, **options):
    """A study without clips, with the question of quality."""
    both = all_pairs(prompts, len(names))
    question = Question(id="quality", text="Which clip looks better?", with_prompt=False)
    chosen = DesignOptions(
        raters_per_pair=raters, pairs_per_rater=pairs, seed=seed, questions=(question,), **options
    )
    return Study(
        created="2026-11-28T00:00:00+00:00", options=chosen, frames=16, fps=8, height=256, width=256,
        prompts=tuple(f"prompt {number}" for number in range(prompts)),
        sources=tuple(Source(name=name, made_by=name) for name in names), clips=(), pairs=both,
        training=(), catches=(), queue=draw_queue(both, raters, seed), sessions=(),
    )  # fmt: skip
