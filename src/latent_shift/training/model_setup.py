"""Setup of a denoiser: its noise schedule, weights of earlier models, and whether the parts fit.

Parts that do not fit are errors that name the recipe's keys, and not a failing matrix product in the first
step.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

from latent_shift.checkpoints import check_weights
from latent_shift.data.video_dataset import ClipSettings
from latent_shift.io import one_line
from latent_shift.model_files import scheduler_problem
from latent_shift.pipeline import LatentShiftPipeline, LatentShiftXLPipeline
from latent_shift.training.prediction import PREDICTIONS

AnyPipeline = LatentShiftPipeline | LatentShiftXLPipeline

LOG_SNR_SHIFT = "log_snr_shift"  # the one key of a recipe's scheduler beyond DDIMScheduler's own
_OF_BETAS = {LOG_SNR_SHIFT, "num_train_timesteps", "beta_start", "beta_end", "beta_schedule"}
_STEPS = 1000
_LONG = 256  # places of a sequence from which on attention is fused
_MAX_BETA = 0.999


def noise_scheduler(config: dict[str, Any]) -> DDIMScheduler:
    """Build a recipe's scheduler; with `log_snr_shift`, of the cosine schedule shifted by it.

    Stock schedulers read the schedule from their configuration, as 1,000 numbers (`trained_betas`), so every
    stock tool still opens the model. Raises ValueError for a prediction that is none of `PREDICTIONS`, and
    for a schedule that no model could be sampled by.
    """
    rest = dict(config)
    kind = rest.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        raise ValueError(f"scheduler.prediction_type {kind!r}: expected {', '.join(PREDICTIONS)}")
    try:
        if LOG_SNR_SHIFT in rest:
            steps = rest.get("num_train_timesteps", _STEPS)
            rest["trained_betas"] = cosine_betas(float(rest.pop(LOG_SNR_SHIFT)), steps)
        made = DDIMScheduler(**rest)
        made.set_timesteps(1)
    except (TypeError, ValueError, NotImplementedError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"scheduler: gives no noise schedule: {one_line(error)}") from error
    if problem := scheduler_problem({**made.config, "_class_name": type(made).__name__}):
        raise ValueError(f"scheduler: {problem}")
    return made


def changed_scheduler(base: Any, changes: dict[str, Any]) -> DDIMScheduler:
    """Build the scheduler of a base with changes of its configuration, as in `noise_scheduler`."""
    known = set(inspect.signature(DDIMScheduler).parameters)
    kept = {key: value for key, value in base.config.items() if key in known}
    if changes.keys() & _OF_BETAS:  # they decide, and not the numbers that were made of others
        kept.pop("trained_betas", None)
    return noise_scheduler({**kept, **changes})


def cosine_betas(log_snr_shift: float, steps: int = _STEPS) -> list[float]:
    """Betas of the cosine schedule with this log signal-to-noise ratio at its middle timestep.

    log SNR(t) = shift - 2 log tan(pi t / 2), for t from 0 to 1 (arXiv 2301.11093, section 3.2). The frames
    of a clip say the same thing many times over, so its motion is decided where single frames are all noise:
    a schedule for clips has its middle there.
    """
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    signal = torch.sigmoid(log_snr_shift - 2 * torch.log(torch.tan(math.pi * t / 2)))
    before = torch.cat([torch.ones(1, dtype=torch.float64), signal[:-1]])
    return [float(beta) for beta in (1 - signal / before).clamp(max=_MAX_BETA)]


def load_unet(folder: Path) -> UNet2DConditionModel:
    """Load the U-Net of a model's folder, in float32. Raises ValueError where weights are missing."""
    check_weights(folder / "unet", "diffusers", "UNet2DConditionModel")
    return UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """Load the autoencoder of a model's folder, in float32. Raises ValueError where weights are missing."""
    check_weights(folder / "vae", "diffusers", "AutoencoderKL")
    return AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)


def check_same_network(loaded: Any, section: dict[str, Any], key: str, folder: Path) -> None:
    """Raise ValueError where a recipe's section of a network is of another one than `init_from` has.

    loaded: that network. section: keys of its configuration, by the recipe's key. folder: the value of
    init_from.
    """
    differing = [
        f"{key}.{name} is {value}, and that of init_from is {loaded.config.get(name)}"
        for name, value in section.items()
        if not _is_same(value, loaded.config.get(name))
    ]
    if differing:
        raise ValueError(
            f"{'; '.join(differing)}: it is the network of {folder} that is trained; set these keys to its"
            " values, leave them out, or remove init_from for a new network"
        )


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values of a configuration are one: tuples are lists, and a number is one for each block."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, list | tuple) and one:
        return all(_is_same(part, other) for part in one)
    if isinstance(other, list | tuple) and other:
        return all(_is_same(one, part) for part in other)
    return bool(one == other)


@torch.no_grad()
def interpolate(unet: UNet2DConditionModel, model: Path, alpha: float) -> None:
    """Move weights on a straight line to another model's: WiSE-FT (arXiv 2109.01903), in place.

    alpha: part of the way, from 0 to 1. Raises ValueError where the two U-Nets have other weights.
    """
    starts, ends = unet.state_dict(), load_unet(model).state_dict()
    if {name: one.shape for name, one in starts.items()} != {name: one.shape for name, one in ends.items()}:
        raise ValueError(
            f"experimental.interpolate_with.model: the U-Net in {model} has other weights than the first one"
        )
    for name, start in starts.items():
        start.lerp_(ends[name], alpha)


class AttentionByLength:
    """Attention of a U-Net on a CPU, as its attention processor: plain for short sequences, fused for long.

    On 64 places (a clip of 64 x 64 pixels) the plain form took half the time of the fused one, on 256 as long
    and on 1024 or more two to three times as long (forward and backward, two cores); its memory grows with
    the square.
    """

    def __init__(self) -> None:
        self.plain, self.fused = AttnProcessor(), AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attend as stock processors do: hidden_states (N, length, D), or maps (N, D, h, w) of h*w positions.

        attn, encoder_hidden_states, attention_mask, temb: as in diffusers.
        """
        shape = hidden_states.shape
        length = shape[1] if len(shape) == 3 else shape[2] * shape[3]
        processor = self.plain if length < _LONG else self.fused
        attended: Tensor = processor(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return attended


def check_clip_size(frames: ClipSettings, multiple: int) -> None:
    """Raise ValueError for a size of clips that is no multiple of the autoencoder's scale."""
    if frames.buckets is not None:
        if frames.buckets.multiple % multiple:
            raise ValueError(
                f"clips.frames.buckets.multiple is {frames.buckets.multiple}; this model takes multiples of"
                f" {multiple}"
            )
        return
    for name in ("height", "width"):
        pixels = getattr(frames, name)
        if pixels % multiple:
            near = pixels // multiple * multiple or multiple
            raise ValueError(
                f"clips.frames.{name} is {pixels}; this model takes multiples of {multiple}, like {near}"
            )


def check_unet_fits(model: AnyPipeline, key: str, side: int | None = None) -> None:
    """Raise ValueError where the U-Net, which the recipe names by `key`, does not fit its neighbours.

    side: pixels that a new U-Net is to sample by default; an existing one may have another size.
    """
    unet, vae = model.unet.config, model.vae.config
    texts: list[Any] = [part.config for part in model.text_encoders()]
    wanted = {
        "in_channels": (vae.latent_channels, "the autoencoder's latent_channels"),
        "out_channels": (vae.latent_channels, "the autoencoder's latent_channels"),
        "cross_attention_dim": (sum(text.hidden_size for text in texts), "the text encoders' hidden_size"),
    }
    if isinstance(model, LatentShiftXLPipeline):
        sizes = 6 * (unet.addition_time_embed_dim or 0)
        reason = f"{sizes} of the sizes, and the second text encoder's projection_dim"
        wanted["projection_class_embeddings_input_dim"] = (sizes + texts[1].projection_dim, reason)
    if side is not None:
        wanted["sample_size"] = (side // model.vae_scale_factor, f"{side} pixels by this autoencoder")
    for name, (value, reason) in wanted.items():
        if unet[name] != value:
            raise ValueError(f"{key}: the U-Net's {name} is {unet[name]}, but must be {value}: {reason}")
