"""From votes on pairs to comparisons of two sources, strengths of several, and the agreement of raters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import evalica
import numpy as np
import pandas as pd
from scipy import stats
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from latent_shift.study.intervals import (
    Numbers,
    clipped,
    exact_test,
    numbered,
    two_way_interval,
    wilson_interval,
)
from latent_shift.study.results import Comparison, Estimate, Strength
from latent_shift.study.schema import Answer

_STRENGTH_RESAMPLES = 200  # each takes a fit
_ALPHA_RESAMPLES = 1000


def compare(votes: Sequence[Answer], question: str, first: str, second: str) -> Comparison:
    """Compare the sources `first` and `second` by votes on a question, of which others are passed over."""
    votes = [vote for vote in votes if set(vote.sources) == {first, second}]
    values = np.array([value_of(vote, first) for vote in votes])
    by_prompt: dict[int, float] = {}
    for vote, value in zip(votes, values, strict=True):
        by_prompt[vote.prompt] = by_prompt.get(vote.prompt, 0.0) + value - 0.5
    won, lost = sum(one > 0 for one in by_prompt.values()), sum(one < 0 for one in by_prompt.values())
    counted = Counter(values.tolist())
    share = None
    if votes:
        prompts, raters = numbered([vote.prompt for vote in votes]), numbered([vote.rater for vote in votes])
        low, high = two_way_interval(lambda w: (w @ values / w.sum(1))[:, None], prompts, raters)[0]
        if len(set(raters)) > 1 and len(by_prompt) > 1 and len(counted) == 1 and 0.5 not in counted:
            # All votes are equal and vary in no bootstrap: the exact interval over prompts.
            edge = stats.binomtest(len(by_prompt) * int(values[0]), len(by_prompt)).proportion_ci()
            low, high = float(edge.low), float(edge.high)
        share = Estimate(value=float(values.mean()), low=clipped(low), high=clipped(high))
    different = None
    if share is not None and share.low is not None and share.high is not None:
        different = not share.low <= 0.5 <= share.high
    return Comparison(
        question=question,
        first=first,
        second=second,
        votes=(counted[1.0], counted[0.0], counted[0.5]),
        share=share,
        prompts=(won, lost, len(by_prompt) - won - lost),
        prompts_won=wilson_interval(won, won + lost),
        p_value=exact_test(won, won + lost),
        different=different,
        agreement=krippendorff_alpha(votes, first),
    )


def bradley_terry(votes: Sequence[Answer], question: str, names: Sequence[str]) -> list[Strength]:
    """Fit strengths of sources to the votes on a question.

    None where a source has no vote, and where no finite strengths fit: some sources won, or lost, every vote
    against the others, or had none against them (Ford, 1957). An interval is left out where more than one in
    twenty of its resamples are so.
    """
    index = pd.Index(names)
    if {name for vote in votes for name in vote.sources} != set(names):
        return []
    lefts, rights = ([str(vote.sources[side]) for vote in votes] for side in (0, 1))
    outcome = {"left": evalica.Winner.X, "right": evalica.Winner.Y, "none": evalica.Winner.Draw}
    winners = [outcome[vote.choice] for vote in votes]
    beaten = _beaten(votes, names)

    def fit(weights: Numbers) -> Numbers:
        fitted = np.full((len(weights), len(names)), np.nan)
        for place, row in enumerate(weights):
            graph = np.tensordot(row > 0, beaten, 1)
            if connected_components(csr_array(graph), connection="strong", return_labels=False) > 1:
                continue
            scores = evalica.bradley_terry(lefts, rights, winners, index=index, weights=row.tolist()).scores
            logarithms = np.log(scores.loc[list(names)].to_numpy())
            fitted[place] = logarithms - logarithms.mean()
        return fitted

    values = fit(np.ones((1, len(votes))))[0]
    if np.isnan(values).any():
        return []
    prompts, raters = numbered([vote.prompt for vote in votes]), numbered([vote.rater for vote in votes])
    intervals = two_way_interval(fit, prompts, raters, resamples=_STRENGTH_RESAMPLES)
    return [
        Strength(question=question, source=name, strength=Estimate(value=float(value), low=low, high=high))
        for name, value, (low, high) in zip(names, values, intervals, strict=True)
    ]


def _beaten(votes: Sequence[Answer], names: Sequence[str]) -> Numbers:
    """Pairs of sources of which a vote does not call the first worse (A, V, V), no difference both ways."""
    beaten = np.zeros((len(votes), len(names), len(names)))
    for number, vote in enumerate(votes):
        left, right = (names.index(str(name)) for name in vote.sources)
        beaten[number, left, right] = vote.choice != "right"
        beaten[number, right, left] = vote.choice != "left"
    return beaten


def krippendorff_alpha(votes: Sequence[Answer], first: str) -> Estimate | None:
    """Agreement of raters on the prompts of two sources that two or more of them rated, all choices unlike.

    None where no prompt has two votes, or all these votes are the same: there is nothing to agree on, and
    alpha is not defined.
    """
    counts = Counter(vote.prompt for vote in votes)
    votes = [vote for vote in votes if counts[vote.prompt] > 1]
    values = [value_of(vote, first) for vote in votes]
    if len(set(values)) < 2:
        return None
    frame = pd.DataFrame(
        {"rater": [vote.rater for vote in votes], "prompt": [vote.prompt for vote in votes], "value": values}
    )
    table = frame.pivot(index="rater", columns="prompt", values="value")
    found = evalica.alpha_bootstrap(table, n_resamples=_ALPHA_RESAMPLES, random_state=0)
    return Estimate(value=float(found.alpha), low=float(found.low), high=float(found.high))


def value_of(vote: Answer, first: str) -> float:
    """Return 1 for the first source, 0 for the other, a half for no difference."""
    if vote.choice == "none":
        return 0.5
    return float(vote.sources[0 if vote.choice == "left" else 1] == first)
