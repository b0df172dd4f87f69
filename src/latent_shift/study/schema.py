"""Tables of a study's answers, and what the store hands out and raises."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

from latent_shift.study.design import Choice, Kind

metadata = MetaData()
facts = Table("facts", metadata, Column("name", String, primary_key=True), Column("value", String))
raters = Table(
    "raters",
    metadata,
    Column("number", Integer, primary_key=True),  # from 0, in the order of coming
    Column("token", String, nullable=False, unique=True),
    Column("simulated", Boolean, nullable=False),
    Column("personal", Boolean, nullable=False),  # by a link of its own, not by the one for all
    Column("created", Float, nullable=False),  # seconds since 1970
    Column("consented", Float),
)
showings = Table(
    "showings",
    metadata,
    Column("id", String, primary_key=True),
    Column("rater", ForeignKey("raters.number"), nullable=False),
    Column("place", Integer, nullable=False),  # in the rater's session
    Column("kind", String, nullable=False),
    Column("pair", Integer),  # of the study's pairs; None for a known pair
    Column("known", Integer),  # of the study's training or catch pairs
    Column("trial", Integer),  # of the queue; None for all but pairs
    Column("left_clip", String, nullable=False),
    Column("right_clip", String, nullable=False),
    Column("prompt", Integer, nullable=False),
    Column("given", Float, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("completed", Float),
    Column("released", Boolean, nullable=False, default=False),
    Index("one_showing_a_place", "rater", "place", unique=True, sqlite_where=text("NOT released")),
    Index(
        "one_pair_a_rater", "rater", "pair", unique=True, sqlite_where=text("NOT released AND kind = 'pair'")
    ),
    Index("one_showing_a_trial", "trial", unique=True, sqlite_where=text("NOT released")),
)
answers = Table(
    "answers",
    metadata,
    Column("showing", ForeignKey("showings.id"), nullable=False),
    Column("question", String, nullable=False),
    Column("choice", String, nullable=False),
    Column("seconds", Float, nullable=False),  # from the end of the first whole play, by the rater's clock
    Column("plays", Integer, nullable=False),
    Column("answered", Float, nullable=False),
    UniqueConstraint("showing", "question"),
)


class UnknownError(LookupError):
    """A token, a showing or a clip that was not given out."""


class ConflictError(Exception):
    """An answer that contradicts what is stored, or comes at a wrong time; `code` for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Showing:
    """A pair in front of a rater. answers: so far, by question. done, of: items of the session."""

    id: str
    kind: Kind
    place: int
    clips: tuple[str, str]  # left, right
    prompt: int
    known: int | None
    answers: dict[str, Choice]
    done: int
    of: int


@dataclass(frozen=True)
class Answer:
    """One row of the results: an answer with all that is known of its showing.

    sources: names of the left and right clip's source, None for a spoilt clip. right: whether it is the right
    answer, of known pairs. live: False for a showing that was released before it was whole. whole: whether
    all questions of the showing are answered.
    """

    rater: int
    place: int
    kind: Kind
    prompt: int
    pair: int | None
    sources: tuple[str | None, str | None]
    question: str
    choice: Choice
    right: bool | None
    seconds: float
    plays: int
    answered: float
    live: bool = True
    whole: bool = True

    @property
    def is_vote(self) -> bool:
        """Whether it counts for a source: a pair, wholly answered, that nobody else got."""
        return self.kind == "pair" and self.live and self.whole

    @property
    def is_sided(self) -> bool:
        """Whether it tells of a liking for a side."""
        return self.kind in ("pair", "repeat") and self.live and self.choice != "none"


@dataclass(frozen=True)
class RaterFacts:
    """A rater: whether it is a simulated one, and how many of its session's items are answered."""

    number: int
    simulated: bool
    consented: bool
    done: int
    of: int


@dataclass(frozen=True)
class Progress:
    """Counts: ratings of pairs wanted and whole, pairs out at raters now, raters, answers of any kind."""

    wanted: int
    whole: int
    out: int
    raters: int
    answers: int
