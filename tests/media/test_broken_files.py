"""Broken clips and pictures of every format: frames or one line that names the file, and soon."""

import random
import time
import warnings

import av
import numpy as np
import pytest
from PIL import Image

from clips import write_video
from latent_shift import media

TRIALS = 24  # for each format
FORMATS = {
    "a.mp4": ("libx264", "yuv420p"),
    "b.mp4": ("libx265", "yuv420p10le"),
    "c.mov": ("qtrle", "argb"),
    "d.mkv": ("ffv1", "yuv420p"),
    "e.webm": ("libvpx-vp9", "yuva420p"),
    "f.avi": ("mpeg4", "yuv420p"),
    "g.mpg": ("mpeg2video", "yuv420p"),
    "h.ts": ("libx264", "yuv420p"),
    "i.flv": ("flv1", "yuv420p"),
    "j.wmv": ("wmv2", "yuv420p"),
}
PICTURES = ("k.gif", "l.webp", "m.png", "n.jpg", "o.bmp")


@pytest.fixture(scope="module")
def frames():
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    return [np.roll(noise, shift, axis=1) for shift in range(8)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("broken")


def whole(path, frames):
    """The bytes of a sound file of the format that its name says."""
    if path.name in FORMATS:
        codec, pixels = FORMATS[path.name]
        with av.open(str(path), "w") as container:
            options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
            stream = container.add_stream(codec, rate=25, options=options)
            stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    elif path.suffix in (".gif", ".webp"):
        media.write_clip(path, np.stack(frames), settings={"seed": 1}, overwrite=True)
    else:
        first, *more = (Image.fromarray(image) for image in frames)
        first.save(path, **({"save_all": True, "append_images": more} if path.suffix == ".png" else {}))
    return path.read_bytes()


def damaged(data, draw):
    """A copy that is cut, overwritten, flipped in its header, or lacks, repeats or gains bytes."""
    data, place, kind = bytearray(data), draw.randrange(len(data)), draw.randrange(6)
    if kind == 0:
        del data[place:]
    elif kind == 1:
        for _ in range(draw.choice((1, 5, 50, 500))):
            data[draw.randrange(len(data))] = draw.randrange(256)
    elif kind == 2:
        for _ in range(draw.choice((1, 4, 16))):
            data[draw.randrange(min(len(data), 400))] ^= 1 << draw.randrange(8)
    elif kind == 3:
        del data[place : place + draw.randrange(1, 200)]
    elif kind == 4:
        data[place:place] = draw.randbytes(draw.randrange(1, 100))
    else:
        other, length = draw.randrange(len(data)), draw.randrange(4, 64)
        data[place : place + length] = data[other : other + length]
    return bytes(data)


def windows(clip):
    last = min(clip.facts.last_time, 60.0)
    return clip.frames([0.0, last / 2, last])


@pytest.mark.parametrize("name", [*FORMATS, *PICTURES])
def test_a_broken_file_gives_frames_or_one_line_that_names_it(place, frames, name):
    sound = whole(place / name, frames)
    draw, outcomes = random.Random(f"1 {name}"), set()
    with warnings.catch_warnings(action="ignore"):  # Pillow's, of damaged headers
        for _ in range(TRIALS):
            data = damaged(sound, draw)
            began = time.process_time()
            assert media.kind_of(name, lambda count, data=data: data if count < 0 else data[:count])
            for read in (windows, media.Clip.count_frames, lambda clip: clip.all_frames(64)):
                try:
                    with media.open_clip(media.HeldFile(name, data)) as clip:
                        found = read(clip)
                    outcomes.add("frames")
                    assert isinstance(found, int) or (found.dtype, found.ndim) == (np.uint8, 4)
                except ValueError as error:
                    outcomes.add("error")
                    assert str(error).startswith(f"{name}: ")  # noqa: PT017
                    assert "\n" not in str(error)  # noqa: PT017
            assert time.process_time() - began < 5
    assert "error" in outcomes


@pytest.mark.parametrize("name", [*FORMATS, *PICTURES])
def test_a_file_that_breaks_off_is_never_read_as_if_it_were_whole(place, frames, name):
    sound = whole(place / name, frames)
    if name in ("g.mpg", "h.ts", "j.wmv"):
        return  # hold no length
    for part in (0.2, 0.4, 0.6, 0.8):
        with (
            pytest.raises(ValueError, match=rf"{name}: "),
            media.open_clip(media.HeldFile(name, sound[: int(len(sound) * part)])) as clip,
        ):
            clip.count_frames()


# ---- the times of moving pictures -------------------------------------------------------------------


def moving(path, durations):
    """A moving picture with these times in milliseconds."""
    images = [Image.fromarray(np.full((8, 8, 3), 20 * n, np.uint8)) for n in range(len(durations))]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, lossless=True)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
@pytest.mark.parametrize(
    ("durations", "fps", "shown"),
    [
        ([0, 0, 0, 0], 10, [0, 1, 2, 3]),
        ([0, 100, 0, 100], 10, [0, 1, 2, 3]),
        ([100, 300, 100], 10, [0, 1, 1, 1, 2]),
        ([10, 10, 10], 100, [0, 1, 2]),
        ([40, 40, 50, 40, 40, 40], 24, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_frames_come_at_an_even_rate_and_none_is_lost(tmp_path, suffix, durations, fps, shown):
    frames, found = media.read_clip(moving(tmp_path / f"a{suffix}", durations))
    assert found == pytest.approx(fps, rel=0.01)
    assert [round(frame.mean() / 20) for frame in frames] == shown


def test_a_frame_of_a_millisecond_beside_one_of_hours_is_an_error_not_a_flood(tmp_path):
    file = moving(tmp_path / "a.webp", [1, 10_000_000])
    with pytest.raises(ValueError, match=r"a\.webp: .*would be 10000001 frames of 1 ms each"):
        media.read_clip(file)


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
@pytest.mark.parametrize("fps", [0.3, 7.5, 12, 23.976, 24, 29.97, 45, 50, 60, 120, 240, 1000])
@pytest.mark.parametrize("count", [2, 3, 17])
def test_a_clip_comes_back_at_the_rate_that_it_was_written_with(tmp_path, suffix, fps, count):
    clip = np.random.default_rng(0).integers(0, 255, (count, 16, 16, 3), np.uint8)
    if suffix == ".gif" and fps > 50:
        with pytest.raises(ValueError, match=r"a\.gif: .* more than the 50 of its format"):
            media.check_output(tmp_path / "a.gif", fps=fps)
        with pytest.raises(ValueError, match="more than the 50"):
            media.write_clip(tmp_path / "a.gif", clip, fps)
        return
    back, found = media.read_clip(media.write_clip(tmp_path / f"a{suffix}", clip, fps))
    assert (len(back), found) == (count, pytest.approx(fps, rel=1e-3))
    facts = media.probe(tmp_path / f"a{suffix}")
    assert (facts.frames, facts.fps) == (count, found)


def test_a_clip_of_equal_frames_keeps_their_number_without_settings(tmp_path):
    clip = np.full((6, 16, 16, 3), 80, np.uint8)
    for suffix in (".gif", ".webp"):
        assert media.read_clip(media.write_clip(tmp_path / f"a{suffix}", clip, 12))[1] == 12
        assert len(media.read_clip(tmp_path / f"a{suffix}")[0]) == 6
        with pytest.raises(ValueError, match="carries no settings"):
            media.read_settings(tmp_path / f"a{suffix}")
    image = media.write_clip(tmp_path / "a.webp", clip[:1], 60, overwrite=True)
    assert media.probe(image).kind == "image"


def test_a_gif_cut_between_two_frames_is_named(tmp_path):
    file = moving(tmp_path / "a.gif", [100] * 6)
    data = file.read_bytes()
    frame = data.index(b"\0!\xf9\x04", data.index(b"\0!\xf9\x04") + 1) + 1  # where the third or so begins
    for content, noted in ((data, 0), (data + b"tail", 0), (data[:frame], 1), (data[:-1], 1)):
        file.write_bytes(content)
        with media.open_clip(file) as clip:
            clip.count_frames()
            assert [note.split(":")[0] for note in clip.notes] == ["is perhaps cut short"] * noted


def test_a_film_of_which_the_clock_falls_back_is_named(tmp_path):
    """As two recordings of a broadcast that were simply put together."""
    one = write_video(tmp_path / "one.ts", count=16)
    both = tmp_path / "both.ts"
    both.write_bytes(one.read_bytes() * 2)
    for file, notes in ((one, []), (both, ["its clock falls back from 1.88 to 0.00 s, as of films joined"])):
        with media.open_clip(file) as clip:
            clip.count_frames()
            assert [note.split(":")[0] for note in clip.notes] == notes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"BM\0", "its beginning is damaged"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "is of a format that is not read; convert it"),
        (b"YUV4MPEG2 W2 H2 F8:1\nFRAME\n" + b"\0" * 6, "is of a format that is not read; convert it"),
    ],
)
def test_messages_are_for_people(tmp_path, content, reason):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.mp4: cannot be read as a clip or image: {reason}"):
        media.probe(media.HeldFile("a.mp4", content))
    with pytest.raises(ValueError, match=rf"a\.mp4: cannot be read as a clip or image: {reason}"):
        media.read_clip(tmp_path / "a.mp4")
