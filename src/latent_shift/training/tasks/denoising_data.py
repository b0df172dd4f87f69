"""What a denoiser trains on, by its recipe: stored latents of Moving Shapes, or clips of the user's own.

Also what follows from the data for the finished model: the size of its clips, the words it was taught, and
the prompts of its samples. No loss here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from latent_shift.data.latent_dataset import LatentDataset
from latent_shift.data.precomputed import PrecomputedLatentDataset
from latent_shift.data.samplers import ImageVideoMix
from latent_shift.data.video_dataset import DEFAULT_FPS, VideoDataset
from latent_shift.prompts import has_closed_vocabulary, unknown_words
from latent_shift.training.latent_cache import stored_clips
from latent_shift.training.log import Progress
from latent_shift.training.model_setup import AnyPipeline
from latent_shift.training.precompute import model_hashes
from latent_shift.training.recipe import Clips, ImageRecipe, VideoRecipe
from latent_shift.training.sources import listing
from latent_shift.training.tokenizer import WORDS

Items = LatentDataset | VideoDataset | ImageVideoMix
_IMAGE_SHARE = 0.5  # of text-to-image, where clips and images are both given
_SAMPLES = 4  # clips on a sheet of samples, where the captions are the user's


def denoising_items(
    recipe: ImageRecipe | VideoRecipe,
    model: AnyPipeline,
    report: Callable[[Progress], None],
    *,
    kept_out: bool = False,
) -> Items:
    """What the steps see; or, `kept_out`, what the recipe's validation keeps for itself."""
    items = recipe.validation.items if recipe.validation is not None else 0
    if recipe.clips is not None:
        return _own_clips(recipe, recipe.clips, model, items, kept_out=kept_out)
    assert recipe.latents is not None  # the recipe has one of the two
    images, last = isinstance(recipe, ImageRecipe), items if kept_out else 0
    return stored_clips(recipe.latents, model.vae, report, images=images, last=last, workers=recipe.workers)


def _own_clips(
    recipe: ImageRecipe | VideoRecipe, clips: Clips, model: AnyPipeline, items: int, *, kept_out: bool
) -> VideoDataset | ImageVideoMix:
    """The user's clips, or the `items` of them kept out; images of another source mixed in."""
    seen, log = clips.frames, recipe.output / "bad-clips.jsonl"
    if isinstance(recipe, ImageRecipe):
        seen = seen.model_copy(update={"num_frames": 1})
    found = listing(clips.source).of_kind("clip")
    if items:
        found = found.split(items, recipe.seed)[kept_out]
    if clips.ahead:
        videos: VideoDataset = PrecomputedLatentDataset(
            found, seen, model_hashes(model), seed=recipe.seed, bad_log=log
        )
    else:
        videos = VideoDataset(found, seen, seed=recipe.seed, bad_log=log)
    if clips.images is None or kept_out:
        return videos
    images = VideoDataset(listing(clips.images), seen, seed=recipe.seed, kind="image", bad_log=log)
    share = recipe.image_steps if isinstance(recipe, VideoRecipe) else _IMAGE_SHARE
    return ImageVideoMix(videos, images, share)


def clip_size(recipe: ImageRecipe | VideoRecipe) -> dict[str, Any]:
    """What clips the recipe trains on: their frames, height and width, and the frame rate where it is one."""
    images = isinstance(recipe, ImageRecipe)
    if recipe.clips is None:
        assert recipe.latents is not None  # the recipe has one of the two
        native, every = recipe.latents.world.shape, recipe.latents.every
        size = {"height": native.height, "width": native.width}
        frames, rate = len(range(0, native.num_frames, every)), {"fps": native.fps / every}
    else:
        seen = recipe.clips.frames
        height, width = (seen.height, seen.width) if seen.buckets is None else seen.buckets.middle
        size, frames = {"height": height, "width": width}, seen.num_frames
        rate = {} if seen.stride else {"fps": seen.fps or DEFAULT_FPS}
    return {"num_frames": 1, **size} if images else {"num_frames": frames, **size, **rate}


def sample_prompts(recipe: ImageRecipe | VideoRecipe) -> list[str]:
    """What the samples show: captions of the first few of the user's clips, or the world's prompts."""
    if recipe.clips is not None:
        records = listing(recipe.clips.source).of_kind("clip").records[:_SAMPLES]
        return [record.captions[0] for record in records]
    assert recipe.latents is not None  # the recipe has one of the two
    return recipe.latents.world.sample_prompts(images=isinstance(recipe, ImageRecipe))


def trained_words(tokenizer: Any, otherwise: Sequence[str] = ()) -> tuple[str, ...]:
    """The words that a closed tokenizer's text encoder was trained on; none for an open one like CLIP's.

    otherwise: those of a tokenizer that does not list its own.
    """
    if not has_closed_vocabulary(tokenizer):
        return ()
    words = tokenizer.init_kwargs.get(WORDS, otherwise)
    unknown = set(unknown_words(tokenizer, " ".join(words)))
    return tuple(word for word in words if word not in unknown)
