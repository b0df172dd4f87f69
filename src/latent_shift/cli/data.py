"""`latent-shift data`: look at what a model would be trained on, check it, pack it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from latent_shift.cli.progress import progress_bar

if TYPE_CHECKING:
    from latent_shift.data.manifest import Manifest
    from latent_shift.data.precomputed import Encoder
    from latent_shift.moving_shapes.sampling import Split

WORLD = "moving-shapes"
MAX_COUNT = 200  # clips on one sheet

app = typer.Typer(help="Look at training data.", no_args_is_help=True, rich_markup_mode=None)

SourceName = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="moving-shapes, a folder, a .csv, .tsv, .jsonl or .json file, tars ('train-{0000..0099}.tar'),"
        " or a .yaml file with a source's settings (docs/data.md).",
    ),
]
Format = Annotated[
    str | None, typer.Option("--format", help="The source's format where its name is not clear.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One of the source's other settings.")
]
Workers = Annotated[int, typer.Option(help="Processes. [default: one a core]", show_default=False)]


@app.command("preview")
def preview(
    source: SourceName,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.png")] = Path("out/preview.png"),
    level: Annotated[
        int | None, typer.Option(help="Of moving-shapes: 1, or 2 with digits, speed words, two objects. [1]")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of moving-shapes: seen, held-out or any. [seen]")] = None,
    objects: Annotated[
        int | None, typer.Option(help="Of moving-shapes: objects a clip. [level 2: one or two]")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Of other sources: frames a clip. [16]")] = None,
    fps: Annotated[float | None, typer.Option(help="Of other sources: frames a second. [8]")] = None,
    stride: Annotated[int | None, typer.Option(help="Of other sources: every so many-th frame.")] = None,
    height: Annotated[int | None, typer.Option(help="Of other sources: pixels. [256]")] = None,
    width: Annotated[int | None, typer.Option(help="Of other sources: pixels. [256]")] = None,
    images: Annotated[bool, typer.Option("--images", help="Of other sources: images, not clips.")] = False,
    format: Format = None,
    settings: Settings = None,
    seed: Annotated[int, typer.Option(help="Of the series of scenes, or of what is seen of clips.")] = 0,
    count: Annotated[int, typer.Option(help="Clips.")] = 8,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")] = False,
) -> None:
    """Write a contact sheet: a clip a line, its caption above; print the file's name."""
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"--count {count}: give 1 to {MAX_COUNT}")
    from latent_shift.media import check_output, contact_sheet, write_image

    check_output(output, overwrite=force, suffixes=[".png"])
    shown: dict[str, Any] = {"level": level, "split": split, "objects": objects}
    seen = {"num_frames": frames, "fps": fps, "stride": stride, "height": height, "width": width}
    if source == WORLD:
        _refuse(seen | {"images": images or None, "format": format, "set": settings}, "another source")
        shown = {"level": level or 1, "split": split or "seen", "objects": objects}
        clips, captions = _world_clips(seed, count, **shown)
    else:
        _refuse(shown, WORLD)
        listing = _listing(source, format, settings)
        shown = {name: value for name, value in seen.items() if value is not None}
        clips, captions = _seen_clips(listing, shown, seed=seed, count=count, images=images)
    asked = {**shown, "seed": seed, "count": count}
    write_image(output, contact_sheet(clips, captions), {"source": source, **asked}, overwrite=force)
    print(output)


@app.command("check")
def check(
    source: SourceName,
    format: Format = None,
    settings: Settings = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, with all there is.")
    ] = False,
    workers: Workers = 0,
) -> None:
    """Read every file from end to end; tell what there is, and each bad file with its reason."""
    import json

    from latent_shift.data.check import inspect

    listing = _listing(source, format, settings)
    with progress_bar("reading", len(listing.entries)) as done:
        report = inspect(listing, workers=_workers(workers), report=done)
    print(json.dumps(report.as_json()) if as_json else report.summary())


@app.command("pack")
def pack(
    source: SourceName,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Of the shards.")],
    format: Format = None,
    settings: Settings = None,
    per_shard: Annotated[int, typer.Option(help="Clips in one tar.")] = 1000,
    latents_of: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Compute latents and text states of this model's ahead, too."),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Of the latents: frames a second. [8]")] = None,
    height: Annotated[int | None, typer.Option(help="Of the latents: pixels. [256]")] = None,
    width: Annotated[int | None, typer.Option(help="Of the latents: pixels. [256]")] = None,
    workers: Workers = 0,
) -> None:
    """Write tar shards in the WebDataset layout; the same command goes on where it was stopped."""
    from latent_shift.data.pack import pack as write_shards

    encoder = _encoder(latents_of, {"fps": fps, "height": height, "width": width})

    listing = _listing(source, format, settings)
    samples = 0
    with progress_bar("packing", len(listing.entries)) as done:
        count = _workers(workers)
        for packed in write_shards(listing, output, per_shard=per_shard, workers=count, encoder=encoder):
            samples += packed.samples
            for key, reason in packed.left_out.items():
                typer.echo(f"left out {key}: {reason}", err=True)
            done(samples)
            print(packed.path)
    typer.echo(f"{samples} of {len(listing.entries) + len(listing.problems)} entries are packed", err=True)


def _encoder(model: str | None, seen: dict[str, Any]) -> Encoder | None:
    """What computes latents ahead, if any."""
    if model is None:
        _refuse(seen, "--latents-of")
        return None
    from pydantic import ValidationError

    from latent_shift.data.precomputed import Encoder, PrecomputeOptions

    given = {name: value for name, value in seen.items() if value is not None}
    try:
        return Encoder(PrecomputeOptions(model=model, **given))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"--{first['loc'][0]} {first['input']}: {first['msg']}") from error


def _listing(name: str, format: str | None, settings: list[str] | None) -> Manifest:
    """The source of a command line, read; what it leaves out and what it guessed goes to standard error."""
    import yaml

    from latent_shift.data.sources import recognise
    from latent_shift.data.sources.base import GeneratedSource

    if name == WORLD:
        raise ValueError(f"source {WORLD}: is drawn, not read from files; there is nothing to check or pack")
    values: dict[str, Any] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {setting!r}: must look like key=value")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {setting!r}: has no YAML value: {error}") from error
    source = recognise(name, format, **values)
    if isinstance(source, GeneratedSource):
        raise ValueError(f"source {name}: is drawn, not read from files; there is nothing to check or pack")
    return source.read()


def _world_clips(
    seed: int, count: int, level: int, split: str, objects: int | None
) -> tuple[list[Any], list[str]]:
    from latent_shift.moving_shapes import caption, draw_scenes, render

    scenes = draw_scenes(seed, range(count), level=level, num_objects=objects, split=cast("Split", split))
    return list(render(scenes)), [caption(scene) for scene in scenes]


def _seen_clips(
    listing: Manifest, settings: dict[str, Any], *, seed: int, count: int, images: bool
) -> tuple[list[Any], list[str]]:
    """What a training with these settings sees at its first visits: the dataset's own items."""
    from pydantic import ValidationError

    from latent_shift.data.video_dataset import ClipSettings, VideoDataset

    try:
        chosen = ClipSettings(**settings, max_bad_share=1.0)  # to look at the good ones; the bad are told
    except ValidationError as error:
        first = error.errors()[0]
        name = "frames" if first["loc"] == ("num_frames",) else ".".join(map(str, first["loc"]))
        raise ValueError(f"--{name} {first['input']}: {first['msg']}" if name else first["msg"]) from error
    videos = VideoDataset(listing, chosen, seed=seed, kind="image" if images else "clip")
    items = [videos[visit] for visit in range(min(count, len(videos)))]
    for index, reason in videos.bad.items():
        typer.echo(f"left out {videos.entries[index].key}: {reason}", err=True)
    return [item["frames"].numpy() for item in items], [item["caption"] for item in items]


def _refuse(options: dict[str, Any], other: str) -> None:
    """ValueError for the first option that is given although it says nothing to this source."""
    for name, value in options.items():
        if value is not None:
            option = "frames" if name == "num_frames" else name
            raise ValueError(f"--{option}: only for {other}")


def _workers(asked: int) -> int:
    return asked or os.cpu_count() or 1
