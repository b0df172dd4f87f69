"""From a recipe's `latents` to a dataset of encoded clips, made at the start of a run where it is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers import AutoencoderKL

from latent_shift.data import latents
from latent_shift.data.moving_shapes import Scenes
from latent_shift.data.moving_shapes.dataset import World
from latent_shift.data.stored import StoredClips
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
) -> StoredClips:
    """The clips of `recipe.world` as this autoencoder sees them, encoded now as far as they are not yet.

    last: give, in place of these, so many that come after them in the series (its own paraphrases left out).
    report: told after every shard how many clips are encoded. workers: processes that draw them. Raises
    ValueError where the folder holds the latents of another world or autoencoder.
    """
    world, first = recipe.world, 0
    if last:
        first = world.clips
        world = world.model_copy(update={"clips": first + last, "paraphrases": 0.0})
    scenes = Scenes(world, kept=True)
    settings = {
        "world": _kept(world),
        "autoencoder": latents.fingerprint(vae),
    }
    for done in latents.encode(scenes, vae, recipe.folder, settings, workers=workers):
        report(Progress(done, len(scenes), stage="encoding clips"))
    stored = latents.read(recipe.folder, len(scenes))[first:, :: recipe.every].contiguous()
    often, share = ((), 0.0) if last else (recipe.often, recipe.often_share)
    return StoredClips(stored, scenes, images=images, first=first, often=often, often_share=share)


def _kept(world: World) -> dict[str, Any]:
    """What the clips of a world depend on; what changes nothing is left out, as in stores older than it."""
    given = world.model_dump(mode="json", exclude={"clips", "paraphrases"})
    plain = World().model_dump(mode="json")
    return {name: value for name, value in given.items() if "favoured" not in name or value != plain[name]}
