"""`latent-shift data`: preview, check and pack the clips that a model would be trained on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from latent_shift.cli import errors
from latent_shift.cli import options as opt
from latent_shift.cli.progress import progress_bar
from latent_shift.io import printable

if TYPE_CHECKING:
    from latent_shift.data.manifest import Manifest
    from latent_shift.data.sources.base import GeneratedSource, Source
    from latent_shift.moving_shapes.sampling import Split

Checked = TypeVar("Checked")

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
    str | None, typer.Option("--format", help="Format of the source, where its name does not show it.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another setting of the source.")
]
Workers = Annotated[int, typer.Option(help="Number of processes. [default: one a core]", show_default=False)]


@app.command("preview")
def preview(
    source: SourceName,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE.png", parser=opt.output_path, help="File of the contact sheet."
        ),
    ] = Path("out/preview.png"),
    level: Annotated[
        int | None,
        typer.Option(help="Level of moving-shapes: 1, or 2 with digits, speed words and two objects. [1]"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of moving-shapes: seen, held-out or any. [seen]")
    ] = None,
    objects: Annotated[
        int | None, typer.Option(help="Objects in each clip of moving-shapes. [level 2: one or two]")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames a clip; not of moving-shapes. [16]")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second; not of moving-shapes. [8]")] = None,
    stride: Annotated[
        int | None, typer.Option(help="Take every STRIDE-th frame, instead of --fps; not of moving-shapes.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels; not of moving-shapes. [256]")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels; not of moving-shapes. [256]")] = None,
    images: Annotated[
        bool, typer.Option("--images", help="Show the images of the source, not its clips.")
    ] = False,
    format: Format = None,
    settings: Settings = None,
    seed: Annotated[
        int | None, typer.Option(help="Random seed of moving-shapes, or of windows and captions. [0]")
    ] = None,
    count: Annotated[int, typer.Option(help="Number of clips.")] = 8,
    force: opt.Force = False,
) -> None:
    """Write a contact sheet, one clip a line under its caption, and print the file's name."""
    opt.check_range(1, MAX_COUNT, count=count)
    opt.check_files({".png": output}, overwrite=force)
    from latent_shift.data.sources.base import GeneratedSource
    from latent_shift.media import contact_sheet, write_image

    window = {"num_frames": frames, "fps": fps, "stride": stride, "height": height, "width": width}
    if source == WORLD:
        _refuse(window | {"images": images or None, "format": format, "set": settings}, "another source")
        from latent_shift.moving_shapes import caption, draw_scenes, render

        level = 1 if level is None else level
        of_split = cast("Split", "seen" if split is None else split)
        chosen = {"level": level, "split": of_split, "objects": objects}
        scenes = draw_scenes(seed or 0, range(count), level=level, num_objects=objects, split=of_split)
        clips, captions = list(render(scenes)), [caption(scene) for scene in scenes]
    else:
        _refuse({"level": level, "split": split, "objects": objects}, WORLD)
        found = _source(source, format, settings)
        chosen = _given(window)
        if isinstance(found, GeneratedSource):
            _refuse({**chosen, "seed": seed}, "another source")
            seed, dataset = found.seed, found.dataset(images=images)
            items = [dataset[index] for index in range(count)]
        else:
            items = _windows(found.read(), chosen, seed or 0, count, images=images)
        clips, captions = [item["frames"].numpy() for item in items], [item["caption"] for item in items]
    embedded = {"source": source, **chosen, "seed": seed or 0, "count": count}
    write_image(output, contact_sheet(clips, captions), embedded, overwrite=force)
    print(output)


@app.command("check")
def check(
    source: SourceName,
    format: Format = None,
    settings: Settings = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as one JSON object.")] = False,
    workers: Workers = 0,
) -> None:
    """Read every file from end to end; report statistics, and each bad file with its reason."""
    import json

    from latent_shift.data.check import inspect

    manifest = _manifest(source, format, settings)
    with progress_bar("reading", len(manifest.records)) as done:
        report = inspect(manifest, workers=workers or os.cpu_count() or 1, report=done)
    print(json.dumps(report.as_json()) if as_json else report.summary())


@app.command("pack")
def pack(
    source: SourceName,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FOLDER", parser=opt.output_path, help="Folder of the shards."
        ),
    ],
    format: Format = None,
    settings: Settings = None,
    per_shard: Annotated[int, typer.Option(help="Number of clips in one tar.")] = 1000,
    latents_of: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Also compute this model's latents and text embeddings."),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second of the latents. [8]")] = None,
    height: Annotated[int | None, typer.Option(help="Height of the encoded frames in pixels. [256]")] = None,
    width: Annotated[int | None, typer.Option(help="Width of the encoded frames in pixels. [256]")] = None,
    workers: Workers = 0,
) -> None:
    """Write tar shards in the WebDataset layout; the same command goes on where it was stopped."""
    from latent_shift.data.pack import pack as write_shards

    size = {"fps": fps, "height": height, "width": width}
    if latents_of is None:
        _refuse(size, "--latents-of")
        encoder = None
    else:
        from latent_shift.training.precompute import LatentEncoder, PrecomputeOptions

        encoder = LatentEncoder(_checked(PrecomputeOptions, model=latents_of, **size))
    manifest = _manifest(source, format, settings)
    options: dict[str, Any] = {"per_shard": per_shard, "workers": workers or os.cpu_count() or 1}
    samples = 0
    with progress_bar("packing", len(manifest.records)) as done:
        for shard in write_shards(manifest, output, encoder=encoder, **options):
            samples += shard.samples
            for key, reason in shard.left_out.items():
                errors.say(f"left out {key}: {reason}")
            done(samples)
            print(shard.path)
    total = len(manifest.records) + len(manifest.problems)
    errors.say(f"{samples} of {total} entries are packed")


def _source(name: str, format: str | None, settings: list[str] | None) -> Source | GeneratedSource:
    """The source of a command line."""
    from pydantic import ValidationError

    from latent_shift.data.sources import detect_source
    from latent_shift.training.recipe import put_typed_texts, setting_value, unread_problem

    values: dict[str, Any] = {}
    typed: dict[tuple[str, ...], str] = {}
    for setting in opt.settings_at_home(settings):
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {setting!r}: must look like key=value")
        if key in ("format", "name"):
            raise ValueError(f"--set {setting!r}: give the format by --format, and the name as the source")
        typed[(key,)] = value
        values[key] = setting_value(value.strip(), f"--set {setting!r}")
    try:
        return detect_source(name, format, **values)
    except ValueError as error:  # a date, a number or no may be the name of a folder or column
        causes = (error.__cause__, error.__cause__ and error.__cause__.__cause__)
        wrong = next((one for one in causes if isinstance(one, ValidationError)), None)
        if wrong is None:
            raise
        if problem := unread_problem(wrong):
            raise ValueError(problem) from error
        if not put_typed_texts(values, typed, wrong, nulls=True):
            raise
        return detect_source(name, format, **values)


def _manifest(name: str, format: str | None, settings: list[str] | None) -> Manifest:
    """The source of a command line, read. Raises ValueError for one without files."""
    from latent_shift.data.sources.base import GeneratedSource

    source = _source(name, format, settings)
    if isinstance(source, GeneratedSource):
        raise ValueError(f"source {name}: is drawn, not read from files; there is nothing to check or pack")
    return source.read()


def _windows(
    manifest: Manifest, window: dict[str, Any], seed: int, count: int, *, images: bool
) -> list[dict[str, Any]]:
    """The first items that a training with this window sees; bad records go to standard error."""
    from latent_shift.data.video_dataset import ClipSettings, VideoDataset

    chosen = _checked(ClipSettings, **window, max_bad_share=1.0)  # shows the good ones among many bad
    videos = VideoDataset(manifest, chosen, seed=seed, kind="image" if images else "clip")
    items = [videos[index] for index in range(min(count, len(videos)))]
    for number, reason in videos.bad.items():
        errors.say(f"left out {videos.records[number].key}: {printable(reason)}")
    return items


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _checked(kind: Callable[..., Checked], **options: Any) -> Checked:
    """Settings of a kind from the options that are given. Raises ValueError naming a wrong one."""
    from pydantic import ValidationError

    from latent_shift.documents import validation_error

    try:
        return kind(**_given(options))
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # of two options together
            raise ValueError(validation_error(error)) from error
        raise ValueError(f"--{_option(str(first['loc'][0]))} {first['input']}: {first['msg']}") from error


def _refuse(options: dict[str, Any], other: str) -> None:
    """Raise ValueError for the first option that is given although it is only for another source."""
    for name in _given(options):
        raise ValueError(f"--{_option(name)}: only for {other}")


def _option(setting: str) -> str:
    return "frames" if setting == "num_frames" else setting
