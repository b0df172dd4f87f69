"""A study's results as tables, CSV, JSON and one HTML page with the clips."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Sequence
from pathlib import Path

from latent_shift.evaluation.page import render_page
from latent_shift.evaluation.report import Example, Table, escape_markdown
from latent_shift.io import warn
from latent_shift.media import read_clip
from latent_shift.study.design import CLIPS, Study
from latent_shift.study.plots import plots
from latent_shift.study.results import Comparison, Estimate, Figures, RaterResult, Results
from latent_shift.study.schema import Answer

COLUMNS = (
    "rater", "simulated", "excluded", "place", "kind", "counted", "prompt", "left", "right", "question",
    "choice", "chosen", "correct", "seconds", "plays", "answered",
)  # fmt: skip


def tables(results: Results) -> list[Table]:
    """All tables of a report, as text."""
    found = [
        _comparisons("Preferences", results, results.included),
        *([_strengths(results)] if len(results.sources) > 2 else []),
        _care(results),
        _raters(results),
    ]
    if results.all_raters is not None:
        found.insert(
            1, _comparisons("Preferences with excluded raters", results, results.all_raters, explained=False)
        )
    return found


def summary(results: Results) -> list[str]:
    """Sentences about a study, its findings first."""
    lines = [_finding(results, one) for one in results.included.comparisons]
    excluded = sum(bool(rater.excluded) for rater in results.raters)
    counted = f"{results.whole} of {results.wanted} ratings of pairs are in, by {len(results.raters)} raters"
    if excluded:
        counted += f", {excluded} of them excluded by the rule of the study file"
        if results.replaced:
            counted += f": their {results.replaced} ratings are not among these, and their pairs go to others"
    lines.append(counted + ".")
    if results.whole < results.wanted:
        lines.append("The study is not at its end: figures, and what is called different, may still change.")
    if results.released:
        lines.append(f"{results.released} half-answered pairs went on to other raters and are not counted.")
    if results.simulated:
        lines.insert(0, "SIMULATED: these answers were drawn by a program. They say nothing about the clips.")
    return lines


def markdown(results: Results) -> str:
    """The report as Markdown."""
    lines = [f"# {escape_markdown(_title(results))}", ""]
    lines += [f"- {escape_markdown(line)}" for line in summary(results)]
    for table in tables(results):
        lines += ["", f"## {escape_markdown(table.title)}", "", table.markdown()]
        lines += ["", *(f"- {escape_markdown(note)}" for note in table.notes)] if table.notes else []
    return "\n".join([*lines, ""])


def html(results: Results, study: Study, answers: Sequence[Answer], folder: Path, prompts: int) -> str:
    """The report as one page that needs nothing else.

    Args:
        results: of `analyse`.
        study: its study file.
        answers: all of them, for the votes beside the clips.
        folder: of the study.
        prompts: how many are shown with their clips: those with the clearest votes, and the most divided.
    """
    first = Table((), (), notes=summary(results))
    about = f"study of {study.created}, seed {study.options.seed}; " + "; ".join(
        f"{name}: {made_by}" for name, made_by in results.sources.items()
    )
    examples = _examples(results, study, answers, folder, prompts)
    return render_page(_title(results), [first, *tables(results)], plots(results, answers), examples, about)


def csv_text(study: Study, answers: Sequence[Answer], results: Results) -> str:
    """The answers as CSV, one a row."""
    out = {rater.number: rater for rater in results.raters}
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for one in answers:
        rater = out[one.rater]
        left, right = (name or "spoilt" for name in one.sources)
        when = datetime.datetime.fromtimestamp(one.answered, datetime.UTC).isoformat(timespec="milliseconds")
        counted = one.is_vote and not rater.excluded
        writer.writerow(
            {
                "rater": one.rater,
                "simulated": int(rater.simulated),
                "excluded": rater.excluded,
                "place": one.place + 1,
                "kind": one.kind if one.live else f"{one.kind}, released",
                "counted": int(counted),
                "prompt": study.prompts[one.prompt],
                "left": left,
                "right": right,
                "question": one.question,
                "choice": one.choice,
                "chosen": {"left": left, "right": right}.get(one.choice, ""),
                "correct": "" if one.right is None else int(one.right),
                "seconds": one.seconds,
                "plays": one.plays,
                "answered": when,
            }
        )
    return buffer.getvalue()


def _title(results: Results) -> str:
    return f"{results.title} (simulated raters)" if results.simulated else results.title


def _finding(results: Results, one: Comparison) -> str:
    if one.share is None:
        return f"{one.question}: no vote on {one.first} against {one.second} yet."
    found = {
        True: "a difference",
        False: "no difference that chance would not explain",
        None: "too few prompts or raters for an interval",
    }
    if sum(one.votes) == one.votes[2]:
        found[None] = "all of them say that there is no difference"
    return (
        f"{one.question}: {one.first} has {_share(one.share)} of the votes against {one.second}:"
        f" {found[one.different]}."
    )


def _comparisons(title: str, results: Results, figures: Figures, *, explained: bool = True) -> Table:
    headers = (
        "question", "sources", "votes", "share of the first", "prompts won", "ties", "share of prompts",
        "exact test", "different", "agreement",
    )  # fmt: skip
    rows = [
        [
            one.question,
            f"{one.first} : {one.second}",
            _votes(one.votes),
            _share(one.share),
            f"{one.prompts[0]} : {one.prompts[1]}",
            str(one.prompts[2]),
            _share(one.prompts_won),
            _p(one.p_value),
            {True: "yes", False: "no", None: ""}[one.different],
            _number(one.agreement),
        ]
        for one in figures.comparisons
    ]
    notes = [
        *(f"{name}: {text}" for name, text in results.questions.items()),
        "votes: for the first, for the second"
        + (", no difference (counts half)" if any(one.votes[2] for one in figures.comparisons) else ""),
        "share of the first: of votes, 95 % interval over prompts and raters; different: it leaves out 50 %",
        "share of prompts: won by the majority of votes, ties left out, Wilson's 95 % interval; exact test:"
        " binomial, two-sided, over these prompts, for these raters",
        "agreement: Krippendorff's alpha, 1 where raters agree, 0 where they agree as by chance",
    ]
    return Table(headers, rows, title, notes=notes if explained else ())


def _strengths(results: Results) -> Table:
    questions = list(results.questions)
    rows = [
        [one.question, one.source, _number(one.strength)]
        for one in sorted(
            results.included.strengths, key=lambda one: (questions.index(one.question), -one.strength.value)
        )
    ]
    notes = ["natural logarithms, 0 on average: 1 more is 73 % of the votes; 95 % intervals as above"]
    if missing := [question for question in questions if question not in [row[0] for row in rows]]:
        notes.append(
            f"{', '.join(missing)}: no strengths, since no finite ones fit: a source, or some of them, won or"
            " lost every vote against the others, or has none against them yet"
        )
    return Table(("question", "source", "strength"), rows, "Bradley-Terry strengths", notes=notes)


def _care(results: Results) -> Table:
    figures = results.included
    bias = figures.side_bias
    rows = [
        [
            "answers for the left",
            f"{_share(bias.share)}, {bias.left} of {bias.of}, exact test {_p(bias.p_value)}",
        ]
    ]
    rows += [
        [
            f"seconds to answer, {one.question}",
            f"median {one.quartiles[1]:.1f}, half of them {one.quartiles[0]:.1f} to {one.quartiles[2]:.1f},"
            f" one in twenty over {one.slow:.1f}",
        ]
        for one in figures.times
    ]
    same, of = figures.repeats_same, figures.repeats_of
    rows.append(["repeats with swapped sides answered as before", f"{same} of {of}" if of else "none yet"])
    return Table(("", "raters who are not excluded"), rows, "How it was rated", notes=[
        "seconds: from the end of the first whole play; answers are not taken before it"])  # fmt: skip


def _raters(results: Results) -> Table:
    headers = (
        "rater",
        "pairs",
        "items",
        "catch answers right",
        "repeats as before",
        "left",
        "median s",
        "excluded",
    )
    rows = [
        [
            f"{rater.number}{' (simulated)' if rater.simulated else ''}",
            str(rater.pairs),
            f"{rater.done} of {rater.of}",
            f"{rater.catch_right} of {rater.catch_of}",
            f"{rater.repeats_same} of {rater.repeats_of}",
            _left(rater),
            "" if rater.median_seconds is None else f"{rater.median_seconds:.1f}",
            rater.excluded,
        ]
        for rater in results.raters
    ]
    return Table(headers, rows, "Raters")


def _examples(
    results: Results, study: Study, answers: Sequence[Answer], folder: Path, prompts: int
) -> list[Example]:
    out = {rater.number for rater in results.raters if rater.excluded}
    votes = [one for one in answers if one.is_vote and one.rater not in out]
    # By prompt, question and source: votes for it, those for neither, and all votes on pairs that it is in.
    won: dict[tuple[int, str, str], int] = {}
    neither: dict[tuple[int, str, str], int] = {}
    of: dict[tuple[int, str, str], int] = {}
    for vote in votes:
        for side, name in zip(("left", "right"), vote.sources, strict=True):
            key = (vote.prompt, vote.question, str(name))
            of[key] = of.get(key, 0) + 1
            won[key] = won.get(key, 0) + (vote.choice == side)
            neither[key] = neither.get(key, 0) + (vote.choice == "none")
    found = []
    shares = {key: (won[key] + neither[key] / 2) / count for key, count in of.items()}
    for prompt in _shown_prompts(shares, prompts):
        for clip in (clip for clip in study.clips if clip.prompt == prompt and clip.source is not None):
            source = str(clip.source)
            counts = [
                f"{question} {won[key]} of {of[key]}"
                + (f" ({neither[key]} for neither)" if neither[key] else "")
                for question in results.questions
                if (key := (prompt, question, source)) in of
            ]
            try:
                frames, fps = read_clip(folder / CLIPS / f"{clip.id}.mp4")
            except ValueError as error:
                warn(f"{error}; the page does not show it")
                continue
            found.append(Example(study.prompts[prompt], source, frames, ", ".join(counts), fps))
    order = list(results.sources)
    return sorted(found, key=lambda one: (study.prompts.index(one.label), order.index(one.column)))


def _shown_prompts(shares: dict[tuple[int, str, str], float], most: int) -> list[int]:
    """The prompts with the clearest votes and those with the most divided ones, half and half.

    shares: of votes, by prompt, question and source; one for neither counts half.
    """
    spread: dict[int, float] = {}
    for (prompt, _, _), share in shares.items():
        spread[prompt] = max(spread.get(prompt, 0.0), abs(share - 0.5))
    by_spread = sorted(spread, key=lambda prompt: (-spread[prompt], prompt))
    if len(by_spread) <= most:
        return sorted(by_spread)
    clear = most - most // 2
    return [*by_spread[:clear], *by_spread[len(by_spread) - (most - clear) :]]


def _votes(votes: tuple[int, int, int]) -> str:
    first, second, neither = votes
    return f"{first} : {second}" + (f", {neither} neither" if neither else "")


def _left(rater: RaterResult) -> str:
    return f"{100 * rater.left / rater.sided:.0f} %" if rater.sided else ""


def _share(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{100 * estimate.value:.1f} %"
    return f"{100 * estimate.value:.1f} % ({100 * estimate.low:.1f}-{100 * estimate.high:.1f})"


def _number(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
