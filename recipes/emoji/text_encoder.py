"""The text encoder of the emoji model: all-MiniLM-L6-v2 with its word table cut to what short prompts need.

    python recipes/emoji/text_encoder.py [--length 32] [--readout]

Reads runs/emoji/all-MiniLM-L6-v2/ and the words of runs/emoji/pack.safetensors, writes
runs/emoji/text/model/. Words that are cut out fall back to pieces. Trains nothing. --readout prints how well
a linear layer reads name, style, motion and ground out of the states of captions: two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, BertModel

from latent_shift.emoji.dataset import EmojiWorld, Scenes
from latent_shift.io import write_json
from latent_shift.training.text_encoder import load_text_encoder

COMMON = 10_000  # words and pieces, the most frequent ones, kept beside those of the captions
LENGTH = 32  # tokens of a prompt; of captions one in a thousand has more than 29
_PLAIN = re.compile(r"(##)?[a-z]+|(##)?[0-9]|(##)?[!-~]")  # kept among the common ones


def kept_tokens(tokenizer: Any, texts: list[str], common: int = COMMON) -> list[str]:
    """Tokens to keep, in the tokenizer's order: special ones, characters, the common ones, those of texts."""
    vocabulary = tokenizer.get_vocab()
    order = sorted(vocabulary, key=vocabulary.__getitem__)
    used = {token for text in texts for token in tokenizer.tokenize(text)}
    plain = [token for token in order if _PLAIN.fullmatch(token)]
    characters = [token for token in plain if len(token.removeprefix("##")) == 1]
    # A word-piece vocabulary lists whole words and pieces by their frequency, after the characters.
    frequent = [token for token in plain if len(token.removeprefix("##")) > 1][:common]
    kept = {*tokenizer.all_special_tokens, *characters, *frequent, *used}
    return [token for token in order if token in kept]


def cut(source: Path, target: Path, texts: list[str], common: int = COMMON, length: int = LENGTH) -> int:
    """Write tokenizer and encoder with the tokens of `kept_tokens` only; return their number."""
    tokenizer, encoder = AutoTokenizer.from_pretrained(source), BertModel.from_pretrained(source)
    kept, vocabulary = kept_tokens(tokenizer, texts, common), tokenizer.get_vocab()
    rows = torch.tensor([vocabulary[token] for token in kept])
    numbers = {token: number for number, token in enumerate(kept)}
    table = encoder.embeddings.word_embeddings.weight.data[rows]
    encoder.resize_token_embeddings(len(kept))
    encoder.embeddings.word_embeddings.weight.data.copy_(table)
    encoder.config.pad_token_id = numbers[tokenizer.pad_token]
    # Stock pipelines then keep the padding out of the states, as this model was trained.
    encoder.config.use_attention_mask = True
    partial = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(partial, ignore_errors=True)
    encoder.save_pretrained(partial / "text_encoder")
    folder = partial / "tokenizer"
    folder.mkdir()
    settings = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    settings["model"]["vocab"] = numbers
    for added in settings["added_tokens"]:
        added["id"] = numbers[added["content"]]
    for token, special in settings["post_processor"].get("special_tokens", {}).items():
        special["ids"] = [numbers[token]]
    settings["truncation"] = settings["padding"] = None
    write_json(folder / "tokenizer.json", settings)
    names = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer", "model_max_length": length, "do_lower_case": True,
            **{name: getattr(tokenizer, name) for name in names},
        },
    )  # fmt: skip
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return len(kept)


@torch.no_grad()
def states(folder: Path, captions: list[str]) -> Tensor:
    """Mean and first state of each caption, (N, 2 D)."""
    tokenizer, encoder = load_text_encoder(folder)
    encoder.eval()
    parts = []
    for first in range(0, len(captions), 256):
        batch = captions[first : first + 256]
        tokens = tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
        found = encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        mask = tokens.attention_mask[..., None]
        parts.append(torch.cat([(found * mask).sum(1) / mask.sum(1), found[:, 0]], dim=1))
    return torch.cat(parts)


def readout(folder: Path, pack: Path, *, train: int = 16_000, test: int = 2_000) -> dict[str, float]:
    """Share of captions of which a linear layer, fitted to others, reads each part right."""
    world = EmojiWorld(pack=pack, seed=5, clips=train + test, paraphrases=0.0)
    scenes = Scenes(world)
    words = [scenes.words(scenes[index]) for index in range(train + test)]
    found = states(folder, [scenes.caption(index) for index in range(train + test)])
    found = torch.cat([(found - found.mean(0)) / found.std(0), torch.ones(len(found), 1)], dim=1).double()
    gram = found[:train].T @ found[:train] + 10 * torch.eye(found.shape[1], dtype=torch.double)
    shares = {}
    for part in ("name", "style", "motion", "ground"):
        labels = [getattr(one, part) for one in words]
        known = sorted(set(labels[:train]))
        target = torch.tensor([known.index(label) if label in known else -1 for label in labels])
        one_hot = torch.nn.functional.one_hot(target[:train], len(known)).double()
        guess = (found[train:] @ torch.linalg.solve(gram, found[:train].T @ one_hot)).argmax(dim=1)
        shares[part] = float((guess == target[train:]).double().mean())
    return shares


def main() -> None:
    """Cut the word table, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--source", type=Path, default=Path("runs/emoji/all-MiniLM-L6-v2"))
    parser.add_argument("--pack", type=Path, default=Path("runs/emoji/pack.safetensors"))
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/emoji/text/model"))
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens that prompts are padded to")
    parser.add_argument("--readout", action="store_true")
    given = parser.parse_args()
    if not given.output.exists():
        if not (given.source / "model.safetensors").is_file():
            raise SystemExit(f"{given.source}: is missing; python recipes/emoji/prepare.py fetches it")
        world = EmojiWorld(pack=given.pack)
        texts = [*world.vocabulary(), *(clip.name for clip in world.opened.clips)]  # signs of names as well
        count = cut(given.source, given.output, texts, length=given.length)
        print(f"{given.output}: {count} words and pieces")
    if given.readout:
        for part, share in readout(given.output, given.pack).items():
            print(f"{part:8} {100 * share:.1f} %")


if __name__ == "__main__":
    main()
