"""Keys and task names of older recipes, read for one release: in recipes, presets, settings, recorded runs.

A table of dotted paths: many keys moved to another section, and pydantic's `AliasChoices` give a key another
name within its own section only. To be removed with the next release, together with its two callers.
"""

from __future__ import annotations

import warnings
from typing import Any

TASKS = {"wording": "text_contrastive", "contrast": "video_text_contrastive"}

# In this order: what moves out of a section comes before the section.
KEYS = {
    "latents.world.favoured": "experimental.oversample_motions",
    "latents.world.favoured_share": "experimental.oversample_motions_ratio",
    "latents.world.favoured_spread": "experimental.amplitude_range",
    "latents.world": "latents.source",
    "latents.often": "experimental.oversample_words",
    "latents.often_share": "experimental.oversample_ratio",
    "latents.every": "latents.frame_stride",
    "world.favoured": "source.oversample_motions",
    "world.favoured_share": "source.oversample_motions_ratio",
    "world.favoured_spread": "source.amplitude_range",
    "world": "source",
    "wordings": "paraphrases",
    "text_tower": "text_encoder",
    "text": "text_encoder_from",
    "clip_tower": "video_encoder",
    "misses": "hard_negatives",
    "init": "init_from",
    "base": "pretrained_model",
    "prediction": "prediction_type",
    "clips.ahead": "clips.precomputed_latents",
    "clips.tell_fps": "clips.append_fps_to_caption",
    "diffusion.noise_correlation": "diffusion.shared_noise_ratio",
    "diffusion.noise_persistence": "experimental.progressive_noise_alpha",
    "diffusion.noise_choices": "experimental.noise_candidates",
    "diffusion.timesteps": "experimental.timestep_range",
    "scheduler.log_snr_centre": "scheduler.log_snr_shift",
    "shift.distances": "experimental.shift_strides",
    "image_steps": "image_batch_ratio",
    "tell_places": "experimental.frame_position_embedding",
    "toward.share": "experimental.interpolate_with.alpha",
    "toward": "experimental.interpolate_with",
    "lora.modules": "lora.target_modules",
    "layers": "trainable_modules",
    "accumulate": "gradient_accumulation_steps",
    "optimizer.clip_norm": "optimizer.max_grad_norm",
    "optimizer.most_skipped": "optimizer.max_skipped_steps",
    "precision": "mixed_precision",
    "workers": "num_workers",
    "keep_checkpoints": "checkpoints_total_limit",
}
_GENERATED = ("world", "latents.world")  # were of Moving Shapes unless they named another format
_MISSING = object()


def upgrade(content: dict[str, Any], where: str = "") -> None:
    """Rename what is old in a recipe, or in a part of one, in place.

    where: name of the file, for one warning (UserWarning) that lists old and new keys; without it there is
    none. Raises ValueError where an old key and its new one are both given.
    """
    renamed = {}
    if isinstance(content.get("task"), str) and content["task"] in TASKS:
        renamed[f"task: {content['task']}"] = content["task"] = TASKS[content["task"]]
    enabled = _pop(content, "shift.enabled")
    if enabled is not _MISSING:
        renamed["shift.enabled: false"] = "shift: null"
        if enabled is False:
            content["shift"] = None
    for old, new in KEYS.items():
        value = _pop(content, old)
        if value is _MISSING:
            continue
        renamed[old] = new
        if old in _GENERATED and isinstance(value, dict):
            value.setdefault("format", "moving-shapes")
        _put(content, new, value, f"{where}: {old}")
    if renamed and where:
        keys = ", ".join(f"{old} -> {new}" for old, new in renamed.items())
        warnings.warn(f"{where}: old keys, which the next release will not read: {keys}", stacklevel=2)


def _pop(content: dict[str, Any], path: str) -> Any:
    """Take the value at a dotted path out of nested mappings; _MISSING where there is none."""
    *sections, name = path.split(".")
    for section in sections:
        content = content.get(section, {})
        if not isinstance(content, dict):
            return _MISSING
    return content.pop(name, _MISSING)


def _put(content: dict[str, Any], path: str, value: Any, old: str) -> None:
    *sections, name = path.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise ValueError(f"{old} is the old name of {path}, but {section!r} is a value")
    there = content.get(name)
    if isinstance(value, dict) and isinstance(there, dict):  # keys of it that have moved already
        value.update(there)
    elif name in content:
        raise ValueError(f"{old} is the old name of {path}: give only {path}")
    content[name] = value
