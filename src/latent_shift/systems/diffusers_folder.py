"""A folder of a diffusers pipeline: found, checked before anything is loaded, the defaults of its call."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from latent_shift.documents import read_json_mapping
from latent_shift.hashes import remembered_sha256
from latent_shift.io import one_line, read_safetensors_header
from latent_shift.model_files import check_words, is_flow_matching, library_and_class
from latent_shift.model_weights import check_weights, load_whole, opened_files
from latent_shift.systems.base import RequestDefaults

_INDEX = "model_index.json"
_LIBRARIES = ("diffusers", "transformers")
_CHECKED = ("CLIP", "T5EncoderModel", "UMT5EncoderModel")  # text models whose files name weights as they do
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Names by which pipelines take a value of a request.
KEYWORDS = {
    "frames": ("num_frames", "video_length", "frames"),
    "fps": ("frame_rate", "fps"),
    "steps": ("num_inference_steps",),
    "guidance": ("guidance_scale",),
    "negative": ("negative_prompt",),
    "height": ("height",),
    "width": ("width",),
}
# Where neither pipeline nor files name a default; frames: of autoencoders that take one and a multiple of 8.
_FPS, _FRAMES, _SIDE, _STEPS = 8.0, 121, 512, 50
_FRAMES_OF_LATENTS = ("AllegroPipeline",)  # of which sample_frames are those of the latents


def find_folder(name: str | Path, download: bool) -> Path:
    """The checked folder of a pipeline; that of a hub id in the hub's cache."""
    from diffusers import DiffusionPipeline

    folder = Path(name)
    if not folder.is_dir():
        try:
            found = DiffusionPipeline.download(str(name), use_safetensors=True, local_files_only=not download)
        except (OSError, ValueError) as error:
            where = "the hub did not give it" if download else "the hub's cache does not hold it"
            raise ValueError(f"{name}: there is no such folder, and {where}: {one_line(error)}") from error
        folder = Path(found)
    _check_folder(folder)
    return folder


def _check_folder(folder: Path) -> None:
    """Raise ValueError for what needs remote code or a pickle, and for damaged files; reads headers only."""
    import diffusers
    from diffusers import pipelines

    index = read_json_mapping(folder / _INDEX)
    name = index.get("_class_name")
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (inspect.isclass(kind) and issubclass(kind, diffusers.DiffusionPipeline)):
        where = f"{folder / _INDEX}: _class_name {name!r}"
        raise ValueError(f"{where}: this version of diffusers has no such pipeline")
    taken = inspect.signature(kind.__call__).parameters
    for wanted in ("prompt", "generator"):
        if wanted not in taken:
            raise ValueError(
                f"{folder / _INDEX}: {name} takes no {wanted}, so it makes no clips of sentences"
            )
    needed = [
        one.name
        for one in taken.values()
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
        and one.name not in ("self", "prompt")
    ]  # fmt: skip
    if needed:
        raise ValueError(
            f"{folder / _INDEX}: {name} needs {', '.join(needed)}, which a sentence does not give; take a"
            " text-to-video pipeline"
        )
    for part in _components(index):
        library, component = library_and_class(folder, index, part)
        if library not in _LIBRARIES and not hasattr(pipelines, str(library)):
            raise ValueError(
                f"{folder / _INDEX}: {part} comes from {library!r}, and remote code is never run"
            )
        files = sorted(path for path in (folder / part).rglob("*") if path.is_file())
        if not files:
            raise ValueError(
                f"{folder / _INDEX}: names the part {part}, and there is no such folder; fetch it"
            )
        if "Tokenizer" in component:
            check_words(folder / part)
        for file in (one for one in files if one.name.endswith(("config.json", "tokenizer.json"))):
            read_json_mapping(file)
        weights = [file for file in files if file.suffix == ".safetensors"]
        pickles = [file for file in files if file.suffix in _PICKLES]
        if pickles and not weights:
            raise ValueError(f"{pickles[0]}: is a pickle, which is never read; convert it to safetensors")
        for file in weights:
            read_safetensors_header(file)
    _check_scheduler(folder, index, kind)


def _check_scheduler(folder: Path, index: dict[str, Any], pipeline: Any) -> None:
    """Raise ValueError where flow matching stands for a schedule of noise in a pipeline, or the reverse."""
    hint = inspect.signature(pipeline.__init__).parameters.get("scheduler")
    file = folder / "scheduler" / "scheduler_config.json"
    if hint is None or "scheduler" not in _components(index) or not file.is_file():
        return
    kind = library_and_class(folder, index, "scheduler")[1]
    is_named, expected = "FlowMatch" in kind, str(hint.annotation)
    is_flow = is_named or is_flow_matching({**read_json_mapping(file), "_class_name": kind})
    if ("Flow" in expected and not is_flow) or ("Flow" not in expected and is_named):
        family = "flow matching" if "Flow" in expected else "a schedule of noise"
        raise ValueError(
            f"{folder / _INDEX}: its scheduler is a {kind}; {index['_class_name']} samples by {family}"
        )


def check_networks(folder: Path) -> None:
    """Raise ValueError where a network lacks weights, or does not fit them, by configs and headers.

    Quantized ones, those without files, and text models that `load_texts` loads are left to the libraries.
    """
    for part, library, kind in _networks(folder):
        named = library == "diffusers" or kind.startswith(_CHECKED)
        if named and opened_files(folder / part):
            check_weights(folder / part, library, kind, variant_of(folder / part))


def load_texts(folder: Path, dtype: Any) -> dict[str, Any]:
    """Networks of transformers that files may name otherwise, by part. Errors of `load_whole`."""
    import transformers

    return {
        part: load_whole(
            getattr(transformers, kind), folder / part, dtype=dtype, variant=variant_of(folder / part)
        )
        for part, library, kind in _networks(folder)
        if library == "transformers" and not kind.startswith(_CHECKED)
    }


def _networks(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Part, library and class of the components with weights of floating-point numbers."""
    import diffusers
    import transformers
    from torch import nn

    libraries = {"diffusers": diffusers, "transformers": transformers}
    for part, (library, kind) in _components(read_json_mapping(folder / _INDEX)).items():
        network = getattr(libraries.get(str(library)), str(kind), None)
        is_network = inspect.isclass(network) and issubclass(network, nn.Module)
        if is_network and "quantization_config" not in read_json_mapping(folder / part / "config.json"):
            yield part, str(library), str(kind)


def variant_of(part: Path) -> str | None:
    """ "fp16" where a part, or a whole folder of parts, has no other weights."""
    files = list(part.rglob("*.safetensors"))
    return "fp16" if files and all(".fp16" in file.name for file in files) else None


def _components(index: Mapping[str, Any]) -> dict[str, list[str | None]]:
    """The components of a model_index.json that are there, as [library, class]."""
    return {
        name: value
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and value[0] is not None
    }


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the components."""
    index = read_json_mapping(folder / _INDEX)
    return sorted(file for part in _components(index) for file in (folder / part).rglob("*.safetensors"))


def digest_of(files: Sequence[Path], folder: Path) -> str:
    """Twelve digits of a SHA-256 over names and contents of files of a folder."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(folder).as_posix().encode() + bytes.fromhex(remembered_sha256(file)))
    return digest.hexdigest()[:12]


def read_defaults(folder: Path) -> RequestDefaults:
    """Defaults of the pipeline's call; where these are None, those of the denoiser's configuration."""
    import diffusers

    kind = getattr(diffusers, read_json_mapping(folder / _INDEX)["_class_name"])
    parameters = inspect.signature(kind.__call__).parameters
    denoiser, autoencoder = _config(folder, "transformer", "unet"), _config(folder, "vae")
    blocks = autoencoder.get("block_out_channels", [0] * 4)
    scale = autoencoder.get("scale_factor_spatial") or 2 ** (len(blocks) - 1)

    def own(name: str, *fallbacks: Any) -> Any:
        found = [parameters[one].default for one in KEYWORDS[name] if one in parameters]
        return next(value for value in (*found, *fallbacks) if value is not None)

    def side(name: str, index: int) -> int:
        latent = denoiser.get(f"sample_{name}") or denoiser.get("sample_size")
        latent = latent[index] if isinstance(latent, list) else latent
        return int(own(name, latent and latent * scale, _SIDE))

    is_video = any(one in parameters for one in KEYWORDS["frames"])
    frames = denoiser.get("sample_frames")
    if frames is not None and kind.__name__ in _FRAMES_OF_LATENTS:
        frames *= autoencoder.get("temporal_compression_ratio", 1)
    return RequestDefaults(
        frames=int(own("frames", frames, _FRAMES)) if is_video else 1,
        fps=float(own("fps", _FPS)),
        steps=int(own("steps", _STEPS)),
        guidance=float(own("guidance", 1.0)),
        height=side("height", 0),
        width=side("width", 1),
        size_multiple=1,  # the pipeline checks its own
    )


def _config(folder: Path, *parts: str) -> dict[str, Any]:
    files = [folder / part / "config.json" for part in parts]
    return next((read_json_mapping(file) for file in files if file.is_file()), {})
