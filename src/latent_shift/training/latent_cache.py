"""From a recipe's `latents` to a dataset of encoded clips, made at the start of a run where it is missing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from diffusers import AutoencoderKL

from latent_shift.autoencoder import encode_frames, encoder_hash
from latent_shift.data.latent_dataset import LatentDataset, encode_clips, read_latents
from latent_shift.training.log import Progress
from latent_shift.training.recipe import Latents


def stored_clips(
    recipe: Latents,
    vae: AutoencoderKL,
    report: Callable[[Progress], None],
    *,
    images: bool,
    last: int = 0,
    workers: int = 0,
) -> LatentDataset:
    """The clips of `recipe.world` as this autoencoder sees them, encoded now as far as they are not yet.

    last: give, in place of these, so many that come after them in the series (its own paraphrases left out).
    report: told after every shard how many clips are encoded. workers: processes that draw them. Raises
    ValueError where the folder holds the latents of another world or autoencoder.
    """
    world, first = recipe.world, 0
    if last:
        first, world = world.clips, world.extended(last)
    clips = world.captioned_clips(cached=True)
    settings = {"world": world.latent_settings(), "autoencoder": encoder_hash(vae)}
    # Frames encoded together: as many as a CPU's cache holds.
    encode = partial(encode_frames, vae, chunk=256 if vae.device.type == "cpu" else 1024)
    for done in encode_clips(clips, encode, recipe.folder, settings, workers=workers):
        report(Progress(done, len(clips), stage="encoding clips"))
    stored = read_latents(recipe.folder, len(clips))[first:, :: recipe.every].contiguous()
    words, ratio = ((), 0.0) if last else (recipe.often, recipe.often_share)
    return LatentDataset(
        stored, clips, images=images, first=first, oversample_words=words, oversample_ratio=ratio
    )
