"""Simulated raters of a known preference, to test a design and its statistics, and for demonstrations.

A vote is for the first source where mean + prompt's + rater's + own deviation is positive, all normal, the
last of variance 1 (the probit model). The share of votes over all prompts and raters is then known, and so
are the correlations: of two raters on a prompt (2/π) arcsin of the prompts' part of the variance, and alike
for one rater on two prompts. A rater may answer at random now and then, or see no difference.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy import stats

from latent_shift.study.design import Choice, KnownPair, Study
from latent_shift.study.power import SAME_PROMPT, SAME_RATER
from latent_shift.study.schema import Answer, Progress, RaterFacts
from latent_shift.study.store import StudyStore


@dataclass(frozen=True)
class Preference:
    """A population of raters.

    share: of votes for the earlier of two sources in the study's list, over all prompts and raters.
    same_prompt, same_rater: correlations of votes. lapses: share of answers given at random. unsure: width of
    what counts as no difference, in standard deviations of a vote's own deviation; used where the study has
    that answer.
    """

    share: float = 0.5
    same_prompt: float = SAME_PROMPT
    same_rater: float = SAME_RATER
    lapses: float = 0.0
    unsure: float = 0.0

    def deviations(self) -> tuple[float, float, float]:
        """Return the mean, and the standard deviations of prompts and raters."""
        prompts = math.sin(math.pi / 2 * self.same_prompt)
        raters = math.sin(math.pi / 2 * self.same_rater)
        own = 1 - prompts - raters
        if own <= 0:
            raise ValueError(
                f"correlations {self.same_prompt:g} and {self.same_rater:g} leave nothing to chance"
            )
        mean = float(stats.norm.ppf(self.share)) / math.sqrt(own)
        return mean, math.sqrt(prompts / own), math.sqrt(raters / own)

    @property
    def true_share(self) -> float:
        """The share of votes with lapses in it, over all prompts and raters who look."""
        return (1 - self.lapses) * self.share + self.lapses / 2


class SimulatedRaters:
    """Draws answers. seed: of everything."""

    def __init__(self, study: Study, preference: Preference, seed: int = 0) -> None:
        self.study, self.preference, self.seed = study, preference, seed
        self._deviations: dict[tuple[str, int, str], float] = {}
        self._mean, self._prompts, self._raters = preference.deviations()

    def choose(self, rater: int, place: int, question: str, prompt: int, first_is_left: bool) -> Choice:
        """Return a vote on a pair.

        Args:
            rater: number of the rater.
            place: in the rater's session.
            question: its id.
            prompt: number of the prompt.
            first_is_left: whether the clip of the earlier source stands on the left.
        """
        drawn = self._drawn("vote", rater, place, question)
        liked = self._mean + drawn.gauss(0.0, 1.0)
        liked += self._raters * self._deviation("rater", rater, question)
        liked += self._prompts * self._deviation("prompt", prompt, question)
        if drawn.random() < self.preference.lapses:
            return "left" if drawn.random() < 0.5 else "right"
        if self.study.options.no_difference and abs(liked) < self.preference.unsure:
            return "none"
        return "left" if (liked > 0) == first_is_left else "right"

    def choose_known(
        self, rater: int, place: int, question: str, known: KnownPair, clips: tuple[str, str]
    ) -> Choice:
        """Return an answer to a known pair: right, but for those who do not look.

        Args:
            rater: number of the rater.
            place: in the rater's session.
            question: its id.
            known: the pair.
            clips: ids of the left and right clip.
        """
        drawn = self._drawn("known", rater, place, question)
        if drawn.random() < self.preference.lapses:
            return "left" if drawn.random() < 0.5 else "right"
        return "left" if clips[0] == known.clips[known.expected[question]] else "right"

    def seconds(self, rater: int, place: int, question: str) -> float:
        """Return a response time, log-normal around 1.2 seconds."""
        deviation = self._drawn("seconds", rater, place, question).gauss(0.0, 1.0)
        return round(1.2 * math.exp(0.5 * deviation), 2)

    def _deviation(self, kind: str, number: int, question: str) -> float:
        key = (kind, number, question)
        if key not in self._deviations:
            self._deviations[key] = self._drawn(*key).gauss(0.0, 1.0)
        return self._deviations[key]

    def _drawn(self, *key: object) -> random.Random:
        """A random stream of its own for everything that is drawn."""
        return random.Random(f"{self.seed} {key}")


def simulated_votes(
    study: Study, preference: Preference, seed: int
) -> tuple[list[Answer], list[RaterFacts], Progress]:
    """Return the answers of a whole study without a store: pairs only, each rater's in the queue's order."""
    raters = SimulatedRaters(study, preference, seed)
    size = study.options.pairs_per_rater
    answers = []
    for number, trial in enumerate(study.queue):
        rater, place = divmod(number, size)
        pair = study.pairs[trial.pair]
        names = tuple(study.sources[one].name for one in pair.sources)
        sources = (names[trial.left], names[1 - trial.left])
        for question in study.options.questions:
            answers.append(
                Answer(
                    rater=rater,
                    place=place,
                    kind="pair",
                    prompt=pair.prompt,
                    pair=trial.pair,
                    sources=sources,
                    question=question.id,
                    choice=raters.choose(rater, place, question.id, pair.prompt, trial.left == 0),
                    right=None,
                    seconds=raters.seconds(rater, place, question.id),
                    plays=1,
                    answered=0.0,
                )
            )
    count = -(-len(study.queue) // size)
    facts = [RaterFacts(number, True, True, size, size) for number in range(count)]
    return answers, facts, Progress(len(study.queue), len(study.queue), 0, count, len(answers))


class Clock:
    """A clock that only moves when it is set, for simulated raters: nobody waits for clips to play."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        """Seconds since 1970."""
        return self.now


def rate(
    store: StudyStore,
    clock: Clock,
    preference: Preference,
    *,
    seed: int = 0,
    sloppy: Sequence[int] = (),
    leave: dict[int, int] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Let simulated raters answer a study through its store until every pair has its ratings.

    Args:
        store: opened with `clock`.
        clock: is moved on by the time that answers take.
        preference: of the raters.
        seed: of the raters.
        sloppy: numbers of raters who answer at random, catch pairs, too.
        leave: after how many items a rater leaves, by number; the pair in front stays unanswered.
        on_progress: called with ratings of pairs done and wanted.
    """
    study = store.study
    looking = SimulatedRaters(study, preference, seed)
    careless = SimulatedRaters(study, Preference(lapses=1.0), seed)
    names = [source.name for source in study.sources]
    while (progress := store.progress()).whole < progress.wanted:
        number = progress.raters
        raters = careless if number in sloppy else looking
        token = store.add_rater(simulated=True)
        store.consent(token)
        while (showing := store.current(token)) is not None:
            if leave and leave.get(number) == showing.done:
                break
            known = store.known_pair(showing)
            sources = [store.source_of(clip) for clip in showing.clips]
            for question in study.options.questions:
                seconds = raters.seconds(number, showing.place, question.id)
                clock.now += study.clip_seconds + seconds
                if known is not None:
                    choice = raters.choose_known(number, showing.place, question.id, known, showing.clips)
                else:
                    first_is_left = names.index(str(sources[0])) < names.index(str(sources[1]))
                    place, prompt = showing.place, showing.prompt
                    choice = raters.choose(number, place, question.id, prompt, first_is_left)
                store.answer(token, showing.id, question.id, choice, seconds=seconds)
        clock.now += 60 * study.options.lease_minutes + 1  # what was left open is given anew
        done = store.progress()
        on_progress(done.whole, done.wanted)
