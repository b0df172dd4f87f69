"""Any text-to-video pipeline of diffusers with any checkpoint, for sampling, evaluation and cost.

Loaded by `DiffusionPipeline.from_pretrained` from safetensors only, without remote code. The call gets those
values of a request that differ from the pipeline's own defaults. It cannot be trained here.

    system = systems.load("diffusers_pipeline:THUDM/CogVideoX-2b", dtype="bf16", download=True)
    system = systems.load("diffusers_pipeline:models/animatediff")
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from latent_shift.checkpoints import choose_device, choose_dtype
from latent_shift.io import is_out_of_memory, one_line, write_json
from latent_shift.systems.base import (
    SYSTEM_FILE,
    GenerationRequest,
    Parameters,
    RequestDefaults,
    Stage,
    SystemInfo,
    TextToVideoSystem,
    TrainingPlan,
    model_card_licence,
)
from latent_shift.systems.batch import advice_on_memory, check_batch
from latent_shift.systems.diffusers_folder import (
    KEYWORDS,
    check_networks,
    digest_of,
    find_folder,
    load_texts,
    read_defaults,
    variant_of,
    weight_files,
)

if TYPE_CHECKING:
    from latent_shift.systems.base import Clips

# Parts of the names of parameters that a video U-Net has and its image model has not.
_TEMPORAL = ("motion_modules", "temp_convs", "temp_attentions", "transformer_in")
_COPIED = ("motion_adapter",)  # components with weights that another one has a copy of


class DiffusersPipeline(TextToVideoSystem):
    """A loaded pipeline of diffusers."""

    name: ClassVar[str] = "diffusers_pipeline"

    def __init__(self, pipeline: Any, folder: Path) -> None:
        """Wrap a pipeline loaded from `folder`."""
        self.pipeline, self._folder = pipeline, folder
        self._parameters = inspect.signature(type(pipeline).__call__).parameters
        self._stopped_by: BaseException | None = None  # what a caller's report of steps has raised
        pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def inspect(
        cls, path: str | Path, *, loras: Sequence[str] = (), download: bool = False
    ) -> RequestDefaults:
        """Check the files and read the defaults of the pipeline's call. Options as of `load`."""
        if loras:
            raise ValueError(
                f"loras {', '.join(loras)}: {cls.name} takes none; fuse them into the model first"
            )
        return read_defaults(find_folder(path, download))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        loras: Sequence[str] = (),
        download: bool = False,
    ) -> Self:
        """Load a pipeline, ready to generate.

        Args:
            path: a folder with model_index.json, or a hub id (org/name).
            device: one of `checkpoints.DEVICES`.
            dtype: one of `checkpoints.DTYPES`, of all networks.
            loras: must be empty.
            download: whether a hub id may be fetched; else it has to be in the hub's cache.

        Raises:
            ValueError: for a folder that is no pipeline, weights that are no safetensors, components that
                need remote code, parts that do not fit together, and a device that is not there.
        """
        from diffusers import DiffusionPipeline

        cls.inspect(path, loras=loras, download=download)
        folder, on = find_folder(path, download=False), choose_device(device)
        check_networks(folder)
        precision = choose_dtype(dtype, on)
        texts = load_texts(folder, precision)
        try:
            pipeline = DiffusionPipeline.from_pretrained(
                str(folder), dtype=precision, variant=variant_of(folder),
                use_safetensors=True, local_files_only=True, **texts,
            ).to(on)  # fmt: skip
        except (OSError, ValueError, RuntimeError, TypeError, LookupError, ImportError) as error:
            raise ValueError(f"{path}: cannot be loaded: {one_line(error)}") from error
        return cls(pipeline, folder)

    def save(self, folder: Path) -> None:
        """Save a folder that stock diffusers opens, with `system.json`."""
        self.pipeline.save_pretrained(folder, safe_serialization=True)
        write_json(Path(folder) / SYSTEM_FILE, {"system": self.name})

    @classmethod
    def stages(cls, plan: TrainingPlan) -> list[Stage]:
        """Nothing: such pipelines are not trained here."""
        return []

    def generate(
        self, requests: Sequence[GenerationRequest], on_step: Callable[[int, int], None] | None = None
    ) -> Clips:
        """Make one clip a request: uint8 (B, F, H, W, 3). See `TextToVideoSystem.generate`.

        Requests go one by one through a pipeline that takes no list of prompts or of generators.
        """
        import numpy as np

        check_batch(requests)
        options = self._options(requests[0])
        size = len(requests) if self._takes_lists else 1
        made = []
        with advice_on_memory(size):
            for start in range(0, len(requests), size):
                part = requests[start : start + size]
                listener = self._listener(on_step, start // size, -(-len(requests) // size))
                made.append(self._call(part, {**options, **listener}))
        clips = np.concatenate(made)
        frames, wanted = clips.shape[1], requests[0].frames
        if wanted not in (None, frames):
            raise ValueError(f"frames {wanted}: this model made {frames}; give a number that it can make")
        return clips

    def reconstruct(self, clips: Clips) -> Clips | None:
        """Encode and decode clips by the autoencoder of images; None for pipelines with another kind."""
        import numpy as np
        import torch
        from diffusers import AutoencoderKL

        from latent_shift.autoencoder import reconstruct_frames

        vae = getattr(self.pipeline, "vae", None)
        if not isinstance(vae, AutoencoderKL):
            return None
        return np.stack([reconstruct_frames(vae, torch.from_numpy(clip)).cpu().numpy() for clip in clips])

    def parameters(self) -> Parameters:
        """Count the parameters by component; none is trained.

        temporal: those of layers for time in the U-Nets of diffusers; 0 for transformers, which have no image
        model of their own.
        """
        parts = {name: list(module.named_parameters()) for name, module in self._networks.items()}
        temporal = [
            parameter.numel()
            for named in parts.values()
            for name, parameter in named
            if any(piece in name for piece in _TEMPORAL)
        ]
        counted = {name: sum(tensor.numel() for _, tensor in named) for name, named in parts.items()}
        return Parameters(counted, trained=0, temporal=sum(temporal))

    def info(self) -> SystemInfo:
        """Facts of the loaded pipeline; settings: its class and its scheduler."""
        scheduler = getattr(self.pipeline, "scheduler", None)
        return SystemInfo(
            system=self.name,
            defaults=self._defaults,
            dtype=str(self.pipeline.dtype).removeprefix("torch."),
            device=self.pipeline.device.type,
            weights=self._weights,
            config=digest_of(sorted(self._folder.rglob("*.json")), self._folder),
            settings={"pipeline": type(self.pipeline).__name__, "scheduler": type(scheduler).__name__},
            licence=model_card_licence(self._folder / "README.md"),
        )

    @cached_property
    def _defaults(self) -> RequestDefaults:
        return read_defaults(self._folder)

    @cached_property
    def _weights(self) -> str:
        return digest_of(weight_files(self._folder), self._folder)

    @property
    def _networks(self) -> dict[str, Any]:
        from torch import nn

        components: Mapping[str, Any] = self.pipeline.components
        return {
            name: part
            for name, part in components.items()
            if isinstance(part, nn.Module) and name not in _COPIED
        }

    @property
    def _frame_period(self) -> int:
        """A clip has a multiple of so many frames, and one."""
        names = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")
        return max(getattr(self.pipeline, name, 1) for name in names)

    @property
    def _takes_lists(self) -> bool:
        """Whether one call makes several clips, each with a generator of its own."""
        taken = [str(self._parameters[name].annotation) for name in ("prompt", "generator")]
        return all("list" in annotation.lower() for annotation in taken)

    def _options(self, request: GenerationRequest) -> dict[str, Any]:
        """Keywords of the call for what a request changes of the defaults.

        Raises ValueError for a changed value that the pipeline does not take.
        """
        own, options = vars(self._defaults), {}
        for name, keywords in KEYWORDS.items():
            value = getattr(request, name)
            keyword = next((one for one in keywords if one in self._parameters), None)
            # Of frames the pipeline may take another number for None than its files say.
            open_ = name == "frames" and keyword is not None and self._parameters[keyword].default is None
            if value is None or (value == own.get(name) and not open_):
                continue
            if keyword is None and name != "fps":  # only how fast a clip is played
                raise ValueError(f"{name} {value}: {type(self.pipeline).__name__} takes no {keywords[0]}")
            if keyword is not None:
                options[keyword] = value
        period = self._frame_period
        if request.frames is not None and request.frames != own["frames"] and (request.frames - 1) % period:
            lower = (request.frames - 1) // period * period + 1
            raise ValueError(
                f"frames {request.frames}: this model makes 1, {1 + period}, {1 + 2 * period} ...;"
                f" for example {lower} or {lower + period}"
            )
        return options

    def _call(self, requests: Sequence[GenerationRequest], options: dict[str, Any]) -> Clips:
        from latent_shift.rng import clip_generator

        prompts: Any = [request.prompt for request in requests]
        generators: Any = [clip_generator(request.seed) for request in requests]
        if "negative_prompt" in options:
            options = {**options, "negative_prompt": [request.negative or "" for request in requests]}
        if not self._takes_lists:
            prompts, generators = prompts[0], generators[0]
            options = {key: value[0] if key == "negative_prompt" else value for key, value in options.items()}
        if "output_type" in self._parameters:
            options = {**options, "output_type": "np"}
        try:
            result = self.pipeline(prompt=prompts, generator=generators, **options)
        except (RuntimeError, TypeError, LookupError, AttributeError) as error:
            if is_out_of_memory(error) or error is self._stopped_by:
                raise
            kind = type(self.pipeline).__name__
            raise ValueError(f"{kind} cannot make {_described(requests[0])}: {one_line(error)}") from error
        frames = getattr(result, "frames", None)
        made = to_uint8(result.images if frames is None else frames)
        if made.ndim == 4:  # images, one a request; or the frames of a single clip
            made = made[:, None] if len(made) == len(requests) else made[None]
        return made

    def _listener(self, on_step: Callable[[int, int], None] | None, call: int, calls: int) -> dict[str, Any]:
        """Keywords that make the pipeline report its steps, as those of one of several calls."""
        if on_step is None:
            return {}
        report = on_step

        def step_ended(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            steps = len(pipeline.scheduler.timesteps)
            try:
                report(call * steps + step + 1, calls * steps)
            except BaseException as error:
                self._stopped_by = error
                raise
            return {}

        if "callback_on_step_end" in self._parameters:
            return {"callback_on_step_end": step_ended}
        if "callback" in self._parameters:
            return {"callback": lambda step, time, latents: step_ended(self.pipeline, step, time, {})}
        return {}


def _described(request: GenerationRequest) -> str:
    """A request as a message names it."""
    values = {
        "frames": request.frames,
        "steps": request.steps,
        "height": request.height,
        "width": request.width,
    }
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None) or "a clip"


def to_uint8(frames: Any) -> Clips:
    """Frames as diffusers returns them, as uint8: (B, F, H, W, 3) or, of images, (B, H, W, 3).

    frames: PIL images in (nested) lists, numpy arrays (..., H, W, 3) or tensors (..., 3, H, W), these with
    values from 0 to 1 or of 8 bits. Raises ValueError for values that are not finite.
    """
    import numpy as np
    import torch

    if isinstance(frames, list):
        # PIL images or single frames are stacked; lists are clips, each of which is.
        return np.stack([np.asarray(one) if hasattr(one, "getbbox") else to_uint8(one) for one in frames])
    if isinstance(frames, torch.Tensor):
        frames = (frames.float() if frames.is_floating_point() else frames).cpu().movedim(-3, -1).numpy()
    array = np.asarray(frames)
    if array.dtype == np.uint8:
        return array
    if not np.isfinite(array).all():
        raise ValueError("the model made values that are not finite; try the dtype fp32")
    return (array.clip(0, 1) * 255).round().astype(np.uint8)
