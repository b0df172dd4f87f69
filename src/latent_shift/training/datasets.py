"""The data of a recipe: its sections `latents` and `clips`, the datasets made of them, and the loader.

`latents` are clips of a generated source, encoded once into a store, at the start of a run where it is
missing. `clips` are files, decoded and encoded in each step. Which items a step sees depends on seed and
step only, whatever the number of workers or processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Self

from diffusers import AutoencoderKL
from pydantic import Field, model_validator
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from latent_shift.autoencoder import encode_frames, encoder_hash
from latent_shift.data.latent_dataset import LatentDataset, encode_clips, read_latents
from latent_shift.data.manifest import Manifest
from latent_shift.data.samplers import BatchSampler, batch_sampler_for
from latent_shift.data.sources import AnyGeneratedSource, AnySource
from latent_shift.data.sources.base import GeneratedSource
from latent_shift.data.sources.local import FolderSource
from latent_shift.data.video_dataset import ClipSettings, VideoDataset
from latent_shift.data.workers import outlive_termination
from latent_shift.training.logging import Progress, Report
from latent_shift.training.recipe import Count, Made, Strict

_TRIED = 4  # clips read before a model is
_MAX_STORED = 1_000_000  # clips of a store


class Store(Strict):
    """Clips of a generated source, or clips of its captions, computed once into a folder."""

    folder: Annotated[Path, Made()] = Field(description="folder of the store")
    source: AnyGeneratedSource

    @model_validator(mode="after")
    def _is_finite(self) -> Self:
        if self.source.clips > _MAX_STORED:
            raise ValueError(
                f"source.clips is {self.source.clips}; say how many clips to store, {_MAX_STORED} at most"
            )
        return self


class Latents(Store):
    """Clips of a generated source, encoded once into a store."""

    images: Store | None = Field(
        None, description="another source, for image batches; none: frames of the clips"
    )
    frame_stride: Count = Field(1, description="only each n-th frame of a clip: teaches what spans all of it")
    wordings: Count | None = Field(
        None, description="captions of a clip, at most; the text encoder then reads each once: takes memory"
    )


class Clips(Strict):
    """Your own clips (docs/data.md), decoded and encoded in each step."""

    source: AnySource
    frames: ClipSettings
    precomputed_latents: bool = Field(
        False, description="read what `data pack --latents-of` the pretrained model computed, not the clips"
    )
    append_fps_to_caption: bool = Field(
        False, description="append the frame rate to captions, and later to prompts; needs an open vocabulary"
    )
    images: AnySource | None = Field(None, description="for image batches; none: frames of the clips")

    @model_validator(mode="after")
    def _captions_are_not_encoded_yet(self) -> Clips:
        if self.precomputed_latents and self.append_fps_to_caption:
            raise ValueError(
                "precomputed_latents and append_fps_to_caption: the captions of a pack are encoded already"
            )
        return self

    @cached_property
    def manifest(self) -> Manifest:
        """All that `source` holds, read once."""
        return self.source.read()

    @cached_property
    def image_manifest(self) -> Manifest | None:
        """All that `images` holds, read once."""
        return None if self.images is None else self.images.read()

    def entries_hash(self) -> str:
        """A hash of the names, pieces and captions of all that the sources hold."""
        manifests = [one for one in (self.manifest, self.image_manifest) if one is not None]
        entries = [
            [(one.name, one.start, one.end, one.captions) for one in each.records] for each in manifests
        ]
        return sha256(json.dumps(entries).encode()).hexdigest()[:16]

    def files_hash(self) -> str:
        """A hash of the sizes, first and last bytes of all files of the sources (`FileRef.ends`)."""
        digest = sha256()
        for manifest in (self.manifest, self.image_manifest):
            for record in () if manifest is None else manifest.records:
                digest.update(record.file.ends())
        return digest.hexdigest()[:16]

    def check(self, output: Path, *, single_frames: bool) -> None:
        """Read the sources, and a few clips as the run will. Raises ValueError as the run would.

        output: folder of the run, which must not be where a source looks for clips.
        """
        for source in (self.source, self.images):
            if isinstance(source, FolderSource) and _is_read_in(source.path, output):
                raise ValueError(
                    f"output: {output} lies in the folder of the clips, {source.path}, where the run's"
                    " samples would be read as clips; name a folder outside it"
                )
        manifest, _ = self.manifest, self.image_manifest
        if self.precomputed_latents:
            return
        changes = {"buckets": None, **({"num_frames": 1} if single_frames else {})}
        videos = VideoDataset(manifest.of_kind("clip"), self.frames.model_copy(update=changes), seed=0)
        for index in range(min(_TRIED, len(videos))):
            videos[index]


def refuse_keys(clips: Clips, data: str, names: Sequence[str]) -> None:
    """Raise ValueError for a key of `clips` that would do nothing.

    data: what the recipe trains on, for the message. names: of such keys, as a recipe has them under `clips`.
    """
    for name in names:
        value: Any = clips
        for part in name.split("."):
            value = getattr(value, part)
        if value:
            raise ValueError(f"clips.{name}: {data} do not have it; remove it")


def _is_read_in(folder: Path, path: Path) -> bool:
    """Whether a path is in a folder of clips, and not in one of a name with a dot, which is not read."""
    inside, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return inside.is_relative_to(root) and not any(
        part.startswith(".") for part in inside.relative_to(root).parts
    )


def data_summary(source: GeneratedSource | None, clips: Clips | None) -> list[str]:
    """Lines for a model card."""
    if clips is not None:
        settings = json.dumps(clips.model_dump(mode="json"), indent=2)
        return ["Clips of your own:", "", "```json", settings, "```"]
    return [] if source is None else [f"The generated world {source.description}."]


def latent_dataset(
    store: Store,
    source: GeneratedSource,
    vae: AutoencoderKL,
    report: Report,
    *,
    last: int = 0,
    workers: int = 0,
    images: bool,
    name: str = "clip",
    stride: int = 1,
    wordings: int | None = None,
    **oversampling: Any,
) -> LatentDataset:
    """The clips of a store, encoded now where the store is not complete.

    Args:
        store: the section of the recipe.
        source: its source, which may have been changed by other keys.
        vae: the autoencoder that encodes.
        report: gets the number of encoded clips after every shard.
        last: give, in place of the clips, so many that come after them in the series, in canonical words.
        workers: processes that render clips to be encoded.
        images: whether the items are single frames.
        name: of what the numbers in the items' keys count.
        stride: take each so many-th frame of a clip only.
        wordings: captions of a clip, at most; None for another one each time.
        oversampling: options of `LatentDataset`.

    Raises:
        ValueError: the folder holds the latents of another source or autoencoder.
    """
    first = 0
    if last:
        first, source, oversampling = source.clips, source.extended(last), {}
    clips = source.captioned_clips(cached=True)
    settings = {"world": source.latent_settings(), "autoencoder": encoder_hash(vae)}
    # Frames encoded together: as many as a CPU's cache holds.
    encode = partial(encode_frames, vae, chunk=256 if vae.device.type == "cpu" else 1024)
    for done in encode_clips(clips, encode, store.folder, settings, workers=workers):
        report(Progress(done, len(clips), stage="encoding clips"))
    stored = read_latents(store.folder, len(clips))[first:, ::stride].contiguous()
    return LatentDataset(
        stored, clips, images=images, name=name, first=first, wordings=wordings, **oversampling
    )


class StepSampler(Sampler[list[Any]]):
    """The batches of a sampler from `first_step` on, without end: every world_size-th item of each."""

    def __init__(
        self, sampler: BatchSampler, first_step: int = 0, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.sampler, self.first_step, self.rank, self.world_size = sampler, first_step, rank, world_size

    def __iter__(self) -> Iterator[list[Any]]:
        for step in count(self.first_step):
            yield list(self.sampler.indices(step))[self.rank :: self.world_size]


def loader(
    dataset: Dataset[Any],
    batch_size: int,
    seed: int,
    first_step: int,
    *,
    workers: int,
    rank: int,
    world_size: int,
    parts: int = 1,
) -> DataLoader[Any]:
    """Load batches from `first_step` on: tensors stacked along a first axis, captions as a list.

    Args:
        dataset: with a batch sampler of its own, or shuffled.
        batch_size: items a step, over all processes.
        seed: of the order.
        first_step: counted from 0, so that a resumed run sees what it would have seen.
        workers: processes that load; 0 for none.
        rank: this process, which gets its own slice of every batch.
        world_size: number of processes.
        parts: that each process takes its share of a batch in (gradient accumulation).

    Raises:
        ValueError: the processes, or their parts, cannot share a batch evenly.
    """
    sizes = {"batch_size": batch_size, "image_batch_size": getattr(dataset, "image_batch_size", None)}
    for name, size in sizes.items():
        if size is None:
            continue
        if size % world_size:
            raise ValueError(f"{name} {size} cannot be shared evenly by {world_size} processes")
        if size % (world_size * parts):
            raise ValueError(
                f"{name} {size} cannot be shared evenly by {world_size} processes with"
                f" gradient_accumulation_steps {parts}; take a multiple of {world_size * parts}"
            )
    sampler = batch_sampler_for(dataset, batch_size, seed)
    return DataLoader(
        dataset,
        batch_sampler=StepSampler(sampler, first_step, rank=rank, world_size=world_size),
        num_workers=workers,
        collate_fn=default_collate,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=outlive_termination if workers else None,
    )
