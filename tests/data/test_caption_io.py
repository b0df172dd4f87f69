"""Captions in odd encodings survive, and guesses are noted."""

from pathlib import Path

import pytest

from latent_shift.data.caption_io import (
    CaptionFiles,
    as_captions,
    as_seconds,
    caption_lines,
    decode,
    read_captions,
    read_text,
    text_lines,
)

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


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text", ["a bar moves", "x", SENTENCE, "一只狗 在跑\n一只猫", "собака бежит\r\n", "a\nb\n" * 50]
)
def test_utf_16_without_a_mark_is_read_and_noted(encoding, text):
    found, notes = decode(text.encode(encoding), "a.txt")
    assert found == text
    assert notes == ["a.txt: has no byte order mark; read as UTF-16, a guess"]


@pytest.mark.parametrize("encoding", ["utf-32", "utf-16", "utf-8-sig"])
def test_marks_decide(encoding):
    assert decode(SENTENCE.encode(encoding), "a.txt")[0] == SENTENCE


@pytest.mark.parametrize(
    "data", [b"a dog\0 runs", b"\0", b"a dog runs in the park\0\0", b"\x89PNG\r\n\0\0\0"]
)
def test_a_text_with_nuls_is_none(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.txt: is no text: it holds bytes of 0"):
        read_text(tmp_path / "a.txt")


def test_lines_end_at_line_feeds_and_carriage_returns_only():
    text = "a\x0cb\r\nc\u2028d\re\x85f\n\ng\x1ch"
    assert text_lines(text) == ["a\x0cb", "c\u2028d", "e\x85f", "", "g\x1ch"]
    assert caption_lines(text) == ("a b", "c d", "e f", "g h")
    assert text_lines("") == []
    assert text_lines("a\n\n") == ["a", ""]


def test_captions_lie_beside_clips_whatever_the_case_of_their_suffix():
    files = [Path(name) for name in ("a/B.MP4", "a/B.TXT", "a/c.mp4", "a/c.TXT", "a/c.txt", "a/b.txt")]
    texts = CaptionFiles(files)
    assert texts.of(Path("a/B.MP4")) == Path("a/B.TXT")
    assert texts.of(Path("a/c.mp4")) == Path("a/c.txt")
    assert texts.of(Path("c.mp4")) is None
    composed, apart = Path("caf\u00e9.mp4"), Path("cafe\u0301.txt")  # as Macs write names
    assert CaptionFiles([apart]).of(composed) == apart
    assert CaptionFiles([apart, composed.with_suffix(".txt")]).of(composed) == composed.with_suffix(".txt")


def test_halves_of_surrogates_and_nuls_in_json_are_no_letters():
    assert as_captions("a \ud83d\ude00 \ud800 b") == ("a \U0001f600 \ufffd b",)
    assert as_captions("a\0b") == ()


def test_each_line_is_a_caption_with_single_blanks():
    assert caption_lines("a  dog\truns \n\n a cat\r\na dog runs\n") == ("a dog runs", "a cat")
    assert as_captions(["a", " ", "b", "a"]) == ("a", "b")
    assert as_captions(["a", 3]) == as_captions(None) == ()


def test_what_shows_nothing_is_blank():
    assert caption_lines("\ufeffa bar\n\ufeff\n\u200b\u200b\n") == ("a bar",)
    assert caption_lines("a \x1b[31mred\x1b[0m\x07 bar\x7f") == ("a [31mred [0m bar",)
    assert caption_lines("\U0001f468\u200d\U0001f373 cooks") == ("\U0001f468\u200d\U0001f373 cooks",)


@pytest.mark.parametrize(
    ("value", "seconds"), [("", None), (None, None), (2, 2.0), ("1:02.5", 62.5), ("1:00:00", 3600)]
)
def test_times(value, seconds):
    assert as_seconds(value) == seconds


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "1:2:3:4", "1_0", True, [1]])
def test_no_times(value):
    with pytest.raises(ValueError, match="is no time"):
        as_seconds(value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"caption": "a bar"}', "JSON"),
        ('[\n  "a bar"]', "JSON"),
        ("<!DOCTYPE html><title>404</title>", "a web page"),
        ("1\n00:00:00,000 --> 00:00:01,000\na bar\n", "subtitles"),
        ("WEBVTT\n\n00:00.000 --> 00:01.000\na bar", "subtitles"),
    ],
)
def test_other_contents_of_a_text_file_are_no_captions(tmp_path, text, kind):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=f"a.txt: holds {kind}; write sentences only"):
        read_captions(tmp_path / "a.txt")


@pytest.mark.parametrize("text", ["[a] red <b>bar</b>", "<b>bar</b> moves", "1 bar --> 2 bars", "{red} bar"])
def test_captions_with_signs_of_other_formats_are_captions(text):
    assert caption_lines(text) == (text,)


def test_lines_of_two_encodings_are_read_each_in_its_own():
    text, notes = decode("a café\r\n".encode() + "a naïf\n".encode("cp1252"), "t.csv")
    assert text == "a café\r\na naïf\n"
    assert notes == ["t.csv: is not UTF-8; read as Windows-1252, a guess"]
