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


def release(connection: Connection, now: float) -> None:
    """Release all raters' pairs that were left for longer than the lease."""
    over = (_showings.c.lease_until < now) & _showings.c.completed.is_(None) & _live
    connection.execute(update(_showings).where(over, _showings.c.trial.is_not(None)).values(released=True))


def take_back(connection: Connection, row: Any) -> None:
    """Check that a released pair, or its place in the session, has not been given out since."""
    again = (_showings.c.trial == row["trial"]) | (
        (_showings.c.rater == row["rater"]) & (_showings.c.place == row["place"])
    )
    query = select(func.count()).select_from(_showings).where(again, _live)
    if connection.execute(query).scalar_one():
        raise ConflictError("released", "this pair was open for too long and went to another rater")


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
    study: Study, connection: Connection, rater: int, live: Sequence[Any], now: float, lease: float
) -> dict[str, Any] | None:
    """Return the row of a rater's next showing; None where the session or the pool is at its end.

    Args:
        study: its study file.
        connection: in a change.
        rater: number of the rater.
        live: rows of the rater's showings that count.
        now: the time.
        lease: seconds.
    """
    taken = {row["place"] for row in live}
    for place, item in enumerate(study.session(rater)):
        if place in taken:
            continue
        if item.kind == "training" and _free_trial(study, connection, live) is None:
            return None  # nobody practises for nothing
        row = _row_of(study, connection, item, live)
        if row is not None:
            given = {"id": token(), "rater": rater, "place": place, "kind": item.kind, "given": now}
            return {**given, "lease_until": now + lease, "released": False, "completed": None, **row}
        if item.kind == "pair":
            return None  # the pool is empty: what follows would check nothing
    return None


def token() -> str:
    """Return a random text that nobody guesses, for links and ids."""
    return secrets.token_urlsafe(16)


def _row_of(study: Study, connection: Connection, item: Item, live: Sequence[Any]) -> dict[str, Any] | None:
    """Return what an item of a session shows; None where there is no pair for it."""
    row: dict[str, Any] = {"pair": None, "known": None, "trial": None}
    if item.kind == "pair":
        trial = _free_trial(study, connection, live)
        if trial is None:
            return None
        pair, left = study.queue[trial].pair, study.queue[trial].left
        clips, prompt = study.pair_clips(pair), study.pairs[pair].prompt
        row |= {"pair": pair, "trial": trial}
    elif item.kind == "repeat":
        shown = sorted((one for one in live if one["kind"] == "pair"), key=lambda one: one["place"])
        if item.index is None or item.index >= len(shown):
            return None
        first = shown[item.index]
        row |= {"pair": first["pair"]}
        clips, prompt, left = (first["right_clip"], first["left_clip"]), first["prompt"], 0
    else:
        known = (study.training if item.kind == "training" else study.catches)[item.index or 0]
        clips, prompt, left = known.clips, known.prompt, item.left or 0
        row |= {"known": item.index}
    return row | {"left_clip": clips[left], "right_clip": clips[1 - left], "prompt": prompt}


def _free_trial(study: Study, connection: Connection, live: Sequence[Any]) -> int | None:
    """Return the first free trial of a pair that is new to the rater, if there is one of a new prompt."""
    query = select(_showings.c.trial).where(_showings.c.trial.is_not(None), _live)
    taken = set(connection.execute(query).scalars())
    seen = {row["pair"] for row in live}
    prompts = {row["prompt"] for row in live if row["kind"] == "pair"}
    known_prompt = None
    for number, trial in enumerate(study.queue):
        if number in taken or trial.pair in seen:
            continue
        if study.pairs[trial.pair].prompt not in prompts:
            return number
        known_prompt = number if known_prompt is None else known_prompt
    return known_prompt
