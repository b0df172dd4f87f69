"""Clips of an image model without training: in every self-attention all frames read the first one.

All frames start from the same noise, and keys and values are the first frame's, as in Text2Video-Zero (arXiv
2303.13439), or the first and the previous frame's, as in Tune-A-Video (arXiv 2212.11565). By that the frames
agree, and nothing moves. `warp` is the other half of Text2Video-Zero, its one motion for all prompts: early
in sampling the latents of later frames are moved by a constant flow and noised again. Not in here: its
smoothing of the background, which needs a detector of the foreground. Where a U-Net has attention in its
middle only, as the small one of Moving Shapes, frames hardly influence each other.

    system = systems.load(f"first_frame:{image_model}")
    system.options = FirstFrameOptions(warp=(12, 0))
    system.save(folder)                                 # a folder that `systems.load` opens

Shapes: B clips, F frames, C latent channels, h x w latent pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from pydantic import TypeAdapter, ValidationError
from torch import Generator, Tensor
from torch.nn import functional

from latent_shift.documents import read_json_mapping, validation_error
from latent_shift.io import write_json
from latent_shift.model_files import SYSTEM_FILE
from latent_shift.rng import step_seed
from latent_shift.systems.base import (
    GenerationRequest,
    Parameters,
    RequestDefaults,
    Stage,
    TrainingPlan,
    recipe_stages,
)
from latent_shift.systems.latent_shift import TRAINED_ON, LatentShift
from latent_shift.video_config import VideoConfig

_LAYERS = ("attn1.processor", "attn2.processor")  # of a transformer block: on the frame itself, on the text
_WARPED, _NOISED_TO = 0.12, 0.06  # parts of the steps: 44 and 47 of 50 are left then, as in the paper
_DRAWING = ("DDPM", "Ancestral", "LCM", "TCD", "SDE")  # in names of schedulers that draw noise at each step


@dataclass(frozen=True)
class FirstFrameOptions:
    """Settings of the system, kept in a folder's `system.json`.

    previous_frame: whether each frame reads the previous one, too. warp: pixels to the right and down that
    all things move a frame (the paper: 12 at 512 pixels), None: not at all.
    """

    previous_frame: bool = False
    warp: tuple[float, float] | None = None

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}  # an unknown key of a file is an error


class FirstFrameAttention:
    """Attention processor: the stock one, with keys and values of a clip's first (and previous) frame."""

    mixes_frames = True  # so that a clip does not pass in blocks of frames

    def __init__(self, stock: Any) -> None:
        self.stock, self.num_frames, self.previous_frame = stock, 1, False

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **others: Any
    ) -> Tensor:
        """Attend from hidden_states (B*F, h*w, C), for the layer attn; as the stock one on single frames.

        encoder_hidden_states: None in self-attentions. others: for the stock processor.
        """
        if self.num_frames > 1 and encoder_hidden_states is None:
            clips = hidden_states.unflatten(0, (-1, self.num_frames))
            read = clips[:, :1].expand_as(clips)
            if self.previous_frame:
                read = torch.cat([read, torch.cat([clips[:, :1], clips[:, :-1]], dim=1)], dim=2)
            encoder_hidden_states = read.flatten(0, 1)
        out: Tensor = self.stock(attn, hidden_states, encoder_hidden_states, **others)
        return out


class FirstFrame(LatentShift):
    """A loaded image model that makes clips by cross-frame attention; `options` may be set."""

    name: ClassVar[str] = "first_frame"
    loops: ClassVar[bool] = False

    def __init__(self, pipeline: Any, path: Path, **loaded_with: Any) -> None:
        """Wrap a pipeline loaded from `path`, with the options of its folder.

        A U-Net without self-attention is left as it is: its frames do not influence each other. Raises
        ValueError for one with attention of another kind.
        loaded_with: as of `LatentShift`.
        """
        super().__init__(pipeline, path, **loaded_with)
        self.options = _read_options(path)
        self._image_config: VideoConfig = pipeline.video_config
        pipeline.video_config = self._clip_config()
        unknown = [name for name in pipeline.unet.attn_processors if not name.endswith(_LAYERS)]
        if unknown:
            raise ValueError(
                f"{path}: its U-Net has attention outside of transformer blocks, as {unknown[0]}, which does"
                " not read another frame; first_frame takes U-Nets of CrossAttn blocks"
            )
        processors = {
            name: FirstFrameAttention(stock) if name.endswith("attn1.processor") else stock
            for name, stock in pipeline.unet.attn_processors.items()
        }
        pipeline.unet.set_attn_processor(dict(processors))
        self._attention = [one for one in processors.values() if isinstance(one, FirstFrameAttention)]

    def _clip_config(self) -> VideoConfig:
        """The image model's settings, without what would make a clip's frames differ."""
        alike = {"shift": None, "frame_position_embedding": False, "append_fps_to_caption": False, "eta": 0.0}
        return self._image_config.model_copy(
            update={"video_tuned": True, "num_frames": self._defaults.frames, **alike}
        )

    @classmethod
    def inspect(
        cls,
        path: str | Path,
        *,
        loras: Sequence[str] = (),
        tokenizer: str | Path | None = None,
        prediction_type: str | None = None,
        scheduler: str | None = None,
    ) -> RequestDefaults:
        """See `LatentShift.inspect`; an image model makes clips of 16 frames here.

        path, loras, tokenizer, prediction_type, scheduler: as of `LatentShift.load`.
        """
        _read_options(Path(path))
        own = super().inspect(
            path, loras=loras, tokenizer=tokenizer, prediction_type=prediction_type, scheduler=scheduler
        )
        return _for_clips(own)

    @cached_property
    def _defaults(self) -> RequestDefaults:
        return _for_clips(super()._defaults)

    @property
    def _config(self) -> str:  # type: ignore[override]
        text = super()._config + str(self.options)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @classmethod
    def stages(cls, plan: TrainingPlan) -> list[Stage]:
        """Those of the image model that the latent systems share, latent-*.yaml."""
        return recipe_stages(plan, "latent-*", TRAINED_ON)

    def save(self, folder: Path) -> None:
        """Save the image model, as it was, and the options. Raises ValueError with LoRA attached."""
        self.pipeline.video_config = self._image_config
        try:
            super().save(folder)
        finally:
            self.pipeline.video_config = self._clip_config()
        write_json(Path(folder) / SYSTEM_FILE, {"system": self.name, **asdict(self.options)})

    def parameters(self) -> Parameters:
        """Count the parameters; none is trained on clips."""
        return replace(super().parameters(), trained=0)

    def _sample(self, requests: Sequence[GenerationRequest], **call: Any) -> Any:
        frames = requests[0].frames or self._defaults.frames
        if frames == 1:
            return super()._sample(requests, **call)
        self._check_scheduler()
        noise = self._noise(requests[0], call["generator"])  # (B, 1, C, h, w)
        if self.options.warp is not None:
            call["callback_on_step_end"] = self._warp_callback(requests, noise, frames, call)
        with self._reading_first_frame(frames):
            return super()._sample(requests, **{**call, "latents": noise.expand(-1, frames, -1, -1, -1)})

    def _check_scheduler(self) -> None:
        """Raise ValueError for a scheduler that draws noise of its own for each frame at each step."""
        scheduler = self.pipeline.scheduler
        name = type(scheduler).__name__
        if any(part in name for part in _DRAWING) or "sde" in scheduler.config.get("algorithm_type", ""):
            raise ValueError(
                f"the scheduler {name} draws noise for each frame at each step, and first_frame's frames are"
                " to have the same; use ddim, dpm++, euler or unipc (--scheduler)"
            )

    def _noise(self, request: GenerationRequest, generators: list[Generator]) -> Tensor:
        """Noise (B, 1, C, h, w) as the image model draws it for one image a generator."""
        pipeline, own = self.pipeline, self._defaults
        size = (request.height or own.height, request.width or own.width)
        latent = [side // pipeline.vae_scale_factor for side in size]
        shape = (len(generators), pipeline.unet.config.in_channels, *latent)
        return randn_tensor(shape, generators, torch.device("cpu"), pipeline.unet.dtype)[:, None]

    @contextmanager
    def _reading_first_frame(self, frames: int) -> Iterator[None]:
        for attention in self._attention:
            attention.num_frames, attention.previous_frame = frames, self.options.previous_frame
        try:
            yield
        finally:
            for attention in self._attention:
                attention.num_frames = 1

    def _warp_callback(
        self, requests: Sequence[GenerationRequest], noise: Tensor, frames: int, call: dict[str, Any]
    ) -> Callable[..., dict[str, Any]]:
        """Callback of the clips' denoising that gives the later frames warped and renoised latents.

        The first frame is denoised by itself until so little noise is left that the flow shows, and its
        latents are moved for each later frame; at a noisier step of the clips, these take their places.
        """
        scheduler, steps = self.pipeline.scheduler, requests[0].steps or self._defaults.steps
        if not isinstance(scheduler, DDIMScheduler):
            raise ValueError(f"warp: not with the scheduler {type(scheduler).__name__}; use ddim")
        noised_to = max(1, round(_NOISED_TO * steps))
        warped = max(noised_to + 1, round(_WARPED * steps))
        if warped >= steps:
            raise ValueError(f"warp: takes more than {steps} steps; use 3 or more")

        def stop(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            pipeline._interrupt = step + 1 == warped
            return {}

        own = {"num_frames": 1, "latents": noise, "output_type": "latent", "callback_on_step_end": stop}
        first = super()._sample(requests, **{**call, **own})  # (B, 1, C, h, w)
        less, more = (scheduler.alphas_cumprod[scheduler.timesteps[done]] for done in (warped, noised_to))
        kept = (more / less).to(first)  # of the variance of the signal, back to the noisier step
        flow = torch.tensor(self.options.warp) / self.pipeline.vae_scale_factor
        moved = warped_copies(first[:, 0], frames, flow)
        fresh = _fresh_noise(moved, [generator.initial_seed() for generator in call["generator"]])
        later = (kept.sqrt() * moved + (1 - kept).sqrt() * fresh)[:, 1:]
        step_ended = call["callback_on_step_end"]

        def exchange(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            step_ended(pipeline, step, timestep, tensors)
            if step + 1 != noised_to:
                return {}
            clips = tensors["latents"].unflatten(0, (-1, frames))
            return {"latents": torch.cat([clips[:, :1], later], dim=1).flatten(0, 1)}

        return exchange


def warped_copies(latents: Tensor, frames: int, flow: Tensor) -> Tensor:
    """Latents (B, C, h, w) moved by 0, 1, 2 ... times `flow`, reflected at the edges: (B, F, C, h, w).

    flow: (2,), latent pixels to the right and down.
    """
    height, width = latents.shape[2:]
    still = torch.eye(2, 3).repeat(frames, 1, 1)
    still[:, :, 2] = -torch.arange(frames)[:, None] * flow * 2 / torch.tensor([width, height])
    grid = functional.affine_grid(still, [frames, 1, height, width], align_corners=False).to(latents)
    moved = [
        functional.grid_sample(
            one.expand(frames, -1, -1, -1), grid, "nearest", padding_mode="reflection", align_corners=False
        )
        for one in latents
    ]
    return torch.stack(moved)


def _fresh_noise(like: Tensor, seeds: Sequence[int]) -> Tensor:
    """Noise for clips (B, F, C, h, w), by the clips' seeds, and other than their initial noise."""
    drawn = [
        torch.randn(like.shape[1:], generator=Generator().manual_seed(step_seed(seed, 1))) for seed in seeds
    ]
    return torch.stack(drawn).to(like)


def _for_clips(image: RequestDefaults) -> RequestDefaults:
    return replace(image, frames=image.frames if image.frames > 1 else VideoConfig().num_frames)


def _read_options(path: Path) -> FirstFrameOptions:
    """The options in a folder's `system.json`; the defaults where it has none, or of another system."""
    file = path / SYSTEM_FILE
    content = read_json_mapping(file) if file.is_file() else {}
    if content.pop("system", None) != FirstFrame.name:
        return FirstFrameOptions()
    try:
        return TypeAdapter(FirstFrameOptions).validate_python(content)
    except ValidationError as error:
        raise ValueError(f"{file}: {validation_error(error)}") from error
