"""Encoded clips as a torch dataset: latents from a store, captions worded anew at every visit."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset


class Wording(Protocol):
    """Captions of clips by visit; visit v is of clip v modulo their number."""

    def __len__(self) -> int: ...

    def words(self, visit: int, *, image: bool = False) -> str:
        """What is said of the clip this time; without its motion where `image`."""
        ...


class StoredClips(Dataset[dict[str, Any]]):
    """Items of encoded clips: {"latents": float16 (F, C, h, w), "caption", "image_caption", "key"}.

    Where `images`, an item is one frame of a clip, (1, C, h, w), and the visits go through all frames.
    first: the clip of `captions` that the latents begin with.
    """

    def __init__(self, latents: Tensor, captions: Wording, *, images: bool = False, first: int = 0) -> None:
        self.latents, self.captions, self.images, self.first = latents, captions, images, first
        self.frames = latents.shape[1] if images else 1

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
            "caption": self.captions.words(said),
            "image_caption": self.captions.words(said, image=True),
            "key": f"clip {self.first + clip}",
        }
