"""Damage, rates and colours that decoders pass over in silence: an error, a remark, or read rightly."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from clips import numbers, write_video
from latent_shift import media


def opened(name, content):
    """(frames, remarks) of a file's content, counted as a check does."""
    with media.open_clip(media.HeldFile(name, content)) as clip:
        return clip.count_frames(), list(clip.notes)


def noise(path, **options):
    """The bytes of a picture that no format makes small."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (160, 96, 3), np.uint8)).save(path, **options)
    return path.read_bytes()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels, width=5, height=6, color=2, interlaced=0, more=b""):
    """A PNG of 8 bits with this data for its pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, interlaced)
    data = chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + data + chunk(b"IEND", b"")


ROW = b"\0" + b"\x10\x20\x30" * 5
BLACK = bytes(len(ROW))


@pytest.mark.parametrize(
    "content",
    [
        png(ROW * 3),
        png(ROW * 3)[:-12],
        png(b"\0" + b"\1" * 5, color=3, more=chunk(b"PLTE", b"\xff\0\0\0\xff\0")),
    ],
    ids=["half", "half, without an end", "of indices"],
)
def test_a_png_of_fewer_rows_than_its_header_says_is_cut_short(content):
    with pytest.raises(ValueError, match=r"a\.png: .* is cut short: rows of its pixels are missing"):
        opened("a.png", content)


def test_a_png_with_all_its_rows_is_whole_whatever_they_show(tmp_path):
    for content in (png(ROW * 6), png(ROW * 7), png(BLACK * 6), png(ROW * 5 + BLACK)):
        assert opened("a.png", content) == (1, [])
    # Adam7: passes of 1, 1, 2, 4, 6, 9 and 15 pixels in 1, 1, 1, 2, 2, 3 and 3 rows.
    rows = ((1, 1), (1, 1), (2, 1), (1, 2), (3, 2), (2, 3), (5, 3))
    pixels = b"".join((b"\0" + bytes(3 * columns)) * count for columns, count in rows)
    assert opened("a.png", png(pixels, interlaced=1)) == (1, [])
    with pytest.raises(ValueError, match=r"a\.png: "):
        opened("a.png", png(pixels[:-17], interlaced=1))


def test_a_moving_png_of_which_a_frame_lacks_rows_is_cut_short(tmp_path):
    images = [Image.new("RGB", (8, 8), (40 * number, 9, 9)) for number in range(3)]
    images[0].save(tmp_path / "a.png", save_all=True, append_images=images[1:], duration=100)
    whole = (tmp_path / "a.png").read_bytes()
    assert opened("a.png", whole) == (3, [])
    place = whole.rindex(b"fdAT") - 4
    length = int.from_bytes(whole[place : place + 4], "big")
    half = zlib.decompress(whole[place + 12 : place + 8 + length])[: 3 * 25]
    body = whole[place + 8 : place + 12] + zlib.compress(half)
    with pytest.raises(ValueError, match="rows of its pixels are missing"):
        opened("a.png", whole[:place] + chunk(b"fdAT", body) + whole[place + 12 + length :])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_with_an_end_put_behind_half_of_its_data_is_remarked_on(tmp_path, progressive):
    whole = noise(tmp_path / "a.jpg", progressive=progressive)
    assert opened("a.jpg", whole) == (1, [])
    count, notes = opened("a.jpg", whole[: len(whole) // 2] + b"\xff\xd9")
    assert (count, [note.split(":")[0] for note in notes]) == (1, ["is perhaps damaged"])


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.ts"])
def test_a_file_of_which_the_end_was_never_written_is_remarked_on(tmp_path, name):
    if name == "a.ts":
        whole = write_video(tmp_path / name, count=16, size=(96, 128)).read_bytes()
    else:
        whole = noise(tmp_path / name)
    half = len(whole) // 2
    _, notes = opened(name, whole[:half] + bytes(len(whole) - half))
    assert notes[-1].startswith(f"its last {len(whole) // 16} bytes or more are zeros: perhaps it was not")
    assert opened("black.bmp", noise(tmp_path / "a.bmp")[:54] + bytes(160 * 96 * 3)) == (1, [])


def test_a_film_without_a_rate_in_its_header_has_that_of_its_times(tmp_path):
    """As browsers record them: each frame has a time, and FFmpeg takes the clock's ticks for a rate."""
    times = [number * 0.033 + (0, 0.004, 0.001, 0.007, 0.002)[number % 5] for number in range(32)]
    file = write_video(tmp_path / "a.webm", count=32, times=times, fps=30, codec="libvpx")
    data = file.read_bytes()
    place = data.index(b"\x23\xe3\x83")  # Matroska's DefaultDuration, by an element that says nothing
    size = data[place + 3] & 0x7F
    file.write_bytes(
        data[:place] + bytes([0xEC, 0x80 | (2 + size)]) + bytes(2 + size) + data[place + 4 + size :]
    )
    frames, fps = media.read_clip(file)
    assert numbers(frames) == list(range(32))
    assert fps == pytest.approx(30.3, abs=0.2)
    assert opened("a.webm", file.read_bytes()) == (32, [])
    with media.open_clip(file) as clip:
        assert numbers(clip.frames([0.0, 0.2, clip.facts.last_time])) == [0, 6, 31]


def test_a_film_that_stands_still_or_runs_at_another_rate_is_remarked_on(tmp_path):
    even = [number / 8 for number in range(16)]
    cases = {
        "even": (even, []),
        "a little late": ([0, *(time + 0.05 for time in even[1:])], []),
        "paused": (even[:8] + [time + 3 for time in even[8:]], ["shows one frame from 0.88 to 4.00 s"]),
        "fast": ([time / 4 for time in even], ["its header says 8 frames a second, its times 31.98"]),
    }
    for times, notes in cases.values():
        file = write_video(tmp_path / "a.mkv", count=16, times=times, codec="ffv1")
        count, found = opened("a.mkv", file.read_bytes())
        assert (count, [note.split(":")[0] for note in found]) == (16, notes)


def test_pictures_in_the_container_of_films_are_refused_as_what_they_are():
    for brand in (b"heic", b"mif1", b"avif", b"avis"):
        content = b"\0\0\0\x18ftyp" + brand + bytes(64)
        with pytest.raises(ValueError, match=r"photo\.jpg: .* HEIC or AVIF, which are not read; convert it"):
            opened("photo.jpg", content)


def display_p3():
    """A profile of colours with the primaries of Display P3 and a gamma of 2.2."""
    white = (0.9642, 1.0, 0.8249)
    colours = {
        b"rXYZ": (0.51512, 0.2412, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.1571, 0.06657, 0.78407), b"wtpt": white,
    }  # fmt: skip
    numbers_of = {name: struct.pack(">3i", *(round(x * 65536) for x in xyz)) for name, xyz in colours.items()}
    tags = {name: b"XYZ \0\0\0\0" + data for name, data in numbers_of.items()}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), b"curv\0\0\0\0" + struct.pack(">IHxx", 1, 563))
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 11) + b"Display P3\0" + bytes(79)
    tags[b"cprt"] = b"text\0\0\0\0none\0\0\0\0"
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s", start + len(body), b"", 0x2400000, b"mntr", b"RGB ", b"XYZ ", b"", b"acsp"
    )
    head += bytes(28) + numbers_of[b"wtpt"]
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def test_pictures_with_a_profile_of_colours_are_seen_as_screens_show_them(tmp_path):
    profile = display_p3()

    def read(mode, colour, embedded, suffix="png"):
        file = tmp_path / f"a.{suffix}"
        Image.new(mode, (8, 8), colour).save(file, icc_profile=embedded)
        return media.read_clip(file)[0][0, 0, 0].tolist()

    assert read("RGB", (200, 100, 100), None) == [200, 100, 100]
    assert read("RGB", (200, 100, 100), profile) == pytest.approx([216, 93, 97], abs=2)  # redder than sRGB's
    assert read("RGBA", (200, 100, 100, 255), profile) == pytest.approx([216, 93, 97], abs=2)
    assert read("RGB", (128, 128, 128), profile) == pytest.approx([128] * 3, abs=2)
    for unfitting in (b"junk" * 40, profile):  # damaged; of colours, in a gray picture
        assert read("L", 90, unfitting) == [90] * 3
    assert read("RGB", (200, 100, 100), b"junk" * 40) == [200, 100, 100]
