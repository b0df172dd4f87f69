"""An open clip or image: facts about it, and its frames by their times, whatever its format.

Times are seconds from the first frame. Shapes: F frames, H, W pixels, uint8 (F, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from latent_shift.media.damage import file_notes
from latent_shift.media.decode import (
    MAX_DECODED_BYTES,
    File,
    Frames,
    Kind,
    collect,
    named_errors,
    open_bytes,
)
from latent_shift.media.pixels import Picture

CLOSE = 1e-3  # seconds; containers round their times


@dataclass(frozen=True)
class Facts:
    """Facts about a file from its header and first frame; frames are not counted."""

    kind: Kind
    width: int  # pixels, as displayed: upright, pixels square
    height: int
    duration: float  # seconds, 0 for an image
    fps: float  # frames a second, on average where the rate varies; 1 for an image
    frames: int | None  # None where the header does not say
    codec: str

    @property
    def last_time(self) -> float:
        """Start of the last frame, in seconds, if frames come evenly."""
        return max(self.duration - 1 / self.fps, 0.0)


class Clip:
    """An open clip or image: its facts, and its frames by their times. Made by `open_clip`."""

    facts: Facts

    def __init__(self, file: File) -> None:
        self.file = file
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the frames decoded so far, as "is HDR (PQ): ..."."""
        return tuple(self._notes)

    def frames(self, times: Sequence[float]) -> Frames:
        """Decode the frames nearest to `times` (seconds, rising), uint8 (F, H, W, 3); of two the earlier.

        Raises ValueError naming the file for a time that it does not reach (it may have been cut short) and
        for frames that cannot be decoded or differ in size; ValueError for no times, or falling ones.
        """
        if not times or any(b < a for a, b in pairwise(times)) or times[0] < 0:
            raise ValueError(f"times {list(times)} must rise from 0 or later")
        with named_errors(self.file):
            chosen = self._nearest(times)
            if len({picture.shape for picture in chosen}) > 1:
                raise ValueError("changes its size between frames")
            if sum(picture.nbytes for picture in chosen) > MAX_DECODED_BYTES:
                raise ValueError(f"{len(chosen)} frames take over {MAX_DECODED_BYTES >> 30} GiB")
            return np.stack(chosen)

    def all_frames(self, max_frames: int | None = None) -> Frames:
        """Decode all frames (or the first `max_frames`), uint8 (F, H, W, 3).

        Raises ValueError naming the file for frames that cannot be decoded, differ in size, or need too much
        memory.
        """
        with named_errors(self.file):
            return np.stack(collect(self._all(), max_frames))

    def count_frames(self) -> int:
        """Decode and count all frames: the only way to know that a file is sound.

        Raises ValueError naming the file where it breaks, ends before its header says, or changes its size.
        """
        with named_errors(self.file):
            count = self._count()
            with open_bytes(self.file) as opened:
                self._notes |= dict.fromkeys(file_notes(opened))
            return count

    def _all(self) -> Iterator[Picture]:
        raise NotImplementedError

    def _nearest(self, times: Sequence[float]) -> list[Picture]:
        raise NotImplementedError

    def _count(self) -> int:
        raise NotImplementedError
