"""Broken captions, tables and tars: what is whole is read, and what is not is named; never a traceback."""

import io
import json
import os
import random
import tarfile
from pathlib import Path

import pytest

from damage import damaged
from latent_shift.data.caption_io import caption_lines, decode, text_of
from latent_shift.data.sources import detect_source

TEXTS = (
    "a bar moves right\na bar, slowly\n",
    "un café à Zürich – naïve",
    "一只狗 在跑\r\n一只猫",
    "",
    "\n\n",
    "x",
)
ENCODINGS = (
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "cp1252",
    "latin-1",
    "shift-jis",
)
ROWS = 30


def test_any_bytes_are_captions_or_one_line_that_names_the_file():
    draw = random.Random(0)
    samples = [text.encode(encoding, "ignore") for text in TEXTS for encoding in ENCODINGS]
    samples += [draw.randbytes(draw.randrange(60)) for _ in range(300)]
    for _ in range(8):
        samples += [damaged(data, draw) for data in samples[: len(TEXTS) * len(ENCODINGS)]]
    for data in samples:
        assert isinstance(decode(data, "a.txt")[0], str)
        try:
            text, notes = text_of(data, "a.txt")
        except ValueError as error:
            assert str(error).startswith("a.txt: ")  # noqa: PT017
            continue
        assert "\0" not in text
        assert all(note.startswith("a.txt: ") for note in notes)
        for caption in caption_lines(text):
            caption.encode()
            assert caption == " ".join(caption.split()) != ""


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """Empty files to be named by tables: nothing here opens them."""
    monkeypatch.chdir(tmp_path)
    names = [f"{number:02}.mp4" for number in range(ROWS)]
    for name in names:
        Path(name).touch()
    return names


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_a_broken_line_of_a_table_costs_that_line(clips, suffix):
    draw = random.Random(suffix)
    quoted = '"a dog, a cat"' if suffix != ".tsv" else '"a dog\ta cat"'
    lines = [f"{name},{draw.choice((quoted, 'a dog', 'le café', '5 inches'))}" for name in clips]
    lines = ["path,caption", *lines]
    if suffix == ".tsv":
        lines = [line.replace(",", "\t", 1) for line in lines]
    if suffix == ".jsonl":
        lines = [
            json.dumps({"path": name, "caption": "le café, un \u2028 chat"}, ensure_ascii=False)
            for name in clips
        ]
    for _ in range(60):
        number = draw.randrange(1, len(lines))
        broken = damaged(lines[number].encode(), draw)
        before, after = (
            b"".join(line.encode() + b"\n" for line in part) for part in (lines[:number], lines[number + 1 :])
        )
        Path(f"t{suffix}").write_bytes(before + broken + b"\n" + after)
        try:
            manifest = detect_source(f"t{suffix}").read()
        except ValueError as error:
            assert str(error).startswith(f"t{suffix}: is no text")  # noqa: PT017
            continue
        place = number if suffix == ".jsonl" else number - 1
        others = set(clips[:place] + clips[place + 1 :])
        assert others <= {record.key for record in manifest.records}, broken
        assert (
            clips[place] in {record.key for record in manifest.records}
            or manifest.problems
            or not broken.strip()
        )


def test_a_broken_tar_gives_what_it_holds_and_its_problems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for number in range(6):
            for name, data in (
                (f"{number}.mp4", b"clip"),
                (f"{number}.txt", "un café".encode()),
                ("x/n.json", b"{}"),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    draw = random.Random(0)
    for _ in range(150):
        data = whole.getvalue()
        for _ in range(draw.choice((1, 1, 20))):
            data = damaged(data, draw)
        Path("t.tar").write_bytes(data)
        try:
            manifest = detect_source("t.tar").read()
        except ValueError as error:
            assert "t.tar" in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            continue
        for record in manifest.records:
            record.key.encode()
            assert len(record.file.read()) <= len(data)


def test_odd_names_of_files_are_keys_that_are_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw, folder = random.Random(0), os.fsencode(tmp_path / "clips")
    os.mkdir(folder)
    odd = [draw.randbytes(6).translate(None, b"/\0.") for _ in range(60)]
    odd += [
        " ",
        "a b",
        "-o",
        "#1",
        "100%",
        "'",
        '"',
        "\n",
        "\t",
        "\x85",
        "\u2028",
        "\u00e9",
        "e\u0301",
        "a" * 200,
    ]
    names = {name if isinstance(name, bytes) else name.encode() for name in odd} - {b""}
    for name in names:
        for suffix in (b".mp4", b".txt"):
            Path(os.fsdecode(folder + b"/" + name + suffix)).write_text("x")
    manifest = detect_source("clips").read()
    assert manifest.problems == ()
    assert len(manifest.records) == len(names)
    for record in manifest.records:
        record.key.encode()
        assert Path(record.file.open()).exists()
