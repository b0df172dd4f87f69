"""A report as one HTML file that needs nothing else: table, plots, and clips side by side that play.

Clips are embedded: small ones as animated webp without loss, larger ones as mp4. The page loads nothing from
anywhere.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latent_shift.evaluation.report.model import Report
from latent_shift.evaluation.report.plots import curves
from latent_shift.evaluation.report.tables import footnotes, headers, rows, said
from latent_shift.media import write_clip

_EXACT_UP_TO = 128  # pixels high: larger clips are embedded as mp4
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1b1b}
table{border-collapse:collapse}td,th{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:left}
td+td{font-variant-numeric:tabular-nums}.wide{overflow-x:auto}small,li{color:#555}
.clips td{vertical-align:top;max-width:14rem}img,video{width:12rem;image-rendering:pixelated}
.plots{display:flex;flex-wrap:wrap;gap:1rem}svg{width:27rem;max-width:100%}
"""


@dataclass(frozen=True)
class Shown:
    """A clip (F, H, W, 3) on the page. row: what it shows, its prompt. column: whose it is."""

    row: str
    column: str
    clip: NDArray[np.uint8]
    note: str = ""


def page(report: Report, shown: Sequence[Shown] = (), *, fps: float = 8, plots: Sequence[str] = ()) -> str:
    """The HTML. fps: of the clips shown. plots: SVGs besides the report's own curves."""
    drawn = [*plots, *curves(report)]
    title = escape(report.title)
    body = [f"<h1>{title}</h1>", _table(report)]
    body.append(
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in (*footnotes(report), *report.notes))}</ul>"
    )
    if drawn:
        body.append(f'<h2>Plots</h2><div class="plots">{"".join(drawn)}</div>')
    if shown:
        body.append(f"<h2>Clips</h2>{_clips(shown, fps)}")
    body.append(f"<p><small>{escape(said(report.circumstances))}</small></p>")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def _table(report: Report) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in headers(report))
    lines = []
    for cells, subject in zip(rows(report), report.subjects, strict=True):
        told = f' title="{escape(said(subject.made_with), quote=True)}"'
        inside = "".join(f"<td>{escape(text)}</td>" for text in cells)
        lines.append(f"<tr{told}>{inside}</tr>")
    return f'<div class="wide"><table><tr>{top}</tr>{"".join(lines)}</table></div>'


def _clips(shown: Sequence[Shown], fps: float) -> str:
    columns = list(dict.fromkeys(one.column for one in shown))
    top = "".join(f"<th>{escape(name)}</th>" for name in ("", *columns))
    lines = []
    for row in dict.fromkeys(one.row for one in shown):
        cells = [f"<td>{escape(row)}</td>"]
        for column in columns:
            here = [one for one in shown if (one.row, one.column) == (row, column)]
            cells.append(f"<td>{''.join(_player(one, fps) for one in here)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table class="clips"><tr>{top}</tr>{"".join(lines)}</table></div>'


def _player(one: Shown, fps: float) -> str:
    exact = one.clip.shape[1] <= _EXACT_UP_TO
    with tempfile.TemporaryDirectory() as folder:
        file = write_clip(Path(folder) / f"clip{'.webp' if exact else '.mp4'}", one.clip, fps)
        data = base64.b64encode(file.read_bytes()).decode("ascii")
    note = f"<br><small>{escape(one.note)}</small>" if one.note else ""
    if exact:
        return f'<img alt="{escape(one.row, quote=True)}" src="data:image/webp;base64,{data}">{note}'
    return f'<video autoplay loop muted playsinline src="data:video/mp4;base64,{data}"></video>{note}'
