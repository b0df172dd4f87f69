"""The one evaluation loop: sources of clips, metrics by name and a reference to one report.

    report = evaluate(
        [FolderClips(Path("generated"), read)], ["fvd", "kvd"], FolderClips(Path("real"), read),
        extractors=[make_extractor("i3d")],
    )

Each source is read once, batch by batch, however many extractors and metrics look at it. Batches are the same
in every run, and so is every digit.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latent_shift.evaluation.extractors.base import Extractor, TextExtractor
from latent_shift.evaluation.features import (
    Features,
    Moments,
    Provenance,
    Rows,
    SourceFeatures,
    feature_settings,
    read_features,
    versions,
    write_features,
)
from latent_shift.evaluation.metrics import DEFAULT_METRICS, METRICS
from latent_shift.evaluation.metrics.base import Measurement, Metric, MetricOptions, NotAvailable
from latent_shift.evaluation.report import Example, MetricInfo, Report, Row
from latent_shift.evaluation.sources import ClipBatch, ClipSource

MetricSpec = str | Callable[[MetricOptions], Metric]
ProgressCallback = Callable[[str, int, int], None]  # name of the source, clips done, of how many


def evaluate(
    sources: Sequence[ClipSource],
    metrics: Sequence[MetricSpec] | None = None,
    reference: ClipSource | SourceFeatures | None = None,
    options: MetricOptions = MetricOptions(),  # noqa: B008  # frozen
    *,
    extractors: Sequence[Extractor] = (),
    strict: bool = False,
    title: str | None = None,
    examples: int = 0,
    keep_rows: bool = True,
    features_dir: Path | None = None,
    on_progress: ProgressCallback = lambda name, done, total: None,
) -> Report:
    """Evaluate sources, a row each.

    Args:
        sources: each of another name.
        metrics: names of METRICS ("fid@clip" computes a metric on one of the extractors only), or classes.
            None: DEFAULT_METRICS.
        reference: real clips, or saved features of them (`reference_from_file`).
        options: of all metrics.
        extractors: each is run once on each clip.
        strict: raise for a metric that clips, reference or extractors do not allow; else leave it out.
        title: of the report; by default the names of sources and reference.
        examples: clips of each source, and of each of its subsets, to keep for the report's page.
        keep_rows: False keeps statistics of features only, which suffice for Fréchet distances.
        features_dir: where features of files are saved, never over other features; saved ones of the
            reference are used again.
        on_progress: called after each batch.

    Raises:
        ValueError: two sources of one name; a source without clips; an unknown metric, or with `strict` one
            that cannot be computed; a reference that was measured with other settings.
    """
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name}: is the name of two folders; rename one, so that a table can tell them")
    for spec in metrics or ():  # before any work
        metric = _make_metric(spec, options)
        try:
            metric.check([extractor.info for extractor in extractors], reference is not None)
            if metric.needs_rows and not keep_rows:
                kept = "only statistics are kept (--statistics-only)"
                raise NotAvailable(f"{spec} needs rows of features, and {kept}")
        except NotAvailable as error:
            if strict:
                raise NotAvailable(f"{', '.join(names)}: {error}") from error
    notes: list[str] = []
    run = partial(
        extract,
        seed=options.seed,
        keep_rows=keep_rows,
        features_dir=features_dir,
        on_progress=on_progress,
    )
    if isinstance(reference, ClipSource):
        real, reference = reference, run(reference, extractors, reuse=True)
        notes += real.notes
    infos: dict[str, MetricInfo] = {}
    rows, shown = [], []
    for source in sources:
        row = _RowMetrics(source, metrics or DEFAULT_METRICS, options, examples)
        clips = run(source, extractors, on_batch=row.update)
        captions = [caption for caption in clips.captions if caption is not None]
        for extractor in extractors:
            if isinstance(extractor, TextExtractor) and len(captions) == len(clips.names):
                clips.text_features[extractor.info.name] = extractor.texts(captions).cpu().numpy()
        results = row.compute(clips, reference, strict)
        infos |= {info.key: info for info, _ in results}
        found = {info.key: result for info, result in results}
        rows.append(Row(name=source.name, settings=source.settings, results=found))
        notes += [*source.notes, *(note for metric in row.metrics for note in metric.notes)]
        shown += row.examples
    order = {extractor.info.name: number for number, extractor in enumerate(extractors)}
    against = f" against {reference.name}" if reference else ""
    return Report(
        title=title or f"{', '.join(names)}{against}",
        metrics=sorted(  # shares first, then extractor by extractor, then metrics on pixels
            infos.values(),
            key=lambda info: (not info.percent, order.get(info.settings.get("extractor", ""), len(order))),
        ),
        rows=rows,
        environment=environment(),
        notes=list(dict.fromkeys(notes)),
        examples=shown,
    )


def extract(
    source: ClipSource,
    extractors: Sequence[Extractor],
    *,
    seed: int = 0,
    keep_rows: bool = True,
    features_dir: Path | None = None,
    reuse: bool = False,
    on_batch: Callable[[ClipBatch], None] = lambda batch: None,
    on_progress: ProgressCallback = lambda name, done, total: None,
) -> SourceFeatures:
    """Extract the features of all clips of a source.

    Args:
        source: is read once.
        extractors: each is run once on each clip.
        seed: recorded with the features.
        keep_rows: False keeps statistics of features only.
        features_dir: where features are saved if the clips are files.
        reuse: take features of the same files and settings from there, without reading clips for them.
        on_batch: called with each batch.
        on_progress: then called with the source's name, the clips done and their number.

    Raises:
        ValueError: for a source without clips, and for features that are not finite.
    """
    found = SourceFeatures(source.name, source.read.settings())
    files: dict[str, Path] = {}
    if features_dir is not None and source.stamp:
        files = {one.info.name: _features_file(features_dir, source, one) for one in extractors}
    if reuse:
        found.features = _saved_features(files, source, extractors, keep_rows)
        extractors = [extractor for extractor in extractors if extractor.info.name not in found.features]
        if not extractors:
            return found
    moments = [Moments(extractor.info.width) for extractor in extractors]
    rows: list[list[Rows]] = [[] for _ in extractors]
    logits: list[list[Rows]] = [[] for _ in extractors]
    for batch in source.batches():
        for number, extractor in enumerate(extractors):
            output = extractor(torch.from_numpy(batch.clips))
            features = output.features.cpu().numpy()
            moments[number].add(features)
            if keep_rows:
                rows[number].append(features)
            if output.logits is not None:  # few numbers, and an Inception Score takes nothing else
                logits[number].append(output.logits.cpu().numpy())
        on_batch(batch)
        found.names += batch.names
        found.captions += batch.captions
        on_progress(source.name, len(found.names), len(source))
    if not found.names:
        raise ValueError(f"{source.name}: there are no clips to measure")
    for number, extractor in enumerate(extractors):
        name = extractor.info.name
        found.features[name] = Features(
            feature_settings(extractor, source.read),
            Provenance(
                source=source.name, clips=len(found.names), stamp=source.stamp, seed=seed,
                device=extractor.device.type, versions=versions(),
            ),
            tuple(found.names),
            moments[number],
            np.concatenate(rows[number]) if rows[number] else None,
            np.concatenate(logits[number]) if logits[number] else None,
        )  # fmt: skip
        if name in files and (keep_rows or not files[name].is_file()):  # a file there has all of them
            write_features(files[name], found.features[name])
    return found


def _features_file(folder: Path, source: ClipSource, extractor: Extractor) -> Path:
    """A file for the features of a source: by its name, or by a hash, too, where that holds other features.

    Folders of one name, changed clips, and other settings are other features.
    """
    file = folder / f"{source.name} {extractor.info.name}.safetensors".replace(" ", "-")
    settings = feature_settings(extractor, source.read)
    if file.is_file():
        try:
            saved = read_features(file)
            mine = (saved.settings, saved.provenance.stamp) == (settings, source.stamp)
        except ValueError:
            mine = False
        if not mine:
            told = sha256(f"{source.stamp} {settings.model_dump_json()}".encode()).hexdigest()[:8]
            return file.with_name(f"{file.stem}-{told}{file.suffix}")
    return file


def _saved_features(
    files: dict[str, Path], source: ClipSource, extractors: Sequence[Extractor], keep_rows: bool
) -> dict[str, Features]:
    """Return the saved features of the same clips and settings, by extractor."""
    found: dict[str, Features] = {}
    for extractor in extractors:
        name = extractor.info.name
        if name in files and files[name].is_file():
            saved = read_features(files[name])
            same = saved.settings == feature_settings(extractor, source.read)
            if same and saved.provenance.stamp == source.stamp and (saved.rows is not None or not keep_rows):
                found[name] = saved
    return found


def reference_from_file(file: Path, extractors: Sequence[Extractor]) -> SourceFeatures:
    """Return saved features as a reference. ValueError where they are of none of the extractors."""
    features = read_features(file)
    name = features.settings.extractor
    if name not in {extractor.info.name for extractor in extractors}:
        raise ValueError(f"{file}: holds features of {name}; measure with that extractor")
    return SourceFeatures(features.provenance.source, features={name: features}, names=list(features.clips))


def first_examples(source: ClipSource, count: int) -> list[Example]:
    """Return the first clips of a source for the report's page."""
    row = _RowMetrics(source, (), MetricOptions(), count)
    for batch in source.batches() if count else ():
        row.update(batch)
        if len(row.examples) == count:
            break
    return row.examples


def environment(device: str | None = None) -> dict[str, Any]:
    """Return what values depend on beside their settings: "versions", "machine" (GPU or CPU), "date".

    device: where the work is done; None: on the GPU, if this process has used one.
    """
    on_gpu = torch.cuda.is_initialized() if device is None else device.startswith("cuda")
    machine = torch.cuda.get_device_name() if on_gpu else platform.machine()
    return {
        "versions": {**versions(), "diffusers": version("diffusers")},
        "machine": f"{machine}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
    }


def _make_metric(spec: MetricSpec, options: MetricOptions) -> Metric:
    if not isinstance(spec, str):
        return spec(options)
    name, _, extractor = spec.partition("@")
    metric: Metric = METRICS[name](options, extractor or None)
    return metric


class _RowMetrics:
    """The metrics of one source, and its clips for the report's page."""

    def __init__(
        self, source: ClipSource, metrics: Sequence[MetricSpec], options: MetricOptions, examples: int
    ) -> None:
        self.source, self.max_examples = source, examples
        self.metrics = [_make_metric(spec, options) for spec in metrics]
        self.examples: list[Example] = []
        self._shown: Counter[str] = Counter()  # by subset

    def update(self, batch: ClipBatch) -> None:
        """Show a batch to every metric, and keep its first clips."""
        remarks = [metric.update(batch) for metric in self.metrics]
        notes = next((found for found in remarks if found is not None), batch.notes)
        for index in range(min(len(batch.clips), self.max_examples - self._shown[batch.subset])):
            self._shown[batch.subset] += 1
            label = batch.captions[index] or f"clip {self._shown[batch.subset]}"
            note = notes[index] if notes else ""
            self.examples.append(Example(label, self.source.name, batch.clips[index], note, self.source.fps))

    def compute(
        self, clips: SourceFeatures, reference: SourceFeatures | None, strict: bool
    ) -> list[Measurement]:
        """Return all results, their settings completed by those of the source."""
        found: list[Measurement] = []
        for metric in self.metrics:
            try:
                found += metric.compute(clips, reference)
            except NotAvailable:
                if strict:
                    raise
        return [
            Measurement(
                info.model_copy(update={"settings": {**info.settings, **self.source.metric_settings}}), result
            )
            for info, result in found
        ]
