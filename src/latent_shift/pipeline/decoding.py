"""From latents to pictures: a few frames at a time, checked for numbers that are none.

Shapes: B videos, F frames, C latent channels, h x w latent pixels, H x W pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latent_shift.autoencoder import decode_latents
from latent_shift.io import warn
from latent_shift.pipeline.finite import check_finite
from latent_shift.pipeline.folders import FolderMixin

# Pixels decoded together: 64 frames of 64 x 64, 4 of 256 x 256, 1 of 512 x 512, which take 0.4 GiB of
# Stable Diffusion's autoencoder in half precision, whatever the length of the clip.
DECODED_PIXELS = 2**18

# Frames of a block, for models of shorter clips, too: with fewer, small convolutions are slow.
SHORT_CLIP = 16


class DecodingMixin(FolderMixin):
    """Decodes clips by a model's autoencoder; a subclass adds the safety checker of its layout."""

    _upcast_decoding = False  # of the layout: whether a float16 autoencoder may decode in float32

    @abstractmethod
    def _check_safety(self, images: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[bool] | None]:
        """Images (B*F, 3, H, W) to show, and the safety checker's flags, if any. dtype: of the latents."""

    @torch.no_grad()
    def decode_in_parts(self, latents: Tensor, generator: Any = None) -> Iterator[np.ndarray]:
        """Decode latents (F, C, h, w) of one clip, a few at a time: frames (n, H, W, 3), floats in 0..1.

        generator: for decoders that draw noise. Raises NonFiniteError for NaN or infinite frames.
        """
        height, width = (side * self.vae_scale_factor for side in latents.shape[-2:])
        chunk = min(SHORT_CLIP, frames_at_once((height, width)))
        for part in latents.split(chunk):
            yield np.asarray(self._decode(part, chunk, "np", generator)[0])
        self.maybe_free_model_hooks()

    def _decode(
        self, latents: Tensor, chunk: int, output_type: str, generator: Any
    ) -> tuple[list[Image.Image] | np.ndarray | Tensor, list[bool] | None]:
        """Images of latents (B*F, C, h, w), `chunk` at a time, and the flags of the safety checker."""
        if output_type == "latent":
            return latents, None
        images = decode_latents(self.vae, latents, chunk, upcast=self._upcast_decoding, generator=generator)
        check_finite(images, "frames are", "after the last step, decoded")
        images, flags = self._check_safety(images, latents.dtype)
        if flags is not None and any(flags):
            warn(f"the safety checker blackened {sum(flags)} of {len(flags)} frames")
        denormalize = None if flags is None else [not flag for flag in flags]
        shown = self.image_processor.postprocess(images, output_type=output_type, do_denormalize=denormalize)
        return shown, flags


def frames_at_once(size: tuple[int, int]) -> int:
    """Frames of this height and width, in pixels, that are decoded together."""
    return max(1, DECODED_PIXELS // (size[0] * size[1]))
