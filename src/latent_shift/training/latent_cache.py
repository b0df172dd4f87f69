"""From a recipe's `latents` to a dataset of encoded clips, made at the start of a run where it is missing."""

from __future__ import annotations

from collections.abc import Callable

from diffusers import AutoencoderKL

from latent_shift.autoencoder import encoder_hash
from latent_shift.data import latent_store
from latent_shift.data.latent_dataset import LatentDataset
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
    for done in latent_store.encode(clips, vae, recipe.folder, settings, workers=workers):
        report(Progress(done, len(clips), stage="encoding clips"))
    stored = latent_store.read(recipe.folder, len(clips))[first:, :: recipe.every].contiguous()
    often, share = ((), 0.0) if last else (recipe.often, recipe.often_share)
    return LatentDataset(stored, clips, images=images, first=first, often=often, often_share=share)
