"""A model to be measured, loaded, with the settings that decide its clips: what the protocols share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latent_shift import checkpoints
from latent_shift.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from latent_shift.evaluation.clip_maker import PipelineClips


@dataclass(frozen=True)
class TestedModel:
    """A loaded model, and the settings that decide its clips."""

    maker: PipelineClips
    settings: dict[str, Any]


def load_tested(
    folder: Path,
    name: str,
    steps: int | None,
    guidance: float | None,
    *,
    side: int,
    device: str,
    dtype: str,
) -> TestedModel:
    """The model at a place that `checkpoints.resolve` gave; its clips are `side` pixels wide."""
    quiet_libraries()
    from latent_shift.evaluation.clip_maker import PipelineClips

    own = checkpoints.video_config(folder)
    pipeline = checkpoints.load(str(folder), device=device, dtype=dtype)
    settings = {
        "model": name,
        "weights": checkpoints.weights_hash(folder),
        "video settings": _digest(own.model_dump_json()),
        "steps": own.num_inference_steps if steps is None else steps,
        "guidance": own.guidance_scale if guidance is None else guidance,
        "scheduler": type(pipeline.scheduler).__name__,
        "dtype": str(pipeline.unet.dtype).removeprefix("torch."),
        "device": pipeline.device.type,
    }
    how = {"steps": settings["steps"], "guidance": settings["guidance"]}
    return TestedModel(PipelineClips(pipeline, side=side, **how), settings)


def short_name(name: str) -> str:
    """A model's name in a table: of runs/ablations/fold-8/model, the last two parts."""
    parts = Path(name).parts
    return "/".join(parts[-2:]) if len(parts) > 1 and parts[-1] == "model" else parts[-1]


def _digest(text: str) -> str:
    """Its first 12 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
