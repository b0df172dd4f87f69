"""From a recipe's `latents` to a dataset of encoded clips, made at the start of a run where it is missing."""

from __future__ import annotations

from collections.abc import Callable

from diffusers import AutoencoderKL

from latent_shift.data import latents
from latent_shift.data.moving_shapes import Scenes
from latent_shift.data.stored import StoredClips
from latent_shift.training.log import Progress
from latent_shift.training.recipe import Latents


def stored_clips(
    recipe: Latents, vae: AutoencoderKL, report: Callable[[Progress], None], *, images: bool
) -> StoredClips:
    """The clips of `recipe.world` as this autoencoder sees them, encoded now as far as they are not yet.

    report: told after every shard how many clips are encoded. Raises ValueError where the folder holds the
    latents of another world or autoencoder.
    """
    scenes = Scenes(recipe.world, kept=True)
    settings = {
        "world": recipe.world.model_dump(mode="json", exclude={"clips", "paraphrases"}),
        "autoencoder": latents.fingerprint(vae),
    }
    for done in latents.encode(scenes, vae, recipe.folder, settings):
        report(Progress(done, len(scenes), stage="encoding clips"))
    return StoredClips(
        latents.read(recipe.folder, len(scenes))[:, :: recipe.every].contiguous(), scenes, images=images
    )
