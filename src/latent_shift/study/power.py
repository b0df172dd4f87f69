"""The power of a design: how often a study of this size would find a given preference.

A share of votes for one of two sources has the standard error

    sqrt(p (1 - p) (1 + (r - 1) c_prompt + (n - 1) c_rater) / (prompts r))

with r raters a pair, n pairs a rater, and the correlations of two raters' votes on a prompt and of one
rater's votes on two prompts, which are assumed: people agree to some extent (Krippendorff's alpha is about
the first), and each has a taste. Found means what it means in the report: the 95 % interval of the share
does not hold 50 %.
"""

from __future__ import annotations

import math

from scipy import stats

SAME_PROMPT = 0.2  # correlation of two raters' votes on one prompt
SAME_RATER = 0.01  # correlation of one rater's votes on two prompts
SHARES = (0.55, 0.60, 0.65)


def standard_error(share: float, prompts: int, raters_per_pair: int, pairs_per_rater: int) -> float:
    """Return the standard error of a share of votes under the assumed correlations.

    Args:
        share: of all votes, 0 to 1.
        prompts: number of them.
        raters_per_pair: answers to each pair.
        pairs_per_rater: of these two sources.
    """
    spread = 1 + (raters_per_pair - 1) * SAME_PROMPT + (pairs_per_rater - 1) * SAME_RATER
    return math.sqrt(share * (1 - share) * spread / (prompts * raters_per_pair))


def power(share: float, prompts: int, raters_per_pair: int, pairs_per_rater: int) -> float:
    """Return the share of studies in which a preference of `share` against 50 % would be found.

    Args:
        share: of all votes, 0 to 1.
        prompts: number of them.
        raters_per_pair: answers to each pair.
        pairs_per_rater: of these two sources.
    """
    error = standard_error(share, prompts, raters_per_pair, pairs_per_rater)
    raters = math.ceil(prompts * raters_per_pair / pairs_per_rater)
    clusters = min(prompts, raters)
    if clusters < 2:
        return 0.0
    reach = stats.t.ppf(0.975, clusters - 1)
    away = abs(share - 0.5) / error
    return float(stats.nct.sf(reach, clusters - 1, away) + stats.nct.cdf(-reach, clusters - 1, away))
