"""`latent-shift evaluate msr-vtt` and `evaluate ucf-101`: clips of a list of prompts, then their figures.

With --work the clips are kept: a stopped run goes on, `--part 2/8` makes an eighth of them (in as many
processes or on as many machines as there are parts) and measures nothing, and the command without --part
measures what is there, making what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latent_shift import checkpoints
from latent_shift.checkpoints import DTYPES, choose_device
from latent_shift.cli.evaluation_options import (
    Antialias,
    ClipModel,
    Device,
    Force,
    Html,
    Json,
    Names,
    Resamples,
    Weights,
    check_numbers,
    check_outputs,
    chosen_names,
    made,
)
from latent_shift.cli.progress import progress_bar, progress_of_sets
from latent_shift.cli.results import give, with_circumstances
from latent_shift.cli.tested_model import TestedModel, check_choices, load_tested, short_name

if TYPE_CHECKING:
    from latent_shift.evaluation.features.passing import Measured
    from latent_shift.evaluation.protocols.generation import Part
    from latent_shift.evaluation.protocols.prompts import PromptList

_EXAMPLES = 8  # on the page

Model = Annotated[str, typer.Option(help="A name, a folder, or a hub id (org/name).")]
Real = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The data set's own clips. [no distances without]")
]
Work = Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the clips there.")]
PartOf = Annotated[str | None, typer.Option("--part", metavar="I/N", help="Make that share, measure none.")]
Keep = Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the real clips' features there.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps. [the model's]")]
Guidance = Annotated[float | None, typer.Option(help="How strongly the prompt steers. [the model's]")]
Frames = Annotated[int, typer.Option(help="Of each clip.")]
Fps = Annotated[float | None, typer.Option(help="At which real clips are read. [the model's]")]
Side = Annotated[int, typer.Option(help="Pixels, high and wide.")]
Batch = Annotated[int, typer.Option(help="Clips made together.")]
Dtype = Annotated[str, typer.Option(metavar="NAME", help=", ".join(DTYPES))]
Seed = Annotated[int, typer.Option(help="Of captions drawn, and of the first clip.")]


@dataclass(frozen=True)
class _Wish:
    """What both protocols are asked alike."""

    model: str
    real: Path | None
    work: Path | None
    part: Part | None
    keep: Path | None
    frames: int
    fps: float
    side: int
    batch: int
    splits: int
    resamples: int
    allow_short: bool
    how: dict[str, Any]  # of loading the model
    given: dict[str, Any]  # of the extractors
    names: list[str]
    output: Path | None
    html: Path | None


def msr_vtt(
    prompts: Annotated[Path, typer.Option("--captions-file", metavar="FILE", help="test_videodatainfo.json")],
    captions: Annotated[str, typer.Option(help="one a clip, drawn; or all.")] = "one",
    limit: Annotated[int | None, typer.Option(help="Prompts, drawn. [2,990; with all, 59,800]")] = None,
    extractor: Names = "inception-v3,clip,i3d",
    model: Model = checkpoints.DEFAULT_MODEL,
    real: Real = None,
    work: Work = None,
    part: PartOf = None,
    keep: Keep = None,
    frames: Frames = 16,
    fps: Fps = None,
    side: Side = 256,
    steps: Steps = None,
    guidance: Guidance = None,
    batch: Batch = 8,
    seed: Seed = 0,
    resamples: Resamples = 100,
    weights: Weights = None,
    clip: ClipModel = None,
    antialias: Antialias = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    allow_short: Annotated[bool, typer.Option("--allow-short", help="Leave such real clips out.")] = False,
    output: Json = None,
    html: Html = None,
    force: Force = False,
) -> None:
    """MSR-VTT, zero-shot: FID, FID on CLIP features, CLIPSIM and FVD of a model's clips of its captions."""
    if captions not in ("one", "all"):
        raise ValueError(f"--captions {captions}: expected one or all")
    wish = _wish(
        {"steps": steps, "guidance": guidance, "device": device, "dtype": dtype},
        {"weights": weights, "clip": clip, "antialias": antialias},
        model=model, real=real, work=work, part=part, keep=keep, frames=frames, fps=fps, side=side,
        batch=batch, splits=1, resamples=resamples, allow_short=allow_short, extractor=extractor,
        output=output, html=html, force=force,
    )  # fmt: skip
    from latent_shift.evaluation.protocols import prompts as lists

    which: lists.Captions = "one" if captions == "one" else "all"
    _run(lists.msr_vtt(prompts, captions=which, limit=limit, seed=seed), wish, seed)


def ucf_101(
    samples: Annotated[int, typer.Option(help="Clips; 2048 and 10000 are usual.")] = 2048,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="classInd.txt, for its order. [all 101]")
    ] = None,
    extractor: Names = "i3d,c3d",
    splits: Annotated[int, typer.Option(help="Of the Inception Score.")] = 10,
    model: Model = checkpoints.DEFAULT_MODEL,
    real: Real = None,
    work: Work = None,
    part: PartOf = None,
    keep: Keep = None,
    frames: Frames = 16,
    fps: Fps = None,
    side: Side = 256,
    steps: Steps = None,
    guidance: Guidance = None,
    batch: Batch = 8,
    seed: Seed = 0,
    resamples: Resamples = 100,
    weights: Weights = None,
    clip: ClipModel = None,
    antialias: Antialias = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    allow_short: Annotated[bool, typer.Option("--allow-short", help="Leave such real clips out.")] = False,
    output: Json = None,
    html: Html = None,
    force: Force = False,
) -> None:
    """UCF-101: FVD and Inception Score of a model's clips of one sentence a class."""
    wish = _wish(
        {"steps": steps, "guidance": guidance, "device": device, "dtype": dtype},
        {"weights": weights, "clip": clip, "antialias": antialias},
        model=model, real=real, work=work, part=part, keep=keep, frames=frames, fps=fps, side=side,
        batch=batch, splits=splits, resamples=resamples, allow_short=allow_short, extractor=extractor,
        output=output, html=html, force=force,
    )  # fmt: skip
    from latent_shift.evaluation.protocols import prompts as lists

    _run(lists.ucf_101(samples, classes=classes, seed=seed), wish, seed)


def _wish(how: dict[str, Any], given: dict[str, Any], **asked: Any) -> _Wish:
    """What was asked, checked. Raises ValueError for whatever can be known before any work."""
    from latent_shift.evaluation.protocols.generation import read_part

    check_choices(**how)
    check_numbers(batch=asked["batch"], splits=asked["splits"], frames=asked["frames"], side=asked["side"])
    force, part, fps = asked.pop("force"), asked.pop("part"), asked.pop("fps")
    check_outputs(asked["output"], asked["html"], force)
    if part is not None and asked["work"] is None:
        raise ValueError(f"--part {part}: name the folder that all parts keep their clips in, with --work")
    own = checkpoints.video_config(checkpoints.resolve(asked["model"]))
    return _Wish(
        how=how, given=given, names=chosen_names(asked.pop("extractor")), fps=own.fps if fps is None else fps,
        part=None if part is None else read_part(part), **asked,
    )  # fmt: skip


def _run(prompts: PromptList, wish: _Wish, seed: int) -> None:
    """Make the clips, and, unless it is a part, measure them and print the report."""
    from latent_shift.evaluation.extractors import Given
    from latent_shift.evaluation.shards import ClipStore

    # Weights that are missing are told before hours of sampling, not after.
    given = Given(**wish.given, device=choose_device(wish.how["device"]))
    extractors = [] if wish.part is not None else made(wish.names, given, wish.frames)
    tested = load_tested(checkpoints.resolve(wish.model), wish.model, side=wish.side, **wish.how)
    settings = {**tested.settings, "frames": wish.frames, "side": wish.side, "batch": wish.batch}
    store = ClipStore(wish.work, {**settings, "prompt list": prompts.digest()})
    if wish.part is not None:
        _make_part(prompts, tested, store, wish, wish.part)
        return
    _measure(prompts, tested, store, extractors, settings, wish, seed)


def _make_part(prompts: PromptList, tested: TestedModel, store: Any, wish: _Wish, part: Part) -> None:
    from latent_shift.evaluation.protocols.generation import generate

    with progress_bar("clips", len(prompts.prompts) // part.of) as show_done:
        clips = generate(
            prompts, tested.maker, store, frames=wish.frames, batch=wish.batch, part=part, show_done=show_done
        )
    print(f"part {part.number + 1} of {part.of}: {clips} clips are in {wish.work}")


def _measure(
    prompts: PromptList,
    tested: TestedModel,
    store: Any,
    extractors: Sequence[Any],
    settings: dict[str, Any],
    wish: _Wish,
    seed: int,
) -> None:
    from latent_shift.evaluation.features.reading import Reading
    from latent_shift.evaluation.protocols.measuring import measure_model
    from latent_shift.evaluation.report.figures import Choices

    reading = Reading(wish.frames, wish.fps, "crop")
    choices = Choices(wish.resamples, wish.splits, seed)
    reference = _reference(wish, extractors, reading, choices)
    with progress_bar("clips", len(prompts.prompts)) as show_done:
        report, shown = measure_model(
            prompts, tested.maker, store, extractors, reading,
            batch=wish.batch, name=short_name(wish.model), reference=reference, choices=choices,
            settings=settings, examples=_EXAMPLES if wish.html else 0, show_done=show_done,
        )  # fmt: skip
    report = with_circumstances(report, command=f"evaluate {prompts.name.lower()}")
    give(report, wish.output, wish.html, as_json=False, shown=shown, fps=wish.fps)


def _reference(wish: _Wish, extractors: Sequence[Any], reading: Any, choices: Any) -> Measured | None:
    if wish.real is None:
        return None
    from latent_shift.evaluation.folders import Request, reference_of

    request = Request(
        reading=reading, choices=choices, batch=wish.batch, keep=wish.keep, allow_short=wish.allow_short
    )
    with progress_of_sets() as show:
        return reference_of(wish.real, extractors, request, show)
