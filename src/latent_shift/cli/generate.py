"""`latent-shift generate PROMPT...`: clips from sentences.

Checks everything that was asked, then loads the model, then makes clip after clip and prints a line for each.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latent_shift import __version__, checkpoints
from latent_shift.checkpoints import DEFAULT_MODEL, DEVICES, DTYPES, PREDICTION_TYPES, SCHEDULERS
from latent_shift.cli.orders import SUFFIXES, Order, Wish, make_wish, names_file, plan, read_prompts
from latent_shift.cli.progress import progress_bar
from latent_shift.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from latent_shift.checkpoints import Lora
    from latent_shift.media import Frames
    from latent_shift.pipeline import LatentShiftPipeline
    from latent_shift.video_config import VideoConfig

MAX_COUNT = 10_000
MAX_SIDE = 4096  # pixels

_Tokenizer = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="For a model of a single file: CLIP's tokenizer, a folder or file."),
]
_Prediction = Annotated[
    str | None,
    typer.Option(
        "--prediction-type",
        "--prediction",
        metavar="NAME",
        help=f"For a single file that does not say: {' or '.join(PREDICTION_TYPES)}.",
    ),
]
_Loras = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="FILE[:WEIGHT]", help="A LoRA of the base model; repeatable."),
]


def generate(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="What to show.")] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="A .txt (a prompt a line) or .jsonl (an object a line)."
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="PATH", help=f"A file ({' '.join(SUFFIXES)}) or a folder."),
    ] = "out/",
    model: Annotated[
        str, typer.Option(help="A name, a folder, a .safetensors file, or a hub id (org/name).")
    ] = DEFAULT_MODEL,
    tokenizer: _Tokenizer = None,
    prediction: _Prediction = None,
    loras: _Loras = None,
    frames: Annotated[
        int | None, typer.Option(help="Frames a clip; 1 makes images. [the model's: 16]")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second. [the model's: 8]")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. [the model's]")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How strongly the prompt steers. [the model's]")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What not to show.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the first clip of each prompt. [drawn]")] = None,
    count: Annotated[int, typer.Option(help="Clips a prompt, with seeds one after the other.")] = 1,
    height: Annotated[int | None, typer.Option(help="Pixels. [the model's]")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. [the model's]")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"{', '.join(SCHEDULERS)}. [the model's]")
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="NAME", help=", ".join(DTYPES))] = "auto",
    device: Annotated[str, typer.Option(metavar="NAME", help=", ".join(DEVICES))] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON line a clip, not its file's name.")
    ] = False,
) -> None:
    """Make clips (or images) from prompts and print the files' names."""
    shared = {"seed": seed, "frames": frames, "steps": steps, "guidance": guidance, "negative": negative}
    wishes = _wishes(prompts or [], prompt_file, shared)
    from latent_shift.media import check_output, write_clip

    _check_choices(fps=fps, count=count, scheduler=scheduler, dtype=dtype, device=device)
    check_output(output if names_file(output) else Path(output) / "clip.mp4", overwrite=True)
    place = checkpoints.resolve(model, tokenizer=tokenizer, prediction_type=prediction)
    added = checkpoints.check_loras(loras or [])
    size = {"height": height, "width": width}
    own = _own_settings(place, wishes, size)
    orders = plan(wishes, count=count, output=output, defaults=_defaults(own))
    for order in orders:
        check_output(order.file, overwrite=force)
    options = {"device": device, "dtype": dtype, "tokenizer": tokenizer, "prediction_type": prediction}
    pipeline = _load(place, scheduler, loras=added, **options)
    facts = _facts(pipeline, model, checkpoints.weights_hash(place), own.fps if fps is None else fps)
    facts |= _facts_if_asked(prediction, added)
    for order, clip, seconds in _clips(pipeline, orders, {**size, "fps": facts["fps"]}):
        settings = _settings(order, clip, facts)
        write_clip(order.file, clip, settings["fps"], settings, overwrite=force)
        line = {"file": str(order.file), **settings, "seconds": seconds}
        print(json.dumps(line) if as_json else order.file, flush=True)


def _own_settings(place: Path, wishes: list[Wish], size: dict[str, int | None]) -> VideoConfig:
    """What the model samples with unless asked; ValueError for sizes or prompts that it cannot do."""
    from latent_shift.prompts import check_known

    _check_size(checkpoints.pixel_multiple(place), **size)
    own = checkpoints.video_config(place)
    check_known([wish.prompt for wish in wishes], own.closed_vocabulary)
    return own


def _defaults(own: VideoConfig) -> dict[str, Any]:
    return {"frames": own.num_frames, "steps": own.num_inference_steps, "guidance": own.guidance_scale}


def _clips(
    pipeline: LatentShiftPipeline, orders: list[Order], size: dict[str, Any]
) -> Iterator[tuple[Order, Frames, float]]:
    """Each order with its clip and the seconds that took, under one progress bar for all."""
    with progress_bar("denoising", sum(order.steps for order in orders)) as show_done:
        done = 0
        for order in orders:
            began = time.perf_counter()
            clip = _sample(pipeline, order, size, partial(_show_step, show_done, done))
            done += order.steps
            yield order, clip, round(time.perf_counter() - began, 3)


def _wishes(arguments: list[str], file: Path | None, shared: dict[str, Any]) -> list[Wish]:
    wishes = [make_wish(prompt=prompt, **shared) for prompt in arguments]
    if file is not None:
        make_wish(prompt="-", **shared)
        wishes += [Wish(**{**shared, **values}) for values in read_prompts(file)]
    if not wishes:
        raise ValueError("nothing to make: give a PROMPT, or a file of them with --prompts")
    return wishes


def _check_choices(*, fps: float | None, count: int, scheduler: str | None, dtype: str, device: str) -> None:
    if fps is not None and not 0.01 <= fps <= 1000:
        raise ValueError(f"--fps {fps}: give 0.01 to 1000")
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"--count {count}: give 1 to {MAX_COUNT}")
    named = {"scheduler": (scheduler, SCHEDULERS), "dtype": (dtype, DTYPES), "device": (device, DEVICES)}
    for option, (value, known) in named.items():
        if value is not None and value not in known:
            raise ValueError(f"--{option} {value}: expected one of {', '.join(known)}")


def _check_size(multiple: int, **sides: int | None) -> None:
    for name, value in sides.items():
        if value is not None and (not multiple <= value <= MAX_SIDE or value % multiple):
            lower = min(max(value // multiple, 1) * multiple, MAX_SIDE - multiple)
            mend = f"for example {lower} or {lower + multiple}"
            raise ValueError(
                f"--{name} {value}: this model makes multiples of {multiple} up to {MAX_SIDE}, {mend}"
            )


def _load(place: Path, scheduler: str | None, **options: Any) -> LatentShiftPipeline:
    quiet_libraries()
    pipeline = checkpoints.load(place, **options)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        checkpoints.use_scheduler(pipeline, scheduler)
    return pipeline


def _show_step(
    show_done: Callable[[int], None], before: int, _: Any, step: int, __: Any, tensors: dict[str, Any]
) -> dict[str, Any]:
    """The pipeline's callback after each step; `before` steps were done in the clips before this one."""
    show_done(before + step + 1)
    return tensors


def _sample(
    pipeline: LatentShiftPipeline, order: Order, size: dict[str, Any], step_ended: Callable[..., Any]
) -> Frames:
    """One clip (F, H, W, 3) uint8, its noise drawn on the CPU from its seed alone."""
    import torch

    try:
        result: Any = pipeline(
            order.prompt,
            negative_prompt=order.negative,
            num_frames=order.frames,
            num_inference_steps=order.steps,
            guidance_scale=order.guidance,
            generator=torch.Generator("cpu").manual_seed(order.seed),
            output_type="np",
            callback_on_step_end=step_ended,
            **size,
        )
    except torch.OutOfMemoryError as error:
        mends = "fewer --frames, a smaller --height and --width, --dtype bf16, --device cpu"
        raise ValueError(f"the device's memory does not hold this clip; try {mends}") from error
    return (result.frames[0] * 255).round().astype("uint8")


def _facts(pipeline: LatentShiftPipeline, model: str, weights: str, fps: float) -> dict[str, Any]:
    """What all clips of one run have in common, for their settings."""
    return {
        "fps": fps,
        "scheduler": type(pipeline.scheduler).__name__,
        "model": model,
        "weights": weights,
        "dtype": str(pipeline.unet.dtype).removeprefix("torch."),
        "device": pipeline.device.type,
        "version": __version__,
    }


def _facts_if_asked(prediction: str | None, loras: list[Lora]) -> dict[str, Any]:
    """What a clip's settings say of a model only where it was asked for."""
    said: dict[str, Any] = {} if prediction is None else {"prediction": prediction}
    return said | ({"loras": checkpoints.lora_facts(loras)} if loras else {})


def _settings(order: Order, clip: Frames, facts: dict[str, Any]) -> dict[str, Any]:
    asked = {name: value for name, value in asdict(order).items() if name != "file"}
    return {**asked, "height": clip.shape[1], "width": clip.shape[2], **facts}
