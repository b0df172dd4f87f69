"""Pipelines and their folders: settings of the U-Net's shift, loading, saving, upload."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self

from diffusers import DiffusionPipeline
from diffusers.utils.hub_utils import load_or_create_model_card, populate_model_card
from huggingface_hub import create_repo
from transformers import PreTrainedModel

from latent_shift.io import write_json
from latent_shift.model_files import INDEX, check_model
from latent_shift.pipeline.quiet import libraries_quiet
from latent_shift.text_attention import use_clip_attention
from latent_shift.unet import disable_temporal_shift, enable_temporal_shift, shift_options
from latent_shift.video_config import (
    FILE_NAME,
    UNTUNED,
    VideoConfig,
    fetch_video_config,
    read_video_config,
    write_video_config,
)

_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")
_UPLOAD_OPTIONS = ("repo_id", "commit_message", "private", "create_pr", "token")


class FolderMixin(DiffusionPipeline):
    """Settings, loading and saving of a pipeline with a U-Net that shifts over frames."""

    stock_class: type[DiffusionPipeline]  # opens the saved folders
    _untuned = UNTUNED  # settings of a model of this layout that was never tuned on clips

    def register_modules(self, **modules: Any) -> None:
        """As in diffusers; a stock U-Net is given the shift, bypassed for single frames."""
        super().register_modules(**modules)
        if modules.get("unet") is not None:
            use_clip_attention(self.unet)
            if shift_options(self.unet) is None:
                self.video_config = self._stored_config

    @property
    def video_config(self) -> VideoConfig:
        """Settings of the model for clips and its defaults in sampling. Setting it sets the U-Net's shift.

        They belong to the U-Net: every pipeline made of it has them (`from_pipe`, `components`, copies).
        """
        return self._stored_config.model_copy(update={"shift": shift_options(self.unet)})

    @video_config.setter
    def video_config(self, config: VideoConfig) -> None:
        if config.shift is None:
            disable_temporal_shift(self.unet)
        else:
            enable_temporal_shift(self.unet, 1, config.shift)
        unet: Any = getattr(self.unet, "_orig_mod", self.unet)
        unet.video_config = config

    @property
    def _stored_config(self) -> VideoConfig:
        """The settings as set; the U-Net's shift may have changed since."""
        return getattr(self.unet, "video_config", self._untuned)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Load a folder or hub id in this pipeline's layout, with its `latent_shift.json` if it has one.

        Keywords as in diffusers, but the weights must be safetensors, and without a dtype they load in
        float32, however they were saved. Raises ValueError for a `latent_shift.json` that does not fit, and
        for parts that lack weights or cannot work together.
        """
        if kwargs.setdefault("use_safetensors", True) is not True:
            raise ValueError("use_safetensors must be True: pickled weights can run code and are not loaded")
        config_file = _find_config(pretrained_model_name_or_path, kwargs)
        folder = _local_folder(pretrained_model_name_or_path, kwargs)
        if (folder / INDEX).is_file():
            check_model(folder, [name for name in kwargs if kwargs[name] is not None], kwargs.get("variant"))
        with libraries_quiet():
            pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if "dtype" not in kwargs and "torch_dtype" not in kwargs:
            for name, part in pipeline.components.items():
                if isinstance(part, PreTrainedModel) and kwargs.get(name) is None:
                    part.float()  # all else is float32; only transformers keeps the precision of the file
        if config_file is not None:
            pipeline.video_config = read_video_config(config_file)
        return pipeline

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save a folder that the stock pipeline opens, with `latent_shift.json` beside it.

        Keywords as in diffusers; the weights are safetensors, anything else raises ValueError. So do attached
        LoRA layers: the folder would hold weights under names that nothing opens. Only those of a text
        encoder that was loaded from somewhere are saved, as in stock: without it, by its name.
        `from_pretrained` opens such a folder, the commands of this package do not.
        """
        if kwargs.get("safe_serialization", True) is not True:
            raise ValueError("safe_serialization must be True: weights are saved as safetensors only")
        nameless = [encoder for encoder in self.text_encoders() if not encoder.name_or_path]
        if any(getattr(part, "peft_config", None) for part in (self.unet, *nameless)):
            mend = "merge them (fuse_lora, then unload_lora_weights), or unload them"
            raise ValueError(f"LoRA layers are attached to this pipeline: {mend} before it is saved")
        folder = Path(save_directory)
        upload = {name: kwargs.pop(name) for name in _UPLOAD_OPTIONS if name in kwargs}
        push_to_hub = kwargs.pop("push_to_hub", False)
        with libraries_quiet():
            super().save_pretrained(folder, **kwargs)
        write_video_config(folder / FILE_NAME, self.video_config)  # after weights that fit it
        for config_file in (folder / name / "config.json" for name in _TEXT_ENCODERS):
            if config_file.is_file():  # where no dtype is given, transformers loads in that of the config
                config = json.loads(config_file.read_text(encoding="utf-8"))
                write_json(config_file, {**config, "dtype": "float32"})
        if push_to_hub:  # here, and not in diffusers: what it would upload is not finished
            self._upload(folder, **upload)

    def _upload(
        self,
        folder: Path,
        repo_id: str | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        create_pr: bool = False,
        token: str | None = None,
    ) -> None:
        repo_id = create_repo(repo_id or folder.name, exist_ok=True, private=private, token=token).repo_id
        card = populate_model_card(load_or_create_model_card(repo_id, token=token, is_pipeline=True))
        card.save(folder / "README.md")
        self._upload_folder(folder, repo_id, token=token, commit_message=commit_message, create_pr=create_pr)

    def to_json_string(self) -> str:
        """`model_index.json`: that of the stock pipeline, without the path that the model was loaded from."""
        index = json.loads(super().to_json_string())
        index.pop("_name_or_path", None)
        index["_class_name"] = self.stock_class.__name__
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def text_encoders(self) -> list[Any]:
        """The text encoders of this pipeline: one; in SDXL's layout two."""
        parts = (getattr(self, name, None) for name in _TEXT_ENCODERS)
        return [part for part in parts if part is not None]

    def _tokenizers(self) -> list[Any]:
        """The tokenizers of this pipeline; [None] where it has none and reads embeddings only."""
        parts = (getattr(self, name, None) for name in ("tokenizer", "tokenizer_2"))
        return [part for part in parts if part is not None] or [None]


def read_index(model: str | os.PathLike, keywords: dict[str, Any]) -> dict[str, Any]:
    """The `model_index.json` of a folder or a hub id; empty for a folder that has none."""
    if os.path.isdir(model) and not (Path(model) / INDEX).is_file():
        return {}
    return dict(DiffusionPipeline.load_config(model, **_hub_options(keywords)))


def _find_config(model: str | os.PathLike, keywords: dict[str, Any]) -> Path | None:
    """The `latent_shift.json` of a folder, or of a hub id; None where it has none."""
    if os.path.isdir(model):
        path = Path(model) / FILE_NAME
        return path if os.path.lexists(path) else None  # a dangling link is one that is missing
    return fetch_video_config(str(model), **_hub_options(keywords))


def _local_folder(model: str | os.PathLike, keywords: dict[str, Any]) -> Path:
    """The folder of a model; a hub id's in the cache, where this downloads it to."""
    if os.path.isdir(model):
        return Path(model)
    with libraries_quiet():
        return Path(DiffusionPipeline.download(model, **keywords))


def _hub_options(keywords: dict[str, Any]) -> dict[str, Any]:
    return {name: keywords[name] for name in _HUB_OPTIONS if name in keywords}
