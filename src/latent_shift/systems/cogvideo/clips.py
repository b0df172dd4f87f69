"""From prompts to clips: key frames in order, then the frames between them, then the decoder.

Which stages a clip takes follows from its length and frame rate: stage 1 writes key frames at one of its
rates, and each pass of stage 2 divides their spacing. Of the ways that there are, the one of the lowest rate
of key frames is taken, so that stage 1 sees a whole action (arXiv 2205.15868, section 3.1). One frame is a
still, made by the image transformer only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from latent_shift.systems.cogvideo.model import CogVideoModel, ModelConfig
from latent_shift.systems.cogvideo.sampling import Guided, SamplingConfig, interpolate, uniforms, write_frames
from latent_shift.systems.cogvideo.temporal_attention import RATE_TOLERANCE, ChannelConfig

EMPTY = ""  # the caption of the unconditional text


@dataclass(frozen=True)
class Plan:
    """The stages of a clip.

    key_frames: number of frames that stage 1 writes. key_rate: their frames a second. windows: of each pass
    of stage 2, the coarsest first.
    """

    key_frames: int
    key_rate: float
    windows: tuple[int, ...] = ()


def plan_clip(config: ModelConfig, frames: int, fps: float) -> Plan:
    """The stages of a clip of more than one frame. Raises ValueError naming what the model can make."""
    if config.key_frames is None:
        raise ValueError(f"{frames} frames: this model has no stage for clips yet; it makes images, 1 frame")
    for rate in sorted(config.key_frames.frame_rates):
        plan = _plan(config.key_frames, config.interpolation, rate, frames, fps)
        if plan is not None:
            return plan
    possible = ", ".join(f"{count} at {rate:.4g} fps" for rate, count in longest_clips(config).items())
    raise ValueError(f"{frames} frames at {fps:.4g} fps: this model makes up to {possible}")


def longest_clips(config: ModelConfig) -> dict[float, int]:
    """Frames of the longest clip at each frame rate, the lowest rate first; empty without clips."""
    if config.key_frames is None:
        return {}
    found: dict[float, int] = {}
    for rate in config.key_frames.frame_rates:
        reached, frames = rate, config.key_frames.num_frames
        found[rate] = max(found.get(rate, 0), frames)
        while (between := config.interpolation) is not None and _has_rate(between, reached * between.spacing):
            per_window = len(between.known) - 1
            frames = (frames - 1) // per_window * per_window * between.spacing + 1
            reached *= between.spacing
            found[reached] = max(found.get(reached, 0), frames)
    return dict(sorted(found.items()))


def _plan(
    keys: ChannelConfig, between: ChannelConfig | None, rate: float, frames: int, fps: float
) -> Plan | None:
    """The plan with key frames at a rate; None where it does not lead to the clip."""
    passes = 0
    while rate * (1 + RATE_TOLERANCE) < fps:
        if between is None or not _has_rate(between, rate * between.spacing):
            return None
        rate *= between.spacing
        passes += 1
    if rate * (1 - RATE_TOLERANCE) > fps:
        return None
    windows: list[int] = []
    for _ in range(passes):
        assert between is not None  # there are passes
        per_window = len(between.known) - 1
        windows.insert(0, -(-(frames - 1) // (per_window * between.spacing)))
        frames = windows[0] * per_window + 1
    start = rate if between is None else rate / between.spacing**passes
    return Plan(frames, start, tuple(windows)) if frames <= keys.num_frames else None


def _has_rate(channel: ChannelConfig, fps: float) -> bool:
    return any(abs(rate - fps) <= RATE_TOLERANCE * rate for rate in channel.frame_rates)


def tokens_in_turn(config: ModelConfig, frames: int, fps: float) -> int:
    """Tokens that are written one after the other for a clip. Raises ValueError as `plan_clip`."""
    tokens = config.grid[0] * config.grid[1]
    if frames == 1:
        return tokens
    plan = plan_clip(config, frames, fps)
    unknown = 0 if config.interpolation is None else len(config.interpolation.unknown)
    return tokens * (plan.key_frames + unknown * len(plan.windows))


@torch.inference_mode()
def write_clips(
    model: CogVideoModel,
    prompts: Sequence[str],
    generators: Sequence[Generator],
    *,
    frames: int,
    fps: float,
    sampling: SamplingConfig,
    negatives: Sequence[str] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Clips uint8 (B, F, H, W, 3), on the model's device.

    Args:
        model: with the channels that the clips need.
        prompts: B texts.
        generators: one for each clip.
        frames: F; 1 makes images, whatever the frame rate.
        fps: frames a second.
        sampling: how tokens are drawn.
        negatives: B texts in place of the empty one that guidance moves away from.
        on_step: called after each token with the tokens written one after the other, and all of them.

    Raises:
        ValueError: the model cannot make such clips.
    """
    device, tokens = model.device, model.transformer.tokens
    steps, done = tokens_in_turn(model.config, frames, fps), 0

    def count() -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, steps)

    text = model.captions(prompts, device)
    guided = Guided(text)
    if sampling.guidance_scale > 1:
        other = model.captions(negatives or [EMPTY] * len(prompts), device)
        guided = Guided(text, sampling.guidance_scale, other)

    def numbers(*shape: int) -> Tensor:
        return uniforms(generators, *shape, tokens).to(device)

    def still() -> Tensor:
        return write_frames(model.transformer, None, guided, None, numbers(1), sampling, on_token=count)

    if frames == 1:
        made = still()
    else:
        plan = plan_clip(model.config, frames, fps)
        keys, rate = model.channel("key_frames"), plan.key_rate
        assert keys is not None  # there is a plan
        given = None if keys.config.first_frame else still()
        rates = torch.full((len(prompts),), keys.config.rate_index(rate), device=device)
        made = write_frames(
            model.transformer, keys, guided, rates,
            numbers(plan.key_frames - (given is not None)), sampling, given=given, on_token=count,
        )  # fmt: skip
        for windows in plan.windows:
            between = model.channel("interpolation")
            assert between is not None  # the plan has passes of it
            rate *= between.config.spacing
            rates = torch.full((len(prompts),), between.config.rate_index(rate), device=device)
            made = interpolate(
                model.transformer, between, guided, rates, made,
                numbers(windows, len(between.config.unknown)), sampling, on_token=count,
            )  # fmt: skip
        made = made[:, :frames]
    # A clip at a time: on a CPU other kernels decode few frames, and a clip would depend on its batch.
    return torch.stack([model.frame_tokenizer.decode(clip.unflatten(1, model.config.grid)) for clip in made])
