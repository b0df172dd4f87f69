"""Captions in odd encodings survive, and guesses are noted."""

import pytest

from latent_shift.data.caption_io import as_captions, as_seconds, caption_lines, decode

SENTENCE = "un café à Zürich – naïve"


@pytest.mark.parametrize(
    ("encoding", "note_text"),
    [("utf-8", ""), ("utf-8-sig", ""), ("utf-16", "UTF-16, by its byte order mark"), ("cp1252", "a guess")],
)
def test_odd_encodings_survive_and_are_noted(encoding, note_text):
    text, notes = decode(SENTENCE.encode(encoding), "a.txt")
    assert text == SENTENCE
    assert [note for note in notes if note_text in note and note.startswith("a.txt")] == notes
    assert bool(notes) == bool(note_text)


def test_any_bytes_are_text():
    assert len(decode(bytes(range(256)), "a.txt")[0]) == 256
    assert decode(b"\xff\xfea", "a.txt")[0] == "ÿþa"  # half a letter of UTF-16 is none


def test_each_line_is_a_caption_with_single_blanks():
    assert caption_lines("a  dog\truns \n\n a cat\r\na dog runs\n") == ("a dog runs", "a cat")
    assert as_captions(["a", " ", "b", "a"]) == ("a", "b")
    assert as_captions(["a", 3]) == as_captions(None) == ()


@pytest.mark.parametrize(
    ("value", "seconds"), [("", None), (None, None), (2, 2.0), ("1:02.5", 62.5), ("1:00:00", 3600)]
)
def test_times(value, seconds):
    assert as_seconds(value) == seconds


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "1:2:3:4", True, [1]])
def test_no_times(value):
    with pytest.raises(ValueError, match="is no time"):
        as_seconds(value)
