"""Damage, rates and colours that decoders pass over in silence: an error, a remark, or read rightly."""

import struct
import zlib
from fractions import Fraction

import av
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


def display_p3(space=b"RGB ", gamma=563):
    """A profile of colours with the primaries of Display P3, or of grays; its gamma in 256ths."""
    white = (0.9642, 1.0, 0.8249)
    colours = {
        b"rXYZ": (0.51512, 0.2412, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.1571, 0.06657, 0.78407), b"wtpt": white,
    }  # fmt: skip
    numbers_of = {name: struct.pack(">3i", *(round(x * 65536) for x in xyz)) for name, xyz in colours.items()}
    tags = {name: b"XYZ \0\0\0\0" + data for name, data in numbers_of.items()}
    tags |= dict.fromkeys(
        (b"rTRC", b"gTRC", b"bTRC", b"kTRC"), b"curv\0\0\0\0" + struct.pack(">IHxx", 1, gamma)
    )
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 11) + b"Display P3\0" + bytes(79)
    tags[b"cprt"] = b"text\0\0\0\0none\0\0\0\0"
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s", start + len(body), b"", 0x2400000, b"mntr", space, b"XYZ ", b"", b"acsp"
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
    indexed = Image.new("RGB", (8, 8), (200, 100, 100)).quantize(2)
    indexed.save(tmp_path / "p.png", icc_profile=profile)
    shown = media.read_clip(tmp_path / "p.png")[0][0, 0, 0].tolist()
    assert shown == pytest.approx([216, 93, 97], abs=2)
    assert read("L", 128, display_p3(b"GRAY", 1 << 8)) == pytest.approx([188] * 3, abs=2)  # linear light
    for unfitting in (b"junk" * 40, profile):  # damaged; of colours, in a gray picture
        assert read("L", 90, unfitting) == [90] * 3
    assert read("RGB", (200, 100, 100), b"junk" * 40) == [200, 100, 100]


def test_a_film_that_begins_between_key_frames_is_remarked_on(tmp_path):
    """As streams that are recorded, or copied from a moment on."""

    def one_key(stream):
        stream.codec_context.options = {"sc_threshold": "1000000000"}

    file = write_video(tmp_path / "a.mkv", count=8, codec="mpeg4", gop=8, edit=one_key)
    with av.open(str(file)) as whole:
        stream = whole.streams.video[0]
        with av.open(str(tmp_path / "b.mkv"), "w") as part:
            added = part.add_stream_from_template(stream)
            for number, packet in enumerate(whole.demux(stream)):
                if number and packet.size:
                    packet.stream = added
                    part.mux(packet)
    count, notes = opened("b.mkv", (tmp_path / "b.mkv").read_bytes())
    assert (count, notes) == (7, ["begins between two key frames: its first frames are lost, or guessed"])


@pytest.mark.parametrize(
    ("name", "codec", "remark"),
    [
        ("a.mp4", "libx264", "another film follows in the same file"),
        ("a.flv", "libx264", "another film follows in the same file"),
        ("a.wmv", "wmv2", "another film follows in the same file"),
        ("a.avi", "mpeg4", "holds 16 frames, its header says 8"),
        ("a.mkv", "ffv1", "its clock falls back"),
    ],
)
def test_a_film_behind_another_in_one_file_is_remarked_on(tmp_path, name, codec, remark):
    film = write_video(tmp_path / name, count=8, codec=codec).read_bytes()
    assert opened(name, film) == (8, [])
    _, (note,) = opened(name, film + film)
    assert note.startswith(remark)


def test_pixels_that_change_their_shape_midway_are_refused_as_changing_sizes_are(tmp_path):
    def shaped(aspect):
        def edit(stream):
            stream.codec_context.sample_aspect_ratio = aspect
            stream.codec_context.time_base = Fraction(1, 25)

        return edit

    parts = []
    for number, aspect in enumerate((Fraction(1), Fraction(4, 3))):  # of 4:3 and 16:9
        times = [(8 * number + frame) / 25 for frame in range(8)]
        file = tmp_path / f"{number}.ts"
        write_video(file, count=8, fps=25, codec="mpeg2video", times=times, edit=shaped(aspect))
        parts.append(file.read_bytes())
        assert opened("a.ts", parts[-1])[0] == 8
    with pytest.raises(ValueError, match=r"a\.ts: .* changes the shape of its pixels at 0\.\d\d s; cut it"):
        opened("a.ts", b"".join(parts))
    file = media.HeldFile("a.ts", b"".join(parts))
    with (
        media.open_clip(file) as clip,
        pytest.raises(ValueError, match=r"frame \d+ is \(48, 85\), the first"),
    ):
        clip.all_frames()


def test_films_and_pictures_of_wide_colours_are_seen_as_screens_show_them(tmp_path):
    """Display P3 in films as in pictures; PNGs of HDR films as the films."""
    image = Image.new("RGB", (48, 32), (200, 100, 100))
    image.save(tmp_path / "a.png")
    plain = (tmp_path / "a.png").read_bytes()
    place = plain.index(b"IDAT") - 4

    def named(primaries, curve):
        content = plain[:place] + chunk(b"cICP", bytes([primaries, curve, 0, 1])) + plain[place:]
        with media.open_clip(media.HeldFile("a.png", content)) as clip:
            return clip.all_frames()[0, 0, 0].astype(int), clip.notes

    def film(primaries, curve):
        write_rgb(tmp_path / "a.mkv", image, primaries, curve)
        with media.open_clip(tmp_path / "a.mkv") as clip:
            return clip.all_frames()[0, 0, 0].astype(int), clip.notes

    assert named(1, 13)[0].tolist() == [200, 100, 100]
    assert np.abs(named(12, 13)[0] - (216, 93, 97)).max() <= 2
    for primaries, curve in ((12, 1), (9, 16), (12, 18)):
        (shown, notes), (still, still_notes) = film(primaries, curve), named(primaries, curve)
        assert np.abs(shown - still).max() <= 4
        assert notes == still_notes
        assert bool(notes) == (curve in (16, 18))


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_damaged_exif_leaves_a_sound_picture(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    Image.new("RGB", (8, 8), (200, 100, 100)).save(file, exif=b"Exif\0\0garbage", lossless=True)
    frames, _ = media.read_clip(file)
    assert np.abs(frames.astype(int) - (200, 100, 100)).max() <= 3
    with pytest.raises(ValueError, match="carries no settings"):
        media.read_settings(file)


def test_the_unused_fourth_byte_of_a_bmp_is_no_transparency():
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, 8, 8, 1, 32, 3, 0, 0, 0, 0, 0) + masks.ljust(68, b"\0")
    for alpha, shown in ((0, [200, 32, 16]), (255, [200, 32, 16]), (1, [255, 254, 254])):
        body = head + bytes([16, 32, 200, alpha]) * 64
        content = b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + len(head)) + body
        with media.open_clip(media.HeldFile("a.bmp", content)) as clip:
            assert clip.all_frames()[0, 0, 0].tolist() == shown


def test_colours_that_only_the_container_names_are_its_frames_too(tmp_path):
    """As of ProRes of some programs."""

    def hdr(stream):
        for name, number in (("color_primaries", 9), ("color_trc", 16), ("colorspace", 9)):
            setattr(stream.codec_context, name, number)

    file = write_video(tmp_path / "a.mov", count=2, codec="prores_ks", pixels="yuv422p10le", edit=hdr)
    with media.open_clip(file) as clip:
        assert clip.notes == ("is HDR (PQ): its light is compressed to that of an SDR screen",)


def test_what_can_be_seen_through_is_white_in_wide_colours_too(tmp_path):
    image = np.zeros((32, 48, 4), np.uint8)
    image[:, :24] = (200, 100, 100, 255)
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("qtrle", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "argb"
        for name, number in (("color_primaries", 12), ("color_trc", 1), ("colorspace", 1)):
            setattr(stream.codec_context, name, number)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgba")))
        container.mux(stream.encode(None))
    frames, _ = media.read_clip(tmp_path / "a.mov")
    assert np.abs(frames[0, 5, 5].astype(int) - (216, 93, 97)).max() <= 2
    assert frames[0, 5, 40].tolist() == [255, 255, 255]


def write_rgb(path, image, primaries, curve):
    """A film of a picture with these numbers of its primaries and curve, without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = *image.size, "bgr0"
        stream.codec_context.color_primaries, stream.codec_context.color_trc = primaries, curve
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24").reformat(format="bgr0")
            frame.color_primaries, frame.color_trc = primaries, curve
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
