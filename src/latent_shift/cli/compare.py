"""`latent-shift compare`: all systems on one world with equal budgets; the same command again goes on."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latent_shift.checkpoints.quiet import quiet_libraries
from latent_shift.cli import options as opt
from latent_shift.cli.options import split_names
from latent_shift.cli.output import block_of, put_into_page, read_page
from latent_shift.cli.progress import progress_of_sets, training_bar
from latent_shift.io import printable, write_text

if TYPE_CHECKING:
    from latent_shift.compare.plan import Comparison
    from latent_shift.compare.results import Results

PHASES = ("train", "sample", "score", "cost", "page")


def compare(
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="Preset: smoke, compare-6, compare-16, sizes or gpu.")
    ] = "compare-6",
    names: Annotated[
        str, typer.Option("--systems", metavar="NAME,...", help="Systems, or rows of the preset. [all rows]")
    ] = "",
    seeds: Annotated[int | None, typer.Option(help="Most seeds of a row. [the preset's: 3]")] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="UNIT=N",
            help="Budget of stages on clips: core-seconds=N, clips=N or steps=N. [the preset's]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            parser=opt.folder_path,
            help="Folder of runs and results. [runs/compare/PRESET]",
        ),
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="PHASE", help=f"Do one part only: {', '.join(PHASES)}.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print rows, stages and minutes; do nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line per row instead of tables.")
    ] = False,
    recipes: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of recipes and presets. [recipes/compare]")
    ] = None,
    stills: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Take trained stages on stills from this comparison.")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE.md", parser=opt.page_path, help="Write the tables into this page, too."),
    ] = None,
) -> None:
    """Train, sample and score all systems with equal budgets, and write one table.

    The same command again goes on where it was; finished rows are kept.
    """
    if only is not None and only not in PHASES:
        raise ValueError(f"--only {only}: expected one of {', '.join(PHASES)}")
    if seeds is not None and seeds < 1:
        raise ValueError(f"--seeds {seeds}: give 1 or more")
    if markdown is not None and (dry_run or only not in (None, "page")):
        without = "--dry-run" if dry_run else f"--only {only}"
        raise ValueError(f"--markdown {markdown}: no page is written with {without}; leave one of them out")
    if dry_run and only is not None:
        raise ValueError(f"--only {only}: --dry-run shows all parts; leave one of them out")
    quiet_libraries()
    comparison = _comparison(preset, names, seeds, budget, output, recipes, stills)
    comparison.check()
    if dry_run:
        from latent_shift.compare.schedule import plan_table

        plan = plan_table(comparison)
        lines = [json.dumps(dict(zip(plan.headers, row, strict=True))) for row in plan.rows]
        print("\n".join(lines) if as_json else plan.markdown())
        return
    from latent_shift.compare.results import read_results, with_rows_of_folder

    if markdown is not None:  # before the work, and again after it
        runs = with_rows_of_folder(comparison).runs
        _check_block(markdown, comparison, {(run.row, str(run.seed)) for run in runs})
    comparison.record()
    _work(comparison, PHASES if only is None else (only,))
    results = read_results(comparison)
    if only in (None, "page"):
        _write_pages(read_results(with_rows_of_folder(comparison)), markdown)
    from latent_shift.compare.page import json_lines
    from latent_shift.compare.tables import tables

    if as_json:
        for line in json_lines(results):
            print(json.dumps(line))
    else:
        for table in tables(results):
            print(f"{table.title}\n\n{table.markdown()}\n")


def _comparison(
    name: str,
    names: str,
    seeds: int | None,
    budget: str | None,
    output: Path | None,
    recipes: Path | None,
    stills: Path | None,
) -> Comparison:
    import torch

    from latent_shift.compare.budget import parse_budget
    from latent_shift.compare.plan import ROOT, Comparison, one_precision
    from latent_shift.compare.preset import default_recipes, load_preset

    if names and not split_names(names):
        raise ValueError(f"--systems {names!r}: names none; leave it out for all rows")
    folder = recipes or default_recipes()
    preset = load_preset(name, folder)
    if preset.needs_gpu and not torch.cuda.is_available():
        raise ValueError(f"--preset {name}: is for a GPU, and torch finds none; take another preset")
    if preset.threads is not None:
        torch.set_num_threads(preset.threads)
    own = output or Path(ROOT) / name
    return Comparison(
        preset.model_copy(update={"dtype": one_precision(preset.dtype, own)}),
        name,
        preset.choose_rows(split_names(names)),
        folder,
        own,
        seeds=seeds,
        budget=None if budget is None else parse_budget(budget),
        stills_from=stills,
    )


def _work(comparison: Comparison, phases: tuple[str, ...]) -> None:
    """Do the parts of the work that are wanted, for all runs."""
    from latent_shift.compare import cost
    from latent_shift.compare.scoring import Scorer
    from latent_shift.compare.training import train_run

    if "train" in phases:
        for run in comparison.runs:
            run.check_stages()
        for run in comparison.runs:
            train_run(comparison, run, training_bar)
    with progress_of_sets() as on_progress:
        scorer = Scorer(comparison, on_progress)
        if "sample" in phases:
            for run in comparison.runs:
                scorer.sample(run)
        if "score" in phases:
            scorer.score(comparison.runs)
        if "cost" in phases:
            cost.measure(comparison, on_progress)


def _block_name(comparison: Comparison) -> str:
    return f"{comparison.preset_name}, {comparison.budget or comparison.preset.clips}"


def _check_block(page: Path, comparison: Comparison, runs: set[tuple[str, str]]) -> None:
    """Raise ValueError where a page's block has results that would be lost.

    runs: rows and seeds that would take its place.
    """
    from latent_shift.compare.tables import EACH_RUN

    name = _block_name(comparison)
    _, _, table = block_of(read_page(page, ""), name).partition(f"### {EACH_RUN}")
    lines = [line for line in table.partition("###")[0].splitlines() if line[:1] == "|"]
    old = [(cells[1].strip(), cells[2].strip()) for cells in (line.split("|") for line in lines[2:])]
    if lost := [f"{row}, seed {seed}" for row, seed in old if (row, seed) not in runs]:
        raise ValueError(
            f"--markdown {page}: its block {name!r} has results that {comparison.folder} has not:"
            f" {'; '.join(lost)}; name another page, or remove the block to begin it again"
        )


def _write_pages(results: Results, page: Path | None) -> None:
    """Write the pages in the comparison's folder, and a block of another one."""
    from latent_shift.compare.page import html, markdown
    from latent_shift.compare.plan import PAGES

    comparison = results.comparison
    given = sys.argv[1:] if sys.argv[1:2] == ["compare"] else ["compare", "--preset", comparison.preset_name]
    command = printable(f"latent-shift {shlex.join(given)}")
    name = _block_name(comparison)
    block = f"## {name}\n\n{markdown(results, command)}"
    own, shown = (comparison.folder / name for name in PAGES)
    write_text(shown, html(results, command))
    if page is not None:
        _check_block(page, comparison, {(row.name, str(seed)) for row in results.rows for seed in row.runs})
    for file in (own, *([] if page is None else [page])):
        put_into_page(file, name, block, "# Systems compared\n")
