"""The giving of pairs: showings given out, released when they are left, those of excluded raters given anew.

Functions on a connection that is in the midst of a change; `store.py` begins and ends it.

A rating holds a trial of the queue for as long as it counts. That of a rater whom the study's rule excludes
holds none: when the session is at its end, or nothing was heard for the lease's time, the rule is applied,
and an excluded rater's trials are free again. Nothing more is given to that rater, so that the verdict
stands.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, select, update

from latent_shift.study import records, schema
from latent_shift.study.design import Item, Study
from latent_shift.study.exclusion import judge
from latent_shift.study.schema import ConflictError

_showings = schema.showings
_live = ~_showings.c.released


def release(connection: Connection, now: float, but: int) -> None:
    """Release all raters' pairs that were left for longer than the lease, but those of one, who is here."""
    over = (_showings.c.lease_until < now) & _showings.c.completed.is_(None) & _live
    over &= _showings.c.rater != but
    connection.execute(update(_showings).where(over, _showings.c.trial.is_not(None)).values(released=True))


def take_back(connection: Connection, row: Any) -> None:
    """Check that a released pair has not been given out since. Raises ConflictError where it has."""
    if is_given_anew(connection, row):
        raise ConflictError("released", "this pair was open for too long and went to another rater")


def is_given_anew(connection: Connection, row: Any) -> bool:
    """Return whether a released pair's trial, or its place in the session, was given out since."""
    again = (_showings.c.trial == row["trial"]) | (
        (_showings.c.rater == row["rater"]) & (_showings.c.place == row["place"])
    )
    query = select(func.count()).select_from(_showings).where(again, _live)
    return bool(connection.execute(query).scalar_one())


def absent_raters(connection: Connection, now: float) -> dict[int, float]:
    """Return raters who hold trials and have not been heard of for the lease's time, with its end."""
    end = func.max(_showings.c.lease_until)
    query = select(_showings.c.rater, end).group_by(_showings.c.rater)
    query = query.having(end < now, func.count(_showings.c.trial) > 0)
    return {rater: float(until) for rater, until in connection.execute(query)}


def replace_if_excluded(study: Study, connection: Connection, rater: int) -> bool:
    """Free the trials of a rater whom the rule excludes by all answers until now; whether it does."""
    answers = records.read_answers(study, connection, rater)
    if not judge(study.options.rule, answers).excluded:
        return False
    held = (_showings.c.rater == rater) & _showings.c.trial.is_not(None) & _live
    connection.execute(update(_showings).where(held).values(trial=None))
    return True


def is_replaced(connection: Connection, rater: int) -> bool:
    """Return whether a rater was excluded, and its pairs went back to the queue."""
    freed = (_showings.c.rater == rater) & (_showings.c.kind == "pair") & _showings.c.trial.is_(None)
    return connection.execute(select(_showings.c.id).where(freed, _live).limit(1)).scalar() is not None


def next_showing(
    study: Study, connection: Connection, rater: int, known: Sequence[Any], now: float, lease: float
) -> dict[str, Any] | None:
    """Return the row of a rater's next showing; None where the session or the pool is at its end.

    Args:
        study: its study file.
        connection: in a change.
        rater: number of the rater.
        known: rows of all that the rater was shown; those that were released do not count, and are not shown
            again.
        now: the time.
        lease: seconds.
    """
    live = [row for row in known if not row["released"]]
    taken = {row["place"] for row in live}
    for place, item in enumerate(study.session(rater)):
        if place in taken:
            continue
        if item.kind == "training" and _free_trial(study, connection, known) is None:
            return None  # nobody practises for nothing
        row = _row_of(study, connection, item, known)
        if row is not None:
            given = {"id": token(), "rater": rater, "place": place, "kind": item.kind, "given": now}
            return {**given, "lease_until": now + lease, "released": False, "completed": None, **row}
        if item.kind == "pair":
            return None  # the pool is empty: what follows would check nothing
    return None


def token() -> str:
    """Return a random text that nobody guesses, for links and ids."""
    return secrets.token_urlsafe(16)


def _row_of(study: Study, connection: Connection, item: Item, known: Sequence[Any]) -> dict[str, Any] | None:
    """Return what an item of a session shows; None where there is no pair for it."""
    row: dict[str, Any] = {"pair": None, "known": None, "trial": None}
    if item.kind == "pair":
        trial = _free_trial(study, connection, known)
        if trial is None:
            return None
        pair, left = study.queue[trial].pair, study.queue[trial].left
        clips, prompt = study.pair_clips(pair), study.pairs[pair].prompt
        row |= {"pair": pair, "trial": trial}
    elif item.kind == "repeat":
        shown = sorted(
            (one for one in known if one["kind"] == "pair" and not one["released"]),
            key=lambda one: one["place"],
        )
        if item.index is None or item.index >= len(shown):
            return None
        first = shown[item.index]
        row |= {"pair": first["pair"]}
        clips, prompt, left = (first["right_clip"], first["left_clip"]), first["prompt"], 0
    else:
        pairs = study.training if item.kind == "training" else study.catches
        clips, prompt = pairs[item.index or 0].clips, pairs[item.index or 0].prompt
        left = item.left or 0
        row |= {"known": item.index}
    return row | {"left_clip": clips[left], "right_clip": clips[1 - left], "prompt": prompt}


def _free_trial(study: Study, connection: Connection, known: Sequence[Any]) -> int | None:
    """Return the first free trial of a pair that is new to the rater, if there is one of a new prompt."""
    query = select(_showings.c.trial).where(_showings.c.trial.is_not(None), _live)
    taken = set(connection.execute(query).scalars())
    seen = {row["pair"] for row in known}
    prompts = {row["prompt"] for row in known if row["kind"] == "pair"}
    known_prompt = None
    for number, trial in enumerate(study.queue):
        if number in taken or trial.pair in seen:
            continue
        if study.pairs[trial.pair].prompt not in prompts:
            return number
        known_prompt = number if known_prompt is None else known_prompt
    return known_prompt
