"""`latent-shift benchmark`: what costs how much, on this machine, each command printing a table or JSON.

`networks` compares U-Nets at real sizes on random weights, `systems` whole systems, `step` says where a
training step of a recipe spends its time, `floor` how far a pass is from the machine's arithmetic,
`full-size` what Stable Diffusion 1.5's size takes, `addition` what the shift costs where it stands.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latent_shift.checkpoints import DEVICES, DTYPES, choose_device
from latent_shift.checkpoints.quiet import quiet_libraries
from latent_shift.cli import options as opt
from latent_shift.cli.output import fits, print_json, put_into_page
from latent_shift.cli.progress import progress_bar, progress_of_sets
from latent_shift.io import printable, write_text

if TYPE_CHECKING:
    from pydantic import BaseModel

    from latent_shift.benchmark.tables import Table

app = typer.Typer(
    help="Measure what costs how much on this machine.", no_args_is_help=True, rich_markup_mode=None
)
_NETWORKS = (
    "image, shift, latent-vdm-convolution, latent-vdm-attention, latent-vdm, make-a-video, motion-modules,"
    " unet-motion, unet3d"
)
_PROMPT = "a red circle moving right on a navy background"
Repeats = Annotated[int, typer.Option(help="Rounds that count.")]
Warmups = Annotated[int, typer.Option(help="Rounds before those that count.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of tables.")]
Markdown = Annotated[
    Path | None,
    typer.Option(metavar="FILE.md", parser=opt.page_path, help="Write the tables into this page, too."),
]
Device = Annotated[str, typer.Option(metavar="NAME", help=f"Device: {', '.join(DEVICES)}.")]
Memory = Annotated[
    bool, typer.Option("--memory/--no-memory", help="Measure peak memory, each in a fresh process.")
]


@app.command()
def networks(
    names: Annotated[
        str, typer.Option("--networks", metavar="NAME,...", help=f"U-Nets: {_NETWORKS}. [all of the size]")
    ] = "",
    size: Annotated[str, typer.Option(help="Size: sd-1, sdxl or tiny.")] = "sd-1",
    frames: Annotated[str, typer.Option(metavar="N,...", help="Frames of the clips.")] = "16",
    resolution: Annotated[str, typer.Option(metavar="N,...", help="Pixels of a frame's side.")] = "256",
    modes: Annotated[
        str, typer.Option(metavar="NAME,...", help="pass (sampling), step (training: forward and backward).")
    ] = "pass",
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            parser=opt.folder_path,
            help="Folder of figures, tables and plots.",
        ),
    ] = Path("runs/benchmark"),
    dtype: Annotated[str, typer.Option(help="Precision: fp32, bf16 or fp16.")] = "bf16",
    device: Device = "auto",
    warmups: Warmups = 1,
    repeats: Repeats = 3,
    memory: Memory = True,
    as_json: AsJson = False,
    markdown: Markdown = None,
) -> None:
    """Compare U-Nets at real sizes on random weights, side by side; the same command again goes on.

    Each takes turns with the image model. Tables, plots (.svg) and all figures lie in the folder; what it
    holds of the size and the modes is printed, that of earlier commands, too.
    """
    quiet_libraries()
    from latent_shift.benchmark.cells import Plan, measure, read_cells
    from latent_shift.benchmark.networks import NETWORKS
    from latent_shift.benchmark.tables import cell_tables, write_plots

    chosen = opt.split_names(names) or [name for name, one in NETWORKS.items() if size in one.sizes]
    if not opt.split_names(modes):
        raise ValueError(f"--modes {modes!r}: names none; known are pass and step")
    plan = Plan(
        chosen, size, _numbers("frames", frames), _numbers("resolution", resolution), opt.split_names(modes),
        choose_device(device).type, dtype, warmups, repeats, memory,
    )  # fmt: skip
    if (output / "tables.md").exists() and not (output / "cells").is_dir():
        raise ValueError(f"{output}: has a tables.md, and no benchmark wrote it; name another folder with -o")
    with progress_of_sets() as on_progress:
        measure(plan, output, on_progress)
    cells = read_cells(output)
    write_plots(cells, output)
    everything = "\n\n".join(table.markdown() for table in cell_tables(cells))
    write_text(output / "tables.md", everything + "\n")
    asked = [cell for cell in cells if cell.size == size and cell.mode in plan.modes]
    tables = cell_tables(asked)
    _write(markdown, f"networks {size} {modes}", tables, [cell.machine for cell in asked])
    _print(tables, asked if as_json else None)


@app.command()
def systems(
    models: Annotated[
        list[str], typer.Option("--model", metavar="MODEL", help="A system by name or folder; repeatable.")
    ],
    prompt: Annotated[str, typer.Option(help="Text of the clips.")] = _PROMPT,
    frames: Annotated[int | None, typer.Option(help="Number of frames. [the first model's]")] = None,
    steps: opt.Steps = None,
    guidance: opt.Guidance = None,
    batch: Annotated[int, typer.Option(help="Clips made together.")] = 1,
    dtype: opt.Dtype = "auto",
    device: Device = "auto",
    warmups: Warmups = 1,
    repeats: Repeats = 3,
    memory: Memory = True,
    as_json: AsJson = False,
    markdown: Markdown = None,
) -> None:
    """Compare whole systems from text to frames, loaded in one process and taking turns."""
    opt.check_choice(DTYPES, dtype=dtype)
    opt.check_choice(DEVICES, device=device)
    opt.check_range(1, 1024, batch=batch, repeats=repeats)
    if twice := [model for number, model in enumerate(models) if model in models[:number]]:
        raise ValueError(f"--model {twice[0]}: is named twice; name each system once")
    quiet_libraries()
    from latent_shift import systems as known
    from latent_shift.benchmark import systems as costs
    from latent_shift.benchmark.measure import ratio
    from latent_shift.benchmark.tables import Table, shown
    from latent_shift.generation import parse_request

    first = parse_request(prompt=prompt, seed=0, frames=frames, steps=steps, guidance=guidance)
    shape = (
        known.inspect(models[0]).settle(first, option="--").model_dump(include={"frames", "height", "width"})
    )
    first = first.model_copy(update=shape)  # of all; steps and guidance are each model's own, where not given
    settled = [known.inspect(model).settle(first, option="--") for model in models]
    requests = [first.model_copy(update={"seed": seed}) for seed in range(batch)]
    with progress_bar("rounds", warmups + repeats) as show:
        found = costs.compare(
            models, requests, device=device, dtype=dtype, warmups=warmups, repeats=repeats, memory=memory,
            on_round=lambda done, total: show(done), options={},
        )  # fmt: skip
    title = f"{first.frames} frames of {first.height}x{first.width}, batches of {batch}"
    table = Table(title, (
        "system", "steps", "parameters, M", "temporal, M", "GMAC a clip", "calls", "CPU s a clip",
        "wall s a clip", "CPU s over the first's", "peak memory, GiB",
    ))  # fmt: skip
    for one, request in zip(found, settled, strict=True):
        seconds = [f"{one.times.seconds(cpu=cpu) / batch:.2f}" for cpu in (True, False)]
        table.rows.append([
            one.name, str(request.steps), f"{one.parameters / 1e6:,.1f}", f"{one.temporal / 1e6:,.1f}",
            f"{one.gmac:,.1f}", str(one.calls), *seconds, shown(ratio(one.times, found[0].times, cpu=True)),
            "-" if one.peak is None else f"{one.peak / 2**30:.2f}",
        ])  # fmt: skip
    _write(markdown, f"systems, {title}", [table])
    _print([table], found if as_json else None)


@app.command()
def step(
    recipe: Annotated[Path, typer.Argument(help="A recipe, as of `latent-shift train`.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a key; repeatable.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps that count.")] = 5,
    warmups: Warmups = 2,
    as_json: AsJson = False,
    markdown: Markdown = None,
) -> None:
    """Say where a training step of a recipe spends its time; the recipe's own output is not touched."""
    opt.check_range(1, 10_000, steps=steps)
    opt.check_range(0, 10_000, warmups=warmups)
    quiet_libraries()
    from latent_shift.benchmark.tables import Table
    from latent_shift.benchmark.training_step import PARTS, time_steps
    from latent_shift.training.recipe import load_recipe

    loaded = load_recipe(recipe, opt.settings_at_home(settings))
    loaded.check()
    with tempfile.TemporaryDirectory() as folder:
        found = time_steps(loaded, Path(folder), warmups=warmups, steps=steps, report=lambda progress: None)
    title = f"{recipe.stem}: a step of {found.items} items, {found.wall:.3f} s wall, {found.cpu:.3f} s CPU"
    shares = found.shares
    rows = [[PARTS[name], f"{found.parts[name]:.4f}", f"{shares[name]:.1%}"] for name in PARTS]
    table = Table(title, ("part", "wall s", "share"), rows)
    _write(markdown, f"step {recipe.stem}", [table])
    _print([table], [found] if as_json else None)


@app.command()
def floor(
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Sampling of a clip by this system. [a U-Net's pass]")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Size of the U-Net: sd-1, sdxl or tiny. [sd-1]")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of the U-Net's clip. [16]")] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Pixels of a frame's side, for the U-Net. [256]")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Precision: fp32, bf16 or fp16.")] = "bf16",
    device: Device = "auto",
    repeats: Repeats = 3,
    as_json: AsJson = False,
    markdown: Markdown = None,
) -> None:
    """Compare a call with its floor: its multiply-adds at the rate of the machine's matrix products."""
    quiet_libraries()
    from latent_shift.benchmark import floor as floors
    from latent_shift.benchmark.cells import DTYPES as KINDS
    from latent_shift.benchmark.cells import Plan
    from latent_shift.benchmark.networks import SHIFT, Bench
    from latent_shift.benchmark.tables import facts_table

    on = choose_device(device).type
    if model is None:
        size = "sd-1" if size is None else size
        frames, resolution = 16 if frames is None else frames, 256 if resolution is None else resolution
        Plan([SHIFT], size, [frames], [resolution], ["pass"], on, dtype, 0, repeats)
        bench = Bench("image", size, frames, resolution, on, KINDS[dtype])
        bench.shifted(True)
        call, what = bench.passes("pass"), f"{size}, one pass with the shift, {frames} frames of {resolution}"
    else:
        for name, value in (("size", size), ("frames", frames), ("resolution", resolution)):
            if value is not None:
                raise ValueError(f"--{name} {value}: is of the U-Net's pass; with --model leave it out")
        opt.check_choice(KINDS, dtype=dtype)
        from latent_shift import systems as known
        from latent_shift.systems.base import GenerationRequest

        system = known.load(model, device=on, dtype=dtype)
        request = GenerationRequest(prompt=_PROMPT, seed=0)
        call, what = (lambda: system.generate([request])), f"{model}, one clip"
    found = floors.measure(call, on, KINDS[dtype], repeats=repeats)
    cpu = on == "cpu"
    facts = {
        "multiply-adds": f"{found.gmac:,.1f} GMAC",
        "rate of matrix products": f"{found.rate:,.0f} GMAC/s" + (" of CPU time" if cpu else ""),
        "floor": f"{found.floor:.3f} s",
        "measured": f"{found.times.seconds(cpu=cpu):.3f} s",
        "over the floor": f"{found.above(cpu=cpu):.2f}",
        **{f"share of {kind}": f"{share:.1%}" for kind, share in found.shares.items()},
    }
    table = facts_table(f"{what}, {dtype}, {on}", facts)
    _write(markdown, f"floor {what}, {dtype}, {on}", [table])
    _print([table], [found] if as_json else None)


@app.command("full-size")
def full_size(
    size: Annotated[str, typer.Option(help="Size: full or tiny.")] = "full",
    dtype: Annotated[str, typer.Option(help="Precision of what is measured: fp32 or bf16.")] = "fp32",
    device: Device = "cpu",
    computed: Annotated[bool, typer.Option("--computed", help="Only the computed table.")] = False,
) -> None:
    """Measure what Stable Diffusion 1.5's size takes: a guided step, training LoRA and all weights."""
    quiet_libraries()
    from latent_shift.benchmark import full_size as jobs

    opt.check_choice(jobs.SIZES, size=size)
    opt.check_choice(jobs.DTYPES, dtype=dtype)
    if computed:
        print(jobs.computed_table(jobs.SIZES[size]))
        return
    for line in jobs.tables(size, choose_device(device).type, dtype):
        print(line, flush=True)


@app.command()
def addition(device: Device = "auto", repeats: Repeats = 60, as_json: AsJson = False) -> None:
    """Time the residual addition of one block, plain and with the shift in it."""
    quiet_libraries()
    from dataclasses import asdict

    from latent_shift.benchmark.addition import measure
    from latent_shift.benchmark.tables import Table, shown

    on = choose_device(device).type
    table = Table(
        f"residual addition, {on}",
        ("(B*F, C, H, W)", "type", "layout", "pass", "plain ms", "shifted ms", "ratio"),
    )
    for row in measure(on, repeats):
        if as_json:
            print(json.dumps({**asdict(row), "ratio": row.ratio.model_dump()}), flush=True)
        times = [f"{seconds * 1e3:.3f}" for seconds in (row.plain, row.shifted)]
        table.rows.append([str(row.shape), row.dtype, row.layout, row.direction, *times, shown(row.ratio)])
    if not as_json:
        _print([table])


def _numbers(option: str, text: str) -> list[int]:
    """Whole numbers of an option, each once. Raises ValueError naming it."""
    try:
        found = [int(one) for one in opt.split_names(text)]
    except ValueError:
        found = []
    if not found:
        raise ValueError(f"--{option} {text!r}: give whole numbers, such as 16,64")
    return found


def _print(tables: Sequence[Table], lines: Sequence[BaseModel] | None = None) -> None:
    """Print tables, or lines of JSON in their place."""
    if lines is not None:
        for line in lines:
            print_json(line.model_dump_json())
        return
    if not sys.stdout.isatty():
        print("\n\n".join(table.markdown() for table in tables))
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    for table in tables:
        drawn = table.rich()
        if fits(console, drawn):
            console.print(drawn)
        else:
            print(table.markdown())


def _write(
    page: Path | None, name: str, tables: Sequence[Table], machines: Sequence[dict[str, Any]] = ()
) -> None:
    """Write tables into a block of a page, with the command, the machine and the date.

    machines: those of figures that were measured before, too.
    """
    if page is None:
        return
    import torch

    from latent_shift.benchmark.measure import short_machine
    from latent_shift.evaluation.runner import environment

    here: dict[str, Any] = {**environment(), "threads": torch.get_num_threads()}
    command = printable(f"latent-shift {shlex.join(sys.argv[1:])}")
    where = "; ".join(dict.fromkeys(short_machine(one) for one in machines or [here])) + "."
    body = "\n\n".join([f"`{command}`", where, *(one.markdown() for one in tables)])
    put_into_page(page, name, body, "# Performance\n")
