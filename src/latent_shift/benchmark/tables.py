"""Tables and plots of measurements: Markdown, rich on a terminal, SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

from latent_shift.benchmark.cells import MODES, Cell
from latent_shift.benchmark.measure import Spread, ratio
from latent_shift.benchmark.networks import NETWORKS
from latent_shift.evaluation.plots import STYLE
from latent_shift.io import write_text

_GIB = 2**30


@dataclass
class Table:
    """A titled table of text."""

    title: str
    headers: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """The table in Markdown, its title above it."""
        lines = [self.headers, ["---"] * len(self.headers), *self.rows]
        return "\n".join([f"**{self.title}**\n", *(f"| {' | '.join(line)} |" for line in lines)])

    def rich(self) -> Any:
        """The table as rich draws it."""
        from rich.table import Table as RichTable

        table = RichTable(*self.headers, title=self.title)
        for row in self.rows:
            table.add_row(*row)
        return table


def shown(spread: Spread) -> str:
    """A ratio with its spread, where there is one: 1.756 (1.751 to 1.760)."""
    if spread.low == spread.high:
        return f"{spread.median:.3f}"
    return f"{spread.median:.3f} ({spread.low:.3f} to {spread.high:.3f})"


def cell_tables(cells: Sequence[Cell]) -> list[Table]:
    """A table for every kind of clip, in the order of `NETWORKS`."""
    order = list(NETWORKS)
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in sorted(
        cells, key=lambda one: (one.mode, one.resolution, one.frames, order.index(one.network))
    ):
        key = (cell.size, cell.mode, cell.device, cell.dtype, cell.frames, cell.resolution)
        groups.setdefault(key, []).append(cell)
    return [_table(key, group) for key, group in groups.items()]


def _table(key: tuple[Any, ...], cells: Sequence[Cell]) -> Table:
    size, mode, device, dtype, frames, resolution = key
    title = f"{size}, {MODES[mode]}, {frames} frames of {resolution}x{resolution}, {dtype}, {device}"
    headers = (
        "U-Net", "parameters, M", "GMAC", "CPU s", "wall s", "CPU s over the image model's",
        "wall s over the image model's", "peak memory, GiB",
    )  # fmt: skip
    table = Table(title, headers)
    for cell in cells:
        row = [NETWORKS[cell.network].label, f"{cell.parameters / 1e6:,.1f}", f"{cell.gmac:,.1f}"]
        if cell.times is None or cell.image is None:
            table.rows.append([*row, str(cell.left_out), *["-"] * 4])
            continue
        row += [f"{cell.times.seconds(cpu=cpu):.2f}" for cpu in (True, False)]
        row += [shown(ratio(cell.times, cell.image, cpu=cpu)) for cpu in (True, False)]
        table.rows.append([*row, "-" if cell.peak is None else f"{cell.peak / _GIB:.2f}"])
    return table


def write_plots(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Write plots into a folder: bars of ratios, and lines over the frames. Returns the files."""
    written = []
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        if cell.times is not None:
            groups.setdefault((cell.size, cell.mode, cell.device, cell.dtype, cell.resolution), []).append(
                cell
            )
    for (size, mode, device, dtype, resolution), group in groups.items():
        name = f"{size}-{mode}-{device}-{dtype}-{resolution}"
        title = f"{size}, {MODES[mode]}, {resolution}x{resolution}, {dtype}, {device}"
        for kind, draw in (("ratios", _ratios), ("frames", _over_frames)):
            if kind == "frames" and len({cell.frames for cell in group}) < 2:
                continue
            file = folder / f"{name}-{kind}.svg"
            write_text(file, _svg(title, draw, group))
            written.append(file)
    return written


def _svg(title: str, draw: Any, cells: Sequence[Cell]) -> str:
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(7, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        draw(axes, cells)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _ratios(axes: Any, cells: Sequence[Cell]) -> None:
    """CPU seconds over the image model's, a bar a network, those of the most measured number of frames."""
    counts = [cell.frames for cell in cells]
    frames = max(set(counts), key=counts.count)
    order = list(NETWORKS)
    chosen = sorted((one for one in cells if one.frames == frames), key=lambda one: -order.index(one.network))
    spreads = [
        ratio(cell.times, cell.image, cpu=cell.device == "cpu")
        for cell in chosen
        if cell.times and cell.image
    ]
    axes.barh([NETWORKS[cell.network].label for cell in chosen], [one.median for one in spreads])
    for place, one in enumerate(spreads):
        axes.plot([one.low, one.high], [place, place], color="black")
        axes.text(one.high, place, f" {one.median:.3f}", va="center")
    axes.axvline(1, color="gray", linewidth=0.8)
    axes.set_xlabel(f"seconds over the image model's, {frames} frames")


def _over_frames(axes: Any, cells: Sequence[Cell]) -> None:
    """Seconds of a call over the number of frames, a line a network."""
    by_network: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda one: one.frames):
        by_network.setdefault(cell.network, []).append(cell)
    for name, line in by_network.items():
        seconds = [cell.times.seconds(cpu=cell.device == "cpu") for cell in line if cell.times]
        axes.plot([cell.frames for cell in line], seconds, marker="o", label=NETWORKS[name].label)
    axes.set_xlabel("frames")
    axes.set_ylabel("seconds")
    axes.legend(fontsize=7)


def facts_table(title: str, facts: Mapping[str, str]) -> Table:
    """A table of names and values."""
    return Table(title, ("what", "figure"), [[name, value] for name, value in facts.items()])
