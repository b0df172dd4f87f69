"""Clips of one's own: a folder with a text file beside each clip, or a table.

A folder:  cats/jump.mp4, cats/jump.txt; each line of the text is a caption. One is drawn for each item.
A table:   .csv (or .tsv) with a header line, or .jsonl with an object a line:

    path,caption,start,end
    clips/a.mp4,a dog jumps,,
    clips/b.mov,a cat sleeps,12.5,20

start and end are optional, in seconds or hours:minutes:seconds. Several lines of one piece of a clip are
captions of one record.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from latent_shift.data.caption_io import (
    CaptionFiles,
    as_captions,
    is_caption_file,
    read_captions,
    read_text,
    text_lines,
)
from latent_shift.data.manifest import ClipRecord, Manifest, Problem, build_manifest
from latent_shift.data.sources.base import Source, file_record, is_url, piece_times, require_folder
from latent_shift.documents import parse_json
from latent_shift.folders import list_files, suffixes_of
from latent_shift.io import printable
from latent_shift.media import kind_by_name

TABLES = (".csv", ".tsv", ".jsonl")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
INVISIBLE = '\ufeff\u200b\xa0 \t"'  # around a column's name
MAX_CELL_LINES = 100  # lines of one row; a longer one is taken for a quotation mark that is never closed
MAX_NAMED = 8  # columns in a note
NEVER_CLOSED = "opens a quotation mark that is never closed"
GOES_ON = 'goes on behind a closing quotation mark; within quotes write each one as two: ""'

Row = dict[str, Any]
Piece = tuple[str, float | None, float | None]  # file, start, end


class FolderSource(Source):
    """A folder, with the folders in it."""

    format: Literal["folder"] = "folder"
    path: Path = Field(description="the folder")

    def read(self) -> Manifest:
        """Every clip and image with its captions; names that begin with a dot are ignored."""
        root = require_folder(self.path, "folder")
        files, unreadable, repeated = list_files(root)
        clips = [path for path in files if kind_by_name(path.name) is not None]
        texts, captions = [path for path in files if is_caption_file(path)], CaptionFiles(files)
        if not clips:
            raise ValueError(f"folder {root}: holds no clip or image")
        if not texts:
            mend = f"write a .txt beside each, {clips[0].stem}.txt for {clips[0].name}"
            if tables := [file for file in files if file.suffix.lower() in TABLES]:
                mend += f"; where {tables[0].name} holds them, name that in place of the folder"
            raise ValueError(f"folder {root}: no caption anywhere; {mend}")
        notes = [f"{path}: leads to a folder that is read already" for path in repeated]
        found = [self._record(path, captions.of(path), notes) for path in clips]
        found += [Problem(self._key(path), reason) for path, reason in sorted(unreadable.items())]
        used = {captions.of(path) for path in clips}
        for text in texts:
            if text not in used:
                found.append(Problem(self._key(text), "a caption without a clip or image of the same name"))
        known = {*clips, *texts}
        if others := [file for file in files if file not in known]:
            left_alone = f"were left alone: {suffixes_of(others)}"
            notes.append(f"{root}: {len(others)} files of formats that are not read {left_alone}")
        return build_manifest(str(root), found, notes)

    def _record(self, path: Path, text: Path | None, notes: list[str]) -> ClipRecord | Problem:
        key = self._key(path)
        if text is None:
            return Problem(key, f"no caption: {path.stem}.txt is missing")
        try:
            captions, guesses = read_captions(text)
        except ValueError as error:
            return Problem(key, f"no caption: {error}")
        notes += guesses
        if not captions:
            return Problem(key, f"no caption: {text.name} is empty")
        return file_record(key, path, captions)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()


class TableSource(Source):
    """A csv or jsonl file with a clip, a caption and, optionally, start and end in each line."""

    format: Literal["table"] = "table"
    path: Path = Field(description=".csv, .tsv or .jsonl")
    root: Path | None = Field(None, description="folder that the paths start from; none: the table's own")
    file_column: str = "path"
    caption_column: str = "caption"
    start_column: str = "start"
    end_column: str = "end"

    def read(self) -> Manifest:
        """One record for each piece of a clip. Raises ValueError for a table without the columns."""
        text, notes = read_text(self.path)
        # Columns for times are optional, unless the settings name them.
        times = [name for name in ("start_column", "end_column") if name in self.model_fields_set]
        required = [self.file_column, self.caption_column, *(getattr(self, name) for name in times)]
        captions_of: dict[Piece, list[str]] = {}
        found: list[ClipRecord | Problem] = []
        columns: dict[str, None] = {}
        for where, row in table_rows(self.path, text, required):
            columns |= dict.fromkeys(row if isinstance(row, dict) else ())
            try:
                (file, start, end), captions = self._values(row)
                begins = 0.0 if start is None and end is not None else start  # ",,3" is the piece of ",0,3"
                captions_of.setdefault((file, begins, end), []).extend(captions)
            except ValueError as error:
                found.append(Problem(where, str(error)))
        known = {self.file_column, self.caption_column, self.start_column, self.end_column, ""}
        if unread := [printable(name) for name in columns if name not in known][:MAX_NAMED]:
            notes.append(f"{self.path}: columns that are not read: {', '.join(unread)}")
        root = self.path.parent if self.root is None else self.root
        for (file, start, end), repeated in captions_of.items():
            till = "" if end is None else f"{end:.10g}"
            span = "" if start is None and end is None else f"@{start or 0:.10g}-{till}"
            found.append(file_record(file + span, root / file, tuple(dict.fromkeys(repeated)), start, end))
        return build_manifest(str(self.path), found, notes)

    def _values(self, row: Row | str) -> tuple[Piece, tuple[str, ...]]:
        if isinstance(row, str):
            raise ValueError(row)
        file, captions = row.get(self.file_column), as_captions(row.get(self.caption_column))
        if not isinstance(file, str) or not file.strip():
            what = "empty" if file is None or isinstance(file, str) else "no text"
            raise ValueError(f"{self.file_column} is {what}")
        if not captions:
            raise ValueError(f"{self.caption_column} is empty or no text")
        if is_url(file.strip()):
            raise ValueError(f"{file.strip()} lies on the web, of which only tars are read; fetch it first")
        file = os.path.normpath(file.strip())  # ./a.mp4 and a.mp4 are one clip
        return (file, *piece_times(row.get(self.start_column), row.get(self.end_column))), captions


def table_rows(path: Path, text: str, required: list[str]) -> Iterator[tuple[str, Row | str]]:
    """Yield the rows of a table, each with its file and line; of a broken row its error in its place.

    Raises ValueError where the table lacks required columns (a .jsonl: where no line has them).
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise ValueError(f"table {path}: unknown suffix {suffix!r}; expected .csv, .tsv or .jsonl")
    is_json = suffix == ".jsonl" or text.lstrip().startswith(("{", "[{"))  # whatever its name says
    rows = _json_rows if is_json else _csv_rows
    for line, row in rows(path, text, required):
        yield f"{path} line {line}", row


def _csv_rows(path: Path, text: str, required: list[str]) -> Iterator[tuple[int, Row | str]]:
    lines = text_lines(text)
    first = int(text[:4].lower() == "sep=")  # a line for Excel
    delimiter, header, place = _header(path, lines, first, required)
    _check_columns(path, required, header)
    if twice := [name for name, times in Counter(header).items() if name and times > 1]:
        raise ValueError(f"table {path}: has two columns {twice[0]!r}; rename or remove one")
    files = header.index(required[0])
    while place < len(lines):
        first = place
        try:
            cells, place = _csv_cells(lines, first, delimiter)
            for swallowed in lines[first + 1 : place]:
                row = swallowed.split(delimiter)
                if len(row) == len(header) and kind_by_name(row[files].strip()) is not None:
                    raise csv.Error(NEVER_CLOSED)
        except csv.Error as error:
            place = first + 1  # what follows may be good
            yield place, str(error)
            continue
        if cells and len(cells) != len(header):
            mend = f"put a text that holds {SEPARATORS[delimiter]} in quotes"
            if re.search("[“”„\u2018\u2019']", lines[first]):
                mend += ' of this kind: "'
            yield first + 1, f"has {len(cells)} cells, the header {len(header)}; {mend}"
        elif cells:
            yield first + 1, dict(zip(header, cells, strict=True))


def _header(path: Path, lines: list[str], first: int, required: list[str]) -> tuple[str, list[str], int]:
    """The sign between cells, the names in line `first` and the line after them.

    The sign is that which the suffix stands for; another, as tables of Excel have it, where only by that the
    line has the required columns.
    """
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    if len(lines) <= first:
        return usual, [], first
    found = []
    for delimiter in (usual, *SEPARATORS):
        try:
            cells, place = _csv_cells(lines, first, delimiter)
        except csv.Error as error:
            raise ValueError(f"table {path}: its first line {error}") from error
        found.append((delimiter, [name.strip(INVISIBLE) for name in cells], place))
    return next((one for one in found if set(required) <= set(one[1])), found[0])


def _csv_cells(lines: list[str], first: int, delimiter: str) -> tuple[list[str], int]:
    """The cells that begin in line `first`, without blanks around them, and the line after them.

    Raises csv.Error where a quotation mark is never closed: till the end, or where another one opens; and
    where a cell goes on behind a closing one, which would be lost, as of a row that escapes them by \\.
    """
    if '"' not in lines[first]:
        return [cell.strip() for cell in lines[first].split(delimiter)] if lines[first] else [], first + 1
    style: dict[str, Any] = {"delimiter": delimiter, "skipinitialspace": True}
    for end in range(first + 1, min(first + MAX_CELL_LINES, len(lines)) + 1):
        taken = [line + "\n" for line in lines[first:end]]
        rows = list(csv.reader([*taken, "\n"], **style))
        if len(rows) > 1:  # the line added is a row of its own: all quotation marks are closed
            try:
                list(csv.reader(taken if len(taken) > 1 else [], **style, strict=True))
            except csv.Error:
                break
            text, comma = "\n".join(lines[first:end]), re.escape(delimiter)
            cell = rf'(?: *+"(?:[^"]|"")*+" *+| *+[^"{comma}]?+[^{comma}]*+)'
            if re.fullmatch(f"{cell}(?:{comma}{cell})*+", text) is None:
                raise csv.Error(GOES_ON)
            return [cell.strip() for cell in rows[0]], end
    raise csv.Error(NEVER_CLOSED)


def _json_rows(path: Path, text: str, required: list[str]) -> Iterator[tuple[int, Row | str]]:
    rows: list[tuple[int, Row | str]] = []
    columns: dict[str, None] = {}
    for line, content in enumerate(text_lines(text), 1):
        if not content.strip():
            continue
        try:
            row = parse_json(content)
        except ValueError as error:
            rows.append((line, str(error)))
            continue
        columns |= dict.fromkeys(row if isinstance(row, dict) else ())
        rows.append((line, row if isinstance(row, dict) else "is not a JSON object"))
    if not columns and rows:
        line, problem = rows[0]
        reason = problem if isinstance(problem, str) else "holds nothing"
        raise ValueError(f"table {path}: no line is a JSON object with columns; line {line} {reason}")
    _check_columns(path, required, list(columns))
    yield from rows


def _check_columns(path: Path, required: list[str], columns: list[str]) -> None:
    missing = [name for name in required if name not in columns]
    if missing:
        has = ", ".join(columns) or f"none: expected a line with {', '.join(required)}"
        raise ValueError(
            f"table {path}: no column {missing[0]!r}; it has {has};"
            " rename it, or set file_column, caption_column, start_column, end_column"
        )
