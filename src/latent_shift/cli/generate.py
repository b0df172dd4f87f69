"""`latent-shift generate PROMPT...`: clips from prompts, and `info FILE`: the settings in a clip's file.

`generate` checks all options and files, loads the model, and prints a line for each clip as soon as it is
written. A file that comes to a clip's name in the meantime is kept, and the clip gets a free name beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latent_shift import generation, systems
from latent_shift.checkpoints import DEFAULT_MODEL, DEVICES, DTYPES, PREDICTION_TYPES, SCHEDULERS
from latent_shift.checkpoints.quiet import quiet_libraries
from latent_shift.cli import options as opt
from latent_shift.cli.output import free_place
from latent_shift.cli.progress import progress_bar
from latent_shift.generation import SUFFIXES, FileRequest, parse_request
from latent_shift.io import at_home, check_no_address, printable, warn
from latent_shift.limits import MAX_COUNT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRANSPARENT = "transparent"


def generate(
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="Text that describes a clip.")
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="Prompts, one a line: .txt, or .jsonl: docs/models.md."
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="PATH", help=f"File ({' '.join(SUFFIXES)}) or folder to write to."
        ),
    ] = "out/",
    model: Annotated[
        str,
        typer.Option(help="Model: a built-in name, a folder, a .safetensors file, or a hub id (org/name)."),
    ] = DEFAULT_MODEL,
    tokenizer: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="CLIP's tokenizer (folder or file) for a single-file model."),
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option(
            "--prediction-type",
            "--prediction",
            metavar="NAME",
            help=f"Prediction type of a single file that does not name it: {' or '.join(PREDICTION_TYPES)}.",
        ),
    ] = None,
    loras: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="FILE[:WEIGHT]", help="LoRA file of the base model; repeatable."),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Number of frames; 1 makes images. [the model's: 16]")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames per second. [the model's: 8]")] = None,
    steps: opt.Steps = None,
    guidance: opt.Guidance = None,
    interval: Annotated[
        str | None,
        typer.Option(
            "--guidance-interval",
            metavar="LOW,HIGH",
            help="Noise levels that are guided, 0 no noise to 1; fewer are faster. [the model's: 0,1]",
        ),
    ] = None,
    forecast: Annotated[
        float | None,
        typer.Option(help="Error of steps that are forecast, 0 to 1; 0 computes all. [the model's]"),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the U-Net first: minutes; for many clips.")
    ] = False,
    negative: Annotated[
        str | None, typer.Option(help="Negative prompt: text that guidance moves away from.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed of each prompt's first clip. [drawn]")] = None,
    count: Annotated[int, typer.Option(help="Clips per prompt, with consecutive seeds.")] = 1,
    height: Annotated[int | None, typer.Option(help="Height in pixels. [the model's]")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels. [the model's]")] = None,
    loop: Annotated[
        bool, typer.Option("--loop", help="Make clips that begin again where they end, without a jump.")
    ] = False,
    scheduler: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Scheduler: {', '.join(SCHEDULERS)}. [the model's]")
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="transparent",
            help="Make the flat ground transparent, in .gif, .webp and .png; in a folder clips are .webp.",
        ),
    ] = None,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    force: opt.Force = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line per clip instead of its file name.")
    ] = False,
) -> None:
    """Generate clips (or images) from prompts and print the names of their files."""
    shared = {
        "seed": seed, "frames": frames, "fps": fps, "steps": steps, "guidance": guidance,
        "negative": negative, "height": height, "width": width, "loop": loop,
    }  # fmt: skip
    requests = _requests(prompts or [], prompt_file, shared)
    opt.check_range(1, MAX_COUNT, count=count)
    opt.check_choice(SCHEDULERS, scheduler=scheduler)
    opt.check_choice(DTYPES, dtype=dtype)
    opt.check_choice(DEVICES, device=device)
    opt.check_range(0, 1, forecast=forecast)
    shortcuts = {
        "guidance_interval": None if interval is None else opt.parse_interval(interval),
        "forecast_threshold": forecast, "compile": compiled or None,
    }  # fmt: skip
    opt.check_choice((TRANSPARENT,), background=background)
    from latent_shift.media import WITH_ALPHA, check_output, write_clip

    if output == "-":
        raise ValueError("-o -: clips are not written to standard output; name a file or folder")
    if not output.strip():
        raise ValueError("-o: is empty; name a file or folder")
    output = at_home(output)
    check_no_address(output)
    if generation.is_file_output(output):
        check_output(output, overwrite=True)
    files = {
        "tokenizer": tokenizer, "prediction_type": prediction, "loras": loras or None, "scheduler": scheduler
    }  # fmt: skip
    quiet_libraries()
    jobs = generation.plan_jobs(
        requests,
        systems.inspect(model, **files),
        count=count,
        output=output,
        clip_suffix=".webp" if background else ".mp4",
    )
    for job in jobs:
        shape = (job.request.frames, job.request.height, job.request.width)
        fps = job.request.fps if job.request.frames > 1 else None
        check_output(job.file, overwrite=force, fps=fps, shape=shape)
        if background is not None and job.file.suffix.lower() not in WITH_ALPHA:
            warn(f"{job.file}: holds no transparency: it keeps its ground; write {' or '.join(WITH_ALPHA)}")
    system = systems.load(model, device=device, dtype=dtype, **files, **shortcuts)
    with progress_bar("denoising", sum(job.request.steps for job in jobs)) as show_done:
        clips = generation.run_in_parts(
            system, [job.request for job in jobs], on_progress=lambda done, total: show_done(done)
        )
        for job, made in zip(jobs, clips, strict=True):
            settings = generation.clip_settings(made, model, system.info())
            parts: Iterable[NDArray[np.uint8]] = made.parts
            if background is not None and job.file.suffix.lower() in WITH_ALPHA:
                parts, settings = _without_ground(job.file, made.parts, settings)
            file = free_place(job.file, force)  # clips before it took their time
            file = write_clip(
                file, parts, made.request.fps, settings, overwrite=force, loop=made.request.loop
            )
            line = {"file": str(file), **settings, "seconds": made.seconds}
            print(json.dumps(line) if as_json else file, flush=True)


def _without_ground(
    file: Path, parts: Iterable[NDArray[np.uint8]], settings: dict[str, Any]
) -> tuple[Iterable[NDArray[np.uint8]], dict[str, Any]]:
    """Make the ground of a clip transparent; warn and keep it where the clip does not allow it."""
    import numpy as np

    from latent_shift.media import remove_ground

    clip = np.concatenate(list(parts))
    try:
        return [remove_ground(clip)], {**settings, "background": TRANSPARENT}
    except ValueError as error:
        warn(f"{file}: keeps its ground: {error}")
        return [clip], settings


def _requests(arguments: list[str], file: Path | None, shared: dict[str, Any]) -> list[FileRequest]:
    """Requests of all prompts; `shared` holds the options, which a line of a file overrides."""
    requests = [parse_request(prompt=prompt, **shared) for prompt in arguments]
    if file is not None:
        parse_request(prompt="-", **shared)
        for values in generation.read_prompts(file):
            given = {key: value for key, value in values.items() if value is not None}  # an empty cell
            requests.append(FileRequest(**{**shared, **given}))
    if not requests:
        raise ValueError("nothing to make: give a PROMPT, or a file of them with --prompts")
    return requests


def info(
    file: Annotated[Path, typer.Argument(help="A file made by latent-shift: .mp4, .gif, .webp or .png.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
) -> None:
    """Print the settings that a generated file was made with."""
    from latent_shift.media import read_settings

    settings = read_settings(file)
    if as_json:
        print(json.dumps({"file": str(file), **settings}))
        return
    width = max((len(printable(name)) for name in settings), default=0)
    for name, value in settings.items():
        print(f"{printable(name):<{width}}  {'-' if value is None else printable(str(value))}")
