"""Clips as tokens, encoded once into a store like that of latents.

A store keeps float16, which is exact for whole numbers up to 2048; tokens of larger codebooks are stored in
digits of that base, one a channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latent_shift.data.latent_dataset import LatentDataset, encode_clips, read_latents
from latent_shift.systems.cogvideo.tokenizer import FrameTokenizer
from latent_shift.training.datasets import Store
from latent_shift.training.logging import Progress, Report

_BASE = 2048


def token_dataset(
    tokens: Store,
    tokenizer: FrameTokenizer,
    report: Report,
    *,
    last: int = 0,
    workers: int = 0,
    images: bool,
) -> LatentDataset:
    """The clips of a store, encoded now where it is not complete; `to_tokens` reads an item's "latents".

    Args:
        tokens: the section of the recipe.
        tokenizer: encodes frames.
        report: gets the number of encoded clips after every shard.
        last: give, in place of the clips, so many that come after them in the series, in canonical words.
        workers: processes that render clips to be encoded.
        images: whether the items are single frames.

    Raises:
        ValueError: the folder holds the tokens of another source or tokenizer.
    """
    source = tokens.source.extended(last) if last else tokens.source
    clips = source.captioned_clips(cached=True)
    settings = {"world": source.latent_settings(), "frame_tokenizer": tokenizer.hash()}

    def encode(frames: Tensor) -> Tensor:
        return to_digits(tokenizer.encode(frames), len(tokenizer.codes))

    for done in encode_clips(clips, encode, tokens.folder, settings, workers=workers):
        report(Progress(done, len(clips), stage="encoding clips"))
    first = tokens.source.clips if last else 0
    return LatentDataset(read_latents(tokens.folder, len(clips))[first:], clips, images=images, first=first)


def to_digits(tokens: Tensor, codes: int) -> Tensor:
    """Tokens (..., h, w) as float digits (..., D, h, w), the lowest first."""
    digits = [tokens % _BASE]
    while (codes := -(-codes // _BASE)) > 1:
        tokens = tokens // _BASE
        digits.append(tokens % _BASE)
    return torch.stack(digits, dim=-3).float()


def to_tokens(digits: Tensor) -> Tensor:
    """Tokens in rows, long (..., h*w), of digits (..., D, h, w)."""
    powers = _BASE ** torch.arange(digits.shape[-3], device=digits.device)
    return (digits.long() * powers[:, None, None]).sum(dim=-3).flatten(-2)
