"""Fewer passes of the U-Net for one clip: guidance at some noise levels only, and steps that are forecast.

Both are off by default, and what they change is measured in docs/performance.md. Guidance doubles the work of
a step; at high noise it harms and at low noise it does little (arXiv 2404.07724), so it may be kept to an
interval. Between neighbouring steps a model's idea of the clean clip changes little, often along a straight
line; where the last computed step was forecast well, the next one is not computed but forecast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LEAST = 1e-4  # part of signal or noise: at a zero terminal SNR nothing is divided by nothing
EVERYWHERE = (0.0, 1.0)


def is_inside(interval: tuple[float, float], timestep: Tensor, scheduler: Any) -> bool:
    """Whether a step's noise level, its timestep as a part of the schedule, lies in an interval."""
    if interval == EVERYWHERE:
        return True
    level = float(timestep) / max(scheduler.config.num_train_timesteps - 1, 1)
    return interval[0] <= level <= interval[1]


def check_interval(interval: tuple[float, float], scheduler: Any) -> None:
    """Raise ValueError where steps are guided in an interval only, and timesteps are no parts of a schedule.

    So it is with a scheduler of continuous timesteps, which are logarithms of the noise.
    """
    steps, trained = scheduler.timesteps, scheduler.config.num_train_timesteps
    if interval != EVERYWHERE and bool((steps < 0).any() or (steps >= trained).any()):
        raise ValueError(
            f"guidance_interval={interval} (--guidance-interval): the timesteps of this"
            f" {type(scheduler).__name__} are not within 0 to {trained - 1}; leave the interval out"
        )


class Forecast:
    """Predictions of the steps of one call, some of them forecast.

    The clean clip that a step predicts is carried on along the line through those of the last two computed
    steps. A computed step tells how wrong its own forecast would have been, as a part of the clean clip's
    size; while the sum of that since the last computed step stays below the threshold, steps are forecast.
    The first two steps and the last one are always computed, and no two neighbours are forecast where that
    error is unknown.

    computed: steps that were computed so far.
    """

    def __init__(self, threshold: float, scheduler: Any, steps: int) -> None:
        """threshold: 0 computes every step. Raises ValueError for a scheduler that it is not for."""
        if threshold < 0:
            raise ValueError(f"forecast_threshold={threshold:g}: give 0 or more")
        if threshold > 0 and float(scheduler.init_noise_sigma) != 1:  # scales latents in another way
            raise ValueError(
                f"forecast_threshold (--forecast) is not for {type(scheduler).__name__};"
                " take ddim, ddpm, dpm++ or unipc"
            )
        self._threshold, self._scheduler, self._steps = threshold, scheduler, steps
        self._known: list[tuple[int, Tensor]] = []  # of the last two computed steps: number, clean clip
        self._error, self._spent = float("inf"), 0.0
        self.computed = 0

    def __call__(self, step: int, latents: Tensor, timestep: Tensor, predict: Callable[[], Tensor]) -> Tensor:
        """The prediction of a step.

        Args:
            step: its number, from 0.
            latents: noisy, (N, C, h, w), at the scheduler's own scale.
            timestep: of the step.
            predict: computes the prediction, (N, C, h, w).
        """
        if self._threshold == 0:
            self.computed += 1
            return predict()
        forecast = self._clean(step)
        if forecast is not None and step + 1 < self._steps and self._spent + self._error < self._threshold:
            self._spent += self._error
            return self._prediction(forecast, latents, timestep)
        prediction = predict()
        self.computed += 1
        clean = self._clean_of(prediction, latents, timestep)
        if forecast is not None:
            ahead = step - self._known[-1][0]
            self._error = float((forecast - clean).norm() / clean.norm().clamp(min=1e-8)) / ahead
        self._known, self._spent = [*self._known[-1:], (step, clean)], 0.0
        return prediction

    def _clean(self, step: int) -> Tensor | None:
        """The clean clip of a step, by the line through the last two computed ones."""
        if len(self._known) < 2:
            return None
        (before, first), (last, second) = self._known
        return second + (second - first) * ((step - last) / (last - before))

    def _scales(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Parts of the clean clip and of the noise in the latents of a timestep."""
        alpha = self._scheduler.alphas_cumprod[int(timestep)].to(like.device, torch.float32)
        return alpha.sqrt().clamp(min=_LEAST), (1 - alpha).sqrt().clamp(min=_LEAST)

    def _clean_of(self, prediction: Tensor, latents: Tensor, timestep: Tensor) -> Tensor:
        """The clean clip by a prediction, float32."""
        signal, noise = self._scales(timestep, latents)
        prediction, latents = prediction.float(), latents.float()
        kind = self._scheduler.config.prediction_type
        if kind == "v_prediction":
            return signal * latents - noise * prediction
        if kind == "sample":
            return prediction
        return (latents - noise * prediction) / signal

    def _prediction(self, clean: Tensor, latents: Tensor, timestep: Tensor) -> Tensor:
        """The prediction of a model by the clean clip that it would have foreseen."""
        signal, noise = self._scales(timestep, latents)
        kind = self._scheduler.config.prediction_type
        if kind == "sample":
            return clean.to(latents.dtype)
        epsilon = (latents.float() - signal * clean) / noise
        found = signal * epsilon - noise * clean if kind == "v_prediction" else epsilon
        return found.to(latents.dtype)
