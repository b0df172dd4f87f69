"""A run's sources of clips and images, read once: before its model, and not again for every use of them.

What is wrong with a source is told so before a model is fetched and loaded, and a list of a million files is
made one time.
"""

from __future__ import annotations

from latent_shift.data.manifest import Manifest
from latent_shift.data.sources import AnySource
from latent_shift.data.video_dataset import VideoDataset
from latent_shift.training.recipe import Clips

_TRIED = 4  # clips read before a model is

_known: list[tuple[AnySource, Manifest]] = []


def read_sources(clips: Clips | None) -> None:
    """Read a run's sources anew, at its start. Raises ValueError for one that cannot be used."""
    _known.clear()
    for source in () if clips is None else (clips.source, clips.images):
        if source is not None:
            listing(source)


def try_clips(clips: Clips | None, *, whole: bool) -> None:
    """Read a few clips as the run will: what they cannot give is told before a model is loaded.

    whole: with all the frames asked for, not single ones. Raises ValueError (TooManyBad) as the run would.
    """
    if clips is None or clips.ahead:
        return
    changes = {"buckets": None} if whole else {"buckets": None, "num_frames": 1}
    videos = VideoDataset(
        listing(clips.source).of_kind("clip"), clips.frames.model_copy(update=changes), seed=0
    )
    for visit in range(min(_TRIED, len(videos))):
        videos[visit]


def listing(source: AnySource) -> Manifest:
    """What a source holds, as it was when it was first asked for in this run."""
    for known, held in _known:
        if known is source:
            return held
    _known.append((source, source.read()))
    return _known[-1][1]
