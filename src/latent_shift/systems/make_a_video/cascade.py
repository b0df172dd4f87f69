"""Sampling of the cascade: text to a clip, stage after stage.

The noise of each stage comes from the clip's seed and the stage's number, so a clip depends neither on its
batch nor on what other stages draw.

Shapes: B clips, F frames, S x S pixels from -1 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from latent_shift.conditioning import Conditioning, PromptEmbeds, encode_prompts, repeat_per_frame
from latent_shift.rng import step_seed
from latent_shift.systems.make_a_video.data import resize
from latent_shift.systems.make_a_video.prior import Prior
from latent_shift.systems.make_a_video.stage import NOISE_NUMBERS, Context, StageConfig, StageNetwork
from latent_shift.systems.make_a_video.text import TextModel

# At eta = 1 the variance beside the fresh noise may round to less than 0 in the first step from pure noise.
_MAX_ETA = 1 - 1e-6
OnStep = Callable[[], None]


@dataclass(frozen=True)
class Known:
    """Frames that a clip must contain: frames (B, F, 3, S, S), mask bool (B, F), true where known."""

    frames: Tensor
    mask: Tensor

    def channels(self) -> Tensor:
        """Input of interpolation (B, F, 4, S, S): known frames, zero elsewhere, and the mask as 1 or 0."""
        mask = self.mask[:, :, None, None, None].to(self.frames.dtype)
        return torch.cat([self.frames * mask, mask.expand(-1, -1, 1, *self.frames.shape[-2:])], dim=2)

    def laid_over(self, clips: Tensor, noise: Tensor, signal: float) -> Tensor:
        """Clips with their known frames replaced by these, noised to the share `signal` of the variance."""
        noised = math.sqrt(signal) * self.frames + math.sqrt(1 - signal) * noise
        return torch.where(self.mask[:, :, None, None, None], noised if signal < 1 else self.frames, clips)


def stage_generators(seeds: Sequence[int], stage: str) -> list[Generator]:
    """One generator for each clip, of its seed and the stage's number."""
    return [Generator().manual_seed(step_seed(seed, NOISE_NUMBERS[stage])) for seed in seeds]


def clip_noise(shape: Sequence[int], generators: Sequence[Generator], *, shared: bool = False) -> Tensor:
    """Noise (B, F, C, S, S) of the clips' generators; the same for all frames of a clip where `shared`.

    shape: (F, C, S, S).
    """
    frames, *image = shape
    drawn = [1 if shared else frames, *image]
    clips = [torch.randn(drawn, generator=one, device=one.device) for one in generators]
    return torch.stack(clips).expand(-1, frames, -1, -1, -1)


@torch.no_grad()
def denoise(
    stage: StageNetwork,
    shape: Sequence[int],
    generators: Sequence[Generator],
    context: Context,
    *,
    unconditional: Conditioning | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    known: Known | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Sample clips (B, F, 3, S, S) of one stage, by DDIM; not clamped.

    Args:
        stage: its noise schedule, `eta` and defaults are used; `high_sr` draws the same noise for all frames.
        shape: (F, 3, S, S) of a clip.
        generators: one a clip.
        context: conditions of the clips.
        unconditional: text that guidance moves away from.
        steps: denoising steps, None: the stage's.
        guidance: classifier-free guidance scale, None: the stage's; none up to 1.
        known: frames that are kept: in every step they are themselves, noised to its level.
        on_step: called after each step.
    """
    config, scheduler = stage.config, stage.scheduler
    device = next(stage.parameters()).device
    shared = config.stage == "high_sr"
    scale = config.guidance_scale if guidance is None else guidance
    scheduler.set_timesteps(steps or config.num_inference_steps, device=device)
    first = clips = clip_noise(shape, generators, shared=shared).to(device)
    both = context.guided(unconditional) if unconditional is not None and scale > 1 else None
    levels = [*(float(scheduler.alphas_cumprod[int(one)]) for one in scheduler.timesteps[1:]), 1.0]
    for timestep, level in zip(scheduler.timesteps, levels, strict=True):
        if both is None:
            predicted = stage(clips, timestep.expand(len(clips)), context)
        else:
            twice = torch.cat([clips, clips])
            without, given = stage(twice, timestep.expand(len(twice)), both).chunk(2)
            predicted = without + scale * (given - without)
        fresh: dict[str, Any] = {}
        if config.eta > 0:
            noise = clip_noise(shape, generators, shared=shared).to(device)
            fresh = {"eta": min(config.eta, _MAX_ETA), "variance_noise": noise}
        clips = scheduler.step(predicted, timestep, clips, **fresh).prev_sample
        if known is not None:
            clips = known.laid_over(clips, first, level)
        if on_step is not None:
            on_step()
    return clips


def upscale(
    stage: StageNetwork,
    low: Tensor,
    generators: Sequence[Generator],
    size: tuple[int, int],
    on_step: OnStep | None = None,
) -> Tensor:
    """Enlarge frames by a super-resolution stage: (B, F, 3, H, W).

    Args:
        stage: its `noise_level` is that of the noise laid on the smaller frames; `high_sr` draws the same
            noise for all frames of a clip.
        low: smaller frames (B, F, 3, h, w).
        generators: one a clip.
        size: height and width.
        on_step: called after each denoising step.
    """
    level, shared = stage.config.noise_level, stage.config.stage == "high_sr"
    noise = clip_noise(low.shape[1:], generators, shared=shared).to(low.device)
    label = torch.full((len(low),), level, device=low.device)
    context = Context(label=label, channels=resize(low + level * noise, size, "bilinear"))
    shape = (low.shape[1], low.shape[2], *size)
    return denoise(stage, shape, generators, context, on_step=on_step)


@dataclass(frozen=True)
class ClipShape:
    """Shape of the clips to make: frames, frames a second, height and width in pixels."""

    frames: int
    fps: float
    height: int
    width: int


@dataclass(frozen=True)
class StagePlan:
    """Stages that make clips of some number of frames.

    base: makes `keyframes` frames from text. stride: frames from one key frame to the next, above 1 where
    `interpolation` fills in those between. upscalers: make larger frames, one after the other.
    """

    base: str
    keyframes: int
    stride: int
    upscalers: tuple[str, ...]

    @classmethod
    def of(cls, configs: Mapping[str, StageConfig], frames: int) -> StagePlan:
        """The plan of a model's stages. Raises ValueError where they cannot make so many frames."""
        base = "video" if "video" in configs else "image"
        if base not in configs:
            raise ValueError(
                f"a cascade begins with video/ or image/, and has only {', '.join(configs) or 'none'}"
            )
        if base == "image" and frames > 1:
            raise ValueError(f"this model has no stage video/, so it makes stills only, not {frames} frames")
        stride = configs["interpolation"].keyframe_stride if "interpolation" in configs and frames > 1 else 1
        larger = "video_sr" if "video_sr" in configs else "image_sr"
        upscalers = tuple(name for name in (larger, "high_sr") if name in configs)
        size = configs[base].size
        for name in upscalers:
            if configs[name].low_size != size:
                raise ValueError(
                    f"{name}/ takes {configs[name].low_size} pixels, the stage before makes {size}"
                )
            size = configs[name].size
        return cls(base, math.ceil((frames - 1) / stride) + 1, stride, upscalers)

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of all stages, in order."""
        return self.base, *(("interpolation",) if self.stride > 1 else ()), *self.upscalers


class Cascade(nn.Module):
    """All stages of a model by name, its text encoder, and its prior, if it has one."""

    def __init__(
        self, stages: Mapping[str, StageNetwork], text: TextModel, prior: Prior | None = None
    ) -> None:
        """Take the networks. Raises ValueError where stages do not fit together, or a prior is missing."""
        super().__init__()
        self.stages, self.prior = dict(stages), prior
        self.networks = nn.ModuleDict(stages)
        self.text, self.text_encoder = text, text.text_encoder
        self.configs = {name: stage.config for name, stage in stages.items()}
        base = StagePlan.of(self.configs, 1).base
        if self.configs[base].text == "prior" and prior is None:
            raise ValueError(f"{base}/ reads embeddings of stills, and there is no prior/ that makes them")

    def generate(
        self,
        prompts: Sequence[str],
        negatives: Sequence[str],
        seeds: Sequence[int],
        shape: ClipShape,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Make clips (B, F, 3, H, W) from -1 to 1.

        Args:
            prompts, negatives, seeds: one a clip; an empty negative prompt is none.
            shape: of the clips; one frame is a still.
            steps: of the first stage, None: its own.
            guidance: of the stages that read text, None: their own.
            on_step: called after each step of each stage.
        """
        plan = StagePlan.of(self.configs, shape.frames)
        base = self.stages[plan.base]
        scale = base.config.size / self.configs[plan.stages[-1]].size
        size = (round(shape.height * scale), round(shape.width * scale))
        text = self._text(base, prompts, negatives, seeds)
        clips = self._from_text(
            base, text, seeds, (plan.keyframes, 3, *size), shape.fps / plan.stride,
            steps=steps, guidance=guidance, on_step=on_step,
        )  # fmt: skip
        if plan.stride > 1:
            known = spread(clips.clamp(-1, 1), plan.stride)
            clips = self._from_text(
                self.stages["interpolation"], text, seeds, known.frames.shape[1:], shape.fps,
                guidance=guidance, known=known, on_step=on_step,
            )  # fmt: skip
        for name in plan.upscalers:
            stage = self.stages[name]
            size = enlarged(stage.config, size)
            clips = upscale(stage, clips.clamp(-1, 1), stage_generators(seeds, name), size, on_step)
        return clips[:, : shape.frames].clamp(-1, 1)

    def count_steps(self, frames: int, steps: int) -> int:
        """Denoising steps of clips, of all stages. steps: of the first one."""
        later = StagePlan.of(self.configs, frames).stages[1:]
        return steps + sum(self.configs[name].num_inference_steps for name in later)

    def _text(
        self, base: StageNetwork, prompts: Sequence[str], negatives: Sequence[str], seeds: Sequence[int]
    ) -> tuple[PromptEmbeds, PromptEmbeds] | tuple[Tensor, Tensor]:
        """Embeddings of the prompts, and those that guidance moves away from."""
        if base.config.text == "prior":
            assert self.prior is not None
            stills = self.prior.sample(self.text, prompts, stage_generators(seeds, "prior"))
            return stills, torch.zeros_like(stills)
        return encode_prompts(self.text, prompts), encode_prompts(self.text, negatives)

    def _from_text(
        self,
        stage: StageNetwork,
        text: tuple[Any, Any],
        seeds: Sequence[int],
        shape: Sequence[int],
        fps: float,
        **options: Any,
    ) -> Tensor:
        """Sample a stage that reads text; options of `denoise`."""
        known: Known | None = options.get("known")
        given, without = (text_conditioning(one, stage.config, shape[0]) for one in text)
        label = torch.full((len(seeds),), fps if shape[0] > 1 else 0.0, device=given.text.device)
        context = Context(given, label, None if known is None else known.channels())
        generators = stage_generators(seeds, stage.config.stage)
        return denoise(stage, shape, generators, context, unconditional=without, **options)


def enlarged(config: StageConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that a super-resolution stage makes of smaller ones."""
    assert config.low_size is not None
    return size[0] * config.size // config.low_size, size[1] * config.size // config.low_size


def shrunk(config: StageConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the smaller frames that a super-resolution stage makes frames of `size` from."""
    assert config.low_size is not None
    return size[0] * config.low_size // config.size, size[1] * config.low_size // config.size


def spread(keyframes: Tensor, stride: int) -> Known:
    """Key frames (B, K, 3, S, S) as known frames of clips of (K - 1) * stride + 1 frames."""
    frames = (keyframes.shape[1] - 1) * stride + 1
    clips = keyframes.new_zeros(len(keyframes), frames, *keyframes.shape[2:])
    clips[:, ::stride] = keyframes
    mask = torch.zeros(len(clips), frames, dtype=torch.bool, device=clips.device)
    mask[:, ::stride] = True
    return Known(clips, mask)


def text_conditioning(text: PromptEmbeds | Tensor, config: StageConfig, num_frames: int) -> Conditioning:
    """Conditioning of B*F frames on embeddings of captions, or of stills (B, E), zeros for none."""
    if isinstance(text, Tensor):
        repeated = text.repeat_interleave(num_frames, dim=0)
        return Conditioning(repeated[:, None], {"image_embeds": repeated})
    size = (config.size, config.size)
    return repeat_per_frame(text, num_frames, size, frame_positions=config.frame_position_embedding)
