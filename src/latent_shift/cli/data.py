"""`latent-shift data`: look at what a model would be trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from latent_shift.data.moving_shapes.scene import Split

SOURCES = ("moving-shapes",)
MAX_COUNT = 200  # clips on one sheet

app = typer.Typer(help="Look at training data.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _commands() -> None:
    pass


@app.command("preview")
def preview(
    source: Annotated[str, typer.Argument(help=", ".join(SOURCES))],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.png")] = Path("out/preview.png"),
    level: Annotated[int, typer.Option(help="1, or 2 with digits, speed words and two objects.")] = 1,
    split: Annotated[str, typer.Option(help="seen, held-out or any.")] = "seen",
    objects: Annotated[int | None, typer.Option(help="Objects a clip. [level 2: one or two]")] = None,
    seed: Annotated[int, typer.Option(help="Of the series of scenes.")] = 0,
    count: Annotated[int, typer.Option(help="Clips.")] = 8,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")] = False,
) -> None:
    """Write a contact sheet: a clip a line, its caption above; print the file's name."""
    if source not in SOURCES:
        raise ValueError(f"source {source!r}: expected one of {', '.join(SOURCES)}")
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"--count {count}: give 1 to {MAX_COUNT}")
    from latent_shift.data.moving_shapes import caption, draw_scenes, render
    from latent_shift.media import check_output, contact_sheet, write_image

    check_output(output, overwrite=force, suffixes=[".png"])
    scenes = draw_scenes(seed, range(count), level=level, objects=objects, split=cast("Split", split))
    sheet = contact_sheet(list(render(scenes)), [caption(scene) for scene in scenes])
    asked = {"level": level, "split": split, "objects": objects, "seed": seed, "count": count}
    write_image(output, sheet, {"source": source, **asked}, overwrite=force)
    print(output)
