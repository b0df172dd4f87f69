"""Make-A-Video as a system: a folder of stages in, requests in, clips out."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, get_args

import torch
from torch import from_numpy

from latent_shift import checkpoints
from latent_shift.autoencoder import to_model_range, to_uint8
from latent_shift.documents import read_json_mapping
from latent_shift.hashes import remembered_sha256
from latent_shift.io import read_safetensors_header, write_json
from latent_shift.prompts import preprocess_prompts
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
from latent_shift.systems.batch import advice_on_memory, check_batch, warn_of_negatives
from latent_shift.systems.make_a_video.cascade import (
    Cascade,
    ClipShape,
    StagePlan,
    shrunk,
    stage_generators,
    upscale,
)
from latent_shift.systems.make_a_video.data import resize
from latent_shift.systems.make_a_video.prior import PRIOR, Prior
from latent_shift.systems.make_a_video.stage import (
    STAGE_FILE,
    StageConfig,
    StageName,
    StageNetwork,
    check_unet,
    read_stage_config,
)
from latent_shift.systems.make_a_video.task import SYSTEM
from latent_shift.systems.make_a_video.text import TextModel
from latent_shift.training.recipe import load_recipe

if TYPE_CHECKING:
    from latent_shift.systems.base import Clips

STAGES: tuple[str, ...] = get_args(StageName)
_TEXT_PARTS = ("tokenizer", "text_encoder")
_REPLACED_BY = {"image": "video", "image_sr": "video_sr"}  # stages on stills, by those that began with them
_TRAINED_ON: dict[str, TrainedOn] = {
    "make_a_video_prior": "images",
    "make_a_video_image": "images",
    "make_a_video_image_sr": "images",
    "make_a_video_video": "clips",
    "make_a_video_interpolation": "clips",
    "make_a_video_video_sr": "clips",
}
_CLIP_STAGES = ("video", "interpolation", "video_sr")


class MakeAVideo(TextToVideoSystem):
    """A loaded cascade."""

    name: ClassVar[str] = SYSTEM

    def __init__(self, cascade: Cascade, path: Path) -> None:
        """Wrap a cascade loaded from `path`."""
        self.cascade, self._path = cascade, path

    @classmethod
    def inspect(cls, path: str | Path, *, loras: Sequence[str] = ()) -> RequestDefaults:
        """Check the model's files and read its defaults, without reading weights.

        path, loras: as of `load`.
        """
        folder = Path(path)
        if loras:
            raise ValueError(f"{folder}: models of the system {SYSTEM} take no LoRA files")
        for part in _TEXT_PARTS:
            if not (folder / part).is_dir():
                raise ValueError(f"{folder}: the model's {part}/ is missing")
        for file in _weight_files(folder):
            read_safetensors_header(file)
        return _defaults(folder)

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", dtype: str = "auto", loras: Sequence[str] = ()
    ) -> Self:
        """Load a model, ready to generate.

        Args:
            path: a folder.
            device: one of `checkpoints.DEVICES`.
            dtype: one of `checkpoints.DTYPES`, for the U-Nets.
            loras: none; there are no LoRA files of this system.

        Raises:
            ValueError: for files that are missing, damaged or do not fit together, LoRA files, and a device
                that is not there.
        """
        cls.inspect(path, loras=loras)
        folder, on = Path(path), checkpoints.choose_device(device)
        precision = checkpoints.choose_dtype(dtype, on)
        for name in _configs(folder):
            check_unet(folder / name / "unet")
        text = TextModel.load(folder)
        prior = Prior.load(folder / PRIOR) if (folder / PRIOR).is_dir() else None
        stages = {name: StageNetwork.load(folder / name, precision) for name in _configs(folder)}
        cascade = Cascade(stages, text, prior)
        return cls(cascade.requires_grad_(False).eval().to(on), folder)

    def save(self, folder: Path) -> None:
        """Save to a folder that `systems.load` opens."""
        folder = Path(folder)
        for name, stage in self.cascade.stages.items():
            stage.save(folder / name)
        if self.cascade.prior is not None:
            self.cascade.prior.save(folder / PRIOR)
        self.cascade.text.save(folder)
        write_json(folder / SYSTEM_FILE, {"system": SYSTEM})

    @classmethod
    def stages(cls, plan: TrainingPlan) -> list[Stage]:
        """The numbered recipes of the plan's folder.

        Interpolation only where the plan has other frames than the key frames; other recipes (the prior, a
        last stage of super-resolution) are options.
        """
        stages = recipe_stages(plan, f"{SYSTEM}-[0-9]-*", _TRAINED_ON)
        recipes = [load_recipe(stage.recipe) for stage in stages if stage.task == "make_a_video_video"]
        if plan.frames in [recipe.clip_shape()["frames"] for recipe in recipes]:  # type: ignore[attr-defined]
            stages = [stage for stage in stages if stage.task != "make_a_video_interpolation"]
        return stages

    @classmethod
    def assemble(cls, models: Mapping[str, Path], folder: Path) -> None:
        """Put trained stages together. See `TextToVideoSystem.assemble`.

        Stages on stills are left out where the stage that began with their weights is there.
        """
        for model in models.values():
            for part in (*STAGES, PRIOR, *_TEXT_PARTS):
                if (model / part).is_dir() and not (folder / part).is_dir():
                    shutil.copytree(model / part, folder / part)
        for still, clip in _REPLACED_BY.items():
            if (folder / clip).is_dir():
                shutil.rmtree(folder / still, ignore_errors=True)
        write_json(folder / SYSTEM_FILE, {"system": SYSTEM})

    def generate(
        self, requests: Sequence[GenerationRequest], on_step: Callable[[int, int], None] | None = None
    ) -> Clips:
        """Make one clip a request: uint8 (B, F, H, W, 3). See `TextToVideoSystem.generate`.

        The steps of a request are those of the first stage, its guidance that of all stages that read text.
        """
        check_batch(requests)
        settled = [self._defaults.settle(request) for request in requests]
        warn_of_negatives(settled)
        first = settled[0]
        avoided = [request.negative for request in settled if request.negative]
        if avoided and self.cascade.prior is not None:
            raise ValueError(f"negative {avoided[0]!r}: this model reads embeddings of stills, not the text")
        prompts, negatives = preprocess_prompts(
            self.cascade.text.tokenizer, self._defaults.vocabulary,
            [request.prompt for request in settled], [request.negative or "" for request in settled],
        )  # fmt: skip
        assert prompts is not None
        assert negatives is not None
        done, total = 0, self.cascade.count_steps(first.frames, first.steps)

        def step_ended() -> None:
            nonlocal done
            done += 1
            if on_step is not None:
                on_step(done, total)

        with advice_on_memory(len(requests)):
            clips = self.cascade.generate(
                prompts, negatives, [request.seed for request in settled],
                ClipShape(first.frames, first.fps, first.height, first.width),
                steps=first.steps, guidance=first.guidance, on_step=step_ended,
            )  # fmt: skip
        if not clips.isfinite().all():
            raise ValueError("sampling gave values that are not finite; try the dtype fp32")
        return _to_clips(clips)

    def reconstruct(self, clips: Clips) -> Clips | None:
        """Shrink clips (B, F, H, W, 3) and enlarge them by the last stage; None where none enlarges.

        The noise of every clip is that of the seed 0, so none depends on the others.
        """
        upscalers = StagePlan.of(self.cascade.configs, 1).upscalers
        if not upscalers:
            return None
        stage = self.cascade.stages[upscalers[-1]]
        device, size = next(stage.parameters()).device, (clips.shape[2], clips.shape[3])
        low = shrunk(stage.config, size)
        made = []
        for clip in clips:
            pixels = to_model_range(from_numpy(clip).to(device))[None]
            generators = stage_generators([0], stage.config.stage)
            made.append(upscale(stage, resize(pixels, low, "area"), generators, size))
        return _to_clips(torch.cat(made).clamp(-1, 1))

    def parameters(self) -> Parameters:
        """Count the parameters; temporal: those of temporal layers and of the embedding of the frame rate."""
        stages = self.cascade.stages
        networks = {**stages, PRIOR: self.cascade.prior, "text_encoder": self.cascade.text_encoder}
        parts = {
            name: sum(one.numel() for one in network.parameters())
            for name, network in networks.items()
            if network is not None
        }
        temporal = sum(one.numel() for stage in stages.values() for one in stage.temporal_parameters())
        return Parameters(parts, sum(parts.get(name, 0) for name in _CLIP_STAGES), temporal)

    def info(self) -> SystemInfo:
        """Facts of the loaded model; settings: the steps of the later stages."""
        plan = StagePlan.of(self.cascade.configs, self._defaults.frames)
        steps = {name: self.cascade.configs[name].num_inference_steps for name in plan.stages[1:]}
        network = self.cascade.stages[plan.base].unet
        return SystemInfo(
            system=self.name,
            defaults=self._defaults,
            dtype=str(network.dtype).removeprefix("torch."),
            device=network.device.type,
            weights=self._weights,
            config=self._config,
            fewest_frames=self.cascade.configs[plan.base].frames,
            settings={"scheduler": "DDIMScheduler", **({"later_steps": steps} if steps else {})},
            licence=model_card_licence(self._path / "README.md"),
        )

    @cached_property
    def _defaults(self) -> RequestDefaults:
        return _defaults(self._path)

    @cached_property
    def _weights(self) -> str:
        digest = hashlib.sha256()
        for file in _weight_files(self._path):
            digest.update(file.relative_to(self._path).as_posix().encode())
            digest.update(bytes.fromhex(remembered_sha256(file)))
        return digest.hexdigest()[:12]

    @cached_property
    def _config(self) -> str:
        texts = [config.model_dump_json() for config in self.cascade.configs.values()]
        return hashlib.sha256("".join(texts).encode()).hexdigest()[:12]


def _configs(folder: Path) -> dict[str, StageConfig]:
    """The stages that a model has. Raises ValueError for one in the folder of another."""
    found = {name: read_stage_config(folder / name) for name in STAGES if (folder / name).is_dir()}
    for name, config in found.items():
        if config.stage != name:
            raise ValueError(f"{folder / name / STAGE_FILE}: stage is {config.stage}; expected {name}")
    return found


def _weight_files(folder: Path) -> list[Path]:
    parts = (*_configs(folder), PRIOR, "text_encoder")
    return sorted(file for part in parts for file in (folder / part).rglob("*.safetensors"))


def _defaults(folder: Path) -> RequestDefaults:
    configs = _configs(folder)
    base = configs[StagePlan.of(configs, 1).base]
    frames, fps = base.frames, base.fps or 1.0
    if "interpolation" in configs:
        stride = configs["interpolation"].keyframe_stride
        frames, fps = (frames - 1) * stride + 1, fps * stride
    names = StagePlan.of(configs, frames).stages
    size = configs[names[-1]].size
    multiples = [_pixel_multiple(folder / name, configs[name]) * size // configs[name].size for name in names]
    return RequestDefaults(
        frames=frames,
        fps=fps,
        steps=base.num_inference_steps,
        guidance=base.guidance_scale,
        height=size,
        width=size,
        size_multiple=math.lcm(*multiples),
        vocabulary=base.closed_vocabulary,
        untrained_words=base.untrained_words,
    )


def _pixel_multiple(folder: Path, config: StageConfig) -> int:
    """Sides of a stage's frames are multiples of its patch times the scale of its U-Net."""
    levels = len(read_json_mapping(folder / "unet" / "config.json")["block_out_channels"])
    return config.patch * 2 ** (levels - 1)


def _to_clips(clips: torch.Tensor) -> Clips:
    """Clips uint8 (B, F, H, W, 3) of floats (B, F, 3, H, W) from -1 to 1."""
    return to_uint8(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]).cpu().numpy()
