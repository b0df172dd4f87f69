"""From a recipe's `latents` to a dataset of encoded clips, made at the start of a run where it is missing."""

from __future__ import annotations

from diffusers import AutoencoderKL
from rich.console import Console
from rich.progress import track

from latent_shift.data import latents
from latent_shift.training.recipe import Latents
from latent_shift.training.worlds import Scenes, StoredClips


def stored_clips(recipe: Latents, vae: AutoencoderKL, *, images: bool) -> StoredClips:
    """The clips of `recipe.world` as this autoencoder sees them, encoded now as far as they are not yet."""
    scenes = Scenes(recipe.world, kept=True)
    settings = {
        "world": recipe.world.model_dump(mode="json", exclude={"clips", "paraphrases"}),
        "autoencoder": latents.fingerprint(vae),
    }
    shards = latents.encode(scenes, vae, recipe.folder, settings)
    total = -(-len(scenes) // latents.SHARD)
    for _ in track(shards, "encoding clips", total=total, console=Console(stderr=True)):
        pass
    return StoredClips(latents.read(recipe.folder, len(scenes)), scenes, images=images)
