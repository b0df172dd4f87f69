"""The figures of a model on a list of prompts: its clips, made once, through every extractor, once.

Shapes: B videos, F frames, H, W pixels, uint8 (B, F, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_shift.evaluation.clip_maker import ClipMaker
from latent_shift.evaluation.extractors.interface import Extractor, TextExtractor
from latent_shift.evaluation.features.passing import Measured, measure_clips
from latent_shift.evaluation.features.reading import Reading, middle_square
from latent_shift.evaluation.protocols.generation import made_clips
from latent_shift.evaluation.protocols.prompts import PromptList
from latent_shift.evaluation.report.figures import Choices, all_figures
from latent_shift.evaluation.report.model import Report, Subject
from latent_shift.evaluation.report.page import Shown
from latent_shift.evaluation.shards import ClipStore

Clips = NDArray[np.uint8]


def measure_model(
    prompts: PromptList,
    maker: ClipMaker,
    store: ClipStore,
    extractors: Sequence[Extractor],
    reading: Reading,
    *,
    batch: int,
    name: str,
    reference: Measured | None,
    choices: Choices,
    settings: dict[str, Any],
    examples: int = 0,
    show_done: Callable[[int], None] = lambda done: None,
) -> tuple[Report, list[Shown]]:
    """The report of one model, and its first clips.

    reading: told of the clips, which are made with its frames at its rate. settings: of the model's clips.
    Raises ValueError where the reference was measured with other settings.
    """
    shown: list[Shown] = []

    def stream() -> Iterator[tuple[list[str], Clips]]:
        for some, clips, _ in made_clips(prompts, maker, store, frames=reading.frames, batch=batch):
            for prompt, clip in zip(some, clips, strict=True):
                if len(shown) < examples:
                    shown.append(Shown(prompt.text, name, clip, f"seed {prompt.seed}"))
            yield [prompt.name for prompt in some], fitted(clips, reading)

    measured = measure_clips(
        stream(), extractors, reading, source=name, seed=choices.seed, show_done=show_done
    )
    texts = {
        one.facts.name: one.texts([prompt.text for prompt in prompts.prompts]).cpu().numpy()
        for one in extractors
        if isinstance(one, TextExtractor)
    }
    figures = all_figures(measured, reference, texts, choices)
    subject = Subject(
        name=name,
        made_with={**settings, "prompt list": prompts.digest()},
        figures={key: figure for key, (_, figure) in figures.items()},
    )
    # The same metric on other prompts is another figure.
    columns = [column for column, _ in figures.values()]
    report = Report(title=prompts.name, columns=columns, subjects=[subject])
    return under_protocol(report, prompts), shown


def under_protocol(report: Report, prompts: PromptList) -> Report:
    """The report with the list of prompts among each column's settings."""
    told = {**prompts.settings, "prompt list": prompts.digest()}
    columns, keys = [], {}
    for column in report.columns:
        changed = column.model_copy(update={"made_with": {**column.made_with, **told}})
        columns.append(changed)
        keys[column.key] = changed.key
    subjects = [
        subject.model_copy(update={"figures": {keys[key]: figure for key, figure in subject.figures.items()}})
        for subject in report.subjects
    ]
    return report.model_copy(update={"columns": columns, "subjects": subjects})


def fitted(clips: Clips, reading: Reading) -> Clips:
    """Clips (B, F, H, W, 3) as a folder of them would be read."""
    return np.stack([middle_square(clip) for clip in clips]) if reading.fit == "crop" else clips
