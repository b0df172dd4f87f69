"""Text embeddings of captions that come again and again, computed once by a frozen text encoder.

A small image U-Net takes no longer than the text encoder that reads its captions: where each clip has a few
wordings (`latents.wordings`), embeddings are kept in memory.

Shapes: N captions, L tokens, D wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from latent_shift.conditioning import PromptEmbeds, encode_prompts


class TextStates:
    """Embeddings by caption, of the pipeline `model`: L x D numbers of memory for each distinct one.

    Each caption is encoded in a batch of one: in a larger batch it would depend, in its last bits, on the
    captions beside it, and a resumed run would differ from one that was never stopped.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._known = model, dict[str, PromptEmbeds]()

    def __call__(self, captions: Sequence[str]) -> PromptEmbeds:
        """The embeddings of N captions, as `encode_prompts` gives them one by one."""
        for text in captions:
            if text not in self._known:
                self._known[text] = encode_prompts(self._model, [text])
        found = [self._known[text] for text in captions]
        pooled = [one.pooled for one in found if one.pooled is not None]
        filled = None
        if all(one.filled is not None for one in found):
            filled = tuple(number for number, one in enumerate(found) if one.filled)
        states = torch.cat([one.states for one in found])
        return PromptEmbeds(states, torch.cat(pooled) if pooled else None, filled)
