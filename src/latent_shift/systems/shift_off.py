"""Latent-Shift without the shift: every frame by itself, the floor of motion.

The stage is `latent_shift`'s, the task video, with `shift: null`; the folders are the same, so they load
without this file, too. What the network cannot know then is any other frame; with
`frame_position_embedding` it knows where in the clip its frame is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from latent_shift.systems.latent_shift import LatentShift


class ShiftOff(LatentShift):
    """A loaded model that was trained on clips without the shift."""

    name: ClassVar[str] = "shift_off"

    def __init__(self, pipeline: Any, path: Path, **loaded_with: Any) -> None:
        """Wrap a pipeline loaded from `path`; loaded_with: as of `LatentShift`.

        Raises ValueError for a model that was trained with the shift.
        """
        if pipeline.video_config.video_tuned and pipeline.video_config.shift is not None:
            raise ValueError(f"{path}: this model shifts; one of {self.name} is trained with shift: null")
        super().__init__(pipeline, path, **loaded_with)
