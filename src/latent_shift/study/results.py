"""The results of a study, as `report` writes them to JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


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
    """The results of a study. included: without excluded raters. all_raters: with them; None if none was.

    wanted: ratings of pairs. whole: those that are in, by raters who are not excluded. replaced: those by
    excluded ones; their pairs go to others.
    """

    title: str
    questions: dict[str, str]
    sources: dict[str, str]
    simulated: bool
    wanted: int
    whole: int
    replaced: int
    released: int
    included: Figures
    all_raters: Figures | None
    raters: list[RaterResult]
