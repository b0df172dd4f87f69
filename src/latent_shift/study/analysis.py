"""From answers to figures: shares of votes with intervals, tests over prompts, agreement, exclusions.

For each question and each two sources:

- **majority** of each prompt's votes, the share of prompts won with Wilson's interval, and the exact binomial
  test over prompts (votes on one prompt depend on one another), ties left out;
- **share of votes** ("no difference" counts half) with a 95 % interval over prompts and raters
  (`intervals.two_way_interval`). A difference is found where this interval does not hold 50 %. Where all
  votes are equal, the exact interval over prompts stands for it;
- **agreement**: Krippendorff's alpha of the votes on pairs (evalica).

From three sources on, Bradley-Terry strengths (evalica) with intervals in the same way. Side bias, response
times, repeats and catch pairs tell how carefully was rated. All figures are made twice, with and without the
raters whom the study's rule excludes. Repeats and answers of released showings are never counted as votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from latent_shift.study.design import Study
from latent_shift.study.exclusion import judge
from latent_shift.study.intervals import exact_test, wilson_interval
from latent_shift.study.results import Figures, RaterResult, ResponseTimes, Results, SideBias
from latent_shift.study.schema import Answer, Progress, RaterFacts
from latent_shift.study.votes import bradley_terry, compare


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
    if not any(answer.is_vote for answer in answers):
        raise ValueError("no pair is answered yet; the report needs answers")
    present = {answer.rater for answer in answers}
    judged = [judge_rater(study, rater, answers) for rater in raters if rater.number in present]
    out = {rater.number for rater in judged if rater.excluded}
    kept = [answer for answer in answers if answer.rater not in out]
    released = len({(one.rater, one.place) for one in answers if not one.live})
    rated = {(one.rater, one.place): one.rater in out for one in answers if one.is_vote}
    return Results(
        title=study.options.title,
        questions={question.id: question.text for question in study.options.questions},
        sources={source.name: source.made_by for source in study.sources},
        simulated=any(rater.simulated for rater in judged),
        wanted=progress.wanted,
        whole=sum(not is_out for is_out in rated.values()),
        replaced=sum(rated.values()),
        released=released,
        included=figures(study, kept),
        all_raters=figures(study, answers) if out else None,
        raters=judged,
    )


def judge_rater(study: Study, rater: RaterFacts, answers: Sequence[Answer]) -> RaterResult:
    """Apply the study's rule of exclusion to a rater."""
    own = [answer for answer in answers if answer.rater == rater.number]
    conduct = judge(study.options.rule, own)
    same, repeats = _repeats(own)
    seconds = [answer.seconds for answer in own if answer.kind == "pair"]
    return RaterResult(
        number=rater.number,
        simulated=rater.simulated,
        done=rater.done,
        of=rater.of,
        pairs=len({answer.place for answer in own if answer.is_vote}),
        catch_right=conduct.catch_right,
        catch_of=conduct.catch_of,
        repeats_same=same,
        repeats_of=repeats,
        left=conduct.left,
        sided=conduct.sided,
        median_seconds=float(np.median(seconds)) if seconds else None,
        excluded=conduct.excluded,
    )


def figures(study: Study, answers: Sequence[Answer]) -> Figures:
    """Compute all figures of answers."""
    names = [source.name for source in study.sources]
    comparisons, strengths, times = [], [], []
    for question in study.options.questions:
        votes = [answer for answer in answers if answer.question == question.id and answer.is_vote]
        comparisons += [compare(votes, question.id, *both) for both in combinations(names, 2)]
        if len(names) > 2:
            strengths += bradley_terry(votes, question.id, names)
        if votes:
            quartiles = np.percentile([vote.seconds for vote in votes], (25, 50, 75, 95))
            first, middle, third, slow = (round(float(one), 2) for one in quartiles)
            times.append(ResponseTimes(question=question.id, quartiles=(first, middle, third), slow=slow))
    sided = [one for one in answers if one.is_sided]
    left = sum(answer.choice == "left" for answer in sided)
    same, repeats = _repeats(answers)
    return Figures(
        raters=len({answer.rater for answer in answers}),
        answers=sum(answer.is_vote for answer in answers),
        comparisons=comparisons,
        strengths=strengths,
        side_bias=SideBias(
            left=left,
            of=len(sided),
            share=wilson_interval(left, len(sided)),
            p_value=exact_test(left, len(sided)),
        ),
        times=times,
        repeats_same=same,
        repeats_of=repeats,
    )


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
