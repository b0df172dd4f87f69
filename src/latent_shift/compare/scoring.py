"""Sample and score: the same prompts and seeds for every run, exact scores, distances, images.

Each result is a JSON file of its own: scores of a run, of its parts, of its images before and after the
stages on clips, of real clips, and of real clips through a row's `reconstruct`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import load_file, save_file

from latent_shift.checkpoints import choose_device
from latent_shift.compare.plan import Comparison
from latent_shift.compare.run import Run
from latent_shift.compare.training import BEFORE, part_folder
from latent_shift.documents import read_model
from latent_shift.evaluation.evaluated_model import EvaluatedModel
from latent_shift.evaluation.extractors import ExtractorOptions, make_extractor
from latent_shift.evaluation.extractors.base import Extractor
from latent_shift.evaluation.features import SourceFeatures
from latent_shift.evaluation.metrics.base import Metric, MetricOptions
from latent_shift.evaluation.report import Example, MetricResult
from latent_shift.evaluation.runner import ProgressCallback, evaluate, extract
from latent_shift.evaluation.sources import ClipSource, ReconstructedClips
from latent_shift.io import atomic_file, write_json, write_text
from latent_shift.moving_shapes.constants import SIZE
from latent_shift.moving_shapes.protocol import (
    SEED,
    SUBSETS,
    MovingShapesScores,
    Subset,
    SubsetClips,
    other_scenes,
)

# The metrics beside exact scores, by the extractor whose features they are on.
DISTANCES = ("fvd@moving-shapes-eyes", "kvd@moving-shapes-eyes", "fid@moving-shapes-frames",
             "kid@moving-shapes-frames", "clipsim@moving-shapes", "flicker", "motion")  # fmt: skip
EXTRACTORS = ("moving-shapes", "moving-shapes-frames", "moving-shapes-eyes")
RECONSTRUCTION = "reconstruct.json"
_SAMPLED = "sampled.json"
VERDICTS = ("colour right", "shape right", "motion right", "background right", "all right at once")


class Scores(BaseModel):
    """Scores of one set of clips.

    verdicts: of each clip, by subset and score. motions: of each prompt, by subset. metrics: by name. notes:
    on the first clips, which may be kept beside.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    verdicts: dict[str, dict[str, list[bool]]]
    motions: dict[str, list[str]] = {}
    metrics: dict[str, MetricResult] = {}
    notes: list[str] = []


@dataclass(frozen=True)
class MadeClips:
    """Clips or images of one model, or real ones, and where they and their scores are kept.

    few: of the first subset only.
    """

    name: str
    model: Path | None
    clips: Path
    scores: Path
    images: bool = False
    few: bool = False

    @property
    def sampled(self) -> bool:
        """Whether all of them are made."""
        return (self.clips / _SAMPLED).is_file()


def real_clips(comparison: Comparison) -> MadeClips:
    """Real clips of the comparison's prompts; they are rendered whenever they are needed."""
    folder = comparison.folder / "real"
    return MadeClips("real clips", None, folder, folder / "scores.json")


def made_by(comparison: Comparison, run: Run) -> list[MadeClips]:
    """All that a run makes: its clips and, of a trained row's first seed, images and clips of its parts."""
    found = [MadeClips(run.name, run.model, run.folder / "clips", run.folder / "scores.json")]
    if run.seed > 0 or run.of:
        return found
    images = {"after": run.model, **({BEFORE: run.folder / BEFORE / "model"} if run.on_clips else {})}
    for kind, model in images.items():
        place = run.folder / f"images-{kind}"
        name = f"{run.row}, images {kind}"
        found.append(MadeClips(name, model, place, place.with_suffix(".json"), images=True, few=True))
    for eighths in comparison.preset.curve if run.on_clips else ():
        place, name = part_folder(run, eighths), f"{run.row}, {eighths} of 8"
        if (place / "model").is_dir():
            found.append(MadeClips(name, place / "model", place / "clips", place / "scores.json", few=True))
    return found


def read_scores(file: Path) -> Scores | None:
    """Read scores; None where they are not there yet."""
    return read_model(Scores, file) if file.is_file() else None


@dataclass(frozen=True)
class Scorer:
    """Samples and scores the runs of a comparison. on_progress: name of the clips, done, in all."""

    comparison: Comparison
    on_progress: ProgressCallback = lambda name, done, total: None

    @property
    def _subsets(self) -> list[Subset]:
        return [SUBSETS[name] for name in self.comparison.preset.subsets]

    # ---- clips ------------------------------------------------------------------------------------------

    def sample(self, run: Run) -> None:
        """Make all clips and images of a run that are not made. Raises ValueError for one not trained."""
        if not run.model.is_dir():
            raise ValueError(f"{run.name}: not trained yet; leave --only out, or begin with --only train")
        for one in made_by(self.comparison, run):
            if not one.sampled:
                source, done = self._clips(one), 0
                for batch in source.batches():
                    done += len(batch.clips)
                    self.on_progress(one.name, done, len(source))
                write_json(one.clips / _SAMPLED, {"seconds": source.seconds, "clips": len(source)})

    def _clips(self, one: MadeClips) -> SubsetClips:
        """Clips of the comparison's prompts, or images of the first subset's: rendered, or of a model."""
        preset = self.comparison.preset
        model = None
        if one.model is not None:
            loaded = EvaluatedModel.load(str(one.model), resolution=SIZE, dtype=preset.dtype)
            loaded = replace(loaded, name=one.name, settings={**loaded.settings, "model": one.name})
            model = loaded.with_cache(one.clips, {}, seed=SEED)
        return SubsetClips(
            one.name,
            self._subsets[: 1 if one.few else None],
            prompts=preset.images if one.images else preset.prompts,
            frames=1 if one.images else preset.frames,
            batch_size=preset.batch,
            model=model,
        )

    # ---- scores -----------------------------------------------------------------------------------------

    def score(self, runs: Sequence[Run]) -> None:
        """Score what runs made, real clips, and these through each row's decoder, where it is not done.

        Raises ValueError where something is not made yet, before any work.
        """
        made = [(run, one) for run in runs for one in made_by(self.comparison, run)]
        for _, one in made:
            if not one.sampled:
                raise ValueError(f"{one.name}: not made yet; leave --only out, or begin with --only train")
        real = real_clips(self.comparison)
        self._write(real.scores, partial(self._clips, real), examples=True)
        for run, one in made:
            metrics, examples = (() if one.few else DISTANCES), run.seed == 0 and not one.few
            self._write(one.scores, partial(self._clips, one), metrics=metrics, examples=examples)
        for run in runs:
            if run.seed == 0 and not run.of:
                self._score_reconstruction(run)

    def _score_reconstruction(self, run: Run) -> None:
        """Score real clips through a row's last stage, where it can encode."""
        file = run.folder / RECONSTRUCTION
        real = replace(real_clips(self.comparison), name=f"{run.row}, reconstructed")
        if file.is_file():
            return
        model = EvaluatedModel.load(str(run.model), resolution=SIZE, dtype=self.comparison.preset.dtype)
        clips = self._clips(real)
        if model.system.reconstruct(next(clips.batches()).clips[:1]) is None:
            write_text(file, Scores(verdicts={}).model_dump_json())
        else:
            self._write(file, lambda: ReconstructedClips(real.name, model, clips))

    def _write(
        self,
        file: Path,
        make: Callable[[], ClipSource],
        *,
        metrics: Sequence[str] = DISTANCES,
        examples: bool = False,
    ) -> None:
        """Score clips and write the file, and the first clips beside it, where it is not there."""
        if file.is_file():
            return
        source, preset, made = make(), self.comparison.preset, list[MovingShapesScores]()

        def exact(options: MetricOptions) -> Metric:
            made.append(MovingShapesScores(options))
            return made[-1]

        report = evaluate(
            [source],
            [exact, *metrics],
            self._reference if metrics else None,
            MetricOptions(preset.resamples),
            extractors=self._extractors if metrics else (),
            examples=preset.examples if examples else 0,
            on_progress=self.on_progress,
        )
        subsets = self._subsets[: len(source) // preset.prompts if source.read.frames > 1 else 1]
        count, frames = len(source) // len(subsets), source.read.frames
        verdicts = {name: made[-1].verdicts[name] for name in VERDICTS if name in made[-1].verdicts}
        scores = Scores(
            verdicts={
                subset.name: {name: all_[at * count : (at + 1) * count] for name, all_ in verdicts.items()}
                for at, subset in enumerate(subsets)
            },
            motions={
                subset.name: [scene.objects[0].motion for scene in subset.scenes(count)]
                for subset in subsets
                if frames > 1
            },
            metrics={
                info.name: report.rows[0].results[info.key]
                for info in report.metrics
                if not info.percent and info.key in report.rows[0].results
            },
            notes=[example.note for example in report.examples[: preset.examples]],
        )
        if examples:
            clips = np.stack([example.clip for example in report.examples[: preset.examples]])
            with atomic_file(file.with_name("examples.safetensors")) as unfinished:
                save_file({"clips": clips}, unfinished)
        write_text(file, scores.model_dump_json())

    @cached_property
    def _extractors(self) -> list[Extractor]:
        options = ExtractorOptions(device=choose_device("auto"))
        return [make_extractor(name, options) for name in EXTRACTORS]

    @cached_property
    def _reference(self) -> SourceFeatures:
        """Features of other real clips of the subsets, evenly."""
        preset, subsets = self.comparison.preset, [other_scenes(subset) for subset in self._subsets]
        prompts = -(-preset.reference // len(subsets))
        clips = SubsetClips("other real clips", subsets, prompts=prompts, frames=preset.frames)
        clips.stamp = f"{SEED} {preset.subsets} {prompts}"
        folder = self.comparison.folder / "real"
        return extract(clips, self._extractors, features_dir=folder, reuse=True, on_progress=self.on_progress)


def examples_of(
    folder: Path, scores: Scores, prompts: Sequence[str], column: str, fps: float
) -> list[Example]:
    """The clips that are kept beside scores, for the page.

    folder: of both. prompts: of the clips. column: of the page. fps: frames a second.
    """
    file = folder / "examples.safetensors"
    if not file.is_file():
        return []
    clips = load_file(file)["clips"]
    notes = scores.notes or [""] * len(clips)
    return [
        Example(prompt, column, clip, note, fps)
        for prompt, clip, note in zip(prompts, clips, notes, strict=False)
    ]
