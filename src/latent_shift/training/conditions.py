"""What the U-Net is told beside the noisy latents: the captions; in SDXL's layout pooled ones and sizes, too.

Told in training as the pipeline tells it when it samples: SDXL's sizes are those of an uncropped original of
the clip's own size (arXiv 2307.01952, section 2.2). No loss here.

Shapes: B clips, F frames, L tokens of width D, P the width of pooled states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latent_shift.data.text_states import TextStates, encode_captions, encode_none
from latent_shift.places import add_places


@dataclass(frozen=True)
class Conditions:
    """text (B*F, L, D); added: in SDXL's layout text_embeds (B*F, P) and time_ids (B*F, 6), else None."""

    text: Tensor
    added: dict[str, Tensor] | None = None


def read_captions(
    model: Any, batch: dict[str, Any], captions: Sequence[str], dropped: Sequence[bool]
) -> TextStates:
    """The states of B captions, those of `dropped` as if there were none.

    batch: may bring them computed ahead, "text" (B, L, D) and in SDXL's layout "pooled" (B, P).
    """
    if "text" in batch:
        pooled = batch["pooled"].float() if "pooled" in batch else None
        known = TextStates(batch["text"].float(), pooled)
    else:
        known = encode_captions(
            model, ["" if out else text for out, text in zip(dropped, captions, strict=True)]
        )
        if known.pooled is None:
            return known
    return _without(model, known, dropped) if any(dropped) else known


def for_frames(told: TextStates, frames: int, size: tuple[int, int], *, places: bool) -> Conditions:
    """What each frame of B clips is told. size: height and width in pixels. places: each frame's, too."""
    text = told.states.repeat_interleave(frames, dim=0)
    if places:
        text = add_places(text, frames)
    if told.pooled is None:
        return Conditions(text)
    pooled = told.pooled.repeat_interleave(frames, dim=0)
    ids = torch.tensor([*size, 0, 0, *size], device=pooled.device, dtype=pooled.dtype)
    return Conditions(text, {"text_embeds": pooled, "time_ids": ids.repeat(len(pooled), 1)})


def _without(model: Any, known: TextStates, dropped: Sequence[bool]) -> TextStates:
    none, out = encode_none(model), torch.tensor(dropped, device=known.states.device)
    states = torch.where(out[:, None, None], none.states, known.states)
    if known.pooled is None or none.pooled is None:
        return TextStates(states)
    return TextStates(states, torch.where(out[:, None], none.pooled, known.pooled))
