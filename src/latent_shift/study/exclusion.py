"""The study's rule of exclusion, applied to a rater's answers.

The report excludes by it, and the store gives an excluded rater's pairs to others: one rule, judged alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from latent_shift.study.design import Rule
from latent_shift.study.schema import Answer


@dataclass(frozen=True)
class Conduct:
    """Conduct of a rater. left: answers for the left, of `sided` answers for a side.

    excluded: why, empty where the rule does not exclude.
    """

    catch_right: int
    catch_of: int
    left: int
    sided: int
    excluded: str


def judge(rule: Rule, answers: Sequence[Answer]) -> Conduct:
    """Apply a rule to all answers of one rater."""
    catches = [answer for answer in answers if answer.kind == "catch"]
    right = sum(bool(answer.right) for answer in catches)
    sided = [one for one in answers if one.is_sided]
    left = sum(answer.choice == "left" for answer in sided)
    reasons = []
    if len(catches) >= rule.min_catch_answers and right < rule.catch_right * len(catches):
        reasons.append(
            f"{right} of {len(catches)} catch answers right, the rule asks for {100 * rule.catch_right:.0f} %"
        )
    most = max(left, len(sided) - left)
    if len(sided) >= rule.min_answers and most > rule.same_side * len(sided):
        reasons.append(
            f"{most} of {len(sided)} answers for one side, the rule allows {100 * rule.same_side:.0f} %"
        )
    return Conduct(right, len(catches), left, len(sided), "; ".join(reasons))
