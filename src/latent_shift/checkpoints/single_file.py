"""Single `.safetensors` checkpoints in the layouts of SD 1.x, SD 2.x and SDXL: recognised, checked, loaded.

diffusers converts the weights; the configs of the three layouts come with this package, so that nothing is
downloaded. The kind of a file is recognised from its keys and shapes, and one that is none of them is refused
with what was found. Two things are not in such a file: the tokenizer's vocabulary, which the user names, and
whether an SD 2.x model predicts noise or velocity, which the user says where the file does not.

    check_single_file(file, tokenizer, prediction)          # needs no torch
    pipeline = load_single_file(file, tokenizer, prediction, torch.float32)
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_shift.checkpoints.files import Header, read_header
from latent_shift.checkpoints.tokenizers import check_tokenizer, load_tokenizer

if TYPE_CHECKING:
    import torch

    from latent_shift.pipeline import LatentShiftPipeline, LatentShiftXLPipeline

PREDICTIONS = ("epsilon", "v_prediction")
CONFIGS = Path(str(files("latent_shift"))) / "assets" / "configs"
LATENT_CHANNELS = 4

_UNET = "model.diffusion_model."
_STEM = f"{_UNET}input_blocks.0.0.weight"  # (channels, latent channels, 3, 3)
_SAYS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
_VELOCITY_KEY, _ZERO_SNR_KEY = "v_pred", "ztsnr"  # what trainers put into SDXL files


@dataclass(frozen=True)
class Layout:
    """A kind of file: the configs that fit it, the width of the text it reads, and its text models."""

    name: str
    configs: str  # a folder in CONFIGS
    text_width: int
    tokens: tuple[str, ...]  # the keys of the text models' token embeddings, (tokens, width)
    padding: tuple[str, ...]  # and the token that each text model is padded with
    prediction: str | None  # where the file says nothing


_VAE = "first_stage_model."
_CLIP = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
_OPEN_CLIP = "cond_stage_model.model.token_embedding.weight"
_CLIP_XL = "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight"
_OPEN_CLIP_XL = "conditioner.embedders.1.model.token_embedding.weight"
_END = "<|endoftext|>"

LAYOUTS = (
    Layout("SD 1.x", "sd-1", 768, (_CLIP,), (_END,), "epsilon"),
    Layout("SD 2.x", "sd-2", 1024, (_OPEN_CLIP,), ("!",), None),
    Layout("SDXL", "sdxl", 2048, (_CLIP_XL, _OPEN_CLIP_XL), (_END, "!"), "epsilon"),
)
EXPECTED = f"a checkpoint in the layout of {', '.join(layout.name for layout in LAYOUTS)}"


def check_single_file(file: Path, tokenizer: Path | None, prediction: str | None) -> None:
    """Raise ValueError where a file cannot be loaded so: of another kind, damaged, or with a word missing."""
    layout, header = recognise(file)
    choose_prediction(file, layout, header, prediction)
    check_tokenizer(tokenizer, file)


def recognise(file: Path) -> tuple[Layout, Header]:
    """The layout of a file, by its keys and shapes, and its header. Raises ValueError with what was found."""
    if file.suffix != ".safetensors":
        raise ValueError(f"{file}: expected a .safetensors file; pickled checkpoints are never read")
    header = read_header(file)
    shapes = header.shapes
    widths = {shape[-1] for key, shape in shapes.items() if key.startswith(_UNET) and "attn2.to_k.w" in key}
    layout = next((layout for layout in LAYOUTS if widths == {layout.text_width}), None)
    if _STEM not in shapes or layout is None:
        raise ValueError(f"{file}: {_found(shapes, widths)}; expected {EXPECTED}")
    if shapes[_STEM][1] != LATENT_CHANNELS:
        made_for = {9: "inpainting", 8: "editing images"}.get(shapes[_STEM][1], "another task")
        told = f"its U-Net reads {shapes[_STEM][1]} channels, as one for {made_for} does"
        raise ValueError(f"{file}: {told}; expected {EXPECTED}")
    needed = (_VAE, *layout.tokens)
    missing = [part for part in needed if not any(key.startswith(part) for key in shapes)]
    if missing:
        raise ValueError(f"{file}: is of {layout.name}, but holds no {' and no '.join(missing)} keys")
    return layout, header


def configs_of(layout: Layout) -> Path:
    """The folder with the configs of a layout's parts."""
    return CONFIGS / layout.configs


def choose_prediction(file: Path, layout: Layout, header: Header, asked: str | None) -> str:
    """What the U-Net predicts, one of PREDICTIONS: as asked, or as the file says, or as its layout does.

    Raises ValueError for an unknown one, and where nothing tells (SD 2.x comes in both kinds).
    """
    if asked is not None:
        if asked not in PREDICTIONS:
            raise ValueError(f"prediction {asked!r}: expected one of {', '.join(PREDICTIONS)}")
        return asked
    said = _SAYS.get(header.metadata.get("modelspec.prediction_type", ""))
    if _VELOCITY_KEY in header.shapes:
        said = "v_prediction"
    if said is None and layout.prediction is None:
        raise ValueError(
            f"{file}: is of {layout.name}, and does not say what it predicts; name it with --prediction: "
            "epsilon (2-base, 2-1-base, 512 pixels) or v_prediction (2, 2-1, 768 pixels)"
        )
    return said or str(layout.prediction)


def load_single_file(
    file: Path, tokenizer: Path | None, prediction: str | None, dtype: torch.dtype
) -> LatentShiftPipeline | LatentShiftXLPipeline:
    """The pipeline of a file, every part in `dtype`, on the CPU.

    Raises ValueError as `check_single_file` does, and for weights that are missing or do not fit.
    """
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    from latent_shift.pipeline import LatentShiftPipeline, LatentShiftXLPipeline

    layout, header = recognise(file)
    kind: Any = LatentShiftXLPipeline if len(layout.tokens) == 2 else LatentShiftPipeline
    configs = configs_of(layout)
    given = _tokenizers(file, layout, header, tokenizer, configs)
    given["scheduler"] = _scheduler(configs, header, choose_prediction(file, layout, header, prediction))
    try:
        pipeline = kind.from_single_file(
            str(file), config=str(configs), local_files_only=True, torch_dtype=dtype, **given
        )
    except (SingleFileComponentError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{file}: cannot be loaded: {' '.join(str(error).split())}") from error
    _check_whole(pipeline, file)
    if layout.prediction is None and given["scheduler"].config.prediction_type == "v_prediction":
        pipeline.unet.register_to_config(sample_size=96)  # the kind of SD 2.x that was trained at 768 pixels
    return pipeline


def _tokenizers(
    file: Path, layout: Layout, header: Header, tokenizer: Path | None, configs: Path
) -> dict[str, Any]:
    """A tokenizer for each text model, checked for the tokens that it knows, with its padding."""
    from transformers import CLIPTextConfig

    found = {}
    for suffix, key, padding in zip(("", "_2"), layout.tokens, layout.padding, strict=False):
        length = CLIPTextConfig.from_pretrained(configs / f"text_encoder{suffix}").max_position_embeddings
        made = load_tokenizer(tokenizer, padding=padding, length=length)
        known = header.shapes[key][0]
        if len(made) != known:
            raise ValueError(
                f"{tokenizer}: has {len(made)} tokens, but the text model in {file} knows {known}"
            )
        found[f"tokenizer{suffix}"] = made
    return found


def _scheduler(configs: Path, header: Header, prediction: str) -> Any:
    """The layout's scheduler, for what the U-Net predicts; of zero terminal SNR where the file says so."""
    import diffusers

    from latent_shift.checkpoints.folders import read_json

    config = read_json(configs / "scheduler" / "scheduler_config.json")
    changes: dict[str, Any] = {"prediction_type": prediction}
    if _ZERO_SNR_KEY in header.shapes:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return getattr(diffusers, config["_class_name"]).from_config({**config, **changes})


def _check_whole(pipeline: Any, file: Path) -> None:
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


def _found(shapes: dict[str, tuple[int, ...]], widths: set[int]) -> str:
    """What a file of no known layout holds, in words."""
    if not shapes:
        return "holds nothing"
    if any("lora" in key for key in shapes):
        return "is a LoRA file, to be loaded upon its base model (--lora)"
    if _STEM in shapes:
        told = f"text of width {', '.join(map(str, sorted(widths)))}" if widths else "no text"
        return f"holds a U-Net that reads {told}"
    if any(key.startswith(("down_blocks.", "encoder.down_blocks.")) for key in shapes):
        return "holds one part of a diffusers folder alone"
    first = sorted({key.split(".")[0] for key in shapes})
    return f"holds {len(shapes)} tensors under {', '.join(first[:5])}{', ...' if len(first) > 5 else ''}"
