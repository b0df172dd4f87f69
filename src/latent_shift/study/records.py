"""Records of the store, read: answers with all that is known of them, raters, and how far a study is."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from latent_shift.study import schema
from latent_shift.study.design import Study
from latent_shift.study.schema import Answer, Progress, RaterFacts

_raters, _showings, _answers = schema.raters, schema.showings, schema.answers


def read_answers(study: Study, connection: Connection, rater: int | None = None) -> list[Answer]:
    """Return every answer, by rater and place. rater: only those of that one."""
    join = _answers.join(_showings, _answers.c.showing == _showings.c.id)
    query = select(_showings, _answers).select_from(join)
    if rater is not None:
        query = query.where(_showings.c.rater == rater)
    query = query.order_by(_showings.c.rater, _showings.c.place, _showings.c.given, _answers.c.answered)
    return [_as_answer(study, row) for row in connection.execute(query).mappings()]


def read_raters(study: Study, connection: Connection) -> list[RaterFacts]:
    """Return all raters, in the order of coming."""
    whole = func.count(_showings.c.completed)
    join = _raters.outerjoin(_showings, _showings.c.rater == _raters.c.number)
    query = select(_raters, whole.label("done")).select_from(join).group_by(_raters.c.number)
    return [
        RaterFacts(
            row["number"],
            row["simulated"],
            row["consented"] is not None,
            row["done"],
            len(study.session(row["number"])),
        )
        for row in connection.execute(query.order_by(_raters.c.number)).mappings()
    ]


def read_progress(study: Study, connection: Connection, now: float) -> Progress:
    """Return how far the study is."""
    given = select(func.count()).select_from(_showings)
    live = given.where(_showings.c.trial.is_not(None), ~_showings.c.released)
    whole = connection.execute(live.where(_showings.c.completed.is_not(None))).scalar_one()
    is_out = (_showings.c.completed.is_(None), _showings.c.lease_until >= now)
    out = connection.execute(live.where(*is_out)).scalar_one()
    raters = connection.execute(select(func.count()).select_from(_raters)).scalar_one()
    answers = connection.execute(select(func.count()).select_from(_answers)).scalar_one()
    return Progress(len(study.queue), whole, out, raters, answers)


def _as_answer(study: Study, row: Any) -> Answer:
    right = None
    if row["known"] is not None:
        known = (study.training if row["kind"] == "training" else study.catches)[row["known"]]
        chosen = {"left": row["left_clip"], "right": row["right_clip"]}.get(row["choice"])
        right = chosen == known.clips[known.expected[row["question"]]]
    return Answer(
        rater=row["rater"],
        place=row["place"],
        kind=row["kind"],
        prompt=row["prompt"],
        pair=row["pair"],
        sources=(study.source_of(row["left_clip"]), study.source_of(row["right_clip"])),
        question=row["question"],
        choice=row["choice"],
        right=right,
        seconds=row["seconds"],
        plays=row["plays"],
        answered=row["answered"],
        live=not row["released"],
        whole=row["completed"] is not None,
    )
