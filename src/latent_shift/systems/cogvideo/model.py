"""All parts of a CogVideo model as one module and one folder.

frame_tokenizer/            diffusers' `VQModel`, and the state of its codebook
tokenizer/  text_encoder/   transformers' `CLIPTokenizer` and `CLIPTextModel`
transformer/                transformers' `Glm4ForCausalLM`; inputs.safetensors, the layers around it
key_frames.safetensors      the second channel of stage 1, where it is trained
interpolation.safetensors   that of stage 2
cogvideo.json               sizes and defaults
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTokenizer, Glm4ForCausalLM

from latent_shift.documents import read_json_mapping, validation_error
from latent_shift.io import one_line, read_safetensors_header, write_json
from latent_shift.model_files import SYSTEM_FILE, check_words, tokenizer_errors
from latent_shift.model_weights import check_weights
from latent_shift.systems.cogvideo.sampling import SamplingConfig
from latent_shift.systems.cogvideo.temporal_attention import ChannelConfig, TemporalChannel
from latent_shift.systems.cogvideo.tokenizer import FOLDER as FRAME_TOKENIZER
from latent_shift.systems.cogvideo.tokenizer import STATE_FILE, FrameTokenizer
from latent_shift.systems.cogvideo.transformer import CaptionEncoder, ImageTransformer, TransformerConfig
from latent_shift.training.recipe import Count, Strict
from latent_shift.training.text_encoder import load_text_encoder

NAME = "cogvideo"
CONFIG_FILE = "cogvideo.json"
CHANNELS = ("key_frames", "interpolation")
PARTS = (FRAME_TOKENIZER, "tokenizer", "transformer")  # folders of every model
_INPUTS = "inputs.safetensors"


class ModelConfig(Strict):
    """Sizes of a model and defaults of its sampling. A channel of None is not trained yet."""

    transformer: TransformerConfig
    height: Count = Field(description="pixels")
    width: Count = Field(description="pixels")
    scale: Count = Field(description="pixels per token, in height and in width")
    key_frames: ChannelConfig | None = None
    interpolation: ChannelConfig | None = None
    sampling: SamplingConfig = SamplingConfig()
    closed_vocabulary: tuple[str, ...] = ()
    untrained_words: tuple[str, ...] = ()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a frame's tokens."""
        return self.height // self.scale, self.width // self.scale

    @model_validator(mode="after")
    def _whole_tokens(self) -> ModelConfig:
        for name, side in (("height", self.height), ("width", self.width)):
            if side % self.scale:
                raise ValueError(f"{name} {side}: the frame tokenizer takes multiples of {self.scale}")
        return self


class CogVideoModel(nn.Module):
    """A loaded model; `config` says which channels it has."""

    def __init__(
        self,
        config: ModelConfig,
        frame_tokenizer: FrameTokenizer,
        captions: CaptionEncoder,
        transformer: ImageTransformer,
        **channels: TemporalChannel,
    ) -> None:
        super().__init__()
        self.config = config
        self.frame_tokenizer, self.captions, self.transformer = frame_tokenizer, captions, transformer
        self.channels = nn.ModuleDict(channels)

    @classmethod
    def new(cls, config: ModelConfig, frame_tokenizer: FrameTokenizer, text_folder: Path) -> CogVideoModel:
        """A model with a new image transformer and no channels.

        text_folder: with tokenizer/ and text_encoder/.
        """
        captions = _captions(text_folder, config.transformer)
        transformer = ImageTransformer.new(
            config.transformer, len(frame_tokenizer.codes), config.grid, captions.size
        )
        return cls(config, frame_tokenizer, captions, transformer)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a folder of `save`, in float32, on the CPU. Raises ValueError for missing or damaged parts."""
        config = read_config(folder)
        try:
            frame_tokenizer = FrameTokenizer.load(folder / FRAME_TOKENIZER)
            captions = _captions(folder, config.transformer)
            check_weights(folder / "transformer", "transformers", "Glm4ForCausalLM")
            glm = Glm4ForCausalLM.from_pretrained(folder / "transformer", dtype=torch.float32)
            transformer = ImageTransformer(glm, config.transformer, config.grid, captions.size)
            _load(transformer, folder / _INPUTS, without="glm.")
            channels = {}
            for name in CHANNELS:
                own: ChannelConfig | None = getattr(config, name)
                if own is not None:
                    channels[name] = transformer.new_channel(own)
                    _load(channels[name], folder / f"{name}.safetensors")
        except (OSError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
            raise ValueError(f"{folder}: cannot be loaded: {one_line(error)}") from error
        return cls(config, frame_tokenizer, captions, transformer, **channels)

    def save(self, folder: Path) -> None:
        """Write a folder that `load` and `systems.load` open."""
        self.frame_tokenizer.save(folder / FRAME_TOKENIZER)
        self.captions.tokenizer.save_pretrained(folder / "tokenizer")
        if self.captions.encoder is not None:
            self.captions.encoder.save_pretrained(folder / "text_encoder")
        self.transformer.glm.save_pretrained(folder / "transformer", safe_serialization=True)
        _save(self.transformer, folder / _INPUTS, without="glm.")
        for name, channel in self.channels.items():
            _save(channel, folder / f"{name}.safetensors")
        write_json(folder / CONFIG_FILE, self.config.model_dump(mode="json"))
        write_json(folder / SYSTEM_FILE, {"system": NAME})

    def channel(self, name: str) -> TemporalChannel | None:
        """A channel of CHANNELS; None where it is not trained yet."""
        return self.channels[name] if name in self.channels else None  # type: ignore[return-value]  # noqa: SIM401

    def add_channel(self, name: str, config: ChannelConfig) -> TemporalChannel:
        """Add a new channel, or replace one of that name."""
        channel = self.transformer.new_channel(config)
        self.channels[name] = channel
        self.config = self.config.model_copy(update={name: config})
        return channel

    @property
    def device(self) -> torch.device:
        """The device of all parts."""
        return self.transformer.stills_rate.device


def read_config(folder: Path) -> ModelConfig:
    """The settings of a model's folder. Raises ValueError naming the file and what is wrong in it."""
    path = folder / CONFIG_FILE
    try:
        return ModelConfig.model_validate(read_json_mapping(path))
    except ValidationError as error:
        raise ValueError(f"{path}: {validation_error(error)}") from error


def weight_files(folder: Path, config: ModelConfig) -> list[Path]:
    """All files of weights of a model's folder. Raises ValueError for one that is missing or damaged."""
    files = [folder / FRAME_TOKENIZER / STATE_FILE, folder / _INPUTS]
    files += [folder / f"{name}.safetensors" for name in CHANNELS if getattr(config, name) is not None]
    text = ("text_encoder",) if config.transformer.text == "tower" else ()
    for part in (FRAME_TOKENIZER, "transformer", *text):
        found = sorted(set((folder / part).glob("*.safetensors")) - {files[0]})
        if not found:
            raise ValueError(f"{folder / part}: has no .safetensors file")
        files += found
    for file in files:
        read_safetensors_header(file)
    return files


def _captions(folder: Path, config: TransformerConfig) -> CaptionEncoder:
    if config.text == "tokens":
        check_words(folder / "tokenizer")
        with tokenizer_errors(folder):
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        return CaptionEncoder(tokenizer, None, config.text_length)
    tokenizer, encoder = load_text_encoder(folder)
    return CaptionEncoder(tokenizer, encoder, config.text_length)


def _save(module: nn.Module, path: Path, without: str = " ") -> None:
    tensors = {
        name: tensor.contiguous() for name, tensor in module.state_dict().items()
        if not name.startswith(without)
    }  # fmt: skip
    save_file(tensors, path)


def _load(module: nn.Module, path: Path, without: str = " ") -> None:
    tensors: dict[str, Any] = load_file(path)
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.startswith(without)]
    if missing or unexpected:
        raise ValueError(f"{path}: is of another model: {(missing or unexpected)[0]}")
