"""Reports on models of Moving Shapes: exact scores subset by subset, or all metrics in one table.

Beside the models stand real clips of the same prompts, and the same through the first model's autoencoder:
the ceiling of every score and, measured against other real clips, the baseline of every distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from latent_shift.evaluation.evaluated_model import EvaluatedModel
from latent_shift.evaluation.extractors.base import Extractor, TextExtractor
from latent_shift.evaluation.features import SourceFeatures
from latent_shift.evaluation.metrics.base import Measurement, Metric, MetricOptions
from latent_shift.evaluation.report import (
    GENERATED,
    REAL,
    RECONSTRUCTED,
    Proportion,
    Report,
    format_result,
    format_settings,
)
from latent_shift.evaluation.runner import ProgressCallback, evaluate
from latent_shift.evaluation.sources import ClipSource, ReconstructedClips
from latent_shift.moving_shapes.protocol import (
    MOTION_KINDS,
    MovingShapesScores,
    Subset,
    SubsetClips,
    other_scenes,
)

BASELINE = "real clips (the baseline)"
_TITLES = {
    "colour right": "colour",
    "shape right": "shape",
    "motion right": "motion",
    "background right": "background",
    "all right at once": "all at once",
    "speed right": "(speed word)",
}


def score_report(
    model: EvaluatedModel | None,
    subsets: Sequence[Subset],
    *,
    prompts: int,
    frames: int,
    batch_size: int,
    generate: bool = True,
    examples: int = 0,
    on_progress: ProgressCallback = lambda name, done, total: None,
) -> Report:
    """Score clips subset by subset: rows of real clips, reconstructed ones and generated ones.

    Args:
        model: None for real clips only.
        subsets: in the order of the rows.
        prompts: of each subset, one clip each.
        frames: of each clip; 1 for images.
        batch_size: clips in a batch.
        generate: False leaves out the clips that the model generates.
        examples: clips of each row to keep in the report.
        on_progress: as in `evaluate`.

    Raises:
        ValueError: for a number out of range.
    """
    clips = partial(SubsetClips, prompts=prompts, frames=frames, batch_size=batch_size)
    sources: list[ClipSource] = []
    generated: list[SubsetClips] = []
    for subset in subsets:
        names = {kind: f"{subset.name}, {kind}" for kind in (REAL, RECONSTRUCTED, GENERATED)}
        settings = {kind: {"subset": subset.name, "clips": kind} for kind in names}
        real = clips(names[REAL], [subset], settings=settings[REAL])
        sources.append(real)
        if model is not None:
            row = {**model.settings, **settings[RECONSTRUCTED]}
            sources.append(ReconstructedClips(names[RECONSTRUCTED], model, real, row))
        if model is not None and generate:
            generated.append(clips(names[GENERATED], [subset], model=model, settings=settings[GENERATED]))
            sources.append(generated[-1])
    title = "Moving Shapes" if model is None else f"Moving Shapes: {model.name}"
    report = evaluate(sources, [MovingShapesScores], title=title, examples=examples, on_progress=on_progress)
    if not generated:
        return report
    seconds = sum(source.seconds for source in generated) / sum(map(len, generated))
    environment = {"seconds a clip": round(seconds, 3), **report.environment}
    return report.model_copy(update={"environment": environment})


def score_table(report: Report) -> str:
    """The scores of a `score_report` as Markdown: a row for each subset and kind of clips, then by motion."""
    infos = {info.name: info for info in report.metrics}
    rows = [
        {info.name: row.results[info.key] for info in report.metrics if info.key in row.results}
        for row in report.rows
    ]
    kinds = {f"motion right, {kind}": kind for kind in MOTION_KINDS}
    lines: list[str] = []
    for first, titles in (("prompts", _TITLES), ("motions right", kinds)):
        shown = [name for name in titles if name in infos]
        if not shown:
            continue
        lines += [f"| {first} | clips | {' | '.join(titles[name] for name in shown)} |"]
        lines += ["|---|---|" + "---|" * len(shown)]
        for row, results in zip(report.rows, rows, strict=True):
            cells = [row.settings["subset"].replace("-", " "), row.settings["clips"]]
            for name in shown:
                result = results.get(name)
                if titles is kinds and isinstance(result, Proportion):
                    cells.append(f"{result.right} of {result.of}")
                else:
                    cells.append(format_result(infos[name], result))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    settings = {**report.rows[-1].settings, **report.metrics[0].settings}
    for name, value in report.environment.items():
        settings |= value if isinstance(value, dict) else {name: value}
    text = format_settings({name: settings[name] for name in settings if name not in ("subset", "clips")})
    return "\n".join([*lines, f"In brackets the 95 % interval. {text[:1].upper()}{text[1:]}.", ""])


def moving_shapes_report(
    models: Sequence[EvaluatedModel],
    extractors: Sequence[Extractor],
    subsets: Sequence[Subset],
    *,
    prompts: int,
    frames: int,
    batch_size: int,
    reference: int = 1000,
    options: MetricOptions = MetricOptions(),  # noqa: B008  # frozen
    examples: int = 0,
    on_progress: ProgressCallback = lambda name, done, total: None,
) -> Report:
    """Compute exact scores, FVD, FID, CLIPSIM, IS and motion of models, a row each over all subsets.

    Args:
        models: after the rows of real clips.
        extractors: of features.
        subsets: together in every row.
        prompts: of each subset, one clip each.
        frames: of each clip, at least 2.
        batch_size: clips in a batch.
        reference: number of other real clips that distances are from, of all subsets evenly.
        options: of all metrics.
        examples: clips of each subset to keep in the report.
        on_progress: as in `evaluate`.

    Raises:
        ValueError: for a number out of range.
    """
    if frames < 2:
        raise ValueError(f"frames is {frames}; a report on clips needs 2 or more")
    clips = partial(
        SubsetClips,
        frames=frames,
        batch_size=batch_size,
        metric_settings={"subsets": ", ".join(subset.name for subset in subsets)},
    )
    others = [other_scenes(subset) for subset in subsets]
    real = clips(BASELINE, subsets, prompts=prompts, settings={"clips": REAL})
    sources: list[ClipSource] = [real]
    if models:
        settings = {**models[0].settings, "clips": RECONSTRUCTED}
        sources.append(ReconstructedClips(RECONSTRUCTED, models[0], real, settings))
    sources += [
        clips(model.name, subsets, prompts=prompts, model=model, settings={"clips": GENERATED})
        for model in models
    ]
    of_clips = [
        f"clipsim@{one.info.name}"
        for one in extractors
        if isinstance(one, TextExtractor) and one.info.per == "clip"
    ]
    scores = partial(MovingShapesScores, detailed=False)
    return evaluate(
        sources,
        [scores, "fid", "kid", "fvd", "kvd", "is", *of_clips, "flicker", "motion", CaptionRetrieval],
        clips("other real clips", others, prompts=-(-reference // len(subsets))),
        options,
        extractors=extractors,
        title="Moving Shapes",
        examples=examples,
        on_progress=on_progress,
    )


class CaptionRetrieval(Metric):
    """A note on how often extractors find a real clip's own caption among all: the limit of their metrics."""

    def compute(self, clips: SourceFeatures, reference: SourceFeatures | None) -> list[Measurement]:
        """See `Metric.compute`; there is no result, only a note."""
        if clips.name != BASELINE:
            return []
        for name, texts in clips.text_features.items():
            if clips.features[name].settings.per != "clip":
                continue
            rows = clips.features[name].need_rows("this")
            cosines = rows.astype(np.float64) @ texts.astype(np.float64).T
            # Clips of one caption share it: finding an equal one is finding it.
            own = np.take_along_axis(cosines, np.arange(len(rows))[:, None], axis=1)[:, 0]
            right = float((cosines.max(axis=1) <= own + 1e-9).mean())
            self.notes.append(
                f"{name} finds a real clip's own caption among {len(rows)} in {100 * right:.1f} %: what it"
                " does not tell apart, its FVD and CLIPSIM do not see"
            )
        return []
