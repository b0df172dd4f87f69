"""`latent-shift evaluate msr-vtt` and `ucf-101`: clips of a prompt set, then their metrics.

With --cache-dir the clips are kept: a stopped run goes on, `--shard 2/8` makes an eighth of them (in as many
processes or on as many machines as there are shards) and measures nothing, and the command without --shard
measures what is there, making what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latent_shift import systems
from latent_shift.checkpoints import DEFAULT_MODEL
from latent_shift.cli import options as opt
from latent_shift.cli.output import write_report
from latent_shift.cli.progress import progress_of_sets

if TYPE_CHECKING:
    from latent_shift.evaluation.prompt_sets import PromptSet

_EXAMPLES = 8  # on the page
_OF_MEASURING = {  # options that a shard has no use for, as they are typed
    "real": "--real", "metrics": "--metrics", "save_features": "--save-features", "output": "-o",
    "html": "--html", "resamples": "--resamples",
}  # fmt: skip


@dataclass(frozen=True)
class PromptSetOptions(opt.Sampling):
    """Options of both commands. Raises ValueError for one that is wrong by itself."""

    metrics: opt.Metrics = None
    model: Annotated[
        str, typer.Option(help="Model to evaluate: a name, a folder, or a hub id (org/name).")
    ] = DEFAULT_MODEL
    real: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the data set's clips. [no distances are computed]"),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Generate this share of the clips only, and measure nothing."),
    ] = None
    save_features: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=opt.folder_path,
            help="Save features of real clips there, and use them again.",
        ),
    ] = None
    frames: Annotated[int, typer.Option(help="Number of frames of each clip.")] = 16
    fps: Annotated[float | None, typer.Option(help="Frames a second of real clips. [the model's]")] = None
    resolution: Annotated[int, typer.Option(help="Height and width of the clips in pixels.")] = 256
    seed: Annotated[int, typer.Option(help="Random seed of the captions drawn, and of the first clip.")] = 0
    resamples: opt.Resamples = 100
    weights: opt.Weights = None
    clip: opt.ClipModel = None
    antialias: opt.Antialias = None
    allow_unreadable: opt.AllowUnreadable = False
    allow_short: opt.AllowShort = False
    output: opt.Output = None
    html: opt.Html = None
    force: opt.Force = False

    def __post_init__(self) -> None:
        super().__post_init__()
        opt.check_range(1, inf, batch=self.batch, frames=self.frames, resolution=self.resolution)
        opt.check_files({".json": self.output, ".html": self.html}, overwrite=self.force)
        if self.shard is not None:
            self._check_shard()
        if self.save_features is not None and self.real is None:
            raise ValueError(
                f"--save-features {self.save_features}: only features of real clips are saved; name their"
                " folder with --real, or leave it out"
            )
        opt.metric_names(self.metrics)

    def _check_shard(self) -> None:
        """Raise ValueError for a shard without a cache, or with an option that it has no use for."""
        if self.cache_dir is None:
            raise ValueError(
                f"--shard {self.shard}: name the folder that all shards keep their clips in, with --cache-dir"
            )
        for name, typed in _OF_MEASURING.items():
            value = getattr(self, name)
            if value != getattr(PromptSetOptions, name):
                raise ValueError(
                    f"{typed} {value}: --shard {self.shard} makes clips and measures nothing; leave {typed}"
                    " to the command without --shard"
                )


@opt.with_fields
def msr_vtt(
    captions_file: Annotated[
        Path, typer.Option(metavar="FILE", help="MSR-VTT's test_videodatainfo.json, or its zip.")
    ],
    captions: Annotated[str, typer.Option(help="Captions of each clip: one, drawn, or all.")] = "one",
    limit: Annotated[
        int | None, typer.Option(help="Number of prompts drawn. [2,990; with all captions 59,800]")
    ] = None,
    extractor: opt.Extractors = "inception-v3,clip,i3d",
    *,
    options: PromptSetOptions,
) -> None:
    """MSR-VTT, zero-shot: FID, FID on CLIP features, CLIPSIM and FVD of a model's clips of its captions."""
    if captions not in ("one", "all"):
        raise ValueError(f"--captions {captions}: expected one or all")
    extractors = opt.extractor_names(extractor)
    from latent_shift.evaluation import prompt_sets

    chosen: prompt_sets.Captions = "one" if captions == "one" else "all"
    prompts = prompt_sets.msr_vtt(captions_file, captions=chosen, limit=limit, seed=options.seed)
    _evaluate(prompts, extractors, options, is_splits=1)


@opt.with_fields
def ucf_101(
    samples: Annotated[int, typer.Option(help="Number of clips; 2048 and 10000 are usual.")] = 2048,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="UCF-101's classInd.txt, for its order. [all 101]")
    ] = None,
    extractor: opt.Extractors = "i3d,c3d",
    is_splits: opt.IsSplits = 1,
    *,
    options: PromptSetOptions,
) -> None:
    """UCF-101: FVD and Inception Score of a model's clips of one sentence a class."""
    opt.check_range(1, inf, is_splits=is_splits)
    extractors = opt.extractor_names(extractor)
    from latent_shift.evaluation import prompt_sets

    prompts = prompt_sets.ucf_101(samples, classes=classes, seed=options.seed)
    _evaluate(prompts, extractors, options, is_splits)


def _evaluate(
    prompts: PromptSet, extractor_names: list[str], options: PromptSetOptions, is_splits: int
) -> None:
    """Generate the clips, and, unless it is a shard, evaluate them and print the report."""
    from latent_shift.evaluation.clip_files import ClipReadOptions
    from latent_shift.evaluation.metrics.base import MetricOptions
    from latent_shift.evaluation.runner import evaluate
    from latent_shift.evaluation.sources import FolderClips, GeneratedClips, parse_shard

    own_fps = systems.inspect(options.model).fps
    shard = None if options.shard is None else parse_shard(options.shard)
    read = ClipReadOptions(options.frames, own_fps if options.fps is None else options.fps, "crop")
    # Weights that are missing are an error before hours of sampling, not after.
    extractors = []
    if shard is None:
        extractors = opt.build_extractors(
            extractor_names, options.frames, weights=options.weights, clip=options.clip,
            antialias=options.antialias, device=options.device,
        )  # fmt: skip
    settings = {"frames": options.frames, "side": options.resolution, "batch": options.batch}
    model = options.load(options.model, options.resolution)
    model = model.with_cache(options.cache_dir, settings, **{"prompt list": prompts.digest()})
    source = GeneratedClips(model, prompts, read, batch_size=options.batch)
    if shard is not None:
        with progress_of_sets() as on_progress:
            clips = source.generate_shard(shard, partial(on_progress, "clips"))
        print(f"shard {shard.number + 1} of {shard.of}: {clips} clips are in {options.cache_dir}")
        return
    reference = None
    if options.real is not None:
        reference = FolderClips(
            options.real, read, batch_size=options.batch,
            allow_unreadable=options.allow_unreadable, allow_short=options.allow_short,
        )  # fmt: skip
    metrics = opt.metric_names(options.metrics)
    with progress_of_sets() as on_progress:
        report = evaluate(
            [source],
            metrics,
            reference,
            MetricOptions(options.resamples, is_splits, options.seed),
            extractors=extractors,
            strict=metrics is not None,
            title=prompts.name,
            examples=_EXAMPLES if options.html else 0,
            features_dir=options.save_features,
            on_progress=on_progress,
        )
    write_report(
        report, options.output, options.html, force=options.force, command=f"evaluate {prompts.name.lower()}"
    )
