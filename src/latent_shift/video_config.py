"""Settings for clips of a model folder: `latent_shift.json`, beside the stock `model_index.json`.

The folder stays an image model that stock tools open; this small file, which they ignore, holds how the model
was tuned on clips and its defaults in sampling. Not the settings of one clip.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from latent_shift.documents import read_json_mapping
from latent_shift.io import one_line, warn, write_text
from latent_shift.limits import MAX_FPS, MAX_FRAMES, MAX_GUIDANCE, MAX_SIDE, MAX_STEPS, MIN_FPS
from latent_shift.shift import ShiftOptions

FILE_NAME = "latent_shift.json"

# Keys of the first release, read until the next one.
_FORMER = {
    "noise_correlation": "shared_noise_ratio",
    "noise_persistence": "progressive_noise_alpha",
    "tells_places": "frame_position_embedding",
    "tells_fps": "append_fps_to_caption",
}
_FORMER_OPTIONS = {
    "place": "place", "padding": "padding", "direction": "direction", "fold": "fold",
    "single_frame": "single_frame", "distances": "strides",
}  # fmt: skip


class VideoConfig(BaseModel):
    """Settings for clips of one model. The defaults are those of an image model never tuned on clips."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    video_tuned: bool = Field(default=False, description="whether the U-Net was tuned on clips")
    num_frames: int = Field(default=16, ge=1, le=MAX_FRAMES, description="frames of a clip")
    fps: float = Field(default=8.0, ge=MIN_FPS, le=MAX_FPS, description="frames per second")
    height: int | None = Field(
        default=None, ge=1, le=MAX_SIDE, description="pixels; null: the U-Net's own size"
    )
    width: int | None = Field(
        default=None, ge=1, le=MAX_SIDE, description="pixels; null: the U-Net's own size"
    )
    shift: ShiftOptions | None = Field(
        default=ShiftOptions(), description="temporal shift; null: the ablation without it"
    )
    shared_noise_ratio: float = Field(
        default=0.0, ge=0, le=1, description="share of the initial noise's variance common to all frames"
    )
    progressive_noise_alpha: float = Field(
        default=0.0, ge=0, le=1, description="correlation of the rest between neighbouring frames"
    )
    frame_position_embedding: bool = Field(
        default=False, description="whether the text of each frame holds its position in the clip"
    )
    append_fps_to_caption: bool = Field(
        default=False, description="whether captions, and prompts of clips, end in the frame rate"
    )
    closed_vocabulary: tuple[str, ...] = Field(
        default=(), description="lower-case words that the text encoder was trained on; empty: open"
    )
    untrained_words: tuple[str, ...] = Field(
        default=(),
        description="lower-case words or phrases that no caption of its clips had; 'small|large + grows':"
        " one of each side of a + together",
    )
    num_inference_steps: int = Field(default=50, ge=1, le=MAX_STEPS, description="denoising steps")
    guidance_scale: float = Field(
        default=7.5, ge=0, le=MAX_GUIDANCE, description="classifier-free guidance; none up to 1"
    )
    guidance_rescale: float = Field(default=0.0, ge=0, le=1, description="arXiv 2305.08891, section 3.4")
    guidance_interval: tuple[float, float] = Field(
        default=(0.0, 1.0), description="noise levels that are guided, 0 none to 1 all: arXiv 2404.07724"
    )
    forecast_threshold: float = Field(
        default=0.0, ge=0, description="error of forecast steps before one is computed; 0: all are"
    )
    eta: float = Field(
        default=0.0, ge=0, le=1, description="fresh noise in every step of clips, of DDIM: arXiv 2010.02502"
    )

    @field_validator("guidance_interval")
    @classmethod
    def _check_interval(cls, interval: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= interval[0] <= interval[1] <= 1:
            raise ValueError("give two numbers, 0 <= lowest <= highest <= 1")
        return interval

    @field_validator("shift")
    @classmethod
    def _check_strides(cls, shift: ShiftOptions | None) -> ShiftOptions | None:
        if shift is not None and max(shift.strides) > MAX_FRAMES:
            raise ValueError(f"strides={shift.strides} must be at most {MAX_FRAMES} frames")
        return shift

    def overlaid(self, **values: Any) -> VideoConfig:
        """A copy with the given values; None keeps this model's own. Raises ValueError for a wrong one."""
        given = {name: value for name, value in values.items() if value is not None}
        try:
            return VideoConfig.model_validate({**self.model_dump(), **given})
        except ValidationError as error:
            wrong = [f"{one['loc'][0]}={one['input']!r}: {one['msg']}" for one in error.errors()]
            raise ValueError("; ".join(wrong)) from error


# Settings of models that were never tuned on clips: the stock pipelines' defaults in each layout.
UNTUNED = VideoConfig()
UNTUNED_XL = VideoConfig(guidance_scale=5.0)


def read_video_config(path: Path) -> VideoConfig:
    """Read a `latent_shift.json`; one in the keys of the first release with a warning (UserWarning).

    Raises ValueError naming the file and every wrong or unknown key.
    """
    content = read_json_mapping(path)
    former = _FORMER.keys() | _FORMER_OPTIONS.keys()
    found = [key for key in content if key in former or (key == "shift" and isinstance(content[key], bool))]
    if found:
        warn(
            f"{path} has keys of an earlier release ({', '.join(found)}), which the next one will not read: "
            "rewrite it with write_video_config(path, read_video_config(path)) of latent_shift.video_config"
        )
        content = _renamed(content)
    try:
        return VideoConfig.model_validate(content)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise ValueError(f"{path} does not fit: {'; '.join(wrong)}") from error


def fetch_video_config(name: str, **options: Any) -> Path | None:
    """The `latent_shift.json` of a hub id, in the hub's cache; None where the model has none.

    options: of `huggingface_hub.hf_hub_download`. Raises ValueError where neither the hub nor the cache can
    tell: without its settings, a model that was tuned on clips would pass for one that was not.
    """
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, FILE_NAME, **options))
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        where = {key: options.get(key) for key in ("cache_dir", "revision")}
        if try_to_load_from_cache(name, FILE_NAME, **where) is _CACHED_NO_EXIST:
            return None
        raise ValueError(
            f"{name}: its {FILE_NAME}, which says how it was tuned on clips, could not be fetched: connect to"
            f" the hub once, or load the model from a folder ({one_line(error)})"
        ) from error


def write_video_config(path: Path, config: VideoConfig) -> None:
    """Write a `latent_shift.json`, whole or not at all."""
    write_text(path, config.model_dump_json(indent=2) + "\n")


def _renamed(content: dict[str, Any]) -> dict[str, Any]:
    """Content in today's keys: the options of the shift in a mapping of their own, and other names."""
    shift = content.get("shift", True)
    if shift is True or isinstance(shift, dict):
        options = {new: content[old] for old, new in _FORMER_OPTIONS.items() if old in content}
        shift = {**({} if shift is True else shift), **options}
    others = {key: value for key, value in content.items() if key not in (*_FORMER_OPTIONS, "shift")}
    return {
        "shift": None if shift is False else shift,
        **{_FORMER.get(key, key): value for key, value in others.items()},
    }
