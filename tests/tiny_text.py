"""Tiny text encoders of other kinds than CLIP's: a BERT over word pieces, a T5 encoder.

components = {**tiny_components(), **tiny_bert()}       # tokenizer and text_encoder
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from transformers import BertConfig, BertModel, BertTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from tiny import TEXT_WIDTH, WORDS, tiny_components

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LENGTH = 16


def bert_tokenizer(length: int = LENGTH) -> BertTokenizer:
    """Word pieces: WORDS, "rocket", and letters, of which other words are spelled."""
    letters = [mark + letter for mark in ("", "##") for letter in string.ascii_lowercase]
    pieces = dict.fromkeys([*SPECIAL, *WORDS, "rocket", *letters, ","])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=length)


def tiny_bert(length: int = LENGTH) -> dict[str, Any]:
    """Tokenizer and text encoder, which reads no padding; with dropout, as BERT is published."""
    torch.manual_seed(3)
    tokenizer = bert_tokenizer(length)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=TEXT_WIDTH, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=length, use_attention_mask=True,
        hidden_dropout_prob=0.5,
    )  # fmt: skip
    return {"tokenizer": tokenizer, "text_encoder": BertModel(config).eval()}


def tiny_t5(length: int = LENGTH) -> dict[str, Any]:
    """Tokenizer and encoder in T5's format."""
    torch.manual_seed(3)
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS), *string.ascii_lowercase]
    vocabulary = [(piece, -float(number)) for number, piece in enumerate(pieces)]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=length)
    config = T5Config(
        vocab_size=64, d_model=TEXT_WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2, use_attention_mask=True
    )
    return {"tokenizer": tokenizer, "text_encoder": T5EncoderModel(config).eval()}


def model_with(parts: dict[str, Any], folder: Path) -> Path:
    """Save a tiny model with other parts, by stock tools."""
    StableDiffusionPipeline(**{**tiny_components(), **parts}).save_pretrained(folder)
    return folder
