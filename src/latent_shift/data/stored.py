"""Encoded clips as a torch dataset: latents from a store, captions worded anew at every visit."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import Dataset


class Wording(Protocol):
    """Captions of clips by visit; visit v is of clip v modulo their number."""

    def words(self, visit: int, *, image: bool = False) -> str:
        """What is said of the clip this time; without its motion where `image`."""
        ...


class StoredClips(Dataset[dict[str, Any]]):
    """Items of encoded clips: {"latents": float16 (F, C, h, w), "caption": ..., "image_caption": ...}.

    Where `images`, an item is one frame of a clip, (1, C, h, w), and the visits go through all frames.
    """

    def __init__(self, latents: Tensor, captions: Wording, *, images: bool = False) -> None:
        self.latents, self.captions, self.images = latents, captions, images
        self.frames = latents.shape[1] if images else 1

    def __len__(self) -> int:
        return len(self.latents) * self.frames

    def __getitem__(self, visit: int) -> dict[str, Any]:
        epoch, place = divmod(visit, len(self))
        clip, frame = divmod(place, self.frames)
        said = epoch * len(self) + frame * len(self.latents) + clip  # other words each frame and epoch
        latents = self.latents[clip, frame : frame + 1] if self.images else self.latents[clip]
        return {
            "latents": latents,
            "caption": self.captions.words(said),
            "image_caption": self.captions.words(said, image=True),
        }
