"""Text embeddings of captions that come again and again, computed once by a frozen text encoder.

A small image U-Net takes no longer than the text encoder that reads its captions: where each clip has a few
wordings (`latents.wordings`), embeddings are kept in memory.

Shapes: N captions, L tokens, D wide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from latent_shift.conditioning import PromptEmbeds, encode_prompts

BLOCK = 64  # captions that are encoded together


class TextStates:
    """Embeddings by caption, of the pipeline `model`: L x D numbers of memory for each distinct one.

    In a batch a caption's embedding depends, in its last bits, on the captions beside it, and a resumed run
    would differ from one that was never stopped. So captions that `expect` names are encoded in fixed blocks,
    and each other one in a batch of one.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._known = model, dict[str, PromptEmbeds]()
        self._expected, self._places = list[str](), dict[str, int]()

    def expect(self, captions: Iterable[str]) -> None:
        """Encode these captions in blocks of their order, when the first of a block is needed."""
        self._expected = list(dict.fromkeys(captions))
        self._places = {text: place for place, text in enumerate(self._expected)}

    def __call__(self, captions: Sequence[str]) -> PromptEmbeds:
        """The embeddings of N captions."""
        for text in captions:
            if text not in self._known:
                self._encode(self._block_of(text))
        found = [self._known[text] for text in captions]
        pooled = [one.pooled for one in found if one.pooled is not None]
        filled = None
        if all(one.filled is not None for one in found):
            filled = tuple(number for number, one in enumerate(found) if one.filled)
        states = torch.cat([one.states for one in found])
        return PromptEmbeds(states, torch.cat(pooled) if pooled else None, filled)

    def _block_of(self, text: str) -> list[str]:
        if text not in self._places:
            return [text]
        first = self._places[text] // BLOCK * BLOCK
        return self._expected[first : first + BLOCK]

    def _encode(self, block: list[str]) -> None:
        together = encode_prompts(self._model, block)
        for number, text in enumerate(block):
            one = slice(number, number + 1)
            filled = None
            if together.filled is not None:
                filled = (0,) if number in together.filled else ()
            pooled = None if together.pooled is None else together.pooled[one].clone()
            self._known[text] = PromptEmbeds(together.states[one].clone(), pooled, filled)
