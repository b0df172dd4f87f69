"""Any folder of clips against any other: the protocol behind `latent-shift evaluate folders`.

The reference is a folder, or a file of features that was kept; every other folder is a subject. With `floor`,
some clips of the reference are held out and stand as a subject of their own: how far real clips are from
other real clips, below which no figure means anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from latent_shift.evaluation.extractors.interface import Extractor, TextExtractor
from latent_shift.evaluation.features.files import Features, read_features, write_features
from latent_shift.evaluation.features.passing import (
    BATCH,
    Measured,
    Pixels,
    measure_clips,
    named_batches,
    settings_of,
)
from latent_shift.evaluation.features.reading import Reading, Survey, caption_of, choose, read_one, survey
from latent_shift.evaluation.report.figures import Choices, Figures, Texts, all_figures, captions_of
from latent_shift.evaluation.report.model import Column, Report, Subject
from latent_shift.evaluation.report.page import Shown

Show = Callable[[str, int, int], None]  # what is measured, clips done, of how many
FLOOR_NAME = "real, held out"


@dataclass(frozen=True)
class Request:
    """How folders are compared.

    clips: of each generated folder, drawn by the seed; None for all. floor: clips of the reference to hold
    out. keep: a folder for the features, to be used again. allow_*: leave such files out instead of refusing.
    """

    reading: Reading = field(default_factory=Reading)
    choices: Choices = field(default_factory=Choices)
    clips: int | None = None
    floor: int = 0
    batch: int = BATCH
    keep: Path | None = None
    keep_rows: bool = True
    allow_unreadable: bool = False
    allow_short: bool = False


@dataclass
class _Set:
    """Clips to measure: their files, what the survey told, and the name they get."""

    name: str
    found: Survey
    files: list[Path] = field(default_factory=list)


def compare_folders(
    real: Path, generated: Sequence[Path], extractors: Sequence[Extractor], request: Request, show: Show
) -> Report:
    """Every figure of each generated folder, beside the reference.

    Raises ValueError for folders that cannot be used (see `survey`), too few clips, folders of one name, and
    a file of features made with other settings.
    """
    sets = [_chosen(folder, request) for folder in generated]
    _check_names([one.name for one in sets])
    reference, held_out = _reference(real, extractors, request, show)
    sets = [*([held_out] if held_out else []), *sets]
    columns: dict[str, Column] = {}
    subjects = []
    for one in sets:
        measured = _measure(one, extractors, request, show)
        figures = all_figures(measured, reference, _texts(one, measured, extractors), request.choices)
        columns |= {key: column for key, (column, _) in figures.items()}
        subjects.append(_subject(one.name, measured, figures))
    notes = [note for one in sets for note in _left_out(one.found)]
    title = f"{', '.join(one.name for one in sets)} against {reference.source}"
    return Report(title=title, columns=list(columns.values()), subjects=subjects, notes=notes)


def examples(folders: Sequence[Path], request: Request, count: int) -> list[Shown]:
    """The first clips of each folder, side by side; those of one file name on one line."""
    shown = []
    for folder in folders:
        one = _chosen(folder, request)
        for place, file in enumerate(one.files[:count], 1):
            row = caption_of(file) or f"clip {place}"
            shown.append(Shown(row, one.name, read_one(file, request.reading), one.found.name(file)))
    return shown


def _reference(
    real: Path, extractors: Sequence[Extractor], request: Request, show: Show
) -> tuple[Measured, _Set | None]:
    """The reference, measured, and the clips held out of it."""
    if real.is_file():
        if request.floor:
            raise ValueError(f"{real}: is a file of features; only of a folder can clips be held out")
        features = read_features(real)
        name = features.settings.extractor
        if name not in {extractor.facts.name for extractor in extractors}:
            raise ValueError(f"{real}: holds features of {name}; measure with that extractor")
        return Measured(features.provenance.source, {name: features}, Pixels(), list(features.clips)), None
    whole = _chosen(real, replace(request, clips=None))
    held_out = None
    if request.floor:
        if request.floor >= len(whole.files) - 1:
            raise ValueError(
                f"{request.floor} clips cannot be held out of the {len(whole.files)} in {real};"
                " leave two or more"
            )
        apart = set(choose(whole.files, request.floor, request.choices.seed))
        held_out = _Set(FLOOR_NAME, whole.found, [file for file in whole.files if file in apart])
        whole.files = [file for file in whole.files if file not in apart]
    return _kept_or_measured(whole, extractors, request, show), held_out


def reference_of(folder: Path, extractors: Sequence[Extractor], request: Request, show: Show) -> Measured:
    """A folder of real clips, measured; what `request.keep` holds of the same files is used again."""
    whole = _chosen(folder, replace(request, clips=None))
    return _kept_or_measured(whole, extractors, request, show)


def _kept_or_measured(one: _Set, extractors: Sequence[Extractor], request: Request, show: Show) -> Measured:
    kept: dict[str, Features] = {}
    for extractor in extractors:
        file = _kept_file(one, extractor.facts.name, request)
        if file is not None and file.is_file():
            features = read_features(file)
            usable = features.rows is not None or not request.keep_rows
            settings = settings_of(extractor, request.reading)
            if usable and features.settings == settings and features.provenance.stamp == _stamp(one):
                kept[extractor.facts.name] = features
    missing = [extractor for extractor in extractors if extractor.facts.name not in kept]
    if not missing:
        return Measured(one.name, kept, Pixels(), [one.found.name(file) for file in one.files])
    measured = _measure(one, missing, request, show)
    measured.features.update(kept)
    return measured


def _kept_file(one: _Set, extractor: str, request: Request) -> Path | None:
    name = f"{one.name} {extractor}.safetensors".replace(" ", "-")
    return None if request.keep is None else request.keep / name


def _stamp(one: _Set) -> str:
    told = [f"{one.found.name(file)} {file.stat().st_size}" for file in one.files]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


def _chosen(folder: Path, request: Request) -> _Set:
    found = survey(
        folder, request.reading, allow_unreadable=request.allow_unreadable, allow_short=request.allow_short
    )
    return _Set(folder.resolve().name, found, choose(found.clips, request.clips, request.choices.seed))


def _measure(one: _Set, extractors: Sequence[Extractor], request: Request, show: Show) -> Measured:
    total = len(one.files)
    measured = measure_clips(
        named_batches(one.files, one.found.folder, request.reading, request.batch),
        extractors,
        request.reading,
        source=one.name,
        seed=request.choices.seed,
        stamp=_stamp(one),
        keep_rows=request.keep_rows,
        show_done=lambda done: show(one.name, done, total),
    )
    for name, features in measured.features.items():
        file = _kept_file(one, name, request)
        if file is not None:
            write_features(file, features)
    return measured


def _texts(one: _Set, measured: Measured, extractors: Sequence[Extractor]) -> Texts:
    """Embeddings of the captions, where every clip has one; else none."""
    found = {one.found.name(file): caption_of(file) for file in one.files}
    captions = {name: text for name, text in found.items() if text is not None}
    if len(captions) < len(found):
        return {}
    return {
        extractor.facts.name: extractor.texts(captions_of(measured.names, captions)).cpu().numpy()
        for extractor in extractors
        if isinstance(extractor, TextExtractor)
    }


def _subject(name: str, measured: Measured, figures: Figures) -> Subject:
    told = {"clips": len(measured.names)}
    return Subject(name=name, made_with=told, figures={key: figure for key, (_, figure) in figures.items()})


def _left_out(found: Survey) -> list[str]:
    files = {**found.unreadable, **found.short}
    return [f"{len(files)} of {found.folder.name} left out: {', '.join(sorted(files))}"] if files else []


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name}: is the name of two folders; rename one, so that a table can tell them")
