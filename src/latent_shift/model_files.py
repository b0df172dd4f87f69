"""Whether the parts of a model's folder fit each other and are whole, by their configs and headers.

A part made for another task, a scheduler of another family or a weight that is missing would be met in the
middle of the work, or never. `check_parts` reads the small configs, `model_weights.check_weights` the headers
of a part's files. Neither reads a weight.

    check_model(folder)                             # all of it
    check_parts(folder)                             # needs no torch
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latent_shift.documents import read_json_mapping
from latent_shift.io import one_line
from latent_shift.model_weights import check_weights, opened_files

INDEX = "model_index.json"
SYSTEM_FILE = "system.json"  # names the system of a model that is not `latent_shift`'s: {"system": NAME}
OTHER_TASKS = {9: "inpainting", 8: "editing images", 7: "enlarging images", 5: "depth maps"}  # by in_channels
SCHEDULER_CLASSES = (
    "DDIMParallelScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDPMScheduler",
    "DEISMultistepScheduler", "DPMSolverMultistepScheduler", "SASolverScheduler",
    "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler", "LCMScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "TCDScheduler",
    "UniPCMultistepScheduler",
)  # fmt: skip
_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_TEXT_PARTS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
_CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
_MAX_TIMESTEPS = 100_000
_MAX_LENGTH = 512  # tokens of a prompt, of a text encoder without a number of its own
_STATES = ("Model", "ModelWithProjection")  # ends of the names of classes that give a state per token
_WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2", "image_encoder", "safety_checker")
_LORA_FILE = "adapter_config.json"  # of LoRA layers without the text encoder that they belong to
_NUMBERS = {  # whole numbers of a part's config
    "unet": ("in_channels", "out_channels", "addition_time_embed_dim"),
    "vae": ("latent_channels",),
    "text_encoder": ("vocab_size", "max_position_embeddings", "hidden_size", "d_model", "projection_dim"),
}
_OF_BYTES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")  # tokenizers without words
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "*.model",
)  # of a tokenizer


def model_of_run(folder: Path) -> Path:
    """The model in the folder of a run that made one (`model/` there); any other folder as it is.

    Raises ValueError for a training that has not ended.
    """
    if not any((folder / file).is_file() for file in (INDEX, SYSTEM_FILE)):
        model = folder / "model"
        if any((model / file).is_file() for file in (INDEX, SYSTEM_FILE)):
            return model
        if (folder / "recipe.json").is_file() and (folder / "checkpoints").is_dir():
            raise ValueError(f"{folder}: is a run that has made no model yet; resume its training to its end")
    return folder


def check_model(folder: Path, given: Collection[str] = (), variant: str | None = None) -> None:
    """Raise ValueError where parts of a model's folder lack weights or cannot work together.

    given: parts that come from elsewhere. variant: of the files, "fp16" or such. LoRA layers in the place of
    a text encoder are left to the library that opens them.
    """
    index = read_json_mapping(folder / INDEX)
    configs = [*folder.glob("*/config.json"), *folder.glob("scheduler/scheduler_config.json")]
    parts = {file.parent.name for file in configs} & (index.keys() - set(given))
    parts = {name for name in parts if isinstance(index[name], list) and any(index[name])}
    needed = {"unet", "vae", "text_encoder", "scheduler"} | ({"text_encoder_2"} & index.keys())
    named = {name for name in needed & index.keys() - set(given) if isinstance(index[name], list)}
    for part in sorted(name for name in named - parts if any(index[name])):
        if not (folder / part / _LORA_FILE).is_file():
            raise ValueError(f"{folder / part}: is missing, or has no config; fetch the model again")
    if needed <= parts:
        check_parts(folder)
    for part in (part for part in _WEIGHTED if part in parts):
        if opened_files(folder / part, variant):
            check_weights(folder / part, *library_and_class(folder, index, part), variant)
        elif part in needed:
            raise ValueError(f"{folder / part}: has no .safetensors file; expected its weights")


def check_parts(folder: Path) -> None:
    """Raise ValueError, naming part and key, where the parts of a model's folder cannot work together."""
    index = read_json_mapping(folder / INDEX)
    is_xl = "text_encoder_2" in index
    for part in (part for part in _WEIGHTED if (folder / part / "config.json").is_file()):
        file = folder / part / "config.json"
        config = read_json_mapping(file)
        for name in _NUMBERS.get(part.removesuffix("_2"), ()):
            value = config.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{file}: {name} is {str(value)[:80]!r}; expected a whole number above 0")
        if quantized := config.get("quantization_config"):
            how = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
            raise ValueError(f"{file}: its weights are quantized ({how}); expected floating-point weights")
    texts = []
    for part, tokenizer in list(_TEXT_PARTS.items())[: 1 + is_xl]:
        library, kind = library_and_class(folder, index, part)
        config = read_json_mapping(folder / part / "config.json")
        known = _CLIP[1:] if part == "text_encoder_2" else _CLIP
        if problem := _text_encoder_problem(library, kind, config, known, is_xl=is_xl):
            raise ValueError(f"{folder}: its {part} is a {problem}")
        texts.append(config)
        if (folder / tokenizer).is_dir():
            check_words(folder / tokenizer, config if kind in _CLIP else None)
            longest = 77 if kind in _CLIP else _MAX_LENGTH
            _check_length(folder / tokenizer, config.get("max_position_embeddings") or longest)
    vae = read_json_mapping(folder / "vae" / "config.json")
    if problem := _autoencoder_problem(vae):
        raise ValueError(f"{folder / 'vae' / 'config.json'}: {problem}")
    problem = _unet_problem(read_json_mapping(folder / "unet" / "config.json"), vae, texts)
    if problem is not None:
        raise ValueError(f"{folder}: cannot be loaded: {problem}")
    file = folder / "scheduler" / "scheduler_config.json"
    if problem := scheduler_problem(read_json_mapping(file)):
        raise ValueError(f"{file}: {problem}")


def library_and_class(folder: Path, index: dict[str, Any], part: str) -> tuple[str, str]:
    """Library and class of a part, by the folder's index. Raises ValueError for anything else."""
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(one, str) for one in entry):
        raise ValueError(f"{folder / INDEX}: {part} is {entry!r}; expected its library and class")
    return entry[0], entry[1]


@contextmanager
def tokenizer_errors(folder: str | Path) -> Iterator[None]:
    """Within the `with` block, a tokenizer that cannot be read is a ValueError that names its folder.

    tokenizers raises a plain Exception, for files of later releases, too.
    """
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise ValueError(f"{folder}: its tokenizer cannot be loaded: {one_line(error)}") from error


def check_words(part: Path, text: dict[str, Any] | None = None) -> None:
    """Raise ValueError where a tokenizer has no words, or more of them than its text encoder reads.

    text: configuration of CLIP's text encoder; None of another, where words are counted otherwise.
    """
    config = part / "tokenizer_config.json"
    kind = read_json_mapping(config).get("tokenizer_class") if config.is_file() else None
    held = any(file.is_file() for name in _VOCABULARIES for file in part.glob(name))
    if not held and kind not in _OF_BYTES:
        raise ValueError(
            f"{part}: has neither tokenizer.json nor vocab.json, and so no words; fetch it again"
        )
    whole, words = part / "tokenizer.json", part / "vocab.json"
    if text is None or not (whole.is_file() or words.is_file()):
        return
    content = read_json_mapping(whole if whole.is_file() else words)
    model = content.get("model") if whole.is_file() else {"vocab": content}
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not all(isinstance(one, int) for one in vocabulary.values()):
        raise ValueError(f"{whole if whole.is_file() else words}: has no numbered words; fetch it again")
    numbers = [*vocabulary.values(), *_added_words(part, content if whole.is_file() else {})]
    last, known = max(numbers, default=-1), text.get("vocab_size", 49408)
    if not 0 <= last < known:
        raise ValueError(
            f"{part}: its words have numbers up to {last}, the text encoder knows {known} of them"
        )


def _added_words(part: Path, content: dict[str, Any]) -> list[int]:
    """Numbers of the words that were added to a tokenizer, as by textual inversion, wherever they stand."""
    added = content.get("added_tokens")
    listed = added if isinstance(added, list) else []
    found: list[Any] = [one.get("id") for one in listed if isinstance(one, dict)]
    if (part / "added_tokens.json").is_file():
        found += read_json_mapping(part / "added_tokens.json").values()
    return [number for number in found if isinstance(number, int)]


def _check_length(part: Path, positions: int) -> None:
    """Raise ValueError where a tokenizer pads to more tokens than its text encoder has positions."""
    file = part / "tokenizer_config.json"
    length = read_json_mapping(file).get("model_max_length")
    if not isinstance(length, int) or not 1 < length <= positions:
        raise ValueError(f"{file}: model_max_length is {length}; expected the text encoder's {positions}")


def _text_encoder_problem(
    library: str, kind: str, config: dict[str, Any], known: Collection[str], *, is_xl: bool
) -> str | None:
    """Return what a text encoder is, and why it cannot be used; None where it gives a state per token.

    SDXL's layout reads the pooled states of its second, CLIP's with a projection, too; Stable Diffusion's any
    text model of transformers. known: classes of CLIP that serve.
    """
    if kind in known:
        return None
    own = (config.get("architectures") or ["CLIPTextModel"])[0]
    if is_xl or kind != own:
        return f"{kind}; expected {' or '.join(known) if is_xl else own}"
    if library != "transformers" or not kind.endswith(_STATES):
        return f"{kind} of {library}; expected a model of transformers that gives a state per token"
    return None


def text_width(config: dict[str, Any]) -> int:
    """Width of a text encoder's states, by its configuration."""
    return int(config.get("hidden_size") or config.get("d_model") or 512)


def _unet_problem(unet: dict[str, Any], vae: dict[str, Any], texts: list[dict[str, Any]]) -> str | None:
    """Return why a U-Net cannot be called with latents, timestep and text (SDXL: and sizes) only."""
    kind, channels = unet.get("_class_name"), vae.get("latent_channels", 4)
    if kind not in (None, "UNet2DConditionModel"):
        return f"its U-Net is a {kind}; expected UNet2DConditionModel"
    for name, verb in (("in_channels", "reads"), ("out_channels", "gives")):
        if unet.get(name, 4) != channels:
            task = OTHER_TASKS.get(unet.get("in_channels", 4), "another task")
            return (
                f"its U-Net {verb} {unet.get(name, 4)} channels, as one for {task} does;"
                f" expected {channels}, the autoencoder's latent_channels"
            )
    hidden = unet.get("encoder_hid_dim_type")
    added, is_xl = unet.get("addition_embed_type"), len(texts) > 1
    expected = ("text_time",) if is_xl else (None, "text")
    conditions = {
        "encoder_hid_dim_type": (hidden, (None, "text_proj")),
        "addition_embed_type": (added, expected),
        "class_embed_type": (unet.get("class_embed_type"), (None,)),
        "num_class_embeds": (unet.get("num_class_embeds"), (None,)),
    }
    for name, (value, known) in conditions.items():
        if value not in known:
            reads = "the sizes of SDXL's layout" if is_xl else "text only"
            wanted = " or ".join("null" if one is None else one for one in known)
            return f"its U-Net's {name} is {value}, but the condition here is {reads}: expected {wanted}"
    widths: dict[str, tuple[Any, int]] = {}
    width_of_texts = sum(map(text_width, texts))
    name = "cross_attention_dim" if hidden is None else "encoder_hid_dim"
    if isinstance(unet.get(name), int):
        widths[name] = (unet[name], width_of_texts)
    if is_xl:
        name = "projection_class_embeddings_input_dim"
        sizes = 6 * (unet.get("addition_time_embed_dim") or 0)
        widths[name] = (unet.get(name), sizes + texts[1].get("projection_dim", 512))
    for name, (value, width) in widths.items():
        if value != width:
            return f"its U-Net's {name} is {value}, but the text that it would read is of width {width}"
    return None


def _autoencoder_problem(vae: dict[str, Any]) -> str | None:
    """Return why latents cannot be scaled as an autoencoder's config says; None where they can."""
    scale, channels = vae.get("scaling_factor", 0.18215), vae.get("latent_channels", 4)
    if not _is_number(scale) or scale <= 0:
        return f"scaling_factor is {scale!r}; expected a number above 0"
    for name in ("latents_mean", "latents_std"):
        values = vae.get(name)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != channels or not all(map(_is_number, values)):
            return f"{name} is {str(values)[:80]}; expected {channels} numbers, one a latent channel"
        if name == "latents_std" and min(values) <= 0:
            return f"{name} is {str(values)[:80]}; expected numbers above 0"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def scheduler_problem(config: dict[str, Any]) -> str | None:
    """Return why a scheduler cannot sample a model of noise or velocity by betas; None where it can."""
    kind, prediction = config.get("_class_name"), config.get("prediction_type", "epsilon")
    if kind not in SCHEDULER_CLASSES or is_flow_matching(config) or prediction not in _PREDICTIONS:
        flow = " (flow matching)" if is_flow_matching(config) else ""
        return (
            f"{kind} with prediction_type {prediction} is a scheduler of another family{flow};"
            f" expected one of {', '.join(SCHEDULER_CLASSES)} with {', '.join(_PREDICTIONS)}"
        )
    steps, betas = config.get("num_train_timesteps", 1000), config.get("trained_betas")
    if not isinstance(steps, int) or not 1 <= steps <= _MAX_TIMESTEPS:
        return f"gives no noise schedule: num_train_timesteps is {steps!r}; expected 1 to {_MAX_TIMESTEPS}"
    if betas is not None and (not isinstance(betas, list) or len(betas) != steps):
        held = f"{len(betas)} of them" if isinstance(betas, list) else "none"
        return f"gives no noise schedule: trained_betas should be {steps} numbers, it holds {held}"
    if (
        config.get("rescale_betas_zero_snr") and prediction == "epsilon"
        and config.get("timestep_spacing") in ("trailing", "linspace")
    ):  # fmt: skip
        return (
            "its first step begins at pure noise (rescale_betas_zero_snr), of which a model of epsilon says"
            " nothing; expected prediction_type v_prediction, or rescale_betas_zero_snr false"
        )
    return None


def is_flow_matching(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration is one of flow matching."""
    names = f"{config.get('_class_name')} {config.get('prediction_type')}".lower()
    return "flow" in names or bool(config.get("use_flow_sigmas"))
