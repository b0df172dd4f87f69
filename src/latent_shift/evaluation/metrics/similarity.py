"""CLIPSIM (Wu et al., GODIVA, arXiv 2104.14806): how near a clip's frames are to its sentence.

The mean cosine of image and text embeddings over the frames of a clip, then over clips. The value depends on
the backbone (ViT-B/32, B/16, L/14): never print it without.

Shapes: B clips, F frames, D numbers an embedding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def clip_similarities(frames: NDArray[np.floating], texts: NDArray[np.floating]) -> NDArray[np.float64]:
    """(B,) mean cosines, -1 to 1, of frames (B, F, D) with their clips' texts (B, D).

    Raises ValueError for other shapes, and for an embedding of length 0.
    """
    if frames.ndim != 3 or texts.shape != (frames.shape[0], frames.shape[2]):
        raise ValueError(f"frames {frames.shape} and texts {texts.shape}; expected (B, F, D) and (B, D)")
    cosines = np.einsum("bfd,bd->bf", _units(frames), _units(texts))
    means: NDArray[np.float64] = cosines.mean(axis=1)
    return means


def _units(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=-1, keepdims=True)
    if not (lengths > 0).all():
        raise ValueError("an embedding is of length 0 or not a number, and has no direction")
    units: NDArray[np.float64] = exact / lengths
    return units
