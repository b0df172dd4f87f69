"""A diffusers pipeline whose U-Net shifts: the settings of the shift, and the folders that hold them.

`latent_shift.json` beside the stock files says how a model was tuned on clips; everything else in a folder is
the stock pipeline's, and opens with it. No sampling here.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import nn

from latent_shift.unet import disable_temporal_shift, enable_temporal_shift, shift_options
from latent_shift.video_config import FILE_NAME, VideoConfig, read_video_config, write_video_config

SHIFT_OPTIONS = ("place", "padding", "direction", "fold", "single_frame")
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


class ShiftedPipeline(DiffusionPipeline):
    """What any pipeline with a shifting U-Net does when parts are set, loaded and saved."""

    stock_class: type[DiffusionPipeline]  # what opens the saved folders

    _settings = VideoConfig()

    def register_modules(self, **modules: Any) -> None:
        """As in diffusers; a U-Net that does not shift yet is given the shift, asleep for single frames."""
        super().register_modules(**modules)
        if modules.get("unet") is not None and shift_options(self.unet) is None:
            self.video_settings = self._settings

    @property
    def video_settings(self) -> VideoConfig:
        """How the model was tuned on clips and what it samples with by default. Setting it sets the shift."""
        options = shift_options(self.unet)
        if options is None:
            return self._settings.overlaid(shift=False)
        fields = asdict(options)
        return self._settings.overlaid(shift=True, distances=fields.pop("strides"), **fields)

    @video_settings.setter
    def video_settings(self, settings: VideoConfig) -> None:
        self._settings = settings
        if settings.shift:
            options = {name: getattr(settings, name) for name in SHIFT_OPTIONS}
            enable_temporal_shift(self.unet, 1, strides=settings.distances, **options)
        else:
            disable_temporal_shift(self.unet)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Load a folder or hub id in this pipeline's layout, with its `latent_shift.json` if it has one.

        Keywords as in diffusers, but the weights must be safetensors, and without a dtype they load in
        float32, however they were saved. Raises ValueError for a `latent_shift.json` that does not fit.
        """
        if kwargs.setdefault("use_safetensors", True) is not True:
            raise ValueError("use_safetensors must be True: pickled weights can run code and are not loaded")
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if "dtype" not in kwargs and "torch_dtype" not in kwargs:
            for text_encoder in pipeline.text_encoders():  # all else is float32; transformers alone keeps
                text_encoder.float()  # the precision of the file
        settings_file = _settings_file(pretrained_model_name_or_path, kwargs)
        if settings_file is not None:
            pipeline.video_settings = read_video_config(settings_file)
        return pipeline

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save a folder that the stock pipeline opens, with `latent_shift.json` beside it.

        Keywords as in diffusers; the weights are safetensors, anything else raises ValueError. So do LoRA
        layers that are attached: the folder would hold weights under names that nothing opens.
        """
        if kwargs.get("safe_serialization", True) is not True:
            raise ValueError("safe_serialization must be True: weights are saved as safetensors only")
        if any(getattr(part, "peft_config", None) for part in (self.unet, *self.text_encoders())):
            mend = "merge them (fuse_lora, then unload_lora_weights), or unload them"
            raise ValueError(f"LoRA layers are attached to this pipeline: {mend} before it is saved")
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        write_video_config(Path(save_directory) / FILE_NAME, self.video_settings)
        super().save_pretrained(save_directory, **kwargs)
        for name in _TEXT_ENCODERS:
            _load_in_float32(Path(save_directory) / name / "config.json")

    def to_json_string(self) -> str:
        """`model_index.json`: that of the stock pipeline, free of where the model was loaded from."""
        index = json.loads(super().to_json_string())
        index.pop("_name_or_path", None)
        index["_class_name"] = self.stock_class.__name__
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def text_encoders(self) -> list[nn.Module]:
        """The text models that this pipeline has: one, SDXL two."""
        parts = (getattr(self, name, None) for name in _TEXT_ENCODERS)
        return [part for part in parts if part is not None]


def read_index(model: str | os.PathLike, keywords: dict[str, Any]) -> dict[str, Any]:
    """The `model_index.json` of a folder or a hub id; empty for a folder that has none."""
    if os.path.isdir(model) and not (Path(model) / "model_index.json").is_file():
        return {}
    hub = {name: keywords[name] for name in _HUB_OPTIONS if name in keywords}
    return dict(DiffusionPipeline.load_config(model, **hub))


def _load_in_float32(config_file: Path) -> None:
    """Let a text model saved in half precision load in float32 like its neighbours: stock tools then run it.

    Without a dtype diffusers loads in float32, but transformers in the precision that the config names.
    """
    if config_file.is_file():
        config = json.loads(config_file.read_text(encoding="utf-8"))
        config_file.write_text(json.dumps({**config, "dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def _settings_file(model: str | os.PathLike, keywords: dict[str, Any]) -> Path | None:
    """The `latent_shift.json` of a folder, or of a hub id; None where it has none."""
    if os.path.isdir(model):
        path = Path(model) / FILE_NAME
        return path if path.is_file() else None
    hub = {name: keywords[name] for name in _HUB_OPTIONS if name in keywords}
    try:
        return Path(hf_hub_download(str(model), FILE_NAME, **hub))
    except EntryNotFoundError:
        return None
