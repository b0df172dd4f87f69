"""The default model's text tower: transformers' `CLIPTextModel` over a small closed vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from latent_shift.training.tokenizer import make_tokenizer


def new_text_tower(settings: dict[str, Any], words: Iterable[str]) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """A tokenizer of these words and an untrained tower. settings: of `CLIPTextConfig`."""
    length = CLIPTextConfig(**settings).max_position_embeddings
    tokenizer = make_tokenizer(words, length)
    config = CLIPTextConfig(
        **settings, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return tokenizer, CLIPTextModel(config)


def read_text_tower(folder: Path) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """The `tokenizer/` and `text_encoder/` of a folder, in float32."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    return tokenizer, CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype="float32")


def embed_texts(tokenizer: CLIPTokenizer, tower: CLIPTextModel, captions: list[str]) -> Tensor:
    """Unit vectors (B, D) of B captions: the tower's state at each end token.

    The tower reads from left to right, so padding to the longest caption alone changes none of them.
    """
    ids = tokenizer(captions, padding=True, truncation=True, return_tensors="pt").input_ids
    return functional.normalize(tower(ids.to(tower.device)).pooler_output.float(), dim=-1)
