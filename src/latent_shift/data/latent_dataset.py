"""Encoded clips as a torch dataset: latents from a store, captions worded anew at every visit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from latent_shift.data.samplers import BatchSampler, ShuffledSampler, WeightedSampler


class Wording(Protocol):
    """Captions of clips by visit; visit v is of clip v modulo their number."""

    def __len__(self) -> int: ...

    def caption(self, visit: int, *, image: bool = False) -> str:
        """What is said of it in plain words."""
        ...

    def paraphrase(self, visit: int, *, image: bool = False) -> str:
        """What is said of the clip this time; without its motion where `image`."""
        ...


class LatentDataset(Dataset[dict[str, Any]]):
    """Items of encoded clips: {"latents": float16 (F, C, h, w), "caption", "image_caption", "key"}.

    Where `images`, an item is one frame of a clip, (1, C, h, w), and the visits go through all frames.
    first: the clip of `captions` that the latents begin with. often: words; in `often_share` of a training's
    visits a clip with such a word in its caption is seen. Raises ValueError for a word that no clip has.
    """

    def __init__(
        self,
        latents: Tensor,
        captions: Wording,
        *,
        images: bool = False,
        first: int = 0,
        often: Sequence[str] = (),
        often_share: float = 0.0,
    ) -> None:
        self.latents, self.captions, self.images, self.first = latents, captions, images, first
        self.frames = latents.shape[1] if images else 1
        self.often, self.often_share = self._with_words(often), often_share

    def _with_words(self, words: Sequence[str]) -> list[int]:
        """The items of clips in whose plain caption one of the words is."""
        if not words:
            return []
        told = [set(self.captions.caption(self.first + clip).split()) for clip in range(len(self.latents))]
        unknown = set(words).difference(*told)
        if unknown:
            raise ValueError(f"often: no clip's plain caption has the word {', '.join(sorted(unknown))}")
        clips = [clip for clip, said in enumerate(told) if said.intersection(words)]
        return [clip * self.frames + frame for clip in clips for frame in range(self.frames)]

    def plan(self, batch_size: int, seed: int) -> BatchSampler:
        """All items by turns; those with a word of `often` in its share of the places."""
        if not self.often:
            return ShuffledSampler(len(self), batch_size, seed)
        return WeightedSampler(len(self), self.often, self.often_share, batch_size, seed)

    def __len__(self) -> int:
        return len(self.latents) * self.frames

    def __getitem__(self, visit: int) -> dict[str, Any]:
        epoch, place = divmod(visit, len(self))
        clip, frame = divmod(place, self.frames)
        telling = epoch * self.frames + frame  # each in other words
        said = telling * len(self.captions) + self.first + clip
        latents = self.latents[clip, frame : frame + 1] if self.images else self.latents[clip]
        return {
            "latents": latents,
            "caption": self.captions.paraphrase(said),
            "image_caption": self.captions.paraphrase(said, image=True),
            "key": f"clip {self.first + clip}",
        }
