"""Latent-Shift: an image diffusion model with a U-Net that shifts features over frames (arXiv 2304.08477).

Every model in the layouts of Stable Diffusion 1, 2 and SDXL, as a folder, hub id or single file, LoRA files
with it. One network makes all frames; no parameter is added to the image model's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from latent_shift import checkpoints
from latent_shift.io import write_json
from latent_shift.systems.base import (
    SYSTEM_FILE,
    GenerationRequest,
    Parameters,
    RequestDefaults,
    Stage,
    SystemInfo,
    TextToVideoSystem,
    TrainedOn,
    TrainingPlan,
    model_card_licence,
    recipe_stages,
)
from latent_shift.systems.batch import advice_on_memory, check_batch

if TYPE_CHECKING:
    from torch import Tensor

    from latent_shift.pipeline import LatentShiftPipeline, LatentShiftXLPipeline
    from latent_shift.systems.base import Clips

EVERYWHERE = (0.0, 1.0)  # all noise levels
_NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
TRAINED_ON: dict[str, TrainedOn] = {
    "text_contrastive": "captions",
    "video_text_contrastive": "clips",
    "autoencoder": "images",
    "image": "images",
    "video": "clips",
}


class LatentShift(TextToVideoSystem):
    """A loaded Latent-Shift model."""

    name: ClassVar[str] = "latent_shift"
    loops: ClassVar[bool] = True  # only the shift lets frames meet
    names_its_steps: ClassVar[bool] = True

    def __init__(
        self,
        pipeline: LatentShiftPipeline | LatentShiftXLPipeline,
        path: Path,
        *,
        loras: Sequence[str] = (),
        prediction_type: str | None = None,
        scheduler: str | None = None,
    ) -> None:
        """Wrap a pipeline loaded from `path`; all else: what it was loaded with."""
        self.pipeline, self._path, self._loras = pipeline, path, loras
        self._prediction_type, self._scheduler = prediction_type, scheduler
        self._under_way: tuple[Tensor, int] | None = None  # latents (B*F, C, h, w) and F, within `on_step`
        pipeline.set_progress_bar_config(disable=True)

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
        """Check the model's files and read its defaults, without reading weights.

        path, loras, tokenizer, prediction_type, scheduler: as of `load`.
        """
        path = checkpoints.resolve(path, tokenizer=tokenizer, prediction_type=prediction_type)
        checkpoints.check_loras(loras)
        return replace(_defaults(path, prediction_type, scheduler), loops=cls.loops)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        loras: Sequence[str] = (),
        tokenizer: str | Path | None = None,
        prediction_type: str | None = None,
        scheduler: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        forecast_threshold: float | None = None,
        compile: bool | None = None,
    ) -> Self:
        """Load a model, ready to generate.

        Args:
            path: the built-in model's name, a folder, a hub id (org/name), or a .safetensors file.
            device: one of `checkpoints.DEVICES`.
            dtype: one of `checkpoints.DTYPES`.
            loras: LoRA files of the base model, "FILE" or "FILE:WEIGHT" each.
            tokenizer: for a single file, CLIP's: a folder or a file.
            prediction_type: for a single file that does not say, one of `checkpoints.PREDICTION_TYPES`.
            scheduler: one of `checkpoints.SCHEDULERS`, None: the model's own.
            guidance_interval, forecast_threshold: as of the pipeline's call, for all clips; None: the model's
            own.
            compile: whether the U-Net is compiled, at the first clip, which takes minutes.

        Raises:
            ValueError: for files that are missing, damaged or of another kind, LoRA layers that fit nothing
                in the model, a device or a compiler that is not there, and settings out of range.
        """
        if compile:
            checkpoints.check_compiler(device)
        path = checkpoints.resolve(path, tokenizer=tokenizer, prediction_type=prediction_type)
        pipeline = checkpoints.load(
            path,
            device=device,
            dtype=dtype,
            loras=loras,
            tokenizer=tokenizer,
            prediction_type=prediction_type,
        )
        if scheduler is not None:
            checkpoints.use_scheduler(pipeline, scheduler)
        if guidance_interval is not None or forecast_threshold is not None:
            pipeline.video_config = pipeline.video_config.overlaid(
                guidance_interval=guidance_interval, forecast_threshold=forecast_threshold
            )
        if compile:
            checkpoints.compile_unet(pipeline)
        return cls(pipeline, path, loras=loras, prediction_type=prediction_type, scheduler=scheduler)

    def save(self, folder: Path) -> None:
        """Save a folder that stock pipelines open as an image model. Raises ValueError with LoRA attached."""
        self.pipeline.save_pretrained(folder)
        write_json(Path(folder) / SYSTEM_FILE, {"system": self.name})

    @classmethod
    def stages(cls, plan: TrainingPlan) -> list[Stage]:
        """The recipes NAME-*.yaml of the plan's folder, and those of the models that they start from."""
        return recipe_stages(plan, f"{cls.name}-*", TRAINED_ON)

    def generate(
        self, requests: Sequence[GenerationRequest], on_step: Callable[[int, int], None] | None = None
    ) -> Clips:
        """Make one clip a request: uint8 (B, F, H, W, 3). See `TextToVideoSystem.generate`."""
        with advice_on_memory(len(requests)):
            return _to_uint8(self._sample(requests, **self._call(requests, on_step), output_type="np"))

    def stream(
        self, request: GenerationRequest, on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[Clips]:
        """Make one clip and yield its frames block by block. See `TextToVideoSystem.stream`."""
        with advice_on_memory(1):
            call = self._call([request], on_step)
            latents = self._sample([request], **call, output_type="latent")[0]
            for frames in self.pipeline.decode_in_parts(latents, call["generator"]):
                yield _to_uint8(frames)

    def _call(
        self, requests: Sequence[GenerationRequest], on_step: Callable[[int, int], None] | None
    ) -> dict[str, Any]:
        """Keywords of the pipeline's call for requests, checked, without the type of output."""
        from latent_shift.rng import clip_generator

        check_batch(requests, loops=self.loops)
        first = requests[0]

        def step_ended(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            if on_step is not None:
                self._under_way = pipeline.estimate, first.frames or self._defaults.frames
                try:
                    on_step(step + 1, pipeline.num_timesteps)
                finally:
                    self._under_way = None
            return {}

        return {
            "prompt": [request.prompt for request in requests],
            "negative_prompt": None if first.negative is None else [one.negative or "" for one in requests],
            "num_frames": first.frames,
            "fps": first.fps,
            "height": first.height,
            "width": first.width,
            "num_inference_steps": first.steps,
            "guidance_scale": first.guidance,
            "loop": first.loop,
            "generator": [clip_generator(request.seed) for request in requests],
            "callback_on_step_end": step_ended,
        }

    def preview(self) -> Clips | None:
        """The middle frame of each clip under way, decoded: uint8 (B, H, W, 3).

        Schedulers that estimate the clean latents at each step give a blurred picture that sharpens, others a
        noisy one.
        """
        from latent_shift.autoencoder import decode_latents, to_uint8

        if self._under_way is None:
            return None
        latents, frames = self._under_way
        upcast = self.pipeline._upcast_decoding
        images = decode_latents(self.pipeline.vae, latents[frames // 2 :: frames], 1, upcast=upcast)
        return to_uint8(images).cpu().numpy()

    def _sample(self, requests: Sequence[GenerationRequest], **call: Any) -> Any:
        """Call the pipeline: floats (B, F, H, W, 3) from 0 to 1. Another system may change the call here."""
        result: Any = self.pipeline(**call)
        return result.frames

    def reconstruct(self, clips: Clips) -> Clips:
        """Encode and decode clips (B, F, H, W, 3) by the autoencoder, a clip at a time."""
        import numpy as np
        import torch

        from latent_shift.autoencoder import reconstruct_frames

        vae = self.pipeline.vae
        return np.stack([reconstruct_frames(vae, torch.from_numpy(clip)).cpu().numpy() for clip in clips])

    def parameters(self) -> Parameters:
        """Count the parameters: the U-Net is trained, none is temporal."""
        networks = {name: getattr(self.pipeline, name, None) for name in _NETWORKS}
        parts = {
            name: sum(tensor.numel() for tensor in network.parameters())
            for name, network in networks.items()
            if network is not None
        }
        return Parameters(parts, trained=parts["unet"], temporal=0)

    def info(self) -> SystemInfo:
        """Facts of the loaded model; settings: scheduler, and prediction and LoRA files where given."""
        settings: dict[str, Any] = {"scheduler": type(self.pipeline.scheduler).__name__}
        own = self.pipeline.video_config
        if own.guidance_interval != EVERYWHERE:
            settings["guidance_interval"] = list(own.guidance_interval)
        if own.forecast_threshold > 0:
            settings["forecast"] = own.forecast_threshold
        if self._prediction_type is not None:
            settings["prediction"] = self._prediction_type
        if self._lora_facts:
            settings["loras"] = self._lora_facts
        return SystemInfo(
            system=self.name,
            defaults=self._defaults,
            dtype=str(self.pipeline.unet.dtype).removeprefix("torch."),
            device=self.pipeline.device.type,
            weights=self._weights,
            config=self._config,
            settings=settings,
            licence=model_card_licence(self._path / "README.md"),
        )

    @cached_property
    def _defaults(self) -> RequestDefaults:
        own = _defaults(self._path, self._prediction_type, self._scheduler)
        return replace(own, loops=self.loops)

    @cached_property
    def _weights(self) -> str:
        return checkpoints.weights_hash(self._path)

    @cached_property
    def _config(self) -> str:
        text = checkpoints.video_config(self._path).model_dump_json()
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def _lora_facts(self) -> list[dict[str, Any]]:
        return checkpoints.lora_facts(checkpoints.check_loras(self._loras))


def _to_uint8(frames: Any) -> Clips:
    """Frames from 0 to 1 as numbers from 0 to 255."""
    clips: Clips = (frames * 255).round().astype("uint8")
    return clips


def _defaults(path: Path, prediction_type: str | None, scheduler: str | None) -> RequestDefaults:
    own = checkpoints.video_config(path)
    height, width = checkpoints.native_size(path, prediction_type)
    return RequestDefaults(
        frames=own.num_frames,
        fps=own.fps,
        steps=own.num_inference_steps,
        guidance=own.guidance_scale,
        height=height,
        width=width,
        size_multiple=checkpoints.pixel_multiple(path),
        max_steps=checkpoints.max_steps(path, scheduler),
        vocabulary=own.closed_vocabulary,
        untrained_words=own.untrained_words,
    )
