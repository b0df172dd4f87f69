"""A collection read once from end to end: statistics, and each bad file with its reason.

`inspect(manifest)` decodes every frame of every file, in several processes, and gives a `Report`: its
`summary` is for people, its `as_json` for programs. Nothing is changed.
"""

from __future__ import annotations

import multiprocessing
import signal
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from latent_shift.data.manifest import ClipRecord, Manifest
from latent_shift.hashes import file_sha256
from latent_shift.io import printable
from latent_shift.media import Facts, HeldFile, open_clip

MAX_LINES = 20  # of one kind in a summary

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Finding:
    """One record after its file was read."""

    key: str
    sha256: str = ""  # of the file; empty where it cannot be read at all
    facts: Facts | None = None
    frames: int = 0  # that can be decoded
    reason: str = ""  # why it is bad; empty for a good one
    notes: tuple[str, ...] = ()  # on how its frames are shown


@dataclass(frozen=True)
class Report:
    """Statistics of a collection."""

    manifest: Manifest
    findings: tuple[Finding, ...]

    @property
    def bad(self) -> list[tuple[str, str]]:
        """Place and reason of the source's problems, then of the files that cannot be read."""
        problems = [(problem.where, problem.reason) for problem in self.manifest.problems]
        return problems + [(one.key, one.reason) for one in self.findings if one.reason]

    @property
    def duplicates(self) -> list[list[str]]:
        """Keys of records with identical files; pieces of one file are no duplicates."""
        same: dict[str, dict[str, str]] = defaultdict(dict)  # key by file, by hash
        for record, one in zip(self.manifest.records, self.findings, strict=True):
            if one.sha256:
                same[one.sha256].setdefault(str(record.file), one.key)
        return [list(keys.values()) for keys in same.values() if len(keys) > 1]

    def _notes(self) -> list[str]:
        return [f"{one.key}: {note}" for one in self.findings for note in one.notes]

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        good = [(one.facts, one.frames) for one in self.findings if one.facts is not None and not one.reason]
        clips = [facts for facts, _ in good if facts.kind == "clip"]
        captions = [caption for record in self.manifest.records for caption in record.captions]
        return {
            "source": self.manifest.source,
            "entries": len(self.manifest.records),
            "clips": len(clips),
            "images": len(good) - len(clips),
            "frames": sum(frames for _, frames in good),
            "seconds": _spread([facts.duration for facts in clips]),
            "frame_rates": _counts(f"{facts.fps:.4g}" for facts in clips),
            "sizes": _counts(f"{facts.width}x{facts.height}" for facts, _ in good),
            "codecs": _counts(facts.codec for facts, _ in good),
            "captions": {
                "number": len(captions),
                "missing": sum("caption" in problem.reason for problem in self.manifest.problems),
                "said_more_than_once": sum(times > 1 for times in Counter(captions).values()),
                "words": _spread([float(len(caption.split())) for caption in captions]),
                "longest": max(captions, key=len),
            },
            "duplicate_files": self.duplicates,
            "bad": [{"key": key, "reason": reason} for key, reason in self.bad],
            "notes": [*self.manifest.notes, *self._notes()],
        }

    def summary(self) -> str:
        """The same in some lines, for people."""
        report = self.as_json()
        captions = report["captions"]
        lines = [
            f"{report['source']}: {report['clips']} clips and {report['images']} images can be read",
            f"  seconds      {_spread_text(report['seconds'])}; {report['frames']} frames in all",
            f"  frame rates  {_counts_text(report['frame_rates'])}",
            f"  sizes        {_counts_text(report['sizes'])}",
            f"  codecs       {_counts_text(report['codecs'])}",
            f"  captions     {captions['number']}, {captions['said_more_than_once']} said more than once,"
            f" {captions['missing']} missing; words {_spread_text(captions['words'], total=False)}",
            f"  longest      {captions['longest']}",
            *_section("the same file more than once", [" = ".join(keys) for keys in self.duplicates]),
            *_section("bad, left out", [f"{key}: {reason}" for key, reason in self.bad]),
            *_section("notes", report["notes"]),
        ]
        return "\n".join(lines)


def inspect(
    manifest: Manifest, *, workers: int = 1, report: Callable[[int], None] = lambda done: None
) -> Report:
    """Read every file of a manifest from end to end; report(n) is called when n records are done."""
    findings = []
    for finding in in_parallel(inspect_record, manifest.records, workers):
        findings.append(finding)
        report(len(findings))
    return Report(manifest, tuple(findings))


def inspect_record(record: ClipRecord) -> Finding:
    """Decode all of a record's file."""
    digest = ""
    try:
        file = record.file.open()
        digest = sha256(file.data).hexdigest() if isinstance(file, HeldFile) else file_sha256(Path(file))
        with open_clip(file) as clip:
            facts, frames = clip.facts, clip.count_frames()
            notes = clip.notes
    except (ValueError, OSError) as error:
        # The file's name in front is left out: the key stands beside it.
        return Finding(record.key, digest, reason=printable(str(error).removeprefix(f"{record.file}: ")))
    reason = ""
    if facts.kind != record.kind:
        reason = f"holds {'a clip' if facts.kind == 'clip' else 'an image'}, not what its name says"
    elif record.start is not None and record.start >= facts.duration:
        reason = f"its piece starts at {record.start:g} s, but the clip ends at {facts.duration:.4g} s"
    elif record.end is not None and record.end > facts.duration + 1:  # times may be rounded to seconds
        notes = (*notes, f"its piece ends at {record.end:g} s, but the clip at {facts.duration:.4g} s")
    return Finding(record.key, digest, facts, frames, reason, notes)


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """Yield the results of all items in their order, from `workers` new processes; 1 for this process."""
    if workers < 1:
        raise ValueError(f"workers {workers}: give 1 or more")
    if workers == 1:
        yield from map(work, items)
        return
    # New processes, not forks: a fork of a process with threads may hang.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_heed_signals
    )
    try:
        yield from pool.map(work, items, chunksize=min(max(len(items) // (8 * workers), 1), 64))
    except BrokenProcessPool as error:
        raise ValueError(
            "a process that reads files ended at once, perhaps for a lack of memory; try --workers 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _heed_signals() -> None:
    """Leave Ctrl-C, which a terminal sends to all, to the process that waits for this one.

    SIGTERM of a whole group ends a `with` and what it has half written.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


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
    text = f"{spread['least']:g} to {spread['most']:g}, half of them up to {spread['median']:g}"
    return f"{text}, {spread['total']:g} in all" if total else text


def _counts_text(counts: dict[str, int]) -> str:
    shown = [f"{value} ({times})" for value, times in list(counts.items())[:MAX_LINES]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} others" if more else "") if shown else "none"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    """A heading with the number of lines, and the first of them; nothing where there are none."""
    if not lines:
        return []
    more = [f"  and {len(lines) - MAX_LINES} more; --json lists all"] if len(lines) > MAX_LINES else []
    return [f"{title}: {len(lines)}", *(f"  {line}" for line in lines[:MAX_LINES]), *more]
