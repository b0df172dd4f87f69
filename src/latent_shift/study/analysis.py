"""From answers to figures: shares of votes with intervals, tests over prompts, agreement, exclusions.

For each question and each two sources:

- **majority** of each prompt's votes, the share of prompts won with Wilson's interval, and the exact binomial
  test over prompts (votes on one prompt depend on one another), ties left out;
- **share of votes** ("no difference" counts half) with a 95 % interval over prompts and raters: variances by
  the bootstrap (`scipy.stats.bootstrap`) over prompts and over raters, less that over single answers, as both
  contain it (Cameron, Gelbach and Miller, 2011), and Student's t with one less degree of freedom than there
  are raters or prompts. The pigeonhole bootstrap, which redraws both at once, holds that part three times
  (Owen, 2007). A difference is found where this interval does not hold 50 %. Where all votes are equal, the
  exact interval over prompts stands for it;
- **agreement**: Krippendorff's alpha of the votes on pairs (evalica).

From three sources on, Bradley-Terry strengths (evalica) with intervals in the same way. Side bias, response
times, repeats and catch pairs tell how carefully was rated. All figures are made twice, with and without the
raters whom the study's rule excludes. Repeats and answers of released showings are never counted as votes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import evalica
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats

from latent_shift.study.design import Study
from latent_shift.study.schema import Answer, Progress, RaterFacts

RESAMPLES = 1000
_STRENGTH_RESAMPLES = 200  # each takes a fit
_ALPHA_RESAMPLES = 1000
_Numbers = NDArray[np.float64]
_Groups = NDArray[np.int64]


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Result):
    """A value and its 95 % interval; None where there are too few prompts or raters for one."""

    value: float
    low: float | None = None
    high: float | None = None


class Comparison(_Result):
    """Votes on a question for two sources.

    votes: for the first, for the second, for no difference. share: of the first. prompts: majorities for the
    first, for the second, ties. prompts_won: by the first, of those without a tie. p_value: exact, two-sided,
    over prompts. different: whether the interval of the share leaves out 50 %; None without an interval.
    """

    question: str
    first: str
    second: str
    votes: tuple[int, int, int]
    share: Estimate | None
    prompts: tuple[int, int, int]
    prompts_won: Estimate | None
    p_value: float | None
    different: bool | None
    agreement: Estimate | None


class Strength(_Result):
    """A source's Bradley-Terry strength on a question, as a logarithm, 0 on average."""

    question: str
    source: str
    strength: Estimate


class SideBias(_Result):
    """Answers for the left of those for a side, with Wilson's interval and the exact test."""

    left: int
    of: int
    share: Estimate | None
    p_value: float | None


class ResponseTimes(_Result):
    """Seconds from the end of the first whole play to the answer: quartiles and the 95th percentile."""

    question: str
    quartiles: tuple[float, float, float]
    slow: float


class RaterResult(_Result):
    """One rater. repeats_same: repeats answered as before. excluded: why, empty where it is not."""

    number: int
    simulated: bool
    done: int
    of: int
    pairs: int
    catch_right: int
    catch_of: int
    repeats_same: int
    repeats_of: int
    left: int
    sided: int
    median_seconds: float | None
    excluded: str


class Figures(_Result):
    """All figures of some raters."""

    raters: int
    answers: int
    comparisons: list[Comparison]
    strengths: list[Strength]
    side_bias: SideBias
    times: list[ResponseTimes]
    repeats_same: int
    repeats_of: int


class Results(_Result):
    """The results of a study. included: without excluded raters. all_raters: with them; None if none was."""

    title: str
    questions: dict[str, str]
    sources: dict[str, str]
    simulated: bool
    wanted: int
    whole: int
    released: int
    included: Figures
    all_raters: Figures | None
    raters: list[RaterResult]


def analyse(
    study: Study, answers: Sequence[Answer], raters: Sequence[RaterFacts], progress: Progress
) -> Results:
    """Return a study's results.

    Args:
        study: its study file.
        answers: all of them.
        raters: all of them; those without an answer are left out.
        progress: of the study.

    Raises:
        ValueError: where there is no answer to a pair yet.
    """
    if not any(_is_vote(answer) for answer in answers):
        raise ValueError("no pair is answered yet; the report needs answers")
    present = {answer.rater for answer in answers}
    judged = [judge_rater(study, rater, answers) for rater in raters if rater.number in present]
    out = {rater.number for rater in judged if rater.excluded}
    kept = [answer for answer in answers if answer.rater not in out]
    released = len({(one.rater, one.place) for one in answers if not one.live})
    return Results(
        title=study.options.title,
        questions={question.id: question.text for question in study.options.questions},
        sources={source.name: source.made_by for source in study.sources},
        simulated=any(rater.simulated for rater in judged),
        wanted=progress.wanted,
        whole=progress.whole,
        released=released,
        included=figures(study, kept),
        all_raters=figures(study, answers) if out else None,
        raters=judged,
    )


def judge_rater(study: Study, rater: RaterFacts, answers: Sequence[Answer]) -> RaterResult:
    """Apply the study's rule of exclusion to a rater."""
    rule = study.options.rule
    own = [answer for answer in answers if answer.rater == rater.number]
    catches = [answer for answer in own if answer.kind == "catch"]
    right = sum(bool(answer.right) for answer in catches)
    rated = [one for one in own if one.kind in ("pair", "repeat") and one.live and one.choice != "none"]
    left = sum(answer.choice == "left" for answer in rated)
    same, repeats = _repeats(own)
    reasons = []
    if len(catches) >= rule.min_catch_answers and right < rule.catch_right * len(catches):
        reasons.append(
            f"{right} of {len(catches)} catch answers right, the rule asks for {100 * rule.catch_right:.0f} %"
        )
    most = max(left, len(rated) - left)
    if len(rated) >= rule.min_answers and most > rule.same_side * len(rated):
        reasons.append(
            f"{most} of {len(rated)} answers for one side, the rule allows {100 * rule.same_side:.0f} %"
        )
    seconds = [answer.seconds for answer in own if answer.kind == "pair"]
    return RaterResult(
        number=rater.number,
        simulated=rater.simulated,
        done=rater.done,
        of=rater.of,
        pairs=len({answer.place for answer in own if _is_vote(answer)}),
        catch_right=right,
        catch_of=len(catches),
        repeats_same=same,
        repeats_of=repeats,
        left=left,
        sided=len(rated),
        median_seconds=float(np.median(seconds)) if seconds else None,
        excluded="; ".join(reasons),
    )


def figures(study: Study, answers: Sequence[Answer]) -> Figures:
    """Compute all figures of answers."""
    names = [source.name for source in study.sources]
    comparisons, strengths, times = [], [], []
    for question in study.options.questions:
        votes = [answer for answer in answers if answer.question == question.id and _is_vote(answer)]
        comparisons += [compare(votes, question.id, *both) for both in combinations(names, 2)]
        if len(names) > 2:
            strengths += bradley_terry(votes, question.id, names)
        if votes:
            quartiles = np.percentile([vote.seconds for vote in votes], (25, 50, 75, 95))
            first, middle, third, slow = (round(float(one), 2) for one in quartiles)
            times.append(ResponseTimes(question=question.id, quartiles=(first, middle, third), slow=slow))
    sided = [one for one in answers if one.kind in ("pair", "repeat") and one.live and one.choice != "none"]
    left = sum(answer.choice == "left" for answer in sided)
    same, repeats = _repeats(answers)
    return Figures(
        raters=len({answer.rater for answer in answers}),
        answers=sum(_is_vote(answer) for answer in answers),
        comparisons=comparisons,
        strengths=strengths,
        side_bias=SideBias(
            left=left,
            of=len(sided),
            share=_wilson(left, len(sided)),
            p_value=_exact(left, len(sided)),
        ),
        times=times,
        repeats_same=same,
        repeats_of=repeats,
    )


def compare(votes: Sequence[Answer], question: str, first: str, second: str) -> Comparison:
    """Compare the sources `first` and `second` by votes on a question, of which others are passed over."""
    votes = [vote for vote in votes if set(vote.sources) == {first, second}]
    values = np.array([_value(vote, first) for vote in votes])
    by_prompt: dict[int, float] = {}
    for vote, value in zip(votes, values, strict=True):
        by_prompt[vote.prompt] = by_prompt.get(vote.prompt, 0.0) + value - 0.5
    won, lost = sum(one > 0 for one in by_prompt.values()), sum(one < 0 for one in by_prompt.values())
    counted = Counter(values.tolist())
    share = None
    if votes:
        prompts, raters = _groups([vote.prompt for vote in votes]), _groups([vote.rater for vote in votes])
        low, high = two_way_interval(lambda w: (w @ values / w.sum(1))[:, None], prompts, raters)[0]
        if len(set(raters)) > 1 and len(by_prompt) > 1 and len(counted) == 1 and 0.5 not in counted:
            # All votes are equal and vary in no bootstrap: the exact interval over prompts.
            edge = stats.binomtest(len(by_prompt) * int(values[0]), len(by_prompt)).proportion_ci()
            low, high = float(edge.low), float(edge.high)
        share = Estimate(value=float(values.mean()), low=_clipped(low), high=_clipped(high))
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
        prompts_won=_wilson(won, won + lost),
        p_value=_exact(won, won + lost),
        different=different,
        agreement=krippendorff_alpha(votes, first),
    )


def two_way_interval(
    statistic: Callable[[_Numbers], _Numbers],
    prompts: _Groups,
    raters: _Groups,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[tuple[float | None, float | None]]:
    """Return the 95 % interval of each value of a statistic, over prompts and raters.

    Args:
        statistic: takes weights of the answers (R, A), returns R times its V values, (R, V).
        prompts: of each answer, numbered from 0 (A,).
        raters: of each answer, numbered from 0 (A,).
        resamples: of each of the three bootstraps.
        seed: of the resamples.

    The bounds are None where there are fewer than two prompts or raters, or all values are equal.
    """
    values = statistic(np.ones((1, len(prompts))))[0]
    clusters = min(prompts.max(), raters.max()) + 1
    if clusters < 2:
        return [(None, None)] * len(values)
    variances = [
        _variances(statistic, groups, resamples, seed + number)
        for number, groups in enumerate((prompts, raters, np.arange(len(prompts))))
    ]
    both = variances[0] + variances[1] - variances[2]
    # Drawn from few prompts or raters the sum may come out below the part of single answers; no truth does.
    error = np.sqrt(np.maximum(both, variances[2]))
    reach = stats.t.ppf(0.975, clusters - 1) * error
    return [
        (float(value - half), float(value + half)) if half > 0 else (None, None)
        for value, half in zip(values, reach, strict=True)
    ]


def _variances(
    statistic: Callable[[_Numbers], _Numbers], groups: _Groups, resamples: int, seed: int
) -> _Numbers:
    """Variances of a statistic's values (V,) over groups of answers, redrawn with replacement."""
    count = int(groups.max()) + 1

    def of_redrawn(drawn: NDArray[np.int64], axis: int = -1) -> _Numbers:
        drawn = drawn.reshape(-1, count)
        rows = np.arange(len(drawn))[:, None] * count
        times = np.bincount((drawn + rows).ravel(), minlength=drawn.size).reshape(-1, count)
        return statistic(times[:, groups].astype(np.float64)).T

    redrawn = stats.bootstrap(
        (np.arange(count),),
        of_redrawn,
        n_resamples=resamples,
        batch=resamples,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).bootstrap_distribution
    return np.asarray(redrawn.var(axis=-1, ddof=1))


def bradley_terry(votes: Sequence[Answer], question: str, names: Sequence[str]) -> list[Strength]:
    """Fit strengths of sources to the votes on a question; none where a source has no vote."""
    index = pd.Index(names)
    if {name for vote in votes for name in vote.sources} != set(names):
        return []
    lefts, rights = ([str(vote.sources[side]) for vote in votes] for side in (0, 1))
    outcome = {"left": evalica.Winner.X, "right": evalica.Winner.Y, "none": evalica.Winner.Draw}
    winners = [outcome[vote.choice] for vote in votes]

    def fit(weights: _Numbers) -> _Numbers:
        fitted = []
        for row in weights:
            scores = evalica.bradley_terry(lefts, rights, winners, index=index, weights=row.tolist()).scores
            logarithms = np.log(np.maximum(scores.loc[list(names)].to_numpy(), 1e-9))
            fitted.append(logarithms - logarithms.mean())
        return np.array(fitted)

    values = fit(np.ones((1, len(votes))))[0]
    prompts, raters = _groups([vote.prompt for vote in votes]), _groups([vote.rater for vote in votes])
    intervals = two_way_interval(fit, prompts, raters, resamples=_STRENGTH_RESAMPLES)
    return [
        Strength(question=question, source=name, strength=Estimate(value=float(value), low=low, high=high))
        for name, value, (low, high) in zip(names, values, intervals, strict=True)
    ]


def krippendorff_alpha(votes: Sequence[Answer], first: str) -> Estimate | None:
    """Agreement of raters on the prompts of two sources; None where no prompt has two votes, or all agree.

    Where every vote is the same there is nothing to agree on, and alpha is not defined.
    """
    values = [_value(vote, first) for vote in votes]
    counts = Counter(vote.prompt for vote in votes)
    if len(set(values)) < 2 or max(counts.values(), default=0) < 2:
        return None
    frame = pd.DataFrame(
        {"rater": [vote.rater for vote in votes], "prompt": [vote.prompt for vote in votes], "value": values}
    )
    table = frame.pivot(index="rater", columns="prompt", values="value")
    found = evalica.alpha_bootstrap(table, n_resamples=_ALPHA_RESAMPLES, random_state=0)
    return Estimate(value=float(found.alpha), low=float(found.low), high=float(found.high))


def _is_vote(answer: Answer) -> bool:
    return answer.kind == "pair" and answer.live and answer.whole


def _value(vote: Answer, first: str) -> float:
    """1 for the first source, 0 for the other, a half for no difference."""
    if vote.choice == "none":
        return 0.5
    return float(vote.sources[0 if vote.choice == "left" else 1] == first)


def _repeats(answers: Sequence[Answer]) -> tuple[int, int]:
    """Repeated questions answered as before, and all of them."""
    before = {(one.rater, one.pair, one.question): one for one in answers if one.kind == "pair" and one.live}
    same = of = 0
    for again in (answer for answer in answers if answer.kind == "repeat"):
        first = before.get((again.rater, again.pair, again.question))
        if first is not None:
            of += 1
            same += _chosen(first) == _chosen(again)
    return same, of


def _chosen(answer: Answer) -> str | None:
    return None if answer.choice == "none" else answer.sources[0 if answer.choice == "left" else 1]


def _groups(labels: Sequence[int]) -> _Groups:
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _clipped(share: float | None) -> float | None:
    return None if share is None else min(max(share, 0.0), 1.0)


def _wilson(right: int, of: int) -> Estimate | None:
    if not of:
        return None
    found = stats.binomtest(right, of).proportion_ci(method="wilson")
    return Estimate(value=right / of, low=float(found.low), high=float(found.high))


def _exact(right: int, of: int) -> float | None:
    return float(stats.binomtest(right, of).pvalue) if of else None
