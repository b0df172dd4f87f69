"""`latent-shift evaluate msr-vtt` and `ucf-101`: clips of a prompt set, then their metrics.

With --cache-dir the clips are kept: a stopped run goes on, `--shard 2/8` makes an eighth of them (in as many
processes or on as many machines as there are shards) and measures nothing, and the command without --shard
measures what is there, making what is missing.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import typer

from latent_shift import checkpoints, systems
from latent_shift.cli.evaluation_options import (
    AllowShort,
    Antialias,
    Batch,
    CacheDir,
    ClipModel,
    Device,
    Dtype,
    Extractors,
    Force,
    Guidance,
    Html,
    IsSplits,
    Metrics,
    Model,
    Output,
    Resamples,
    SaveFeatures,
    Steps,
    Weights,
    build_extractors,
    check_positive,
    check_report_files,
    check_sampling,
    extractor_names,
    metric_names,
)
from latent_shift.cli.output import write_report
from latent_shift.cli.progress import progress_of_sets, quiet_libraries

if TYPE_CHECKING:
    from latent_shift.evaluation.prompt_sets import PromptSet

_EXAMPLES = 8  # on the page

Real = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the data set's clips. [no distances are computed]"),
]
Shard = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Generate this share of the clips only, and measure nothing."),
]
Frames = Annotated[int, typer.Option(help="Number of frames of each clip.")]
Fps = Annotated[float | None, typer.Option(help="Frames a second of real clips. [the model's]")]
Resolution = Annotated[int, typer.Option(help="Height and width of the clips in pixels.")]
Seed = Annotated[int, typer.Option(help="Random seed of the captions drawn, and of the first clip.")]


def msr_vtt(
    captions_file: Annotated[
        Path, typer.Option(metavar="FILE", help="MSR-VTT's test_videodatainfo.json, or its zip.")
    ],
    captions: Annotated[str, typer.Option(help="Captions of each clip: one, drawn, or all.")] = "one",
    limit: Annotated[
        int | None, typer.Option(help="Number of prompts drawn. [2,990; with all captions 59,800]")
    ] = None,
    extractor: Extractors = "inception-v3,clip,i3d",
    metrics: Metrics = None,
    model: Model = checkpoints.DEFAULT_MODEL,
    real: Real = None,
    cache_dir: CacheDir = None,
    shard: Shard = None,
    save_features: SaveFeatures = None,
    frames: Frames = 16,
    fps: Fps = None,
    resolution: Resolution = 256,
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
    allow_short: AllowShort = False,
    output: Output = None,
    html: Html = None,
    force: Force = False,
) -> None:
    """MSR-VTT, zero-shot: FID, FID on CLIP features, CLIPSIM and FVD of a model's clips of its captions."""
    if captions not in ("one", "all"):
        raise ValueError(f"--captions {captions}: expected one or all")
    options = SimpleNamespace(**locals(), is_splits=1)
    _check(options)
    from latent_shift.evaluation import prompt_sets

    chosen: prompt_sets.Captions = "one" if captions == "one" else "all"
    _evaluate(prompt_sets.msr_vtt(captions_file, captions=chosen, limit=limit, seed=seed), options)


def ucf_101(
    samples: Annotated[int, typer.Option(help="Number of clips; 2048 and 10000 are usual.")] = 2048,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="UCF-101's classInd.txt, for its order. [all 101]")
    ] = None,
    extractor: Extractors = "i3d,c3d",
    metrics: Metrics = None,
    is_splits: IsSplits = 10,
    model: Model = checkpoints.DEFAULT_MODEL,
    real: Real = None,
    cache_dir: CacheDir = None,
    shard: Shard = None,
    save_features: SaveFeatures = None,
    frames: Frames = 16,
    fps: Fps = None,
    resolution: Resolution = 256,
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
    allow_short: AllowShort = False,
    output: Output = None,
    html: Html = None,
    force: Force = False,
) -> None:
    """UCF-101: FVD and Inception Score of a model's clips of one sentence a class."""
    options = SimpleNamespace(**locals())
    _check(options)
    from latent_shift.evaluation import prompt_sets

    _evaluate(prompt_sets.ucf_101(samples, classes=classes, seed=seed), options)


def _check(options: SimpleNamespace) -> None:
    """Raise ValueError for an option that is wrong by itself."""
    check_sampling(steps=options.steps, guidance=options.guidance, dtype=options.dtype, device=options.device)
    check_positive(
        batch=options.batch, is_splits=options.is_splits, frames=options.frames, resolution=options.resolution
    )
    check_report_files(options.output, options.html, options.force)
    if options.shard is not None and options.cache_dir is None:
        raise ValueError(
            f"--shard {options.shard}: name the folder that all shards keep their clips in, with --cache-dir"
        )
    extractor_names(options.extractor)
    metric_names(options.metrics)


def _evaluate(prompts: PromptSet, options: SimpleNamespace) -> None:
    """Generate the clips, and, unless it is a shard, evaluate them and print the report."""
    from latent_shift.evaluation.clip_files import ClipReadOptions
    from latent_shift.evaluation.evaluated_model import EvaluatedModel
    from latent_shift.evaluation.metrics.base import MetricOptions
    from latent_shift.evaluation.runner import evaluate
    from latent_shift.evaluation.sources import FolderClips, GeneratedClips, parse_shard

    own_fps = systems.inspect(options.model).fps
    shard = None if options.shard is None else parse_shard(options.shard)
    fps = own_fps if options.fps is None else options.fps
    read = ClipReadOptions(options.frames, fps, "crop")
    # Weights that are missing are an error before hours of sampling, not after.
    extractors = []
    if shard is None:
        extractors = build_extractors(
            extractor_names(options.extractor), options.frames, weights=options.weights, clip=options.clip,
            antialias=options.antialias, device=options.device,
        )  # fmt: skip
    quiet_libraries()
    model = EvaluatedModel.load(
        options.model, resolution=options.resolution, steps=options.steps, guidance=options.guidance,
        device=options.device, dtype=options.dtype,
    )  # fmt: skip
    settings = {"frames": options.frames, "side": options.resolution, "batch": options.batch}
    model = model.with_cache(options.cache_dir, settings, **{"prompt list": prompts.digest()})
    source = GeneratedClips(model, prompts, read, batch_size=options.batch)
    if shard is not None:
        with progress_of_sets() as on_progress:
            clips = source.generate_shard(shard, partial(on_progress, "clips"))
        print(f"shard {shard.number + 1} of {shard.of}: {clips} clips are in {options.cache_dir}")
        return
    reference = None
    if options.real is not None:
        reference = FolderClips(options.real, read, batch_size=options.batch, allow_short=options.allow_short)
    metrics = metric_names(options.metrics)
    with progress_of_sets() as on_progress:
        report = evaluate(
            [source],
            metrics,
            reference,
            MetricOptions(options.resamples, options.is_splits, options.seed),
            extractors=extractors,
            strict=metrics is not None,
            title=prompts.name,
            examples=_EXAMPLES if options.html else 0,
            features_dir=options.save_features,
            on_progress=on_progress,
        )
    write_report(report, options.output, options.html, command=f"evaluate {prompts.name.lower()}")
