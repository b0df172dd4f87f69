"""Reports for the user: a table on standard output, JSON and a page in files.

The table is drawn by rich on a terminal, and is the same as Markdown anywhere else.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_shift.io import alone_in, free_name, warn, write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from latent_shift.evaluation.report import Report


def free_place(path: Path, overwrite: bool) -> Path:
    """The path of a result; one beside it, with a warning, where a file has come since the command began.

    So neither the file is lost nor what hours of work found. overwrite: whether the file may be replaced.
    """
    place = path if overwrite else free_name(path)
    if place != path:
        warn(f"{path}: has come there while this was computed, and is kept; the result is {place}")
    return place


def print_json(text: str) -> None:
    """Print JSON in ASCII, which every encoding of a standard output holds."""
    print(re.sub(r"[^\x00-\x7f]+", lambda found: json.dumps(found[0])[1:-1], text))


def write_report(
    report: Report,
    output: Path | None,
    html: Path | None,
    as_json: bool = False,
    *,
    force: bool,
    **environment: Any,
) -> None:
    """Write a report to the files named, then print it.

    force: whether they may be overwritten. environment: added to the report's own.
    """
    report = report.model_copy(update={"environment": {**environment, **report.environment}})
    text = report.model_dump_json(indent=2)
    try:
        if output is not None:
            write_text(free_place(output, force), text + "\n")
        if html is not None:
            from latent_shift.evaluation.page import render_html

            write_text(free_place(html, force), render_html(report))
    finally:  # after the files, which are not to be lost with the reader of standard output, nor it with them
        if as_json:
            print_json(text)
        else:
            print_report(report)


def print_report(report: Report) -> None:
    """Print the table, the settings of its metrics, and its notes."""
    from latent_shift.evaluation.report import footnotes, markdown, table_headers, table_rows

    if not sys.stdout.isatty():
        print(markdown(report))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*table_headers(report), title=report.title)
    for cells in table_rows(report):
        table.add_row(*cells)
    console = Console(highlight=False, markup=False, emoji=False)  # titles and names are shown as they are
    if not fits(console, table):
        print(report.title, "", markdown(report), sep="\n")
        return
    console.print(table)
    for line in (*footnotes(report), *report.notes):
        console.print(line, style="dim")


def fits(console: Console, table: Table) -> bool:
    """Whether a terminal is wide enough for a table; in one that is not, rich would cut figures."""
    unbounded = console.options.update_width(10_000)
    return console.measure(table, options=unbounded).minimum <= console.width


def read_page(page: Path, title: str) -> str:
    """A Markdown page, or a title where there is none.

    Raises ValueError for one that is no UTF-8, or has a block without an end, which would take the text after
    it for its own.
    """
    if not page.is_file():
        return title
    try:
        text = page.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{page}: is no text in UTF-8 ({error}); save it as such, or name another"
        ) from error
    for found in re.finditer(r"<!-- begin (.*?) -->", text):
        inside, ended, _ = text[found.end() :].partition(f"<!-- end {found[1]} -->")
        if not ended or "<!-- begin " in inside:
            raise ValueError(
                f"{page}: the block that begins with {found[0]} has no end;"
                f" put <!-- end {found[1]} --> after it"
            )
    return text


def put_into_page(page: Path, name: str, body: str, title: str) -> None:
    """Put a block into a page, which keeps its ends of lines; a new page begins with the title.

    A link stays one, to the changed page. Two commands that end together wait for each other, and both blocks
    stay. Raises ValueError as `read_page`.
    """
    page = page.resolve()
    page.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(page.parent):
        text = read_page(page, title)
        write_text(page, put_block(text, name, body))


def block_of(text: str, name: str) -> str:
    """Return the block `name` of a Markdown page, `text`; empty where it has none."""
    return text.partition(f"<!-- begin {name} -->")[2].partition(f"<!-- end {name} -->")[0]


def put_block(text: str, name: str, body: str) -> str:
    """Return a Markdown page, `text`, with the block `name` replaced by `body`, or added at the end.

    The block's lines end as those of the page.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    line = "\r\n" if "\r\n" in text else "\n"
    block = f"{begin}\n{body.rstrip()}\n{end}".replace("\n", line)
    before, found, rest = text.partition(begin)
    if found and end in rest:
        return before + block + rest.partition(end)[2]
    kept = f"{text.rstrip()}{line}{line}" if text.strip() else ""
    return f"{kept}{block}{line}"


def write_scores(
    report: Report,
    table: str,
    block: str,
    *,
    output: Path | None,
    markdown: Path | None,
    sheet: Path | None,
    force: bool,
) -> None:
    """Write a table of scores where it is wanted, and print it.

    block: name of the table's place in the page. output: JSON. markdown: a page that keeps its other blocks.
    sheet: a picture of the examples of the last kind of clips of each group. force: whether both may be
    overwritten.
    """
    try:
        if output is not None:
            write_text(free_place(output, force), report.model_dump_json(indent=2) + "\n")
        if markdown is not None:
            put_into_page(markdown, block, f"### {block}\n\n{table}", "# Results\n")
        if sheet is not None:
            _write_sheet(report, free_place(sheet, force), force)
    finally:  # as in `write_report`
        print(table)


def _write_sheet(report: Report, sheet: Path, overwrite: bool) -> None:
    """Write a contact sheet of the examples of the model's clips, or else of the last kind."""
    from latent_shift.evaluation.report import GENERATED
    from latent_shift.media import contact_sheet, write_image

    kinds = [row.settings["clips"] for row in report.rows]
    kind = GENERATED if GENERATED in kinds else kinds[-1]
    names = {row.name for row in report.rows if row.settings["clips"] == kind}
    shown = [example for example in report.examples if example.column in names]
    captions = [f"{example.label}: {example.note}" for example in shown]
    columns = None if len(shown[0].clip) > 1 else 1
    picture = contact_sheet([example.clip for example in shown], captions, columns=columns)
    write_image(sheet, picture, overwrite=overwrite)
