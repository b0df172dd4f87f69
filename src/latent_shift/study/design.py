"""The study file: all that is decided before the first answer, and the drawing of order and sides.

`plan_study` draws everything by one seed: which clip of a pair stands on the left for which of its raters,
the order in which pairs are given out, and each rater's session with catch pairs and repeats in it. Nothing
is drawn later: a session's next pair is the first of `queue` that is free and new to the rater, of a prompt
that is new, too, where there is one.

A pair is two clips of one prompt. A known pair is one with right answers, for training and to catch raters
who do not look: a clip and a spoilt one of another prompt.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from latent_shift.documents import validation_error

STUDY_FILE = "study.json"
CLIPS = "clips"  # folder of a study
CHECKS = 10  # one catch pair and one repeat for so many pairs of a session
MIN_CATCHES = 3  # of a session
MAX_CATCH_PAIRS = 12  # different ones of a study
MIN_PROMPTS = 2  # a known pair takes clips of two
REPEAT_AFTER = 5  # pairs that lie between a pair and its repeat, where the session is long enough

Side = Literal["left", "right"]
Choice = Literal["left", "right", "none"]
Kind = Literal["training", "pair", "catch", "repeat"]
Index = Annotated[int, Field(ge=0)]
First = Annotated[int, Field(ge=0, le=1, description="which of a pair's two clips stands on the left")]

CONSENT = (
    "You will see pairs of short silent clips, side by side, and say which one you prefer. Your answers, when"
    " you gave them and how long they took are stored under a number. No name, address or account is needed"
    " or stored. You can stop at any time by closing the page; what you answered until then is kept."
)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Question(_Frozen):
    """A question about a pair. with_prompt: the text is shown from this question on."""

    id: str
    text: str
    with_prompt: bool


class Rule(_Frozen):
    """Rule by which raters are excluded, fixed before the first answer.

    catch_right: least share of right answers to catch pairs, judged from `min_catch_answers` on. same_side:
    largest share of answers for one side, judged from `min_answers` on.
    """

    catch_right: float = Field(0.75, ge=0, le=1)
    min_catch_answers: int = Field(4, ge=1)
    same_side: float = Field(0.95, ge=0.5, le=1)
    min_answers: int = Field(20, ge=1)


class Source(_Frozen):
    """Origin of clips. made_by: the folder, or the model with its settings."""

    name: str
    made_by: str


class ClipFile(_Frozen):
    """A clip, in the file `clips/ID.mp4`. source: its name; None for a spoilt clip."""

    id: str
    source: str | None
    prompt: Index
    sha256: str


class Pair(_Frozen):
    """Two clips of a prompt, by the numbers of their sources."""

    prompt: Index
    sources: tuple[Index, Index]


class KnownPair(_Frozen):
    """Two clips with a right answer. expected: by question, which of the two clips is right."""

    prompt: Index
    clips: tuple[str, str]
    expected: dict[str, First]


class Trial(_Frozen):
    """One of a pair's ratings, to be given to one rater."""

    pair: Index
    left: First


class Item(_Frozen):
    """A place of a session.

    index: of the known pair; of a repeat, the number of the session's pair that is shown again with its
    sides swapped; None for a pair, which is the next of the queue. left: as of `Trial`; of a known pair only.
    """

    kind: Kind
    index: Index | None = None
    left: First | None = None


class DesignOptions(_Frozen):
    """Choices of whoever asks. no_difference: allow a third answer."""

    title: str = "Comparison of clips"
    raters_per_pair: int = Field(5, ge=1, le=1000)
    pairs_per_rater: int = Field(30, ge=1, le=1000)
    no_difference: bool = False
    seed: int = Field(0, ge=0)
    lease_minutes: float = Field(20.0, gt=0, description="time after which an unanswered pair is given anew")
    consent: str = Field(CONSENT, min_length=1)
    rule: Rule = Rule()
    questions: tuple[Question, ...] = (
        Question(id="quality", text="Which clip looks better?", with_prompt=False),
        Question(id="faithfulness", text="Which clip shows better what the text says?", with_prompt=True),
    )


class Study(_Frozen):
    """A study file. created: date and time, UTC. height, width: pixels of every clip."""

    version: Literal[1] = 1
    created: str
    options: DesignOptions
    frames: int
    fps: float
    height: int
    width: int
    prompts: tuple[str, ...]
    sources: tuple[Source, ...]
    clips: tuple[ClipFile, ...]
    pairs: tuple[Pair, ...]
    training: tuple[KnownPair, ...]
    catches: tuple[KnownPair, ...]
    queue: tuple[Trial, ...]
    sessions: tuple[tuple[Item, ...], ...]

    @property
    def clip_seconds(self) -> float:
        """Seconds that one play of a clip takes."""
        return self.frames / self.fps

    @cached_property
    def _clip_of(self) -> dict[tuple[str | None, int], str]:
        return {(clip.source, clip.prompt): clip.id for clip in self.clips}

    @cached_property
    def _source_of(self) -> dict[str, str | None]:
        return {clip.id: clip.source for clip in self.clips}

    def source_of(self, clip: str) -> str | None:
        """Return the name of a clip's source, by the clip's id; None for a spoilt clip."""
        return self._source_of[clip]

    def pair_clips(self, pair: int) -> tuple[str, str]:
        """Return the ids of a pair's two clips."""
        wanted = self.pairs[pair]
        first, second = (self._clip_of[self.sources[one].name, wanted.prompt] for one in wanted.sources)
        return first, second

    def session(self, number: int) -> tuple[Item, ...]:
        """Return the session of the rater who came as number `number`, from 0."""
        return self.sessions[number % len(self.sessions)]

    @property
    def raters_needed(self) -> int:
        """Raters with whole sessions that answer all pairs."""
        return len(self.sessions)


def read_study(folder: Path) -> tuple[Study, str]:
    """Read a folder's study file; return it with its SHA-256. Raises ValueError naming what is wrong."""
    file = folder / STUDY_FILE
    if not file.is_file():
        raise ValueError(f"{folder}: holds no study; make one with `latent-shift study create`")
    content = file.read_bytes()
    try:
        return Study.model_validate_json(content), hashlib.sha256(content).hexdigest()
    except ValidationError as error:
        raise ValueError(f"{file}: is no study file: {validation_error(error)}") from error


def all_pairs(prompts: int, sources: int) -> tuple[Pair, ...]:
    """Return every two sources' pair for every prompt."""
    return tuple(
        Pair(prompt=prompt, sources=both)
        for prompt in range(prompts)
        for both in combinations(range(sources), 2)
    )


def draw_queue(pairs: Sequence[Pair], raters: int, seed: int) -> tuple[Trial, ...]:
    """Draw the order in which ratings are given out, `raters` of each pair.

    All pairs once in an order of its own, then all again. A pair's sides alternate from round to round; in a
    round they differ between the two of each two neighbours, and are as often left as right for every two
    sources.
    """
    rng = random.Random(f"{seed} queue")
    starts: dict[int, int] = {}
    shuffled = rng.sample(range(len(pairs)), len(pairs))
    for place, pair in enumerate(sorted(shuffled, key=lambda one: pairs[one].sources)):
        starts[pair] = place % 2
    queue: list[Trial] = []
    for number in range(raters):
        order = rng.sample(range(len(pairs)), len(pairs))
        sides = [[pair for pair in order if (starts[pair] + number) % 2 == left] for left in (0, 1)]
        for both in zip(*sides, strict=False):
            couple = [Trial(pair=pair, left=left) for left, pair in enumerate(both)]
            queue += rng.sample(couple, 2)
        fewer = min(map(len, sides))
        queue += [Trial(pair=pair, left=left) for left in (0, 1) for pair in sides[left][fewer:]]
    return tuple(queue)


def draw_sessions(
    count: int, pairs: int, training: int, catches: int, seed: int
) -> tuple[tuple[Item, ...], ...]:
    """Draw `count` sessions of `pairs` pairs each, with training pairs, catch pairs and repeats.

    training, catches: how many known pairs of each there are; their sides are as often right on the left as
    on the right. seed: of all that is drawn.
    """
    rng = random.Random(f"{seed} sessions")
    checks = round(pairs / CHECKS)
    shown = min(max(checks, MIN_CATCHES), catches)
    repeats = max(checks, 1) if pairs >= REPEAT_AFTER else 0
    sessions = []
    for _ in range(count):
        items = [
            Item(kind="training", index=one, left=left) for one, left in enumerate(_balanced(training, rng))
        ]
        after: dict[int, list[Item]] = {}
        drawn = rng.sample(range(catches), shown)
        for number, (one, left) in enumerate(zip(drawn, _balanced(shown, rng), strict=True)):
            place = _within(number, shown, pairs, rng)
            after.setdefault(place, []).append(Item(kind="catch", index=one, left=left))
        for number in range(repeats):
            again = _within(number, repeats, math.ceil(pairs / 2), rng)
            place = rng.randrange(min(again + REPEAT_AFTER, pairs - 1), pairs)
            after.setdefault(place, []).append(Item(kind="repeat", index=again))
        for place in range(pairs):
            items += [Item(kind="pair"), *after.get(place, [])]
        sessions.append(tuple(items))
    return tuple(sessions)


def _within(number: int, of: int, length: int, rng: random.Random) -> int:
    """Draw a place in the part `number` of `of` parts of a length."""
    first, end = number * length // of, (number + 1) * length // of
    return rng.randrange(first, max(end, first + 1))


def _balanced(count: int, rng: random.Random) -> list[int]:
    """Return zeros and ones, equally many, in a drawn order."""
    start = rng.randrange(2)
    sides = [(start + number) % 2 for number in range(count)]
    return rng.sample(sides, count)


def farthest_prompt(prompts: Sequence[str], prompt: int, rng: random.Random) -> int:
    """Return one of the prompts that share fewest words with a prompt, drawn among equals."""
    words = [set(text.lower().split()) for text in prompts]
    shared = {one: len(words[one] & words[prompt]) for one in range(len(prompts)) if one != prompt}
    fewest = min(shared.values())
    return rng.choice([one for one, count in shared.items() if count == fewest])


def expected_answers(questions: Sequence[Question], right: Mapping[bool, int]) -> dict[str, int]:
    """Return the right clip of each question. right: by whether the question is one with the text."""
    return {question.id: right[question.with_prompt] for question in questions}
