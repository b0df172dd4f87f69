"""What a model folder says about clips: `latent_shift.json`, beside the stock `model_index.json`.

The folder stays an image model that stock tools open; this small file, which they ignore, holds how the model
was tuned on clips and what it is sampled with unless the caller says otherwise. Not the settings of one clip.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from latent_shift.limits import MAX_FRAMES

FILE_NAME = "latent_shift.json"


class VideoConfig(BaseModel):
    """One model's settings for clips. Defaults are those of an image model that was never tuned on clips."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    video_tuned: bool = Field(default=False, description="whether the U-Net was tuned on clips")
    num_frames: int = Field(default=16, ge=1, le=MAX_FRAMES, description="frames of a clip")
    fps: float = Field(default=8.0, gt=0, description="frames a second")
    height: int | None = Field(default=None, ge=1, description="pixels; none: the U-Net's own size")
    width: int | None = Field(default=None, ge=1, description="pixels; none: the U-Net's own size")

    shift: bool = Field(default=True, description="false only for the ablation without the shift")
    place: Literal["output", "input"] = Field(default="output", description="where a block shifts")
    padding: Literal["zeros", "replicate", "circular"] = Field(
        default="zeros", description="at a clip's ends"
    )
    direction: Literal["both", "causal"] = Field(default="both", description="causal: from the past only")
    fold: int = Field(default=3, ge=2, description="channels // fold shift in each band")
    single_frame: Literal["bypass", "shift"] = Field(default="bypass", description="for clips of one frame")
    distances: tuple[Annotated[int, Field(ge=1, le=MAX_FRAMES)], ...] = Field(
        default=(1,), min_length=1, description="frames to the next neighbour, the blocks taking turns"
    )

    noise_correlation: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the variance of the initial noise that all frames have in common",
    )
    noise_persistence: float = Field(
        default=0.0, ge=0, le=1, description="correlation of the rest of it between neighbouring frames"
    )
    tells_places: bool = Field(
        default=False, description="whether each frame was told its place in the clip, and is told it"
    )
    tells_fps: bool = Field(
        default=False, description="whether captions said the frame rate; prompts of clips then say it, too"
    )
    closed_vocabulary: tuple[str, ...] = Field(
        default=(),
        description="lower-case words that the text model was taught, it knows no other; none: open",
    )
    num_inference_steps: int = Field(default=50, ge=1, description="denoising steps")
    guidance_scale: float = Field(default=7.5, ge=0, description="classifier-free; none up to 1")
    guidance_rescale: float = Field(default=0.0, ge=0, le=1, description="arXiv 2305.08891, section 3.4")
    eta: float = Field(
        default=0.0, ge=0, le=1, description="fresh noise in every step of clips, of DDIM: arXiv 2010.02502"
    )

    def overlaid(self, **values: Any) -> VideoConfig:
        """A copy with the given values; None keeps this model's own. Raises ValueError for a wrong one."""
        given = {name: value for name, value in values.items() if value is not None}
        try:
            return VideoConfig.model_validate({**self.model_dump(), **given})
        except ValidationError as error:
            wrong = [f"{one['loc'][0]}={one['input']!r}: {one['msg']}" for one in error.errors()]
            raise ValueError("; ".join(wrong)) from error


def read_video_config(path: Path) -> VideoConfig:
    """Read a `latent_shift.json`. Raises ValueError naming the file and every wrong or unknown entry."""
    try:
        return VideoConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in error.errors()]
        raise ValueError(f"{path} does not fit: {'; '.join(wrong)}") from error


def write_video_config(path: Path, settings: VideoConfig) -> None:
    """Write a `latent_shift.json`, whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(settings.model_dump_json(indent=2) + "\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
