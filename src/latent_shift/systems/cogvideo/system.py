"""CogVideo as a text-to-video system."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from latent_shift import checkpoints
from latent_shift.documents import read_yaml_mapping
from latent_shift.hashes import remembered_sha256
from latent_shift.limits import MAX_STEPS
from latent_shift.prompts import preprocess_prompts
from latent_shift.rng import clip_generator
from latent_shift.systems.base import (
    GenerationRequest,
    Parameters,
    RequestDefaults,
    SettledRequest,
    Stage,
    SystemInfo,
    TextToVideoSystem,
    TrainedOn,
    TrainingPlan,
    model_card_licence,
    recipe_stages,
)
from latent_shift.systems.batch import advice_on_memory, check_batch, warn_of_negatives
from latent_shift.systems.cogvideo.clips import longest_clips, plan_clip, tokens_in_turn, write_clips
from latent_shift.systems.cogvideo.model import CHANNELS, NAME, CogVideoModel, read_config, weight_files
from latent_shift.systems.cogvideo.transformer_tasks import KeyFramesRecipe

if TYPE_CHECKING:
    from latent_shift.systems.base import Clips

_TRAINED_ON: dict[str, TrainedOn] = {
    "cogvideo_tokenizer": "images",
    "cogvideo_image": "images",
    "cogvideo_key_frames": "clips",
    "cogvideo_interpolation": "clips",
}
_IMAGE_FPS = 1.0  # of a model that makes images only
DEFAULT_KEY_FRAMES = KeyFramesRecipe.model_fields["num_frames"].default


class CogVideo(TextToVideoSystem):
    """A loaded CogVideo model: as many stages as its folder has."""

    name: ClassVar[str] = NAME

    def __init__(self, model: CogVideoModel, path: Path) -> None:
        """Wrap a model loaded from `path`."""
        self.model, self._path = model.eval(), path

    @classmethod
    def inspect(cls, path: str | Path, *, loras: Sequence[str] = ()) -> RequestDefaults:
        """See `TextToVideoSystem.inspect`."""
        folder = Path(path)
        if loras:
            raise ValueError(f"lora {loras[0]}: models of the system {cls.name} take no LoRA files")
        config = read_config(folder)
        weight_files(folder, config)
        lengths = longest_clips(config) or {_IMAGE_FPS: 1}
        fps, frames = list(lengths.items())[-1]
        return RequestDefaults(
            frames=frames, fps=fps, steps=min(tokens_in_turn(config, frames, fps), MAX_STEPS),
            guidance=config.sampling.guidance_scale, height=config.height, width=config.width,
            size_multiple=gcd(config.height, config.width), vocabulary=config.closed_vocabulary,
            untrained_words=config.untrained_words,
        )  # fmt: skip

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", dtype: str = "auto", loras: Sequence[str] = ()
    ) -> Self:
        """Load a model, ready to generate.

        path, device, loras: as of `TextToVideoSystem.load`; there are no LoRA files for it. dtype: of the
        transformer and the text encoder; the frame tokenizer stays in float32.
        """
        cls.inspect(path, loras=loras)
        on = checkpoints.choose_device(device)
        precision = checkpoints.choose_dtype(dtype, on)
        model = CogVideoModel.load(Path(path)).to(on)
        for part in (model.captions, model.transformer, model.channels):
            part.to(precision)
        return cls(model, Path(path))

    def save(self, folder: Path) -> None:
        """See `TextToVideoSystem.save`."""
        self.model.save(Path(folder))

    @classmethod
    def stages(cls, plan: TrainingPlan) -> list[Stage]:
        """The recipes cogvideo-*.yaml; stage 2 only where the plan's clips are longer than stage 1's."""
        stages = recipe_stages(plan, f"{cls.name}-*", _TRAINED_ON)
        lengths = [
            read_yaml_mapping(stage.recipe, "recipe").get("num_frames", DEFAULT_KEY_FRAMES)
            for stage in stages
            if stage.task == "cogvideo_key_frames"
        ]
        if plan.frames is None or plan.frames > max(lengths, default=0):
            return stages
        return [stage for stage in stages if stage.task != "cogvideo_interpolation"]

    def generate(
        self, requests: Sequence[GenerationRequest], on_step: Callable[[int, int], None] | None = None
    ) -> Clips:
        """Make one clip a request: uint8 (B, F, H, W, 3). See `TextToVideoSystem.generate`.

        A step is a token. `steps` cannot be chosen, and the size is the model's own.
        """
        check_batch(requests)
        settled = [self._defaults.settle(request) for request in requests]
        warn_of_negatives(settled)
        first = settled[0]
        self._check(first)
        given = None if first.negative is None else [one.negative or "" for one in settled]
        prompts, negatives = preprocess_prompts(
            self.model.captions.tokenizer, self.model.config.closed_vocabulary,
            [one.prompt for one in settled], given,
        )  # fmt: skip
        assert prompts is not None  # there are requests
        sampling = self.model.config.sampling.model_copy(update={"guidance_scale": first.guidance})
        generators = [clip_generator(one.seed) for one in settled]
        with advice_on_memory(len(requests)):
            clips = write_clips(
                self.model, prompts, generators, frames=first.frames, fps=first.fps, sampling=sampling,
                negatives=negatives, on_step=on_step,
            )  # fmt: skip
        return clips.cpu().numpy()

    def _check(self, request: SettledRequest) -> None:
        """Raise ValueError for what the model cannot make."""
        own = self._defaults
        for name, value, native in (
            ("height", request.height, own.height), ("width", request.width, own.width)
        ):  # fmt: skip
            if value != native:
                raise ValueError(f"{name} {value}: this model makes {own.height}x{own.width} pixels only")
        if request.steps != own.steps:
            raise ValueError(
                f"steps {request.steps}: this model writes tokens, one after the other; leave steps out"
            )
        if request.frames > 1:
            plan_clip(self.model.config, request.frames, request.fps)

    def reconstruct(self, clips: Clips) -> Clips:
        """Encode clips (B, F, H, W, 3) to tokens and decode them, a clip at a time."""
        import numpy as np
        import torch

        tokenizer = self.model.frame_tokenizer
        restored = [tokenizer.decode(tokenizer.encode(torch.from_numpy(clip))) for clip in clips]
        return np.stack([clip.cpu().numpy() for clip in restored])

    def parameters(self) -> Parameters:
        """Count the parameters: the channels are trained on clips, and temporal."""
        model = self.model
        networks = {
            "frame_tokenizer": model.frame_tokenizer, "text_encoder": model.captions,
            "transformer": model.transformer, **dict(model.channels.items()),
        }  # fmt: skip
        parts = {
            name: sum(tensor.numel() for tensor in network.parameters()) for name, network in networks.items()
        }
        temporal = sum(parts.get(name, 0) for name in CHANNELS)
        return Parameters(parts, trained=temporal, temporal=temporal)

    def info(self) -> SystemInfo:
        """Facts of the loaded model; settings: how tokens are drawn."""
        sampling = self.model.config.sampling.model_dump(exclude={"guidance_scale"})
        return SystemInfo(
            system=self.name,
            defaults=self._defaults,
            dtype=str(self.model.transformer.glm.dtype).removeprefix("torch."),
            device=self.model.device.type,
            weights=self._weights,
            config=hashlib.sha256(self.model.config.model_dump_json().encode()).hexdigest()[:12],
            settings=sampling,
            licence=model_card_licence(self._path / "README.md"),
        )

    @cached_property
    def _defaults(self) -> RequestDefaults:
        return self.inspect(self._path)

    @cached_property
    def _weights(self) -> str:
        digest = hashlib.sha256()
        for file in weight_files(self._path, self.model.config):
            digest.update(file.relative_to(self._path).as_posix().encode())
            digest.update(bytes.fromhex(remembered_sha256(file)))
        return digest.hexdigest()[:12]
