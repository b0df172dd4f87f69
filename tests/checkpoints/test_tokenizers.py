"""CLIP's tokenizer from its vocabulary file, or a folder; the real file where it is at hand."""

import gzip
from pathlib import Path

import pytest

from latent_shift.checkpoints.single_file import VOCABULARY_FILE, check_tokenizer, load_tokenizer
from tiny import tiny_tokenizer

REAL = Path("../shared/data/weights/clip_tokenizer") / VOCABULARY_FILE


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not here")
def test_the_real_vocabulary_gives_clips_own_numbers():
    """Numbers as published for CLIP: those of "a photo of a cat" stand in every tutorial."""
    tokenizer = load_tokenizer(REAL, padding="!", length=77)
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    padded = tokenizer("hello world", padding="max_length").input_ids
    assert padded[:4] == [49406, 3306, 1002, 49407]
    assert set(padded[4:]) == {0}
    assert len(padded) == 77
    first = load_tokenizer(REAL, padding="<|endoftext|>", length=77)
    assert first("hello world!").input_ids == [49406, 3306, 1002, 256, 49407]


def test_a_folder_may_be_the_model_or_its_tokenizer(tmp_path):
    own = tiny_tokenizer()
    own.save_pretrained(tmp_path / "model" / "tokenizer")
    for place in (tmp_path / "model", tmp_path / "model" / "tokenizer"):
        check_tokenizer(place, tmp_path)
        loaded = load_tokenizer(place, padding="<|endoftext|>", length=12)
        assert loaded("a red circle").input_ids == own("a red circle").input_ids
        assert (loaded.model_max_length, loaded.pad_token) == (12, "<|endoftext|>")


@pytest.mark.parametrize("kind", ["none", "empty", "text", "short", "cut"])
def test_other_files_are_named(tmp_path, kind):
    file = tmp_path / VOCABULARY_FILE
    packed = gzip.compress(b"#version\n" + b"a b\n" * 100)
    contents = {"empty": b"", "text": b"#version\na b\n", "short": packed, "cut": packed[:-9]}
    if kind in contents:
        file.write_bytes(contents[kind])
    with pytest.raises(ValueError, match=f"{VOCABULARY_FILE}: (is not CLIP's|there is no such tokenizer)"):
        check_tokenizer(file, tmp_path / "model.safetensors")
