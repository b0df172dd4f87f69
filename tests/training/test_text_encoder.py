"""The small tokenizer in CLIP's format."""

import pytest
from transformers import CLIPTokenizer

from latent_shift.moving_shapes import vocabulary
from latent_shift.training.text_encoder import make_tokenizer, trained_words
from tiny import tiny_tokenizer


def test_every_word_is_one_token_before_and_after_saving(tmp_path):
    made = make_tokenizer(vocabulary(), 40)
    made.save_pretrained(tmp_path)
    read = CLIPTokenizer.from_pretrained(tmp_path)
    for tokenizer in (made, read):
        ids = [tokenizer(word, add_special_tokens=False).input_ids for word in vocabulary()]
        assert {len(one) for one in ids} == {1}
        assert len({one[0] for one in ids}) == len(vocabulary())
    sentence = "a Small red circle moving up and to the left"
    encoded = read(sentence, padding="max_length").input_ids
    assert encoded == made(sentence, padding="max_length").input_ids
    assert (len(encoded), encoded[0], encoded[11]) == (40, read.bos_token_id, read.eos_token_id)
    assert read.decode(encoded, skip_special_tokens=True) == sentence.lower()


def test_the_same_words_always_give_the_same_tokens():
    first, second = make_tokenizer(vocabulary(), 40), make_tokenizer(reversed(vocabulary()), 40)
    assert first.get_vocab() == second.get_vocab()
    assert first.get_vocab()["up</w>"] == 400  # trained towers depend on it: only new words may change this


@pytest.mark.parametrize("word", ["", "3", "Red", "side-to-side"])
def test_a_word_that_could_not_be_one_token_is_refused(word):
    with pytest.raises(ValueError, match=f"word {word!r} must be made of the letters a to z"):
        make_tokenizer(["red", word], 40)


def test_the_trained_words_are_those_that_a_tokenizer_was_made_of_or_the_world_s(tmp_path):
    assert trained_words(make_tokenizer(vocabulary(), 40)) == tuple(vocabulary())
    own = make_tokenizer(["red", "frog"], 40)
    own.save_pretrained(tmp_path)
    assert trained_words(own) == trained_words(CLIPTokenizer.from_pretrained(tmp_path)) == ("frog", "red")
    assert set(trained_words(tiny_tokenizer(), vocabulary())) == {"a", "black", "circle", "green", "left"} | {
        "moves", "grows", "on", "red", "right", "square", "to"
    }  # fmt: skip
