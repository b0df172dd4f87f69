"""Single `.safetensors` checkpoints in the layouts of SD 1.x, SD 2.x and SDXL: detected, checked, loaded.

diffusers converts the weights; the configs of the three layouts come with this package, so that nothing is
downloaded. The layout is detected from keys and shapes, and a file of none of them is refused with what was
found. Two things are not in such a file: CLIP's tokenizer, which the user names (any Stable Diffusion folder
has it, and any package of CLIP as `bpe_simple_vocab_16e6.txt.gz`), and whether an SD 2.x model predicts noise
or velocity, which the user names where the file does not.

    layout, header = detect_layout(file)          # needs no torch, nor do the other checks
    pipeline = load_single_file(file, tokenizer, prediction_type, torch.float32)
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_shift.documents import read_json_mapping
from latent_shift.io import SafetensorsHeader, file_state, one_line, read_safetensors_header
from latent_shift.model_files import OTHER_TASKS, tokenizer_errors
from latent_shift.model_weights import check_floats

if TYPE_CHECKING:
    import torch

    from latent_shift.pipeline import LatentShiftPipeline, LatentShiftXLPipeline

PREDICTION_TYPES = ("epsilon", "v_prediction")
CONFIGS = Path(str(files("latent_shift"))) / "assets" / "configs"
LATENT_CHANNELS = 4

_UNET = "model.diffusion_model."
_STEM = f"{_UNET}input_blocks.0.0.weight"  # (channels, latent channels, 3, 3)
_VAE = "first_stage_model."
_CLIP = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
_OPEN_CLIP = "cond_stage_model.model.token_embedding.weight"
_CLIP_XL = "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight"
_OPEN_CLIP_XL = "conditioner.embedders.1.model.token_embedding.weight"
_TYPE_NAMES = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
_VELOCITY_KEY, _ZERO_SNR_KEY = "v_pred", "ztsnr"  # what trainers put into SDXL files

VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
_NUM_MERGES = 49152 - 256 - 2  # lines of the file that CLIP uses
_START, _END = "<|startoftext|>", "<|endoftext|>"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_MEND = (
    "name one with --tokenizer: the tokenizer/ of any Stable Diffusion folder, "
    f"or the {VOCABULARY_FILE} of any package of CLIP"
)


@dataclass(frozen=True)
class Layout:
    """A kind of file: its configs, the width of the text that its U-Net reads, and its text encoders."""

    name: str
    configs: str  # a folder in CONFIGS
    text_width: int
    token_keys: tuple[str, ...]  # of the text encoders' token embeddings, (tokens, width)
    padding: tuple[str, ...]  # token that each text encoder is padded with
    prediction_type: str | None  # where the file does not name it

    @property
    def config_folder(self) -> Path:
        """The folder with the configs of the layout's parts."""
        return CONFIGS / self.configs

    def sample_size(self, prediction_type: str) -> int:
        """Height and width in latent pixels that the U-Net was trained at."""
        if self.prediction_type is None and prediction_type == "v_prediction":
            return 96  # the kind of SD 2.x that was trained at 768 pixels
        return int(read_json_mapping(self.config_folder / "unet" / "config.json")["sample_size"])


LAYOUTS = (
    Layout("SD 1.x", "sd-1", 768, (_CLIP,), (_END,), "epsilon"),
    Layout("SD 2.x", "sd-2", 1024, (_OPEN_CLIP,), ("!",), None),
    Layout("SDXL", "sdxl", 2048, (_CLIP_XL, _OPEN_CLIP_XL), (_END, "!"), "epsilon"),
)
EXPECTED = f"a checkpoint in the layout of {', '.join(layout.name for layout in LAYOUTS)}"


def detect_layout(file: Path) -> tuple[Layout, SafetensorsHeader]:
    """The layout of a file, by its keys and shapes, and its header. Raises ValueError with what was found."""
    if file.suffix.lower() != ".safetensors":
        raise ValueError(f"{file}: expected a .safetensors file; pickled checkpoints are never read")
    header = read_safetensors_header(file)
    shapes = header.shapes
    widths = {shape[-1] for key, shape in shapes.items() if key.startswith(_UNET) and "attn2.to_k.w" in key}
    layout = next((layout for layout in LAYOUTS if widths == {layout.text_width}), None)
    if _STEM not in shapes or layout is None:
        raise ValueError(f"{file}: {_contents(shapes, widths)}; expected {EXPECTED}")
    if shapes[_STEM][1] != LATENT_CHANNELS:
        made_for = OTHER_TASKS.get(shapes[_STEM][1], "another task")
        found = f"its U-Net reads {shapes[_STEM][1]} channels, as one for {made_for} does"
        raise ValueError(f"{file}: {found}; expected {EXPECTED}")
    needed = (_VAE, *layout.token_keys)
    missing = [part for part in needed if not any(key.startswith(part) for key in shapes)]
    if missing:
        raise ValueError(f"{file}: is of {layout.name}, but holds no {' and no '.join(missing)} keys")
    weights = (key for key in shapes if key.startswith((_UNET, _VAE)) and key.endswith(("weight", "bias")))
    check_floats(file, {key: header.dtypes[key] for key in weights})
    return layout, header


def choose_prediction_type(
    file: Path, layout: Layout, header: SafetensorsHeader, requested: str | None
) -> str:
    """Prediction type of a U-Net, one of PREDICTION_TYPES: as requested, else by the file, else its layout.

    file: named in errors. layout, header: of the file, as detected. requested: by the user; None: not.
    Raises ValueError for an unknown one, and where none of them tells (SD 2.x comes in both kinds).
    """
    if requested is not None:
        if requested not in PREDICTION_TYPES:
            raise ValueError(f"prediction type {requested!r}: expected one of {', '.join(PREDICTION_TYPES)}")
        return requested
    named = _TYPE_NAMES.get(header.metadata.get("modelspec.prediction_type", ""))
    if _VELOCITY_KEY in header.shapes:
        named = "v_prediction"
    if named is None and layout.prediction_type is None:
        raise ValueError(
            f"{file}: is of {layout.name}, and does not say what it predicts; name it with"
            " --prediction-type: epsilon (2-base, 2-1-base, 512 pixels) or v_prediction (2, 2-1, 768 pixels)"
        )
    return named or str(layout.prediction_type)


def load_single_file(
    file: Path, tokenizer: Path | None, prediction_type: str | None, dtype: torch.dtype
) -> LatentShiftPipeline | LatentShiftXLPipeline:
    """The pipeline of a file, every part in `dtype`, on the CPU.

    tokenizer: a folder with CLIP's tokenizer, or its vocabulary file. prediction_type: one of
    PREDICTION_TYPES; None where the file or its layout tells. Raises ValueError for a file of another kind, a
    damaged one, weights that are missing or do not fit, and a tokenizer or prediction type that is wrong.
    """
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    from latent_shift.pipeline import LatentShiftPipeline, LatentShiftXLPipeline

    layout, header = detect_layout(file)
    kind: Any = LatentShiftXLPipeline if len(layout.token_keys) == 2 else LatentShiftPipeline
    parts = _tokenizers(file, layout, header, tokenizer)
    prediction_type = choose_prediction_type(file, layout, header, prediction_type)
    parts["scheduler"] = _scheduler(layout, header, prediction_type)
    try:
        pipeline = kind.from_single_file(
            str(file), config=str(layout.config_folder), local_files_only=True, torch_dtype=dtype, **parts
        )
    except (SingleFileComponentError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{file}: cannot be loaded: {one_line(error)}") from error
    _check_complete(pipeline, file)
    pipeline.unet.register_to_config(sample_size=layout.sample_size(prediction_type))
    return pipeline


def check_tokenizer(path: Path | None, file: Path) -> None:
    """Raise ValueError where a path holds no tokenizer, or none is named for a checkpoint `file`."""
    if path is None:
        raise ValueError(f"{file}: a single file has no tokenizer; {_MEND}")
    if path.is_dir():
        _tokenizer_folder(path)
    elif not path.is_file():
        raise ValueError(f"{path}: there is no such tokenizer; {_MEND}")
    else:
        _read_merges(*file_state(path))


def load_tokenizer(path: Path, *, padding: str, length: int) -> Any:
    """A `CLIPTokenizer` from a folder or CLIP's vocabulary file; errors as in `check_tokenizer`.

    padding: the token that pads a text to `length` tokens. As in the published folders, a text encoder that
    is padded with "!" reads one in a prompt as padding, too.
    """
    from transformers import CLIPTokenizer

    if path.is_dir():
        folder = _tokenizer_folder(path)
        with tokenizer_errors(folder):
            return CLIPTokenizer.from_pretrained(
                folder, pad_token=padding, model_max_length=length, local_files_only=True
            )
    merges = _read_merges(*file_state(path))
    # A letter for each byte in the order of CLIP's vocabulary: printable bytes first, then stand-ins
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), _START, _END]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), pad_token=padding, model_max_length=length)


@lru_cache(maxsize=1)
def _read_merges(file: Path, *_: int) -> tuple[tuple[str, str], ...]:
    """The merges of CLIP's vocabulary file, in order. Raises ValueError for any other file."""
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            merges = [tuple(line.split()) for line in islice(lines, 1, 1 + _NUM_MERGES)]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(f"{file}: is not CLIP's {VOCABULARY_FILE} ({error}); {_MEND}") from error
    if len(merges) != _NUM_MERGES or any(len(merge) != 2 for merge in merges):
        raise ValueError(
            f"{file}: is not CLIP's {VOCABULARY_FILE}: expected {_NUM_MERGES} lines of two pieces"
        )
    return tuple((first, second) for first, second in merges)


def _tokenizer_folder(path: Path) -> Path:
    """The folder itself, or the `tokenizer/` in it."""
    for folder in (path, path / "tokenizer"):
        if any((folder / name).is_file() for name in _TOKENIZER_FILES):
            return folder
    raise ValueError(f"{path}: holds no tokenizer ({' or '.join(_TOKENIZER_FILES)}); {_MEND}")


def _tokenizers(
    file: Path, layout: Layout, header: SafetensorsHeader, tokenizer: Path | None
) -> dict[str, Any]:
    """A tokenizer with its padding for each text encoder. Raises ValueError for one of another vocabulary."""
    from transformers import CLIPTextConfig

    check_tokenizer(tokenizer, file)
    assert tokenizer is not None
    found = {}
    for suffix, key, padding in zip(("", "_2"), layout.token_keys, layout.padding, strict=False):
        config = CLIPTextConfig.from_pretrained(layout.config_folder / f"text_encoder{suffix}")
        made = load_tokenizer(tokenizer, padding=padding, length=config.max_position_embeddings)
        known = header.shapes[key][0]
        if len(made) != known:
            raise ValueError(
                f"{tokenizer}: has {len(made)} tokens, but the text model in {file} knows {known}"
            )
        found[f"tokenizer{suffix}"] = made
    return found


def _scheduler(layout: Layout, header: SafetensorsHeader, prediction_type: str) -> Any:
    """The layout's scheduler for what the U-Net predicts; with zero terminal SNR where the file names it."""
    import diffusers

    config = read_json_mapping(layout.config_folder / "scheduler" / "scheduler_config.json")
    changes: dict[str, Any] = {"prediction_type": prediction_type}
    if _ZERO_SNR_KEY in header.shapes:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return getattr(diffusers, config["_class_name"]).from_config({**config, **changes})


def _check_complete(pipeline: Any, file: Path) -> None:
    """Raise ValueError where the file did not hold every weight."""
    missing = [
        f"{name}.{key}"
        for name in ("unet", "vae", "text_encoder", "text_encoder_2")
        if getattr(pipeline, name, None) is not None
        for key, tensor in getattr(pipeline, name).state_dict().items()
        if tensor.is_meta
    ]
    if missing:
        raise ValueError(f"{file}: lacks {len(missing)} of the model's weights, the first {missing[0]}")


def _contents(shapes: dict[str, tuple[int, ...]], widths: set[int]) -> str:
    """Contents of a file of no known layout, in words."""
    if not shapes:
        return "holds nothing"
    if any("lora" in key for key in shapes):
        return "is a LoRA file, to be loaded upon its base model (--lora)"
    if _STEM in shapes:
        text = f"text of width {', '.join(map(str, sorted(widths)))}" if widths else "no text"
        return f"holds a U-Net that reads {text}"
    if any(key.startswith(("down_blocks.", "encoder.down_blocks.")) for key in shapes):
        return "holds one part of a diffusers folder alone"
    first = sorted({key.split(".")[0] for key in shapes})
    return f"holds {len(shapes)} tensors under {', '.join(first[:5])}{', ...' if len(first) > 5 else ''}"
