"""Tables, plots and clips as one HTML file that needs nothing else; the clips play side by side.

Clips are embedded: small ones as animated webp without loss, larger ones as mp4. The page loads nothing from
anywhere.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from latent_shift.evaluation.plots import curves
from latent_shift.evaluation.report import (
    Example,
    Report,
    Table,
    footnotes,
    format_settings,
    table_headers,
    table_rows,
)
from latent_shift.media import write_clip

_LOSSLESS_UP_TO = 128  # pixels high: larger clips are embedded as mp4


def render_html(report: Report) -> str:
    """The page of a report, with curves over the settings in which its rows differ, and its examples."""
    table = Table(
        table_headers(report),
        table_rows(report),
        tooltips=[format_settings(row.settings) for row in report.rows],
        notes=[*footnotes(report), *report.notes],
    )
    environment = format_settings(report.environment)
    return render_page(report.title, [table], curves(report), report.examples, environment)


def render_page(
    title: str, tables: Sequence[Table], plots: Sequence[str], examples: Sequence[Example], environment: str
) -> str:
    """A page of tables, plots and examples.

    title: its heading. plots: SVG texts. examples: players side by side, a line a label. environment: a line
    about machine and versions, at the end.
    """
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("latent_shift.evaluation").joinpath("page.html.jinja").read_text(encoding="utf-8")
    return jinja.from_string(template).render(
        title=title,
        tables=tables,
        plots=plots,
        columns=list(dict.fromkeys(example.column for example in examples)),
        lines=_lines(examples),
        environment=environment,
    )


def _lines(examples: Sequence[Example]) -> dict[str, dict[str, list[dict[str, str]]]]:
    """Players by label and column."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for example in examples:
        lossless = example.clip.shape[1] <= _LOSSLESS_UP_TO
        with tempfile.TemporaryDirectory() as folder:
            name = f"clip{'.webp' if lossless else '.mp4'}"
            data = write_clip(Path(folder) / name, example.clip, example.fps).read_bytes()
        kind = "image/webp" if lossless else "video/mp4"
        player = {
            "source": f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}",
            "note": example.note,
        }
        found.setdefault(example.label, {}).setdefault(example.column, []).append(player)
    return found
