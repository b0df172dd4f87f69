"""A collection read once from end to end: what is in it, and each bad file with its reason.

`inspect(listing)` decodes every frame of every file, in several processes, and gives a `Report`: its
`summary` is for people, its `as_json` for programs. Nothing is changed. What a visit sees is `videos.py`'s.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from latent_shift.data.manifest import ClipRecord, Manifest
from latent_shift.media import Facts, HeldFile, open_clip

SHOWN = 20  # lines of one kind in a summary

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Finding:
    """One entry after its file was read."""

    key: str
    digest: str = ""  # SHA-256 of the file; empty where it cannot be read at all
    facts: Facts | None = None
    frames: int = 0  # that can be decoded
    reason: str = ""  # why it is bad; empty for a good one


@dataclass(frozen=True)
class Report:
    """What a collection holds."""

    listing: Manifest
    findings: tuple[Finding, ...]

    @property
    def bad(self) -> list[tuple[str, str]]:
        """Where and why: what the source already left out, then the files that cannot be read."""
        left_out = [(problem.where, problem.reason) for problem in self.listing.problems]
        return left_out + [(one.key, one.reason) for one in self.findings if one.reason]

    @property
    def duplicates(self) -> list[list[str]]:
        """Keys of entries whose files are byte for byte the same; pieces of one file are none."""
        same: dict[str, dict[str, str]] = defaultdict(dict)
        places = {entry.key: str(entry.place) for entry in self.listing.entries}
        for one in self.findings:
            if one.digest:
                same[one.digest].setdefault(places[one.key], one.key)
        return [list(keys.values()) for keys in same.values() if len(keys) > 1]

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        good = [one for one in self.findings if one.facts is not None and not one.reason]
        facts = [one.facts for one in good if one.facts is not None]
        clips = [fact for fact in facts if fact.kind == "clip"]
        said = [caption for entry in self.listing.entries for caption in entry.captions]
        longest = max(said, key=len)
        again = [caption for caption, times in Counter(said).items() if times > 1]
        return {
            "source": self.listing.source,
            "entries": len(self.listing.entries),
            "clips": len(clips),
            "images": len(facts) - len(clips),
            "frames": sum(one.frames for one in good),
            "seconds": _spread([fact.duration for fact in clips]),
            "frame_rates": _counts(f"{fact.fps:.4g}" for fact in clips),
            "sizes": _counts(f"{fact.width}x{fact.height}" for fact in facts),
            "codecs": _counts(fact.codec for fact in facts),
            "captions": {
                "number": len(said),
                "missing": sum("caption" in problem.reason for problem in self.listing.problems),
                "said_more_than_once": len(again),
                "words": _spread([float(len(caption.split())) for caption in said]),
                "longest": longest,
            },
            "duplicate_files": self.duplicates,
            "bad": [{"key": key, "reason": reason} for key, reason in self.bad],
            "notes": list(self.listing.notes),
        }

    def summary(self) -> str:
        """The same in some lines, for people."""
        told = self.as_json()
        captions = told["captions"]
        lines = [
            f"{told['source']}: {told['clips']} clips and {told['images']} images can be read",
            f"  seconds      {_spread_text(told['seconds'])}; {told['frames']} frames in all",
            f"  frame rates  {_counts_text(told['frame_rates'])}",
            f"  sizes        {_counts_text(told['sizes'])}",
            f"  codecs       {_counts_text(told['codecs'])}",
            f"  captions     {captions['number']}, {captions['said_more_than_once']} said more than once,"
            f" {captions['missing']} missing; words {_spread_text(captions['words'], total=False)}",
            f"  longest      {captions['longest']}",
        ]
        same = [f"  {' = '.join(keys)}" for keys in told["duplicate_files"]]
        bad = [f"  {key}: {reason}" for key, reason in self.bad]
        lines += _section("the same file more than once", same) + _section("bad, left out", bad)
        return "\n".join(lines + _section("notes", [f"  {note}" for note in told["notes"]]))


def inspect(
    listing: Manifest, *, workers: int = 1, report: Callable[[int], None] = lambda done: None
) -> Report:
    """Read every file of a listing from end to end; report(n) is told when n entries are done."""
    findings = []
    for finding in in_parallel(inspect_entry, listing.entries, workers):
        findings.append(finding)
        report(len(findings))
    return Report(listing, tuple(findings))


def inspect_entry(entry: ClipRecord) -> Finding:
    """Decode all of an entry's file."""
    try:
        file = entry.place.open()
        digest = _digest(file)
    except (ValueError, OSError) as error:
        return Finding(entry.key, reason=_without(str(error), entry))
    try:
        with open_clip(file) as clip:
            facts, frames = clip.facts, clip.count_frames()
    except ValueError as error:
        return Finding(entry.key, digest, reason=_without(str(error), entry))
    reason = ""
    if facts.kind != entry.kind:
        reason = f"holds {'a clip' if facts.kind == 'clip' else 'an image'}, not what its name says"
    elif entry.start is not None and entry.start >= facts.duration:
        reason = f"its piece starts at {entry.start:g} s, but the clip ends at {facts.duration:.4g} s"
    return Finding(entry.key, digest, facts, frames, reason)


def in_parallel(work: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """The results of all tasks in their order; done here for one worker, else by fresh processes."""
    if workers < 1:
        raise ValueError(f"workers {workers}: give 1 or more")
    if workers == 1:
        yield from map(work, tasks)
        return
    with ExitStack() as closing:
        # Fresh processes, not forks: a fork of a process with threads may hang.
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
        closing.callback(pool.shutdown, cancel_futures=True)
        yield from pool.map(work, tasks, chunksize=min(max(len(tasks) // (8 * workers), 1), 64))


def _digest(file: Any) -> str:
    if isinstance(file, HeldFile):
        return hashlib.sha256(file.data).hexdigest()
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _without(message: str, entry: ClipRecord) -> str:
    """A reason without the file's name in front, which stands beside it anyway."""
    return message.removeprefix(f"{entry.place}: ")


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    spread = {"total": sum(values), "least": min(values), "median": statistics.median(values)}
    return {name: round(value, 3) for name, value in {**spread, "most": max(values)}.items()}


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _spread_text(spread: dict[str, float], *, total: bool = True) -> str:
    if not spread:
        return "none"
    told = f"{spread['least']:g} to {spread['most']:g}, half of them up to {spread['median']:g}"
    return f"{told}, {spread['total']:g} in all" if total else told


def _counts_text(counts: dict[str, int]) -> str:
    shown = [f"{value} ({times})" for value, times in list(counts.items())[:SHOWN]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} others" if more else "") if shown else "none"


def _section(title: str, lines: list[str]) -> list[str]:
    if not lines:
        return []
    more = [f"  and {len(lines) - SHOWN} more; --json lists all"] if len(lines) > SHOWN else []
    return [f"{title}: {len(lines)}", *lines[:SHOWN], *more]
