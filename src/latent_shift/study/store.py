"""Answers in SQLite: who rates what next, and every answer once.

Three tables. A *rater* is a random token with the number of its session. A *showing* is one place of a
session given to its rater, for a pair with one trial of the queue; while it is live, no other showing has
that trial. An *answer* belongs to a showing and a question. A pair that is not answered in the lease's time
is released, and the next rater gets its trial; a late answer is taken where nobody has got it yet. Answers of
a released showing are kept, and not counted. A rater whom the study's rule excludes loses all trials to
others (`giving.py`), so that each pair ends with its number of raters who count.

Every change is one `BEGIN IMMEDIATE` transaction, on disk before the answer to the browser; uniqueness is the
database's. The same answer again changes nothing, another one is refused.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import DatabaseError

from latent_shift.server.database import connect, reading
from latent_shift.study import giving, records, schema
from latent_shift.study.design import Choice, KnownPair, Study, read_study
from latent_shift.study.schema import Answer, ConflictError, Progress, RaterFacts, Showing, UnknownError

ANSWERS_FILE = "answers.sqlite"
_facts, _raters, _showings, _answers = schema.facts, schema.raters, schema.showings, schema.answers


class StudyStore:
    """A study's answers. clock: seconds since 1970."""

    def __init__(self, study: Study, file: Path, clock: Callable[[], float] = time.time) -> None:
        self.study, self.clock = study, clock
        self._engine = connect(file)
        self._judged: dict[int, float] = {}  # absent raters, with the end of the lease that they had

    @classmethod
    def create(cls, folder: Path) -> StudyStore:
        """Create the store of a new study, which remembers the study file's hash."""
        study, digest = read_study(folder)
        store = cls(study, folder / ANSWERS_FILE)
        schema.metadata.create_all(store._engine)
        with store._change() as connection:
            connection.execute(insert(_facts).values(name="study", value=digest))
        return store

    @classmethod
    def open(cls, folder: Path, clock: Callable[[], float] = time.time) -> StudyStore:
        """Open a study's store.

        Raises ValueError for a folder without a study, for a study file that is not the one that the answers
        belong to, and for a store that is damaged or may only be read: a reader, too, keeps a file beside it.
        """
        study, digest = read_study(folder)
        file = folder / ANSWERS_FILE
        if not file.is_file():
            raise ValueError(f"{file}: is missing; a study's folder is kept whole")
        store = cls(study, file, clock)
        try:
            with reading(store._engine) as connection:
                known = connection.execute(select(_facts.c.value).where(_facts.c.name == "study")).scalar()
        except DatabaseError as error:
            if "readonly" in str(error.orig) or not os.access(folder, os.W_OK):
                raise ValueError(
                    f"{file}: you may only read it; copy the study's folder and name the copy"
                ) from error
            raise ValueError(f"{file}: is no store of answers, or is damaged: {error.orig}") from error
        if known != digest:
            raise ValueError(
                f"{folder}: the study file was changed after the study was made (SHA-256 {digest[:12]}, made"
                f" as {str(known)[:12]}): bring the old one back; answers to another study would mean nothing"
            )
        return store

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    # ---- raters -------------------------------------------------------------------------------------------

    def invitation(self) -> str:
        """Return the token of the link that makes a rater of anyone who opens it; drawn once a study."""
        with self._change() as connection:
            found = connection.execute(select(_facts.c.value).where(_facts.c.name == "invitation")).scalar()
            if found is None:
                found = giving.token()
                connection.execute(insert(_facts).values(name="invitation", value=found))
            return str(found)

    def add_rater(self, *, simulated: bool = False) -> str:
        """Add a rater and return its token."""
        with self._change() as connection:
            return self._add_rater(connection, simulated=simulated)

    def personal_tokens(self, count: int) -> list[str]:
        """Return the tokens of `count` personal links, the same each time; more are added where needed."""
        with self._change() as connection:
            query = select(_raters.c.token).where(_raters.c.personal).order_by(_raters.c.number)
            known = connection.execute(query).scalars().all()
            added = [self._add_rater(connection, personal=True) for _ in range(count - len(known))]
            return [*known, *added][:count]

    def consent(self, token: str) -> None:
        """Note that a rater agreed; again changes nothing. Raises UnknownError."""
        with self._change() as connection:
            number = self._number(connection, token)
            agreed = _raters.c.consented.is_(None) & (_raters.c.number == number)
            connection.execute(update(_raters).where(agreed).values(consented=self.clock()))

    def consented(self, token: str) -> bool:
        """Return whether a rater agreed. Raises UnknownError."""
        with reading(self._engine) as connection:
            number = self._number(connection, token)
            query = select(_raters.c.consented).where(_raters.c.number == number)
            return connection.execute(query).scalar() is not None

    # ---- rating -------------------------------------------------------------------------------------------

    def current(self, token: str) -> Showing | None:
        """Return what a rater has in front, giving out the next item where nothing is.

        None where the session is at its end, or no pair is left to give. The same until it is answered, in
        however many windows. Raises UnknownError for a token, ConflictError before consent.
        """
        with self._change() as connection:
            rater = self._number(connection, token)
            agreed = select(_raters.c.consented).where(_raters.c.number == rater)
            if connection.execute(agreed).scalar() is None:
                raise ConflictError("no_consent", "agree to take part first")
            now = self.clock()
            giving.release(connection, now, but=rater)
            for absent, until in giving.absent_raters(connection, now).items():
                if absent != rater and self._judged.get(absent) != until:
                    self._judged[absent] = until
                    giving.replace_if_excluded(self.study, connection, absent)
            if giving.is_replaced(connection, rater):
                return None
            query = select(_showings).where(_showings.c.rater == rater).order_by(_showings.c.released)
            known = list(connection.execute(query).mappings())
            for row in known:
                if row["completed"] is None and not (
                    row["released"] and giving.is_given_anew(connection, row)
                ):
                    lease = {"lease_until": now + self._lease, "released": False}
                    connection.execute(update(_showings).where(_showings.c.id == row["id"]).values(lease))
                    return self._showing(connection, row, self._done(connection, rater))
            new = giving.next_showing(self.study, connection, rater, known, now, self._lease)
            if new is None:
                giving.replace_if_excluded(self.study, connection, rater)
                return None
            connection.execute(insert(_showings).values(new))
            return self._showing(connection, new, self._done(connection, rater))

    def answer(
        self, token: str, showing: str, question: str, choice: Choice, *, seconds: float = 0.0, plays: int = 1
    ) -> Showing:
        """Store an answer, and return its showing as it is now.

        Args:
            token: of the rater.
            showing: id of what the rater was given.
            question: id of the first question that is not answered yet.
            choice: "none" only where the study allows it.
            seconds: from the end of the first whole play to the answer.
            plays: whole plays of the clips.

        Raises:
            UnknownError: for a token or a showing that this rater was not given, and an unknown question.
            ConflictError: for another answer than the stored one ("answered"), a pair that another rater has
                by now ("released"), an answer before one whole play ("too_early") or out of turn ("order"),
                and "none" where it is not allowed ("choice").
        """
        with self._change() as connection:
            rater, now = self._number(connection, token), self.clock()
            query = select(_showings).where(_showings.c.id == showing, _showings.c.rater == rater)
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                raise UnknownError("this pair was not given to this rater")
            questions = [one.id for one in self.study.options.questions]
            if question not in questions:
                raise UnknownError(f"there is no question {question!r}")
            stored = self._stored(connection, showing)
            if question in stored:
                if stored[question][0] != choice:
                    raise ConflictError(
                        "answered", "this question is answered already; the first answer stands"
                    )
                return self._showing(connection, row, self._done(connection, rater))
            if choice == "none" and not self.study.options.no_difference:
                raise ConflictError("choice", "this study asks for left or right")
            if questions[len(stored)] != question:
                raise ConflictError("order", f"the next question is {questions[len(stored)]!r}")
            since = max((answered for _, answered in stored.values()), default=row["given"])
            if now < since + self.study.clip_seconds:
                raise ConflictError("too_early", "the clips have not been played once yet")
            if giving.is_replaced(connection, rater):
                raise ConflictError("released", "this session is at its end, and its pairs went to others")
            if row["released"]:
                giving.take_back(connection, row)
            connection.execute(
                insert(_answers).values(
                    showing=showing,
                    question=question,
                    choice=choice,
                    seconds=round(max(seconds, 0.0), 3),
                    plays=plays,
                    answered=now,
                )
            )
            whole = {"completed": now} if len(stored) + 1 == len(questions) else {}
            values = {"lease_until": now + self._lease, "released": False, **whole}
            connection.execute(update(_showings).where(_showings.c.id == showing).values(values))
            return self._showing(connection, row, self._done(connection, rater))

    def clip(self, token: str, showing: str, left: bool) -> str:
        """Return the id of a showing's clip. Raises UnknownError unless it was given to this rater."""
        with reading(self._engine) as connection:
            rater = self._number(connection, token)
            query = select(_showings).where(_showings.c.id == showing, _showings.c.rater == rater)
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise UnknownError("this pair was not given to this rater")
        return str(row["left_clip" if left else "right_clip"])

    def known_pair(self, showing: Showing) -> KnownPair | None:
        """Return the known pair that a showing shows; None for others."""
        if showing.known is None:
            return None
        return (self.study.training if showing.kind == "training" else self.study.catches)[showing.known]

    def source_of(self, clip: str) -> str | None:
        """Return the name of a clip's source; None for a spoilt clip."""
        return self.study.source_of(clip)

    # ---- results ------------------------------------------------------------------------------------------

    def answers(self) -> list[Answer]:
        """Return every answer, by rater and place."""
        with reading(self._engine) as connection:
            return records.read_answers(self.study, connection)

    def raters(self) -> list[RaterFacts]:
        """Return all raters, in the order of coming."""
        with reading(self._engine) as connection:
            return records.read_raters(self.study, connection)

    def progress(self) -> Progress:
        """Return how far the study is."""
        with reading(self._engine) as connection:
            return records.read_progress(self.study, connection, self.clock())

    # ---- inside -------------------------------------------------------------------------------------------

    @property
    def _lease(self) -> float:
        return 60.0 * self.study.options.lease_minutes

    @contextmanager
    def _change(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            yield connection

    def _add_rater(self, connection: Connection, *, simulated: bool = False, personal: bool = False) -> str:
        token = giving.token()
        number = connection.execute(select(func.count()).select_from(_raters)).scalar_one()
        kind = {"simulated": simulated, "personal": personal}
        connection.execute(insert(_raters).values(number=number, token=token, created=self.clock(), **kind))
        return token

    @staticmethod
    def _number(connection: Connection, token: str) -> int:
        number = connection.execute(select(_raters.c.number).where(_raters.c.token == token)).scalar()
        if number is None:
            raise UnknownError("there is no such link")
        return int(number)

    @staticmethod
    def _stored(connection: Connection, showing: str) -> dict[str, tuple[Choice, float]]:
        """Return a showing's answers with their times, in the order of coming."""
        query = select(_answers.c.question, _answers.c.choice, _answers.c.answered)
        query = query.where(_answers.c.showing == showing).order_by(_answers.c.answered)
        return {row.question: (row.choice, row.answered) for row in connection.execute(query)}

    @staticmethod
    def _done(connection: Connection, rater: int) -> int:
        mine = (_showings.c.rater == rater) & _showings.c.completed.is_not(None)
        return int(connection.execute(select(func.count()).select_from(_showings).where(mine)).scalar_one())

    def _showing(self, connection: Connection, row: Any, done: int) -> Showing:
        answers = {question: choice for question, (choice, _) in self._stored(connection, row["id"]).items()}
        return Showing(
            row["id"],
            row["kind"],
            row["place"],
            (row["left_clip"], row["right_clip"]),
            row["prompt"],
            row["known"],
            answers,
            done,
            len(self.study.session(row["rater"])),
        )


def check_clips(study: Study, folder: Path) -> None:
    """Raise ValueError for a clip of a study that is missing or was changed."""
    for clip in study.clips:
        file = folder / f"{clip.id}.mp4"
        if not file.is_file():
            raise ValueError(f"{file}: a clip of the study is missing")
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != clip.sha256:
                raise ValueError(f"{file}: this clip was changed after the study was made")
